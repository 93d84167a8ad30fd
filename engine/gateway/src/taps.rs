//! The TAP devices of joined networks: made, named, given addresses and routes, watched, removed. A task of its own on
//! the control thread, so that a slow kernel answer never holds the control plane back. Knows what a network wants of
//! this host, nothing of packets or peers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};
use uring::tap::{self, Tap};
use wire::{Mac, MulticastGroup, NetworkId};

use crate::backoff::Backoff;
use crate::netlink::{Change, Interface, InterfaceAddress, Netlink};
use crate::network_conf::Route;

/// Orders to this task that wait; the control plane waits when there are more.
pub const MAX_PENDING_ORDERS: usize = 1024;
/// Reports of this task that wait; the task waits when there are more.
pub const MAX_PENDING_REPORTS: usize = 256;
/// How often the multicast groups are read. // spec: service, "Periodic work visible to operators"
pub const MULTICAST_SCAN: Duration = Duration::from_secs(5);
/// How often interfaces and addresses are read even if no change was told. // spec: paths, "Binder"
pub const INTERFACE_SCAN: Duration = Duration::from_secs(30);
/// Changes that arrive in quick succession are looked at together.
const SETTLE: Duration = Duration::from_millis(10);
/// How long to wait for the first name to become free before another one is taken.
const NAME_PATIENCE: Duration = Duration::from_secs(1);
/// Device names tried when the first ones are taken.
const MAX_NAME_TRIES: u64 = 64;
/// Multicast groups reported of one device; more are left out. As many as a subscription list may hold.
pub const MAX_GROUPS: usize = 4096;

/// What a network wants of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Hardware address.
    pub mac: Mac,
    /// Largest frame payload, bytes.
    pub mtu: u16,
    /// Addresses the device has, with prefix lengths.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// Routes over it, in the order in which they are to be made.
    pub routes: Vec<Route>,
}

/// What the control plane tells this task.
#[derive(Debug)]
pub enum Order {
    /// A network is to look like this.
    Set(NetworkId, Desired),
    /// A network was left: its device goes.
    Remove(NetworkId),
    /// A device's queues failed: make it again after a pause.
    Broken(NetworkId),
    /// Take everything away, then say so and end.
    Stop(oneshot::Sender<()>),
}

/// What this task tells the control plane.
#[derive(Debug)]
pub enum Report {
    /// A device is there, with one queue for each shard.
    Up(NetworkId, Tap),
    /// An [`Order::Set`] is carried out, as far as it can be.
    Applied(NetworkId),
    /// A device cannot be made, or is gone. It is tried again.
    Down(NetworkId, PortError),
    /// Addresses or routes of a device could not be applied; the device works otherwise.
    Problem(NetworkId, Option<String>),
    /// The multicast groups that this host listens to on a network changed.
    Groups(NetworkId, Vec<MulticastGroup>),
    /// The host's interfaces and addresses, after a change.
    Interfaces(Vec<Interface>, Vec<InterfaceAddress>),
}

/// Why a network has no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PortError {
    /// The kernel's error number, or -1.
    pub errno: i32,
    /// In words.
    pub reason: String,
}

/// A device that exists.
#[derive(Debug)]
struct Device {
    name: String,
    index: u32,
    mtu: u16,
    addresses: BTreeSet<(IpAddr, u8)>,
    routes: Vec<Route>,
    groups: BTreeSet<(Mac, u32)>,
    problem: Option<String>,
}

#[derive(Debug, Default)]
struct Entry {
    desired: Option<Desired>,
    device: Option<Device>,
    backoff: Backoff,
}

/// The task.
pub struct Taps {
    netlink: Netlink,
    queues: usize,
    names: BTreeMap<NetworkId, String>,
    networks: BTreeMap<NetworkId, Entry>,
    reports: mpsc::Sender<Report>,
    start: Instant,
}

impl Taps {
    /// No device yet; each will have `queues` queues. `names` are the operator's device names.
    pub fn new(
        netlink: Netlink,
        queues: usize,
        names: BTreeMap<NetworkId, String>,
        reports: mpsc::Sender<Report>,
    ) -> Taps {
        Taps { netlink, queues, names, networks: BTreeMap::new(), reports, start: Instant::now() }
    }

    /// Runs until it is told to stop, or nobody listens any more.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>, mut changes: mpsc::Receiver<Change>) {
        let mut multicast = tokio::time::interval(MULTICAST_SCAN);
        let mut interfaces = tokio::time::interval(INTERFACE_SCAN);
        // Changes told since the last look at the host, and when to look.
        let (mut changed, mut look_at) = (BTreeSet::new(), None);
        loop {
            let retry = self.next_retry();
            let settled = async {
                match look_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Stop(done)) => {
                        self.remove_all().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(order) => self.obey(order).await,
                    None => return self.remove_all().await,
                },
                Some(change) = changes.recv() => {
                    changed.insert(change);
                    look_at.get_or_insert_with(|| tokio::time::Instant::now() + SETTLE);
                }
                () = settled => {
                    look_at = None;
                    self.look(&std::mem::take(&mut changed)).await;
                }
                _ = multicast.tick() => self.scan_groups(&[]).await,
                _ = interfaces.tick() => {
                    self.look(&BTreeSet::new()).await;
                    self.refresh().await;
                }
                () = tokio::time::sleep(retry) => self.retry().await,
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn next_retry(&self) -> Duration {
        let waiting = |e: &&Entry| e.device.is_none() && e.desired.is_some();
        let next = self.networks.values().filter(waiting).map(|e| e.backoff.until_ms()).min();
        next.map_or(INTERFACE_SCAN, |at| Duration::from_millis(at.saturating_sub(self.now_ms()).max(1)))
    }

    async fn tell(&self, report: Report) {
        let _ = self.reports.send(report).await;
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Set(id, desired) => {
                self.networks.entry(id).or_default().desired = Some(desired);
                self.apply(id).await;
                self.tell(Report::Applied(id)).await;
            }
            Order::Remove(id) => {
                if let Some(Entry { device: Some(device), .. }) = self.networks.remove(&id) {
                    self.clear(&device).await;
                }
            }
            Order::Broken(id) => self.lost(id, "its queues failed").await,
            Order::Stop(_) => {}
        }
    }

    async fn remove_all(&mut self) {
        for entry in std::mem::take(&mut self.networks).into_values() {
            if let Some(device) = entry.device {
                self.clear(&device).await;
            }
        }
    }

    /// Takes routes and addresses away. The device itself goes when its queues are closed.
    async fn clear(&self, device: &Device) {
        for route in device.routes.iter().rev() {
            let _ = self.netlink.remove_route(device.index, route).await;
        }
        for (ip, bits) in &device.addresses {
            let _ = self.netlink.remove_address(device.index, *ip, *bits).await;
        }
        info!(device = device.name, "TAP removed");
    }

    /// Makes again whatever somebody else may have taken away. // spec: networks, "Routes"
    async fn refresh(&mut self) {
        let ids: Vec<NetworkId> = self.networks.keys().copied().collect();
        for id in ids {
            if let Some(device) = self.networks.get_mut(&id).and_then(|e| e.device.as_mut()) {
                device.routes.clear();
                self.apply(id).await;
            }
        }
    }

    /// Brings one network's device to where it should be.
    async fn apply(&mut self, id: NetworkId) {
        let now = self.now_ms();
        let Some(entry) = self.networks.get_mut(&id) else { return };
        let Some(desired) = entry.desired.clone() else { return };
        let mut device = match entry.device.take() {
            Some(device) => device,
            None if !entry.backoff.is_over(now) => return,
            None => match self.create(id, &desired).await {
                Ok((device, tap)) => {
                    self.tell(Report::Up(id, tap)).await;
                    device
                }
                Err(e) => return self.failed(id, e).await,
            },
        };
        let problem = self.converge(&mut device, &desired).await;
        if device.problem != problem {
            if let Some(problem) = &problem {
                warn!(network = %id, device = device.name, "{problem}");
            }
            device.problem.clone_from(&problem);
            self.tell(Report::Problem(id, problem)).await;
        }
        if let Some(entry) = self.networks.get_mut(&id) {
            entry.device = Some(device);
        }
        self.scan_groups(&[id]).await;
    }

    async fn create(&self, id: NetworkId, desired: &Desired) -> Result<(Device, Tap), PortError> {
        let failed = |errno: Option<i32>, reason: String| PortError { errno: errno.unwrap_or(-1), reason };
        let name = self.free_name(id).await.map_err(|e| failed(Some(e.errno()), e.to_string()))?;
        let name = name.ok_or_else(|| failed(None, "every device name for this network is taken".into()))?;
        let options = tap::Options { name: name.clone(), queues: self.queues, super_frames: true };
        let tap = tap::open(&options).map_err(|e| {
            let advice = if e.kind() == io::ErrorKind::PermissionDenied { " (run as root)" } else { "" };
            failed(e.raw_os_error(), format!("TAP device {name}: {e}{advice}"))
        })?;
        let interfaces = self.netlink.interfaces().await.map_err(|e| failed(Some(e.errno()), e.to_string()))?;
        let index = interfaces.iter().find(|i| i.name == tap.name).map(|i| i.index);
        let index = index.ok_or_else(|| failed(None, format!("TAP device {name} vanished at once")))?;
        let configured = self.netlink.configure_device(index, desired.mac, u32::from(desired.mtu)).await;
        configured.map_err(|e| failed(Some(e.errno()), format!("TAP device {name}: {e}")))?;
        if self.queues > 1 && !tap.steered {
            warn!(
                device = tap.name,
                "the kernel moves flows between packet threads as it likes: some may be reordered"
            );
        }
        info!(network = %id, device = tap.name, mac = %desired.mac, mtu = desired.mtu, "TAP up");
        let device = Device {
            name: tap.name.clone(),
            index,
            mtu: desired.mtu,
            addresses: BTreeSet::new(),
            routes: Vec::new(),
            groups: BTreeSet::new(),
            problem: None,
        };
        Ok((device, tap))
    }

    // spec: networks, "TAP device name (Linux)"
    async fn free_name(&self, id: NetworkId) -> Result<Option<String>, crate::netlink::NetlinkError> {
        let mapped = self.names.get(&id).cloned();
        let computed = (0..MAX_NAME_TRIES).map(|k| network::addressing::tap_name(id, k));
        let names: Vec<String> = mapped.into_iter().chain(computed).collect();
        let patience = Instant::now() + NAME_PATIENCE;
        loop {
            let taken: BTreeSet<String> = self.netlink.interfaces().await?.into_iter().map(|i| i.name).collect();
            let free = names.iter().find(|name| !taken.contains(*name));
            // A device of ours that was closed a moment ago is still there: better its name than another one.
            if free == names.first() || Instant::now() > patience {
                return Ok(free.cloned());
            }
            tokio::time::sleep(NAME_PATIENCE / 20).await;
        }
    }

    /// Changes MTU, addresses and routes to what is desired; the first problem, if any.
    async fn converge(&self, device: &mut Device, desired: &Desired) -> Option<String> {
        let mut problem = None;
        let mut note = |done: Result<(), crate::netlink::NetlinkError>| match done {
            Ok(()) => true,
            Err(e) => {
                problem.get_or_insert_with(|| e.to_string());
                false
            }
        };
        if device.mtu != desired.mtu && note(self.netlink.set_mtu(device.index, u32::from(desired.mtu)).await) {
            device.mtu = desired.mtu;
        }
        for route in device.routes.clone().iter().rev().filter(|r| !desired.routes.contains(r)) {
            if note(self.netlink.remove_route(device.index, route).await) {
                device.routes.retain(|r| r != route);
            }
        }
        for (ip, bits) in device.addresses.clone().difference(&desired.addresses) {
            if note(self.netlink.remove_address(device.index, *ip, *bits).await) {
                device.addresses.remove(&(*ip, *bits));
            }
        }
        for (ip, bits) in &desired.addresses {
            if !device.addresses.contains(&(*ip, *bits))
                && note(self.netlink.add_address(device.index, *ip, *bits).await)
            {
                device.addresses.insert((*ip, *bits));
            }
        }
        for route in &desired.routes {
            if !device.routes.contains(route) && note(self.netlink.add_route(device.index, route).await) {
                device.routes.push(route.clone());
            }
        }
        problem
    }

    async fn failed(&mut self, id: NetworkId, error: PortError) {
        let now = self.now_ms();
        if let Some(entry) = self.networks.get_mut(&id) {
            entry.backoff.failed(now);
            warn!(network = %id, again_in_ms = entry.backoff.until_ms() - now, "{error}");
        }
        self.tell(Report::Down(id, error)).await;
    }

    async fn lost(&mut self, id: NetworkId, why: &str) {
        let Some(device) = self.networks.get_mut(&id).and_then(|e| e.device.take()) else { return };
        self.failed(id, PortError { errno: -1, reason: format!("TAP device {} vanished: {why}", device.name) }).await;
    }

    async fn retry(&mut self) {
        let now = self.now_ms();
        let due = |e: &Entry| e.device.is_none() && e.desired.is_some() && e.backoff.is_over(now);
        let due: Vec<NetworkId> = self.networks.iter().filter(|(_, e)| due(e)).map(|(id, _)| *id).collect();
        for id in due {
            self.apply(id).await;
        }
    }

    /// Reads interfaces and addresses, reports them, notices devices that are gone, and sees to their groups.
    async fn look(&mut self, changed: &BTreeSet<Change>) {
        let (interfaces, addresses) = match (self.netlink.interfaces().await, self.netlink.addresses().await) {
            (Ok(interfaces), Ok(addresses)) => (interfaces, addresses),
            (Err(e), _) | (_, Err(e)) => return warn!("{e}"),
        };
        let gone = |d: &Device| !interfaces.iter().any(|i| i.index == d.index);
        let gone: Vec<NetworkId> =
            self.networks.iter().filter(|(_, e)| e.device.as_ref().is_some_and(gone)).map(|(id, _)| *id).collect();
        for id in gone {
            self.lost(id, "somebody removed it").await;
        }
        let touched = |d: &Device| changed.contains(&Change::Address(d.index));
        let touched: Vec<NetworkId> =
            self.networks.iter().filter(|(_, e)| e.device.as_ref().is_some_and(touched)).map(|(id, _)| *id).collect();
        for id in touched {
            self.notice_addresses(id, &addresses);
            self.report_groups(id, &addresses).await;
        }
        self.tell(Report::Interfaces(interfaces, addresses)).await;
    }

    /// An address that somebody else took away is no longer there to be removed, and is set again at the next change.
    fn notice_addresses(&mut self, id: NetworkId, addresses: &[InterfaceAddress]) {
        let Some(device) = self.networks.get_mut(&id).and_then(|e| e.device.as_mut()) else { return };
        let there = |(ip, bits): &(IpAddr, u8)| {
            addresses.iter().any(|a| a.index == device.index && a.ip == *ip && a.bits == *bits)
        };
        device.addresses.retain(there);
    }

    /// Looks at the groups of these networks' devices; none given: of all.
    async fn scan_groups(&mut self, only: &[NetworkId]) {
        if self.networks.values().all(|e| e.device.is_none()) {
            return;
        }
        let addresses = match self.netlink.addresses().await {
            Ok(addresses) => addresses,
            Err(e) => return warn!("{e}"),
        };
        let ids: Vec<NetworkId> =
            self.networks.keys().filter(|id| only.is_empty() || only.contains(id)).copied().collect();
        for id in ids {
            self.report_groups(id, &addresses).await;
        }
    }

    // spec: networks, "Multicast scan"
    async fn report_groups(&mut self, id: NetworkId, addresses: &[InterfaceAddress]) {
        let Some(device) = self.networks.get_mut(&id).and_then(|e| e.device.as_mut()) else { return };
        let listed = fs::read_to_string("/proc/net/dev_mcast").unwrap_or_default();
        let mut groups: BTreeSet<(Mac, u32)> =
            parse_dev_mcast(&listed, device.index).into_iter().map(|mac| (mac, 0)).collect();
        let of_address = |a: &InterfaceAddress| MulticastGroup::for_resolving(a.ip);
        let own = addresses.iter().filter(|a| a.index == device.index);
        groups.extend(own.map(of_address).map(|g| (g.mac, g.adi)));
        while groups.len() > MAX_GROUPS {
            groups.pop_last();
        }
        if device.groups == groups {
            return;
        }
        debug!(network = %id, groups = groups.len(), "multicast groups changed");
        let list = groups.iter().map(|(mac, adi)| MulticastGroup { mac: *mac, adi: *adi }).collect();
        device.groups = groups;
        self.tell(Report::Groups(id, list)).await;
    }
}

/// The multicast MACs of one interface in `/proc/net/dev_mcast`: `index name users global address`.
pub fn parse_dev_mcast(text: &str, index: u32) -> Vec<Mac> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let of: u32 = words.next()?.parse().ok()?;
        let mac = hex::decode(words.nth(3)?).ok()?;
        (of == index).then_some(Mac(mac.try_into().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// `devicemap`: lines `network=device`. // spec: service, "Home directory"
pub fn parse_device_map(text: &str) -> BTreeMap<NetworkId, String> {
    let line = |line: &str| {
        let (id, name) = line.trim().split_once('=')?;
        let fits = !name.is_empty() && name.len() <= uring::tap::NAME_MAX && !name.contains(['/', ' ', '%']);
        Some((id.parse().ok()?, fits.then(|| name.to_owned())?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multicast_macs_of_one_device_are_read() {
        let text = "1    lo              1     0     333300000001\n\
                    7    ztgrshixuw      1     0     3333ff11c9ff\n\
                    7    ztgrshixuw      2     0     01005e000001\n\
                    7    ztgrshixuw      2     0     garbage\n\n8\n";
        let macs: Vec<String> = parse_dev_mcast(text, 7).iter().map(Mac::to_string).collect();
        assert_eq!(macs, ["33:33:ff:11:c9:ff", "01:00:5e:00:00:01"]);
    }

    #[test]
    fn device_names_that_cannot_be_are_left_out() {
        let map = parse_device_map("6af3745e97000001=lan0\nnonsense\n6af3745e97000002=a-name-that-is-too-long\n");
        assert_eq!(map.into_values().collect::<Vec<_>>(), ["lan0"]);
    }
}
