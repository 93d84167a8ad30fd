//! Worlds: signed lists of roots. Knows their bytes, signatures and which revision replaces which; who may deliver one
//! is the node's business.
// spec: wire, "World (planet, moon)"

use std::net::SocketAddr;

use crate::address::Address;
use crate::endpoint;
use crate::identity::{Identity, PUB_LEN, SIG_LEN, SecretIdentity, Signature};
use crate::read::{Malformed, Reader};

/// The public ZeroTier planet shipped with 1.8.5 to 1.14.1: world 149604618, revision of 2022-02-11.
pub const DEFAULT_PLANET: &[u8] = include_bytes!("default-planet.bin");

/// Roots per world at most.
pub const WORLD_MAX_ROOTS: usize = 4;
/// Endpoints per root at most.
pub const WORLD_MAX_ENDPOINTS: usize = 32;
/// Bytes of a serialised world at most.
pub const WORLD_MAX_BYTES: usize = 8480;

const SIGNED_START: [u8; 8] = [0x7f; 8];
/// Not 0x7f, as it is for credentials.
const SIGNED_END: [u8; 8] = [0xf7; 8];

/// What kind of world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WorldKind {
    /// Parses, but is never used.
    Null = 0,
    /// The roots everybody has.
    Planet = 1,
    /// Further roots, chosen by the user.
    Moon = 127,
}

impl WorldKind {
    fn from_u8(number: u8) -> Option<WorldKind> {
        match number {
            0 => Some(WorldKind::Null),
            1 => Some(WorldKind::Planet),
            127 => Some(WorldKind::Moon),
            _ => None,
        }
    }
}

/// A root server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Who it is. Not validated by parsing.
    pub identity: Identity,
    /// Where it can always be reached, at most [`WORLD_MAX_ENDPOINTS`].
    pub endpoints: Vec<SocketAddr>,
}

/// A planet or a moon: 178 bytes and its roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Planet or moon.
    pub kind: WorldKind,
    /// World ID; of a moon by convention the address of its first root.
    pub id: u64,
    /// Revision, ms since 1970 of its maker's clock.
    pub timestamp: u64,
    /// Composite public key that must sign the next revision.
    pub update_key: [u8; PUB_LEN],
    /// Of this revision, by the key that the revision before names.
    pub signature: Signature,
    /// At most [`WORLD_MAX_ROOTS`].
    pub roots: Vec<Root>,
}

impl World {
    /// Makes a signed world. The address in `signer` does not matter, its key does: the one that the revision before
    /// names, or for a first revision the one whose public half is `update_key`.
    pub fn make(
        kind: WorldKind,
        id: u64,
        timestamp: u64,
        update_key: [u8; PUB_LEN],
        roots: Vec<Root>,
        signer: &SecretIdentity,
    ) -> World {
        let mut world = World { kind, id, timestamp, update_key, signature: Signature([0; SIG_LEN]), roots };
        world.signature = signer.sign(&world.signed_bytes());
        world
    }

    /// Reads a world that takes up all of `bytes`, as in a `planet` or `.moon` file.
    pub fn parse(bytes: &[u8]) -> Result<World, Malformed> {
        let r = &mut Reader::new(bytes);
        let world = World::read(r)?;
        if r.is_empty() { Ok(world) } else { Err(Malformed { what: "bytes after world" }) }
    }

    /// Reads one world. Endpoints of reserved types are not kept, so a world that has any does not verify.
    pub fn read(r: &mut Reader<'_>) -> Result<World, Malformed> {
        let start = r.position();
        let kind = WorldKind::from_u8(r.u8("world type")?).ok_or(Malformed { what: "world type" })?;
        let id = r.u64("world id")?;
        let timestamp = r.u64("world timestamp")?;
        let update_key = r.array("world update key")?;
        let signature = Signature::read(r)?;
        let count = usize::from(r.u8("root count")?);
        if count > WORLD_MAX_ROOTS {
            return Err(Malformed { what: "root count" });
        }
        let roots = (0..count).map(|_| Root::read(r)).collect::<Result<_, _>>()?;
        if kind == WorldKind::Moon {
            let len = r.u16("moon attachment")?;
            r.take(usize::from(len), "moon attachment")?;
        }
        if r.position() - start > WORLD_MAX_BYTES {
            return Err(Malformed { what: "world size" });
        }
        Ok(World { kind, id, timestamp, update_key, signature, roots })
    }

    /// Writes the world; of a moon with an empty attachment.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_head(out);
        out.extend_from_slice(&self.signature.0);
        self.write_roots(out);
    }

    /// [`World::write`] into a new buffer, for files.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write_head(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.update_key);
    }

    fn write_roots(&self, out: &mut Vec<u8>) {
        out.push(self.roots.len() as u8);
        for root in &self.roots {
            root.identity.write(out);
            out.push(root.endpoints.len() as u8);
            root.endpoints.iter().for_each(|&e| endpoint::write(Some(e), out));
        }
        if self.kind == WorldKind::Moon {
            out.extend_from_slice(&[0, 0]);
        }
    }

    /// What is signed: `7f x 8 || world without its signature || f7 x 8`.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = SIGNED_START.to_vec();
        self.write_head(&mut out);
        self.write_roots(&mut out);
        out.extend_from_slice(&SIGNED_END);
        out
    }

    /// Signed with the private half of `key`.
    pub fn verify(&self, key: &[u8; PUB_LEN]) -> bool {
        Identity::from_parts(Address::ZERO, *key).verify(&self.signed_bytes(), &self.signature)
    }

    /// Signed with the key that it names for its next revision: true of every first revision, until a key changes.
    pub fn is_self_signed(&self) -> bool {
        self.verify(&self.update_key)
    }

    /// Whether this world takes the place of `current`: the same world, newer, and signed with the key that `current`
    /// names. With no current world anything but a null world does; trust is then the caller's decision.
    pub fn replaces(&self, current: Option<&World>) -> bool {
        if self.kind == WorldKind::Null {
            return false;
        }
        let Some(current) = current else { return true };
        self.kind == current.kind
            && self.id == current.id
            && self.timestamp > current.timestamp
            && self.verify(&current.update_key)
    }
}

impl Root {
    fn read(r: &mut Reader<'_>) -> Result<Root, Malformed> {
        let identity = Identity::read(r)?;
        let count = usize::from(r.u8("endpoint count")?);
        if count > WORLD_MAX_ENDPOINTS {
            return Err(Malformed { what: "endpoint count" });
        }
        let mut endpoints = Vec::with_capacity(count);
        for _ in 0..count {
            endpoints.extend(endpoint::read(r)?);
        }
        Ok(Root { identity, endpoints })
    }
}
