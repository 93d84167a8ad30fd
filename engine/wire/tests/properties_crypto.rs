//! What must hold for every packet, split, block and identity, not only for the recorded ones.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use rand::SeedableRng;
use rand::rngs::StdRng;
use wire::compress::{compress, decompress};
use wire::fragment::{
    REASSEMBLY_BYTES, REASSEMBLY_TIMEOUT_MS, Reassembler, SETS_PER_PATH, SETS_TOTAL, datagrams_needed, split,
    split_even,
};
use wire::packet::{FRAG_HDR_LEN, HDR_LEN, MAX_FRAGMENTS, MAX_PACKET, MAX_PAYLOAD, header};
use wire::{Address, Backend, Identity, IdentityError, Keys, Now, OpenError, Packet, SecretIdentity, SharedKey, Suite};
use zeroize::Zeroizing;

fn shared_key() -> impl Strategy<Value = SharedKey> {
    any::<([u8; 24], [u8; 24])>().prop_map(|(a, b)| {
        let mut key = [0; 48];
        key[..24].copy_from_slice(&a);
        key[24..].copy_from_slice(&b);
        SharedKey::from_bytes(key)
    })
}

/// On any instructions that this machine has.
fn keys() -> impl Strategy<Value = Keys> {
    let backend = prop::sample::select(Backend::available().collect::<Vec<_>>());
    (shared_key(), backend).prop_map(|(key, backend)| Keys::with_backend(key, backend))
}

fn suite() -> impl Strategy<Value = Suite> {
    prop_oneof![Just(Suite::Poly1305), Just(Suite::Salsa2012Poly1305), Just(Suite::AesGmacSiv)]
}

/// Lengths of verb and payload: edges as often as the rest.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0..80usize, 0..=MAX_PAYLOAD, Just(MAX_PAYLOAD)];
    (len, any::<u64>()).prop_map(|(len, seed)| bytes(len, seed))
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::Rng::fill_bytes(&mut StdRng::seed_from_u64(seed), &mut bytes);
    bytes
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    (any::<u64>(), any::<u64>(), any::<u64>(), any::<u8>(), any::<bool>(), payload()).prop_map(
        |(id, to, from, verb, fragmented, payload)| {
            let mut packet = header(id, Address::from_u64(to), Address::from_u64(from), verb).to_vec();
            packet.extend_from_slice(&payload);
            Packet::new(&mut packet[..]).expect("long enough").set_fragmented(fragmented);
            packet
        },
    )
}

/// A sealed packet of `len` bytes with the fragmented flag as `mtu` demands.
fn sealed(len: usize, mtu: usize, id: u64) -> Vec<u8> {
    let mut packet = header(id, Address::from_u64(1), Address::from_u64(2), 6).to_vec();
    packet.resize(len, 0x5a);
    Packet::new(&mut packet[..]).expect("long enough").set_fragmented(len > mtu);
    Keys::new(SharedKey::from_bytes([9; 48])).seal(&mut packet, Suite::Salsa2012Poly1305);
    packet
}

/// Failures are kept beside this file.
fn config(cases: u32) -> ProptestConfig {
    let persistence = Box::new(FileFailurePersistence::WithSource("regressions"));
    ProptestConfig { cases, failure_persistence: Some(persistence), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(256 * Backend::available().count() as u32))]

    #[test]
    fn what_is_sealed_opens_to_the_same_bytes(keys in keys(), suite in suite(), plain in packet()) {
        let mut packet = plain.clone();
        keys.seal(&mut packet, suite);
        prop_assert_eq!(packet.len(), plain.len());
        prop_assert_eq!(Packet::new(&packet[..]).unwrap().suite(), Some(suite));
        prop_assert_eq!(keys.open(&mut packet), Ok(suite));
        prop_assert_eq!(&packet[HDR_LEN - 1..], &plain[HDR_LEN - 1..]);
        let (after, before) = (Packet::new(&packet[..]).unwrap(), Packet::new(&plain[..]).unwrap());
        prop_assert_eq!(after.destination(), before.destination());
        prop_assert_eq!(after.source(), before.source());
        prop_assert_eq!(after.fragmented(), before.fragmented());
    }

    #[test]
    fn sealing_while_copying_gives_the_same_packet(
        keys in keys(), suite in suite(), plain in packet(), cut in any::<prop::sample::Index>(),
    ) {
        let prefix = HDR_LEN + cut.index(plain.len() - HDR_LEN + 1);
        let mut copied = vec![0xee; plain.len()];
        copied[..prefix].copy_from_slice(&plain[..prefix]);
        keys.seal_copy(&mut copied, prefix, &plain[prefix..], suite);
        let mut in_place = plain;
        keys.seal(&mut in_place, suite);
        prop_assert_eq!(copied, in_place);
    }

    #[test]
    fn any_flipped_bit_but_the_hops_makes_opening_fail(
        keys in keys(), suite in suite(), plain in packet(), at in any::<prop::sample::Index>(), edge in 0..200usize,
        whole in any::<bool>(),
    ) {
        let mut sealed = plain;
        keys.seal(&mut sealed, suite);
        // Half of the flips hit the header and the first bytes, where every bit has its own meaning.
        let bit = if whole { at.index(sealed.len() * 8) } else { at.index(sealed.len() * 8) % (edge + HDR_LEN * 8) };
        let mut packet = sealed.clone();
        packet[bit / 8] ^= 1 << (bit % 8);
        let is_hops = bit / 8 == 18 && bit % 8 < 3;
        prop_assert_eq!(keys.open(&mut packet).is_ok(), is_hops);
    }

    #[test]
    fn relays_may_count_hops(keys in keys(), suite in suite(), plain in packet(), relays in 0..8usize) {
        let mut packet = plain.clone();
        keys.seal(&mut packet, suite);
        for _ in 0..relays {
            Packet::new(&mut packet[..]).unwrap().increment_hops();
        }
        prop_assert_eq!(Packet::new(&packet[..]).unwrap().hops() as usize, relays % 8);
        prop_assert_eq!(keys.open(&mut packet), Ok(suite));
        prop_assert_eq!(&packet[HDR_LEN - 1..], &plain[HDR_LEN - 1..]);
    }

    #[test]
    fn a_cut_or_lengthened_packet_does_not_open(
        keys in keys(), suite in suite(), plain in packet(), len in HDR_LEN..MAX_PACKET + 20,
    ) {
        let (mut packet, whole) = (plain.clone(), plain.len());
        keys.seal(&mut packet, suite);
        packet.resize(len, 0);
        prop_assert_eq!(keys.open(&mut packet).is_ok(), len == whole);
    }

    #[test]
    fn another_key_does_not_open(ours in keys(), theirs in keys(), suite in suite(), mut packet in packet()) {
        ours.seal(&mut packet, suite);
        prop_assert_eq!(theirs.open(&mut packet), Err(OpenError::Forged));
        if suite == Suite::AesGmacSiv {
            prop_assert!(packet[HDR_LEN - 1..].iter().all(|&b| b == 0), "unauthenticated plaintext is wiped");
        }
    }

    #[test]
    fn obscuring_twice_changes_nothing(keys in keys(), id in any::<u64>(), low in 0..8u64, tail in payload()) {
        let mut bytes = tail.clone();
        keys.obscure_hello_tail(id, &mut bytes);
        keys.obscure_hello_tail(id ^ low, &mut bytes);
        prop_assert_eq!(bytes, tail);
    }

    #[test]
    fn parts_in_any_order_make_the_packet_again(
        len in HDR_LEN..=MAX_PACKET, mtu in 400..3000usize, even in any::<bool>(), seed in any::<u64>(),
    ) {
        let packet = sealed(len, mtu, seed);
        let parts = if even { split_even(&packet, mtu) } else { split(&packet, mtu) };
        let needed = datagrams_needed(len, mtu);
        let Some(parts) = parts else {
            prop_assert!(needed > MAX_FRAGMENTS);
            return Ok(());
        };
        prop_assert_eq!(parts.len(), needed);
        let mut datagrams: Vec<_> = parts.map(|part| part.to_vec()).collect();
        prop_assert!(datagrams.iter().all(|d| d.len() <= mtu));
        if datagrams.len() == 1 {
            prop_assert_eq!(&datagrams[0], &packet);
            return Ok(());
        }
        if even && datagrams[0].len() > HDR_LEN {
            let (last, rest) = datagrams.split_last().unwrap();
            prop_assert!(rest.iter().all(|d| d.len() == rest[0].len()), "equal datagrams make one GSO send");
            prop_assert!(last.len() <= rest[0].len() && last.len() + needed > rest[0].len());
        }
        use rand::seq::SliceRandom;
        let mut rng = StdRng::seed_from_u64(seed);
        datagrams.shuffle(&mut rng);
        let again = datagrams[0].clone();
        datagrams.insert(1, again);
        let mut reassembler = Reassembler::new(seed);
        let mut whole = Vec::new();
        for datagram in &datagrams {
            let now = Now::at_ms(5);
            whole.extend(match wire::classify(datagram) {
                wire::Datagram::Head => reassembler.head(now, (), datagram),
                _ => reassembler.fragment(now, (), datagram),
            });
        }
        prop_assert_eq!(whole, vec![packet]);
        prop_assert_eq!((reassembler.sets(), reassembler.bytes()), (0, 0));
        prop_assert_eq!(reassembler.counters().duplicates, 1);
    }

    #[test]
    fn compressed_payloads_come_back(seed in any::<u64>(), len in 0..=MAX_PAYLOAD, alphabet in 1..=256usize) {
        let payload: Vec<u8> = bytes(len, seed).into_iter().map(|b| (usize::from(b) % alphabet) as u8).collect();
        let Some(block) = compress(&payload) else {
            return Ok(());
        };
        prop_assert!(block.len() < payload.len() && payload.len() > 64);
        check_end_of_block(&block, payload.len());
        let mut out = vec![1, 2, 3];
        prop_assert_eq!(decompress(&block, &mut out), Ok(()));
        prop_assert_eq!(out, payload);
    }
}

/// The rules that the reference's decoder insists on: the last five bytes are literals and no match begins in the last
/// twelve. Walks the block's sequences. // spec: wire, "Compression"
fn check_end_of_block(block: &[u8], payload_len: usize) {
    let (mut at, mut out, mut last_match) = (0, 0, None);
    let length = |at: &mut usize, nibble: u8| {
        let mut n = usize::from(nibble);
        let mut more = nibble == 15;
        while more {
            n += usize::from(block[*at]);
            more = block[*at] == 255;
            *at += 1;
        }
        n
    };
    loop {
        let token = block[at];
        at += 1;
        let literals = length(&mut at, token >> 4);
        (at, out) = (at + literals, out + literals);
        if at == block.len() {
            assert_eq!(out, payload_len);
            assert!(last_match.is_none() || literals >= 5, "{literals} literals at the end");
            assert!(last_match.is_none_or(|start| start + 12 <= payload_len), "a match begins too late");
            return;
        }
        at += 2;
        last_match = Some(out);
        out += 4 + length(&mut at, token & 15);
    }
}

// The reassembler's bounds.

fn fragment(id: u64, total: u8, number: u8, len: usize) -> Vec<u8> {
    let mut datagram = id.to_be_bytes().to_vec();
    datagram.extend_from_slice(&[0, 0, 0, 0, 1, 0xff, total << 4 | number, 0]);
    datagram.resize(FRAG_HDR_LEN + len, 7);
    datagram
}

#[test]
fn a_ninth_packet_on_a_path_pushes_out_its_oldest() {
    let mut r = Reassembler::new(1);
    let now = Now::at_ms(0);
    r.fragment(now, 'b', &fragment(100, 2, 1, 10));
    for id in 0..SETS_PER_PATH as u64 {
        assert_eq!(r.head(now, 'a', &sealed(2000, 1000, id)[..1000]), None);
    }
    assert_eq!((r.sets(), r.counters().evicted), (SETS_PER_PATH + 1, 0));
    r.fragment(now, 'a', &fragment(99, 2, 1, 10));
    assert_eq!((r.sets(), r.counters().evicted), (SETS_PER_PATH + 1, 1));

    let completes = |r: &mut Reassembler<char>, id| r.fragment(now, 'a', &fragment(id, 2, 1, 10)).is_some();
    for id in 1..SETS_PER_PATH as u64 {
        assert!(completes(&mut r, id), "{id} is still there");
    }
    assert!(!completes(&mut r, 0), "0 was the oldest");
}

#[test]
fn packet_1025_pushes_out_the_oldest_of_its_own_path_first_and_of_all_else() {
    let mut r = Reassembler::new(1);
    let now = Now::at_ms(0);
    for path in 0..SETS_TOTAL as u64 {
        r.fragment(now, path, &fragment(path, 2, 1, 10));
    }
    assert_eq!((r.sets(), r.counters().evicted), (SETS_TOTAL, 0));
    r.fragment(now, 7, &fragment(5000, 2, 1, 10));
    assert_eq!((r.sets(), r.counters().evicted), (SETS_TOTAL, 1));
    let head = |r: &mut Reassembler<u64>, path, id| r.head(now, path, &sealed(2000, 1000, id)[..1000]).is_some();
    assert!(head(&mut r, 0, 0), "path 7 paid for its own, so the oldest of all is still there");
    assert!(head(&mut r, 7, 5000));

    r.fragment(now, 6000, &fragment(6000, 2, 1, 10));
    r.fragment(now, 6001, &fragment(6001, 2, 1, 10));
    assert_eq!((r.sets(), r.counters().evicted), (SETS_TOTAL, 1));
    r.fragment(now, 6002, &fragment(6002, 2, 1, 10));
    assert_eq!((r.sets(), r.counters().evicted), (SETS_TOTAL, 2));
    assert!(head(&mut r, 2, 2));
    assert!(!head(&mut r, 1, 1), "path 1 had the oldest");
}

#[test]
fn reassemblers_that_share_keep_the_totals_together() {
    let mut shares: [Reassembler<u64>; 4] = std::array::from_fn(|n| Reassembler::with_share(n as u64, 4));
    for share in &mut shares {
        (0..SETS_TOTAL as u64).for_each(|path| drop(share.fragment(Now::at_ms(0), path, &fragment(path, 2, 1, 10))));
    }
    assert_eq!(shares.iter().map(Reassembler::sets).sum::<usize>(), SETS_TOTAL);
    assert!(shares.iter().map(Reassembler::bytes).sum::<usize>() <= REASSEMBLY_BYTES);
}

#[test]
fn eight_mebibytes_are_the_end_of_it() {
    let mut r = Reassembler::new(1);
    let now = Now::at_ms(0);
    let mut most = 0;
    for path in 0..SETS_TOTAL as u64 {
        for number in 1..7 {
            r.fragment(now, path, &fragment(path, 7, number, 1600));
            most = most.max(r.bytes());
            assert!(r.bytes() <= REASSEMBLY_BYTES, "{} bytes", r.bytes());
        }
    }
    assert!(r.sets() < SETS_TOTAL && r.counters().evicted > 0);
    assert!(most > REASSEMBLY_BYTES - 2 * MAX_PACKET, "the bound was reached: {most}");
    r.expire(Now::at_ms(REASSEMBLY_TIMEOUT_MS));
    assert_eq!((r.sets(), r.bytes()), (0, 0));
}

#[test]
fn a_packet_has_half_a_second_from_its_first_part() {
    let mut r = Reassembler::new(1);
    let packet = sealed(2500, 1000, 1);
    let parts: Vec<_> = split(&packet, 1000).unwrap().map(|part| part.to_vec()).collect();
    for last in [REASSEMBLY_TIMEOUT_MS - 1, REASSEMBLY_TIMEOUT_MS] {
        r.fragment(Now::at_ms(10_000), (), &parts[2]);
        r.fragment(Now::at_ms(10_400), (), &parts[1]);
        let whole = r.head(Now::at_ms(10_000 + last), (), &parts[0]);
        assert_eq!(whole.is_some(), last < REASSEMBLY_TIMEOUT_MS);
        r.expire(Now::at_ms(20_000));
    }
    assert_eq!(r.counters().expired, 2, "one set was too old, and its head opened another");
}

#[test]
fn parts_do_not_meet_across_paths() {
    let mut r = Reassembler::new(1);
    let packet = sealed(1500, 1000, 1);
    let parts: Vec<_> = split(&packet, 1000).unwrap().map(|part| part.to_vec()).collect();
    assert_eq!(r.head(Now::at_ms(0), "wan1", &parts[0]), None);
    assert_eq!(r.fragment(Now::at_ms(0), "wan2", &parts[1]), None);
    assert_eq!(r.fragment(Now::at_ms(0), "wan1", &parts[1]), Some(packet));
}

#[test]
fn a_set_that_disagrees_about_its_total_is_dropped() {
    let mut r = Reassembler::new(1);
    let now = Now::at_ms(0);
    assert_eq!(r.fragment(now, (), &fragment(1, 3, 1, 10)), None);
    assert_eq!(r.fragment(now, (), &fragment(1, 4, 2, 10)), None);
    assert_eq!((r.sets(), r.bytes(), r.counters().disagreeing), (0, 0, 1));
}

#[test]
fn a_whole_packet_is_no_head_to_wait_for() {
    let mut r = Reassembler::new(1);
    assert_eq!(r.head(Now::at_ms(0), (), &sealed(500, 1000, 1)), None);
    assert_eq!((r.sets(), r.counters().malformed), (0, 1));
}

#[test]
fn impossible_parts_are_counted_and_hold_nothing() {
    let mut r = Reassembler::new(1);
    let now = Now::at_ms(0);
    for (total, number) in [(0, 1), (1, 1), (1, 0), (8, 1), (15, 3), (3, 0), (3, 3), (3, 5), (7, 7), (7, 15)] {
        assert_eq!(r.fragment(now, (), &fragment(1, total, number, 10)), None);
    }
    assert_eq!(r.fragment(now, (), &fragment(1, 3, 1, 0)), None, "16 bytes are no fragment");
    assert_eq!(r.head(now, (), &[0; HDR_LEN - 1]), None);
    assert_eq!((r.sets(), r.counters().malformed), (0, 12));
}

#[test]
fn a_set_beyond_the_largest_packet_is_dropped() {
    let mut r = Reassembler::new(1);
    let now = Now::at_ms(0);
    for number in 1..=3 {
        r.fragment(now, (), &fragment(1, 7, number, 3300));
    }
    assert_eq!(r.sets(), 1);
    r.fragment(now, (), &fragment(1, 7, 4, 125));
    assert_eq!((r.sets(), r.bytes(), r.counters().oversized), (0, 0, 1));
}

#[test]
fn recycled_buffers_serve_again() {
    let mut r = Reassembler::new(1);
    let packet = sealed(2800, 1432, 1);
    let parts: Vec<_> = split(&packet, 1432).unwrap().map(|part| part.to_vec()).collect();
    let mut buffers = std::collections::HashSet::new();
    for i in 0..100 {
        assert_eq!(r.head(Now::at_ms(i), (), &parts[0]), None);
        let whole = r.fragment(Now::at_ms(i), (), &parts[1]).expect("the last part");
        assert_eq!(whole, packet);
        buffers.insert(whole.as_ptr());
        r.recycle(whole);
    }
    assert_eq!(buffers.len(), 1);
}

// Identities.

#[test]
fn a_new_identity_is_valid_and_follows_from_its_seed() {
    let make = || SecretIdentity::generate(&mut StdRng::seed_from_u64(42));
    let identity = make();
    assert!(identity.public().validate());
    assert_eq!(identity.public(), make().public());
    let again: SecretIdentity = identity.to_text().parse().unwrap();
    assert_eq!(again.public(), identity.public());
    let public: Identity = format!("{}\n", identity.public()).parse().unwrap();
    assert_eq!(&public, identity.public());
}

fn made_up(seed: u64) -> SecretIdentity {
    let mut private = Zeroizing::new([0; 64]);
    private.copy_from_slice(&bytes(64, seed));
    SecretIdentity::from_parts(Address::from_u64(seed + 1), private)
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn both_sides_agree_on_one_key(a in 0..1u64 << 39, b in 0..1u64 << 39) {
        let (a, b) = (made_up(a), made_up(b));
        let key = a.agree(b.public()).unwrap();
        prop_assert_eq!(Some(key), b.agree(a.public()));
    }

    #[test]
    fn a_signature_fits_its_message_and_signer_only(
        seed in 0..1u64 << 39, mut message in prop::collection::vec(any::<u8>(), 1..200), bit in 0..96usize * 8,
        at in any::<prop::sample::Index>(),
    ) {
        let signer = made_up(seed);
        let signature = signer.sign(&message);
        prop_assert!(signer.public().verify(&message, &signature));
        prop_assert!(!made_up(seed + 1).public().verify(&message, &signature));
        let mut broken = signature.clone();
        broken.0[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!signer.public().verify(&message, &broken));
        let at = at.index(message.len());
        message[at] ^= 1;
        prop_assert!(!signer.public().verify(&message, &signature));
    }
}

#[test]
fn identity_errors_name_what_is_wrong() {
    let (ours, other) = (made_up(1), made_up(2));
    let public = ours.public().to_string();
    let secret = ours.to_text();
    let parse = |text: &str| text.parse::<SecretIdentity>().unwrap_err();
    assert_eq!(parse(""), IdentityError::Fields(1));
    assert_eq!(parse(&format!("{}:00", *secret)), IdentityError::Fields(5));
    assert_eq!(parse(&public), IdentityError::SecretMissing);
    assert_eq!(secret.parse::<Identity>().unwrap_err(), IdentityError::SecretUnwanted);
    assert!(matches!(parse(&format!(" {}", *secret)), IdentityError::Address(_)));
    assert_eq!(parse(&secret.replacen(":0:", ":1:", 1)), IdentityError::Type("1".into()));
    assert_eq!(parse(&public[..public.len() - 1]), IdentityError::PublicKey);
    assert_eq!(parse(&secret[..secret.len() - 1]), IdentityError::PrivateKey);
    let ff = Address::from_u64(0xff_0000_0001);
    assert_eq!(parse(&secret.replacen(&ours.address().to_string(), &ff.to_string(), 1)), IdentityError::Reserved(ff));
    let stolen = other.to_text().rsplit(':').next().unwrap().to_owned();
    assert_eq!(parse(&format!("{public}:{stolen}")), IdentityError::KeyMismatch);
}

#[test]
fn a_key_of_low_order_agrees_on_nothing_and_verifies_nothing() {
    let ours = made_up(1);
    let mut public = *ours.public().public_key();
    public[..32].fill(0);
    assert_eq!(ours.agree(&Identity::from_parts(Address::from_u64(9), public)), None);
    // The neutral element as an Ed25519 key would verify R = 0, S = 0 for anything.
    public[32..].fill(0);
    public[32] = 1;
    let weak = Identity::from_parts(Address::from_u64(9), public);
    let mut signature = ours.sign(b"anything");
    signature.0[..64].fill(0);
    signature.0[0] = 1;
    assert!(!weak.verify(b"anything", &signature));
    assert!(!weak.validate());
}

#[test]
fn secrets_do_not_show_when_printed() {
    let ours = made_up(1);
    let key = ours.agree(made_up(2).public()).unwrap();
    let keys = Keys::new(key.clone());
    let printed = format!("{ours:?} {key:?} {keys:?}");
    assert_eq!(printed, "SecretIdentity(0000000002) SharedKey(secret) Keys(secret)");
}
