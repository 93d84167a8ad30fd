//! Homes behind routers that translate addresses: the kernel's own NAT, told by nftables to behave as each kind of router
//! does, around an internet of namespaces. Knows nothing of ZeroTier; [`observe`] says how a router really behaves.

use std::cell::Cell;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::netns::{self, Namespace};
use crate::{Error, IoContext, Result};

/// Interface of every host and router towards the internet.
pub const WAN: &str = "wan0";
/// Ports that a router gives out one after the other, again from the first after the last.
const SEQUENCE: std::ops::Range<u16> = 30_000..34_000;
/// How long what is on its way inside one machine may take.
const PATIENCE: Duration = Duration::from_millis(200);

/// What stands between a host and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nothing.
    Public,
    /// One port for all remotes, open to everybody.
    FullCone,
    /// One port for all remotes, open to hosts that were sent to.
    AddressRestricted,
    /// One port for all remotes, open to endpoints that were sent to.
    PortRestricted,
    /// The same without a filter towards the internet: the router takes what nobody waits for as its own and refuses it.
    Answering,
    /// A port for each remote, one after the other, open to that remote.
    SymmetricInSequence,
    /// A port for each remote, any, open to that remote.
    SymmetricAtRandom,
}

/// On what a mapping, or the right to come in, depends. // RFC 4787, sections 4.1 and 5
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// Not on the remote.
    EndpointIndependent,
    /// On the remote's address.
    AddressDependent,
    /// On the remote's address and port.
    AddressAndPortDependent,
}

/// How a router behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Which remotes see the same external endpoint.
    pub mapping: Dependence,
    /// Who may send to it.
    pub filtering: Dependence,
    /// What is filtered is refused with an ICMP error.
    pub answers: bool,
    /// The external port follows the last one given out.
    pub in_sequence: bool,
}

impl Kind {
    /// All, the most open one first.
    pub const ALL: [Kind; 7] = [
        Kind::Public,
        Kind::FullCone,
        Kind::AddressRestricted,
        Kind::PortRestricted,
        Kind::Answering,
        Kind::SymmetricInSequence,
        Kind::SymmetricAtRandom,
    ];

    /// As people say it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Public => "public",
            Kind::FullCone => "full cone",
            Kind::AddressRestricted => "address-restricted",
            Kind::PortRestricted => "port-restricted",
            Kind::Answering => "answering",
            Kind::SymmetricInSequence => "symmetric, in sequence",
            Kind::SymmetricAtRandom => "symmetric, at random",
        }
    }

    /// Every remote sees another port.
    pub fn symmetric(self) -> bool {
        matches!(self, Kind::SymmetricInSequence | Kind::SymmetricAtRandom)
    }

    /// How it must behave.
    pub fn behaviour(self) -> Behaviour {
        use Dependence::*;
        let (mapping, filtering) = match self {
            Kind::Public | Kind::FullCone => (EndpointIndependent, EndpointIndependent),
            Kind::AddressRestricted => (EndpointIndependent, AddressDependent),
            Kind::PortRestricted | Kind::Answering => (EndpointIndependent, AddressAndPortDependent),
            Kind::SymmetricInSequence | Kind::SymmetricAtRandom => (AddressAndPortDependent, AddressAndPortDependent),
        };
        let (answers, in_sequence) = (self == Kind::Answering, self == Kind::SymmetricInSequence);
        Behaviour { mapping, filtering, answers, in_sequence }
    }

    /// The router's rules. Ports are preserved but by the symmetric kinds. What comes from outside and is not let in ends
    /// before the kernel remembers the flow, or else nobody inside could have that port towards that remote later.
    fn rules(self, external: Ipv4Addr, inner: Ipv4Addr) -> String {
        let (noted, let_in) = match self {
            Kind::FullCone => ("add @open { udp sport }", format!("udp dport @open dnat to {inner}")),
            Kind::AddressRestricted => {
                ("update @sent { ip daddr . udp sport }", format!("ip saddr . udp dport @sent dnat to {inner}"))
            }
            _ => ("", String::new()),
        };
        let ports = match self {
            Kind::SymmetricInSequence => {
                // A map, because the bare number would be taken for a port with its bytes exchanged.
                let ports: Vec<String> = SEQUENCE.enumerate().map(|(i, port)| format!("{i} : {port}")).collect();
                format!(" : numgen inc mod {} map {{ {} }}", ports.len(), ports.join(", "))
            }
            Kind::SymmetricAtRandom => " fully-random".to_owned(),
            _ => String::new(),
        };
        let (noted, let_in) = (in_front("oifname", noted), in_front("iifname", &let_in));
        let refuse = if self == Kind::Answering { "" } else { "ct state new meta l4proto udp drop" };
        format!(
            r#"table ip translate {{
    set open {{ type inet_service; flags dynamic, timeout; timeout 60s; }}
    set sent {{ type ipv4_addr . inet_service; flags dynamic, timeout; timeout 30s; }}
    chain noted {{
        type filter hook postrouting priority srcnat - 1;
        {noted}
    }}
    chain outward {{
        type nat hook postrouting priority srcnat;
        oifname "{WAN}" meta l4proto udp snat to {external}{ports}
    }}
    chain inward {{
        type nat hook prerouting priority dstnat;
        {let_in}
    }}
    chain through {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct status dnat accept
        iifname != "{WAN}" accept
    }}
    chain own {{
        type filter hook input priority filter;
        {refuse}
    }}
}}
"#
        )
    }
}

fn in_front(side: &str, rule: &str) -> String {
    if rule.is_empty() { String::new() } else { format!(r#"{side} "{WAN}" meta l4proto udp {rule}"#) }
}

/// Says plainly what is missing when routers cannot be made here.
pub fn check() -> Result<()> {
    netns::check_privilege()?;
    match Command::new("nft").arg("-v").stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Error::Unusable("this needs the command `nft`: install nftables".into())),
    }
}

/// A network of namespaces that everybody is one router away from. Private addresses lead nowhere in it.
#[derive(Debug)]
pub struct Internet {
    router: Namespace,
    tag: String,
    links: Cell<u32>,
}

impl Internet {
    /// An empty one; `tag` tells its namespaces from those of another.
    pub fn new(tag: &str) -> Result<Internet> {
        check()?;
        let router = Namespace::new(&format!("{tag}net"))?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        router.ip(&["route", "add", "blackhole", "default"])?;
        Ok(Internet { router, tag: tag.into(), links: Cell::new(0) })
    }

    /// A host with this address and nothing in between; the /24 is its own.
    pub fn host(&self, name: &str, address: Ipv4Addr) -> Result<Namespace> {
        let host = Namespace::new(&format!("{}{name}", self.tag))?;
        self.attach(&self.router, &host, address)?;
        Ok(host)
    }

    /// A host at home behind a router of this kind, which has this address and the /24 around it.
    pub fn home(&self, name: &str, address: Ipv4Addr, kind: Kind) -> Result<Home> {
        self.home_at(&self.router, name, address, kind)
    }

    /// Homes behind routers of these kinds, all behind one carrier's port-restricted router that does not turn datagrams
    /// around.
    pub fn behind_carrier(&self, name: &str, address: Ipv4Addr, kinds: &[Kind]) -> Result<(Namespace, Vec<Home>)> {
        let carrier = self.host(name, address)?;
        carrier.sysctl("net/ipv4/ip_forward", "1")?;
        load(&carrier, &Kind::PortRestricted.rules(address, address))?;
        let home = |(i, &kind): (usize, &Kind)| {
            self.home_at(&carrier, &format!("{name}{i}"), Ipv4Addr::new(100, 64, i as u8 + 1, 1), kind)
        };
        let homes = kinds.iter().enumerate().map(home).collect::<Result<_>>()?;
        Ok((carrier, homes))
    }

    fn home_at(&self, outside: &Namespace, name: &str, address: Ipv4Addr, kind: Kind) -> Result<Home> {
        if kind == Kind::Public {
            let host = Namespace::new(&format!("{}{name}", self.tag))?;
            self.attach(outside, &host, address)?;
            return Ok(Home { host, router: None, external: address, inner: address });
        }
        let router = Namespace::new(&format!("{}{name}r", self.tag))?;
        self.attach(outside, &router, address)?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        let host = Namespace::new(&format!("{}{name}", self.tag))?;
        let [_, _, net, _] = address.octets();
        let inner = Ipv4Addr::new(192, 168, net, 10);
        let lan = format!("192.168.{net}.1");
        netns::link((&router, "lan0", &format!("{lan}/24")), (&host, WAN, &format!("{inner}/24")))?;
        host.ip(&["route", "add", "default", "via", &lan])?;
        load(&router, &kind.rules(address, inner))?;
        Ok(Home { host, router: Some(router), external: address, inner })
    }

    fn attach(&self, outside: &Namespace, host: &Namespace, address: Ipv4Addr) -> Result<()> {
        let [a, b, c, _] = address.octets();
        let gateway = Ipv4Addr::new(a, b, c, 254).to_string();
        let number = self.links.replace(self.links.get() + 1);
        let port = format!("to{number}");
        netns::link((outside, &port, &format!("{gateway}/24")), (host, WAN, &format!("{address}/24")))?;
        host.ip(&["route", "add", "default", "via", &gateway])
    }

    /// From now on nothing reaches `address`, or everything does again.
    pub fn cut(&self, address: Ipv4Addr, yes: bool) -> Result<()> {
        let verb = if yes { "add" } else { "del" };
        self.router.ip(&["route", verb, "blackhole", &format!("{address}/32")])
    }
}

/// A host and the router before it, if any.
#[derive(Debug)]
pub struct Home {
    /// Where programs run.
    pub host: Namespace,
    /// What translates.
    pub router: Option<Namespace>,
    /// Address that others see.
    pub external: Ipv4Addr,
    /// Address of the host.
    pub inner: Ipv4Addr,
}

fn load(router: &Namespace, rules: &str) -> Result<()> {
    let command = || format!("nft -f - in {}:\n{rules}", router.name());
    let mut child = Command::new("ip")
        .args(["netns", "exec", router.name(), "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(command())?;
    if let Some(mut to) = child.stdin.take() {
        let _ = to.write_all(rules.as_bytes()); // one that ended already says why
    }
    let out = child.wait_with_output().doing(command())?;
    if out.status.success() {
        return Ok(());
    }
    Err(Error::Command { command: command(), reason: String::from_utf8_lossy(&out.stderr).trim().to_owned() })
}

/// How the router of `home` behaves, seen with plain sockets from two hosts outside.
pub fn observe(home: &Home, outside: [(&Namespace, Ipv4Addr); 2]) -> Result<Behaviour> {
    let [(first, first_at), (second, second_at)] = outside;
    let out = [socket(first, first_at, 7001)?, socket(first, first_at, 7002)?, socket(second, second_at, 7001)?];
    let remotes = [(first_at, 7001), (first_at, 7002), (second_at, 7001)].map(SocketAddr::from);

    // What do three remotes see of one inner endpoint?
    let inner = socket(&home.host, home.inner, 6001)?;
    let mut seen = [SocketAddr::from((home.inner, 0)); 3];
    for ((seen, out), remote) in seen.iter_mut().zip(&out).zip(remotes) {
        inner.send_to(b"mapping", remote).doing("send from inside")?;
        *seen = out.recv_from(&mut [0; 16]).doing("nothing came out of the router")?.1;
        if seen.ip() != home.external {
            return Err(Error::Unusable(format!("{seen} came out of the router of {}", home.external)));
        }
    }
    let mapping = dependence(seen[0] == seen[1], seen[0] == seen[2]);
    let in_sequence = seen[0].port() + 1 == seen[1].port() && seen[1].port() + 1 == seen[2].port();

    // Another endpoint sends to the first remote only: who else gets in?
    let inner = socket(&home.host, home.inner, 6002)?;
    inner.send_to(b"filtering", remotes[0]).doing("send from inside")?;
    let (_, external) = out[0].recv_from(&mut [0; 16]).doing("nothing came out of the router")?;
    let mut got_in = [false; 3];
    let mut answers = false;
    for ((out, remote), got_in) in out.iter().zip(remotes).zip(&mut got_in) {
        // An ICMP error is told to connected sockets only.
        out.connect(external).doing("connect")?;
        out.send(b"knock").doing("send from outside")?;
        *got_in = arrives_from(&inner, remote)?;
        answers |= out.recv(&mut [0; 16]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    }
    if !got_in[0] {
        return Err(Error::Unusable(format!("who was sent to cannot answer {external}")));
    }
    Ok(Behaviour { mapping, filtering: dependence(got_in[1], got_in[2]), answers, in_sequence })
}

fn dependence(same_for_another_port: bool, same_for_another_host: bool) -> Dependence {
    match (same_for_another_port, same_for_another_host) {
        (true, true) => Dependence::EndpointIndependent,
        (true, false) => Dependence::AddressDependent,
        (false, _) => Dependence::AddressAndPortDependent,
    }
}

fn socket(ns: &Namespace, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket =
        ns.inside(|| UdpSocket::bind((IpAddr::from(address), port)).doing(format!("bind {address}:{port}")))?;
    socket.set_read_timeout(Some(PATIENCE)).doing("set a timeout")?;
    Ok(socket)
}

fn arrives_from(inner: &UdpSocket, remote: SocketAddr) -> Result<bool> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match inner.recv_from(&mut [0; 16]) {
            Ok((_, from)) if from == remote => return Ok(true),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e).doing("receive inside"),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(44, 0, 1, 1), Ipv4Addr::new(44, 0, 2, 1)];

    #[test]
    fn every_kind_of_router_maps_filters_and_answers_as_its_name_says() {
        let internet = Internet::new("nk").unwrap();
        let outside = [internet.host("o1", OUTSIDE[0]).unwrap(), internet.host("o2", OUTSIDE[1]).unwrap()];
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            let home = internet.home("h", Ipv4Addr::new(44, 1, n as u8 + 1, 1), kind).unwrap();
            let seen = observe(&home, [(&outside[0], OUTSIDE[0]), (&outside[1], OUTSIDE[1])]).unwrap();
            assert_eq!(seen, kind.behaviour(), "{}", kind.name());
        }
    }

    #[test]
    fn two_homes_behind_one_carrier_come_out_of_one_address_and_are_not_turned_around() {
        let internet = Internet::new("nc").unwrap();
        let outside = internet.host("o", OUTSIDE[0]).unwrap();
        let external = Ipv4Addr::new(44, 7, 7, 1);
        let (_carrier, homes) =
            internet.behind_carrier("c", external, &[Kind::FullCone, Kind::PortRestricted]).unwrap();
        let witness = socket(&outside, OUTSIDE[0], 7001).unwrap();
        let remote = SocketAddr::from((OUTSIDE[0], 7001));
        let inner = [0, 1].map(|i| socket(&homes[i].host, homes[i].inner, 6001).unwrap());
        let seen = inner.each_ref().map(|inner| {
            inner.send_to(b"hello", remote).unwrap();
            witness.recv_from(&mut [0; 16]).unwrap().1
        });
        assert!(seen.iter().all(|at| at.ip() == external) && seen[0] != seen[1], "{seen:?}");
        inner[1].send_to(b"turn around", seen[0]).unwrap();
        assert!(inner[0].recv_from(&mut [0; 16]).is_err());
        witness.send_to(b"answer", seen[0]).unwrap();
        assert_eq!(inner[0].recv_from(&mut [0; 16]).unwrap().1, remote);
    }

    #[test]
    fn a_packet_that_dies_after_two_routers_gets_out_of_its_own_router_and_into_no_other() {
        let internet = Internet::new("nt").unwrap();
        let [a, b] =
            [1, 2].map(|n| internet.home(&format!("h{n}"), Ipv4Addr::new(44, 1, n, 1), Kind::PortRestricted).unwrap());
        let [from, to] = [&a, &b].map(|home| socket(&home.host, home.inner, 6001).unwrap());
        let knock = |ttl: u32| {
            from.set_ttl(ttl).unwrap();
            from.send_to(b"knock", (b.external, 6001)).unwrap();
        };
        knock(2);
        to.send_to(b"hello", (a.external, 6001)).unwrap();
        assert!(arrives_from(&from, (b.external, 6001).into()).unwrap(), "our own router is open");
        assert!(to.recv_from(&mut [0; 16]).is_err(), "theirs saw nothing");
        knock(64);
        assert!(arrives_from(&to, (a.external, 6001).into()).unwrap());
    }
}
