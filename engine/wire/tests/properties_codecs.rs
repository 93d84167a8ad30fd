//! What must hold for every message, credential, world, dictionary and endpoint, not only for the recorded ones: what
//! is written is read back the same, what is cut short is refused or read as less, and no signature survives a change.

use std::borrow::Cow;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use wire::chunk::{ConfigChunk, MAX_CHUNK_DATA};
use wire::credential::{
    CAP_MAX_CUSTODY, COM_MAX_QUALIFIERS, COO_MAX_THINGS, Capability, Com, Custody, CustodyError, Ownership, Qualifier,
    Revocation, Tag, Thing,
};
use wire::dictionary::{CONFIG_DICT, Dictionary, DictionaryWriter, MAX_KEYS};
use wire::endpoint::{self, Prefix};
use wire::message::*;
use wire::raw::{Beacon, TcpGreeting, TcpRelayed, tcp_record};
use wire::rule::{CAP_MAX_RULES, Forward, IntegerRange, Range16, Rule, RuleKind, RuleTable, TagMatch};
use wire::world::{Root, WORLD_MAX_ENDPOINTS, WORLD_MAX_ROOTS, World, WorldKind};
use wire::{Address, Identity, Mac, Malformed, MulticastGroup, NetworkId, Reader, SecretIdentity, Signature};

static CONTROLLER: LazyLock<SecretIdentity> = LazyLock::new(|| SecretIdentity::generate(&mut StdRng::seed_from_u64(1)));
static MEMBER: LazyLock<SecretIdentity> = LazyLock::new(|| SecretIdentity::generate(&mut StdRng::seed_from_u64(2)));

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn address() -> impl Strategy<Value = Address> {
    (1..0xff_0000_0000u64).prop_map(Address::from_u64)
}

fn network() -> impl Strategy<Value = NetworkId> {
    any::<u64>().prop_map(NetworkId)
}

/// A network whose controller is `CONTROLLER`.
fn our_network() -> impl Strategy<Value = NetworkId> {
    (0..1u64 << 24).prop_map(|n| NetworkId(CONTROLLER.public().address().to_u64() << 24 | n))
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

fn group() -> impl Strategy<Value = MulticastGroup> {
    (mac(), any::<u32>()).prop_map(|(mac, adi)| MulticastGroup { mac, adi })
}

fn endpoint() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
}

fn signature() -> impl Strategy<Value = Signature> {
    vec(any::<u8>(), 96).prop_map(|b| Signature(b.try_into().expect("96 bytes")))
}

fn identity() -> impl Strategy<Value = Identity> {
    (address(), vec(any::<u8>(), 64)).prop_map(|(a, key)| Identity::from_parts(a, key.try_into().expect("64 bytes")))
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=most)
}

fn version() -> impl Strategy<Value = Version> {
    any::<(u8, u8, u8, u16)>().prop_map(|(protocol, major, minor, revision)| Version {
        protocol,
        major,
        minor,
        revision,
    })
}

fn revision() -> impl Strategy<Value = WorldRevision> {
    any::<(u64, u64)>().prop_map(|(id, timestamp)| WorldRevision { id, timestamp })
}

fn in_re() -> impl Strategy<Value = InRe> {
    any::<(u8, u64)>().prop_map(|(verb, packet_id)| InRe { verb, packet_id })
}

fn com() -> impl Strategy<Value = Com> {
    let qualifiers = vec(any::<(u64, u64, u64)>(), 0..=COM_MAX_QUALIFIERS).prop_map(|mut all| {
        all.sort();
        all.into_iter().map(|(id, value, max_delta)| Qualifier { id, value, max_delta }).collect()
    });
    (qualifiers, proptest::option::of((address(), signature()))).prop_map(|(qualifiers, signed)| match signed {
        Some((signer, signature)) => Com { qualifiers, signer, signature: Some(signature) },
        None => Com { qualifiers, signer: Address::ZERO, signature: None },
    })
}

fn tag(network: impl Strategy<Value = NetworkId>) -> impl Strategy<Value = Tag> {
    (network, any::<(i64, u32, u32)>(), address(), address(), signature()).prop_map(
        |(network, (timestamp, id, value), issued_to, signer, signature)| Tag {
            network,
            timestamp,
            id,
            value,
            issued_to,
            signer,
            signature: Some(signature),
        },
    )
}

fn revocation(network: impl Strategy<Value = NetworkId>) -> impl Strategy<Value = Revocation> {
    (network, any::<(u32, u32, i64, u64, u8)>(), address(), address(), signature()).prop_map(
        |(network, (id, credential_id, threshold, flags, kind), target, signer, signature)| Revocation {
            id,
            network,
            credential_id,
            threshold,
            flags,
            target,
            signer,
            kind,
            signature: Some(signature),
        },
    )
}

fn ownership(network: impl Strategy<Value = NetworkId>) -> impl Strategy<Value = Ownership> {
    let things = vec(any::<(u8, [u8; 16])>().prop_map(|(kind, value)| Thing { kind, value }), 0..=COO_MAX_THINGS);
    (network, any::<(i64, u64, u32)>(), things, address(), address(), signature()).prop_map(
        |(network, (timestamp, flags, id), things, issued_to, signer, signature)| Ownership {
            network,
            timestamp,
            flags,
            id,
            things,
            issued_to,
            signer,
            signature: Some(signature),
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let forward =
        || (address(), any::<(u32, u16)>()).prop_map(|(address, (flags, length))| Forward { address, flags, length });
    let tag = || any::<(u32, u32)>().prop_map(|(id, value)| TagMatch { id, value });
    let range = || any::<(u16, u16)>().prop_map(|(low, high)| Range16 { low, high });
    let unknown = prop_oneof![7u8..24, 52u8..64];
    let kind = prop_oneof![
        Just(RuleKind::Drop),
        Just(RuleKind::Accept),
        Just(RuleKind::Break),
        Just(RuleKind::Priority),
        prop_oneof![forward().prop_map(RuleKind::Tee), forward().prop_map(RuleKind::Watch)],
        forward().prop_map(RuleKind::Redirect),
        prop_oneof![address().prop_map(RuleKind::SourceAddress), address().prop_map(RuleKind::DestAddress)],
        prop_oneof![any::<u16>().prop_map(RuleKind::VlanId), any::<u16>().prop_map(RuleKind::Ethertype)],
        prop_oneof![any::<u8>().prop_map(RuleKind::VlanPcp), any::<u8>().prop_map(RuleKind::VlanDei)],
        prop_oneof![mac().prop_map(RuleKind::MacSource), mac().prop_map(RuleKind::MacDest)],
        any::<(std::net::Ipv4Addr, u8, bool)>().prop_map(|(ip, bits, source)| match source {
            true => RuleKind::Ipv4Source(ip, bits),
            false => RuleKind::Ipv4Dest(ip, bits),
        }),
        any::<(std::net::Ipv6Addr, u8, bool)>().prop_map(|(ip, bits, source)| match source {
            true => RuleKind::Ipv6Source(ip, bits),
            false => RuleKind::Ipv6Dest(ip, bits),
        }),
        any::<(u8, u8, u8)>().prop_map(|(mask, low, high)| RuleKind::IpTos { mask, low, high }),
        any::<u8>().prop_map(RuleKind::IpProtocol),
        any::<(u8, u8, u8)>().prop_map(|(kind, code, flags)| RuleKind::Icmp { kind, code, flags }),
        prop_oneof![range().prop_map(RuleKind::SourcePorts), range().prop_map(RuleKind::DestPorts)],
        range().prop_map(RuleKind::FrameSize),
        any::<u64>().prop_map(RuleKind::Characteristics),
        any::<u32>().prop_map(RuleKind::Random),
        prop_oneof![tag().prop_map(RuleKind::TagsDifference), tag().prop_map(RuleKind::TagsAnd)],
        prop_oneof![tag().prop_map(RuleKind::TagsOr), tag().prop_map(RuleKind::TagsXor)],
        prop_oneof![tag().prop_map(RuleKind::TagsEqual), tag().prop_map(RuleKind::TagSender)],
        tag().prop_map(RuleKind::TagReceiver),
        any::<(u64, u64, u16, u8)>().prop_map(|(start, end, index, format)| RuleKind::IntegerRange(IntegerRange {
            start,
            end,
            index,
            format
        })),
        (unknown, bytes(255)).prop_map(|(code, value)| RuleKind::Unknown { code, value }),
    ];
    (any::<(bool, bool)>(), kind).prop_map(|((not, or), kind)| Rule { not, or, kind })
}

fn capability(network: impl Strategy<Value = NetworkId>) -> impl Strategy<Value = Capability> {
    let link =
        || (address(), address(), signature()).prop_map(|(to, from, s)| Custody { to, from, signature: Some(s) });
    let custody = (1..=CAP_MAX_CUSTODY).prop_flat_map(move |most| (Just(most), vec(link(), 0..=most as usize)));
    (network, any::<(i64, u32)>(), vec(rule(), 0..=CAP_MAX_RULES), custody).prop_map(
        |(network, (timestamp, id), rules, (max_custody, custody))| Capability {
            network,
            timestamp,
            id,
            rules: RuleTable::new(rules),
            max_custody,
            custody,
        },
    )
}

fn root() -> impl Strategy<Value = Root> {
    (identity(), vec(endpoint(), 0..=WORLD_MAX_ENDPOINTS))
        .prop_map(|(identity, endpoints)| Root { identity, endpoints })
}

fn world() -> impl Strategy<Value = World> {
    let kind = prop_oneof![Just(WorldKind::Planet), Just(WorldKind::Moon)];
    let key = vec(any::<u8>(), 64).prop_map(|key| <[u8; 64]>::try_from(key).expect("64 bytes"));
    (kind, any::<(u64, u64)>(), key, vec(root(), 0..=WORLD_MAX_ROOTS))
        .prop_map(|(kind, (id, timestamp), key, roots)| World::make(kind, id, timestamp, key, roots, &CONTROLLER))
}

/// Written and read back, nothing is left over and it is the same; cut anywhere, it is refused.
fn comes_back_whole<T: PartialEq + Debug>(
    object: &T,
    write: impl Fn(&T, &mut Vec<u8>),
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) {
    let bytes = written(|out| write(object, out));
    let r = &mut Reader::new(&bytes);
    assert_eq!(read(r).as_ref(), Ok(object));
    assert!(r.is_empty());
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(read(&mut Reader::new(&bytes[..cut])).is_err(), "cut at {cut} of {}", bytes.len());
    }
}

/// `parse` of what `write` wrote is the same again, and no prefix of it does harm.
macro_rules! comes_back {
    ($message:expr, $($type:tt)+) => {{
        let message = $message;
        let bytes = written(|out| message.write(out));
        prop_assert_eq!($($type)+::parse(&bytes), Ok(message));
        for cut in 0..bytes.len().min(400) {
            let _ = $($type)+::parse(&bytes[..cut]);
        }
    }};
}

proptest! {
    #[test]
    fn an_endpoint_comes_back_in_bytes_and_in_text(endpoint in endpoint()) {
        comes_back_whole(&Some(endpoint), |e, out| endpoint::write(*e, out), endpoint::read);
        prop_assert_eq!(endpoint::from_text(&endpoint::to_text(endpoint)), Ok(endpoint));
    }

    #[test]
    fn a_prefix_holds_its_own_addresses_and_none_that_differs_in_a_leading_bit(ip in any::<IpAddr>(), bits in 0u8..=128) {
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let Some(prefix) = Prefix::new(ip, bits) else {
            prop_assert!(bits > width);
            return Ok(());
        };
        prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        let flipped = |bit: u8| match ip {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) ^ 1 << (31 - bit)).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) ^ 1 << (127 - bit)).to_be_bytes()),
        };
        prop_assert!(prefix.contains(ip));
        for bit in 0..width {
            prop_assert_eq!(prefix.contains(flipped(bit)), bit >= bits);
        }
    }

    #[test]
    fn a_dictionary_gives_back_every_value(entries in btree_map("[a-zA-Z0-9]{1,8}", bytes(64), 0..40)) {
        let mut writer = DictionaryWriter::new();
        for (key, value) in &entries {
            writer.bytes(key, value);
        }
        // The first line with a key counts.
        for key in entries.keys() {
            writer.bytes(key, b"late");
        }
        let bytes = writer.finish();
        let dictionary = Dictionary::parse(&bytes).expect("few keys");
        prop_assert_eq!(dictionary.len(), entries.len());
        for (key, value) in &entries {
            prop_assert_eq!(dictionary.get(key), Some(Cow::from(value)));
        }
    }

    #[test]
    fn typed_values_of_a_dictionary_come_back(u in any::<u64>(), i in any::<i64>(), b in any::<bool>(), a in address(), t in ".*") {
        let mut writer = DictionaryWriter::new();
        writer.u64("u", u).i64("i", i).bool("b", b).address("a", a).text("t", &t);
        let bytes = writer.finish();
        let dictionary = Dictionary::parse(&bytes).expect("few keys");
        prop_assert_eq!(dictionary.u64("u"), Some(u));
        prop_assert_eq!(dictionary.i64("i"), Some(i.checked_abs().unwrap_or(i64::MAX)), "the sign is lost on writing");
        prop_assert_eq!(dictionary.bool("b"), Some(b));
        prop_assert_eq!(dictionary.address("a"), Some(a));
        prop_assert_eq!(dictionary.text("t"), Some(t));
    }

    #[test]
    fn a_rule_comes_back(rule in rule()) {
        comes_back_whole(&rule, Rule::write, Rule::read);
    }

    #[test]
    fn a_known_rule_shorter_than_its_fields_is_malformed_and_a_longer_one_is_cut(rule in rule(), extra in 1u8..9) {
        let bytes = written(|out| rule.write(out));
        if matches!(rule.kind, RuleKind::Unknown { .. }) {
            return Ok(());
        }
        let mut longer = bytes.clone();
        longer[1] += extra;
        longer.resize(bytes.len() + usize::from(extra), 0xaa);
        prop_assert_eq!(Rule::read(&mut Reader::new(&longer)), Ok(rule));
        if bytes[1] > 0 {
            let mut shorter = bytes.clone();
            shorter[1] -= 1;
            prop_assert!(Rule::read(&mut Reader::new(&shorter)).is_err());
        }
    }

    #[test]
    fn a_certificate_of_membership_comes_back(com in com()) {
        comes_back_whole(&com, Com::write, Com::read);
    }

    #[test]
    fn a_tag_comes_back(tag in tag(network())) {
        comes_back_whole(&tag, Tag::write, Tag::read);
        prop_assert_eq!(written(|out| tag.write(out)).len(), Tag::LEN);
    }

    #[test]
    fn a_revocation_comes_back(revocation in revocation(network())) {
        comes_back_whole(&revocation, Revocation::write, Revocation::read);
        prop_assert_eq!(written(|out| revocation.write(out)).len(), Revocation::LEN);
    }

    #[test]
    fn a_certificate_of_ownership_comes_back_and_owns_what_it_names(o in ownership(network()), ip in any::<IpAddr>(), mac in mac()) {
        comes_back_whole(&o, Ownership::write, Ownership::read);
        let things = vec![ip.into(), mac.into()];
        let o = Ownership { things, ..o };
        prop_assert!(o.owns(ip) && o.owns(mac));
        prop_assert!(!o.owns(IpAddr::from([127, 0, 0, 1])) || ip == IpAddr::from([127, 0, 0, 1]));
    }

    #[test]
    fn a_capability_comes_back(capability in capability(network())) {
        comes_back_whole(&capability, Capability::write, Capability::read);
    }

    #[test]
    fn a_world_comes_back_and_verifies_with_its_makers_key_only(world in world(), at in any::<prop::sample::Index>()) {
        comes_back_whole(&world, World::write, World::read);
        prop_assert!(world.verify(CONTROLLER.public().public_key()));
        prop_assert!(!world.verify(MEMBER.public().public_key()));
        let mut bytes = world.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1;
        prop_assert!(World::parse(&bytes).map_or(true, |changed| !changed.verify(CONTROLLER.public().public_key())));
    }

    #[test]
    fn worlds_back_to_back_come_back_from_an_ok(worlds in vec(world(), 0..4)) {
        let bytes = worlds.iter().flat_map(World::to_bytes).collect::<Vec<_>>();
        let ok = OkHello { timestamp: 1, version: Version::default(), seen_from: None, worlds: &bytes };
        prop_assert_eq!(ok.worlds().collect::<Result<Vec<_>, _>>(), Ok(worlds));
    }

    #[test]
    fn a_hello_comes_back(version in version(), timestamp in any::<u64>(), identity in identity(),
        sent_to in proptest::option::of(endpoint()), planet in revision(), tail in bytes(40),
    ) {
        comes_back!(Hello { version, timestamp, identity, sent_to, planet: Some(planet), tail: &tail }, Hello);
    }

    #[test]
    fn a_hello_may_end_after_its_identity(version in version(), timestamp in any::<u64>(), identity in identity()) {
        let hello = Hello { version, timestamp, identity, sent_to: None, planet: None, tail: &[] };
        let mut bytes = written(|out| hello.write(out));
        prop_assert_eq!(bytes.pop(), Some(0), "no physical address");
        prop_assert_eq!(Hello::parse(&bytes), Ok(hello));
    }

    #[test]
    fn the_tail_of_a_hello_comes_back(moons in vec(revision(), 0..20)) {
        comes_back!(HelloTail { moons }, HelloTail);
    }

    #[test]
    fn an_error_comes_back(in_re in in_re(), network in network(), group in group(), data in bytes(300), number in 10u8..) {
        for code in [
            ErrorCode::None,
            ErrorCode::InvalidRequest,
            ErrorCode::BadProtocolVersion,
            ErrorCode::ObjectNotFound(network),
            ErrorCode::IdentityCollision,
            ErrorCode::UnsupportedOperation(network),
            ErrorCode::NeedMembershipCertificate(network),
            ErrorCode::NetworkAccessDenied(network),
            ErrorCode::UnwantedMulticast(network, group),
            ErrorCode::NetworkAuthenticationRequired(network, &data),
            ErrorCode::Unknown(number),
        ] {
            comes_back!(ErrorMessage { in_re, code }, ErrorMessage);
        }
    }

    #[test]
    fn every_ok_comes_back(in_re in in_re(), body in bytes(100), network in network(), group in group(),
        version in version(), seen_from in proptest::option::of(endpoint()), total in any::<u32>(),
        members in vec(address(), 0..50), com in proptest::option::of(com()), identities in vec(identity(), 1..4),
    ) {
        comes_back!(OkMessage { in_re, body: &body }, OkMessage);
        comes_back!(OkHello { timestamp: 7, version, seen_from, worlds: &body }, OkHello);
        comes_back!(OkWhois { identities }, OkWhois);
        comes_back!(OkExtFrame { network }, OkExtFrame);
        comes_back!(OkNetworkConfig { network, update_id: 9 }, OkNetworkConfig);
        let gathered = Gathered { total, members };
        comes_back!(OkGather { network, group, gathered: gathered.clone() }, OkGather);
        comes_back!(OkMulticastFrame { network, group, com: com.clone(), gathered: Some(gathered) }, OkMulticastFrame);
        comes_back!(OkMulticastFrame { network, group, com, gathered: None }, OkMulticastFrame);
    }

    #[test]
    fn whois_echo_and_rendezvous_come_back(addresses in vec(address(), 0..50), content in bytes(100),
        flags in any::<u8>(), peer in address(), endpoint in endpoint(),
    ) {
        comes_back!(Whois { addresses }, Whois);
        comes_back!(Echo { content: &content }, Echo);
        let endpoint = Some(endpoint).filter(|e| e.port() > 0);
        comes_back!(Rendezvous { flags, peer, endpoint }, Rendezvous);
    }

    #[test]
    fn frames_come_back(network in network(), ethertype in any::<u16>(), payload in bytes(300), flags in 0u8..=0x7f,
        com in proptest::option::of(com()), to in mac(), from in mac(), group in group(), replicate in any::<bool>(),
        gather_limit in any::<Option<u32>>(), bridged in any::<bool>(),
    ) {
        let payload = &payload[..];
        comes_back!(Frame { network, ethertype, payload }, Frame);
        let flags = flags << 1 | u8::from(com.is_some());
        comes_back!(ExtFrame { network, flags, com: com.clone(), to, from, ethertype, payload }, ExtFrame);
        let from = bridged.then_some(from);
        comes_back!(
            MulticastFrame { network, replicate, com, gather_limit, from, group, ethertype, payload },
            MulticastFrame
        );
    }

    #[test]
    fn a_gather_comes_back(network in network(), group in group(), limit in any::<u32>(), com in proptest::option::of(com())) {
        comes_back!(Gather { network, group, limit, com }, Gather);
    }

    #[test]
    fn credentials_come_back(coms in vec(com(), 0..3), capabilities in vec(capability(network()), 0..3),
        tags in vec(tag(network()), 0..3), revocations in vec(revocation(network()), 0..3),
        ownerships in vec(ownership(network()), 0..3),
    ) {
        comes_back!(Credentials { coms, capabilities, tags, revocations, ownerships }, Credentials);
    }

    #[test]
    fn configuration_requests_and_chunks_come_back(network in network(), data in bytes(500), update_id in any::<u64>(),
        revision in any::<u64>(), timestamp in any::<u64>(), flags in any::<u8>(), signature in signature(),
        index in 0..CONFIG_DICT as u32 - 500, more in 0u32..500,
    ) {
        comes_back!(ConfigRequest { network, metadata: &data, revision, timestamp }, ConfigRequest);
        let total = (index + data.len() as u32 + more).min(CONFIG_DICT as u32 - 1);
        let index = index.min(total - data.len() as u32);
        let chunk = ConfigChunk { network, data: &data, flags, update_id, total, index, signature: Some(signature) };
        comes_back!(chunk.clone(), ConfigChunk);
        let beyond = ConfigChunk { index: total - data.len() as u32 + 1, ..chunk };
        prop_assert!(ConfigChunk::parse(&written(|out| beyond.write(out))).is_err());
    }

    #[test]
    fn measurements_come_back(records in vec(any::<(u64, u16)>(), 1..=140), bytes in any::<u32>(), utility in any::<i16>()) {
        let records = records.into_iter().map(|(packet_id, holding_ms)| QosRecord { packet_id, holding_ms }).collect();
        comes_back!(QosMeasurement { records }, QosMeasurement);
        comes_back!(Ack { bytes }, Ack);
        comes_back!(PathNegotiation { utility }, PathNegotiation);
    }

    #[test]
    fn user_messages_and_traces_come_back(kind in any::<u64>(), content in bytes(100),
        dictionaries in vec(vec(1u8.., 1..50), 0..5),
    ) {
        comes_back!(UserMessage { kind, content: &content }, UserMessage);
        comes_back!(RemoteTrace { dictionaries: dictionaries.iter().map(|d| &d[..]).collect() }, RemoteTrace);
    }

    #[test]
    fn complete_likes_count_before_a_partial_one(likes in vec((network(), group()), 0..30), partial in 0..Like::LEN) {
        let likes: Vec<_> = likes.into_iter().map(|(network, group)| Like { network, group }).collect();
        let mut bytes = written(|out| likes.iter().for_each(|like| like.write(out)));
        bytes.resize(bytes.len() + partial, 0);
        let records: Vec<_> = Like::records(&bytes).collect();
        prop_assert_eq!(records.len(), likes.len() + usize::from(partial > 0));
        prop_assert_eq!(records.into_iter().map_while(Result::ok).collect::<Vec<_>>(), likes);
    }

    #[test]
    fn an_offer_in_a_record_comes_back_and_other_extensions_are_kept_but_no_offers(
        answer: bool, sockets: u16, nonce: u64, endpoint in endpoint(), other in vec(any::<u8>(), 0..40)
    ) {
        let offer = SpreadOffer { answer, nat: SpreadNat::Symmetric, sockets, nonce };
        let bytes = offer.to_bytes();
        let offered = PathRecord { extension: &bytes, ..PathRecord::to(endpoint) };
        let kept = PathRecord { extension: &other, ..PathRecord::to(endpoint) };
        let payload = written(|out| PathRecord::write_all(&[offered, kept], out));
        let records: Vec<_> = PathRecord::records(&payload).map(Result::unwrap).collect();
        prop_assert_eq!(&records, &[offered, kept]);
        prop_assert_eq!(SpreadOffer::parse(records[0].extension), Some(offer));
        prop_assert_eq!(SpreadOffer::parse(records[1].extension), None);
        prop_assert_eq!(SpreadOffer::parse(&bytes[..16]), None);
    }

    #[test]
    fn complete_paths_count_before_a_missing_one(paths in vec((any::<u8>(), endpoint()), 1..30), cut in 0usize..40) {
        let record = |(flags, endpoint)| PathRecord { flags, ..PathRecord::to(endpoint) };
        let paths: Vec<_> = paths.into_iter().map(record).collect();
        let bytes = written(|out| PathRecord::write_all(&paths, out));
        prop_assert_eq!(bytes.len(), 2 + paths.iter().map(PathRecord::len_on_wire).sum::<usize>());
        let kept = &bytes[..bytes.len() - cut.min(bytes.len())];
        let records: Vec<_> = PathRecord::records(kept).collect();
        let good = records.iter().filter(|r| r.is_ok()).count();
        prop_assert_eq!(records.len() - good, usize::from(cut > 0), "one error, at the end");
        prop_assert_eq!(records.into_iter().map_while(Result::ok).collect::<Vec<_>>(), &paths[..good]);
    }

    #[test]
    fn what_is_no_packet_comes_back(arbitrary in any::<[u8; 8]>(), address in address(), v in version(),
        endpoint in proptest::option::of(endpoint()), datagram in bytes(200), rest in bytes(20),
    ) {
        comes_back!(Beacon { arbitrary, address }, Beacon);
        let greeting = TcpGreeting { major: v.major, minor: v.minor, revision: v.revision };
        let relayed = TcpRelayed { endpoint, datagram: &datagram };
        let mut stream = written(|out| greeting.write(out));
        relayed.write(&mut stream);
        stream.extend_from_slice(&rest);

        let (body, len) = tcp_record(&stream).expect("a record").expect("a whole one");
        prop_assert_eq!(TcpGreeting::parse(body), Ok(greeting));
        let data = &stream[len..];
        let (body, len) = tcp_record(data).expect("a record").expect("a whole one");
        prop_assert_eq!(TcpRelayed::parse(body), Ok(relayed));
        prop_assert_eq!(&data[len..], &rest[..]);
        for cut in 0..len {
            prop_assert_eq!(tcp_record(&data[..cut]), Ok(None));
        }
    }

    #[test]
    fn a_signed_credential_verifies_until_a_signed_bit_changes(network in our_network(), t in tag(our_network()),
        r in revocation(our_network()), o in ownership(our_network()), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        fn holds<T: Clone + PartialEq + Debug>(
            object: T,
            sign: fn(&mut T, &SecretIdentity),
            verify: fn(&T, &Identity) -> bool,
            write: fn(&T, &mut Vec<u8>),
            read: fn(&mut Reader<'_>) -> Result<T, Malformed>,
            flip: (prop::sample::Index, u8),
        ) {
            let mut object = object;
            sign(&mut object, &CONTROLLER);
            assert!(verify(&object, CONTROLLER.public()));
            assert!(!verify(&object, MEMBER.public()));
            let mut bytes = written(|out| write(&object, out));
            let at = flip.0.index(bytes.len());
            bytes[at] ^= 1 << flip.1;
            if let Ok(changed) = read(&mut Reader::new(&bytes)) {
                assert!(changed == object || !verify(&changed, CONTROLLER.public()), "byte {at} changed unnoticed");
            }
            sign(&mut object, &MEMBER);
            assert!(!verify(&object, MEMBER.public()), "only the controller may sign");
        }
        let flip = (at, bit);
        let com = Com::new(network, MEMBER.public(), 1_700_000_000_000, 7_200_000);
        holds(com, Com::sign, Com::verify, Com::write, Com::read, flip);
        holds(t, Tag::sign, Tag::verify, Tag::write, Tag::read, flip);
        holds(r, Revocation::sign, Revocation::verify, Revocation::write, Revocation::read, flip);
        holds(o, Ownership::sign, Ownership::verify, Ownership::write, Ownership::read, flip);
    }

    #[test]
    fn a_capability_verifies_along_its_chain_only(capability in capability(our_network()), to in address()) {
        let mut capability = Capability { custody: Vec::new(), ..capability };
        let known = |a: Address| [&*CONTROLLER, &*MEMBER].map(|s| s.public()).into_iter().find(|i| i.address() == a);
        prop_assert_eq!(capability.verify(known), Err(CustodyError::Broken), "unsigned");
        prop_assert!(!capability.sign(&MEMBER, to), "not his to give");
        prop_assert!(capability.sign(&CONTROLLER, MEMBER.public().address()));
        prop_assert_eq!(capability.verify(known), Ok(()));
        prop_assert_eq!(capability.verify(|_| None), Err(CustodyError::Unknown(CONTROLLER.public().address())));
        prop_assert_eq!(capability.sign(&MEMBER, to), capability.max_custody > 1);
        prop_assert_eq!(capability.verify(known), Ok(()));
        prop_assert_eq!(capability.issued_to(), if capability.max_custody > 1 { to } else { MEMBER.public().address() });

        let swapped = Capability { custody: capability.custody.iter().rev().cloned().collect(), ..capability.clone() };
        prop_assert_eq!(swapped.verify(known).is_ok(), swapped.custody.len() == 1);
        let other = Capability { id: capability.id ^ 1, ..capability };
        prop_assert_eq!(other.verify(known), Err(CustodyError::Broken));
    }
}

#[test]
fn certificates_agree_within_the_window_of_the_one_who_looks() {
    let network = NetworkId(CONTROLLER.public().address().to_u64() << 24 | 1);
    let com = |holder: &SecretIdentity, timestamp, window| Com::new(network, holder.public(), timestamp, window);
    let ours = com(&CONTROLLER, 10_000, 100);
    for (theirs_at, agrees) in [(9_899, false), (9_900, true), (10_000, true), (10_100, true), (10_101, false)] {
        let theirs = com(&MEMBER, theirs_at, 1_000_000);
        assert_eq!(ours.agrees_with(&theirs, MEMBER.public()), agrees, "{theirs_at}");
        assert!(theirs.agrees_with(&ours, CONTROLLER.public()), "one-sided: their window is wide");
    }
    assert!(!ours.agrees_with(&com(&MEMBER, 10_000, 100), CONTROLLER.public()), "issued to somebody else");
    let other = Com::new(NetworkId(network.0 + 1), MEMBER.public(), 10_000, u64::MAX);
    assert!(!ours.agrees_with(&other, MEMBER.public()), "another network");
    let nothing = Com { qualifiers: Vec::new(), signer: Address::ZERO, signature: None };
    assert!(!ours.agrees_with(&nothing, MEMBER.public()) && !nothing.agrees_with(&ours, CONTROLLER.public()));
}

#[test]
fn only_addresses_that_can_carry_a_path_are_valid_paths() {
    let valid = |text: &str| endpoint::is_valid_path(SocketAddr::new(text.parse().expect("an IP address"), 0));
    for text in ["8.8.8.8", "100.64.0.1", "11.0.0.1", "192.0.2.1", "240.0.0.1", "fd00::1", "2001:db8::1", "2001:471::1"]
    {
        assert!(valid(text), "{text}");
    }
    for text in ["2001:470::1", "fe80::2", "127.0.0.1", "169.254.0.1", "0.1.2.3", "224.0.0.1", "::", "::1", "ff02::1"] {
        assert!(!valid(text), "{text}");
    }
    assert!(!valid("::ffff:127.0.0.1") && !valid("::ff:ffff:127.0.0.1"), "loopback in disguise");
}

#[test]
fn limits_are_enforced_one_above_them() {
    let mut com = vec![1, 0, COM_MAX_QUALIFIERS as u8 + 1];
    com.resize(1000, 0);
    assert!(Com::read(&mut Reader::new(&com)).is_err());
    com[2] -= 1;
    assert!(Com::read(&mut Reader::new(&com)).is_ok());

    let mut ownership = vec![0; 1000];
    ownership[29] = COO_MAX_THINGS as u8 + 1;
    assert!(Ownership::read(&mut Reader::new(&ownership)).is_err());
    ownership[29] = COO_MAX_THINGS as u8;
    assert!(Ownership::read(&mut Reader::new(&ownership)).is_ok());

    let accept = vec![Rule::new(RuleKind::Accept); CAP_MAX_RULES];
    let capability = |rules: &[Rule], max_custody, links| Capability {
        network: NetworkId(1),
        timestamp: 0,
        id: 0,
        rules: RuleTable::new(rules.to_vec()),
        max_custody,
        custody: vec![Custody { to: Address::from_u64(1), from: Address::from_u64(2), signature: None }; links],
    };
    let reads =
        |capability: Capability| Capability::read(&mut Reader::new(&written(|out| capability.write(out)))).is_ok();
    assert!(reads(capability(&accept, CAP_MAX_CUSTODY, usize::from(CAP_MAX_CUSTODY))));
    assert!(!reads(capability(&[&accept[..], &accept[..1]].concat(), 1, 1)));
    assert!(!reads(capability(&[], CAP_MAX_CUSTODY + 1, 1)));
    assert!(!reads(capability(&[], 0, 0)));
    assert!(!reads(capability(&[], 2, 3)));

    let lines = |n: usize| (0..n).map(|i| format!("{i}=")).collect::<Vec<_>>().join("\n");
    assert!(Dictionary::parse(lines(MAX_KEYS).as_bytes()).is_ok());
    assert!(Dictionary::parse(lines(MAX_KEYS + 1).as_bytes()).is_err());

    assert!(QosMeasurement::parse(&[0; 1400]).is_ok());
    for wrong in [0, 9, 11, 1401, 1410] {
        assert!(QosMeasurement::parse(&vec![0; wrong]).is_err(), "{wrong}");
    }
    let chunk = vec![7; MAX_CHUNK_DATA];
    assert_eq!(28 + 10 + chunk.len() + 17 + 3 + 96, 9894, "the largest chunk fits a packet with room to spare");
}

#[test]
fn a_range_of_integers_is_held_in_32_bits() {
    let range = |start, end| IntegerRange { start, end, index: 0, format: 0x8f };
    assert_eq!(range(10, 20).span(), 10);
    assert_eq!(range(0, u64::from(u32::MAX)).span(), u32::MAX);
    assert_eq!(range(0, 1 << 32).span(), 0, "wider ranges lose their upper bits");
    assert_eq!((range(0, 0).bits(), range(0, 0).is_little_endian()), (16, true));
}

#[test]
fn a_login_dictionary_that_does_not_fit_is_no_dictionary() {
    let in_re = InRe::new(wire::Verb::NetworkConfigRequest, 1);
    let error = |data: &[u8]| {
        let mut bytes = written(|out| {
            ErrorMessage { in_re, code: ErrorCode::NetworkAccessDenied(NetworkId(7)) }.write(out);
        });
        bytes[9] = 9;
        bytes.extend_from_slice(data);
        match ErrorMessage::parse(&bytes).expect("an error").code {
            ErrorCode::NetworkAuthenticationRequired(NetworkId(7), data) => data.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error(&[]), b"");
    assert_eq!(error(&[0]), b"");
    assert_eq!(error(&[0, 3]), b"");
    assert_eq!(error(b"\0\x03ab"), b"");
    assert_eq!(error(b"\0\x03abcd"), b"abc");
}
