//! The links of this gateway and the UDP sockets on them: one for each shard on the primary port, as many on the secondary
//! and the tertiary one, and for each shard but the first a lane, a socket with a port of its own. Which addresses and
//! ports those are is said by the rooms below; what is sent over them is not known here.

mod filter;
mod ports;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::socket::{getsockopt, sockopt};
use node::{LocalSocketId, Port};
use tracing::{debug, warn};

use crate::backoff::Backoff;

pub use filter::{Filter, NEVER_BOUND, Wanted};
pub use ports::{Ports, choose_port, draw_port, udp_port_is_free};

/// Link addresses bound at a time; the rest is left out and reported. // spec: paths, "Binder"
pub const MAX_LINKS: usize = 256;
const _: () = assert!(
    MAX_LINKS + MAX_LANED_LINKS + 2 * MAX_PORTED_LINKS + node::limits::SPREAD_ADOPTED_MAX <= uring::SOCKETS_MAX,
    "each socket needs a place in a ring"
);
/// Links that have a secondary and a tertiary port; further ones have the primary port alone.
pub const MAX_PORTED_LINKS: usize = 32;
/// Links that have lanes beside their common port; further ones have none.
pub const MAX_LANED_LINKS: usize = 16;
/// Ports tried for a lane before there is none.
const LANE_PORT_TRIES: usize = 16;
/// A link address with its sockets open elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Names the sockets; never used again after the link is gone.
    pub id: LocalSocketId,
    /// Address and port.
    pub local: SocketAddr,
    /// The interface.
    pub name: String,
    /// Its secondary and tertiary sockets.
    pub further: Vec<Further>,
    /// Its lanes.
    pub lanes: Vec<Lane>,
    /// Its sockets are bound to the interface.
    bind_device: bool,
}

/// The sockets of a link on a port beside the primary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Further {
    /// Names the sockets.
    pub id: LocalSocketId,
    /// Which port.
    pub port: Port,
    /// Its number.
    pub number: u16,
}

/// The sockets of a new link, to be handed out.
#[derive(Debug)]
pub struct Sockets {
    /// One for each shard on the primary port.
    pub primary: Vec<UdpSocket>,
    /// As many for each of [`Link::further`].
    pub further: Vec<Vec<UdpSocket>>,
    /// One for each of [`Link::lanes`].
    pub lanes: Vec<UdpSocket>,
}

/// A socket of one shard with a port of its own, beside the link's common one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Names the socket.
    pub id: LocalSocketId,
    /// The number of its shard.
    pub shard: u16,
    /// Its port: `shard` more than the link's, or further by multiples of the number of shards, so that a receiver that
    /// spreads by port spreads lanes evenly.
    pub port: u16,
}

impl Link {
    /// How to open one more socket beside its own.
    pub fn options_beside(&self) -> uring::udp::Options {
        let mut options = uring::udp::Options::new(SocketAddr::new(self.local.ip(), 0));
        options.device = Some(self.name.clone()).filter(|_| self.bind_device);
        options
    }

    /// How its address was wanted.
    fn wanted(&self) -> Wanted {
        Wanted { ip: self.local.ip(), link: self.name.clone(), bind_device: self.bind_device }
    }

    /// Everything it is bound to but for lanes: the socket's name and its address.
    pub fn endpoints(&self) -> impl Iterator<Item = (LocalSocketId, SocketAddr)> + '_ {
        let further = self.further.iter().map(|f| (f.id, SocketAddr::new(self.local.ip(), f.number)));
        [(self.id, self.local)].into_iter().chain(further)
    }

    /// The names of all its sockets, the first one last.
    pub fn sockets(&self) -> impl Iterator<Item = LocalSocketId> + '_ {
        let lanes = self.lanes.iter().map(|lane| lane.id);
        lanes.chain(self.further.iter().map(|f| f.id)).chain([self.id])
    }

    /// Bytes of UDP payload that reach `remote` in one IPv4 packet, as far as this kernel knows.
    pub fn payload_towards(&self, remote: SocketAddr) -> Option<usize> {
        const HEADERS: usize = 20 + 8;
        if !remote.is_ipv4() {
            return None;
        }
        let mut options = uring::udp::Options::new(SocketAddr::new(self.local.ip(), 0));
        options.device = Some(self.name.clone()).filter(|_| self.bind_device);
        let socket = uring::udp::bind(&options).ok()?;
        socket.connect(remote).ok()?;
        let mtu = getsockopt(&socket, sockopt::IpMtu).ok()?;
        usize::try_from(mtu).ok()?.checked_sub(HEADERS)
    }
}

/// What a scan changed.
#[derive(Debug)]
pub enum LinkChange {
    /// New sockets.
    Opened(Link, Sockets),
    /// A port of an open link that could not be bound before.
    Added(Link, Further, Vec<UdpSocket>),
    /// The address is gone, or is on another interface now.
    Closed(Link),
    /// So many addresses now have no place among the [`MAX_LINKS`]; said when it becomes more.
    LeftOut(u64),
    /// Cannot be bound now; tried again later.
    Failed(Wanted, io::Error),
}

/// A link whose secondary port was drawn anew.
#[derive(Debug)]
pub struct Redrawn {
    /// Of this link.
    pub link: Link,
    /// This socket is to be closed.
    pub old: Option<LocalSocketId>,
    /// These are new.
    pub new: Option<(Further, Vec<UdpSocket>)>,
}

/// All links of this gateway.
#[derive(Debug)]
pub struct Links {
    ports: Ports,
    shards: usize,
    with_lanes: bool,
    last_id: u64,
    open: BTreeMap<IpAddr, Link>,
    failing: BTreeMap<IpAddr, Backoff>,
    /// Links without a port that they should have.
    lacking: BTreeMap<IpAddr, Backoff>,
    left_out: u64,
}

impl Links {
    /// No link yet.
    pub fn new(ports: Ports, shards: usize, with_lanes: bool) -> Links {
        let (open, failing, lacking) = Default::default();
        Links { ports, shards, with_lanes, last_id: 0, open, failing, lacking, left_out: 0 }
    }

    /// The links that are open.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.open.values()
    }

    /// Wanted addresses that have no place now.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The ports in force.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The link of a socket, be it a lane.
    pub fn get(&self, id: LocalSocketId) -> Option<&Link> {
        self.open.values().find(|l| l.sockets().any(|socket| socket == id))
    }

    /// Opens what is wanted and not open, closes what is open and not wanted. Addresses that failed lately are left
    /// until their pause is over.
    pub fn reconcile(&mut self, now_ms: u64, wanted: &[Wanted]) -> Vec<LinkChange> {
        let mut changes = Vec::new();
        let (wanted, rest) = wanted.split_at(wanted.len().min(MAX_LINKS));
        let left_out = rest.len() as u64;
        if left_out > std::mem::replace(&mut self.left_out, left_out) {
            changes.push(LinkChange::LeftOut(left_out));
        }
        let keep = |l: &Link| wanted.iter().any(|w| w.ip == l.local.ip() && w.link == l.name);
        let gone: Vec<IpAddr> = self.open.values().filter(|l| !keep(l)).map(|l| l.local.ip()).collect();
        changes.extend(gone.iter().filter_map(|ip| self.open.remove(ip)).map(LinkChange::Closed));
        self.failing.retain(|ip, _| wanted.iter().any(|w| w.ip == *ip));
        for w in wanted {
            let waits = self.failing.get(&w.ip).is_some_and(|b| !b.is_over(now_ms));
            if self.open.contains_key(&w.ip) || waits {
                continue;
            }
            match self.bind(w, self.ports.primary) {
                Ok(primary) => {
                    self.failing.remove(&w.ip);
                    let id = self.next_id();
                    let local = SocketAddr::new(w.ip, self.ports.primary);
                    let (beside, further_sockets) = self.bind_further(now_ms, w).into_iter().unzip();
                    let (lanes, lane_sockets) = self.bind_lanes(w).into_iter().unzip();
                    let name = w.link.clone();
                    let link = Link { id, local, name, further: beside, lanes, bind_device: w.bind_device };
                    self.open.insert(w.ip, link.clone());
                    let sockets = Sockets { primary, further: further_sockets, lanes: lane_sockets };
                    changes.push(LinkChange::Opened(link, sockets));
                }
                Err(e) => {
                    self.failing.entry(w.ip).or_default().failed(now_ms);
                    changes.push(LinkChange::Failed(w.clone(), e));
                }
            }
        }
        self.lacking.retain(|ip, _| self.open.contains_key(ip));
        let due: Vec<IpAddr> = self.lacking.iter().filter(|(_, b)| b.is_over(now_ms)).map(|(ip, _)| *ip).collect();
        for ip in due {
            self.add_lacking(now_ms, ip, &mut changes);
        }
        changes
    }

    /// Tries again what could not be bound when the link was opened.
    fn add_lacking(&mut self, now_ms: u64, ip: IpAddr, changes: &mut Vec<LinkChange>) {
        let Some(link) = self.open.get(&ip) else { return };
        let wanted = link.wanted();
        let missing: Vec<(Port, u16)> =
            self.further_ports().filter(|(port, _)| link.further.iter().all(|f| f.port != *port)).collect();
        let before = missing.len();
        let added: Vec<_> =
            missing.into_iter().filter_map(|(port, number)| self.bind_one_further(&wanted, port, number)).collect();
        if added.len() == before {
            self.lacking.remove(&ip);
        } else if let Some(backoff) = self.lacking.get_mut(&ip) {
            backoff.failed(now_ms);
        }
        for (further, sockets) in added {
            let Some(link) = self.open.get_mut(&ip) else { return };
            link.further.push(further);
            changes.push(LinkChange::Added(link.clone(), further, sockets));
        }
    }

    /// Reports that a link's sockets failed: it is closed, and opened again after a pause if its address is still there.
    pub fn broken(&mut self, now_ms: u64, id: LocalSocketId) -> Option<Link> {
        let ip = self.get(id)?.local.ip();
        self.failing.entry(ip).or_default().failed(now_ms);
        self.open.remove(&ip)
    }

    /// When an address that failed is to be tried again.
    pub fn next_retry_ms(&self) -> Option<u64> {
        let closed = self.failing.iter().filter(|(ip, _)| !self.open.contains_key(ip));
        let lacking = self.lacking.iter().filter(|(ip, _)| self.open.contains_key(ip));
        closed.chain(lacking).map(|(_, b)| b.until_ms()).min()
    }

    /// A name for one more socket.
    pub fn next_id(&mut self) -> LocalSocketId {
        self.last_id += 1;
        LocalSocketId(self.last_id)
    }

    /// One socket for each shard on a port. Datagrams are spread over them by their places in the group, so that it must
    /// be a new one: an address whose last sockets a ring still holds is in use.
    fn bind(&self, w: &Wanted, port: u16) -> io::Result<Vec<UdpSocket>> {
        let mut options = w.options(port);
        if self.shards > 1 {
            drop(uring::udp::bind(&options)?);
        }
        options.reuse_port = true;
        let sockets = (0..self.shards).map(|_| uring::udp::bind(&options)).collect::<io::Result<Vec<UdpSocket>>>()?;
        if let [first, _, ..] = sockets.as_slice()
            && let Err(error) = uring::steer::sockets(first, sockets.len())
        {
            warn!("datagrams are spread by the kernel's hash, so that lanes may share a packet thread: {error}");
        }
        Ok(sockets)
    }

    /// The ports beside the primary one.
    fn further_ports(&self) -> impl Iterator<Item = (Port, u16)> + use<> {
        let ports = [(Port::Secondary, self.ports.secondary), (Port::Tertiary, self.ports.tertiary)];
        ports.into_iter().filter_map(|(port, number)| Some((port, number?)))
    }

    /// The secondary and the tertiary port, as far as they are free: what the ring still holds of a link that was here a
    /// moment ago is tried again.
    fn bind_further(&mut self, now_ms: u64, w: &Wanted) -> Vec<(Further, Vec<UdpSocket>)> {
        // One that lacks all of its ports now has their places all the same.
        let has_places = |l: &&Link| !l.further.is_empty() || self.lacking.contains_key(&l.local.ip());
        if self.open.values().filter(has_places).count() >= MAX_PORTED_LINKS {
            return Vec::new();
        }
        let wanted: Vec<(Port, u16)> = self.further_ports().collect();
        let bound: Vec<_> =
            wanted.iter().filter_map(|&(port, number)| self.bind_one_further(w, port, number)).collect();
        if bound.len() < wanted.len() {
            self.lacking.entry(w.ip).or_default().failed(now_ms);
        }
        bound
    }

    fn bind_one_further(&mut self, w: &Wanted, port: Port, number: u16) -> Option<(Further, Vec<UdpSocket>)> {
        match self.bind(w, number) {
            Ok(sockets) => Some((Further { id: self.next_id(), port, number }, sockets)),
            Err(error) => {
                debug!(link = w.link, address = %w.ip, number, "no {port:?} port: {error}; tried again later");
                None
            }
        }
    }

    /// Closes the secondary port everywhere and opens another one: a NAT may hold a grudge against the old one. Where it
    /// is not free it is tried again later.
    // spec: paths, "Sockets and ports"
    pub fn redraw_secondary(&mut self, now_ms: u64, number: u16) -> Vec<Redrawn> {
        self.ports.secondary = Some(number);
        let with_further = self.open.values().filter(|l| !l.further.is_empty());
        let ported: Vec<IpAddr> = with_further.map(|l| l.local.ip()).collect();
        let mut redrawn = Vec::with_capacity(ported.len());
        for ip in ported {
            let Some(wanted) = self.open.get(&ip).map(Link::wanted) else { continue };
            let new = self.bind_one_further(&wanted, Port::Secondary, number);
            if new.is_none() {
                self.lacking.entry(ip).or_default().failed(now_ms);
            }
            let Some(link) = self.open.get_mut(&ip) else { continue };
            let old = link.further.extract_if(.., |f| f.port == Port::Secondary).next().map(|f| f.id);
            link.further.extend(new.as_ref().map(|(further, _)| *further));
            redrawn.push(Redrawn { link: link.clone(), old, new });
        }
        redrawn
    }

    /// Lanes for all shards but the first, as far as ports are free.
    fn bind_lanes(&mut self, w: &Wanted) -> Vec<(Lane, UdpSocket)> {
        let laned = self.open.values().filter(|l| !l.lanes.is_empty()).count();
        if !self.with_lanes || laned >= MAX_LANED_LINKS {
            return Vec::new();
        }
        let lane = |shard: usize| {
            let ports = (usize::from(self.ports.primary) + shard..).step_by(self.shards).take(LANE_PORT_TRIES);
            let further = [self.ports.secondary, self.ports.tertiary];
            let mut free =
                ports.map_while(|port| u16::try_from(port).ok()).filter(|port| !further.contains(&Some(*port)));
            let (port, socket) = free.find_map(|port| Some((port, uring::udp::bind(&w.options(port)).ok()?)))?;
            Some((shard as u16, port, socket))
        };
        let lanes: Vec<_> = (1..self.shards).filter_map(lane).collect();
        lanes.into_iter().map(|(shard, port, socket)| (Lane { id: self.next_id(), shard, port }, socket)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(s: &str) -> IpAddr {
        s.parse().expect("ip")
    }

    /// No port but this one.
    fn only(primary: u16) -> Ports {
        Ports { primary, secondary: None, tertiary: None }
    }

    #[test]
    fn a_link_has_sockets_on_three_ports_and_another_secondary_one_when_it_is_drawn_anew() {
        let draw = || draw_port().expect("a free port");
        let ports = Ports { secondary: Some(draw()), tertiary: Some(draw()), ..only(choose_port(0).expect("free")) };
        let mut links = Links::new(ports, 2, true);
        let wanted = [Wanted { ip: ip("127.0.0.1"), link: "lo".into(), bind_device: false }];
        let opened = links.reconcile(0, &wanted);
        let [LinkChange::Opened(link, sockets)] = opened.as_slice() else { panic!("{opened:?}") };
        assert_eq!(sockets.further.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2], "one for each shard");
        let numbers: Vec<u16> = link.endpoints().map(|(_, at)| at.port()).collect();
        assert_eq!(numbers, [Some(ports.primary), ports.secondary, ports.tertiary].map(Option::unwrap_or_default));
        assert!(link.sockets().all(|id| links.get(id) == Some(link)));
        let (old, number) = (link.further[0].id, draw());
        let redrawn = links.redraw_secondary(0, number);
        let [Redrawn { link, old: closed, new: Some((new, _)) }] = redrawn.as_slice() else { panic!("{redrawn:?}") };
        assert_eq!((*closed, new.number, links.ports().secondary), (Some(old), number, Some(number)));
        assert!(new.id != old && links.get(old).is_none() && link.further.contains(new));
    }

    #[test]
    fn no_more_links_have_further_ports_than_there_are_places_for_however_late_those_are_free() {
        let ports = Ports { secondary: draw_port(), ..only(choose_port(0).expect("a free port")) };
        let taken = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ports.secondary.expect("a free port"))).expect("bind");
        let wanted: Vec<Wanted> = (1..=MAX_PORTED_LINKS as u8 + 2)
            .map(|n| Wanted { ip: Ipv4Addr::new(127, 0, 7, n).into(), link: "lo".into(), bind_device: false })
            .collect();
        let mut links = Links::new(ports, 1, true);
        links.reconcile(0, &wanted);
        assert!(links.iter().count() == wanted.len() && links.iter().all(|l| l.further.is_empty()));
        drop(taken);
        links.reconcile(links.next_retry_ms().expect("a retry is due"), &wanted);
        assert_eq!(links.iter().filter(|l| !l.further.is_empty()).count(), MAX_PORTED_LINKS);
    }

    #[test]
    fn a_secondary_port_that_cannot_be_drawn_anew_is_opened_later() {
        let ports = Ports { secondary: draw_port(), ..only(choose_port(0).expect("a free port")) };
        let wanted = [Wanted { ip: ip("127.0.0.1"), link: "lo".into(), bind_device: false }];
        let mut links = Links::new(ports, 1, true);
        links.reconcile(0, &wanted);
        let taken = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let number = taken.local_addr().expect("address").port();
        let redrawn = links.redraw_secondary(0, number);
        assert!(matches!(redrawn.as_slice(), [Redrawn { old: Some(_), new: None, .. }]), "{redrawn:?}");
        drop(taken);
        let added = links.reconcile(links.next_retry_ms().expect("a retry is due"), &wanted);
        assert!(matches!(added.as_slice(), [LinkChange::Added(_, f, _)] if f.number == number), "{added:?}");
    }

    #[test]
    fn lanes_leave_the_further_ports_free() {
        let primary = choose_port(0).expect("a free port");
        let ports = Ports { secondary: Some(primary + 1), tertiary: Some(primary + 3), primary };
        let wanted = Wanted { ip: ip("127.0.0.1"), link: "lo".into(), bind_device: false };
        let lanes = Links::new(ports, 2, true).bind_lanes(&wanted);
        assert!(lanes[0].0.port >= primary + 5, "{lanes:?}");
    }

    #[test]
    fn a_link_that_vanishes_is_closed_and_one_that_returns_gets_a_new_name() {
        let port = choose_port(0).expect("a free port");
        let mut links = Links::new(only(port), 2, true);
        let wanted = [Wanted { ip: ip("127.0.0.1"), link: "lo".into(), bind_device: false }];
        let opened = links.reconcile(0, &wanted);
        let [LinkChange::Opened(first, sockets)] = opened.as_slice() else { panic!("{opened:?}") };
        assert_eq!((sockets.primary.len(), first.local.port()), (2, port));
        let [lane] = first.lanes.as_slice() else { panic!("{first:?}") };
        assert_eq!((lane.shard, lane.port % 2), (1, (port + 1) % 2));
        assert_eq!(sockets.lanes[0].local_addr().expect("address").port(), lane.port);
        assert_eq!(links.get(lane.id), Some(first));
        assert!(links.reconcile(1, &wanted).is_empty(), "nothing changed");
        assert!(matches!(links.reconcile(2, &[]).as_slice(), [LinkChange::Closed(l)] if l.id == first.id));
        drop(opened);
        let again = links.reconcile(3, &wanted);
        assert!(matches!(again.as_slice(), [LinkChange::Opened(l, _)] if l.id > LocalSocketId(1)));
    }

    #[test]
    fn without_leave_or_with_one_shard_there_are_no_lanes_and_a_group_is_not_joined() {
        let wanted = [Wanted { ip: ip("127.0.0.1"), link: "lo".into(), bind_device: false }];
        for (shards, with_lanes) in [(1, true), (2, false)] {
            let mut links = Links::new(only(choose_port(0).expect("a free port")), shards, with_lanes);
            let opened = links.reconcile(0, &wanted);
            assert!(
                matches!(opened.as_slice(), [LinkChange::Opened(l, s)] if l.lanes.is_empty() && s.lanes.is_empty())
            );
            if shards > 1 {
                links.broken(1, LocalSocketId(1));
                let retry = links.next_retry_ms().expect("a retry is due");
                assert!(matches!(links.reconcile(retry, &wanted).as_slice(), [LinkChange::Failed(..)]), "still held");
            }
        }
    }

    #[test]
    fn an_address_that_cannot_be_bound_is_reported_and_tried_again_later() {
        let mut links = Links::new(only(choose_port(0).expect("a free port")), 1, true);
        let wanted = [Wanted { ip: ip("192.0.2.77"), link: "eth0".into(), bind_device: false }];
        assert!(matches!(links.reconcile(1000, &wanted).as_slice(), [LinkChange::Failed(..)]));
        assert!(links.reconcile(1001, &wanted).is_empty(), "not at once");
        let retry = links.next_retry_ms().expect("a retry is due");
        assert!(matches!(links.reconcile(retry, &wanted).as_slice(), [LinkChange::Failed(..)]));
        assert!(links.next_retry_ms().expect("later") - retry > retry - 1000, "pauses grow");
    }

    #[test]
    fn addresses_beyond_the_bound_are_left_out_reported_once_and_counted() {
        let filter =
            Filter { bind: (0..=MAX_LINKS as u32).map(|n| Ipv4Addr::from(n).into()).collect(), ..Filter::default() };
        let wanted = filter.wanted(&[], &[], &BTreeSet::new());
        let mut links = Links::new(only(0), 0, true);
        let said = |changes: Vec<LinkChange>| changes.iter().filter(|c| matches!(c, LinkChange::LeftOut(1))).count();
        assert_eq!((said(links.reconcile(0, &wanted)), links.left_out()), (1, 1));
        assert_eq!((said(links.reconcile(1, &wanted)), links.left_out()), (0, 1), "once");
        assert_eq!(links.iter().count(), MAX_LINKS);
        links.reconcile(2, &wanted[1..]);
        assert_eq!(links.left_out(), 0);
    }
}
