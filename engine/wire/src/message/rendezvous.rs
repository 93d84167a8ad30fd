//! RENDEZVOUS (0x05): an upstream tells where a peer may be met. The port comes before the address.
//!
//! ```text
//! 0       1      6      8     9
//! +-------+------+------+-----+----------+
//! | flags | peer | port | len | ip 4/16  |
//! +-------+------+------+-----+----------+
//! ```
// spec: wire, "RENDEZVOUS (0x05)"

use std::net::SocketAddr;

use crate::address::Address;
use crate::endpoint;
use crate::read::{Malformed, Reader};

/// A hint where a peer can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rendezvous {
    /// 0; ignored.
    pub flags: u8,
    /// The peer to contact.
    pub peer: Address,
    /// Where. None if the port is 0 or the address of another length than 4 or 16: then there is nothing to do.
    pub endpoint: Option<SocketAddr>,
}

impl Rendezvous {
    /// Reads a hint; bytes after it are ignored.
    pub fn parse(payload: &[u8]) -> Result<Rendezvous, Malformed> {
        let r = &mut Reader::new(payload);
        let flags = r.u8("rendezvous flags")?;
        let peer = Address::read(r)?;
        let port = r.u16("rendezvous port")?;
        let ip = match r.u8("rendezvous address length")? {
            4 => Some(endpoint::read_v4(r)?),
            16 => Some(endpoint::read_v6(r)?),
            _ => None,
        };
        let endpoint = ip.filter(|_| port > 0).map(|ip| SocketAddr::new(ip, port));
        Ok(Rendezvous { flags, peer, endpoint })
    }

    /// Writes the hint: 17 or 29 bytes with an endpoint.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.flags);
        out.extend_from_slice(&self.peer.to_bytes());
        out.extend_from_slice(&self.endpoint.map_or(0, |e| e.port()).to_be_bytes());
        let Some(endpoint) = self.endpoint else { return out.push(0) };
        out.push(if endpoint.is_ipv4() { 4 } else { 16 });
        endpoint::write_ip(endpoint.ip(), out);
    }
}
