//! What others may cause, per path, per prefix and in all: the gates in front of every answer and every probe.
// spec: paths, "Hardening bounds"

use std::collections::BTreeMap;
use std::net::IpAddr;

use wire::{Address, NetworkId};

use crate::gate::{Bucket, Rate, Stamp};
use crate::limits::*;
use crate::path::Path;

const HELLO_ANSWERS: Rate = Rate::per_second(HELLO_ANSWERS_PER_PATH_PER_S);
const CHALLENGES: Rate = Rate::per_second(CHALLENGES_PER_S);
const IDENTITIES_OF_PREFIX: Rate = Rate::one_per(IDENTITY_GATE_MS as u32, IDENTITY_BURST);
const IDENTITIES: Rate = Rate::per_second(IDENTITIES_PER_S);
const RELAYED: Rate = Rate::per_second(RELAYED_PER_PATH_PER_S);
const INTRODUCTIONS: Rate = Rate::per_second(INTRODUCTIONS_PER_S);
const RECALLS: Rate = Rate::per_second(WHOIS_PER_S);
const PUSH_PROBES: Rate = Rate::per_second(PUSH_PROBES_PER_S);

#[derive(Debug, Default)]
struct PathGate {
    last_used: Stamp,
    /// Its place in the order of use.
    turn: u64,
    echo: Stamp,
    hello: Bucket,
    relayed: Bucket,
    /// Last head of a verified source that came from this host for somebody else.
    relayed_head: Stamp,
}

/// All gates that do not belong to one peer.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    paths: BTreeMap<Path, PathGate>,
    /// The paths in the order of their last use.
    turns: BTreeMap<u64, Path>,
    next_turn: u64,
    prefixes: BTreeMap<IpAddr, Bucket>,
    errors: BTreeMap<(Address, u8, NetworkId), u64>,
    echo_answers: Bucket,
    identities: Bucket,
    challenges: Bucket,
    recalls: Bucket,
    introductions: Bucket,
    push_probes: Bucket,
    /// Refusals for lack of room.
    pub(crate) full: u64,
    /// Paths whose gates went to make room.
    pub(crate) evicted: u64,
}

impl Gates {
    /// The gates of a path over which something authenticated came. When there is no room for more paths, the one used
    /// least recently goes: its gates open again, which the gates of the peer and of the node make up for.
    fn path(&mut self, path: Path, now_ms: u64) -> &mut PathGate {
        if self.paths.len() >= PATH_GATES_MAX
            && !self.paths.contains_key(&path)
            && let Some((_, oldest)) = self.turns.pop_first()
        {
            self.paths.remove(&oldest);
            self.evicted += 1;
        }
        self.next_turn += 1;
        let gate = self.paths.entry(path).or_default();
        self.turns.remove(&gate.turn);
        self.turns.insert(self.next_turn, path);
        gate.turn = self.next_turn;
        gate.last_used.set(now_ms);
        gate
    }

    /// The gates of a path and of the peer that sent over it, the cheaper one first: a closed path costs the peer nothing,
    /// and a path not seen yet takes up no room without the peer's leave.
    fn both(
        &mut self,
        path: Path,
        now_ms: u64,
        of_peer: impl FnOnce() -> bool,
        of_path: impl FnOnce(&mut PathGate) -> bool,
    ) -> bool {
        if self.paths.contains_key(&path) {
            return of_path(self.path(path, now_ms)) && of_peer();
        }
        of_peer() && of_path(self.path(path, now_ms))
    }

    /// An ECHO over `path` may be answered; `friends` have a right to some. `of_peer` is the gate of who sent it.
    pub(crate) fn echo(&mut self, path: Path, now_ms: u64, friends: usize, of_peer: impl FnOnce() -> bool) -> bool {
        let of_node = Rate::per_second(ECHO_ANSWERS_PER_S + ECHO_ANSWERS_PER_FRIEND_PER_S * friends as u32);
        self.both(path, now_ms, of_peer, |gate| gate.echo.pass(ECHO_GATE_MS, now_ms))
            && self.echo_answers.take(of_node, now_ms)
    }

    /// A HELLO of a known identity over `path` may be answered. `of_peer` is the gate of who sent it.
    pub(crate) fn hello(&mut self, path: Path, now_ms: u64, of_peer: impl FnOnce() -> bool) -> bool {
        self.both(path, now_ms, of_peer, |gate| gate.hello.take(HELLO_ANSWERS, now_ms))
    }

    /// A head from `path`, whose source has proved that path, may be relayed. The port does not count: a peer's sockets
    /// share one allowance.
    pub(crate) fn relay_head(&mut self, path: Path, now_ms: u64) -> bool {
        let gate = self.path(host(path), now_ms);
        gate.relayed_head.set(now_ms);
        gate.relayed.take(RELAYED, now_ms)
    }

    /// Fragments name no source: they are relayed from hosts whose heads were. `None`: this host is not one.
    pub(crate) fn relay_fragment(&mut self, path: Path, now_ms: u64) -> Option<bool> {
        let gate = self.paths.get_mut(&host(path))?;
        let known = gate.relayed_head.within(PATH_GATE_IDLE_MS, now_ms);
        known.then(|| gate.relayed.take(RELAYED, now_ms))
    }

    /// A new identity from `ip` may be looked at.
    pub(crate) fn identity(&mut self, ip: IpAddr, now_ms: u64) -> bool {
        let prefix = prefix_of(ip);
        if self.prefixes.len() >= IDENTITY_PREFIXES_MAX && !self.prefixes.contains_key(&prefix) {
            self.prefixes.retain(|_, of| !of.is_full(IDENTITIES_OF_PREFIX, now_ms));
        }
        if self.prefixes.len() >= IDENTITY_PREFIXES_MAX && !self.prefixes.contains_key(&prefix) {
            self.full += 1;
            return false;
        }
        // Neither gate is used up by what the other one stops.
        let (mut of_prefix, mut of_node) = (self.prefixes.get(&prefix).copied().unwrap_or_default(), self.identities);
        if !of_prefix.take(IDENTITIES_OF_PREFIX, now_ms) || !of_node.take(IDENTITIES, now_ms) {
            return false;
        }
        self.identities = of_node;
        self.prefixes.insert(prefix, of_prefix);
        true
    }

    /// This ERROR may be sent.
    pub(crate) fn error(&mut self, to: Address, code: u8, network: NetworkId, now_ms: u64) -> bool {
        let passed = |at: &u64| now_ms.saturating_sub(*at) < ERROR_GATE_MS;
        if self.errors.get(&(to, code, network)).is_some_and(passed) {
            return false;
        }
        if self.errors.len() >= ERROR_GATE_MAX {
            self.errors.retain(|_, at| passed(at));
        }
        if self.errors.len() >= ERROR_GATE_MAX {
            self.full += 1;
            return false;
        }
        self.errors.insert((to, code, network), now_ms);
        true
    }

    /// A challenge may be sent, as far as the whole node is concerned.
    pub(crate) fn challenge(&mut self, now_ms: u64) -> bool {
        self.challenges.take(CHALLENGES, now_ms)
    }

    /// A packet that is not authenticated yet may bring a forgotten peer back.
    pub(crate) fn recall(&mut self, now_ms: u64) -> bool {
        self.recalls.take(RECALLS, now_ms)
    }

    pub(crate) fn introduction(&mut self, now_ms: u64) -> bool {
        self.introductions.take(INTRODUCTIONS, now_ms)
    }

    pub(crate) fn push_probe(&mut self, now_ms: u64) -> bool {
        self.push_probes.take(PUSH_PROBES, now_ms)
    }

    /// Forgets gates that have been idle for so long that they are open again.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.paths.retain(|_, gate| {
            let keep = gate.last_used.within(PATH_GATE_IDLE_MS, now_ms);
            if !keep {
                self.turns.remove(&gate.turn);
            }
            keep
        });
        self.prefixes.retain(|_, of| !of.is_full(IDENTITIES_OF_PREFIX, now_ms));
        self.errors.retain(|_, at| now_ms.saturating_sub(*at) < ERROR_GATE_MS);
    }

    /// Entries of the three tables.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.paths.len(), self.prefixes.len(), self.errors.len()]
    }
}

/// The path with every port of its host.
fn host(mut path: Path) -> Path {
    path.remote.set_port(0);
    path
}

fn prefix_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & (u32::MAX << (32 - IDENTITY_GATE_V4_BITS))).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & (u128::MAX << (128 - IDENTITY_GATE_V6_BITS))).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::LocalSocketId;

    fn path(n: u32) -> Path {
        let [a, b, c, d] = n.to_be_bytes();
        Path { socket: LocalSocketId(1), remote: (IpAddr::from([a + 1, b, c, d]), 9993).into() }
    }

    #[test]
    fn echoes_are_answered_every_166_ms_per_path_and_500_times_a_second_in_all() {
        let mut gates = Gates::default();
        assert!(
            gates.echo(path(1), 0, 0, || true)
                && !gates.echo(path(1), 165, 0, || panic!("not asked"))
                && gates.echo(path(1), 166, 0, || true)
        );
        let answered = (2..2000).filter(|&n| gates.echo(path(n), 166, 0, || true)).count();
        assert!((480..=ECHO_ANSWERS_PER_S as usize).contains(&answered), "{answered}");
        let more = (2000..4000).filter(|&n| gates.echo(path(n), 166, 100, || true)).count();
        assert_eq!(more, (100 * ECHO_ANSWERS_PER_FRIEND_PER_S) as usize, "for a hundred friends");
    }

    #[test]
    fn a_few_new_identities_per_prefix_then_one_every_two_seconds_and_twenty_per_second_in_all() {
        let mut gates = Gates::default();
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let burst = |gates: &mut Gates, s: &str| (0..100).filter(|_| gates.identity(ip(s), 0)).count();
        assert_eq!(burst(&mut gates, "1.2.3.4"), IDENTITY_BURST as usize);
        assert!(!gates.identity(ip("1.2.3.5"), 1999) && gates.identity(ip("1.2.3.5"), 2000));
        assert!(!gates.identity(ip("1.2.3.6"), 2001) && gates.identity(ip("1.2.4.4"), 0));
        assert_eq!(burst(&mut gates, "2001:db8:1:100::1"), IDENTITY_BURST as usize);
        assert!(!gates.identity(ip("2001:db8:1:1ff::1"), 0) && gates.identity(ip("2001:db8:1:200::1"), 0));
        let passed =
            (0..10_000u32).filter(|n| gates.identity(IpAddr::from((9 << 24 | n << 8).to_be_bytes()), 5000)).count();
        assert_eq!(passed, IDENTITIES_PER_S as usize);
    }

    #[test]
    fn prefixes_paths_and_errors_are_remembered_within_bounds() {
        let mut gates = Gates::default();
        for n in 0..2 * PATH_GATES_MAX as u32 {
            gates.identity(IpAddr::from((n << 8).to_be_bytes()), u64::from(n) * 51);
            gates.hello(path(n), 5000, || true);
            gates.error(Address::from_u64(u64::from(n)), 5, NetworkId(1), 5000);
        }
        let [paths, prefixes, errors] = gates.sizes();
        assert!(prefixes <= IDENTITY_PREFIXES_MAX);
        assert_eq!((paths, errors), (PATH_GATES_MAX, ERROR_GATE_MAX));
        assert_eq!((gates.turns.len(), gates.evicted), (PATH_GATES_MAX, PATH_GATES_MAX as u64));
        gates.expire(5000 + PATH_GATE_IDLE_MS);
        assert_eq!((gates.paths.len(), gates.turns.len()), (0, 0));
    }

    #[test]
    fn a_new_path_takes_the_place_of_the_one_used_least_recently() {
        let mut gates = Gates::default();
        (0..PATH_GATES_MAX as u32).for_each(|n| assert!(gates.hello(path(n), 5000, || true)));
        assert!(gates.hello(path(0), 5000, || true), "used again");
        assert!(gates.hello(path(1 << 24), 5000, || true), "and a new one");
        assert!(!gates.hello(path(2 << 24), 5000, || false), "nothing goes for it");
        assert!(gates.paths.contains_key(&path(0)) && !gates.paths.contains_key(&path(1)));
        assert_eq!((gates.paths.len(), gates.full, gates.evicted), (PATH_GATES_MAX, 0, 1));
    }

    #[test]
    fn an_error_of_one_code_about_one_network_goes_once_a_second() {
        let (mut gates, peer) = (Gates::default(), Address::from_u64(1));
        assert!(gates.error(peer, 5, NetworkId(1), 0) && !gates.error(peer, 5, NetworkId(1), 999));
        assert!(gates.error(peer, 5, NetworkId(2), 0) && gates.error(peer, 5, NetworkId(1), 1000));
    }
}
