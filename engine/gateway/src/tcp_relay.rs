//! The TCP fallback: where UDP does not get through, datagrams travel in the records of one TCP connection to a relay,
//! which sends and receives them by UDP. To the node the connection is a socket like others, on a link of its own; who the
//! datagrams are for is not known here.
// spec: paths, "TCP fallback"

mod clockwork;
mod records;

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
use wire::raw::{TcpGreeting, TcpRelayed};
use wire::{Malformed, Now};

use crate::api::COMPATIBLE_VERSION;
use clockwork::{Clockwork, State, Step};

pub use clockwork::{SILENCE_MS, Settings};
pub use records::Records;

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
        if !self.clockwork.set(settings, now.ms()) {
            return None;
        }
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

    #[test]
    fn the_outbox_takes_64_kib_and_no_more() {
        let outbox = Outbox::default();
        let to = "44.1.1.1:9993".parse().expect("endpoint");
        let taken = (0..1000).filter(|_| outbox.push(to, &[7; 1012])).count();
        assert_eq!(taken, OUTBOX_BYTES_MAX / 1024);
        assert_eq!(outbox.bytes.borrow().len(), OUTBOX_BYTES_MAX);
    }
}
