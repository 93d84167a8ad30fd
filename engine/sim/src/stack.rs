//! The little of an IP host that tests need behind a TAP: it answers ARP requests and pings for one IPv4 address. Also
//! the frames to ask with.

use std::net::Ipv4Addr;

use wire::Mac;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;

/// One IPv4 host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Its MAC.
    pub mac: Mac,
    /// Its address.
    pub ip: Ipv4Addr,
}

/// An Ethernet frame.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// Who has `wanted`?
pub fn arp_request(from: Stack, wanted: Ipv4Addr) -> Vec<u8> {
    ethernet(Mac::BROADCAST, from.mac, ARP, &arp(1, from, Mac([0; 6]), wanted))
}

fn arp(operation: u8, from: Stack, to_mac: Mac, to_ip: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
    [&fixed[..], &from.mac.0, &from.ip.octets(), &to_mac.0, &to_ip.octets()].concat()
}

/// A ping with this many bytes of data; `number` tells it from others.
pub fn icmp_echo(from: Stack, to: Stack, number: u16, len: usize) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0, 1];
    icmp.extend_from_slice(&number.to_be_bytes());
    icmp.extend(std::iter::repeat_n(0x5a, len));
    ethernet(to.mac, from.mac, IPV4, &ipv4(from.ip, to.ip, &icmp))
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(payload);
    packet
}

impl Stack {
    /// The answer to an ARP request or ping for this host.
    pub fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let (header, payload) = frame.split_at_checked(14)?;
        let from = Mac(header[6..12].try_into().ok()?);
        match u16::from_be_bytes([header[12], header[13]]) {
            ARP if payload.len() >= 28 && payload[7] == 1 && payload[24..28] == self.ip.octets() => {
                let asker: [u8; 4] = payload[14..18].try_into().ok()?;
                Some(ethernet(from, self.mac, ARP, &arp(2, *self, from, asker.into())))
            }
            IPV4 if payload.len() >= 28
                && payload[9] == 1
                && payload[20] == 8
                && payload[16..20] == self.ip.octets() =>
            {
                let asker: [u8; 4] = payload[12..16].try_into().ok()?;
                let mut icmp = payload[20..].to_vec();
                icmp[0] = 0;
                Some(ethernet(from, self.mac, IPV4, &ipv4(self.ip, asker.into(), &icmp)))
            }
            _ => None,
        }
    }

    /// The number of the ping that this frame answers to us.
    pub fn pong(&self, frame: &[u8]) -> Option<u16> {
        let (header, payload) = frame.split_at_checked(14)?;
        let answers = header[..6] == self.mac.0 && header[12..14] == IPV4.to_be_bytes() && payload.len() >= 28;
        (answers && payload[9] == 1 && payload[20] == 0).then(|| u16::from_be_bytes([payload[26], payload[27]]))
    }

    /// The MAC that this frame, an ARP answer to us, tells for `ip`.
    pub fn arp_answer(&self, frame: &[u8], ip: Ipv4Addr) -> Option<Mac> {
        let (header, payload) = frame.split_at_checked(14)?;
        let answers = header[..6] == self.mac.0 && header[12..14] == ARP.to_be_bytes() && payload.len() >= 28;
        (answers && payload[7] == 2 && payload[14..18] == ip.octets())
            .then(|| Mac(payload[8..14].try_into().unwrap_or_default()))
    }
}
