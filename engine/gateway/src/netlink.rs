//! The kernel's interfaces, addresses and routes, asked and changed over rtnetlink. Knows nothing of ZeroTier: it does
//! what it is told, and says that something changed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use wire::Mac;

use crate::network_conf::Route;

/// Changes told but not yet looked at. One that does not fit is dropped: the receiver reads the whole state anyway.
pub const MAX_PENDING_CHANGES: usize = 64;

/// A conversation with the kernel. Clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Kernel's number.
    pub index: u32,
    /// Kernel's name.
    pub name: String,
    /// Administratively up, and it has a carrier.
    pub up: bool,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface it is on.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length.
    pub bits: u8,
    /// Not usable: an IPv6 privacy address, or one whose duplicate detection is running or failed.
    pub passing: bool,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// An interface came, went or changed.
    Interface(u32),
    /// An address of this interface came or went.
    Address(u32),
}

/// A request the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: io::Error,
}

impl NetlinkError {
    /// The kernel's error number, 0 if there is none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    |e| {
        let source = match e {
            rtnetlink::Error::NetlinkError(m) => m.to_io(),
            other => io::Error::other(other.to_string()),
        };
        NetlinkError { what: what.into(), source }
    }
}

impl Netlink {
    /// Opens the conversation and subscribes to changes. Must be called inside a tokio runtime.
    pub fn open() -> io::Result<(Netlink, mpsc::Receiver<Change>)> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let (tell, changes) = mpsc::channel(MAX_PENDING_CHANGES);
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
                let change = match message {
                    RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m) => {
                        Change::Interface(m.header.index)
                    }
                    RouteNetlinkMessage::NewAddress(m) | RouteNetlinkMessage::DelAddress(m) => {
                        Change::Address(m.header.index)
                    }
                    _ => continue,
                };
                if let Err(mpsc::error::TrySendError::Closed(_)) = tell.try_send(change) {
                    return;
                }
            }
        });
        Ok((Netlink { handle }, changes))
    }

    /// All interfaces.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, NetlinkError> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("list the interfaces"))?;
        let name = |m: &LinkMessage| {
            m.attributes.iter().find_map(|a| if let LinkAttribute::IfName(n) = a { Some(n.clone()) } else { None })
        };
        let interface = |m: LinkMessage| {
            let up = m.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
            Some(Interface { index: m.header.index, name: name(&m)?, up })
        };
        Ok(links.into_iter().filter_map(interface).collect())
    }

    /// All addresses.
    pub async fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let list: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed("list the addresses"))?;
        Ok(list.iter().filter_map(address_of).collect())
    }

    /// The IPv4 routers of default routes in the main table: interface and address, the preferred ones first.
    pub async fn default_gateways(&self) -> Result<Vec<(u32, Ipv4Addr)>, NetlinkError> {
        let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> =
            self.handle.route().get(every).execute().try_collect().await.map_err(failed("list the routes"))?;
        let mut gateways: Vec<(u32, u32, Ipv4Addr)> = routes.iter().filter_map(default_route).collect();
        gateways.sort();
        Ok(gateways.into_iter().map(|(_, index, ip)| (index, ip)).collect())
    }

    /// Gives a TAP its MAC and MTU and brings it up. The MAC must be set while it is down.
    pub async fn configure_device(&self, index: u32, mac: Mac, mtu: u32) -> Result<(), NetlinkError> {
        let change = |m: LinkMessage| self.handle.link().change(m).execute();
        let message = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).mtu(mtu).build();
        change(message).await.map_err(failed(format!("set MAC {mac} and MTU {mtu}")))?;
        change(LinkUnspec::new_with_index(index).multicast(true).up().build()).await.map_err(failed("bring it up"))
    }

    /// Changes the MTU.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.handle.link().change(message).execute().await.map_err(failed(format!("set MTU {mtu}")))
    }

    /// Adds a permanent address, or changes the flags of an equal one. Duplicate detection is left out: the controller
    /// gives each address once, and detection would hold the first packets back for a second.
    pub async fn add_address(&self, index: u32, ip: IpAddr, bits: u8) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, ip, bits).replace();
        request.message_mut().header.flags = AddressHeaderFlags::Permanent | AddressHeaderFlags::Nodad;
        request.execute().await.map_err(failed(format!("add address {ip}/{bits}")))
    }

    /// Removes an address; one that is not there is no error.
    pub async fn remove_address(&self, index: u32, ip: IpAddr, bits: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = bits;
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        let done = self.handle.address().del(message).execute().await;
        absent_is_fine(done.map_err(failed(format!("remove address {ip}/{bits}"))))
    }

    /// Adds or replaces a route over an interface.
    pub async fn add_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        let message = route_message(index, route);
        let done = self.handle.route().add(message).replace().execute().await;
        done.map_err(failed(format!("add route {}/{}", route.target, route.bits)))
    }

    /// Removes a route; one that is not there is no error.
    pub async fn remove_route(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        let done = self.handle.route().del(route_message(index, route)).execute().await;
        absent_is_fine(done.map_err(failed(format!("remove route {}/{}", route.target, route.bits))))
    }
}

fn absent_is_fine(done: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    use nix::errno::Errno;
    match done {
        Err(e) if [Errno::ESRCH, Errno::EADDRNOTAVAIL, Errno::ENODEV].contains(&Errno::from_raw(e.errno())) => Ok(()),
        other => other,
    }
}

/// Metric, interface and router of a default route.
fn default_route(m: &RouteMessage) -> Option<(u32, u32, Ipv4Addr)> {
    if m.header.destination_prefix_length != 0 || m.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut metric, mut index, mut gateway) = (0, None, None);
    for attribute in &m.attributes {
        match attribute {
            RouteAttribute::Priority(n) => metric = *n,
            RouteAttribute::Oif(n) => index = Some(*n),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
            _ => {}
        }
    }
    Some((metric, index?, gateway?))
}

fn address_of(m: &AddressMessage) -> Option<InterfaceAddress> {
    let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &m.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(f) => flags = *f,
            _ => {}
        }
    }
    let ip = local.or(address)?;
    let privacy = ip.is_ipv6() && flags.contains(AddressFlags::Secondary);
    let passing = privacy || flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
    Some(InterfaceAddress { index: m.header.index, ip, bits: m.header.prefix_len, passing })
}

// spec: networks, "Routes": main table, protocol static. A route without gateway is a link route, which the reference
// builds so that the kernel refuses it.
fn route_message(index: u32, route: &Route) -> RouteMessage {
    match route.target {
        IpAddr::V4(target) => {
            let mut b = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(target, route.bits);
            if let IpAddr::V4(source) = route.source {
                b = b.pref_source(source);
            }
            b = match route.via {
                Some(IpAddr::V4(via)) => b.gateway(via),
                _ => b.scope(RouteScope::Link),
            };
            with_metric(b.output_interface(index), route.metric).build()
        }
        IpAddr::V6(target) => {
            let mut b = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(target, route.bits);
            if let IpAddr::V6(source) = route.source {
                b = b.pref_source(source);
            }
            if let Some(IpAddr::V6(via)) = route.via {
                b = b.gateway(via);
            }
            with_metric(b.output_interface(index), route.metric).build()
        }
    }
}

fn with_metric<T>(builder: RouteMessageBuilder<T>, metric: u32) -> RouteMessageBuilder<T> {
    if metric == 0 { builder } else { builder.priority(metric) }
}
