//! The HTTP face of the daemon: who may ask, what each path means, and the bytes of the answers. It turns a request into
//! an [`Ask`] for the control thread and writes down what comes back; it knows nothing of how a node works.

pub mod bond;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body as HttpBody, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use serde_json::{Map, Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::debug;
use wire::endpoint::Prefix;
use wire::{Address, NetworkId};
use zeroize::Zeroizing;

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

/// What a request asks the control thread.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// GET /status
    Status,
    /// GET /health
    Health,
    /// GET /config
    Config,
    /// GET /network
    Networks,
    /// GET /network/id
    Network(NetworkId),
    /// POST /network/id
    Join(NetworkId, Allow),
    /// DELETE /network/id
    Leave(NetworkId),
    /// GET /moon
    Moons,
    /// GET /moon/id
    Moon(u64),
    /// POST /moon/id with the seed's address
    Orbit(u64, Option<Address>),
    /// DELETE /moon/id
    Deorbit(u64),
    /// GET /peer
    Peers,
    /// GET /peer/address
    Peer(Address),
    /// /bond/..., /hawser/bond/...
    Bond(bond::BondAsk),
    /// /controller/...
    Controller(ControllerAsk),
}

/// What a request asks the controller.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerAsk {
    /// GET /controller
    State,
    /// GET /controller/network
    Networks,
    /// GET /unstable/controller/network
    NetworkRecords,
    /// POST /controller/network, or with our address and six underscores
    Create(Option<Address>, Map<String, Value>),
    /// GET /controller/network/id
    Network(NetworkId),
    /// POST /controller/network/id
    SetNetwork(NetworkId, Map<String, Value>),
    /// DELETE /controller/network/id
    DeleteNetwork(NetworkId),
    /// GET /controller/network/id/member
    Members(NetworkId),
    /// GET /unstable/controller/network/id/member
    MemberRecords(NetworkId),
    /// GET /controller/network/id/member/address
    Member(NetworkId, Address),
    /// POST /controller/network/id/member/address
    SetMember(NetworkId, Address, Map<String, Value>),
    /// DELETE /controller/network/id/member/address
    DeleteMember(NetworkId, Address),
}

/// The local settings that a join may carry; absent ones stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// `allowManaged`
    pub managed: Option<bool>,
    /// `allowGlobal`
    pub global: Option<bool>,
    /// `allowDefault`
    pub default: Option<bool>,
    /// `allowDNS`
    pub dns: Option<bool>,
}

impl Allow {
    /// Only real booleans count; anything else is passed over, as in ZeroTierOne.
    fn from_json(bytes: &[u8]) -> Allow {
        let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        Allow {
            managed: flag("allowManaged"),
            global: flag("allowGlobal"),
            default: flag("allowDefault"),
            dns: flag("allowDNS"),
        }
    }
}

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

/// Who may ask. // spec: service, "Who may ask"
#[derive(Debug)]
pub struct Gate {
    token: Zeroizing<String>,
    allow_from: RwLock<Vec<Prefix>>,
    refused: AtomicU64,
}

impl Gate {
    /// A gate that opens for `token`, from loopback and `allow_from`.
    pub fn new(token: Zeroizing<String>, allow_from: Vec<Prefix>) -> Gate {
        Gate { token, allow_from: RwLock::new(allow_from), refused: AtomicU64::new(0) }
    }

    /// From now on these may ask, besides loopback. Where the API listens does not change.
    pub fn allow_from(&self, prefixes: Vec<Prefix>) {
        *self.allow_from.write().unwrap_or_else(PoisonError::into_inner) = prefixes;
    }

    /// Requests refused so far, by a wrong token or a source that is not allowed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn prefixes(&self) -> RwLockReadGuard<'_, Vec<Prefix>> {
        self.allow_from.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn source_allowed(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.prefixes().iter().any(|p| p.contains(ip))
    }

    /// Only the first token that is present counts: a wrong header is not rescued by a right query.
    fn token_right(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let bearer = |v: &str| {
            let (scheme, token) = v.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        };
        let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or_default());
        let given = match header("x-zt1-auth") {
            Some(token) => Some(token.to_owned()),
            None => parameter(query, "auth").or_else(|| header("authorization").and_then(bearer)),
        };
        let given = Zeroizing::new(given.unwrap_or_default());
        bool::from(given.as_bytes().ct_eq(self.token.as_bytes()))
    }

    fn admits(&self, from: IpAddr, path: &str, headers: &HeaderMap, query: Option<&str>) -> bool {
        self.source_allowed(from) && (path == "/health" || self.token_right(headers, query))
    }
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

/// What `method path` means: an ask, or the answer to give at once.
pub fn route(method: &Method, path: &str, body: &[u8]) -> Result<Ask, Answer> {
    let read = method == Method::GET || method == Method::HEAD;
    let write = method == Method::POST || method == Method::PUT;
    let delete = method == Method::DELETE;
    let parts: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
    let ask = match parts.as_slice() {
        ["status"] if read => Ask::Status,
        ["health"] if read => Ask::Health,
        ["config"] if read => Ask::Config,
        ["network"] if read => Ask::Networks,
        ["network", id] if read => Ask::Network(network_id(id)?),
        ["network", id] if write => Ask::Join(network_id(id)?, Allow::from_json(body)),
        ["network", id] if delete => Ask::Leave(network_id(id)?),
        ["peer"] if read => Ask::Peers,
        ["peer", address] if read => Ask::Peer(self::address(address)?),
        ["bond", rest @ ..] => Ask::Bond(bond::route(method, rest).ok_or_else(Answer::not_found)?),
        ["hawser", "bond", rest @ ..] => Ask::Bond(bond::route_own(method, rest, body)?),
        ["moon"] if read => Ask::Moons,
        ["moon", id] if read => Ask::Moon(moon_id(id)?),
        ["moon", id] if write => Ask::Orbit(moon_id(id)?, seed(body)),
        ["moon", id] if delete => Ask::Deorbit(moon_id(id)?),
        ["controller", rest @ ..] => Ask::Controller(controller_ask(rest, (read, write, delete), body)?),
        ["unstable", "controller", "network"] if read => Ask::Controller(ControllerAsk::NetworkRecords),
        ["unstable", "controller", "network", id, "member"] if read => {
            Ask::Controller(ControllerAsk::MemberRecords(network_id(id)?))
        }
        _ => return Err(Answer::not_found()),
    };
    Ok(ask)
}

fn controller_ask(parts: &[&str], method: (bool, bool, bool), body: &[u8]) -> Result<ControllerAsk, Answer> {
    Ok(match (parts, method) {
        ([], (true, ..)) => ControllerAsk::State,
        (["network"], (true, ..)) => ControllerAsk::Networks,
        (["network"], (_, true, _)) => ControllerAsk::Create(None, record(body)?),
        (["network", id], (_, true, _)) if id.ends_with("______") => {
            let own = address(id.trim_end_matches('_'))?;
            ControllerAsk::Create(Some(own), record(body)?)
        }
        (["network", id], (true, ..)) => ControllerAsk::Network(network_id(id)?),
        (["network", id], (_, true, _)) => ControllerAsk::SetNetwork(network_id(id)?, record(body)?),
        (["network", id], (.., true)) => ControllerAsk::DeleteNetwork(network_id(id)?),
        (["network", id, "member"], (true, ..)) => ControllerAsk::Members(network_id(id)?),
        (["network", id, "member", who], method) => {
            let (id, who) = (network_id(id)?, address(who)?);
            match method {
                (true, ..) => ControllerAsk::Member(id, who),
                (_, true, _) => ControllerAsk::SetMember(id, who, record(body)?),
                (.., true) => ControllerAsk::DeleteMember(id, who),
                _ => return Err(Answer::not_found()),
            }
        }
        _ => return Err(Answer::not_found()),
    })
}

fn network_id(text: &str) -> Result<NetworkId, Answer> {
    text.parse().map_err(|_| Answer::not_found())
}

/// 10 hex digits as in ZeroTierOne, or all 16. // spec: service, "Node endpoints"
fn moon_id(text: &str) -> Result<u64, Answer> {
    parse_moon_id(text).ok_or_else(Answer::not_found)
}

/// The ID of a moon as 10 or 16 hex digits.
pub fn parse_moon_id(text: &str) -> Option<u64> {
    let hex = matches!(text.len(), 10 | 16) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { u64::from_str_radix(text, 16).ok() } else { None }
}

/// The seed that an orbit names; none if it names none that can be, as in ZeroTierOne.
fn seed(body: &[u8]) -> Option<Address> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let seed: Address = body.get("seed")?.as_str()?.parse().ok()?;
    (!seed.is_reserved()).then_some(seed)
}

fn address(text: &str) -> Result<Address, Answer> {
    text.parse().map_err(|_| Answer::not_found())
}

fn record(body: &[u8]) -> Result<Map<String, Value>, Answer> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Answer::error(500, "the body must be a JSON object")),
        Err(e) => Err(Answer::error(500, &e.to_string())),
    }
}

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
        server.gate.refused.fetch_add(1, Ordering::Relaxed);
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

    const NETWORK: &str = "6af3745e97000001";

    fn gate(allow_from: &[&str]) -> Gate {
        let allow_from = allow_from.iter().map(|p| p.parse().expect("prefix")).collect();
        Gate::new(Zeroizing::new("right".into()), allow_from)
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.insert(*name, header::HeaderValue::from_static(value));
        }
        map
    }

    fn home() -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    #[test]
    fn the_first_token_that_is_present_decides() {
        let g = gate(&[]);
        let admits = |h: &[_], q| g.admits(home(), "/status", &headers(h), q);
        assert!(admits(&[("x-zt1-auth", "right")], None));
        assert!(admits(&[], Some("x=1&auth=right")));
        assert!(admits(&[("authorization", "BEARER right")], None));
        assert!(!admits(&[("x-zt1-auth", "wrong")], Some("auth=right")), "a header shadows the query");
        assert!(!admits(&[("authorization", "Basic right")], None));
        assert!(!admits(&[], None));
        assert!(!admits(&[("x-zt1-auth", "right2")], None) && !admits(&[("x-zt1-auth", "")], None));
    }

    #[test]
    fn only_loopback_and_listed_networks_may_ask_even_for_health() {
        let g = gate(&["192.0.2.0/24"]);
        let right = headers(&[("x-zt1-auth", "right")]);
        let ip = |s: &str| s.parse::<IpAddr>().expect("ip");
        assert!(g.admits(ip("192.0.2.7"), "/status", &right, None));
        assert!(g.admits(ip("::ffff:127.0.0.1"), "/status", &right, None));
        assert!(!g.admits(ip("198.51.100.1"), "/status", &right, None));
        assert!(!g.admits(ip("198.51.100.1"), "/health", &HeaderMap::new(), None));
        assert!(g.admits(home(), "/health", &HeaderMap::new(), None), "health needs no token");
        assert!(listen_addresses(1, &g)[0].ip().is_unspecified());
        assert!(listen_addresses(1, &gate(&[]))[0].ip().is_loopback());
    }

    #[test]
    fn every_path_of_the_api_is_understood_and_nothing_else_is() {
        let id: NetworkId = NETWORK.parse().expect("id");
        let who: Address = "b9fd86978b".parse().expect("address");
        let get = |path: &str| route(&Method::GET, path, b"");
        assert_eq!(get("/status"), Ok(Ask::Status));
        assert_eq!(get(&format!("/network/{}", NETWORK.to_uppercase())), Ok(Ask::Network(id)));
        assert_eq!(get("/peer/b9fd86978b"), Ok(Ask::Peer(who)));
        assert_eq!(route(&Method::PUT, "/network/6af3745e97000001", b""), Ok(Ask::Join(id, Allow::default())));
        let flags = Allow { global: Some(true), ..Allow::default() };
        let body = br#"{"allowGlobal": true, "allowManaged": "yes"}"#;
        assert_eq!(route(&Method::POST, "/network/6af3745e97000001", body), Ok(Ask::Join(id, flags)));
        assert_eq!(route(&Method::DELETE, "/network/6af3745e97000001", b""), Ok(Ask::Leave(id)));
        for path in ["/status/", "/network/1234", "/nosuch", "/", "/peer/xyz", "/network/6af3745e9700000g"] {
            assert_eq!(get(path), Err(Answer::not_found()), "{path}");
        }
        assert_eq!(route(&Method::POST, "/status", b""), Err(Answer::not_found()), "wrong method");
    }

    #[test]
    fn moons_are_named_by_10_or_16_digits_and_orbited_through_a_seed() {
        let (id, who) = (0xb9_fd86_978b, "b9fd86978b".parse().expect("address"));
        assert_eq!(route(&Method::GET, "/moon", b""), Ok(Ask::Moons));
        for path in ["/moon/b9fd86978b", "/moon/000000b9fd86978b"] {
            assert_eq!(route(&Method::GET, path, b""), Ok(Ask::Moon(id)));
            assert_eq!(route(&Method::DELETE, path, b""), Ok(Ask::Deorbit(id)));
            let post = |body: &str| route(&Method::POST, path, body.as_bytes());
            assert_eq!(post(r#"{"seed": "b9fd86978b"}"#), Ok(Ask::Orbit(id, Some(who))));
            for none in ["", "{", "{}", r#"{"seed": 7}"#, r#"{"seed": "0000000000"}"#] {
                assert_eq!(post(none), Ok(Ask::Orbit(id, None)), "{none}");
            }
        }
        for path in ["/moon/b9fd86978", "/moon/+9fd86978b", "/moon/000000b9fd86978b0"] {
            assert_eq!(route(&Method::GET, path, b""), Err(Answer::not_found()), "{path}");
        }
    }

    #[test]
    fn every_path_of_the_controller_is_understood() {
        let id: NetworkId = NETWORK.parse().expect("id");
        let who: Address = "b9fd86978b".parse().expect("address");
        let ask = |method: Method, path: &str, body: &[u8]| match route(&method, path, body) {
            Ok(Ask::Controller(ask)) => ask,
            other => panic!("{path}: {other:?}"),
        };
        let empty = Map::new;
        assert_eq!(ask(Method::GET, "/controller", b""), ControllerAsk::State);
        assert_eq!(ask(Method::GET, "/controller/network", b""), ControllerAsk::Networks);
        assert_eq!(ask(Method::POST, "/controller/network", b"{}"), ControllerAsk::Create(None, empty()));
        let older = "/controller/network/b9fd86978b______";
        assert_eq!(ask(Method::POST, older, b"{}"), ControllerAsk::Create(Some(who), empty()));
        let member = format!("/controller/network/{NETWORK}/member/b9fd86978b");
        assert_eq!(ask(Method::GET, &member, b""), ControllerAsk::Member(id, who));
        assert_eq!(ask(Method::DELETE, &member, b""), ControllerAsk::DeleteMember(id, who));
        let list = format!("/unstable/controller/network/{NETWORK}/member");
        assert_eq!(ask(Method::GET, &list, b""), ControllerAsk::MemberRecords(id));
        let refused = route(&Method::POST, &member, b"").expect_err("an empty body is refused");
        assert_eq!(refused.code, 500);
        let Body::Text(text) = refused.body else { panic!("a reason") };
        assert!(text.starts_with("{\"error\": 500, \"description\": "), "{text}");
    }

    #[test]
    fn connections_beyond_the_bound_wait_until_others_close() {
        use std::io::{Read, Write};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).expect("listener");
            let at = listener.local_addr().expect("address");
            let (asks, _asked) = mpsc::channel(1);
            tokio::spawn(serve(listener, Arc::new(gate(&[])), asks));
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
