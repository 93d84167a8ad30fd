//! Signed chunks of a network configuration. Knows one chunk's bytes and signature; putting chunks together and
//! believing them is the network's business.
//!
//! ```text
//! 0        8   10      10+c    11+c        19+c    23+c    27+c  28+c  30+c
//! +--------+---+-------+-------+-----------+-------+-------+-----+-----+-----------+
//! | network| c | data  | flags | update id | total | index | 0x01|  96 | signature |
//! +--------+---+-------+-------+-----------+-------+-------+-----+-----+-----------+
//! '------------------------- signed ---------------------- '
//! ```
// spec: wire, "NETWORK_CONFIG (0x0c) and configuration chunks"

use crate::address::NetworkId;
use crate::dictionary::CONFIG_DICT;
use crate::identity::{Identity, SIG_LEN, SecretIdentity, Signature};
use crate::read::{Malformed, Reader};

/// Bytes of configuration that a sender puts into one chunk at most: 10024 - 28 - 256.
pub const MAX_CHUNK_DATA: usize = 9740;

const SIGNATURE_TYPE: u8 = 1;
const SIGNATURE_LEN: u16 = SIG_LEN as u16;

/// The payload of NETWORK_CONFIG, and of OK(NETWORK_CONFIG_REQUEST) after its reply prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChunk<'a> {
    /// Whose configuration.
    pub network: NetworkId,
    /// Bytes `index..index + data.len()` of the dictionary.
    pub data: &'a [u8],
    /// [`ConfigChunk::FAST_PROPAGATE`] or 0.
    pub flags: u8,
    /// The same in all chunks of one configuration, never 0.
    pub update_id: u64,
    /// Bytes of the whole dictionary.
    pub total: u32,
    /// Byte offset of this chunk in the dictionary.
    pub index: u32,
    /// None: a legacy configuration in one unsigned chunk, acceptable from the controller itself only.
    pub signature: Option<Signature>,
}

impl<'a> ConfigChunk<'a> {
    /// Flag: members pass the chunk on to one another.
    pub const FAST_PROPAGATE: u8 = 0x01;

    /// Reads a chunk; bytes after it are ignored. A payload that ends after the data is the legacy form and yields
    /// `total` = its length, `index` = 0 and no signature.
    pub fn parse(payload: &'a [u8]) -> Result<ConfigChunk<'a>, Malformed> {
        let r = &mut Reader::new(payload);
        let network = NetworkId::read(r)?;
        let len = r.u16("chunk length")?;
        let data = r.take(usize::from(len), "chunk data")?;
        if r.is_empty() {
            let total = u32::from(len);
            return Ok(ConfigChunk { network, data, flags: 0, update_id: 0, total, index: 0, signature: None });
        }
        let flags = r.u8("chunk flags")?;
        let update_id = r.u64("chunk update id")?;
        let total = r.u32("chunk total")?;
        let index = r.u32("chunk index")?;
        if r.u8("chunk signature type")? != SIGNATURE_TYPE || r.u16("chunk signature length")? != SIGNATURE_LEN {
            return Err(Malformed { what: "chunk signature type or length" });
        }
        let signature = Some(Signature::read(r)?);
        let end = u64::from(index) + u64::from(len);
        if end > u64::from(total) || total as usize >= CONFIG_DICT {
            return Err(Malformed { what: "chunk place" });
        }
        Ok(ConfigChunk { network, data, flags, update_id, total, index, signature })
    }

    /// Writes the chunk; without a signature the legacy form. `data` beyond 65535 bytes is cut.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Some(signature) = &self.signature else { return self.write_data(out) };
        self.write_signed(out);
        out.push(SIGNATURE_TYPE);
        out.extend_from_slice(&SIGNATURE_LEN.to_be_bytes());
        out.extend_from_slice(&signature.0);
    }

    fn write_data(&self, out: &mut Vec<u8>) {
        let data = &self.data[..self.data.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
    }

    fn write_signed(&self, out: &mut Vec<u8>) {
        self.write_data(out);
        out.push(self.flags);
        out.extend_from_slice(&self.update_id.to_be_bytes());
        out.extend_from_slice(&self.total.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
    }

    /// What is signed: network to index, flags included.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 27);
        self.write_signed(&mut out);
        out
    }

    /// Signs it, replacing any signature.
    pub fn sign(&mut self, by: &SecretIdentity) {
        self.signature = Some(by.sign(&self.signed_bytes()));
    }

    /// Signed by `controller`, who is the controller of its network. The legacy form never verifies.
    pub fn verify(&self, controller: &Identity) -> bool {
        controller.address() == self.network.controller()
            && self.signature.as_ref().is_some_and(|s| controller.verify(&self.signed_bytes(), s))
    }
}
