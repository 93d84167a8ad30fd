//! One harness for every parser that takes bytes from strangers: nothing may panic, whatever comes. As ordinary tests
//! they run a bounded number of random inputs; `cargo bolero test` runs the same harnesses under a fuzzer.

use wire::compress::decompress;
use wire::fragment::{REASSEMBLY_BYTES, Reassembler, SETS_TOTAL, split, split_even};
use wire::identity::IDENTITY_LEN;
use wire::packet::{HDR_LEN, MAX_FRAGMENTS, MAX_PACKET, MAX_PAYLOAD};
use wire::recent::RecentIds;
use wire::{
    Datagram, Fragment, Identity, Keys, Now, Packet, Reader, SecretIdentity, SharedKey, Signature, Suite, classify,
};

const ITERATIONS: usize = 10_000;

/// A harness that is fed up to `$max_len` bytes. The default generator would hardly ever make more than 64.
macro_rules! any_bytes {
    ($iterations:expr, $max_len:expr) => {
        bolero::check!()
            .with_iterations($iterations)
            .with_max_len(2 * $max_len)
            .with_generator(bolero::produce::<Vec<u8>>().with().len(0..=$max_len as usize))
    };
}

#[test]
fn classify_and_the_views_agree_about_any_bytes() {
    any_bytes!(ITERATIONS, 4096).for_each(|bytes: &Vec<u8>| {
        let kind = classify(bytes);
        assert_eq!(Fragment::new(bytes).is_ok(), kind == Datagram::Fragment);
        if let Ok(view) = Fragment::new(bytes) {
            assert!(!view.data().is_empty() && view.total() < 16 && view.number() < 16);
            let _ = (view.id(), view.destination(), view.hops());
            let mut copy = bytes.to_vec();
            let mut view = Fragment::new(&mut copy[..]).expect("still a fragment");
            view.increment_hops();
            assert!(view.hops() < 8);
        }
        let Ok(view) = Packet::new(bytes) else {
            assert_ne!(kind, Datagram::Head);
            return;
        };
        assert_eq!(view.payload().len() + HDR_LEN, bytes.len());
        let _ = (view.id(), view.destination(), view.source(), view.suite(), view.trusted_path(), view.verb_number());
        let mut copy = bytes.to_vec();
        let mut view = Packet::new(&mut copy[..]).expect("still a packet");
        let suite = view.suite();
        view.increment_hops();
        view.set_compressed(true);
        view.set_fragmented(true);
        assert!(view.compressed() && view.fragmented() && view.suite() == suite);
    });
}

#[test]
fn nothing_opens_that_was_not_sealed() {
    let keys = Keys::new(SharedKey::from_bytes([3; 48]));
    any_bytes!(ITERATIONS, 4096).for_each(|bytes: &Vec<u8>| {
        let mut packet = bytes.to_vec();
        assert!(keys.open(&mut packet).is_err());
        assert_eq!(packet.len(), bytes.len());
        // The same bytes as a packet of ours.
        if bytes.len() >= HDR_LEN {
            for suite in [Suite::Poly1305, Suite::Salsa2012Poly1305, Suite::AesGmacSiv] {
                let mut packet = bytes.to_vec();
                keys.seal(&mut packet, suite);
                assert_eq!(keys.open(&mut packet), Ok(suite));
                assert_eq!(packet[HDR_LEN - 1..], bytes[HDR_LEN - 1..]);
            }
        }
    });
}

#[test]
fn any_sequence_of_parts_stays_within_the_reassemblers_bounds() {
    any_bytes!(ITERATIONS, 2048).for_each(|script: &Vec<u8>| {
        let mut reassembler = Reassembler::new(1);
        let mut ms = 0;
        // Five bytes a step: time, path, id, counts, length.
        for step in script.as_chunks::<5>().0 {
            let [time, path, id, counts, len] = *step;
            ms += u64::from(time);
            let mut datagram = vec![0; usize::from(len) * 8];
            if let Some(byte) = datagram.get_mut(7) {
                *byte = id % 16;
            }
            if let Some(bytes) = datagram.get_mut(13..15) {
                bytes.copy_from_slice(&[if time % 3 == 0 { 0 } else { 0xff }, counts]);
            }
            if let Some(flags) = datagram.get_mut(18) {
                *flags = if counts == 0 { 0 } else { 0x40 };
            }
            let now = Now::at_ms(ms);
            let whole = match classify(&datagram) {
                Datagram::Head => reassembler.head(now, path % 4, &datagram),
                _ => reassembler.fragment(now, path % 4, &datagram),
            };
            if let Some(packet) = whole {
                assert!((HDR_LEN..=MAX_PACKET).contains(&packet.len()));
                reassembler.recycle(packet);
            }
            assert!(reassembler.sets() <= SETS_TOTAL && reassembler.bytes() <= REASSEMBLY_BYTES);
        }
        reassembler.expire(Now::at_ms(ms + 1000));
        assert_eq!((reassembler.sets(), reassembler.bytes()), (0, 0));
    });
}

#[test]
fn splitting_loses_no_byte_at_any_mtu() {
    any_bytes!(ITERATIONS, 4096).for_each(|bytes: &Vec<u8>| {
        let Some((&[mtu_high, mtu_low], packet)) = bytes.split_first_chunk() else { return };
        let mtu = usize::from(u16::from_be_bytes([mtu_high, mtu_low])) % 3000;
        let mut packet = packet.to_vec();
        let Ok(mut view) = Packet::new(&mut packet[..]) else { return };
        view.set_fragmented(wire::fragment::datagrams_needed(view.as_bytes().len(), mtu) > 1);
        for parts in [split(&packet, mtu), split_even(&packet, mtu)].into_iter().flatten() {
            assert!(parts.len() <= MAX_FRAGMENTS);
            assert_eq!(parts.flat_map(|part| part.data().to_vec()).collect::<Vec<_>>(), packet);
        }
    });
}

#[test]
fn decompression_of_anything_stays_within_a_payload() {
    let mut out = Vec::new();
    any_bytes!(ITERATIONS, 4096).for_each(|block: &Vec<u8>| {
        let mut out = std::mem::take(&mut out);
        match decompress(block, &mut out) {
            Ok(()) => assert!(out.len() <= MAX_PAYLOAD && out.is_empty() == block.is_empty()),
            Err(_) => assert!(out.is_empty()),
        }
    });
}

#[test]
fn identities_read_from_anything_write_back_the_same() {
    any_bytes!(ITERATIONS, 300).for_each(|bytes: &Vec<u8>| {
        // Half of the inputs get the type and length bytes right, else hardly any would parse.
        let mut bytes = bytes.to_vec();
        if bytes.len() > 70 && bytes[0].is_multiple_of(2) {
            (bytes[5], bytes[70]) = (0, bytes[70] & 64);
        }
        let mut r = Reader::new(&bytes);
        if let Ok(identity) = Identity::read(&mut r) {
            let mut written = Vec::new();
            identity.write(&mut written);
            assert_eq!(written.len(), IDENTITY_LEN);
            assert_eq!(written[..70], bytes[..70]);
            assert_eq!(identity.to_string().parse::<Identity>().as_ref(), Ok(&identity));
            assert!(!identity.verify(b"message", &Signature([1; 96])));
        }
    });
}

#[test]
fn identity_texts_of_any_form_are_read_or_refused() {
    const DIGITS: &[u8; 24] = b"0123456789abcdefABCDEF:g";
    any_bytes!(ITERATIONS, 400).for_each(|bytes: &Vec<u8>| {
        let near: String = bytes.iter().map(|&b| char::from(DIGITS[usize::from(b) % DIGITS.len()])).collect();
        let digits = hex::encode(bytes);
        let framed = match digits.len() {
            138.. => format!("{}:0:{}", &digits[..10], &digits[10..138]),
            _ => digits,
        };
        for text in [String::from_utf8_lossy(bytes).into_owned(), near, framed] {
            if let Ok(identity) = text.parse::<Identity>() {
                assert_eq!(identity.to_string(), text.trim_ascii_end().to_ascii_lowercase());
            }
            let _ = text.parse::<SecretIdentity>();
        }
    });
}

#[test]
fn recent_ids_take_any_sequence() {
    any_bytes!(200, 8192).for_each(|bytes: &Vec<u8>| {
        let recent = RecentIds::new();
        for &id in bytes.as_chunks::<8>().0 {
            let id = u64::from_be_bytes(id);
            recent.insert(id);
            assert!(!recent.insert(id));
        }
    });
}
