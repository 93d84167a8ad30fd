//! Which addresses a member gets. Pure: what is in use is asked, what was taken is told, and because the state machine
//! saves the one before it asks for the next, no two members ever get the same address.
// spec: controller, "Address assignment"

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use network::addressing::{RFC4193_BITS, SIX_PLANE_BITS, rfc4193, six_plane};
use wire::{Address, NetworkId, Prefix};

use crate::constants::TRIALS_PER_POOL;
use crate::record::{MemberSettings, NetworkSettings, Route};

/// A pool at least this wide has room for every member's own 40-bit address.
const WHOLE_ADDRESS_SPAN: u64 = 0xff_ffff_ffff;

/// The addresses of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// All of them, in the order of the configuration.
    pub addresses: Vec<Prefix>,
    /// Those newly taken out of pools; they belong into the record.
    pub taken: Vec<IpAddr>,
    /// An RFC 4193 or 6PLANE address is among them.
    pub emulated: bool,
}

/// Assigns addresses to `member`. `random` is only asked for IPv6 pools.
pub fn assign(
    network: NetworkId,
    settings: &NetworkSettings,
    member: Address,
    record: &MemberSettings,
    in_use: impl Fn(IpAddr) -> bool,
    mut random: impl FnMut() -> u64,
) -> Assigned {
    let mut out = Assigned::default();
    let automatic = !record.no_auto_ips;
    if automatic && settings.rfc4193 {
        out.emulate(rfc4193(network, member), RFC4193_BITS);
    }
    if automatic && settings.six_plane {
        out.emulate(six_plane(network, member), SIX_PLANE_BITS);
    }
    let (mut managed_v4, mut managed_v6) = (false, false);
    for &ip in &record.ips {
        let longest = settings.routes.iter().filter(|r| covers(r, ip)).map(|r| r.target.bits).max();
        let Some(prefix) = longest.and_then(|bits| Prefix::new(ip, bits)) else { continue };
        out.addresses.push(prefix);
        *(if ip.is_ipv4() { &mut managed_v4 } else { &mut managed_v6 }) = true;
    }
    if automatic && settings.v6_pool && !managed_v6 {
        out.take(v6(settings, member, &in_use, &mut random));
    }
    if automatic && settings.v4_pool && !managed_v4 {
        out.take(v4(settings, member, &in_use));
    }
    out
}

impl Assigned {
    fn emulate(&mut self, ip: Ipv6Addr, bits: u8) {
        self.addresses.push(Prefix { addr: ip.into(), bits });
        self.emulated = true;
    }

    fn take(&mut self, prefix: Option<Prefix>) {
        self.addresses.extend(prefix);
        self.taken.extend(prefix.map(|p| p.addr));
    }
}

/// The route says which prefix length `ip` has. A default route does not: an address as `/0` would put the whole world
/// on the virtual network, which is what the reference does. A target with bits beyond its prefix never matches.
// spec: controller, "Traps"
fn covers(route: &Route, ip: IpAddr) -> bool {
    route.target.bits > 0 && route.target.contains(ip) && is_network_address(route.target)
}

fn is_network_address(target: Prefix) -> bool {
    match target.addr {
        IpAddr::V4(a) => u32::from(a).checked_shl(target.bits.into()).unwrap_or(0) == 0,
        IpAddr::V6(a) => u128::from(a).checked_shl(target.bits.into()).unwrap_or(0) == 0,
    }
}

fn v6(
    settings: &NetworkSettings,
    member: Address,
    in_use: &impl Fn(IpAddr) -> bool,
    random: &mut impl FnMut() -> u64,
) -> Option<Prefix> {
    let pools = settings.pools.iter().filter_map(|pool| match *pool {
        (IpAddr::V6(start), IpAddr::V6(end)) => Some((halves(start), halves(end))),
        _ => None,
    });
    for ((start_high, start_low), (end_high, end_low)) in pools {
        for trial in 0..TRIALS_PER_POOL {
            let whole = trial == 0 && end_low.wrapping_sub(start_low) >= WHOLE_ADDRESS_SPAN;
            let (high, low) = if whole {
                (start_high, start_low.wrapping_add(member.to_u64()))
            } else {
                (within(start_high, end_high, random), within(start_low, end_low, random))
            };
            let ip = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into();
            let route = settings.routes.iter().rev().find(|r| r.via.is_none() && covers(r, ip));
            if let Some(route) = route.filter(|_| !in_use(ip)) {
                return Prefix::new(ip, route.target.bits);
            }
        }
    }
    None
}

fn halves(ip: Ipv6Addr) -> (u64, u64) {
    let n = u128::from(ip);
    ((n >> 64) as u64, n as u64)
}

/// From `start` to just below `end`; `start` if there is nothing between.
fn within(start: u64, end: u64, random: &mut impl FnMut() -> u64) -> u64 {
    match end.saturating_sub(start) {
        0 => start,
        span => start + random() % span,
    }
}

fn v4(settings: &NetworkSettings, member: Address, in_use: &impl Fn(IpAddr) -> bool) -> Option<Prefix> {
    let pools = settings.pools.iter().filter_map(|pool| match *pool {
        (IpAddr::V4(start), IpAddr::V4(end)) => Some((u32::from(start), u32::from(end))),
        _ => None,
    });
    for (start, end) in pools.filter(|&(start, end)| start != 0 && start <= end) {
        let span = end - start;
        let first = member.to_u64() as u32;
        for trial in 0..span.saturating_add(1).min(TRIALS_PER_POOL) {
            // The last address of a pool is never given out, unless it is the only one.
            let ip = start + first.wrapping_add(trial).checked_rem(span).unwrap_or(0);
            if ip & 0xff == 0xff {
                continue;
            }
            let ip = Ipv4Addr::from(ip).into();
            let route = settings.routes.iter().find(|r| covers(r, ip));
            if let Some(route) = route.filter(|_| !in_use(ip)) {
                return Prefix::new(ip, route.target.bits);
            }
        }
    }
    None
}
