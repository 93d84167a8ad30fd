//! The TCP fallback: where UDP does not get through, datagrams travel in the records of one TCP connection to a relay,
//! which sends and receives them by UDP. To the node the connection is a socket like others, on a link of its own. When
//! it is opened and closed is decided here from times alone; who the datagrams are for is not known here.
// spec: paths, "TCP fallback"

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;

use node::LocalSocketId;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use wire::endpoint::{Scope, scope};
use wire::raw::{TcpGreeting, TcpRelayed, tcp_record};
use wire::{Malformed, Now};

use crate::api::COMPATIBLE_VERSION;
use crate::backoff::Backoff;

/// Datagrams that a relay takes, bytes. // spec: paths, "TCP fallback"
pub const DATAGRAM_MIN: usize = 16;
/// The longest. // spec: paths, "TCP fallback"
pub const DATAGRAM_MAX: usize = 2047;
/// UDP ports up to this are refused by relays. // spec: paths, "TCP fallback"
pub const REFUSED_PORTS: u16 = 1024;
/// The relay of ZeroTierOne's default settings.
pub const DEFAULT_RELAY: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(204, 80, 128, 1), 443);

/// Bytes that wait for the connection; what comes then is dropped. // spec: paths, "TCP fallback"
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024;
/// Datagrams from the relay that wait for the control thread; then its connection is not read.
const INBOX_MAX: usize = 256;
/// Bytes read at a time.
pub const CHUNK_BYTES: usize = 16 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A relay that acknowledges nothing for so long is gone. The kernel alone would wait for a quarter of an hour. ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Without authenticated UDP from the Internet for so long the tunnel is opened, ms. // spec: paths, "TCP fallback"
pub const SILENCE_MS: u64 = 60_000;
/// UDP heard so lately works again, ms. // spec: paths, "TCP fallback"
const HEARD_MS: u64 = 30_000;
/// While the tunnel is used, roots are greeted by UDP so often. ours.
const PROBE_MS: u64 = 10_000;
/// What others still send through the relay is taken for so long after UDP came back: they notice a dead path within 19 s,
/// ms. ours.
const DRAIN_MS: u64 = 25_000;
/// How often the times are looked at, ms. ours.
const LOOK_MS: u64 = 1000;

/// Longest body of a record: an IPv6 endpoint and the longest datagram.
const BODY_MAX: usize = wire::endpoint::MAX_ENDPOINT_LEN + DATAGRAM_MAX;

/// Puts the records of a stream together. Holds at most one unfinished record beside what was fed last.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    at: usize,
}

impl Records {
    /// The next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The body of the next whole record; none if more bytes are needed. After an error the stream makes no sense.
    #[expect(clippy::should_implement_trait, reason = "it lends from itself")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let stream = &self.bytes[self.at..];
        if let Some([high, low]) = stream.get(3..5)
            && usize::from(u16::from_be_bytes([*high, *low])) > BODY_MAX
        {
            return Err(Malformed { what: "tcp record length" });
        }
        let Some((body, len)) = tcp_record(stream)? else { return Ok(None) };
        self.at += len;
        Ok(Some(body))
    }

    /// A record is there in part.
    pub fn is_unfinished(&self) -> bool {
        self.at < self.bytes.len()
    }
}

/// What the operator says about the fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Open the tunnel when UDP is silent.
    pub allow: bool,
    /// No UDP at all, everything through the tunnel. Allows it too.
    pub force: bool,
    /// Where the relay is.
    pub relay: SocketAddrV4,
    /// Silence after which it is opened, ms.
    pub silence_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { allow: false, force: false, relay: DEFAULT_RELAY, silence_ms: SILENCE_MS }
    }
}

/// How the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Connecting,
    /// In use.
    Open {
        since_ms: u64,
        next_probe_ms: u64,
    },
    /// Nothing is sent any more, but what comes is taken.
    Draining {
        until_ms: u64,
    },
}

/// What is to be done about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connect,
    /// Greet roots by UDP: does it work again?
    Probe,
    /// UDP works: the node is to forget the tunnel.
    Drain,
    Close,
}

/// Decides from times alone.
#[derive(Debug)]
struct Clockwork {
    settings: Settings,
    state: State,
    /// Silence counts from here at the earliest.
    start_ms: u64,
    backoff: Backoff,
    next_look_ms: u64,
}

impl Clockwork {
    fn new(settings: Settings, now_ms: u64) -> Clockwork {
        let backoff = Backoff::default();
        Clockwork { settings, state: State::Closed, start_ms: now_ms, backoff, next_look_ms: now_ms }
    }

    fn wanted(&self) -> bool {
        self.settings.allow || self.settings.force
    }

    fn next_due_ms(&self) -> Option<u64> {
        (self.wanted() || self.state != State::Closed).then_some(self.next_look_ms)
    }

    /// Looks at the time. `heard_ms`: when some link last heard authenticated UDP from the Internet.
    fn look(&mut self, now_ms: u64, heard_ms: Option<u64>) -> Option<Step> {
        self.next_look_ms = now_ms + LOOK_MS;
        let silent_ms = now_ms.saturating_sub(heard_ms.unwrap_or(0).max(self.start_ms));
        match self.state {
            State::Closed => {
                let due = self.settings.force || silent_ms >= self.settings.silence_ms;
                if !self.wanted() || !due || !self.backoff.is_over(now_ms) {
                    return None;
                }
                self.state = State::Connecting;
                Some(Step::Connect)
            }
            _ if !self.wanted() => {
                self.state = State::Closed;
                Some(Step::Close)
            }
            State::Connecting => None,
            State::Open { since_ms, next_probe_ms } => {
                let heard = heard_ms.is_some_and(|at| at > since_ms && now_ms.saturating_sub(at) < HEARD_MS);
                if heard && !self.settings.force {
                    self.state = State::Draining { until_ms: now_ms + DRAIN_MS };
                    return Some(Step::Drain);
                }
                if now_ms < next_probe_ms || self.settings.force {
                    return None;
                }
                self.state = State::Open { since_ms, next_probe_ms: now_ms + PROBE_MS };
                Some(Step::Probe)
            }
            State::Draining { until_ms } => {
                if now_ms < until_ms {
                    return None;
                }
                self.state = State::Closed;
                Some(Step::Close)
            }
        }
    }

    fn opened(&mut self, now_ms: u64) {
        self.backoff = Backoff::default();
        self.state = State::Open { since_ms: now_ms, next_probe_ms: now_ms + PROBE_MS };
    }

    fn lost(&mut self, now_ms: u64) {
        self.backoff.failed(now_ms);
        self.state = State::Closed;
    }
}

/// Records on their way to the relay.
#[derive(Debug, Default)]
struct Outbox {
    bytes: RefCell<Vec<u8>>,
    filled: Notify,
}

impl Outbox {
    /// False if there is no room.
    fn push(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        let before = bytes.len();
        TcpRelayed { endpoint: Some(to), datagram }.write(&mut bytes);
        if bytes.len() > OUTBOX_BYTES_MAX {
            bytes.truncate(before);
            return false;
        }
        self.filled.notify_one();
        true
    }

    async fn take(&self) -> Vec<u8> {
        loop {
            if !self.bytes.borrow().is_empty() {
                return self.bytes.take();
            }
            self.filled.notified().await;
        }
    }
}

/// What the connection of a number says to the control thread.
type Report = (u64, News);

#[derive(Debug)]
enum News {
    Up,
    Datagram(SocketAddr, Vec<u8>),
    Down(io::Error),
}

async fn connect(relay: SocketAddrV4, outbox: Rc<Outbox>, news: mpsc::Sender<Report>, number: u64) {
    let error = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(relay)).await {
        Ok(Ok(stream)) => carry(stream, &outbox, &news, number).await.err(),
        Ok(Err(error)) => Some(error),
        Err(_) => Some(io::ErrorKind::TimedOut.into()),
    };
    let error = error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
    let _ = news.send((number, News::Down(error))).await;
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(ANSWER_TIMEOUT))
}

/// Carries datagrams both ways until the connection ends.
async fn carry(mut stream: TcpStream, outbox: &Outbox, news: &mpsc::Sender<Report>, number: u64) -> io::Result<()> {
    prepare(&stream)?;
    let (major, minor, revision) = COMPATIBLE_VERSION;
    let mut greeting = Vec::new();
    TcpGreeting { major: major as u8, minor: minor as u8, revision: revision as u16 }.write(&mut greeting);
    stream.write_all(&greeting).await?;
    if news.send((number, News::Up)).await.is_err() {
        return Ok(());
    }
    let (mut from_relay, mut to_relay) = stream.split();
    let out = async {
        loop {
            to_relay.write_all(&outbox.take().await).await?;
        }
    };
    let back = async {
        let (mut records, mut chunk) = (Records::default(), vec![0; CHUNK_BYTES]);
        loop {
            let len = from_relay.read(&mut chunk).await?;
            if len == 0 {
                return Ok(());
            }
            records.feed(&chunk[..len]);
            let invalid = |e: Malformed| io::Error::new(io::ErrorKind::InvalidData, e);
            while let Some(body) = records.next().map_err(invalid)? {
                // An endpoint of another kind than an IP is no reason to end the connection.
                let Ok(TcpRelayed { endpoint: Some(from), datagram }) = TcpRelayed::parse(body) else { continue };
                if news.send((number, News::Datagram(from, datagram.to_vec()))).await.is_err() {
                    return Ok(());
                }
            }
        }
    };
    tokio::select! {
        end = out => end,
        end = back => end,
    }
}

/// What went through the tunnel and what did not, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that were made.
    pub opened: u64,
    /// Connections that could not be made, or were lost.
    pub lost: u64,
    /// Datagrams given to the relay.
    pub sent: u64,
    /// Datagrams that came from it.
    pub received: u64,
    /// Too short or too long for a relay.
    pub bad_size: u64,
    /// To somebody that no relay reaches: not IPv4, not the Internet, or a low port.
    pub bad_destination: u64,
    /// The outbox was full.
    pub outbox_full: u64,
}

/// What became of the tunnel.
#[derive(Debug)]
pub enum Event {
    /// The node may send through it.
    Up(node::Socket),
    /// A datagram came.
    Datagram(LocalSocketId, SocketAddr, Vec<u8>),
    /// The node may not send through it any more; why, if it was lost.
    Down(LocalSocketId, Option<io::Error>),
}

/// What a look at the time leads to.
#[derive(Debug)]
pub enum Due {
    /// The node is to greet its roots by UDP.
    Probe,
    /// Something became of the tunnel.
    Event(Event),
}

struct Connection {
    number: u64,
    outbox: Rc<Outbox>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The tunnel, as the control thread sees it. Its connection is carried by a task beside it.
pub struct Fallback {
    clockwork: Clockwork,
    connection: Option<Connection>,
    /// Connections so far; names them, and their sockets.
    number: u64,
    news: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    /// What happened so far.
    pub counters: Counters,
}

/// Sockets of tunnels are named from the top down, those of links from the bottom up.
fn socket_of(number: u64) -> LocalSocketId {
    LocalSocketId(u64::MAX - number)
}

/// It is a tunnel's socket, which packet threads do not have.
pub fn is_tunnel(socket: LocalSocketId) -> bool {
    socket.0 > u64::MAX / 2
}

impl Fallback {
    /// No connection yet.
    pub fn new(settings: Settings, now: Now) -> Fallback {
        let (clockwork, news) = (Clockwork::new(settings, now.ms()), mpsc::channel(INBOX_MAX));
        Fallback { clockwork, connection: None, number: 0, news, counters: Counters::default() }
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.clockwork.settings
    }

    /// Other settings. A connection to another relay is closed.
    pub fn set_settings(&mut self, now: Now, settings: Settings) -> Option<Event> {
        let moved = settings.relay != self.clockwork.settings.relay;
        self.clockwork.settings = settings;
        self.clockwork.next_look_ms = now.ms();
        if moved {
            self.clockwork.backoff = Backoff::default();
        }
        if !moved || self.clockwork.state == State::Closed {
            return None;
        }
        self.clockwork.state = State::Closed;
        self.close()
    }

    /// The tunnel is in use.
    pub fn is_active(&self) -> bool {
        matches!(self.clockwork.state, State::Open { .. })
    }

    /// When to call [`Fallback::due`].
    pub fn next_due_ms(&self) -> Option<u64> {
        self.clockwork.next_due_ms()
    }

    /// Looks at the time. `heard_ms`: when some link last heard authenticated UDP from the Internet.
    pub fn due(&mut self, now: Now, heard_ms: Option<u64>) -> Option<Due> {
        let told = matches!(self.clockwork.state, State::Draining { .. });
        match self.clockwork.look(now.ms(), heard_ms)? {
            Step::Connect => {
                self.number += 1;
                let (number, outbox) = (self.number, Rc::new(Outbox::default()));
                let carried = connect(self.clockwork.settings.relay, outbox.clone(), self.news.0.clone(), number);
                self.connection = Some(Connection { number, outbox, task: tokio::task::spawn_local(carried) });
                None
            }
            Step::Probe => Some(Due::Probe),
            Step::Drain => self.connection.as_ref().map(|c| Due::Event(Event::Down(socket_of(c.number), None))),
            Step::Close => self.close().filter(|_| !told).map(Due::Event),
        }
    }

    fn close(&mut self) -> Option<Event> {
        self.connection.take().map(|c| Event::Down(socket_of(c.number), None))
    }

    /// What became of the tunnel. Waits for ever if there is none.
    pub async fn recv(&mut self, clock: impl Fn() -> Now) -> Event {
        loop {
            // The sender is held here too, so there is always one.
            let Some((number, news)) = self.news.1.recv().await else {
                return std::future::pending().await;
            };
            if self.connection.as_ref().is_none_or(|c| c.number != number) {
                continue;
            }
            let socket = socket_of(number);
            match news {
                News::Up => {
                    self.counters.opened += 1;
                    self.clockwork.opened(clock().ms());
                    let local = (std::net::Ipv4Addr::UNSPECIFIED, 0).into();
                    return Event::Up(node::Socket {
                        id: socket,
                        local,
                        link: "tcp-relay".into(),
                        port: node::Port::Primary,
                    });
                }
                News::Datagram(from, datagram) => {
                    self.counters.received += 1;
                    return Event::Datagram(socket, from, datagram);
                }
                News::Down(error) => {
                    self.counters.lost += 1;
                    self.connection = None;
                    self.clockwork.lost(clock().ms());
                    return Event::Down(socket, Some(error));
                }
            }
        }
    }

    /// Sends a datagram through the tunnel. False if its socket is no longer the tunnel's.
    pub fn send(&mut self, socket: LocalSocketId, to: SocketAddr, datagram: &[u8]) -> bool {
        let Some(connection) = self.connection.as_ref().filter(|c| socket_of(c.number) == socket) else { return false };
        if !matches!(self.clockwork.state, State::Open { .. }) {
            return false;
        }
        let counters = &mut self.counters;
        let counter = if !(DATAGRAM_MIN..=DATAGRAM_MAX).contains(&datagram.len()) {
            &mut counters.bad_size
        } else if !to.is_ipv4() || to.port() <= REFUSED_PORTS || scope(to.ip()) != Scope::Global {
            &mut counters.bad_destination
        } else if connection.outbox.push(to, datagram) {
            &mut counters.sent
        } else {
            &mut counters.outbox_full
        };
        *counter += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(datagram: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        TcpRelayed { endpoint: Some("44.1.1.1:9993".parse().expect("endpoint")), datagram }.write(&mut out);
        out
    }

    #[tokio::test]
    async fn a_relay_that_acknowledges_nothing_is_given_up_within_seconds() {
        let relay = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        let stream = TcpStream::connect(relay.local_addr().expect("address")).await.expect("connect");
        prepare(&stream).expect("prepare");
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().expect("option"), Some(ANSWER_TIMEOUT));
    }

    #[test]
    fn another_relay_is_tried_at_once_however_often_the_old_one_failed() {
        let now = Now::at_ms(1000);
        let force = Settings { force: true, ..Settings::default() };
        let mut fallback = Fallback::new(force, now);
        (0..9).for_each(|_| fallback.clockwork.lost(1000));
        assert_eq!(fallback.clockwork.look(1001, None), None);
        let other = SocketAddrV4::new([192, 0, 2, 1].into(), 443);
        assert!(fallback.set_settings(now, Settings { relay: other, ..force }).is_none());
        assert_eq!(fallback.clockwork.look(1001, None), Some(Step::Connect));
    }

    fn clockwork(settings: Settings) -> Clockwork {
        Clockwork::new(settings, 1000)
    }

    const ALLOWED: Settings = Settings { allow: true, force: false, relay: DEFAULT_RELAY, silence_ms: SILENCE_MS };

    #[test]
    fn records_are_put_together_whatever_the_pieces() {
        let stream = [record(&[1; 16]), record(&[2; DATAGRAM_MAX]), record(&[3; 40])].concat();
        for piece in [1, 5, 7, 2000, stream.len()] {
            let (mut records, mut lengths) = (Records::default(), Vec::new());
            for bytes in stream.chunks(piece) {
                records.feed(bytes);
                while let Some(body) = records.next().expect("well formed") {
                    lengths.push(TcpRelayed::parse(body).expect("a datagram").datagram.len());
                }
            }
            assert_eq!((lengths, records.is_unfinished()), (vec![16, DATAGRAM_MAX, 40], false), "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_record_or_too_long_a_one_ends_the_stream_before_its_body_came() {
        for bytes in [&b"GET / HTTP/1.1"[..], &[0x17, 3, 4], &[0x17, 3, 3, 0xff, 0xff], &[0x16]] {
            let mut records = Records::default();
            records.feed(bytes);
            assert!(records.next().is_err(), "{bytes:?}");
        }
        let mut half = Records::default();
        half.feed(&record(&[1; 30])[..20]);
        assert!(matches!(half.next(), Ok(None)) && half.is_unfinished());
    }

    /// Whatever comes: nothing panics, what is held stays within one record and what was fed, and an error ends it.
    fn digest(pieces: &[&[u8]]) -> Result<usize, Malformed> {
        let (mut records, mut count) = (Records::default(), 0);
        for piece in pieces {
            records.feed(piece);
            while let Some(body) = records.next()? {
                assert!(body.len() <= BODY_MAX);
                let _ = (TcpGreeting::parse(body), TcpRelayed::parse(body));
                count += 1;
            }
            assert!(records.bytes.len() - records.at < 5 + BODY_MAX);
        }
        Ok(count)
    }

    #[test]
    fn no_stream_of_bytes_does_any_harm_however_it_is_cut() {
        bolero::check!().with_type::<Vec<Vec<u8>>>().for_each(|pieces| {
            let _ = digest(&pieces.iter().map(Vec::as_slice).collect::<Vec<_>>());
        });
        // Records with damage: the same outcome in one piece and in many.
        let edits = bolero::produce::<Vec<(u16, u8)>>().with().len(0..=3usize);
        let lengths = bolero::produce::<Vec<u16>>().with().len(1..=8usize);
        bolero::check!().with_generator((lengths, edits, 1usize..3000)).for_each(|(lengths, edits, piece)| {
            let datagram = |len: &u16| vec![7; usize::from(*len) % (DATAGRAM_MAX + 1)];
            let mut stream: Vec<u8> = lengths.iter().flat_map(|len| record(&datagram(len))).collect();
            for (at, byte) in edits {
                let at = usize::from(*at) % stream.len();
                stream[at] = *byte;
            }
            let whole = digest(&stream.chunks(2 + BODY_MAX).collect::<Vec<_>>());
            assert_eq!(digest(&stream.chunks(*piece).collect::<Vec<_>>()), whole);
            assert!(!edits.is_empty() || whole == Ok(lengths.len()));
        });
    }

    #[test]
    fn off_by_default_nothing_is_ever_due() {
        let mut off = clockwork(Settings::default());
        assert_eq!((off.next_due_ms(), off.look(10_000_000, None)), (None, None));
    }

    #[test]
    fn a_minute_without_authenticated_udp_opens_the_tunnel_however_much_is_sent() {
        let mut c = clockwork(ALLOWED);
        for now_ms in (1000..61_000).step_by(100) {
            assert_eq!(c.look(now_ms, None), None);
        }
        assert_eq!(c.look(61_000, None), Some(Step::Connect));
        let mut heard = clockwork(ALLOWED);
        assert_eq!(heard.look(61_000, Some(30_000)), None);
        assert_eq!(heard.look(90_000, Some(30_000)), Some(Step::Connect));
    }

    #[test]
    fn udp_that_is_heard_again_drains_and_then_closes_it_and_until_then_roots_are_greeted() {
        let mut c = clockwork(ALLOWED);
        c.look(61_000, None);
        c.opened(61_100);
        assert_eq!(c.look(62_000, Some(61_050)), None, "heard before it was open");
        assert_eq!(c.look(71_100, None), Some(Step::Probe));
        assert_eq!(c.look(72_000, None), None);
        assert_eq!(c.look(73_000, Some(72_900)), Some(Step::Drain));
        assert_eq!(c.look(73_000 + DRAIN_MS - 1, Some(72_900)), None);
        assert_eq!(c.look(73_000 + DRAIN_MS, Some(72_900)), Some(Step::Close));
        assert_eq!(c.look(132_000, Some(72_900)), None);
        assert_eq!(c.look(132_900, Some(72_900)), Some(Step::Connect), "silent again");
    }

    #[test]
    fn forced_it_is_open_from_the_start_and_stays_until_the_operator_says_otherwise() {
        let mut c = clockwork(Settings { force: true, ..Settings::default() });
        assert_eq!(c.look(1000, None), Some(Step::Connect));
        c.opened(1100);
        assert_eq!(c.look(50_000, Some(49_000)), None);
        c.settings = Settings::default();
        assert_eq!(c.look(51_000, None), Some(Step::Close));
    }

    #[test]
    fn a_relay_that_does_not_answer_is_tried_after_growing_pauses() {
        let mut c = clockwork(Settings { force: true, ..Settings::default() });
        let mut tries = 0;
        for now_ms in (1000..121_000).step_by(500) {
            if c.look(now_ms, None) == Some(Step::Connect) {
                tries += 1;
                c.lost(now_ms);
            }
        }
        assert_eq!(tries, 9, "0, 0.5, 1, 2, 4, 8, 16, 30 and 30 s apart");
    }

    #[test]
    fn the_outbox_takes_64_kib_and_no_more() {
        let outbox = Outbox::default();
        let to = "44.1.1.1:9993".parse().expect("endpoint");
        let taken = (0..1000).filter(|_| outbox.push(to, &[7; 1012])).count();
        assert_eq!(taken, OUTBOX_BYTES_MAX / 1024);
        assert_eq!(outbox.bytes.borrow().len(), OUTBOX_BYTES_MAX);
    }
}
