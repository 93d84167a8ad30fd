//! Protecting packets: one peer's keys, scheduled once, and the four cipher suites over whole packets. It must never
//! know who the peer is, which verbs exist or when a packet was sent; a packet is bytes with a header.

mod key_stream;
mod siv;

use std::fmt;
use std::sync::{Arc, OnceLock};

use hmac::{Hmac, KeyInit, Mac};
use poly1305::Poly1305;
use sha2::Sha384;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use self::key_stream::KeyStream;
pub use self::siv::GmacSiv;
use crate::packet::{FLAGS, HDR_LEN, MAC, Suite, VERB};
use crate::recent::RecentIds;
use crate::simd::{self, Backend};

/// Bytes of the key two identities agree on.
pub const KEY_LEN: usize = 48;

const HOPS_MASK: u8 = 0xf8;
const BLOCK: usize = 16;

/// The key that two identities agree on, the same for ever. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct SharedKey(Zeroizing<[u8; KEY_LEN]>);

impl SharedKey {
    /// A key that was agreed on elsewhere.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> SharedKey {
        SharedKey(Zeroizing::new(bytes))
    }

    /// The key itself, to be handled with care.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The part that suites 0 and 1 and the tail of HELLO use.
    fn salsa_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(std::array::from_fn(|i| self.0[i]))
    }

    /// K0 or K1 of suite 3.
    fn aes_key(&self, label: u8) -> Zeroizing<[u8; 32]> {
        let derived = kbkdf(&self.0, label, 0, 0);
        Zeroizing::new(std::array::from_fn(|i| derived[i]))
    }
}

impl PartialEq for SharedKey {
    fn eq(&self, other: &SharedKey) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for SharedKey {}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(secret)")
    }
}

/// Derives a key from a key: HMAC-SHA-384 over counter, label and context. // spec: wire, "Keys for suite 3"
pub fn kbkdf(key: &[u8; KEY_LEN], label: u8, context: u8, iteration: u32) -> Zeroizing<[u8; 48]> {
    let [a, b, c, d] = iteration.to_be_bytes();
    let message = [a, b, c, d, b'Z', b'T', label, 0, context, 0, 0, 1, 0x80];
    // HMAC takes keys of any length, so a long one is hashed and a short one padded here: this one is neither.
    let mut padded = Zeroizing::new([0; 128]);
    padded[..KEY_LEN].copy_from_slice(key);
    let mut mac = Hmac::<Sha384>::new((&*padded).into());
    mac.update(&message);
    let mut out = Zeroizing::new([0; 48]);
    out.copy_from_slice(&mac.finalize().into_bytes());
    out
}

/// The bytes were not sealed with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct Forged;

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than any packet.
    #[error("packet of {0} bytes is too short")]
    TooShort(usize),
    /// Suites 4 to 7 do not exist.
    #[error("cipher suite {0} does not exist")]
    UndefinedSuite(u8),
    /// Suite 2 has nothing a key could check: only configuration can say whether source and path ID may be trusted.
    #[error("a trusted path packet cannot be authenticated")]
    TrustedPath,
    /// Damaged, forged, or sealed with another key.
    #[error("authentication failed")]
    Forged,
}

/// One peer's keys, scheduled once so that a packet pays for nothing but itself, and the IDs of what it sealed with them
/// last. Callers share it in an `Arc`, so that all cores judge repeats alike; clones share the IDs too.
#[derive(Clone)]
pub struct Keys {
    shared: SharedKey,
    siv: GmacSiv,
    salsa: Option<simd::Salsa2012>,
    poly1305: Option<simd::Poly1305>,
    /// Made when the first frame comes: most peers never send one.
    recent: Arc<OnceLock<RecentIds>>,
}

impl Keys {
    /// Derives and schedules what the suites need.
    pub fn new(shared: SharedKey) -> Keys {
        Keys::with_backend(shared, Backend::best())
    }

    /// Likewise for given instructions, so that tests and benchmarks can compare them; the portable ones if the processor
    /// does not have them.
    pub fn with_backend(shared: SharedKey, backend: Backend) -> Keys {
        let siv = GmacSiv::with_backend(&shared.aes_key(b'0'), &shared.aes_key(b'1'), backend);
        let (salsa, poly1305) = (simd::Salsa2012::new(backend), simd::Poly1305::new(backend));
        Keys { shared, siv, salsa, poly1305, recent: Arc::default() }
    }

    /// False if a packet of this ID, opened with these keys, was shown here before, on any core.
    // spec: paths, "Hardening bounds", duplicates
    pub fn first_time(&self, packet_id: u64) -> bool {
        self.recent.get_or_init(RecentIds::new).insert(packet_id)
    }

    /// From now on remembers more of them: [`WIDE_IDS`](crate::recent::WIDE_IDS).
    pub fn remember_more(&self) {
        self.recent.get_or_init(RecentIds::new).remember_more();
    }

    /// Protects a whole packet in place. ID, addresses, verb and the fragmented flag must be final; suite bits and MAC
    /// are written here, hops are set to 0, and suite 3 replaces the ID. Suite 2 writes the flags only: see
    /// [`Packet::set_trusted_path`](crate::packet::Packet::set_trusted_path).
    ///
    /// # Panics
    /// If `packet` is shorter than [`HDR_LEN`].
    pub fn seal(&self, packet: &mut [u8], suite: Suite) {
        let len = packet.len();
        self.seal_copy(packet, len, &[], suite);
    }

    /// Protects a packet while assembling it: header, verb and perhaps more stand in the first `prefix_len` bytes of
    /// `out`, and `payload` is encrypted into the rest, so that its bytes are copied and encrypted in one pass.
    ///
    /// # Panics
    /// If the prefix is shorter than [`HDR_LEN`], or `out` is not exactly prefix and payload.
    pub fn seal_copy(&self, out: &mut [u8], prefix_len: usize, payload: &[u8], suite: Suite) {
        assert!(prefix_len >= HDR_LEN, "a packet has at least a header and a verb");
        assert_eq!(out.len(), prefix_len + payload.len(), "the buffer must fit the packet exactly");
        let packet_len = out.len();
        let (prefix, rest) = out.split_at_mut(prefix_len);
        prefix[FLAGS] = suite.flags(prefix[FLAGS]);
        match suite {
            Suite::TrustedPath => rest.copy_from_slice(payload),
            Suite::Poly1305 => {
                rest.copy_from_slice(payload);
                let (mac_key, _) = self.one_time_keys(out, packet_len, suite);
                let mac = self.poly1305(&mac_key, &out[VERB..]);
                out[MAC].copy_from_slice(&mac);
            }
            Suite::Salsa2012Poly1305 => {
                let (mac_key, mut stream) = self.one_time_keys(prefix, packet_len, suite);
                stream.apply(&mut prefix[VERB..]);
                stream.apply_copying(payload, rest);
                let mac = self.poly1305(&mac_key, &out[VERB..]);
                out[MAC].copy_from_slice(&mac);
            }
            Suite::AesGmacSiv => {
                let (header, data) = out.split_at_mut(VERB);
                let (iv, aad) = iv_and_aad(header);
                let (id, mac) = halves(&self.siv.seal(iv, &aad, data, payload));
                header[..8].copy_from_slice(&id);
                header[MAC].copy_from_slice(&mac);
            }
        }
    }

    /// Authenticates and decrypts a whole packet in place. Nothing before the verb byte changes; a plaintext that does
    /// not authenticate is wiped. Takes the same time for every forgery of the same length and suite.
    pub fn open(&self, packet: &mut [u8]) -> Result<Suite, OpenError> {
        if packet.len() < HDR_LEN {
            return Err(OpenError::TooShort(packet.len()));
        }
        let Some(suite) = Suite::from_flags(packet[FLAGS]) else {
            return Err(OpenError::UndefinedSuite((packet[FLAGS] >> 3) & 7));
        };
        match suite {
            Suite::TrustedPath => return Err(OpenError::TrustedPath),
            Suite::Poly1305 | Suite::Salsa2012Poly1305 => {
                let (mac_key, mut stream) = self.one_time_keys(packet, packet.len(), suite);
                let mac = self.poly1305(&mac_key, &packet[VERB..]);
                if !bool::from(mac.ct_eq(&packet[MAC])) {
                    return Err(OpenError::Forged);
                }
                if suite == Suite::Salsa2012Poly1305 {
                    stream.apply(&mut packet[VERB..]);
                }
            }
            Suite::AesGmacSiv => {
                let (header, data) = packet.split_at_mut(VERB);
                let (_, aad) = iv_and_aad(header);
                let mut tag = [0; BLOCK];
                tag[..8].copy_from_slice(&header[..8]);
                tag[8..].copy_from_slice(&header[MAC]);
                self.siv.open(tag, &aad, data).map_err(|Forged| OpenError::Forged)?;
            }
        }
        Ok(suite)
    }

    /// Obscures the tail of a HELLO, or makes it plain again: before sealing, after opening, once each.
    // spec: wire, "Selective encryption inside HELLO"
    pub fn obscure_hello_tail(&self, id: u64, tail: &mut [u8]) {
        let nonce = (id & !7).to_be_bytes();
        let key = self.shared.salsa_key();
        KeyStream::new(&key, &nonce, self.salsa).apply(tail);
    }

    /// The packet's own Poly1305 key and the key stream for its verb and payload: the header and length are mixed into
    /// the peer's key. // spec: wire, "Suites 0 and 1, step by step"
    fn one_time_keys(&self, header: &[u8], packet_len: usize, suite: Suite) -> (Zeroizing<[u8; 32]>, KeyStream) {
        let mut key = self.shared.salsa_key();
        for (k, byte) in key.iter_mut().zip(&header[..FLAGS]) {
            *k ^= byte;
        }
        key[18] ^= header[FLAGS] & HOPS_MASK;
        key[19] ^= packet_len as u8;
        key[20] ^= (packet_len >> 8) as u8;

        let mut nonce = [0; 8];
        nonce.copy_from_slice(&header[..8]);
        let encrypted_len = if suite == Suite::Salsa2012Poly1305 { packet_len - VERB } else { 0 };
        let mut stream = KeyStream::new(&key, &nonce, self.salsa);
        // The rest of block 0 is discarded: the payload's key stream starts at block 1.
        let block = stream.next(key_stream::BLOCK, encrypted_len);
        key.copy_from_slice(&block[..32]);
        (key, stream)
    }

    /// The first 8 bytes of the tag in memory order; the other 8 are not sent.
    fn poly1305(&self, key: &[u8; 32], data: &[u8]) -> [u8; 8] {
        let tag = match self.poly1305 {
            Some(poly1305) => poly1305.tag(key, data),
            None => Poly1305::new(key.into()).compute_unpadded(data).0,
        };
        halves(&tag).0
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(secret)")
    }
}

/// Packet ID, and destination, source and flags without hops, zero-padded.
fn iv_and_aad(header: &[u8]) -> ([u8; 8], [u8; BLOCK]) {
    let (mut iv, mut aad) = ([0; 8], [0; BLOCK]);
    iv.copy_from_slice(&header[..8]);
    aad[..11].copy_from_slice(&header[8..=FLAGS]);
    aad[10] &= HOPS_MASK;
    (iv, aad)
}

fn halves(block: &[u8; BLOCK]) -> ([u8; 8], [u8; 8]) {
    let (mut a, mut b) = ([0; 8], [0; 8]);
    a.copy_from_slice(&block[..8]);
    b.copy_from_slice(&block[8..]);
    (a, b)
}
