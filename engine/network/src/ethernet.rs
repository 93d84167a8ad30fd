//! An Ethernet frame as TAPs give and take it. Knows its header, nothing of networks.

use wire::{Address, Mac};

use crate::constants::{ETHERNET_HEADER, ETHERTYPE_ARP};
use crate::rules;

/// A frame, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ethernet<'a> {
    pub to: Mac,
    pub from: Mac,
    pub ethertype: u16,
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Destination, source, ethertype, payload. VLAN tags are part of the payload.
    pub fn parse(frame: &'a [u8]) -> Option<Ethernet<'a>> {
        let (header, payload) = frame.split_at_checked(ETHERNET_HEADER)?;
        let mac = |at: usize| header[at..].first_chunk().copied().map(Mac);
        let ethertype = u16::from_be_bytes(*header[12..].first_chunk()?);
        Some(Ethernet { to: mac(0)?, from: mac(6)?, ethertype, payload })
    }

    /// Asks for the MAC of an IPv4 address. // spec: networks, "IPv4 ARP"
    pub fn is_arp_request(&self) -> bool {
        self.ethertype == ETHERTYPE_ARP
            && self.payload.len() >= 28
            && matches!(self.payload, [_, _, 0x08, 0x00, 6, 4, _, 1, ..])
    }

    pub fn to_vec(self) -> Vec<u8> {
        [&self.to.0[..], &self.from.0, &self.ethertype.to_be_bytes(), self.payload].concat()
    }

    pub fn for_rules(self, source: Address, destination: Address) -> rules::Frame<'a> {
        rules::Frame {
            source,
            destination,
            mac_source: self.from,
            mac_destination: self.to,
            ethertype: self.ethertype,
            payload: self.payload,
        }
    }
}
