//! What travels between nodes and is no packet: NAT openers, legacy LAN beacons, and the records of a TCP relay. Knows
//! the bytes only; none of them is authenticated.
//!
//! ```text
//! beacon       0           8         13        TCP record  0            3     5
//!              +-----------+---------+                     +------------+-----+- - - - - -
//!              | arbitrary | address |                     | 17  03  03 | len | body
//!              +-----------+---------+                     +------------+-----+- - - - - -
//! body         greeting: major 1, minor 1, revision 2      data: InetAddress 1/7/19, datagram
//! ```
// spec: wire, "Datagrams that are not packets"; paths, "TCP fallback"

use std::net::SocketAddr;

use crate::address::Address;
use crate::endpoint;
use crate::packet::BEACON_LEN;
use crate::read::{Malformed, Reader};

/// Bytes of the datagram that opens a NAT mapping on RENDEZVOUS; they are random.
pub const NAT_OPENER_LEN: usize = 4;
/// IP time to live of that datagram, hops: it need not arrive.
pub const NAT_OPENER_TTL: u8 = 2;

/// A legacy LAN beacon. Nobody sends it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Beacon {
    /// Anything.
    pub arbitrary: [u8; 8],
    /// Who claims to be there.
    pub address: Address,
}

impl Beacon {
    /// Reads exactly 13 bytes.
    pub fn parse(datagram: &[u8]) -> Result<Beacon, Malformed> {
        if datagram.len() != BEACON_LEN {
            return Err(Malformed { what: "beacon length" });
        }
        let r = &mut Reader::new(datagram);
        Ok(Beacon { arbitrary: r.array("beacon")?, address: Address::read(r)? })
    }

    /// Writes the 13 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.arbitrary);
        out.extend_from_slice(&self.address.to_bytes());
    }
}

const RECORD: [u8; 3] = [0x17, 0x03, 0x03];

/// The body of the first whole record in `stream` and the bytes that the record takes; none if it is not complete yet.
/// A record has at most 5 + 65535 bytes.
pub fn tcp_record(stream: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    if !RECORD.starts_with(&stream[..stream.len().min(RECORD.len())]) {
        return Err(Malformed { what: "tcp record" });
    }
    let r = &mut Reader::new(stream);
    let body = r.take(RECORD.len(), "").and_then(|_| r.u16("")).and_then(|len| r.take(usize::from(len), ""));
    Ok(body.ok().map(|body| (body, r.position())))
}

fn write_record(body: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    out.extend_from_slice(&RECORD);
    let len_at = out.len();
    out.extend_from_slice(&[0, 0]);
    body(out);
    let len = (out.len() - len_at - 2) as u16;
    out[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
}

/// The first record from a client to a relay: its software version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpGreeting {
    /// Software major version.
    pub major: u8,
    /// Software minor version.
    pub minor: u8,
    /// Software revision.
    pub revision: u16,
}

impl TcpGreeting {
    /// Reads the body of a greeting; bytes after it are ignored.
    pub fn parse(body: &[u8]) -> Result<TcpGreeting, Malformed> {
        let r = &mut Reader::new(body);
        Ok(TcpGreeting { major: r.u8("major version")?, minor: r.u8("minor version")?, revision: r.u16("revision")? })
    }

    /// Writes the whole record.
    pub fn write(&self, out: &mut Vec<u8>) {
        let revision = self.revision.to_be_bytes();
        write_record(|out| out.extend_from_slice(&[self.major, self.minor, revision[0], revision[1]]), out);
    }
}

/// A datagram on its way through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpRelayed<'a> {
    /// Where it goes to, towards the relay; where it came from, from the relay. None: to be ignored.
    pub endpoint: Option<SocketAddr>,
    /// A packet or fragment; at most 65516 bytes.
    pub datagram: &'a [u8],
}

impl<'a> TcpRelayed<'a> {
    /// Reads the body of a data record.
    pub fn parse(body: &'a [u8]) -> Result<TcpRelayed<'a>, Malformed> {
        let r = &mut Reader::new(body);
        Ok(TcpRelayed { endpoint: endpoint::read(r)?, datagram: r.rest() })
    }

    /// Writes the whole record, if the datagram fits one.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.datagram.len() <= usize::from(u16::MAX) - endpoint::MAX_ENDPOINT_LEN {
            write_record(
                |out| {
                    endpoint::write(self.endpoint, out);
                    out.extend_from_slice(self.datagram);
                },
                out,
            );
        }
    }
}
