use super::*;

fn link() -> LinkSettings {
    LinkSettings::default()
}

fn mode(name: &str) -> LinkSettings {
    LinkSettings { mode: Some(name.to_owned()), ..link() }
}

fn to(name: &str) -> Option<String> {
    Some(name.to_owned())
}

fn policy(base: &str, links: &[(&str, LinkSettings)]) -> PolicySettings {
    let links = links.iter().map(|(name, link)| ((*name).to_owned(), link.clone())).collect();
    PolicySettings { base: to(base), links, ..PolicySettings::default() }
}

/// The default is the policy "x".
fn settings(x: PolicySettings) -> Settings {
    Settings { default: "x".to_owned(), policies: [("x".to_owned(), x)].into(), ..Settings::default() }
}

fn compat(x: PolicySettings) -> Settings {
    Settings { mode: Mode::Compat, ..settings(x) }
}

/// What holds for a peer without an own entry.
fn held(settings: &Settings) -> Arc<Params> {
    Bonding::read(settings).0.of(1).expect("a bond")
}

fn problems(settings: &Settings) -> Vec<Problem> {
    Bonding::read(settings).1
}

fn refused(settings: &Settings) -> bool {
    problems(settings).iter().any(Problem::is_error)
}

#[test]
fn nothing_written_is_no_bond_and_no_problem() {
    for default in ["", "none"] {
        let (bonding, problems) = Bonding::read(&Settings { default: default.to_owned(), ..Settings::default() });
        assert!(!bonding.in_use() && problems.is_empty() && bonding == Bonding::default());
    }
}

#[test]
fn each_standard_policy_can_be_the_default() {
    for policy in Policy::ALL.into_iter().filter(|p| *p != Policy::None) {
        let written = Settings { default: policy.name().to_owned(), ..Settings::default() };
        assert_eq!(*held(&written), Params::standard(policy, Mode::Better));
        assert!(problems(&written).is_empty());
    }
}

#[test]
fn a_policy_without_base_or_with_an_unknown_one_is_refused() {
    let missing = PolicySettings::default();
    assert_eq!(problems(&settings(missing)), [Problem::NoBase("x".into()), Problem::UnknownDefault("x".into())]);
    for base in ["balance-foo", "none", ""] {
        let said = problems(&settings(policy(base, &[])));
        assert_eq!(said, [Problem::UnknownBase("x".into(), base.into()), Problem::UnknownDefault("x".into())]);
        assert!(said.iter().all(Problem::is_error));
    }
}

#[test]
fn a_standard_name_is_not_for_policies_of_ones_own() {
    let mut written = settings(policy("balance-xor", &[]));
    written.policies.insert("none".into(), policy("balance-rr", &[]));
    assert_eq!(problems(&written), [Problem::StandardName("none".into())]);
    assert!(refused(&written));
}

#[test]
fn a_name_that_does_not_exist_is_refused_whether_or_not_others_exist() {
    // defect B20: with another policy accepted, the reference dies of it.
    for policies in [Default::default(), settings(policy("balance-rr", &[])).policies] {
        let written = Settings { default: "typo".into(), policies, ..Settings::default() };
        assert_eq!(problems(&written), [Problem::UnknownDefault("typo".into())]);
        assert!(refused(&written) && Bonding::read(&written).0.of(1).is_none());
    }
    let with_policy = Settings { default: "none".into(), ..settings(policy("balance-rr", &[])) };
    assert!(problems(&with_policy).is_empty() && !Bonding::read(&with_policy).0.in_use());
}

#[test]
fn a_peer_may_have_a_policy_of_ones_own_a_standard_one_or_none() {
    let mut written = settings(policy("balance-xor", &[]));
    written.peers = [(2, "x".into()), (3, "balance-rr".into()), (4, "none".into())].into();
    let (bonding, said) = Bonding::read(&written);
    let policies = [1, 2, 3, 4].map(|peer| bonding.of(peer).map(|p| p.policy));
    let (xor, rr) = (Some(Policy::BalanceXor), Some(Policy::BalanceRr));
    assert_eq!((policies, said), ([xor, xor, rr, None], vec![]));
    written.peers = [(2, "y".into())].into();
    assert_eq!(problems(&written), [Problem::UnknownPeerPolicy(2, "y".into())]);
    assert!(refused(&written));
}

#[test]
fn compat_gives_a_peer_that_names_a_standard_policy_the_default_and_says_so() {
    let mut written = Settings { default: "balance-xor".into(), mode: Mode::Compat, ..Settings::default() };
    written.peers = [(2, "balance-rr".into()), (3, "balance-xor".into()), (4, "none".into())].into();
    let (bonding, said) = Bonding::read(&written);
    assert!(bonding.of(4).is_none(), "none is none in every mode");
    assert_eq!(bonding.of(2).unwrap().policy, Policy::BalanceXor);
    assert_eq!(said, [Problem::PeerDefault(2, "balance-rr".into())]);
    assert!(!refused(&written));
}

#[test]
fn times_and_counts_are_held_within_their_bounds_and_what_was_changed_is_said() {
    let x = PolicySettings {
        failover_interval: Some(100),
        up_delay: Some(-5),
        down_delay: Some(i64::MAX),
        packets_per_link: Some(0),
        ..policy("balance-rr", &[])
    };
    let written = compat(x);
    let p = held(&written);
    let times = (p.failover_interval, p.up_delay, p.down_delay, p.packets_per_link);
    assert_eq!(times, (500, 0, DELAY_MAX_MS, 1));
    let clamped = |key, n, used| Problem::Clamped("policy x".into(), key, n, used);
    let want = [
        clamped("failoverInterval", 100, 500),
        clamped("upDelay", -5, 0),
        clamped("downDelay", i64::MAX, DELAY_MAX_MS.into()),
        clamped("packetsPerLink", 0, 1),
    ];
    assert_eq!(problems(&written), want);
    assert!(!refused(&written));
    assert_eq!(held(&settings(policy("balance-rr", &[]))).failover_interval, 5000);
}

#[test]
fn both_spellings_of_the_select_method_are_read_and_must_not_differ() {
    let method = |read: Option<&str>, named: Option<&str>| PolicySettings {
        active_reselect: read.map(str::to_owned),
        link_select_method: named.map(str::to_owned),
        ..policy("active-backup", &[])
    };
    for name in SelectMethod::ALL.map(SelectMethod::name) {
        for written in [method(Some(name), None), method(None, Some(name)), method(Some(name), Some(name))] {
            let written = settings(written);
            assert_eq!(held(&written).select.name(), name);
            assert!(problems(&written).is_empty());
        }
    }
    assert_eq!(held(&settings(method(None, None))).select, SelectMethod::Always);
    let differ = settings(method(Some("better"), Some("failure")));
    assert_eq!(problems(&differ), [Problem::TwoSelects("x".into())]);
    for unknown in [method(Some("sometimes"), None), method(None, Some("sometimes"))] {
        assert_eq!(problems(&settings(unknown)), [Problem::UnknownSelect("x".into(), "sometimes".into())]);
    }
    let unread = compat(method(None, Some("failure")));
    assert_eq!(held(&unread).select, SelectMethod::Always);
    assert!(problems(&unread)[0].to_string().contains("linkSelectMethod has no effect"));
}

#[test]
fn one_to_eight_members_of_link_quality_are_enough_and_weights_are_normalised() {
    let quality = |members: &[(&str, f64)]| PolicySettings {
        quality: members.iter().map(|(key, v)| ((*key).to_owned(), *v)).collect(),
        ..policy("balance-aware", &[])
    };
    let default = QualityLimits::default();
    let one = held(&settings(quality(&[("lat_max", 400.0)]))).quality;
    assert_eq!(one, QualityLimits { latency_max: 400.0, ..default });
    let heavy = held(&settings(quality(&[("lat_weight", 3.0), ("plr_weight", 0.5)]))).quality;
    assert_eq!(heavy.weights, [0.75, 0.0625, 0.125, 0.0625], "what is missing is 0.25 as ever");
    let all = QUALITY_KEYS.map(|key| (key, 0.5));
    assert_eq!(held(&settings(quality(&all))).quality.weights, [0.25; 4]);
    let four = quality(&[("lat_max", 400.0), ("pdv_max", 20.0), ("lat_weight", 0.5), ("pdv_weight", 0.5)]);
    let unread = compat(four.clone());
    assert_eq!(held(&unread).quality, default, "as the reference");
    assert!(problems(&unread)[0].to_string().contains("needs all eight members") && !refused(&unread));
    assert!(!refused(&settings(four)));
}

#[test]
fn link_quality_that_means_nothing_is_refused() {
    let quality = |key: &str, value: f64| {
        let quality = [(key.to_owned(), value)].into();
        settings(PolicySettings { quality, ..policy("balance-aware", &[]) })
    };
    let bad = [("lat_max", 0.0), ("plr_max", f64::NAN), ("lat_weight", -0.1), ("per_weight", f64::INFINITY)];
    for (key, value) in bad {
        let written = quality(key, value);
        assert_eq!(held(&written).quality, QualityLimits::default());
        assert!(problems(&written).contains(&Problem::Quality("x".into())), "{key} {value}");
    }
    let none = ["lat_weight", "pdv_weight", "plr_weight", "per_weight"].map(|key| (key.to_owned(), 0.0));
    let none = settings(PolicySettings { quality: none.into(), ..policy("balance-aware", &[]) });
    assert!(problems(&none).contains(&Problem::Quality("x".into())) && refused(&none), "no weight counts");
    let unknown = quality("latency", 1.0);
    assert!(problems(&unknown).contains(&Problem::UnknownQuality("x".into(), "latency".into())) && refused(&unknown));
}

#[test]
fn a_link_without_mode_is_primary_unless_another_is() {
    let modes = |written: &Settings| held(written).links.iter().map(|l| l.mode).collect::<Vec<_>>();
    let (primary, spare) = (LinkMode::Primary, LinkMode::Spare);
    let plain = policy("balance-xor", &[("a", link()), ("b", link())]);
    assert_eq!(modes(&settings(plain.clone())), [primary, primary]);
    assert_eq!(modes(&compat(plain)), [spare, spare], "as the reference");
    let one = settings(policy("balance-xor", &[("a", link()), ("b", mode("primary")), ("c", mode("spare"))]));
    assert_eq!(modes(&one), [spare, primary, spare]);
    let backup = settings(policy("balance-xor", &[("a", link()), ("b", mode("spare"))]));
    assert_eq!(modes(&backup), [primary, spare]);
    let two = settings(policy("active-backup", &[("a", mode("primary")), ("b", mode("primary"))]));
    assert!(problems(&two).is_empty(), "two primaries are two to choose from");
    let unknown = settings(policy("balance-xor", &[("a", mode("backup"))]));
    assert_eq!(problems(&unknown), [Problem::UnknownLinkMode("a".into(), "backup".into())]);
    assert!(refused(&unknown));
}

#[test]
fn failover_leads_to_another_link_of_the_policy_or_is_refused() {
    let from = |l: LinkSettings, name: &str| LinkSettings { failover_to: to(name), ..l };
    let good = settings(policy("active-backup", &[("a", from(mode("primary"), "b")), ("b", mode("spare"))]));
    assert_eq!(held(&good).links[0].failover_to.as_deref(), Some("b"));
    assert!(problems(&good).is_empty());
    for wrong in ["a", "c"] {
        let links = [("a", from(mode("primary"), wrong)), ("b", link())];
        let written = settings(policy("active-backup", &links));
        assert_eq!(problems(&written), [Problem::UnknownFailover("a".into(), wrong.into())]);
        assert!(refused(&written) && held(&written).links[0].failover_to.is_none());
    }
    let spare = settings(policy("active-backup", &[("a", from(mode("spare"), "b")), ("b", mode("primary"))]));
    assert_eq!(problems(&spare), [Problem::SpareFailover("a".into())]);
    let link = &held(&spare).links[0];
    assert!(!refused(&spare) && link.failover_to.is_none() && link.enabled && !link.off, "and is used all the same");
    // A chain, even one that bites its tail, is only an order.
    let ring = [("a", from(mode("primary"), "b")), ("b", from(mode("primary"), "a"))];
    assert!(problems(&settings(policy("active-backup", &ring))).is_empty());
}

#[test]
fn ip_preference_is_one_of_five_numbers() {
    let ip = |n| settings(policy("balance-xor", &[("a", LinkSettings { ip_preference: Some(n), ..link() })]));
    for n in [0, 4, 6, 46, 64] {
        assert!(problems(&ip(n)).is_empty());
        assert_eq!(i64::from(held(&ip(n)).links[0].ip.0), n);
    }
    for n in [5, -4, 260] {
        assert!(problems(&ip(n)).contains(&Problem::IpPreference("a".into(), n)) && refused(&ip(n)), "{n}");
    }
}

#[test]
fn capacity_is_in_bits_per_second_unless_it_is_compared_only() {
    let capacity = |n, unit| {
        let link = LinkSettings { capacity: Some(n), capacity_has_unit: unit, ..link() };
        policy("balance-aware", &[("a", link)])
    };
    let of = |written: &Settings| (held(written).links[0].capacity, problems(written).len());
    assert_eq!(of(&settings(capacity(0, false))), (0, 0), "not known");
    assert_eq!(of(&settings(capacity(200_000_000, false))), (200_000_000, 0));
    assert_eq!(of(&settings(capacity(512_000, true))), (512_000, 0));
    assert_eq!(of(&compat(capacity(200, false))), (200, 0), "only ratios matter there");
    for plain in [1, 200, 999_999] {
        let written = settings(capacity(plain, false));
        assert_eq!(problems(&written), [Problem::CapacityUnit("a".into(), plain)]);
        assert!(refused(&written));
    }
    let clamped = |n, used| vec![Problem::Clamped("link a".into(), "capacity", n, used)];
    assert_eq!(problems(&settings(capacity(1000, true))), clamped(1000, CAPACITY_MIN));
    assert_eq!(problems(&settings(capacity(i64::MAX, false))), clamped(i64::MAX, CAPACITY_MAX));
    assert_eq!(
        problems(&settings(capacity(-1, false)))[0].to_string(),
        "link a: capacity -1 is out of bounds, 64000 is used"
    );
}

#[test]
fn a_links_mtu_is_held_within_what_carries_every_packet() {
    let mtu = |n| settings(policy("balance-xor", &[("a", LinkSettings { mtu: Some(n), ..link() })]));
    for (n, want) in [(0, 0), (1400, 1400), (1, LINK_MTU_MIN), (-1, LINK_MTU_MIN), (70_000, LINK_MTU_MAX)] {
        assert_eq!(held(&mtu(n)).links[0].mtu, want, "{n}");
        assert_eq!(problems(&mtu(n)).is_empty(), i64::from(want) == n, "{n}");
    }
}

#[test]
fn a_disabled_link_is_not_used_and_if_all_are_that_is_said() {
    let off = LinkSettings { enabled: Some(false), ..link() };
    let some = settings(policy("balance-xor", &[("a", off.clone()), ("b", link())]));
    let (bonding, said) = Bonding::read(&some);
    assert!(said.is_empty() && held(&some).link("a").is_none() && held(&some).link("b").is_some());
    assert_eq!(bonding.interfaces().collect::<Vec<_>>(), ["b"]);
    let all = settings(policy("balance-xor", &[("a", off)]));
    assert_eq!(problems(&all), [Problem::NoLink("x".into())]);
    assert!(!refused(&all), "somebody may be about to enable it again");
}

#[test]
fn unlisted_links_are_not_bonded_and_without_a_list_all_are() {
    let listed = held(&settings(policy("balance-xor", &[("a", link())])));
    assert!(listed.link("b").is_none());
    assert_eq!(held(&settings(policy("balance-xor", &[]))).link("b"), Some(LinkConfig::automatic("b")));
    let many: Vec<String> = (0..=LINKS_MAX).map(|n| format!("l{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), link())).collect();
    assert_eq!(problems(&settings(policy("balance-xor", &many))), [Problem::TooManyLinks("x".into())]);
    assert_eq!(problems(&settings(policy("balance-xor", &[("", link())]))), [Problem::NoName("x".into())]);
}

#[test]
fn what_a_policy_cannot_act_on_is_said() {
    let all = |base: &str| PolicySettings {
        packets_per_link: Some(8),
        active_reselect: to("better"),
        link_select_method: to("better"),
        quality: [("lat_max".to_owned(), 100.0)].into(),
        negotiate: Some(true),
        ..policy(base, &[])
    };
    let keys = |written: &Settings| -> Vec<&'static str> {
        assert!(!refused(written));
        let said = problems(written).into_iter();
        said.filter_map(|p| if let Problem::NoEffect(_, key, _) = p { Some(key) } else { None }).collect()
    };
    let select = ["activeReselect", "linkSelectMethod", "negotiate"];
    assert_eq!(keys(&settings(all("active-backup"))), ["packetsPerLink", "linkQuality"]);
    assert!(held(&settings(all("active-backup"))).negotiate && !held(&settings(all("broadcast"))).negotiate);
    assert_eq!(keys(&compat(all("balance-rr")))[1..], select, "packets are counted there");
    assert_eq!(keys(&settings(all("balance-rr")))[1..4], select);
    for base in ["broadcast", "balance-rr", "balance-xor", "balance-aware"] {
        let said = keys(&settings(all(base)));
        assert!(said.starts_with(&["packetsPerLink"]) && said.ends_with(&["linkQuality"]), "{base}: {said:?}");
        assert!(select.iter().all(|key| said.contains(key)), "{base}: {said:?}");
    }
}
