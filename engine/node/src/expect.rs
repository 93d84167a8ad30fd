//! Which replies are awaited. A reply is believed only if it names a packet we sent, comes from whom we sent it to, and
//! in time; whether it also proves a path depends on where the packet went. // spec: paths, "Expected replies"

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use wire::Address;
use wire::verb::Verb;

use crate::io::LocalSocketId;
use crate::limits::*;

/// A packet whose reply is awaited.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) verb: Verb,
    pub(crate) peer: Address,
    /// The peer's own endpoint that it was sent to. `None`: it went by a relay, and no reply proves a path, because a
    /// relay that hides its hops looks like the peer.
    pub(crate) remote: Option<SocketAddr>,
    /// The socket it left from; `None`: from all links.
    pub(crate) socket: Option<LocalSocketId>,
    pub(crate) sent_us: u64,
    /// What an ECHO must bring back.
    pub(crate) cookie: Option<[u8; 8]>,
    expires_ms: u64,
    replies_left: usize,
    /// Sockets over which a reply came already.
    answered: Vec<LocalSocketId>,
}

/// What a reply that was awaited tells.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    pub(crate) verb: Verb,
    pub(crate) sent_us: u64,
    pub(crate) cookie: Option<[u8; 8]>,
    /// It came back from the very endpoint and over a socket that the packet was sent to and from.
    pub(crate) proves_path: bool,
}

/// The packets whose replies are awaited, by packet ID.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    by_id: BTreeMap<u64, Expected>,
    /// IDs in the order of their expiry.
    order: VecDeque<(u64, u64)>,
    pub(crate) evicted: u64,
}

impl Expectations {
    /// Awaits replies to the packet `id`. Packets with ID zero are never expected.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn register(
        &mut self,
        id: u64,
        verb: Verb,
        peer: Address,
        socket: Option<LocalSocketId>,
        remote: Option<SocketAddr>,
        cookie: Option<[u8; 8]>,
        now: wire::Now,
    ) {
        if id == 0 {
            return;
        }
        while self.by_id.len() >= EXPECTED_MAX || self.order.len() >= 4 * EXPECTED_MAX {
            let Some((_, oldest)) = self.order.pop_front() else { break };
            self.evicted += u64::from(self.by_id.remove(&oldest).is_some());
        }
        // Several OKs are legitimate for clusters (WHOIS), chunks (configuration) and gathers. // spec: paths, "Expected replies"
        let replies_left = match verb {
            Verb::Whois | Verb::NetworkConfigRequest | Verb::MulticastGather | Verb::MulticastFrame => {
                REPLIES_PER_REQUEST
            }
            Verb::Hello if socket.is_none() => HELLO_REPLIES_MAX,
            _ => 1,
        };
        let expires_ms = now.ms() + REPLY_TIMEOUT_MS;
        let sent_us = now.mono_us;
        let entry =
            Expected { verb, peer, remote, socket, sent_us, cookie, expires_ms, replies_left, answered: Vec::new() };
        if self.by_id.insert(id, entry).is_none() {
            self.order.push_back((expires_ms, id));
        }
    }

    /// Whether a reply to packet `id` of ours, which had `verb`, from `peer` over `socket` and `remote`, is awaited.
    /// Uses it up.
    pub(crate) fn matched(
        &mut self,
        id: u64,
        verb: u8,
        peer: Address,
        socket: LocalSocketId,
        remote: SocketAddr,
        now_ms: u64,
    ) -> Option<Matched> {
        let e = self.by_id.get_mut(&id)?;
        // spec: wire, "OK for NETWORK_CONFIG": the reference claims to answer an ECHO
        let answers = e.verb as u8 == verb || e.verb == Verb::NetworkConfig && verb == Verb::Echo as u8;
        if !answers || e.peer != peer || now_ms >= e.expires_ms {
            return None;
        }
        // One OK per socket copy of a HELLO: the same one over the same socket is a replay.
        let per_socket = e.verb == Verb::Hello;
        if per_socket && e.answered.contains(&socket) {
            return None;
        }
        if per_socket {
            e.answered.push(socket);
        }
        let proves_path = e.remote == Some(remote) && e.socket.is_none_or(|s| s == socket);
        let matched = Matched { verb: e.verb, sent_us: e.sent_us, cookie: e.cookie, proves_path };
        e.replies_left -= 1;
        if e.replies_left == 0 {
            self.by_id.remove(&id);
        }
        Some(matched)
    }

    /// The entry for packet `id`, not used up: for ERRORs, which may be followed by an OK.
    pub(crate) fn peek(&self, id: u64, peer: Address, now_ms: u64) -> Option<&Expected> {
        self.by_id.get(&id).filter(|e| e.peer == peer && now_ms < e.expires_ms)
    }

    /// Forgets what was not answered in time.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some(&(expires_ms, id)) = self.order.front() {
            if expires_ms > now_ms {
                break;
            }
            self.order.pop_front();
            self.by_id.remove(&id);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Now;

    const REMOTE: &str = "192.0.2.1:9993";

    fn register(e: &mut Expectations, id: u64, verb: Verb, socket: Option<LocalSocketId>) {
        let remote = REMOTE.parse().unwrap();
        e.register(id, verb, Address::from_u64(1), socket, Some(remote), None, Now::at_ms(1000));
    }

    fn matched(e: &mut Expectations, id: u64, verb: Verb, peer: u64, socket: u64, ms: u64) -> Option<Matched> {
        e.matched(id, verb as u8, Address::from_u64(peer), LocalSocketId(socket), REMOTE.parse().unwrap(), ms)
    }

    #[test]
    fn a_reply_is_taken_once_from_the_right_peer_and_in_time() {
        let mut e = Expectations::default();
        register(&mut e, 7, Verb::Echo, Some(LocalSocketId(3)));
        assert!(matched(&mut e, 7, Verb::Echo, 2, 3, 1001).is_none());
        assert!(matched(&mut e, 7, Verb::Hello, 1, 3, 1001).is_none());
        assert!(matched(&mut e, 7, Verb::Echo, 1, 3, 11_000).is_none());
        assert!(matched(&mut e, 7, Verb::Echo, 1, 3, 1001).unwrap().proves_path);
        assert!(matched(&mut e, 7, Verb::Echo, 1, 3, 1001).is_none());
    }

    #[test]
    fn a_hello_fan_out_is_answered_once_per_socket() {
        let mut e = Expectations::default();
        register(&mut e, 7, Verb::Hello, None);
        for socket in 1..=3 {
            assert!(matched(&mut e, 7, Verb::Hello, 1, socket, 1001).unwrap().proves_path);
            assert!(matched(&mut e, 7, Verb::Hello, 1, socket, 1001).is_none());
        }
    }

    #[test]
    fn a_reply_to_what_went_by_a_relay_proves_no_path() {
        let mut e = Expectations::default();
        e.register(7, Verb::Echo, Address::from_u64(1), Some(LocalSocketId(3)), None, None, Now::at_ms(1000));
        assert!(!matched(&mut e, 7, Verb::Echo, 1, 3, 1001).unwrap().proves_path);
    }

    #[test]
    fn packet_id_zero_is_never_expected() {
        let mut e = Expectations::default();
        register(&mut e, 0, Verb::Echo, None);
        assert_eq!(e.len(), 0);
    }

    #[test]
    fn the_table_of_expected_replies_stays_bounded_and_expires() {
        let mut e = Expectations::default();
        for id in 1..=EXPECTED_MAX as u64 + 100 {
            register(&mut e, id, Verb::Echo, None);
        }
        assert_eq!((e.len(), e.evicted), (EXPECTED_MAX, 100));
        assert!(matched(&mut e, 100, Verb::Echo, 1, 3, 1001).is_none());
        e.expire(11_000);
        assert_eq!((e.len(), e.order.len()), (0, 0));
    }
}
