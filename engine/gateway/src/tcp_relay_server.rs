//! The other end of the TCP fallback: a relay for nodes whose UDP is blocked, beside a root that they cannot reach
//! otherwise. Each client has one UDP port, and may send to the Internet only, never into the operator's own networks. It
//! runs on a thread of its own and knows neither nodes nor packets beyond their outer form.
// spec: paths, "TCP fallback"

mod limits;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, tcp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};
use wire::endpoint::{Prefix, Scope, scope};
use wire::raw::{TcpGreeting, TcpRelayed};
use wire::{Datagram, classify};

use crate::tcp_relay::{CHUNK_BYTES, DATAGRAM_MAX, DATAGRAM_MIN, REFUSED_PORTS, Records};
use limits::{Allowance, Verdict};

pub use limits::{DATAGRAM_COST, Limits};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// What the operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Networks that clients may send to although they are not the Internet, or are an overlay's.
    pub allow: Vec<Prefix>,
    /// What clients may use.
    pub limits: Limits,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened and what was dropped, by cause.
        #[derive(Debug, Default)]
        struct Counts {
            $($name: AtomicU64,)*
        }

        impl Counts {
            fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed)),)*]
            }
        }
    };
}

counters! {
    clients,
    accepted,
    refused_full,
    closed_malformed,
    closed_stalled,
    closed_idle,
    closed_flood,
    closed_failed,
    to_udp,
    from_udp,
    dropped_size,
    dropped_not_a_packet,
    dropped_destination,
    dropped_over_rate,
    dropped_unsendable,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// Prefixes of our own overlay networks.
    overlay: RwLock<Vec<Prefix>>,
    counts: Counts,
}

impl Shared {
    /// A client may send there: the Internet, above the well-known ports, or what the operator allows.
    fn may_reach(&self, to: SocketAddr) -> bool {
        let ip = to.ip();
        let in_overlay = || self.overlay.read().unwrap_or_else(PoisonError::into_inner).iter().any(|p| p.contains(ip));
        let allowed = || self.config.allow.iter().any(|p| p.contains(ip));
        to.is_ipv4()
            && to.port() > REFUSED_PORTS
            && (scope(ip) == Scope::Global && !in_overlay() || allowed())
            && !ip.is_multicast()
            && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
    }
}

/// A running relay. Dropping it ends it and its clients.
#[derive(Debug)]
pub struct RelayServer {
    shared: Arc<Shared>,
    local: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RelayServer {
    /// Listens at `at` and serves on a thread of its own.
    pub fn start(at: SocketAddr, config: Config) -> io::Result<RelayServer> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared { config, overlay: RwLock::default(), counts: Counts::default() });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = shared.clone();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    result = accept(listener, serving) => {
                        if let Err(error) = result {
                            warn!("the TCP relay ended: {error}");
                        }
                    }
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("tcp-relay".into()).spawn(serve)?;
        Ok(RelayServer { shared, local, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Prefixes of our own overlay networks, which clients may not send into.
    pub fn set_overlay(&self, prefixes: Vec<Prefix>) {
        *self.shared.overlay.write().unwrap_or_else(PoisonError::into_inner) = prefixes;
    }

    /// What happened so far, by name; `clients` is how many there are now.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.shared.counts.list()
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes clients in, as many as there may be.
async fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let limits = shared.config.limits;
    let mut per_ip: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let (left, mut leaving) = mpsc::unbounded_channel::<IpAddr>();
    loop {
        let (stream, from) = tokio::select! {
            Some(ip) = leaving.recv() => {
                shared.counts.clients.fetch_sub(1, Relaxed);
                if let Some(clients) = per_ip.get_mut(&ip) {
                    *clients -= 1;
                }
                per_ip.retain(|_, clients| *clients > 0);
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a client that is gone already.
                    debug!("TCP relay: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let ip = from.ip().to_canonical();
        let of_ip = per_ip.get(&ip).copied().unwrap_or(0);
        if shared.counts.clients.load(Relaxed) >= limits.clients as u64 || of_ip >= limits.clients_per_ip {
            count(&shared.counts.refused_full);
            continue;
        }
        count(&shared.counts.accepted);
        count(&shared.counts.clients);
        *per_ip.entry(ip).or_default() += 1;
        let (shared, left) = (shared.clone(), left.clone());
        tokio::spawn(async move {
            let end = serve(stream, &shared).await;
            debug!(client = %from, ?end, "TCP relay client gone");
            let counts = &shared.counts;
            match end {
                End::Left => {}
                End::Malformed => count(&counts.closed_malformed),
                End::Stalled => count(&counts.closed_stalled),
                End::Idle => count(&counts.closed_idle),
                End::Flood => count(&counts.closed_flood),
                End::Failed => count(&counts.closed_failed),
            }
            let _ = left.send(ip);
        });
    }
}

/// Why a client was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It closed the connection.
    Left,
    /// It sent what is no record, or did not greet.
    Malformed,
    /// It did not finish a record, or did not read.
    Stalled,
    /// It said nothing for long.
    Idle,
    /// It sent too much for too long.
    Flood,
    /// A socket failed.
    Failed,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Failed
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> End {
    let _ = stream.set_nodelay(true);
    let Ok(udp) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else { return End::Failed };
    let (from_client, to_client) = stream.split();
    tokio::select! {
        end = forward(from_client, &udp, shared) => end,
        end = back(to_client, &udp, shared) => end,
    }
}

/// From the client to UDP.
async fn forward(mut client: tcp::ReadHalf<'_>, udp: &UdpSocket, shared: &Shared) -> End {
    let limits = shared.config.limits;
    let (mut records, mut chunk) = (Records::default(), vec![0; CHUNK_BYTES]);
    let mut allowance = Allowance::new(&limits, Instant::now());
    let mut greeted = false;
    // When what is unfinished began.
    let mut unfinished = Some(Instant::now());
    loop {
        let (deadline, late) = match unfinished {
            Some(since) => (since + limits.stall, End::Stalled),
            None => (Instant::now() + limits.idle, End::Idle),
        };
        let len = match timeout_at(deadline, client.read(&mut chunk)).await {
            Err(_) => return late,
            Ok(Err(error)) => return error.into(),
            Ok(Ok(0)) => return End::Left,
            Ok(Ok(len)) => len,
        };
        records.feed(&chunk[..len]);
        let mut finished = false;
        loop {
            let body = match records.next() {
                Ok(Some(body)) => body,
                Ok(None) => break,
                Err(_) => return End::Malformed,
            };
            finished = true;
            if !greeted {
                if TcpGreeting::parse(body).is_err() || body.len() != 4 {
                    return End::Malformed;
                }
                greeted = true;
                continue;
            }
            let Ok(TcpRelayed { endpoint, datagram }) = TcpRelayed::parse(body) else { return End::Malformed };
            // spec: paths, "TCP fallback": without an endpoint it is to be ignored
            let Some(to) = endpoint else { continue };
            match allowance.take(datagram.len(), Instant::now()) {
                Verdict::Within => {}
                Verdict::Over => {
                    count(&shared.counts.dropped_over_rate);
                    continue;
                }
                Verdict::Flood => return End::Flood,
            }
            let counts = &shared.counts;
            let outcome = if !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&datagram.len()) {
                &counts.dropped_size
            } else if !matches!(classify(datagram), Datagram::Head | Datagram::Fragment) {
                &counts.dropped_not_a_packet
            } else if !shared.may_reach(to) {
                &counts.dropped_destination
            } else if udp.send_to(datagram, to).await.is_err() {
                &counts.dropped_unsendable
            } else {
                &counts.to_udp
            };
            count(outcome);
        }
        unfinished = match (greeted, records.is_unfinished()) {
            (true, false) => None,
            (true, true) if finished => Some(Instant::now()),
            _ => unfinished.or_else(|| Some(Instant::now())),
        };
    }
}

/// From UDP to the client. What a slow client does not take waits in the kernel, and is dropped there.
async fn back(mut client: tcp::WriteHalf<'_>, udp: &UdpSocket, shared: &Shared) -> End {
    let (counts, limits) = (&shared.counts, shared.config.limits);
    let (mut datagram, mut record) = (vec![0; DATAGRAM_MAX + 1], Vec::new());
    loop {
        // An error here is the echo of a datagram that nobody took.
        let Ok((len, from)) = udp.recv_from(&mut datagram).await else { continue };
        if !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&len) {
            count(&counts.dropped_size);
            continue;
        }
        count(&counts.from_udp);
        record.clear();
        TcpRelayed { endpoint: Some(from), datagram: &datagram[..len] }.write(&mut record);
        match timeout(limits.stall, client.write_all(&record)).await {
            Err(_) => return End::Stalled,
            Ok(Err(error)) => return error.into(),
            Ok(Ok(())) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpStream, UdpSocket};

    use super::*;

    /// A relay on loopback whose clients may send there.
    fn relay(limits: Limits) -> RelayServer {
        let config = Config { allow: vec!["127.0.0.0/8".parse().expect("prefix")], limits };
        RelayServer::start((Ipv4Addr::LOCALHOST, 0).into(), config).expect("relay")
    }

    fn counter(relay: &RelayServer, name: &str) -> u64 {
        relay.counters().iter().find(|(n, _)| *n == name).expect("a counter").1
    }

    /// Waits for a counter; the relay's thread does it in its own time.
    fn reaches(relay: &RelayServer, name: &str, n: u64) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while counter(relay, name) != n {
            assert!(std::time::Instant::now() < end, "{name} is not {n}: {:?}", relay.counters());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn greeting() -> Vec<u8> {
        let mut out = Vec::new();
        TcpGreeting { major: 1, minor: 14, revision: 1 }.write(&mut out);
        out
    }

    fn client(relay: &RelayServer) -> TcpStream {
        let mut stream = TcpStream::connect(relay.local()).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        stream.write_all(&greeting()).expect("greeting");
        stream
    }

    fn udp() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        socket
    }

    /// Looks like the head of a packet.
    fn packet(len: usize) -> Vec<u8> {
        vec![7; len]
    }

    fn record(to: SocketAddr, datagram: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        TcpRelayed { endpoint: Some(to), datagram }.write(&mut out);
        out
    }

    /// The relay closed the connection.
    fn is_closed(stream: &mut TcpStream) -> bool {
        stream.read(&mut [0; 1]).map_or_else(|e| e.kind() != io::ErrorKind::WouldBlock, |len| len == 0)
    }

    #[test]
    fn a_client_has_one_port_and_gets_what_comes_to_it() {
        let (relay, peers) = (relay(Limits::default()), [udp(), udp()]);
        let mut stream = client(&relay);
        let mut seen = Vec::new();
        for peer in &peers {
            stream.write_all(&record(peer.local_addr().expect("address"), &packet(100))).expect("send");
            let mut bytes = [0; 2048];
            let (len, from) = peer.recv_from(&mut bytes).expect("forwarded");
            assert_eq!(bytes[..len], packet(100));
            seen.push(from);
        }
        assert!(seen[0] == seen[1] && seen[0].port() > REFUSED_PORTS, "{seen:?}");
        let back = record(peers[0].local_addr().expect("address"), &packet(50));
        peers[0].send_to(&packet(50), seen[0]).expect("answer");
        let mut bytes = vec![0; back.len()];
        stream.read_exact(&mut bytes).expect("record");
        assert_eq!(bytes, back);
        assert_eq!((counter(&relay, "to_udp"), counter(&relay, "from_udp")), (2, 1));
        drop(stream);
        reaches(&relay, "clients", 0);
    }

    #[test]
    fn what_no_node_sends_and_where_no_node_is_nothing_is_sent() {
        let (relay, peer) = (relay(Limits::default()), udp());
        let at = peer.local_addr().expect("address");
        let mut stream = client(&relay);
        let mut low = at;
        low.set_port(REFUSED_PORTS);
        for bytes in [
            record(at, &packet(15)),
            record(at, &packet(20)),
            record(low, &packet(100)),
            record("10.0.0.1:9993".parse().expect("endpoint"), &packet(100)),
            record("[2001:db8::1]:9993".parse().expect("endpoint"), &packet(100)),
            record(at, &packet(100)),
        ] {
            stream.write_all(&bytes).expect("send");
        }
        reaches(&relay, "to_udp", 1);
        let drops = ["dropped_size", "dropped_not_a_packet", "dropped_destination"].map(|n| counter(&relay, n));
        assert_eq!(drops, [1, 1, 3]);
    }

    #[test]
    fn private_loopback_and_overlay_destinations_are_refused_unless_the_operator_allows_them() {
        let shared = |allow: &[&str]| Shared {
            config: Config {
                allow: allow.iter().map(|p| p.parse().expect("prefix")).collect(),
                limits: Limits::default(),
            },
            overlay: RwLock::new(vec!["44.77.0.0/16".parse().expect("prefix")]),
            counts: Counts::default(),
        };
        let (shut, open) = (shared(&[]), shared(&["10.1.0.0/16", "44.77.0.0/16"]));
        let to = |text: &str| text.parse().expect("endpoint");
        assert!(shut.may_reach(to("44.1.1.1:1025")) && open.may_reach(to("44.1.1.1:9993")));
        for only_open in ["10.1.2.3:9993", "44.77.0.1:9993"] {
            assert!(!shut.may_reach(to(only_open)) && open.may_reach(to(only_open)), "{only_open}");
        }
        for never in [
            "44.1.1.1:1024",
            "44.1.1.1:53",
            "10.2.0.1:9993",
            "192.168.0.1:9993",
            "127.0.0.1:9993",
            "169.254.1.1:9993",
            "100.64.0.1:9993",
            "224.0.0.1:9993",
            "255.255.255.255:9993",
            "0.0.0.0:9993",
            "[2001:db8::1]:9993",
        ] {
            assert!(!shut.may_reach(to(never)) && !open.may_reach(to(never)), "{never}");
        }
    }

    #[test]
    fn a_client_that_speaks_something_else_is_left() {
        let relay = relay(Limits::default());
        let says = |bytes: &[u8]| {
            let mut stream = TcpStream::connect(relay.local()).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
            stream.write_all(bytes).expect("send");
            assert!(is_closed(&mut stream), "{bytes:?}");
        };
        says(b"GET / HTTP/1.1\r\n\r\n");
        says(&record("44.1.1.1:9993".parse().expect("endpoint"), &packet(100)));
        says(&[greeting(), vec![0x17, 3, 3, 0xff, 0xff]].concat());
        says(&[greeting(), vec![0x17, 3, 3, 0, 1, 9]].concat());
        reaches(&relay, "closed_malformed", 4);
    }

    #[test]
    fn half_a_record_half_a_greeting_and_silence_do_not_hold_a_place() {
        let limits =
            Limits { idle: Duration::from_millis(300), stall: Duration::from_millis(100), ..Limits::default() };
        let relay = relay(limits);
        let mut half_greeting = TcpStream::connect(relay.local()).expect("connect");
        half_greeting.write_all(&greeting()[..6]).expect("half");
        assert!(is_closed(&mut half_greeting));
        reaches(&relay, "closed_stalled", 1);
        let mut half_record = client(&relay);
        half_record.write_all(&record("44.1.1.1:9993".parse().expect("endpoint"), &packet(99))[..30]).expect("half");
        assert!(is_closed(&mut half_record));
        reaches(&relay, "closed_stalled", 2);
        assert!(is_closed(&mut client(&relay)));
        reaches(&relay, "closed_idle", 1);
        reaches(&relay, "clients", 0);
    }

    #[test]
    fn clients_are_as_many_as_there_may_be() {
        let relay = relay(Limits { clients: 3, clients_per_ip: 2, ..Limits::default() });
        let held = [client(&relay), client(&relay)];
        reaches(&relay, "clients", 2);
        assert!(is_closed(&mut TcpStream::connect(relay.local()).expect("connect")), "two of one address are enough");
        reaches(&relay, "refused_full", 1);
        drop(held);
        reaches(&relay, "clients", 0);
        let _again = client(&relay);
        reaches(&relay, "clients", 1);
    }

    #[test]
    fn what_exceeds_the_rate_is_dropped_and_who_never_stops_is_left() {
        let relay = relay(Limits { bytes_per_s: 10_000, flood_s: 2, ..Limits::default() });
        let peer = udp();
        let flood = record(peer.local_addr().expect("address"), &packet(1000));
        let mut stream = client(&relay);
        let left = (0..100_000).any(|_| stream.write_all(&flood).is_err());
        assert!(left, "it was not left");
        reaches(&relay, "closed_flood", 1);
        assert!(counter(&relay, "dropped_over_rate") >= 20 && counter(&relay, "to_udp") >= 10);
    }
}
