//! The command line's way to the daemon: finds port and token in the home, asks over HTTP, and turns every failure into
//! words that say what to do. Knows the API's paths, not what the answers mean.

use std::time::Duration;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::home::{Home, HomeError};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer read, bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Why the daemon gave no answer, or not a good one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The home does not say where the daemon is.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Nobody answers there.
    #[error("no daemon answers on 127.0.0.1:{port} ({reason}); start it with `hawser up --home {home}`")]
    Unreachable {
        /// Port that was tried.
        port: u16,
        /// What the connection said.
        reason: String,
        /// The home that names the port.
        home: String,
    },
    /// It refused the token.
    #[error("the daemon refused the token of {home}: another daemon may be using this port")]
    Refused {
        /// The home that holds the token.
        home: String,
    },
    /// There is no such thing.
    #[error("the daemon does not know {path}")]
    NotFound {
        /// What was asked for.
        path: String,
    },
    /// Another failure.
    #[error("the daemon answered {code} to {path}{}", reason(.body))]
    Status {
        /// HTTP status code.
        code: u16,
        /// What was asked for.
        path: String,
        /// The answer.
        body: String,
    },
}

fn reason(body: &str) -> String {
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    match parsed.get("description").and_then(Value::as_str) {
        Some(text) => format!(": {text}"),
        None if body.is_empty() => String::new(),
        None => format!(": {body}"),
    }
}

/// A connection to the daemon of one home.
pub struct Client {
    agent: ureq::Agent,
    home: String,
    port: u16,
    token: Zeroizing<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("home", &self.home).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads where the daemon of `home` is and what it wants to hear.
    pub fn of(home: &Home) -> Result<Client, ClientError> {
        let (port, token) = home.daemon()?;
        let config =
            ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).proxy(None);
        Ok(Client { agent: config.build().into(), home: home.root().display().to_string(), port, token })
    }

    /// GET
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.answer(path, self.agent.get(self.url(path)).header("X-ZT1-Auth", self.token.as_str()).call())
    }

    /// POST
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        let request = self.agent.post(self.url(path)).header("X-ZT1-Auth", self.token.as_str());
        self.answer(path, request.content_type("application/json").send(body.to_string()))
    }

    /// DELETE
    pub fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.answer(path, self.agent.delete(self.url(path)).header("X-ZT1-Auth", self.token.as_str()).call())
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn answer(
        &self,
        path: &str,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, ClientError> {
        let unreachable = |e: ureq::Error| ClientError::Unreachable {
            port: self.port,
            reason: e.to_string(),
            home: self.home.clone(),
        };
        let mut response = response.map_err(unreachable)?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string().map_err(unreachable)?;
        match response.status().as_u16() {
            200 => Ok(serde_json::from_str(&body).unwrap_or(Value::Null)),
            401 => Err(ClientError::Refused { home: self.home.clone() }),
            404 => Err(ClientError::NotFound { path: path.to_owned() }),
            code => Err(ClientError::Status { code, path: path.to_owned(), body }),
        }
    }
}
