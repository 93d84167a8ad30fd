//! Asks the router of each link to let others reach our tertiary port: PCP, else NAT-PMP, else UPnP-IGD, through crates
//! that speak them. One task for each link, which renews, tries again after a pause, and deletes what it got when it is
//! told to stop. Knows no node: it says what is mapped, and the control thread decides what that means.
// spec: paths, "Port mapping", Gateway

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use node::LocalSocketId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info};
use wire::endpoint::{Scope, scope, to_text};

use crate::netlink::Netlink;

/// Links whose routers are asked; further ones are left out.
pub const MAX_MAPPED_LINKS: usize = 8;
/// Reports that wait for the control thread; a task waits for room.
pub const MAX_PENDING_REPORTS: usize = 16;
/// How long a mapping shall live unless it is renewed. What a crash leaves behind goes that soon. // spec: 600 s
const LIFETIME: Duration = Duration::from_secs(600);
/// The shortest time between two renewals, whatever lifetime a router grants.
const RENEWAL_MIN: Duration = Duration::from_secs(15);
/// Pauses between attempts that failed: they double.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long an attempt may take, whatever the router does.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);
/// How long the deletion of a mapping may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);
/// Requests by PCP or NAT-PMP are repeated after 250, 500 and 1000 ms. // RFC 6886, 3.1
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };
/// How long a UPnP router may take to be found, asked alone and asked among all hosts of the link.
const SEARCH_LIMIT: Duration = Duration::from_secs(3);
const SSDP_PORT: u16 = 1900;
/// External ports tried with UPnP, from our own upwards. // spec: 60
const UPNP_PORT_TRIES: u16 = 16;

/// A socket that others shall reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Names it.
    pub socket: LocalSocketId,
    /// What it is bound to.
    pub local: SocketAddr,
    /// Its link.
    pub link: String,
}

impl Wanted {
    /// Its address is private IPv4, so that a router stands before it.
    fn is_behind_a_router(&self) -> bool {
        self.local.is_ipv4() && scope(self.local.ip()) == Scope::Private && self.local.port() != 0
    }
}

/// By which protocol a mapping was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// Universal Plug and Play, Internet Gateway Device.
    Upnp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Pcp => "PCP",
            Protocol::NatPmp => "NAT-PMP",
            Protocol::Upnp => "UPnP",
        })
    }
}

/// Where a socket can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The router's address and port.
    pub external: SocketAddr,
    /// How the router was asked.
    pub protocol: Protocol,
}

/// What became of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The socket.
    pub socket: LocalSocketId,
    /// Where it can be reached now, if it can.
    pub mapped: Option<Mapped>,
}

/// Why there is no mapping.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the link has no default route")]
    NoRouter,
    #[error("{0} is reached from another address of ours")]
    Elsewhere(Ipv4Addr),
    #[error("the router gives {0}, which is not on the internet")]
    NotGlobal(SocketAddr),
    #[error("{0} does not map ports: PCP: {1}; NAT-PMP: {2}; UPnP: {3}")]
    Refused(Ipv4Addr, String, String, String),
    #[error("the router takes too long")]
    TooSlow,
    #[error("{0}")]
    System(String),
}

/// The tasks that keep mappings. Lives on the control thread, in its local set.
pub struct Mapper {
    asker: Asker,
    tasks: BTreeMap<LocalSocketId, Task>,
    /// Told to stop, still deleting what they have.
    stopping: Vec<(SocketAddr, JoinHandle<()>)>,
}

struct Task {
    local: SocketAddr,
    stop: oneshot::Sender<()>,
    handle: JoinHandle<()>,
}

impl Mapper {
    /// Nothing is asked for yet. `name` is what a UPnP router shows to its operator.
    pub fn new(netlink: Netlink, name: String) -> (Mapper, mpsc::Receiver<Report>) {
        let (reports, reported) = mpsc::channel(MAX_PENDING_REPORTS);
        let asker = Asker { netlink, name, nonce: rand::random(), reports };
        (Mapper { asker, tasks: BTreeMap::new(), stopping: Vec::new() }, reported)
    }

    /// Asks for these sockets, and no longer for others.
    pub fn want(&mut self, wanted: &[Wanted]) {
        let gone: Vec<LocalSocketId> =
            self.tasks.keys().copied().filter(|id| wanted.iter().all(|w| w.socket != *id)).collect();
        for id in gone {
            self.end(id);
        }
        self.stopping.retain(|(_, task)| !task.is_finished());
        for w in wanted.iter().filter(|w| w.is_behind_a_router()) {
            if self.tasks.contains_key(&w.socket) || self.tasks.len() >= MAX_MAPPED_LINKS {
                continue;
            }
            let (stop, stopped) = oneshot::channel();
            // To the router a link that is back is the one that went: what deletes its mapping comes first.
            let same = self.stopping.iter().position(|(local, _)| *local == w.local);
            let before = same.map(|at| self.stopping.remove(at).1);
            let handle = tokio::task::spawn_local(self.asker.clone().keep(w.clone(), before, stopped));
            self.tasks.insert(w.socket, Task { local: w.local, stop, handle });
        }
    }

    fn end(&mut self, id: LocalSocketId) {
        let Some(task) = self.tasks.remove(&id) else { return };
        let _ = task.stop.send(());
        if self.stopping.len() >= MAX_MAPPED_LINKS {
            // A link that comes and goes: the router forgets by itself.
            self.stopping.remove(0).1.abort();
        }
        self.stopping.push((task.local, task.handle));
    }

    /// Deletes every mapping, as far as the routers answer in time.
    pub async fn stop(mut self) {
        for id in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.end(id);
        }
        let all = async {
            for (_, task) in self.stopping {
                let _ = task.await;
            }
        };
        let _ = timeout(RELEASE_LIMIT, all).await;
    }
}

/// A mapping that a router made.
enum Lease {
    /// By PCP or NAT-PMP.
    Pmp(Box<PortMapping>, SocketAddr),
    Upnp {
        gateway: Box<Gateway<Tokio>>,
        external: SocketAddr,
        seconds: u32,
    },
}

impl Lease {
    fn mapped(&self) -> Mapped {
        match self {
            Lease::Pmp(mapping, external) => {
                let pcp = matches!(mapping.mapping_type(), PortMappingType::Pcp { .. });
                Mapped { external: *external, protocol: if pcp { Protocol::Pcp } else { Protocol::NatPmp } }
            }
            Lease::Upnp { external, .. } => Mapped { external: *external, protocol: Protocol::Upnp },
        }
    }

    /// When it is to be renewed: at half its lifetime.
    fn renewal(&self) -> Duration {
        let granted = match self {
            Lease::Pmp(mapping, _) => Duration::from_secs(mapping.lifetime().into()),
            Lease::Upnp { seconds: 0, .. } => LIFETIME,
            Lease::Upnp { seconds, .. } => Duration::from_secs((*seconds).into()),
        };
        (granted.min(LIFETIME) / 2).max(RENEWAL_MIN)
    }

    async fn release(self) {
        let released = async {
            match self {
                Lease::Pmp(mapping, _) => mapping.try_drop().await.map_err(|(e, _)| e.to_string()),
                Lease::Upnp { gateway, external, .. } => {
                    gateway.remove_port(PortMappingProtocol::UDP, external.port()).await.map_err(|e| e.to_string())
                }
            }
        };
        match timeout(RELEASE_LIMIT, released).await {
            Ok(Ok(())) => debug!("mapping deleted"),
            Ok(Err(e)) => debug!("mapping not deleted: {e}"),
            Err(_) => debug!("mapping not deleted: the router takes too long"),
        }
    }
}

/// What every task needs.
#[derive(Clone)]
struct Asker {
    netlink: Netlink,
    name: String,
    /// By this a router that speaks PCP knows a mapping of ours, also when the link was gone meanwhile.
    nonce: pcp::Nonce,
    reports: mpsc::Sender<Report>,
}

impl Asker {
    /// Keeps `wanted` mapped until told to stop, as soon as the task `before` has ended.
    async fn keep(self, wanted: Wanted, before: Option<JoinHandle<()>>, mut stop: oneshot::Receiver<()>) {
        if let Some(before) = before {
            let _ = before.await;
        }
        let mut pause = FIRST_PAUSE;
        let mut lease: Option<Lease> = None;
        let mut told: Option<Mapped> = None;
        loop {
            let attempt = timeout(ATTEMPT_LIMIT, self.acquire(&wanted, lease.as_ref()));
            let result = tokio::select! {
                result = attempt => result.unwrap_or(Err(Error::TooSlow)),
                _ = &mut stop => break,
            };
            let wait = match result {
                Ok(new) => {
                    pause = FIRST_PAUSE;
                    let wait = new.renewal();
                    let by_upnp = matches!(new, Lease::Upnp { .. });
                    let other = |old: &Lease| old.mapped() != new.mapped();
                    // PCP and NAT-PMP have one mapping for each of our ports: it cannot stay beside the new one.
                    let stays = |old: &Lease| other(old) && (by_upnp || matches!(old, Lease::Upnp { .. }));
                    let old = lease.take().filter(stays);
                    lease = Some(new);
                    if let Some(old) = old {
                        old.release().await;
                    }
                    wait
                }
                Err(error) => {
                    match lease.take() {
                        Some(_) => info!(link = wanted.link, "port mapping lost: {error}"),
                        None => debug!(link = wanted.link, "no port mapping: {error}"),
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            let mapped = lease_of(&lease);
            if mapped != told {
                if let Some(Mapped { external, protocol }) = mapped {
                    info!(link = wanted.link, external = to_text(external), %protocol, "port mapped");
                }
                told = mapped;
                if self.reports.send(Report { socket: wanted.socket, mapped }).await.is_err() {
                    break;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = &mut stop => break,
            }
        }
        if let Some(lease) = lease {
            lease.release().await;
        }
    }

    /// A mapping by whatever protocol the router of the link speaks; `old` is renewed if it can be.
    async fn acquire(&self, wanted: &Wanted, old: Option<&Lease>) -> Result<Lease, Error> {
        let router = self.router(wanted).await?;
        reached_from(wanted.local.ip(), router)?;
        let lease = self.ask(wanted, router, old).await?;
        let external = lease.mapped().external;
        if !matches!(scope(external.ip()), Scope::Global | Scope::PseudoPrivate) || external.port() == 0 {
            lease.release().await;
            return Err(Error::NotGlobal(external));
        }
        Ok(lease)
    }

    /// The router of the link's default route.
    async fn router(&self, wanted: &Wanted) -> Result<Ipv4Addr, Error> {
        let system = |e: crate::netlink::NetlinkError| Error::System(e.to_string());
        let interfaces = self.netlink.interfaces().await.map_err(system)?;
        let index = interfaces.iter().find(|i| i.name == wanted.link).map(|i| i.index);
        let gateways = self.netlink.default_gateways().await.map_err(system)?;
        gateways.into_iter().find(|(of, _)| Some(*of) == index).map(|(_, ip)| ip).ok_or(Error::NoRouter)
    }

    async fn ask(&self, wanted: &Wanted, router: Ipv4Addr, old: Option<&Lease>) -> Result<Lease, Error> {
        let local = wanted.local;
        let Some(port) = NonZeroU16::new(local.port()) else { return Err(Error::NoRouter) };
        let external_port = old.and_then(|old| NonZeroU16::new(old.mapped().external.port())).unwrap_or(port);
        let options = PortMappingOptions {
            external_port: Some(external_port),
            lifetime_seconds: Some(LIFETIME.as_secs() as u32),
            timeout_config: Some(PATIENCE),
        };
        let request = pcp::BaseMapRequest::new(router.into(), local.ip(), InternetProtocol::Udp, port);
        let pcp = match pcp::port_mapping(request, Some(self.nonce), None, options).await {
            Ok(mapping) => {
                let ip = match mapping.mapping_type() {
                    PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
                    PortMappingType::NatPmp => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                };
                let external = SocketAddr::new(ip, mapping.external_port().get());
                return Ok(Lease::Pmp(Box::new(mapping), external));
            }
            Err(e) => e.to_string(),
        };
        let nat_pmp = match nat_pmp(router, port, options).await {
            Ok(lease) => return Ok(lease),
            Err(e) => e.to_string(),
        };
        let old_port = old.map(|_| external_port.get());
        self.upnp(local, router, old_port).await.map_err(|upnp| Error::Refused(router, pcp, nat_pmp, upnp))
    }

    async fn upnp(&self, local: SocketAddr, router: Ipv4Addr, old: Option<u16>) -> Result<Lease, String> {
        let gateway = find_upnp(local.ip(), router).await?;
        let ip = gateway.get_external_ip().await.map_err(|e| e.to_string())?;
        let description = format!("{}@{}", self.name, local.port());
        let mut seconds = LIFETIME.as_secs() as u32;
        let mut port = old.unwrap_or(local.port());
        let mut last = String::from("no free port");
        for _ in 0..UPNP_PORT_TRIES {
            match gateway.add_port(PortMappingProtocol::UDP, port, local, seconds, &description).await {
                Ok(()) => {
                    let external = SocketAddr::new(ip, port);
                    return Ok(Lease::Upnp { gateway: Box::new(gateway), external, seconds });
                }
                Err(AddPortError::OnlyPermanentLeasesSupported) if seconds > 0 => seconds = 0,
                Err(e @ AddPortError::PortInUse) => {
                    last = e.to_string();
                    port = port.checked_add(1).unwrap_or(local.port());
                }
                Err(e) => return Err(e.to_string()),
            }
        }
        Err(last)
    }
}

fn lease_of(lease: &Option<Lease>) -> Option<Mapped> {
    lease.as_ref().map(Lease::mapped)
}

/// The kernel reaches the router from our address: where two links have the same router's address, it does so for one of
/// them only, and the other router would map what is not there.
fn reached_from(local: IpAddr, router: Ipv4Addr) -> Result<(), Error> {
    let from = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((router, crab_nat::GATEWAY_PORT))?;
        Ok(socket.local_addr()?.ip())
    };
    match from() {
        Ok(ip) if ip == local => Ok(()),
        Ok(_) => Err(Error::Elsewhere(router)),
        Err(e) => Err(Error::System(e.to_string())),
    }
}

async fn nat_pmp(router: Ipv4Addr, port: NonZeroU16, options: PortMappingOptions) -> Result<Lease, natpmp::Failure> {
    let ip = natpmp::external_address(router.into(), Some(PATIENCE)).await?;
    let mapping = natpmp::port_mapping(router.into(), InternetProtocol::Udp, port, options).await?;
    let external = SocketAddr::new(ip.into(), mapping.external_port().get());
    Ok(Lease::Pmp(Box::new(mapping), external))
}

/// Asks the router alone, then all hosts of the link; only the router is believed.
async fn find_upnp(local: IpAddr, router: Ipv4Addr) -> Result<Gateway<Tokio>, String> {
    let mut last = String::new();
    for asked in [router, Ipv4Addr::new(239, 255, 255, 250)] {
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::new(local, 0);
        options.broadcast_address = SocketAddr::new(asked.into(), SSDP_PORT);
        options.timeout = Some(SEARCH_LIMIT);
        match search_gateway(options).await {
            Ok(gateway) if gateway.addr.ip() == router => return Ok(gateway),
            Ok(gateway) => last = format!("{} answered, which is not the router", gateway.addr),
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_ipv4_addresses_are_behind_a_router() {
        let behind = |local: &str| {
            let local = local.parse().expect("address");
            Wanted { socket: LocalSocketId(1), local, link: "eth0".into() }.is_behind_a_router()
        };
        assert!(behind("192.168.1.5:40000") && behind("10.0.0.5:1") && behind("100.64.0.9:40000"));
        assert!(!behind("8.8.8.8:40000") && !behind("169.254.1.1:40000") && !behind("127.0.0.1:40000"));
        assert!(!behind("[fd00::5]:40000") && !behind("192.168.1.5:0"));
    }

    #[test]
    fn a_router_that_the_kernel_reaches_from_elsewhere_is_not_asked() {
        let loopback = Ipv4Addr::LOCALHOST;
        assert!(reached_from(loopback.into(), loopback).is_ok());
        assert!(matches!(reached_from("192.0.2.1".parse().expect("ip"), loopback), Err(Error::Elsewhere(_))));
    }
}
