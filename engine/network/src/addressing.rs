//! What follows from a network ID and a member's address alone: overlay IPv6 addresses, the TAP device's name, and the
//! configuration of ad-hoc networks, which have no controller. Knows nothing of configurations that are signed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::{Address, NetworkId};

/// Prefix length assigned with an RFC 4193 address, bits. // spec: networks, "IPv6 addresses derived from nwid and address"
pub const RFC4193_BITS: u8 = 88;
/// Prefix length assigned with a 6PLANE address, bits. // spec: networks, "IPv6 addresses derived from nwid and address"
pub const SIX_PLANE_BITS: u8 = 40;
/// Leading bytes that all RFC 4193 addresses of one network share.
const RFC4193_SHARED: usize = 11;
/// Leading bytes that all 6PLANE addresses of one network share.
const SIX_PLANE_SHARED: usize = 5;

/// The RFC 4193 address of `member`: `fd`, network, `99 93`, member. Its owner holds the /128.
pub fn rfc4193(network: NetworkId, member: Address) -> Ipv6Addr {
    let mut b = [0; 16];
    b[0] = 0xfd;
    b[1..9].copy_from_slice(&network.0.to_be_bytes());
    b[9..11].copy_from_slice(&[0x99, 0x93]);
    b[11..].copy_from_slice(&member.to_bytes());
    b.into()
}

/// The 6PLANE address of `member`: `fc`, the network's halves folded, member, `::1`. Its owner holds the /80.
pub fn six_plane(network: NetworkId, member: Address) -> Ipv6Addr {
    let folded = (network.0 ^ (network.0 >> 32)) as u32;
    let mut b = [0; 16];
    b[0] = 0xfc;
    b[1..5].copy_from_slice(&folded.to_be_bytes());
    b[5..10].copy_from_slice(&member.to_bytes());
    b[15] = 1;
    b.into()
}

/// The member in whose RFC 4193 /128 `ip` is, if it is one of `network`.
pub fn rfc4193_member(network: NetworkId, ip: Ipv6Addr) -> Option<Address> {
    let (b, ours) = (ip.octets(), rfc4193(network, Address::ZERO).octets());
    (b[..RFC4193_SHARED] == ours[..RFC4193_SHARED]).then(|| Address::from_bytes([b[11], b[12], b[13], b[14], b[15]]))
}

/// The member in whose 6PLANE /80 `ip` is, if it is one of `network`.
pub fn six_plane_member(network: NetworkId, ip: Ipv6Addr) -> Option<Address> {
    let (b, ours) = (ip.octets(), six_plane(network, Address::ZERO).octets());
    (b[..SIX_PLANE_SHARED] == ours[..SIX_PLANE_SHARED]).then(|| Address::from_bytes([b[5], b[6], b[7], b[8], b[9]]))
}

/// The TAP device's name after `collisions` names were found taken: `zt` and eight base32 digits. Count up from 0
/// until the name is free. // spec: networks, "TAP device name (Linux)"
pub fn tap_name(network: NetworkId, collisions: u64) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let n = (network.0 ^ (network.0 >> 24)).wrapping_add(collisions);
    let digit = |i: u32| char::from(DIGITS[(n >> (5 * i)) as usize & 31]);
    "zt".chars().chain((0..8).rev().map(digit)).collect()
}

/// The configuration that a member of an ad-hoc network makes for itself. What is not here is the same in all of them:
/// public, [`AdHoc::MTU`], [`AdHoc::FLAGS`], [`AdHoc::REVISION`], [`AdHoc::CREDENTIAL_WINDOW_MS`].
// spec: networks, "Ad-hoc networks"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdHoc {
    /// Name shown to the operator.
    pub name: String,
    /// Our own addresses with their prefix lengths.
    pub static_ips: Vec<(IpAddr, u8)>,
    /// Most recipients of one multicast; 0 switches multicast off.
    pub multicast_limit: u32,
    /// Specialist entries: the hub's address without any role bit, so that it has no effect.
    pub specialists: Vec<u64>,
    /// Base rules in their binary form.
    pub rules: Vec<u8>,
}

/// Why an ad-hoc network has no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdHocRefusal {
    /// The last port is below the first: status NOT_FOUND.
    #[error("the port range of this ad-hoc network ends before it starts")]
    EmptyPortRange,
    /// Neither of the two known forms: a configuration will never come.
    #[error("no ad-hoc network has an ID of this form")]
    UnknownForm,
}

impl AdHoc {
    /// Virtual MTU, bytes.
    pub const MTU: u16 = 2800;
    /// Configuration flags: NDP emulation, no plain broadcast.
    pub const FLAGS: u64 = 0x4;
    /// Revision of every ad-hoc configuration.
    pub const REVISION: u64 = 1;
    /// `credentialTimeMaxDelta`, milliseconds.
    pub const CREDENTIAL_WINDOW_MS: u64 = 7_200_000;

    /// The configuration of `own` on `network`, an ID that starts with 0xff.
    pub fn configuration(network: NetworkId, own: Address) -> Result<AdHoc, AdHocRefusal> {
        let id = network.0.to_be_bytes();
        match id {
            [0xff, a, b, c, d, 0, 0, 0] => {
                let (first, last) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                if last < first {
                    Err(AdHocRefusal::EmptyPortRange)
                } else {
                    Ok(AdHoc::ports(network, own, first, last))
                }
            }
            [0xff, net, hub @ .., 1] => Ok(AdHoc::flat(network, own, net, [hub[0], hub[1], hub[2], hub[3], hub[4]])),
            _ => Err(AdHocRefusal::UnknownForm),
        }
    }

    /// IPv6 only; TCP and UDP only to ports `first..=last`.
    fn ports(network: NetworkId, own: Address, first: u16, last: u16) -> AdHoc {
        AdHoc {
            name: format!("adhoc-{first:04x}-{last:04x}"),
            static_ips: vec![(six_plane(network, own).into(), SIX_PLANE_BITS)],
            multicast_limit: 0,
            specialists: Vec::new(),
            rules: port_rules(first, last),
        }
    }

    /// Flat layer 2 with one IPv4 /8; the member's IPv4 address ends in the low three bytes of its own address.
    fn flat(network: NetworkId, own: Address, net: u8, hub: [u8; 5]) -> AdHoc {
        let [_, _, x, y, z] = own.to_bytes();
        let hub = Address::from_bytes(hub);
        AdHoc {
            name: format!("adhoc-{net}.0.0.0"),
            static_ips: vec![(six_plane(network, own).into(), SIX_PLANE_BITS), (Ipv4Addr::new(net, x, y, z).into(), 8)],
            multicast_limit: 1024,
            specialists: if hub == Address::ZERO { Vec::new() } else { vec![hub.to_u64()] },
            rules: vec![0x01, 0x00],
        }
    }
}

/// Fourteen rules: IPv6 only; ICMPv6; TCP and UDP to the ports; what belongs to a TCP connection that was let in.
fn port_rules(first: u16, last: u16) -> Vec<u8> {
    const TCP_SYN: u64 = 0x02;
    const TCP_ACK: u64 = 0x10;
    let [f0, f1] = first.to_be_bytes();
    let [l0, l1] = last.to_be_bytes();
    let mut rules = vec![
        0xa5, 2, 0x86, 0xdd, 0x00, 0, // not ethertype IPv6: drop
        0x24, 1, 58, 0x01, 0, // ICMPv6: accept
        0x24, 1, 17, 0x64, 1, 6, 0x28, 4, f0, f1, l0, l1, 0x01, 0, // UDP or TCP, port in range: accept
    ];
    rules.extend_from_slice(&[0xa9, 8]); // not TCP SYN: accept
    rules.extend_from_slice(&TCP_SYN.to_be_bytes());
    rules.extend_from_slice(&[0x01, 0]);
    rules.extend_from_slice(&[0x29, 8]); // SYN and ACK: accept
    rules.extend_from_slice(&TCP_SYN.to_be_bytes());
    rules.extend_from_slice(&[0x29, 8]);
    rules.extend_from_slice(&TCP_ACK.to_be_bytes());
    rules.extend_from_slice(&[0x01, 0, 0x00, 0]); // else drop
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId(0x01ec4f9b42d975c4);
    const MEMBER: Address = Address::from_u64(0xd7b0d1e499);

    #[test]
    fn an_overlay_address_names_its_owner() {
        assert_eq!(rfc4193_member(NETWORK, rfc4193(NETWORK, MEMBER)), Some(MEMBER));
        assert_eq!(six_plane_member(NETWORK, six_plane(NETWORK, MEMBER)), Some(MEMBER));
    }

    #[test]
    fn an_overlay_address_of_another_network_names_nobody() {
        let other = NetworkId(NETWORK.0 ^ 1);
        assert_eq!(rfc4193_member(other, rfc4193(NETWORK, MEMBER)), None);
        assert_eq!(six_plane_member(other, six_plane(NETWORK, MEMBER)), None);
    }

    #[test]
    fn the_whole_80_bit_block_of_6plane_belongs_to_one_member() {
        let ip: Ipv6Addr = "fc43:353a:5fd7:b0d1:e499:1234:5678:9abc".parse().unwrap();
        assert_eq!(six_plane_member(NETWORK, ip), Some(MEMBER));
    }

    #[test]
    fn an_interface_name_counts_its_collisions_in_its_last_digits() {
        let n = NetworkId(0x21fa727b1cffa933);
        assert_eq!(tap_name(n, 0), "ztllti3urp");
        assert_eq!(tap_name(n, 1), "ztllti3urq");
        assert_eq!(tap_name(n, u64::MAX), "ztllti3uro");
    }

    #[test]
    fn an_id_of_another_form_has_no_ad_hoc_configuration() {
        let refusal = |id| AdHoc::configuration(NetworkId(id), MEMBER).unwrap_err();
        assert_eq!(refusal(0xff00160016000002), AdHocRefusal::UnknownForm);
        assert_eq!(refusal(0x01ec4f9b42d975c4), AdHocRefusal::UnknownForm);
        assert_eq!(refusal(0xff23281f40000000), AdHocRefusal::EmptyPortRange);
    }
}
