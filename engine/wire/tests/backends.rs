//! Every way to protect a packet that this machine has gives the bytes of the portable one: every length, any alignment,
//! in place and while copying, and nothing beside the packet is touched.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use wire::packet::HDR_LEN;
use wire::{Backend, Keys, OpenError, SharedKey, Suite};

const SUITES: [Suite; 3] = [Suite::Poly1305, Suite::Salsa2012Poly1305, Suite::AesGmacSiv];
const LONGEST: usize = 3000;
/// Bytes around a packet that must stay as they are.
const MARGIN: usize = 192;
const MARK: u8 = 0x5c;

/// A buffer in which a packet stands somewhere, with marks around it.
struct Framed {
    bytes: Vec<u8>,
    at: usize,
    len: usize,
}

impl Framed {
    fn new(packet: &[u8], rng: &mut StdRng) -> Framed {
        let at = MARGIN + rng.random_range(0..64usize);
        let mut bytes = vec![MARK; at + packet.len() + MARGIN];
        bytes[at..at + packet.len()].copy_from_slice(packet);
        Framed { bytes, at, len: packet.len() }
    }

    fn packet(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..self.at + self.len]
    }

    fn check(mut self, expected: &[u8], what: &str) {
        assert!(self.packet() == expected, "{what}: other bytes");
        self.packet().fill(MARK);
        assert!(self.bytes.iter().all(|&b| b == MARK), "{what}: bytes beside the packet were written");
    }
}

fn random(len: usize, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn each_length_on(backend: Backend, suite: Suite) {
    let mut rng = StdRng::seed_from_u64(suite as u64);
    for payload_len in 0..=LONGEST {
        let mut key = [0; 48];
        rng.fill_bytes(&mut key);
        let portable = Keys::with_backend(SharedKey::from_bytes(key), Backend::Portable);
        let keys = Keys::with_backend(SharedKey::from_bytes(key), backend);
        let what = format!("{backend:?} {suite:?} {payload_len}");

        let plain = random(HDR_LEN + payload_len, &mut rng);
        let mut sealed = plain.clone();
        portable.seal(&mut sealed, suite);

        let mut packet = Framed::new(&plain, &mut rng);
        keys.seal(packet.packet(), suite);
        packet.check(&sealed, &what);

        let prefix = HDR_LEN + rng.random_range(0..=payload_len);
        for prefix in [HDR_LEN, prefix, (HDR_LEN + 11).min(plain.len())] {
            let mut packet = Framed::new(&random(plain.len(), &mut rng), &mut rng);
            let mut payload = Framed::new(&plain[prefix..], &mut rng);
            packet.packet()[..prefix].copy_from_slice(&plain[..prefix]);
            keys.seal_copy(packet.packet(), prefix, payload.packet(), suite);
            packet.check(&sealed, &format!("{what} copied from {prefix}"));
            payload.check(&plain[prefix..], &what);
        }

        let mut opened = sealed.clone();
        assert_eq!(portable.open(&mut opened), Ok(suite));
        let mut packet = Framed::new(&sealed, &mut rng);
        assert_eq!(keys.open(packet.packet()), Ok(suite), "{what}");
        packet.check(&opened, &what);

        let mut forged = sealed;
        let bit = rng.random_range(0..(payload_len + 1) * 8);
        forged[HDR_LEN - 1 + bit / 8] ^= 1 << (bit % 8);
        let mut packet = Framed::new(&forged, &mut rng);
        assert_eq!(portable.open(&mut forged), Err(OpenError::Forged));
        assert_eq!(keys.open(packet.packet()), Err(OpenError::Forged), "{what}");
        packet.check(&forged, &what);
    }
}

#[test]
fn every_backend_protects_every_length_like_the_portable_one() {
    for backend in Backend::available() {
        for suite in SUITES {
            each_length_on(backend, suite);
        }
    }
}

#[test]
fn the_largest_packet_is_the_same_on_every_backend() {
    let mut rng = StdRng::seed_from_u64(9);
    let plain = random(wire::packet::MAX_PACKET, &mut rng);
    for suite in SUITES {
        let [first, rest @ ..] = &Backend::available()
            .map(|backend| {
                let mut packet = plain.clone();
                Keys::with_backend(SharedKey::from_bytes([3; 48]), backend).seal(&mut packet, suite);
                packet
            })
            .collect::<Vec<_>>()[..]
        else {
            panic!("the portable backend is always there");
        };
        assert!(rest.iter().all(|packet| packet == first), "{suite:?}");
    }
}

#[test]
fn a_hello_tail_is_obscured_alike_on_every_backend() {
    let mut rng = StdRng::seed_from_u64(11);
    for len in 0..=LONGEST {
        let (tail, id) = (random(len, &mut rng), rng.next_u64());
        let mut expected = tail.clone();
        Keys::with_backend(SharedKey::from_bytes([5; 48]), Backend::Portable).obscure_hello_tail(id, &mut expected);
        for backend in Backend::available() {
            let mut obscured = Framed::new(&tail, &mut rng);
            Keys::with_backend(SharedKey::from_bytes([5; 48]), backend).obscure_hello_tail(id, obscured.packet());
            obscured.check(&expected, &format!("{backend:?} {len}"));
        }
    }
}

#[test]
fn what_the_processor_lacks_is_replaced_by_the_portable_backend() {
    assert!(Backend::Portable.is_available());
    assert!(Backend::best().is_available());
    for backend in Backend::ALL {
        let keys = Keys::with_backend(SharedKey::from_bytes([3; 48]), backend);
        let mut packet = vec![7; 100];
        keys.seal(&mut packet, Suite::AesGmacSiv);
        assert_eq!(keys.open(&mut packet), Ok(Suite::AesGmacSiv));
    }
}
