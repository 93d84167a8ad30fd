//! OK (0x03): a request succeeded. [`OkMessage`] is the frame of all of them; the others are its `body`, by the verb it
//! answers. OK(ECHO) is an [`Echo`](super::Echo), OK(NETWORK_CONFIG_REQUEST) a
//! [`ConfigChunk`](crate::chunk::ConfigChunk).
//!
//! ```text
//!                  0      1           9
//!                  +------+-----------+- - - -
//!                  | verb | packet id | body      (body offsets below)
//!                  +------+-----------+- - - -
//! HELLO            0           8    9    10   11    13             +2
//!                  +-----------+----+----+----+-----+--------------+---+--------+
//!                  | timestamp | pv | maj| min| rev | from 1/7/19  | w | worlds |
//!                  +-----------+----+----+----+-----+--------------+---+--------+
//! WHOIS            identities of 71 bytes to the end
//! EXT_FRAME        network 8
//! GATHER           network 8, group 10, total 4, count 2, count x 5
//! NETWORK_CONFIG   network 8, update id 8
//! MULTICAST_FRAME  network 8, group 10, flags 1, (COM), (total 4, count 2, count x 5)
//! ```
// spec: wire, "OK payloads (verb 0x03)"

use std::net::SocketAddr;

use super::InRe;
use super::hello::Version;
use super::multicast::{Gathered, write_group};
use crate::address::{MulticastGroup, NetworkId};
use crate::credential::Com;
use crate::endpoint;
use crate::identity::Identity;
use crate::read::{Malformed, Reader};
use crate::world::World;

/// Any OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OkMessage<'a> {
    /// What it answers. For NETWORK_CONFIG the reference claims ECHO here: accept both.
    pub in_re: InRe,
    /// By the verb it answers.
    pub body: &'a [u8],
}

impl<'a> OkMessage<'a> {
    /// Reads the frame of an OK.
    pub fn parse(payload: &'a [u8]) -> Result<OkMessage<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        Ok(OkMessage { in_re: InRe::read(r)?, body: r.rest() })
    }

    /// Writes the OK. To write a body in place, write this with an empty one and go on.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.in_re.write(out);
        out.extend_from_slice(self.body);
    }
}

/// OK(HELLO). Everything after the version may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OkHello<'a> {
    /// Copied from the HELLO.
    pub timestamp: u64,
    /// What the responder runs; a protocol below 4 makes receivers ignore the OK.
    pub version: Version,
    /// Where the HELLO came from, as the responder saw it. Port 0 if the asker's protocol version is below 5.
    pub seen_from: Option<SocketAddr>,
    /// Serialised worlds back to back; [`OkHello::worlds`] reads them.
    pub worlds: &'a [u8],
}

impl<'a> OkHello<'a> {
    /// Reads the body; bytes after the worlds are ignored.
    pub fn parse(body: &'a [u8]) -> Result<OkHello<'a>, Malformed> {
        let r = &mut Reader::new(body);
        let timestamp = r.u64("ok hello timestamp")?;
        let version = Version::read(r)?;
        let seen_from = if r.is_empty() { None } else { endpoint::read(r)? };
        let worlds = match r.is_empty() {
            true => &[],
            false => {
                let len = r.u16("worlds length")?;
                r.take(usize::from(len), "worlds")?
            }
        };
        Ok(OkHello { timestamp, version, seen_from, worlds })
    }

    /// The worlds in it. Stops after the first malformed one.
    pub fn worlds(&self) -> impl Iterator<Item = Result<World, Malformed>> + use<'a> {
        let mut rest = Reader::new(self.worlds);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let world = World::read(&mut rest);
            if world.is_err() {
                rest = Reader::new(&[]);
            }
            Some(world)
        })
    }

    /// Writes the body; at most 65535 bytes of worlds.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        self.version.write(out);
        endpoint::write(self.seen_from, out);
        let worlds = if self.worlds.len() > usize::from(u16::MAX) { &[] } else { self.worlds };
        out.extend_from_slice(&(worlds.len() as u16).to_be_bytes());
        out.extend_from_slice(worlds);
    }
}

/// OK(WHOIS).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OkWhois {
    /// Not validated by parsing.
    pub identities: Vec<Identity>,
}

impl OkWhois {
    /// Reads at least one identity; what follows the last good one is ignored.
    pub fn parse(body: &[u8]) -> Result<OkWhois, Malformed> {
        let r = &mut Reader::new(body);
        let mut identities = vec![Identity::read(r)?];
        identities.extend(std::iter::from_fn(|| Identity::read(r).ok()));
        Ok(OkWhois { identities })
    }

    /// Writes the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.identities.iter().for_each(|identity| identity.write(out));
    }
}

/// OK(EXT_FRAME): the frame that asked for it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OkExtFrame {
    /// The network it travelled on.
    pub network: NetworkId,
}

impl OkExtFrame {
    /// Reads the body; bytes after it are ignored.
    pub fn parse(body: &[u8]) -> Result<OkExtFrame, Malformed> {
        Ok(OkExtFrame { network: NetworkId::read(&mut Reader::new(body))? })
    }

    /// Writes the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
    }
}

/// OK(MULTICAST_GATHER).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OkGather {
    /// The network.
    pub network: NetworkId,
    /// The group.
    pub group: MulticastGroup,
    /// Its members; never the asker.
    pub gathered: Gathered,
}

impl OkGather {
    /// Reads the body; bytes after it are ignored.
    pub fn parse(body: &[u8]) -> Result<OkGather, Malformed> {
        let r = &mut Reader::new(body);
        Ok(OkGather { network: NetworkId::read(r)?, group: MulticastGroup::read(r)?, gathered: Gathered::read(r)? })
    }

    /// Writes the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        write_group(&self.group, out);
        self.gathered.write(out);
    }
}

/// OK for NETWORK_CONFIG: a pushed configuration is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OkNetworkConfig {
    /// The network.
    pub network: NetworkId,
    /// Update ID of its chunks.
    pub update_id: u64,
}

impl OkNetworkConfig {
    /// Reads the body; bytes after it are ignored.
    pub fn parse(body: &[u8]) -> Result<OkNetworkConfig, Malformed> {
        let r = &mut Reader::new(body);
        Ok(OkNetworkConfig { network: NetworkId::read(r)?, update_id: r.u64("update id")? })
    }

    /// Writes the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.extend_from_slice(&self.update_id.to_be_bytes());
    }
}

/// OK(MULTICAST_FRAME): further members of the group, for a frame with a gather limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OkMulticastFrame {
    /// The network.
    pub network: NetworkId,
    /// The group.
    pub group: MulticastGroup,
    /// The responder's certificate; legacy.
    pub com: Option<Com>,
    /// Members of the group.
    pub gathered: Option<Gathered>,
}

impl OkMulticastFrame {
    const COM: u8 = 0x01;
    const GATHERED: u8 = 0x02;

    /// Reads the body; bytes after it are ignored.
    pub fn parse(body: &[u8]) -> Result<OkMulticastFrame, Malformed> {
        let r = &mut Reader::new(body);
        let network = NetworkId::read(r)?;
        let group = MulticastGroup::read(r)?;
        let flags = r.u8("ok multicast frame flags")?;
        let com = if flags & OkMulticastFrame::COM != 0 { Some(Com::read(r)?) } else { None };
        let gathered = if flags & OkMulticastFrame::GATHERED != 0 { Some(Gathered::read(r)?) } else { None };
        Ok(OkMulticastFrame { network, group, com, gathered })
    }

    /// Writes the body.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        write_group(&self.group, out);
        let com = if self.com.is_some() { OkMulticastFrame::COM } else { 0 };
        let gathered = if self.gathered.is_some() { OkMulticastFrame::GATHERED } else { 0 };
        out.push(com | gathered);
        if let Some(com) = &self.com {
            com.write(out);
        }
        if let Some(gathered) = &self.gathered {
            gathered.write(out);
        }
    }
}
