//! WHOIS (0x04): asks for the identities of addresses.
//!
//! ```text
//! 0         5         10
//! +---------+---------+- - -
//! | address | address | ...
//! +---------+---------+- - -
//! ```
// spec: wire, "WHOIS (0x04)"

use crate::address::Address;
use crate::read::{Malformed, Reader};

/// Addresses whose identities are wanted. The reference asks for one a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whois {
    /// In the order the answer shall have.
    pub addresses: Vec<Address>,
}

impl Whois {
    /// Reads the addresses; up to 4 trailing bytes are ignored. Never malformed.
    pub fn parse(payload: &[u8]) -> Result<Whois, Malformed> {
        let r = &mut Reader::new(payload);
        let mut addresses = Vec::with_capacity(payload.len() / Address::LEN);
        while r.remaining() >= Address::LEN {
            addresses.push(Address::read(r)?);
        }
        Ok(Whois { addresses })
    }

    /// Writes the addresses.
    pub fn write(&self, out: &mut Vec<u8>) {
        super::write_addresses(&self.addresses, out);
    }
}
