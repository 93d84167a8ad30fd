//! The HTTP face of the daemon: who may ask, what each path means, and the bytes of the answers. It turns a request into
//! an [`Ask`] for the control thread and writes down what comes back; it knows nothing of how a node works. This file is
//! the listeners and the bytes.

mod asks;
pub mod bond;
mod gate;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body as HttpBody, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::debug;

pub use asks::{Allow, Ask, ControllerAsk, parse_moon_id, route};
pub use gate::Gate;

/// Requests that wait for the control thread. One more waits in its connection.
pub const MAX_PENDING_ASKS: usize = 64;
/// Connections of each listener that wait to be accepted.
pub const LISTEN_BACKLOG: i32 = 64;
/// Connections of each listener at a time; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 128;
/// Largest request body, bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long the control thread may take before the answer is 503.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The ZeroTier version that the API says it is compatible with. // spec: service, "Compatibility plan for the gateway"
pub const COMPATIBLE_VERSION: (u32, u32, u32) = (1, 14, 1);
/// Version of the controller's API.
pub const CONTROLLER_API_VERSION: u32 = 4;

/// What comes back.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// What goes with it.
    pub body: Body,
}

/// Body of an answer. All of them say `application/json`.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Nothing at all, which some tools expect with 404.
    Empty,
    /// One line of JSON, keys in byte order.
    Json(Value),
    /// Bytes that are not compact JSON.
    Text(String),
}

impl Answer {
    /// 200 with JSON.
    pub fn ok(value: Value) -> Answer {
        Answer { code: 200, body: Body::Json(value) }
    }

    /// 404 without a body.
    pub fn not_found() -> Answer {
        Answer { code: 404, body: Body::Empty }
    }

    /// An error with a reason in the form of ZeroTierOne's server.
    pub fn error(code: u16, reason: &str) -> Answer {
        Answer { code, body: Body::Text(format!("{{\"error\": {code}, \"description\": {}}}", json!(reason))) }
    }
}

/// A question and where its answer goes.
pub type Pending = (Ask, oneshot::Sender<Answer>);

#[derive(Clone)]
struct Server {
    gate: Arc<Gate>,
    asks: mpsc::Sender<Pending>,
}

/// Where the API listens: loopback, or everywhere if somebody else may ask.
pub fn listen_addresses(port: u16, gate: &Gate) -> [SocketAddr; 2] {
    if gate.prefixes().is_empty() {
        return [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
    }
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// Opens one listener; must be called inside a tokio runtime.
pub fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves one listener until the runtime ends.
pub async fn serve(listener: TcpListener, gate: Arc<Gate>, asks: mpsc::Sender<Pending>) -> io::Result<()> {
    let app = Router::new().fallback(handle).with_state(Server { gate, asks });
    let listener = Limited { listener, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    axum::serve(listener, app.into_make_service_with_connect_info::<Source>()).await
}

/// A listener that has at most [`MAX_CONNECTIONS`] open.
struct Limited {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

/// An accepted connection.
struct Connection {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Where a request comes from.
#[derive(Clone, Copy)]
struct Source(SocketAddr);

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.listener).await;
        (Connection { stream, _permit: permit }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Limited>> for Source {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Source {
        Source(*stream.remote_addr())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn handle(
    State(server): State<Server>,
    ConnectInfo(Source(from)): ConnectInfo<Source>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query());
    let jsonp = parameter(query, "jsonp");
    if !server.gate.admits(from.ip(), path, &head.headers, query) {
        server.gate.count_refused();
        return respond(Answer { code: 401, body: Body::Json(json!({})) }, jsonp);
    }
    // Never the query or the body: they may hold tokens.
    debug!(method = %head.method, path, "request");
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return respond(Answer { code: 413, body: Body::Empty }, jsonp);
    };
    let answer = match route(&head.method, path, &body) {
        Ok(ask) => ask_control(&server.asks, ask).await,
        Err(answer) => answer,
    };
    respond(answer, jsonp)
}

async fn ask_control(asks: &mpsc::Sender<Pending>, ask: Ask) -> Answer {
    let answered = async {
        let (reply, answer) = oneshot::channel();
        asks.send((ask, reply)).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
        Ok(Some(answer)) => answer,
        _ => Answer { code: 503, body: Body::Empty },
    }
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

fn respond(answer: Answer, jsonp: Option<String>) -> Response {
    let text = match answer.body {
        Body::Empty => String::new(),
        Body::Json(value) => value.to_string(),
        Body::Text(text) => text,
    };
    let (content_type, text) = match jsonp {
        None => ("application/json", text),
        Some(f) if text.is_empty() => ("application/javascript", format!("{f}(null);")),
        Some(f) => ("application/javascript", format!("{f}({text});")),
    };
    let mut response = Response::new(HttpBody::from(text));
    *response.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_beyond_the_bound_wait_until_others_close() {
        use std::io::{Read, Write};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).expect("listener");
            let at = listener.local_addr().expect("address");
            let (asks, _asked) = mpsc::channel(1);
            let gate = Gate::new("right".to_owned().into(), Vec::new());
            tokio::spawn(serve(listener, Arc::new(gate), asks));
            let client = tokio::task::spawn_blocking(move || {
                let connect = |_| std::net::TcpStream::connect(at).expect("connect");
                let mut held: Vec<_> = (0..MAX_CONNECTIONS).map(connect).collect();
                let mut one_more = connect(0);
                one_more.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
                one_more.write_all(b"GET /nosuch HTTP/1.1\r\n\r\n").expect("request");
                let mut answer = [0; 12];
                assert!(one_more.read_exact(&mut answer).is_err(), "not served yet");
                held.truncate(MAX_CONNECTIONS / 2);
                one_more.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
                one_more.read_exact(&mut answer).expect("served now");
                assert_eq!(&answer, b"HTTP/1.1 401");
            });
            client.await.expect("client");
        });
    }

    #[test]
    fn jsonp_wraps_every_body() {
        let r = respond(Answer::not_found(), Some("f".into()));
        assert_eq!(r.headers()[header::CONTENT_TYPE], "application/javascript");
        assert_eq!(r.status(), 404);
    }
}
