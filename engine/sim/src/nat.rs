//! A router that translates addresses: which external port an inner endpoint gets, and who may send to it. Knows
//! nothing of how datagrams travel; time and randomness are arguments. It never says ICMP.
// RFC 4787 has the words: mapping, filtering, hairpinning.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use rand::Rng;

/// Ports that are given out begin here.
const PORTS_FROM: u16 = 1024;
/// Mappings of one router, unless told otherwise.
const MAPPINGS_MAX: usize = 4096;
/// Remotes that one mapping knows to have been sent to.
const REMOTES_MAX: usize = 2048;
/// Flows towards the router itself that are remembered.
const OWN_FLOWS_MAX: usize = 1024;
/// How long a mapping lives after the last datagram out, unless told otherwise. us
const TIMEOUT_US: u64 = 30_000_000;

/// Which external port an inner endpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// The same for every remote.
    EndpointIndependent,
    /// Another one for every remote endpoint: "symmetric".
    AddressAndPortDependent,
}

/// How an external port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The inner one if it is free, else the next that is.
    Preserved,
    /// One after the other.
    Sequential,
    /// Any.
    Random,
}

/// Who may send to an external port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Everybody.
    Open,
    /// Addresses that were sent to.
    Address,
    /// Endpoints that were sent to.
    AddressAndPort,
}

/// What a router does with a datagram from outside that no mapping lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsolicited {
    /// Forgets it.
    Dropped,
    /// Takes it for its own and refuses it, and remembers that flow: while it does, nobody inside gets that port towards
    /// that remote, and whoever has to take another one has that for all later flows. Linux without a filter towards
    /// the WAN does so.
    Answered,
}

/// How a router translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatKind {
    /// Which external port an inner endpoint has.
    pub mapping: Mapping,
    /// How it is chosen.
    pub ports: Ports,
    /// Who may send to it.
    pub filter: Filter,
    /// Inner hosts reach each other by external addresses.
    pub hairpin: bool,
    /// Datagrams from outside that nobody waits for.
    pub unsolicited: Unsolicited,
    /// A mapping, and the right of a remote to send to it, ends so long after the last datagram out. us
    pub timeout_us: u64,
    /// Mappings at a time; a datagram that needs one more is dropped.
    pub mappings_max: usize,
}

impl NatKind {
    const fn cone(filter: Filter) -> NatKind {
        NatKind {
            mapping: Mapping::EndpointIndependent,
            ports: Ports::Sequential,
            filter,
            hairpin: false,
            unsolicited: Unsolicited::Dropped,
            timeout_us: TIMEOUT_US,
            mappings_max: MAPPINGS_MAX,
        }
    }

    /// One port for all remotes, open to everybody.
    pub const fn full_cone() -> NatKind {
        NatKind::cone(Filter::Open)
    }

    /// One port for all remotes, open to hosts that were sent to.
    pub const fn address_restricted() -> NatKind {
        NatKind::cone(Filter::Address)
    }

    /// One port for all remotes, open to endpoints that were sent to.
    pub const fn port_restricted() -> NatKind {
        NatKind::cone(Filter::AddressAndPort)
    }

    /// A port for each remote, open to that one only.
    pub const fn symmetric(ports: Ports) -> NatKind {
        NatKind { mapping: Mapping::AddressAndPortDependent, ports, ..NatKind::port_restricted() }
    }
}

/// What a router dropped, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatDrops {
    /// Came from outside to a port without mapping.
    pub unmapped: u64,
    /// Came from outside to a mapping that does not let it in.
    pub filtered: u64,
    /// Needed a mapping, or the room to note a remote, and there was none.
    pub full: u64,
    /// Went to the router's own external address, which it does not turn around.
    pub hairpin: u64,
    /// A flow towards the router itself was not remembered for want of room.
    pub own_flows: u64,
}

/// An external port and whose it is.
#[derive(Clone, Debug)]
struct Mapped {
    inner: SocketAddr,
    until_us: u64,
    /// Remotes that were sent to, and until when they may answer.
    remotes: BTreeMap<SocketAddr, u64>,
}

/// One router with one external address.
#[derive(Clone, Debug)]
pub struct Nat {
    kind: NatKind,
    external: IpAddr,
    mapped: BTreeMap<u16, Mapped>,
    ports: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    /// Flows that the router took for its own, and until when.
    own: BTreeMap<(u16, SocketAddr), u64>,
    /// Nothing ends before.
    next_end_us: u64,
    next_port: u16,
    drops: NatDrops,
}

impl Nat {
    /// A router of this kind that has this external address.
    pub fn new(kind: NatKind, external: IpAddr, rng: &mut impl Rng) -> Nat {
        let next_port = any_port(rng);
        let (mapped, ports, own) = Default::default();
        Nat { kind, external, mapped, ports, own, next_end_us: 0, next_port, drops: NatDrops::default() }
    }

    /// Its address outside.
    pub fn external(&self) -> IpAddr {
        self.external
    }

    /// What it dropped.
    pub fn drops(&self) -> NatDrops {
        self.drops
    }

    /// Mappings that it has now.
    pub fn mappings(&self) -> usize {
        self.mapped.len()
    }

    /// Loses every mapping, as after a restart; the ports given out next are others.
    pub fn forget(&mut self, rng: &mut impl Rng) {
        *self = Nat { drops: self.drops, ..Nat::new(self.kind, self.external, rng) };
    }

    /// A datagram from inside to `remote`: the endpoint it leaves from, if it does.
    pub fn outbound(
        &mut self,
        now_us: u64,
        inner: SocketAddr,
        remote: SocketAddr,
        rng: &mut impl Rng,
    ) -> Option<SocketAddr> {
        self.expire(now_us);
        let Some(port) = self.port_of(inner, remote).or_else(|| self.map(inner, remote, rng)) else {
            self.drops.full += 1;
            return None;
        };
        let until_us = now_us + self.kind.timeout_us;
        let mapped = self.mapped.get_mut(&port)?;
        mapped.until_us = until_us;
        if mapped.remotes.len() >= REMOTES_MAX && !mapped.remotes.contains_key(&remote) {
            self.drops.full += 1;
            return None;
        }
        mapped.remotes.insert(remote, until_us);
        Some(SocketAddr::new(self.external, port))
    }

    /// A datagram from outside to one of its ports: the inner endpoint it goes to, if it may.
    pub fn inbound(&mut self, now_us: u64, remote: SocketAddr, port: u16) -> Option<SocketAddr> {
        self.expire(now_us);
        let let_in = self.mapped.get(&port).map(|m| (m.inner, self.lets_in(m, remote)));
        match let_in {
            Some((inner, true)) => return Some(inner),
            Some((_, false)) => self.drops.filtered += 1,
            None => self.drops.unmapped += 1,
        }
        if self.kind.unsolicited == Unsolicited::Answered {
            if self.own.len() < OWN_FLOWS_MAX || self.own.contains_key(&(port, remote)) {
                self.own.insert((port, remote), now_us + self.kind.timeout_us);
            } else {
                self.drops.own_flows += 1;
            }
        }
        None
    }

    /// A datagram from inside to one of its own ports: whence it comes and to whom it goes, if it is turned around.
    pub fn hairpin(
        &mut self,
        now_us: u64,
        inner: SocketAddr,
        port: u16,
        rng: &mut impl Rng,
    ) -> Option<(SocketAddr, SocketAddr)> {
        if !self.kind.hairpin {
            self.drops.hairpin += 1;
            return None;
        }
        let from = self.outbound(now_us, inner, SocketAddr::new(self.external, port), rng)?;
        Some((from, self.inbound(now_us, from, port)?))
    }

    fn lets_in(&self, mapped: &Mapped, remote: SocketAddr) -> bool {
        match self.kind.filter {
            Filter::Open => true,
            Filter::Address => mapped.remotes.keys().any(|r| r.ip() == remote.ip()),
            Filter::AddressAndPort => mapped.remotes.contains_key(&remote),
        }
    }

    /// The port that `inner` has towards `remote` already.
    fn port_of(&self, inner: SocketAddr, remote: SocketAddr) -> Option<u16> {
        let special = self.ports.get(&(inner, Some(remote))).copied();
        special.or_else(|| self.ports.get(&(inner, None)).copied().filter(|&port| !self.own_flow(port, remote)))
    }

    fn own_flow(&self, port: u16, remote: SocketAddr) -> bool {
        self.own.contains_key(&(port, remote))
    }

    /// Gives `inner` a port. It is for `remote` only if that is how we map.
    fn map(&mut self, inner: SocketAddr, remote: SocketAddr, rng: &mut impl Rng) -> Option<u16> {
        if self.mapped.len() >= self.kind.mappings_max {
            return None;
        }
        let only = (self.kind.mapping == Mapping::AddressAndPortDependent).then_some(remote);
        let first = match self.kind.ports {
            Ports::Preserved => inner.port().max(PORTS_FROM),
            Ports::Sequential => self.next_port,
            Ports::Random => any_port(rng),
        };
        let free = |port: &u16| !self.mapped.contains_key(port) && !self.own_flow(*port, remote);
        let port = (first..=u16::MAX).chain(PORTS_FROM..first).find(free)?;
        self.next_port = port.checked_add(1).unwrap_or(PORTS_FROM);
        self.mapped.insert(port, Mapped { inner, until_us: 0, remotes: BTreeMap::new() });
        let before = self.ports.insert((inner, only), port);
        // Not to be had for this remote: flows that are under way keep the port before, those to come get the new one.
        if let Some(mapped) = before.and_then(|before| self.mapped.get(&before)) {
            self.ports.extend(mapped.remotes.keys().map(|&remote| ((inner, Some(remote)), before.unwrap_or(port))));
        }
        Some(port)
    }

    fn expire(&mut self, now_us: u64) {
        if now_us < self.next_end_us {
            return;
        }
        // What begins from now on ends no earlier than that.
        let mut next_us = now_us + self.kind.timeout_us;
        let mut lives = |until_us: u64| {
            let lives = until_us > now_us;
            next_us = if lives { next_us.min(until_us) } else { next_us };
            lives
        };
        let ports = &mut self.ports;
        self.mapped.retain(|port, mapped| {
            mapped.remotes.retain(|_, until_us| lives(*until_us));
            let stays = lives(mapped.until_us);
            if !stays {
                ports.retain(|(inner, _), p| *inner != mapped.inner || p != port);
            }
            stays
        });
        self.own.retain(|_, until_us| lives(*until_us));
        self.next_end_us = next_us;
    }
}

fn any_port(rng: &mut impl Rng) -> u16 {
    PORTS_FROM + (rng.next_u32() % u32::from(u16::MAX - PORTS_FROM + 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const INNER: &str = "192.168.1.10:9993";
    const R: &str = "44.1.1.1:1000";
    const R_OTHER_PORT: &str = "44.1.1.1:2000";
    const R_OTHER_HOST: &str = "44.2.2.2:1000";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A router and the randomness that it uses.
    struct Box(Nat, StdRng);

    impl Box {
        fn new(kind: NatKind) -> Box {
            let mut rng = StdRng::seed_from_u64(1);
            Box(Nat::new(kind, "99.1.1.1".parse().unwrap(), &mut rng), rng)
        }

        fn out_at(&mut self, now_us: u64, inner: &str, remote: &str) -> Option<u16> {
            let external = self.0.outbound(now_us, at(inner), at(remote), &mut self.1)?;
            assert_eq!(external.ip(), self.0.external());
            Some(external.port())
        }

        fn out(&mut self, inner: &str, remote: &str) -> u16 {
            self.out_at(0, inner, remote).unwrap()
        }

        fn lets_in(&mut self, remote: &str, port: u16) -> bool {
            self.0.inbound(0, at(remote), port) == Some(at(INNER))
        }
    }

    #[test]
    fn a_cone_has_one_port_for_all_remotes_and_lets_in_by_its_kind() {
        let kinds = [NatKind::full_cone(), NatKind::address_restricted(), NatKind::port_restricted()];
        for (kind, (host, port_too)) in kinds.into_iter().zip([(true, true), (false, true), (false, false)]) {
            let mut nat = Box::new(kind);
            let port = nat.out(INNER, R);
            assert!(nat.lets_in(R, port));
            assert_eq!(nat.lets_in(R_OTHER_PORT, port), port_too);
            assert_eq!(nat.lets_in(R_OTHER_HOST, port), host);
            assert_eq!(nat.out(INNER, R_OTHER_HOST), port, "the same port");
            assert!(nat.lets_in(R_OTHER_HOST, port), "it was sent to");
        }
    }

    #[test]
    fn nobody_gets_in_before_anything_went_out() {
        let mut nat = Box::new(NatKind::full_cone());
        assert!((0..=u16::MAX).all(|port| !nat.lets_in(R, port)));
        assert_eq!(nat.0.drops().unmapped, 65_536);
    }

    #[test]
    fn a_symmetric_router_has_a_port_for_each_remote_and_keeps_it() {
        for ports in [Ports::Sequential, Ports::Random] {
            let mut nat = Box::new(NatKind::symmetric(ports));
            let given = [R, R_OTHER_PORT, R_OTHER_HOST].map(|remote| nat.out(INNER, remote));
            assert!(given[0] != given[1] && given[1] != given[2] && given[0] != given[2]);
            assert_eq!([R, R_OTHER_PORT, R_OTHER_HOST].map(|remote| nat.out(INNER, remote)), given);
            assert!(nat.lets_in(R, given[0]) && !nat.lets_in(R, given[1]) && !nat.lets_in(R_OTHER_PORT, given[0]));
        }
    }

    #[test]
    fn sequential_ports_follow_each_other_random_ones_do_not_and_preserved_ones_are_the_inner_ones() {
        let spread = |ports| {
            let mut nat = Box::new(NatKind::symmetric(ports));
            let given: Vec<i32> = (1..=20).map(|n| i32::from(nat.out(INNER, &format!("44.1.1.{n}:1000")))).collect();
            given.windows(2).filter(|w| w[1] == w[0] + 1).count()
        };
        assert_eq!((spread(Ports::Sequential), spread(Ports::Random)), (19, 0));
        let mut nat = Box::new(NatKind { ports: Ports::Preserved, ..NatKind::port_restricted() });
        assert_eq!(nat.out(INNER, R), 9993);
        assert_eq!(nat.out("192.168.1.11:9993", R), 9994, "taken");
    }

    #[test]
    fn a_mapping_ends_a_timeout_after_the_last_datagram_out_whatever_comes_in() {
        let mut nat = Box::new(NatKind { timeout_us: 1000, ..NatKind::full_cone() });
        let port = nat.out_at(0, INNER, R).unwrap();
        assert_eq!(nat.out_at(900, INNER, R), Some(port), "and begins anew");
        assert!(nat.0.inbound(1899, at(R), port).is_some());
        assert!(nat.0.inbound(1900, at(R), port).is_none());
        assert_ne!(nat.out_at(1900, INNER, R), Some(port));
        assert_eq!(nat.0.mappings(), 1);
    }

    #[test]
    fn a_remote_that_is_not_sent_to_any_more_is_locked_out_while_the_mapping_lives() {
        let mut nat = Box::new(NatKind { timeout_us: 1000, ..NatKind::port_restricted() });
        let port = nat.out_at(0, INNER, R).unwrap();
        nat.out_at(900, INNER, R_OTHER_HOST);
        assert!(nat.0.inbound(1500, at(R_OTHER_HOST), port).is_some());
        assert!(nat.0.inbound(1500, at(R), port).is_none());
        assert_eq!(nat.0.drops().filtered, 1);
    }

    #[test]
    fn inner_hosts_reach_each_other_by_the_external_address_only_through_a_hairpin() {
        let other = "192.168.1.11:9993";
        let mut nat = Box::new(NatKind { hairpin: true, ..NatKind::full_cone() });
        let port = nat.out(INNER, R);
        let (from, to) = nat.0.hairpin(0, at(other), port, &mut nat.1).unwrap();
        assert_eq!((from.ip(), to), (nat.0.external(), at(INNER)));
        let mut nat = Box::new(NatKind::full_cone());
        let port = nat.out(INNER, R);
        assert!(nat.0.hairpin(0, at(other), port, &mut nat.1).is_none());
        assert_eq!(nat.0.drops().hairpin, 1);
    }

    #[test]
    fn a_hairpin_filters_like_the_way_from_outside() {
        let other = "192.168.1.11:9993";
        let mut nat = Box::new(NatKind { hairpin: true, ..NatKind::port_restricted() });
        let (port, port_other) = (nat.out(INNER, R), nat.out(other, R));
        assert!(nat.0.hairpin(0, at(other), port, &mut nat.1).is_none());
        assert!(nat.0.hairpin(0, at(INNER), port_other, &mut nat.1).is_some(), "the other one has knocked");
    }

    #[test]
    fn a_full_table_turns_new_flows_away_and_keeps_old_ones() {
        let mut nat = Box::new(NatKind { mappings_max: 3, ..NatKind::symmetric(Ports::Random) });
        let first = nat.out(INNER, "44.1.1.1:1");
        let given = (1..=10).filter(|n| nat.out_at(0, INNER, &format!("44.1.1.1:{n}")).is_some()).count();
        assert_eq!((given, nat.0.mappings(), nat.0.drops().full), (3, 3, 7));
        assert_eq!(nat.out(INNER, "44.1.1.1:1"), first);
        let mut cone = Box::new(NatKind::full_cone());
        let given = (1..=3000).filter(|n| cone.out_at(0, INNER, &format!("44.1.1.1:{n}")).is_some()).count();
        assert_eq!((given, cone.0.drops().full), (REMOTES_MAX, 3000 - REMOTES_MAX as u64));
    }

    #[test]
    fn a_router_that_answers_the_unsolicited_gives_that_flow_another_port_and_one_that_drops_it_does_not() {
        for (unsolicited, same) in [(Unsolicited::Dropped, true), (Unsolicited::Answered, false)] {
            let mut nat = Box::new(NatKind { unsolicited, ..NatKind::port_restricted() });
            let port = nat.out(INNER, R);
            assert!(!nat.lets_in(R_OTHER_HOST, port));
            assert_eq!(nat.out(INNER, R_OTHER_HOST) == port, same);
            assert_eq!(nat.lets_in(R_OTHER_HOST, port), same);
            assert_eq!(nat.out(INNER, R), port, "other flows are as before");
            assert_eq!(nat.out(INNER, R_OTHER_PORT) == port, same, "later ones are not");
        }
    }

    #[test]
    fn flows_that_an_answering_router_remembers_are_bounded() {
        let mut nat = Box::new(NatKind { unsolicited: Unsolicited::Answered, ..NatKind::port_restricted() });
        for port in 1..=2000 {
            nat.0.inbound(0, at(R), port);
        }
        assert_eq!((nat.0.own.len(), nat.0.drops().own_flows), (OWN_FLOWS_MAX, 2000 - OWN_FLOWS_MAX as u64));
    }

    #[test]
    fn a_restarted_router_knows_nobody() {
        let mut nat = Box::new(NatKind::full_cone());
        let port = nat.out(INNER, R);
        nat.0.forget(&mut nat.1);
        assert!(!nat.lets_in(R, port));
        assert_ne!(nat.out(INNER, R), port);
    }
}
