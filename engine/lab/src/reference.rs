//! The reference node: a real ZeroTier core as a scriptable peer. One process is one node; requests and answers are JSON
//! lines, closing its standard input stops it. See reference-node/README.md.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::{Error, IoContext, Result};

/// Folder of the reference node: `HAWSER_REFERENCE_NODE`, or the copy in this repository.
pub fn folder() -> PathBuf {
    std::env::var_os("HAWSER_REFERENCE_NODE")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../reference-node")), PathBuf::from)
}

/// Downloads and compiles what the reference node needs; does nothing when all is in place.
pub fn set_up() -> Result<()> {
    crate::netns::run(&folder().join("setup").to_string_lossy(), &[])
}

/// Runs one of the tool's one-shot commands (`make-identity`, `make-planet`, ...) and answers what it printed.
pub fn tool(words: &[&str]) -> Result<String> {
    let command = || format!("reference_node.py {}", words.join(" "));
    let out = Command::new("python3").arg(folder().join("reference_node.py")).args(words).output().doing(command())?;
    if !out.status.success() {
        return Err(Error::Command { command: command(), reason: String::from_utf8_lossy(&out.stderr).trim().into() });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A running reference node.
#[derive(Debug)]
pub struct ReferenceNode {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    next_id: u64,
    /// Events seen so far, oldest first.
    pub events: Vec<Value>,
    /// The event `ready`: address, identity, sockets with their real ports.
    pub ready: Value,
}

impl ReferenceNode {
    /// Starts `reference_node.py run <args>` inside `ns` and waits until it is ready.
    pub fn start(ns: &Namespace, log: &Path, args: &[&str]) -> Result<ReferenceNode> {
        let tool = folder().join("reference_node.py");
        let log = std::fs::File::create(log).doing("open the reference node's log")?;
        let mut child = ns.inside(|| {
            Command::new("python3")
                .arg(&tool)
                .arg("run")
                .args(args)
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()
                .doing("start the reference node")
        })?;
        let stdin = child.stdin.take();
        let (tx, lines) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
                    if let Ok(value) = serde_json::from_str(&line)
                        && tx.send(value).is_err()
                    {
                        break;
                    }
                }
            });
        }
        let mut node = ReferenceNode { child, stdin, lines, next_id: 0, events: vec![], ready: Value::Null };
        node.ready = node.event("ready", Duration::from_secs(30))?;
        Ok(node)
    }

    /// Process id of the node.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The node's ZeroTier address.
    pub fn address(&self) -> &str {
        self.ready["address"].as_str().unwrap_or_default()
    }

    /// Waits for the next event of this kind.
    pub fn event(&mut self, kind: &str, limit: Duration) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let value = self.line(end, kind)?;
            if value.get("event").is_some() {
                self.events.push(value.clone());
                if value["event"] == kind {
                    return Ok(value);
                }
            }
        }
    }

    /// Moves what was printed meanwhile to the events, without waiting.
    pub fn gather(&mut self) {
        self.events.extend(self.lines.try_iter().filter(|value| value.get("event").is_some()));
    }

    /// Sends one command whose result nobody waits for.
    pub fn post(&mut self, request: Value) -> Result<()> {
        self.send(request).map(|_| ())
    }

    fn send(&mut self, mut request: Value) -> Result<Value> {
        self.next_id += 1;
        request["id"] = json!(self.next_id);
        let stdin = self.stdin.as_mut().ok_or(Error::Interrupted)?;
        writeln!(stdin, "{request}").doing("write to the reference node")?;
        Ok(request)
    }

    /// Sends one command and answers its result.
    pub fn command(&mut self, request: Value) -> Result<Value> {
        let request = self.send(request)?;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let value = self.line(end, "an answer")?;
            if value.get("event").is_some() {
                self.events.push(value);
            } else if value["id"] == request["id"] {
                if value["ok"] == true {
                    return Ok(value["result"].clone());
                }
                return Err(Error::Command { command: request.to_string(), reason: value["error"].to_string() });
            }
        }
    }

    /// Runs the core's periodic work now, instead of at its next tick.
    pub fn tick(&mut self) -> Result<()> {
        self.command(json!({"cmd": "background", "ping_check": true})).map(|_| ())
    }

    fn line(&mut self, end: Instant, what: &str) -> Result<Value> {
        let left = end.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).map_err(|_| Error::Timeout {
            what: format!("{what} from the reference node"),
            seconds: 60,
            detail: String::new(),
        })
    }
}

impl Drop for ReferenceNode {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
