//! Raw sockets that hear the ICMP errors which come to this host, as long as somebody wants them. The sockets that carry
//! packets know nothing of it: asked for errors themselves, they would refuse datagrams that have nothing to do with them.
//! It reads what an error says, never whether it is true or concerns us.

use std::io;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Duration, Instant, sleep_until};
use tracing::{debug, info};
use wire::icmp::{UDP, UNREACHABLE_V4, UNREACHABLE_V6, Unreachable};

/// As much of an error as is looked at: two IPv4 headers with all options, ICMP and UDP headers, a packet ID.
const LOOKED_AT: usize = 60 + 8 + 60 + 8 + 8;
/// Errors that the kernel holds for us. bytes; more are lost, as they are worth little.
const BUFFER: usize = 64 << 10;
/// So many errors are read in one [`TURN`]; the rest waits in the kernel.
const READ_MAX: u32 = 32;
const TURN: Duration = Duration::from_millis(10);

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Errors about UDP datagrams.
    pub unreachable_heard: u64,
    /// Messages that say nothing of a datagram's failure.
    pub unreachable_other: u64,
    /// Sockets that could not be opened.
    pub unreachable_unavailable: u64,
}

type Parse = fn(&[u8]) -> Option<Unreachable>;

/// The sockets, while there are any.
#[derive(Default)]
pub struct Unreachables {
    sockets: Vec<(UdpSocket, Parse)>,
    wanted: bool,
    turn: Option<(Instant, u32)>,
    /// What was counted.
    pub counters: Counters,
}

impl Unreachables {
    /// Opens the sockets, or closes them. Without CAP_NET_RAW there are none.
    pub fn listen(&mut self, wanted: bool) {
        if std::mem::replace(&mut self.wanted, wanted) == wanted {
            return;
        }
        self.sockets.clear();
        if !wanted {
            return;
        }
        for (version, open) in [("4", open_v4 as fn() -> io::Result<UdpSocket>), ("6", open_v6)] {
            let parse = if version == "4" { Unreachable::parse_v4 } else { Unreachable::parse_v6 };
            match open() {
                Ok(socket) => self.sockets.push((socket, parse as Parse)),
                Err(e) => {
                    self.counters.unreachable_unavailable += 1;
                    info!("ICMP errors of IPv{version} are not heard, which bonds can do without: {e}");
                }
            }
        }
    }

    /// The next error; never, without sockets. May be cancelled without loss.
    pub async fn recv(&mut self) -> Unreachable {
        loop {
            if let Some((began, READ_MAX)) = self.turn {
                sleep_until(began + TURN).await;
            }
            let (message, len, parse) = match self.sockets.as_slice() {
                [] => std::future::pending().await,
                [(socket, parse)] => read(socket, *parse).await,
                [(first, of_first), (second, of_second), ..] => tokio::select! {
                    message = read(first, *of_first) => message,
                    message = read(second, *of_second) => message,
                },
            };
            let now = Instant::now();
            self.turn = match self.turn.filter(|(began, _)| now < *began + TURN) {
                Some((began, count)) => Some((began, count + 1)),
                None => Some((now, 1)),
            };
            match parse(&message[..len]) {
                Some(said) => {
                    self.counters.unreachable_heard += 1;
                    return said;
                }
                None => self.counters.unreachable_other += 1,
            }
        }
    }
}

async fn read(socket: &UdpSocket, parse: Parse) -> ([u8; LOOKED_AT], usize, Parse) {
    let mut message = [0; LOOKED_AT];
    let read = socket.recv(&mut message).await;
    let len = read.unwrap_or_else(|e| {
        debug!("a socket for ICMP errors: {e}");
        0
    });
    (message, len, parse)
}

// BPF: linux/filter.h.
const LOAD: u16 = 0x30;
const LOAD_BEHIND: u16 = 0x50;
const SKIP_HEADER: u16 = 0xb1;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Errors about UDP, behind an IPv4 header of any length.
fn open_v4() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.attach_filter(&[
        SockFilter::new(SKIP_HEADER, 0, 0, 0),
        SockFilter::new(LOAD_BEHIND, 0, 0, 0),
        SockFilter::new(IF_EQUAL, 0, 3, UNREACHABLE_V4.into()),
        SockFilter::new(LOAD_BEHIND, 0, 0, 8 + 9),
        SockFilter::new(IF_EQUAL, 0, 1, UDP.into()),
        SockFilter::new(RETURN, 0, 0, LOOKED_AT as u32),
        SockFilter::new(RETURN, 0, 0, 0),
    ])?;
    ready(socket)
}

/// The same, without the IPv6 header.
fn open_v6() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.attach_filter(&[
        SockFilter::new(LOAD, 0, 0, 0),
        SockFilter::new(IF_EQUAL, 0, 3, UNREACHABLE_V6.into()),
        SockFilter::new(LOAD, 0, 0, 8 + 6),
        SockFilter::new(IF_EQUAL, 0, 1, UDP.into()),
        SockFilter::new(RETURN, 0, 0, LOOKED_AT as u32),
        SockFilter::new(RETURN, 0, 0, 0),
    ])?;
    ready(socket)
}

/// What reads datagrams reads these messages as well.
fn ready(socket: Socket) -> io::Result<UdpSocket> {
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{self, IpAddr};

    use super::*;
    use wire::icmp::Cause;

    const NAMED: u64 = 0x4841_5753_4552_0001;

    /// A datagram to a port that nobody listens to any more, and what is said about it.
    async fn hear(unreachables: &mut Unreachables, ip: &str) -> Unreachable {
        let ip: IpAddr = ip.parse().expect("an address");
        let [ours, gone] = [(); 2].map(|()| net::UdpSocket::bind((ip, 0)).expect("a socket"));
        let (from, to) = (ours.local_addr().expect("bound"), gone.local_addr().expect("bound"));
        drop(gone);
        ours.send_to(&[&NAMED.to_be_bytes()[..], &[7; 900]].concat(), to).expect("sent");
        loop {
            // Others on this host may be told of theirs.
            let said = unreachables.recv().await;
            if (said.from, said.to) == (from, to) {
                return said;
            }
        }
    }

    #[tokio::test]
    async fn a_kernel_says_what_it_could_not_deliver_and_quotes_the_packet_id_or_it_lets_nobody_hear() {
        let mut unreachables = Unreachables::default();
        unreachables.listen(true);
        let unavailable = unreachables.counters.unreachable_unavailable;
        assert_eq!(unreachables.sockets.len() as u64 + unavailable, 2);
        for ip in ["127.0.0.1", "::1"].into_iter().take(unreachables.sockets.len()) {
            let said = hear(&mut unreachables, ip).await;
            assert_eq!((said.cause, said.packet_id), (Cause::Port, Some(NAMED)), "{ip}");
        }
        unreachables.listen(false);
        unreachables.listen(false);
        assert!(unreachables.sockets.is_empty() && unreachables.counters.unreachable_unavailable == unavailable);
    }

    #[tokio::test]
    async fn a_flood_of_errors_is_read_at_a_bounded_rate() {
        let mut unreachables = Unreachables::default();
        unreachables.listen(true);
        if unreachables.sockets.is_empty() {
            assert_eq!(unreachables.counters.unreachable_unavailable, 2);
            return;
        }
        let began = Instant::now();
        for _ in 0..=2 * READ_MAX {
            hear(&mut unreachables, "127.0.0.1").await;
        }
        assert!(began.elapsed() >= 2 * TURN, "{:?}", began.elapsed());
    }
}
