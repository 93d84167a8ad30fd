//! The signed objects of a network: certificates of membership, tags, capabilities, revocations and certificates of
//! ownership. Knows their bytes and signatures; whether one is current, revoked or usable is the network's business.

use std::net::IpAddr;

use crate::address::{Address, Mac, NetworkId};
use crate::identity::{Identity, SIG_LEN, SecretIdentity, Signature};
use crate::read::{Malformed, Reader};
use crate::rule::{CAP_MAX_RULES, RuleTable};

/// Qualifiers per certificate of membership at most.
pub const COM_MAX_QUALIFIERS: usize = 8;
/// Links in a capability's chain of custody at most.
pub const CAP_MAX_CUSTODY: u8 = 7;
/// Things per certificate of ownership at most.
pub const COO_MAX_THINGS: usize = 16;

/// The only signature type there is: Ed25519 with the truncated SHA-512 appended.
const SIGNATURE_TYPE: u8 = 1;
const UNSIGNED: [u8; SIG_LEN] = [0; SIG_LEN];
const SIGNED_START: [u8; 8] = [0x7f; 8];
const SIGNED_END: [u8; 8] = [0x7f; 8];
const NO_ADDITIONAL_FIELDS: [u8; 2] = [0, 0];

/// Type, length, signature. Another type than 1 is skipped: the object then has no valid signature. Neither has an
/// unsigned one, which carries 96 zero bytes.
// spec: wire, "Tag" (the signature block of all four objects)
fn read_signature(r: &mut Reader<'_>) -> Result<Option<Signature>, Malformed> {
    let kind = r.u8("signature type")?;
    let len = r.u16("signature length")?;
    if kind != SIGNATURE_TYPE {
        return r.take(usize::from(len), "signature of an unknown type").map(|_| None);
    }
    if usize::from(len) != SIG_LEN {
        return Err(Malformed { what: "signature length" });
    }
    let signature = Signature::read(r)?;
    Ok((signature.0 != UNSIGNED).then_some(signature))
}

fn write_signature(signature: Option<&Signature>, out: &mut Vec<u8>) {
    out.push(SIGNATURE_TYPE);
    out.extend_from_slice(&(SIG_LEN as u16).to_be_bytes());
    out.extend_from_slice(signature.map_or(&UNSIGNED, |s| &s.0));
}

fn skip_additional_fields(r: &mut Reader<'_>) -> Result<(), Malformed> {
    let len = r.u16("additional fields")?;
    r.take(usize::from(len), "additional fields").map(|_| ())
}

/// `7f x 8 || body || 0000 || 7f x 8`, the scheme of all credentials but the certificate of membership.
fn signed_bytes(body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = SIGNED_START.to_vec();
    body(&mut out);
    out.extend_from_slice(&NO_ADDITIONAL_FIELDS);
    out.extend_from_slice(&SIGNED_END);
    out
}

/// `signer` is the controller of `network`, is who the object names, and signed it.
fn holds(
    network: NetworkId,
    named: Address,
    signature: Option<&Signature>,
    signer: &Identity,
    signed: impl FnOnce() -> Vec<u8>,
) -> bool {
    named == network.controller() && named == signer.address() && signature.is_some_and(|s| signer.verify(&signed(), s))
}

/// One statement of a certificate of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Qualifier {
    /// What is stated; [`Com`] names the known ones.
    pub id: u64,
    /// The statement.
    pub value: u64,
    /// By how much another member's value may differ.
    pub max_delta: u64,
}

/// Certificate of membership: 8 + 24 q bytes, and 96 more if signed.
// spec: wire, "Certificate of membership (COM)"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Com {
    /// At most [`COM_MAX_QUALIFIERS`], ids in non-decreasing order.
    pub qualifiers: Vec<Qualifier>,
    /// Who signed; zero if nobody did.
    pub signer: Address,
    /// Present exactly if the signer is not zero.
    pub signature: Option<Signature>,
}

impl Com {
    /// Qualifier: time of issue, ms.
    pub const TIMESTAMP: u64 = 0;
    /// Qualifier: network.
    pub const NETWORK: u64 = 1;
    /// Qualifier: address of the holder.
    pub const ISSUED_TO: u64 = 2;
    /// Qualifiers: the four words of the holder's identity hash.
    pub const IDENTITY_HASH: [u64; 4] = [3, 4, 5, 6];

    /// An unsigned certificate as today's controllers issue it: 7 qualifiers, 272 bytes once signed. Other members'
    /// timestamps may differ by `max_delta_ms`.
    pub fn new(network: NetworkId, holder: &Identity, timestamp_ms: u64, max_delta_ms: u64) -> Com {
        let fixed = |id, value| Qualifier { id, value, max_delta: u64::MAX };
        let mut qualifiers = vec![
            Qualifier { id: Com::TIMESTAMP, value: timestamp_ms, max_delta: max_delta_ms },
            Qualifier { id: Com::NETWORK, value: network.0, max_delta: 0 },
            fixed(Com::ISSUED_TO, holder.address().to_u64()),
        ];
        qualifiers.extend(Com::IDENTITY_HASH.into_iter().zip(identity_words(holder)).map(|(id, v)| fixed(id, v)));
        Com { qualifiers, signer: Address::ZERO, signature: None }
    }

    /// The first qualifier with this id.
    pub fn qualifier(&self, id: u64) -> Option<&Qualifier> {
        self.qualifiers.iter().find(|q| q.id == id)
    }

    fn value(&self, id: u64) -> u64 {
        self.qualifier(id).map_or(0, |q| q.value)
    }

    /// When it was issued, ms of the controller's clock; 0 if it does not say.
    pub fn timestamp(&self) -> u64 {
        self.value(Com::TIMESTAMP)
    }

    /// The network it is for; 0 if it does not say.
    pub fn network(&self) -> NetworkId {
        NetworkId(self.value(Com::NETWORK))
    }

    /// Who holds it; zero if it does not say.
    pub fn issued_to(&self) -> Address {
        Address::from_u64(self.value(Com::ISSUED_TO))
    }

    /// Reads one certificate.
    pub fn read(r: &mut Reader<'_>) -> Result<Com, Malformed> {
        if r.u8("certificate of membership")? != 1 {
            return Err(Malformed { what: "certificate of membership version" });
        }
        let count = usize::from(r.u16("qualifier count")?);
        if count > COM_MAX_QUALIFIERS {
            return Err(Malformed { what: "qualifier count" });
        }
        let mut qualifiers = Vec::with_capacity(count);
        let mut last = 0;
        for _ in 0..count {
            let id = r.u64("qualifier id")?;
            if id < last {
                return Err(Malformed { what: "qualifier order" });
            }
            last = id;
            qualifiers.push(Qualifier { id, value: r.u64("qualifier value")?, max_delta: r.u64("qualifier delta")? });
        }
        let signer = Address::read(r)?;
        let signature = match signer {
            Address::ZERO => None,
            _ => Some(Signature::read(r)?),
        };
        Ok(Com { qualifiers, signer, signature })
    }

    /// Writes the certificate; without a signature it names no signer.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(1);
        out.extend_from_slice(&(self.qualifiers.len() as u16).to_be_bytes());
        self.write_qualifiers(out);
        match &self.signature {
            Some(signature) if self.signer != Address::ZERO => {
                out.extend_from_slice(&self.signer.to_bytes());
                out.extend_from_slice(&signature.0);
            }
            _ => out.extend_from_slice(&Address::ZERO.to_bytes()),
        }
    }

    fn write_qualifiers(&self, out: &mut Vec<u8>) {
        for q in &self.qualifiers {
            out.extend_from_slice(&q.id.to_be_bytes());
            out.extend_from_slice(&q.value.to_be_bytes());
            out.extend_from_slice(&q.max_delta.to_be_bytes());
        }
    }

    /// What is signed: the qualifiers, nothing else.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 * self.qualifiers.len());
        self.write_qualifiers(&mut out);
        out
    }

    /// Signs it, replacing any signature.
    pub fn sign(&mut self, by: &SecretIdentity) {
        self.signer = by.public().address();
        self.signature = Some(by.sign(&self.signed_bytes()));
    }

    /// Signed by `signer`, who is the controller of the network it names.
    pub fn verify(&self, signer: &Identity) -> bool {
        holds(self.network(), self.signer, self.signature.as_ref(), signer, || self.signed_bytes())
    }

    /// Whether the holder of `self` accepts the holder of `theirs`, who is `peer`. One-sided: only the differences that
    /// `self` allows count. Costs a SHA-384 if `self` names identity hashes.
    pub fn agrees_with(&self, theirs: &Com, peer: &Identity) -> bool {
        if self.qualifiers.is_empty() || theirs.qualifiers.is_empty() {
            return false;
        }
        let close = |ours: &Qualifier| {
            theirs.qualifier(ours.id).is_some_and(|t| t.value.abs_diff(ours.value) <= ours.max_delta)
        };
        if !self.qualifiers.iter().all(close) {
            return false;
        }
        let binds_identity = self.qualifiers.iter().any(|q| Com::IDENTITY_HASH.contains(&q.id));
        !binds_identity
            || Com::IDENTITY_HASH
                .into_iter()
                .zip(identity_words(peer))
                .all(|(id, word)| theirs.qualifier(id).is_some_and(|q| q.value == word))
    }
}

/// The first 32 bytes of the identity's SHA-384 fingerprint as four big-endian words.
fn identity_words(identity: &Identity) -> [u64; 4] {
    let hash = identity.fingerprint();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    words
}

/// A number the controller attached to a member: 135 bytes.
// spec: wire, "Tag"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The network it is for.
    pub network: NetworkId,
    /// When it was issued, ms of the controller's clock.
    pub timestamp: i64,
    /// Which tag.
    pub id: u32,
    /// Its value.
    pub value: u32,
    /// The member who has it.
    pub issued_to: Address,
    /// Who signed.
    pub signer: Address,
    /// None if not signed, or in a way we do not know.
    pub signature: Option<Signature>,
}

impl Tag {
    /// Bytes on the wire, without additional fields.
    pub const LEN: usize = 135;

    /// Reads one tag.
    pub fn read(r: &mut Reader<'_>) -> Result<Tag, Malformed> {
        let tag = Tag {
            network: NetworkId::read(r)?,
            timestamp: r.i64("tag timestamp")?,
            id: r.u32("tag id")?,
            value: r.u32("tag value")?,
            issued_to: Address::read(r)?,
            signer: Address::read(r)?,
            signature: read_signature(r)?,
        };
        skip_additional_fields(r)?;
        Ok(tag)
    }

    /// Writes the tag.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_body(out);
        write_signature(self.signature.as_ref(), out);
        out.extend_from_slice(&NO_ADDITIONAL_FIELDS);
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.value.to_be_bytes());
        out.extend_from_slice(&self.issued_to.to_bytes());
        out.extend_from_slice(&self.signer.to_bytes());
    }

    /// What is signed.
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(|out| self.write_body(out))
    }

    /// Signs it, replacing signer and signature.
    pub fn sign(&mut self, by: &SecretIdentity) {
        self.signer = by.public().address();
        self.signature = Some(by.sign(&self.signed_bytes()));
    }

    /// Signed by `signer`, who is the controller of its network.
    pub fn verify(&self, signer: &Identity) -> bool {
        holds(self.network, self.signer, self.signature.as_ref(), signer, || self.signed_bytes())
    }
}

/// One link of a capability's chain of custody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custody {
    /// Who received the capability. No signature covers this field.
    pub to: Address,
    /// Who gave it, and signed.
    pub from: Address,
    /// None if not signed, or in a way we do not know.
    pub signature: Option<Signature>,
}

/// Rules that let a member send what the base rules would drop.
// spec: wire, "Capability"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The network it is for.
    pub network: NetworkId,
    /// When it was issued, ms of the controller's clock.
    pub timestamp: i64,
    /// Which capability.
    pub id: u32,
    /// At most [`CAP_MAX_RULES`].
    pub rules: RuleTable,
    /// Longest permitted chain, 1 to [`CAP_MAX_CUSTODY`].
    pub max_custody: u8,
    /// The chain: at most `max_custody` links, controller first.
    pub custody: Vec<Custody>,
}

/// Why a capability does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustodyError {
    /// The identity of a signer is not known; ask for it and try again.
    #[error("the identity of {0} is not known")]
    Unknown(Address),
    /// Unsigned, not from the controller, a link that does not follow from the one before, or a wrong signature.
    #[error("the chain of custody does not hold")]
    Broken,
}

impl Capability {
    /// The holder: `to` of the last link; zero if there is none.
    pub fn issued_to(&self) -> Address {
        self.custody.last().map_or(Address::ZERO, |link| link.to)
    }

    /// Reads one capability.
    pub fn read(r: &mut Reader<'_>) -> Result<Capability, Malformed> {
        let network = NetworkId::read(r)?;
        let timestamp = r.i64("capability timestamp")?;
        let id = r.u32("capability id")?;
        let count = usize::from(r.u16("capability rule count")?);
        if count > CAP_MAX_RULES {
            return Err(Malformed { what: "capability rule count" });
        }
        let rules = RuleTable::read(r, count)?;
        let max_custody = r.u8("custody chain length")?;
        if max_custody == 0 || max_custody > CAP_MAX_CUSTODY {
            return Err(Malformed { what: "custody chain length" });
        }
        let mut custody = Vec::new();
        loop {
            let to = Address::read(r)?;
            if to == Address::ZERO {
                break;
            }
            if custody.len() == usize::from(max_custody) {
                return Err(Malformed { what: "custody chain longer than its maximum" });
            }
            custody.push(Custody { to, from: Address::read(r)?, signature: read_signature(r)? });
        }
        skip_additional_fields(r)?;
        Ok(Capability { network, timestamp, id, rules, max_custody, custody })
    }

    /// Writes the capability.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_body(out);
        for link in &self.custody {
            out.extend_from_slice(&link.to.to_bytes());
            out.extend_from_slice(&link.from.to_bytes());
            write_signature(link.signature.as_ref(), out);
        }
        out.extend_from_slice(&Address::ZERO.to_bytes());
        out.extend_from_slice(&NO_ADDITIONAL_FIELDS);
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&(self.rules.rules().len() as u16).to_be_bytes());
        out.extend_from_slice(self.rules.bytes());
        out.push(self.max_custody);
    }

    /// What every link signs: everything but the chain.
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(|out| self.write_body(out))
    }

    /// Hands it on to `to`: appends a link signed by `by`, who is the controller or the present holder. False, and
    /// nothing changes, if the chain is full or `by` does not hold it.
    pub fn sign(&mut self, by: &SecretIdentity, to: Address) -> bool {
        let from = by.public().address();
        if from != self.next_signer() || self.custody.len() >= usize::from(self.max_custody) {
            return false;
        }
        let signature = Some(by.sign(&self.signed_bytes()));
        self.custody.push(Custody { to, from, signature });
        true
    }

    fn next_signer(&self) -> Address {
        self.custody.last().map_or(self.network.controller(), |link| link.to)
    }

    /// Checks the whole chain, from the controller to the holder. `identity` looks signers up.
    pub fn verify<'i>(&self, mut identity: impl FnMut(Address) -> Option<&'i Identity>) -> Result<(), CustodyError> {
        if self.custody.is_empty() || self.custody.len() > usize::from(self.max_custody) {
            return Err(CustodyError::Broken);
        }
        let signed = self.signed_bytes();
        let mut signer = self.network.controller();
        for link in &self.custody {
            let Some(signature) = link.signature.as_ref().filter(|_| link.from == signer) else {
                return Err(CustodyError::Broken);
            };
            let known = identity(signer).ok_or(CustodyError::Unknown(signer))?;
            if known.address() != signer || !known.verify(&signed, signature) {
                return Err(CustodyError::Broken);
            }
            signer = link.to;
        }
        Ok(())
    }
}

/// What kind of credential a revocation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CredentialKind {
    /// [`Com`]
    Com = 1,
    /// [`Capability`]
    Capability = 2,
    /// [`Tag`]
    Tag = 3,
    /// [`Ownership`]
    Ownership = 4,
}

impl CredentialKind {
    /// The kind with this number; none for those that cannot be revoked.
    pub const fn from_u8(number: u8) -> Option<CredentialKind> {
        Some(match number {
            1 => CredentialKind::Com,
            2 => CredentialKind::Capability,
            3 => CredentialKind::Tag,
            4 => CredentialKind::Ownership,
            _ => return None,
        })
    }
}

/// Declares credentials up to a timestamp void: 152 bytes.
// spec: wire, "Revocation"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Arbitrary; tells revocations apart.
    pub id: u32,
    /// The network it is for.
    pub network: NetworkId,
    /// ID of the credential, 0 for a certificate of membership.
    pub credential_id: u32,
    /// Credentials with this timestamp or an earlier one are void, ms of the controller's clock.
    pub threshold: i64,
    /// [`Revocation::FAST_PROPAGATE`] or 0.
    pub flags: u64,
    /// The member concerned.
    pub target: Address,
    /// Who signed.
    pub signer: Address,
    /// Number of a [`CredentialKind`]; others are carried but revoke nothing.
    pub kind: u8,
    /// None if not signed, or in a way we do not know.
    pub signature: Option<Signature>,
}

impl Revocation {
    /// Bytes on the wire, without additional fields.
    pub const LEN: usize = 152;
    /// Flag: members pass it on to one another.
    pub const FAST_PROPAGATE: u64 = 1;

    /// Reads one revocation.
    pub fn read(r: &mut Reader<'_>) -> Result<Revocation, Malformed> {
        r.u32("revocation")?;
        let id = r.u32("revocation id")?;
        let network = NetworkId::read(r)?;
        r.u32("revocation")?;
        let revocation = Revocation {
            id,
            network,
            credential_id: r.u32("revoked credential id")?,
            threshold: r.i64("revocation threshold")?,
            flags: r.u64("revocation flags")?,
            target: Address::read(r)?,
            signer: Address::read(r)?,
            kind: r.u8("revoked credential type")?,
            signature: read_signature(r)?,
        };
        skip_additional_fields(r)?;
        Ok(revocation)
    }

    /// Writes the revocation.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_body(out);
        write_signature(self.signature.as_ref(), out);
        out.extend_from_slice(&NO_ADDITIONAL_FIELDS);
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.credential_id.to_be_bytes());
        out.extend_from_slice(&self.threshold.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.target.to_bytes());
        out.extend_from_slice(&self.signer.to_bytes());
        out.push(self.kind);
    }

    /// What is signed.
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(|out| self.write_body(out))
    }

    /// Signs it, replacing signer and signature.
    pub fn sign(&mut self, by: &SecretIdentity) {
        self.signer = by.public().address();
        self.signature = Some(by.sign(&self.signed_bytes()));
    }

    /// Signed by `signer`, who is the controller of its network.
    pub fn verify(&self, signer: &Identity) -> bool {
        holds(self.network, self.signer, self.signature.as_ref(), signer, || self.signed_bytes())
    }
}

/// Something a member may own: 17 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thing {
    /// 1 MAC, 2 IPv4, 3 IPv6.
    pub kind: u8,
    /// The value, left-aligned, zero-padded.
    pub value: [u8; 16],
}

impl Thing {
    const MAC: u8 = 1;
    const IPV4: u8 = 2;
    const IPV6: u8 = 3;

    /// Bytes of the value that count; the others are padding.
    fn significant(&self) -> &[u8] {
        match self.kind {
            Thing::MAC => &self.value[..6],
            Thing::IPV4 => &self.value[..4],
            _ => &self.value,
        }
    }

    fn padded(kind: u8, significant: &[u8]) -> Thing {
        let mut value = [0; 16];
        value[..significant.len()].copy_from_slice(significant);
        Thing { kind, value }
    }

    fn read(r: &mut Reader<'_>) -> Result<Thing, Malformed> {
        Ok(Thing { kind: r.u8("thing type")?, value: r.array("thing")? })
    }
}

impl From<Mac> for Thing {
    fn from(mac: Mac) -> Thing {
        Thing::padded(Thing::MAC, &mac.0)
    }
}

impl From<IpAddr> for Thing {
    fn from(ip: IpAddr) -> Thing {
        match ip {
            IpAddr::V4(v4) => Thing::padded(Thing::IPV4, &v4.octets()),
            IpAddr::V6(v6) => Thing::padded(Thing::IPV6, &v6.octets()),
        }
    }
}

/// Certificate of ownership: IP and MAC addresses that are a member's own. 141 + 17 t bytes.
// spec: wire, "Certificate of ownership"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The network it is for.
    pub network: NetworkId,
    /// When it was issued, ms of the controller's clock.
    pub timestamp: i64,
    /// None is defined.
    pub flags: u64,
    /// Which certificate.
    pub id: u32,
    /// At most [`COO_MAX_THINGS`].
    pub things: Vec<Thing>,
    /// The owner.
    pub issued_to: Address,
    /// Who signed.
    pub signer: Address,
    /// None if not signed, or in a way we do not know.
    pub signature: Option<Signature>,
}

impl Ownership {
    /// Whether it names this MAC or IP address.
    pub fn owns(&self, thing: impl Into<Thing>) -> bool {
        let wanted = thing.into();
        self.things.iter().any(|t| t.kind == wanted.kind && t.significant() == wanted.significant())
    }

    /// The IP addresses it names.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.things.iter().filter_map(|thing| match (thing.kind, thing.value) {
            (Thing::IPV4, [a, b, c, d, ..]) => Some(IpAddr::from([a, b, c, d])),
            (Thing::IPV6, octets) => Some(IpAddr::from(octets)),
            _ => None,
        })
    }

    /// The MACs it names.
    pub fn macs(&self) -> impl Iterator<Item = Mac> {
        self.things.iter().filter_map(|thing| match (thing.kind, thing.value) {
            (Thing::MAC, [a, b, c, d, e, f, ..]) => Some(Mac([a, b, c, d, e, f])),
            _ => None,
        })
    }

    /// Reads one certificate.
    pub fn read(r: &mut Reader<'_>) -> Result<Ownership, Malformed> {
        let network = NetworkId::read(r)?;
        let timestamp = r.i64("ownership timestamp")?;
        let flags = r.u64("ownership flags")?;
        let id = r.u32("ownership id")?;
        let count = usize::from(r.u16("thing count")?);
        if count > COO_MAX_THINGS {
            return Err(Malformed { what: "thing count" });
        }
        let things = (0..count).map(|_| Thing::read(r)).collect::<Result<_, _>>()?;
        let issued_to = Address::read(r)?;
        let signer = Address::read(r)?;
        let signature = read_signature(r)?;
        skip_additional_fields(r)?;
        Ok(Ownership { network, timestamp, flags, id, things, issued_to, signer, signature })
    }

    /// Writes the certificate.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_body(out);
        write_signature(self.signature.as_ref(), out);
        out.extend_from_slice(&NO_ADDITIONAL_FIELDS);
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.network.0.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&(self.things.len() as u16).to_be_bytes());
        for thing in &self.things {
            out.push(thing.kind);
            out.extend_from_slice(&thing.value);
        }
        out.extend_from_slice(&self.issued_to.to_bytes());
        out.extend_from_slice(&self.signer.to_bytes());
    }

    /// What is signed.
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(|out| self.write_body(out))
    }

    /// Signs it, replacing signer and signature.
    pub fn sign(&mut self, by: &SecretIdentity) {
        self.signer = by.public().address();
        self.signature = Some(by.sign(&self.signed_bytes()));
    }

    /// Signed by `signer`, who is the controller of its network.
    pub fn verify(&self, signer: &Identity) -> bool {
        holds(self.network, self.signer, self.signature.as_ref(), signer, || self.signed_bytes())
    }
}
