//! Protecting packets: one peer's keys, scheduled once, and the four cipher suites over whole packets. It must never
//! know who the peer is, which verbs exist or when a packet was sent; a packet is bytes with a header.

use std::fmt;

use aes::cipher::array::Array;
use aes::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, InnerIvInit, KeyInit, KeyIvInit, StreamCipher, StreamCipherCore,
};
use aes::{Aes256Dec, Aes256Enc};
use ctr::CtrCore;
use ctr::flavors::Ctr32BE;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use hmac::{Hmac, Mac};
use poly1305::Poly1305;
use salsa20::Salsa12;
use sha2::Sha384;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::packet::{FLAGS, HDR_LEN, MAC, Suite, VERB};
#[cfg(target_arch = "x86_64")]
use crate::simd;
use crate::simd::Backend;

/// Bytes of the key two identities agree on.
pub const KEY_LEN: usize = 48;

const HOPS_MASK: u8 = 0xf8;
const BLOCK: usize = 16;
const SALSA_BLOCK: usize = 64;
/// Key stream made in one go, blocks: 1536 bytes.
const STREAM_BLOCKS: usize = 96;

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

/// AES-GMAC-SIV with its two keys scheduled. // spec: wire, "Suite 3 (AES-GMAC-SIV), step by step"
#[derive(Clone)]
pub struct GmacSiv(Siv);

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and a packet pays for no indirection")]
enum Siv {
    Portable(PortableSiv),
    #[cfg(target_arch = "x86_64")]
    Simd(simd::GmacSiv),
}

impl GmacSiv {
    /// Schedules K0, which authenticates, and K1, which encrypts, for the best instructions there are.
    pub fn new(k0: &[u8; 32], k1: &[u8; 32]) -> GmacSiv {
        GmacSiv::with_backend(k0, k1, Backend::best())
    }

    /// Likewise, for given instructions; the portable ones if the processor does not have them.
    pub fn with_backend(k0: &[u8; 32], k1: &[u8; 32], backend: Backend) -> GmacSiv {
        #[cfg(target_arch = "x86_64")]
        if let Some(siv) = simd::GmacSiv::new(k0, k1, backend) {
            return GmacSiv(Siv::Simd(siv));
        }
        let _ = backend;
        GmacSiv(Siv::Portable(PortableSiv::new(k0, k1)))
    }

    /// Encrypts `data` in place, whose last bytes come from `payload`, and returns the tag: first half for the packet
    /// ID, second for the MAC field. `aad` is authenticated too.
    pub fn seal(&self, iv: [u8; 8], aad: &[u8], data: &mut [u8], payload: &[u8]) -> [u8; BLOCK] {
        match &self.0 {
            Siv::Portable(siv) => {
                let (first, rest) = data.split_at_mut(data.len() - payload.len());
                siv.seal(iv, aad, first, payload, rest)
            }
            #[cfg(target_arch = "x86_64")]
            Siv::Simd(siv) => siv.seal(iv, aad, data, payload),
        }
    }

    /// Decrypts in place; what does not authenticate is wiped and refused.
    pub fn open(&self, tag: [u8; BLOCK], aad: &[u8], data: &mut [u8]) -> Result<(), Forged> {
        let authentic = match &self.0 {
            Siv::Portable(siv) => siv.open(tag, aad, data),
            #[cfg(target_arch = "x86_64")]
            Siv::Simd(siv) => siv.open(&tag, aad, data),
        };
        if authentic {
            return Ok(());
        }
        data.zeroize();
        Err(Forged)
    }
}

impl fmt::Debug for GmacSiv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GmacSiv(secret)")
    }
}

/// The suite made of crates, for any processor.
#[derive(Clone)]
struct PortableSiv {
    gmac: Aes256Enc,
    hash: GHash,
    encrypt: Aes256Enc,
    decrypt: Aes256Dec,
}

impl PortableSiv {
    fn new(k0: &[u8; 32], k1: &[u8; 32]) -> PortableSiv {
        let gmac = Aes256Enc::new(k0.into());
        let mut h = Array::from([0; BLOCK]);
        gmac.encrypt_block(&mut h);
        let hash = GHash::new(&h);
        h.zeroize();
        PortableSiv { gmac, hash, encrypt: Aes256Enc::new(k1.into()), decrypt: Aes256Dec::new(k1.into()) }
    }

    /// GMAC with the nonce `iv || 0` over `aad`, zero-padded to whole blocks, and the plaintext, which is `first`
    /// followed by `rest`; then folded to 8 bytes.
    fn mac(&self, iv: [u8; 8], aad: &[u8], first: &[u8], rest: &[u8]) -> [u8; 8] {
        let mut hash = self.hash.clone();
        hash.update_padded(aad);
        let seam = first.len() - first.len() % BLOCK;
        let (whole, tail) = first.split_at(seam);
        hash.update_padded(whole);
        if tail.is_empty() {
            hash.update_padded(rest);
        } else {
            let mut block = [0; BLOCK];
            let fill = rest.len().min(BLOCK - tail.len());
            let (fill, rest) = rest.split_at(fill);
            block[..tail.len()].copy_from_slice(tail);
            block[tail.len()..tail.len() + fill.len()].copy_from_slice(fill);
            hash.update_padded(&block);
            hash.update_padded(rest);
        }
        let bytes = aad.len().next_multiple_of(BLOCK) + first.len() + rest.len();
        hash.update_padded(&(((bytes as u128) * 8) << 64).to_be_bytes());

        let mut pre_counter = Array::from([0; BLOCK]);
        pre_counter[..8].copy_from_slice(&iv);
        pre_counter[15] = 1;
        self.gmac.encrypt_block(&mut pre_counter);
        let tag = hash.finalize();
        std::array::from_fn(|i| tag[i] ^ tag[i + 8] ^ pre_counter[i] ^ pre_counter[i + 8])
    }

    /// XORs the key stream onto `first` in place, and onward onto `payload` into `out`. The block cipher prepares
    /// itself anew for every call, so one call makes as many blocks as a packet of one datagram takes.
    fn apply_key_stream(&self, tag: &[u8; BLOCK], first: &mut [u8], payload: &[u8], out: &mut [u8]) {
        let mut counter = *tag;
        counter[12] &= 0x7f;
        let mut stream = CtrCore::<_, Ctr32BE>::inner_iv_init(&self.encrypt, &counter.into());
        let mut blocks = [Array::from([0; BLOCK]); STREAM_BLOCKS];
        let (mut first, mut payload, mut out) = (first, payload, out);
        while !(first.is_empty() && payload.is_empty()) {
            let len = (first.len() + payload.len()).min(STREAM_BLOCKS * BLOCK);
            let blocks = &mut blocks[..len.div_ceil(BLOCK)];
            stream.write_keystream_blocks(blocks);
            let key_stream = &Array::slice_as_flattened(blocks)[..len];

            let (ours, theirs) = key_stream.split_at(len.min(first.len()));
            let (now, later) = first.split_at_mut(ours.len());
            for (byte, key) in now.iter_mut().zip(ours) {
                *byte ^= key;
            }
            first = later;
            let (plain, plain_later) = payload.split_at(theirs.len());
            let (now, later) = out.split_at_mut(theirs.len());
            for ((byte, plain), key) in now.iter_mut().zip(plain).zip(theirs) {
                *byte = plain ^ key;
            }
            (payload, out) = (plain_later, later);
        }
    }

    /// Encrypts `first` in place and `payload` into `out`, which is as long; returns the tag.
    fn seal(&self, iv: [u8; 8], aad: &[u8], first: &mut [u8], payload: &[u8], out: &mut [u8]) -> [u8; BLOCK] {
        let mut tag = Array::from([0; BLOCK]);
        tag[..8].copy_from_slice(&iv);
        tag[8..].copy_from_slice(&self.mac(iv, aad, first, payload));
        self.encrypt.encrypt_block(&mut tag);
        self.apply_key_stream(&tag.0, first, payload, out);
        tag.0
    }

    /// Decrypts in place and says whether the plaintext is authentic.
    fn open(&self, tag: [u8; BLOCK], aad: &[u8], data: &mut [u8]) -> bool {
        let mut opened = Array::from(tag);
        self.decrypt.decrypt_block(&mut opened);
        let (iv, mac) = halves(&opened.0);
        self.apply_key_stream(&tag, data, &[], &mut []);
        self.mac(iv, aad, data, &[]).ct_eq(&mac).into()
    }
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

/// One peer's keys, scheduled once so that a packet pays for nothing but itself. Callers share it in an `Arc`.
#[derive(Clone)]
pub struct Keys {
    shared: SharedKey,
    siv: GmacSiv,
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
        Keys { shared, siv }
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
                let (one_time_key, _) = self.one_time_keys(out, packet_len);
                let mac = poly1305(&one_time_key, &out[VERB..]);
                out[MAC].copy_from_slice(&mac);
            }
            Suite::Salsa2012Poly1305 => {
                let (one_time_key, mut stream) = self.one_time_keys(prefix, packet_len);
                stream.apply_keystream(&mut prefix[VERB..]);
                stream.apply_keystream_b2b(payload, rest);
                let mac = poly1305(&one_time_key, &out[VERB..]);
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
                let (one_time_key, mut stream) = self.one_time_keys(packet, packet.len());
                let mac = poly1305(&one_time_key, &packet[VERB..]);
                if !bool::from(mac.ct_eq(&packet[MAC])) {
                    return Err(OpenError::Forged);
                }
                if suite == Suite::Salsa2012Poly1305 {
                    stream.apply_keystream(&mut packet[VERB..]);
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
        Salsa12::new((&*key).into(), (&nonce).into()).apply_keystream(tail);
    }

    /// The packet's own Poly1305 key and the key stream for its verb and payload: the header and length are mixed into
    /// the peer's key. // spec: wire, "Suites 0 and 1, step by step"
    fn one_time_keys(&self, header: &[u8], packet_len: usize) -> (Zeroizing<[u8; 32]>, Salsa12) {
        let mut key = self.shared.salsa_key();
        for (k, byte) in key.iter_mut().zip(&header[..FLAGS]) {
            *k ^= byte;
        }
        key[18] ^= header[FLAGS] & HOPS_MASK;
        key[19] ^= packet_len as u8;
        key[20] ^= (packet_len >> 8) as u8;

        let mut nonce = [0; 8];
        nonce.copy_from_slice(&header[..8]);
        let mut stream = Salsa12::new((&*key).into(), (&nonce).into());
        // The rest of block 0 is discarded: the payload's key stream starts at block 1.
        let mut block = Zeroizing::new([0; SALSA_BLOCK]);
        stream.write_keystream(&mut block[..]);
        key.copy_from_slice(&block[..32]);
        (key, stream)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(secret)")
    }
}

/// The first 8 bytes of the tag in memory order; the other 8 are not sent.
fn poly1305(key: &[u8; 32], data: &[u8]) -> [u8; 8] {
    let tag = Poly1305::new(key.into()).compute_unpadded(data);
    halves(&tag.0).0
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
