//! NETWORK_CREDENTIALS (0x0a): certificates, capabilities, tags and revocations of any number of networks.
//!
//! ```text
//! +------+- - -+----+-------+--------------+-------+------+-------+-------------+-------+------------+
//! | COM  | ... | 00 | count | capabilities | count | tags | count | revocations | count | ownerships |
//! +------+- - -+----+-------+--------------+-------+------+-------+-------------+-------+------------+
//! ```
//! It may end before any of the counts, and legacy ones before the 00. Counts are u16.
// spec: wire, "NETWORK_CREDENTIALS (0x0a)"

use crate::credential::{Capability, Com, Ownership, Revocation, Tag};
use crate::read::{Malformed, Reader};

/// Credentials to be filed, each by its own signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Certificates of membership.
    pub coms: Vec<Com>,
    /// Capabilities.
    pub capabilities: Vec<Capability>,
    /// Tags.
    pub tags: Vec<Tag>,
    /// Revocations.
    pub revocations: Vec<Revocation>,
    /// Certificates of ownership.
    pub ownerships: Vec<Ownership>,
}

impl Credentials {
    /// Reads the sections that are there; bytes after the last one are ignored.
    pub fn parse(payload: &[u8]) -> Result<Credentials, Malformed> {
        let r = &mut Reader::new(payload);
        let mut all = Credentials::default();
        while let Some(&next) = r.rest().first() {
            if next == 0 {
                r.u8("end of certificates")?;
                break;
            }
            all.coms.push(Com::read(r)?);
        }
        all.capabilities = section(r, Capability::read)?;
        all.tags = section(r, Tag::read)?;
        all.revocations = section(r, Revocation::read)?;
        all.ownerships = section(r, Ownership::read)?;
        Ok(all)
    }

    /// Writes every section, empty ones too.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.coms.iter().for_each(|com| com.write(out));
        out.push(0);
        write_section(&self.capabilities, Capability::write, out);
        write_section(&self.tags, Tag::write, out);
        write_section(&self.revocations, Revocation::write, out);
        write_section(&self.ownerships, Ownership::write, out);
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Credentials::default()
    }
}

fn section<T>(r: &mut Reader<'_>, read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
    if r.is_empty() {
        return Ok(Vec::new());
    }
    let count = r.u16("credential count")?;
    (0..count).map(|_| read(r)).collect()
}

fn write_section<T>(items: &[T], write: impl Fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    out.extend_from_slice(&(items.len() as u16).to_be_bytes());
    items.iter().for_each(|item| write(item, out));
}
