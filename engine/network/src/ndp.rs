//! Answers neighbour solicitations for computed IPv6 addresses in the asking node itself, so that no multicast is
//! needed to resolve them. // spec: networks, "NDP emulation"

use std::net::{IpAddr, Ipv6Addr};

use wire::{Address, Mac};

use crate::addressing::{self, RFC4193_BITS, SIX_PLANE_BITS};
use crate::config::Config;
use crate::constants::{ETHERNET_HEADER, ETHERTYPE_IPV6};

const IPV6_HEADER: usize = 40;
const NEXT_HEADER_ICMPV6: u8 = 58;
const NEIGHBOR_SOLICIT: u8 = 0x87;
const NEIGHBOR_ADVERT: u8 = 0x88;
/// Solicited and override.
const ADVERT_FLAGS: u8 = 0x60;
/// ICMPv6 type to target, 24 bytes, and the target link-layer address option, 8 bytes.
const ADVERT_LEN: usize = 32;
/// A solicitation without options.
const SOLICITATION_LEN: usize = 64;

/// The advertisement, as an Ethernet frame for our TAP, that answers this multicast frame from our TAP; none if it is to
/// be sent like any other.
pub(crate) fn answer(config: &Config, own: Address, from: Mac, ethertype: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let solicits = config.has(Config::NDP_EMULATION)
        && ethertype == ETHERTYPE_IPV6
        && payload.len() >= SOLICITATION_LEN
        && payload[6] == NEXT_HEADER_ICMPV6
        && payload[IPV6_HEADER] == NEIGHBOR_SOLICIT;
    if !solicits {
        return None;
    }
    let target = Ipv6Addr::from(*payload[48..].first_chunk::<16>()?);
    let (ours, member) = config.addresses.iter().find_map(|prefix| {
        let IpAddr::V6(ours) = prefix.addr else { return None };
        let member_of = match prefix.bits {
            RFC4193_BITS => addressing::rfc4193_member,
            SIX_PLANE_BITS => addressing::six_plane_member,
            _ => return None,
        };
        member_of(config.network, ours)?;
        Some((ours, member_of(config.network, target)?))
    })?;
    (member != Address::ZERO && member != own)
        .then(|| advertisement(target, ours, Mac::of_member(config.network, member), from))
}

fn advertisement(target: Ipv6Addr, ours: Ipv6Addr, target_mac: Mac, to: Mac) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_HEADER + IPV6_HEADER + ADVERT_LEN);
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&target_mac.0);
    frame.extend_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    frame.extend_from_slice(&[0x60, 0, 0, 0, 0, ADVERT_LEN as u8, NEXT_HEADER_ICMPV6, 255]);
    frame.extend_from_slice(&target.octets());
    frame.extend_from_slice(&ours.octets());

    let mut icmp = vec![NEIGHBOR_ADVERT, 0, 0, 0, ADVERT_FLAGS, 0, 0, 0];
    icmp.extend_from_slice(&target.octets());
    icmp.extend_from_slice(&[2, 1]);
    icmp.extend_from_slice(&target_mac.0);
    let sum = checksum(target, ours, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&icmp);
    frame
}

/// ICMPv6 checksum with the IPv6 pseudo header.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, icmp: &[u8]) -> u16 {
    let words =
        |bytes: &[u8]| -> u32 { bytes.as_chunks::<2>().0.iter().map(|w| u32::from(u16::from_be_bytes(*w))).sum() };
    let pseudo = icmp.len() as u32 + u32::from(NEXT_HEADER_ICMPV6);
    let mut sum = words(&source.octets()) + words(&destination.octets()) + pseudo + words(icmp);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
