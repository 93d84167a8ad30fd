//! Identities: the key pairs that are nodes, the memory-hard function that ties an address to them, signatures and key
//! agreement. It must never know what is signed, who may be believed or where an identity is kept.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use rand::CryptoRng;
use salsa20::SalsaCore;
use salsa20::cipher::array::Array;
use salsa20::cipher::consts::U10;
use salsa20::cipher::{KeyIvInit, StreamCipherCore};
use sha2::{Digest, Sha384, Sha512};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::address::{Address, NotHex};
use crate::keys::{KEY_LEN, SharedKey};
use crate::read::{Malformed, Reader};

// spec: wire, "Constants"

/// Bytes of a composite public key: X25519, then Ed25519.
pub const PUB_LEN: usize = 64;
/// Bytes of a composite private key: X25519 scalar, then Ed25519 seed.
pub const PRIV_LEN: usize = 64;
/// Bytes of a signature: R, S, and the hash that was signed.
pub const SIG_LEN: usize = 96;
/// Bytes of a public identity on the wire.
pub const IDENTITY_LEN: usize = 71;

const HALF: usize = 32;
const TYPE_X25519_ED25519: u8 = 0;

/// Words of the scratch memory of the derivation: 2 MiB. // spec: wire, "Address derivation (memory-hard)"
const SCRATCH_WORDS: usize = 262_144;
/// The first byte of the digest must be below this.
const PROOF_OF_WORK_LIMIT: u8 = 17;

/// A node's public identity: address and composite public key. May be anything that was read; see
/// [`Identity::validate`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    address: Address,
    public: [u8; PUB_LEN],
}

impl Identity {
    /// An identity from its parts, unchecked.
    pub fn from_parts(address: Address, public_key: [u8; PUB_LEN]) -> Identity {
        Identity { address, public: public_key }
    }

    /// The address it claims.
    pub fn address(&self) -> Address {
        self.address
    }

    /// X25519 and Ed25519 public keys.
    pub fn public_key(&self) -> &[u8; PUB_LEN] {
        &self.public
    }

    /// Reads the 71-byte public form or the 135-byte secret form, whose secret is skipped. Refuses reserved addresses,
    /// which no valid identity has. // spec: wire, "Binary form"
    pub fn read(r: &mut Reader<'_>) -> Result<Identity, Malformed> {
        let address = Address::read(r)?;
        if address.is_reserved() {
            return Err(Malformed { what: "identity address" });
        }
        if r.u8("identity type")? != TYPE_X25519_ED25519 {
            return Err(Malformed { what: "identity type" });
        }
        let public = r.array("public key")?;
        match usize::from(r.u8("private key length")?) {
            0 => {}
            PRIV_LEN => {
                r.take(PRIV_LEN, "private key")?;
            }
            _ => return Err(Malformed { what: "private key length" }),
        }
        Ok(Identity { address, public })
    }

    /// Appends the 71-byte public form.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.address.to_bytes());
        out.push(TYPE_X25519_ED25519);
        out.extend_from_slice(&self.public);
        out.push(0);
    }

    /// Whether the address follows from the key by way of the memory-hard function. Takes about 25 ms and 2 MiB: do it
    /// once per identity and off the packet path. Keys that could not verify anything are refused as well.
    // spec: wire, "Validation"
    pub fn validate(&self) -> bool {
        if self.address.is_reserved() || self.verifying_key().is_none_or(|key| key.is_weak()) {
            return false;
        }
        let digest = derive(&self.public);
        digest[0] < PROOF_OF_WORK_LIMIT && address_of(&digest) == self.address
    }

    /// Whether this identity signed `message`. Strict as in RFC 8032. // spec: wire, "Signature (96 bytes)"
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        let (signed, hash) = signature.parts();
        let expected = message_hash(message);
        if !bool::from(expected.ct_eq(&hash)) {
            return false;
        }
        let signature = ed25519_dalek::Signature::from_bytes(&signed);
        self.verifying_key().is_some_and(|key| key.verify_strict(&expected, &signature).is_ok())
    }

    /// SHA-384 over address and public key, which certificates of membership carry.
    pub fn fingerprint(&self) -> [u8; 48] {
        Sha384::new().chain_update(self.address.to_bytes()).chain_update(self.public).finalize().into()
    }

    fn verifying_key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&second_half(&self.public)).ok()
    }
}

/// The canonical public text form. // spec: wire, "Text form"
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{TYPE_X25519_ED25519}:{}", self.address, hex::encode(self.public))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.address)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Reads the public text form, strictly; whitespace may follow.
    fn from_str(text: &str) -> Result<Identity, IdentityError> {
        match parse(text)? {
            (identity, None) => Ok(identity),
            (_, Some(_)) => Err(IdentityError::SecretUnwanted),
        }
    }
}

/// Why a text is not the identity it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not three fields (public) or four (secret).
    #[error("an identity has 3 colon-separated fields, or 4 with its secret, not {0}")]
    Fields(usize),
    /// The first field is no address.
    #[error("identity address: {0}")]
    Address(#[from] NotHex),
    /// No node may have this address.
    #[error("identity address {0} is reserved")]
    Reserved(Address),
    /// Only type 0 exists.
    #[error("identity type {0:?} is not 0")]
    Type(String),
    /// The third field is no public key.
    #[error("public key is not 128 hex digits")]
    PublicKey,
    /// The fourth field is no private key.
    #[error("private key is not 128 hex digits")]
    PrivateKey,
    /// A secret identity was wanted.
    #[error("identity has no private key")]
    SecretMissing,
    /// A public identity was wanted.
    #[error("identity contains its private key where only the public form belongs")]
    SecretUnwanted,
    /// The private key is that of another identity.
    #[error("private key does not fit public key")]
    KeyMismatch,
}

type PrivateKey = Zeroizing<[u8; PRIV_LEN]>;

fn parse(text: &str) -> Result<(Identity, Option<PrivateKey>), IdentityError> {
    let mut fields = text.trim_ascii_end().split(':');
    let (Some(address), Some(kind), Some(public), private, None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(IdentityError::Fields(text.split(':').count()));
    };
    let address: Address = address.parse()?;
    if address.is_reserved() {
        return Err(IdentityError::Reserved(address));
    }
    if kind != "0" {
        return Err(IdentityError::Type(kind.to_owned()));
    }
    let mut key = [0; PUB_LEN];
    hex::decode_to_slice(public, &mut key).map_err(|_| IdentityError::PublicKey)?;
    let identity = Identity { address, public: key };
    let Some(private) = private else {
        return Ok((identity, None));
    };
    let mut key = Zeroizing::new([0; PRIV_LEN]);
    hex::decode_to_slice(private, &mut key[..]).map_err(|_| IdentityError::PrivateKey)?;
    Ok((identity, Some(key)))
}

/// An identity with its private key, which is wiped when dropped and never printed.
pub struct SecretIdentity {
    public: Identity,
    private: PrivateKey,
    signing: SigningKey,
}

impl SecretIdentity {
    /// Makes a new identity: about 15 trials of 25 ms. // spec: wire, "Generation"
    pub fn generate(rng: &mut impl CryptoRng) -> SecretIdentity {
        let mut private = Zeroizing::new([0; PRIV_LEN]);
        rng.fill_bytes(&mut private[..]);
        loop {
            let digest = derive(&public_of(&private));
            let address = address_of(&digest);
            if digest[0] < PROOF_OF_WORK_LIMIT && !address.is_reserved() {
                return SecretIdentity::from_parts(address, private);
            }
            rng.fill_bytes(&mut private[..HALF]);
        }
    }

    /// An identity from its parts; whether the address fits the key is not checked.
    pub fn from_parts(address: Address, private_key: Zeroizing<[u8; PRIV_LEN]>) -> SecretIdentity {
        let public = Identity { address, public: public_of(&private_key) };
        let signing = SigningKey::from_bytes(&Zeroizing::new(second_half(&private_key)));
        SecretIdentity { public, private: private_key, signing }
    }

    /// The half that others may know.
    pub fn public(&self) -> &Identity {
        &self.public
    }

    /// Our address.
    pub fn address(&self) -> Address {
        self.public.address
    }

    /// Signs `message`. Deterministic. // spec: wire, "Signature (96 bytes)"
    pub fn sign(&self, message: &[u8]) -> Signature {
        let hash = message_hash(message);
        let mut signature = [0; SIG_LEN];
        signature[..2 * HALF].copy_from_slice(&self.signing.sign(&hash).to_bytes());
        signature[2 * HALF..].copy_from_slice(&hash);
        Signature(signature)
    }

    /// The key both sides compute; none if the other's key is of low order. // spec: wire, "Key agreement"
    pub fn agree(&self, other: &Identity) -> Option<SharedKey> {
        let ours = StaticSecret::from(first_half(&self.private));
        let z = ours.diffie_hellman(&PublicKey::from(first_half(&other.public)));
        if !z.was_contributory() {
            return None;
        }
        let digest = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(z.as_bytes())));
        let mut key = Zeroizing::new([0; KEY_LEN]);
        key.copy_from_slice(&digest[..KEY_LEN]);
        Some(SharedKey::from_bytes(*key))
    }

    /// The canonical secret text form. // spec: wire, "Text form"
    pub fn to_text(&self) -> Zeroizing<String> {
        let private = Zeroizing::new(hex::encode(&self.private[..]));
        Zeroizing::new(format!("{}:{}", self.public, *private))
    }
}

impl fmt::Debug for SecretIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretIdentity({})", self.public.address)
    }
}

impl FromStr for SecretIdentity {
    type Err = IdentityError;

    /// Reads the secret text form, strictly; whitespace may follow. The private key must fit the public one.
    fn from_str(text: &str) -> Result<SecretIdentity, IdentityError> {
        let (public, private) = parse(text)?;
        let secret = SecretIdentity::from_parts(public.address, private.ok_or(IdentityError::SecretMissing)?);
        if secret.public == public { Ok(secret) } else { Err(IdentityError::KeyMismatch) }
    }
}

/// A signature: Ed25519 over the first half of the message's SHA-512, and that hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(pub [u8; SIG_LEN]);

impl Signature {
    /// Reads 96 bytes.
    pub fn read(r: &mut Reader<'_>) -> Result<Signature, Malformed> {
        r.array("signature").map(Signature)
    }

    fn parts(&self) -> ([u8; 64], [u8; 32]) {
        let (mut signed, mut hash) = ([0; 64], [0; 32]);
        signed.copy_from_slice(&self.0[..64]);
        hash.copy_from_slice(&self.0[64..]);
        (signed, hash)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

fn first_half(key: &[u8; 64]) -> [u8; HALF] {
    std::array::from_fn(|i| key[i])
}

fn second_half(key: &[u8; 64]) -> [u8; HALF] {
    std::array::from_fn(|i| key[HALF + i])
}

fn public_of(private: &[u8; PRIV_LEN]) -> [u8; PUB_LEN] {
    let x25519 = PublicKey::from(&StaticSecret::from(first_half(private)));
    let ed25519 = SigningKey::from_bytes(&Zeroizing::new(second_half(private))).verifying_key();
    let mut public = [0; PUB_LEN];
    public[..HALF].copy_from_slice(x25519.as_bytes());
    public[HALF..].copy_from_slice(ed25519.as_bytes());
    public
}

fn message_hash(message: &[u8]) -> [u8; 32] {
    let digest: [u8; 64] = Sha512::digest(message).into();
    first_half(&digest)
}

fn address_of(digest: &[u8; 64]) -> Address {
    Address::from_bytes([digest[59], digest[60], digest[61], digest[62], digest[63]])
}

/// The memory-hard function: the digest of a public key, whose first byte is the proof of work and whose last five are
/// the address. // spec: wire, "Address derivation (memory-hard)"
pub fn derive(public: &[u8; PUB_LEN]) -> [u8; 64] {
    let hash: [u8; 64] = Sha512::digest(public).into();
    let nonce: [u8; 8] = std::array::from_fn(|i| hash[HALF + i]);
    let mut stream = SalsaCore::<U10>::new(&first_half(&hash).into(), &nonce.into());
    let mut next_block = || -> [u64; 8] {
        let mut block = Array::default();
        stream.write_keystream_block(&mut block);
        words(&block.0)
    };

    // Words are kept in big-endian reading: the order in which they serve as indices. Swaps and XORs do not care.
    let mut scratch = vec![0u64; SCRATCH_WORDS];
    let mut last = [0; 8];
    for block in scratch.chunks_exact_mut(8) {
        xor(&mut last, &next_block());
        block.copy_from_slice(&last);
    }
    let mut digest = words(&hash);
    for i in (0..SCRATCH_WORDS).step_by(2) {
        let a = (scratch[i] % 8) as usize;
        let b = (scratch[i + 1] % SCRATCH_WORDS as u64) as usize;
        std::mem::swap(&mut digest[a], &mut scratch[b]);
        xor(&mut digest, &next_block());
    }
    let mut out = [0; 64];
    for (bytes, word) in out.chunks_exact_mut(8).zip(digest) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

fn words(bytes: &[u8; 64]) -> [u64; 8] {
    std::array::from_fn(|i| u64::from_be_bytes(std::array::from_fn(|j| bytes[i * 8 + j])))
}

fn xor(a: &mut [u64; 8], b: &[u64; 8]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
}
