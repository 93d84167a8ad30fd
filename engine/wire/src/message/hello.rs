//! HELLO (0x01): introduces the sender. The one message that is sent in clear; from the moons on it is obscured.
//!
//! ```text
//! 0    1    2    3       5          13            84              +8          +16
//! +----+----+----+-------+----------+-------------+---------------+-----------+-----------+- - - - - -+
//! | pv | maj| min| rev   | timestamp| identity 71 | sent to 1/7/19| planet id | planet ts | tail      |
//! +----+----+----+-------+----------+-------------+---------------+-----------+-----------+- - - - - -+
//! tail (obscured; see Keys::obscure_hello_tail)
//! 0       2
//! +-------+----------------------------------+
//! | count | count x (type 1, id 8, timestamp 8)|
//! +-------+----------------------------------+
//! ```
// spec: wire, "HELLO (0x01)"

use std::net::SocketAddr;

use crate::endpoint;
use crate::identity::Identity;
use crate::read::{Malformed, Reader};

/// What a node says it runs. Only `protocol` has an effect on others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version {
    /// Protocol version; below 4 is refused.
    pub protocol: u8,
    /// Software major version.
    pub major: u8,
    /// Software minor version.
    pub minor: u8,
    /// Software revision.
    pub revision: u16,
}

impl Version {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Version, Malformed> {
        Ok(Version {
            protocol: r.u8("protocol version")?,
            major: r.u8("major version")?,
            minor: r.u8("minor version")?,
            revision: r.u16("revision")?,
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.protocol, self.major, self.minor]);
        out.extend_from_slice(&self.revision.to_be_bytes());
    }
}

/// Which revision of a world its sender holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorldRevision {
    /// World ID.
    pub id: u64,
    /// Revision, ms; 0 = wanted, not held.
    pub timestamp: u64,
}

/// A HELLO up to the obscured tail. Everything after the identity may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// What the sender runs.
    pub version: Version,
    /// The sender's clock, ms; echoed in the OK, otherwise meaningless.
    pub timestamp: u64,
    /// Who sends. Neither validated nor compared with the packet's source here.
    pub identity: Identity,
    /// Where this HELLO was physically sent to.
    pub sent_to: Option<SocketAddr>,
    /// The sender's planet.
    pub planet: Option<WorldRevision>,
    /// What follows, as it is in the payload: obscured on the wire. [`HelloTail`] reads it in clear.
    pub tail: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Reads a HELLO. Fewer than 16 bytes after the physical address are tail.
    pub fn parse(payload: &'a [u8]) -> Result<Hello<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        let version = Version::read(r)?;
        let timestamp = r.u64("hello timestamp")?;
        let identity = Identity::read(r)?;
        let sent_to = if r.is_empty() { None } else { endpoint::read(r)? };
        let planet = match r.remaining() {
            0..16 => None,
            _ => Some(WorldRevision { id: r.u64("planet id")?, timestamp: r.u64("planet timestamp")? }),
        };
        Ok(Hello { version, timestamp, identity, sent_to, planet, tail: r.rest() })
    }

    /// Writes the HELLO; `tail` as it is. The physical address is always written, as type 0 if there is none.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.version.write(out);
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        self.identity.write(out);
        endpoint::write(self.sent_to, out);
        if let Some(planet) = &self.planet {
            out.extend_from_slice(&planet.id.to_be_bytes());
            out.extend_from_slice(&planet.timestamp.to_be_bytes());
        }
        out.extend_from_slice(self.tail);
    }
}

/// The tail of a HELLO in clear: the moons its sender holds, then those it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloTail {
    /// Bounded by the packet: 65535 entries at most.
    pub moons: Vec<WorldRevision>,
}

impl HelloTail {
    const MOON: u8 = 127;

    /// Reads a tail that is no longer obscured. An empty one names no moons; entries that are no moons are left out;
    /// bytes after the last entry are ignored.
    pub fn parse(tail: &[u8]) -> Result<HelloTail, Malformed> {
        let r = &mut Reader::new(tail);
        if r.is_empty() {
            return Ok(HelloTail::default());
        }
        let mut moons = Vec::new();
        for _ in 0..r.u16("moon count")? {
            let kind = r.u8("moon type")?;
            let moon = WorldRevision { id: r.u64("moon id")?, timestamp: r.u64("moon timestamp")? };
            if kind == HelloTail::MOON {
                moons.push(moon);
            }
        }
        Ok(HelloTail { moons })
    }

    /// Writes the tail in clear.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.moons.len() as u16).to_be_bytes());
        for moon in &self.moons {
            out.push(HelloTail::MOON);
            out.extend_from_slice(&moon.id.to_be_bytes());
            out.extend_from_slice(&moon.timestamp.to_be_bytes());
        }
    }
}
