//! Sockets for port spreads: many at a time, opened beside a link's, read and written here on the control thread until
//! one of them has found its peer and is given to the packet threads. What is said over them is the node's business.
// docs/ZEROTIER_STACK.md, "Port spread"

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use node::LocalSocketId;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};

/// Datagrams that wait for the control thread; more stay in the kernel's buffers.
const ARRIVED_MAX: usize = 256;
/// Bytes of a datagram that are looked at; nobody sends longer ones to a socket that is new.
const DATAGRAM_MAX: usize = 2048;
/// These sockets take up at most this part of the descriptors that the process may have.
const DESCRIPTORS_PART: u64 = 4;

/// What came to one of the sockets.
pub struct Arrived {
    /// The socket.
    pub socket: LocalSocketId,
    /// From where.
    pub remote: SocketAddr,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

struct Held {
    socket: Arc<UdpSocket>,
    options: uring::udp::Options,
    reader: AbortHandle,
}

/// The sockets that are open here. Those that packet threads have are not.
pub struct SpreadSockets {
    held: BTreeMap<LocalSocketId, Held>,
    sender: mpsc::Sender<Arrived>,
    arrived: mpsc::Receiver<Arrived>,
    room: usize,
}

impl Default for SpreadSockets {
    fn default() -> SpreadSockets {
        let (sender, arrived) = mpsc::channel(ARRIVED_MAX);
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let room = usize::try_from(descriptors / DESCRIPTORS_PART).unwrap_or(usize::MAX);
        SpreadSockets { held: BTreeMap::new(), sender, arrived, room }
    }
}

impl SpreadSockets {
    /// Opens one more, on any port.
    pub fn open(&mut self, id: LocalSocketId, mut options: uring::udp::Options) -> io::Result<()> {
        if self.held.len() >= self.room {
            return Err(io::Error::other("a quarter of the descriptors of this process are in use for port spreads"));
        }
        options.gro = false; // a socket of one flow that is read datagram by datagram
        options.address.set_port(0);
        let socket = Arc::new(UdpSocket::from_std(uring::udp::bind(&options)?)?);
        options.address = socket.local_addr()?;
        let reader = spawn_local(read(id, Arc::clone(&socket), self.sender.clone())).abort_handle();
        self.held.insert(id, Held { socket, options, reader });
        Ok(())
    }

    /// The next datagram. May be cancelled without loss.
    pub async fn recv(&mut self) -> Option<Arrived> {
        self.arrived.recv().await
    }

    /// Sends from one of the sockets; false if it is not here. What the kernel has no room for is lost, as on the way.
    pub fn send(&self, id: LocalSocketId, remote: SocketAddr, ttl: Option<u8>, datagram: &[u8]) -> bool {
        let Some(Held { socket, .. }) = self.held.get(&id) else { return false };
        let usual = ttl.and_then(|ttl| Some((socket.ttl().ok()?, socket.set_ttl(ttl.into()).ok()?)));
        // Not by way of the reactor, which takes a new socket for full until it has looked.
        let _ = SockRef::from(&**socket).send_to(datagram, &remote.into());
        if let Some((usual, ())) = usual {
            let _ = socket.set_ttl(usual);
        }
        true
    }

    /// Gives a socket away: one for each of `shards`, all on its port.
    pub fn adopt(&mut self, id: LocalSocketId, shards: usize) -> io::Result<Vec<StdSocket>> {
        let held = self.held.remove(&id).ok_or_else(|| io::Error::other("not here any more"))?;
        held.reader.abort();
        // The reader has the other descriptor until it is gone.
        let first = StdSocket::from(held.socket.as_fd().try_clone_to_owned()?);
        let _ = setsockopt(&first, sockopt::UdpGroSegment, &true);
        if shards <= 1 {
            return Ok(vec![first]);
        }
        setsockopt(&first, sockopt::ReusePort, &true)?;
        let options = uring::udp::Options { reuse_port: true, gro: true, ..held.options };
        let others = (1..shards).map(|_| uring::udp::bind(&options));
        let sockets = [Ok(first)].into_iter().chain(others).collect::<io::Result<Vec<StdSocket>>>()?;
        // Without it the kernel's hash decides, which for one remote is always the same too.
        let _ = uring::steer::sockets(&sockets[0], sockets.len());
        Ok(sockets)
    }

    /// Closes a socket; false if it is not here.
    pub fn close(&mut self, id: LocalSocketId) -> bool {
        let held = self.held.remove(&id);
        held.is_some_and(|held| {
            held.reader.abort();
            true
        })
    }
}

async fn read(id: LocalSocketId, socket: Arc<UdpSocket>, to: mpsc::Sender<Arrived>) {
    let mut buffer = [0; DATAGRAM_MAX];
    while let Ok((len, remote)) = socket.recv_from(&mut buffer).await {
        if to.send(Arrived { socket: id, remote, bytes: buffer[..len].to_vec() }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    fn options() -> uring::udp::Options {
        uring::udp::Options::new("127.0.0.1:0".parse().expect("address"))
    }

    #[tokio::test]
    async fn what_comes_to_a_socket_is_read_here_until_it_is_given_away_and_then_there() {
        LocalSet::new()
            .run_until(async {
                let mut sockets = SpreadSockets::default();
                let (one, two) = (LocalSocketId(1), LocalSocketId(2));
                sockets.open(one, options()).expect("open");
                sockets.open(two, options()).expect("open");
                let at = sockets.held[&two].options.address;
                assert!(sockets.send(one, at, Some(2), b"hello"));
                let arrived = sockets.recv().await.expect("arrived");
                assert_eq!((arrived.socket, &arrived.bytes[..]), (two, &b"hello"[..]));
                assert_eq!(sockets.held[&one].socket.ttl().expect("ttl"), 64, "for one datagram only");
                let given = sockets.adopt(two, 3).expect("adopt");
                assert!(given.iter().all(|s| s.local_addr().expect("address") == at) && given.len() == 3);
                assert!(!sockets.send(two, at, None, b"gone") && !sockets.close(two));
                assert!(sockets.send(one, at, None, b"again"));
                let mut buffer = [0; 16];
                let mut read = || given.iter().any(|s| s.recv(&mut buffer).is_ok());
                assert!((0..100).any(|_| read()));
                assert!(sockets.close(one) && sockets.held.is_empty());
            })
            .await;
    }

    #[tokio::test]
    async fn no_more_are_opened_than_there_is_room_for() {
        LocalSet::new()
            .run_until(async {
                let mut sockets = SpreadSockets { room: 2, ..SpreadSockets::default() };
                let opened = (1..=5).filter(|&n| sockets.open(LocalSocketId(n), options()).is_ok()).count();
                assert_eq!(opened, 2);
            })
            .await;
    }
}
