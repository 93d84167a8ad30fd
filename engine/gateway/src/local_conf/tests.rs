use super::settings::WARM_UP;
use super::*;

#[test]
fn a_warm_up_is_frames_or_milliseconds_or_both_and_bounded() {
    let warm = |packets, ms| Ok(node::WarmUp { packets, ms });
    assert_eq!(warm_up("64"), warm(64, 0));
    assert_eq!(warm_up("200ms"), warm(0, 200));
    assert_eq!(warm_up("64, 200ms"), warm(64, 200));
    assert_eq!(warm_up("0"), Ok(node::WarmUp::default()), "off");
    for bad in ["", "-1", "10001", "10001ms", "200 s", "64,", "64;200ms"] {
        assert_eq!(warm_up(bad), Err(WARM_UP), "{bad}");
    }
}

#[test]
fn failover_is_fast_and_paths_are_not_warmed_up_unless_the_file_says_otherwise() {
    let settings = |text: &str| LocalConf::parse(text, Path::new("local.conf")).map(|c| c.settings);
    let plain = settings("{}").unwrap();
    assert_eq!((plain.no_fast_failover, plain.warm_up), (false, node::WarmUp::default()));
    let said = settings(r#"{"settings": {"fastFailover": false, "warmUp": "64,200ms"}}"#).unwrap();
    assert_eq!((said.no_fast_failover, said.warm_up), (true, node::WarmUp { packets: 64, ms: 200 }));
    assert!(settings(r#"{"settings": {"warmUp": 64}}"#).is_err(), "a text");
}

#[test]
fn keys_that_count_at_start_only_are_named_when_they_change() {
    let settings = |text: &str| parse(&format!(r#"{{"settings": {{{text}}}}}"#)).expect("valid").settings;
    let before = settings(r#""secondaryPort": 40001, "portSpread": true"#);
    let after = settings(r#""tcpRelay": "0.0.0.0/443", "portSpread": false, "portMappingEnabled": false"#);
    assert_eq!(before.changed_at_start_only(&after), ["secondaryPort", "portMappingEnabled", "tcpRelay"]);
    assert!(before.changed_at_start_only(&settings(r#""secondaryPort": 40001"#)).is_empty());
}

fn parse(text: &str) -> Result<LocalConf, ConfError> {
    LocalConf::parse(text, Path::new("local.conf"))
}

fn complaint(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn an_absent_or_empty_file_gives_the_defaults() {
    assert_eq!(parse("  \n").expect("empty"), LocalConf::default());
    let dir = tempfile::tempdir().expect("tempdir");
    assert_eq!(LocalConf::load(&dir.path().join("local.conf")).expect("absent"), LocalConf::default());
}

#[test]
fn the_settings_that_hawser_acts_on_are_read_with_the_coercions_of_the_original() {
    let conf = parse(
        r#"{"physical": {"10.0.0.0/8": {"blacklist": "true"},
                         "192.168.1.0/24": {"trustedPathId": "7", "mtu": 1200}},
            "virtual": {"0123456789": {"try": ["192.0.2.1/9993"], "blacklist": ["10.0.0.0/8"]}},
            "settings": {"primaryPort": "9994", "bind": ["192.0.2.9"], "interfacePrefixBlacklist": ["wg"],
                         "allowManagementFrom": ["192.0.2.0/24"], "softwareUpdate": "disable"}}"#,
    )
    .expect("valid");
    assert_eq!(conf.settings.primary_port, Some(9994));
    assert_eq!(conf.settings.interface_prefix_blacklist, ["wg"]);
    assert!(conf.settings.allow_management_from[0].contains("192.0.2.77".parse().expect("ip")));
    assert_eq!((conf.physical[0].trusted_path_id, conf.physical[0].mtu), (7, Some(1400)), "most specific first");
    assert!(conf.physical[1].blacklist);
    let peer = &conf.peers[&"0123456789".parse().expect("address")];
    assert_eq!(peer.try_at, ["192.0.2.1:9993".parse().expect("endpoint")]);
}

#[test]
fn an_unknown_key_is_refused_by_name_with_the_nearest_known_one() {
    let text = complaint(r#"{"settings": {"primryPort": 1}}"#);
    assert_eq!(text, "local.conf: unknown key \"primryPort\" in settings; did you mean \"primaryPort\"?");
    let text = complaint(r#"{"physical": {"10.0.0.0/8": {"blacklst": true}}}"#);
    assert!(text.contains("\"blacklst\" in physical.\"10.0.0.0/8\"; did you mean \"blacklist\"?"), "{text}");
    let text = complaint(r#"{"zzz": 1}"#);
    assert_eq!(text, "local.conf: unknown key \"zzz\" in the top level");
}

#[test]
fn what_hawser_cannot_do_yet_is_refused_unless_it_is_the_default() {
    parse(r#"{"settings": {"lowBandwidthMode": false}}"#).expect("harmless");
    let text = complaint(r#"{"settings": {"lowBandwidthMode": true}}"#);
    assert!(text.contains("settings.lowBandwidthMode is not supported yet; remove it, or set it to false"), "{text}");
    let text = complaint(r#"{"settings": {"concurrency": 8}}"#);
    assert!(text.contains("use --shards"), "{text}");
}

#[test]
fn the_way_around_blocked_udp_and_the_relay_for_others_are_off_until_said() {
    let said = |text: &str| parse(&format!("{{\"settings\": {text}}}")).expect("good").settings;
    let off = said("{}");
    assert!(!off.allow_tcp_fallback && !off.force_tcp && off.tcp_relay.is_none());
    let on = said(r#"{"allowTcpFallbackRelay": true, "tcpFallbackRelay": "44.1.1.1/443", "tcpFallbackAfter": 5}"#);
    assert!(on.allow_tcp_fallback && on.tcp_fallback_after == Some(5));
    assert_eq!(on.tcp_fallback_relay, "44.1.1.1:443".parse().ok());
    let relay = said(r#"{"tcpRelay": "0.0.0.0/443", "tcpRelayAllow": ["10.0.0.0/8"]}"#);
    assert_eq!((relay.tcp_relay, relay.tcp_relay_allow.len()), ("0.0.0.0:443".parse().ok(), 1));
    assert!(complaint(r#"{"settings": {"tcpFallbackRelay": "::1/443"}}"#).contains("an IPv4 endpoint"));
}

#[test]
fn ports_and_interfaces_are_read_and_both_further_ports_are_on_unless_the_operator_says_no() {
    let settings = |text: &str| parse(&format!("{{\"settings\": {text}}}")).expect("good").settings;
    let s = settings("{}");
    assert!(!s.no_secondary_port && !s.no_port_mapping && s.secondary_port.is_none());
    let s = settings(
        r#"{"allowSecondaryPort": false, "portMappingEnabled": "false", "secondaryPort": "40000",
                        "tertiaryPort": 40001, "interfaces": ["eth0", "wwan0"]}"#,
    );
    assert!(s.no_secondary_port && s.no_port_mapping);
    assert_eq!((s.secondary_port, s.tertiary_port), (Some(40000), Some(40001)));
    assert_eq!(s.interfaces, ["eth0", "wwan0"]);
    let text = complaint(r#"{"settings": {"interfaces": [""]}}"#);
    assert!(text.contains("settings.interfaces: \"\" is not the name of an interface"), "{text}");
}

#[test]
fn the_mss_of_tcp_is_lowered_unless_the_operator_says_no() {
    for (text, off) in [("{}", false), (r#"{"tcpMssClamp": true}"#, false), (r#"{"tcpMssClamp": false}"#, true)] {
        let conf = parse(&format!("{{\"settings\": {text}}}")).expect("good");
        assert_eq!(conf.settings.no_mss_clamp, off);
    }
}

#[test]
fn striped_segments_are_put_in_order_unless_the_operator_says_no() {
    for (text, off) in [("{}", false), (r#"{"resequence": true}"#, false), (r#"{"resequence": false}"#, true)] {
        let conf = parse(&format!("{{\"settings\": {text}}}")).expect("good");
        assert_eq!(conf.settings.no_resequence, off);
    }
    assert!(complaint(r#"{"settings": {"resequence": "maybe"}}"#).contains("settings.resequence"));
}

#[test]
fn ports_are_spread_unless_the_operator_says_no() {
    for (text, off) in [("{}", false), (r#"{"portSpread": true}"#, false), (r#"{"portSpread": false}"#, true)] {
        let conf = parse(&format!("{{\"settings\": {text}}}")).expect("good");
        assert_eq!(conf.settings.no_port_spread, off);
    }
    complaint(r#"{"settings": {"portSpread": "off"}}"#);
}

#[test]
fn bad_json_is_an_error_with_its_place_and_the_file_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("local.conf");
    let text = "{\"settings\": {\n\"primaryPort\": 9993,}}";
    fs::write(&file, text).expect("write");
    let e = LocalConf::load(&file).expect_err("bad").to_string();
    assert!(e.contains("local.conf") && e.contains("line 2 column"), "{e}");
    assert_eq!(fs::read_to_string(&file).expect("read"), text);
    assert!(complaint("[1]").contains("it holds an array"));
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_what_it_should_be() {
    let text = complaint(r#"{"settings": {"primaryPort": 70000}}"#);
    assert!(text.contains("settings.primaryPort: 70000 is not a number from 0 to 65535"), "{text}");
    let text = complaint(r#"{"settings": {"bind": ["x"]}}"#);
    assert!(text.contains("settings.bind: \"x\" is not an IP address"), "{text}");
    let text = complaint(r#"{"settings": {"portMappingEnabled": "banana"}}"#);
    assert!(text.contains("settings.portMappingEnabled: \"banana\" is not true or false"), "{text}");
    let text = complaint(r#"{"settings": {"softwareUpdateChannel": 7}}"#);
    assert!(text.contains("settings.softwareUpdateChannel: 7 is not a text"), "{text}");
    parse(r#"{"settings": {"portMappingEnabled": "false", "multicoreEnabled": 1}}"#).expect("the right types");
    let text = complaint(r#"{"virtual": {"xyz": {}}}"#);
    assert!(text.contains("10 hex digits"), "{text}");
}

#[test]
fn how_packets_are_carried_is_one_of_three_and_busy_poll_has_a_bound() {
    let conf = parse(r#"{"settings": {"io": "mmsg", "busyPoll": 50, "spin": 200}}"#).expect("good");
    assert_eq!((conf.settings.io, conf.settings.busy_poll), (Some(uring::Backend::Mmsg), Some(50)));
    assert_eq!(conf.settings.spin, Some(200));
    let text = complaint(r#"{"settings": {"io": "epoll"}}"#);
    assert!(text.contains("settings.io: \"epoll\" is not \"auto\", \"io-uring\" or \"mmsg\""), "{text}");
    complaint(r#"{"settings": {"busyPoll": 65536}}"#);
    for (text, salsa) in [("auto", false), ("salsa2012-poly1305", true)] {
        assert_eq!(
            parse(&format!(r#"{{"settings": {{"suite": "{text}"}}}}"#)).expect("good").settings.salsa_only,
            salsa
        );
    }
    complaint(r#"{"settings": {"suite": "aes"}}"#);
}

#[test]
fn more_trust_and_mtu_rules_than_the_bound_are_refused() {
    let nets: Vec<_> = (0..=MAX_PHYSICAL_RULES).map(|i| format!("\"10.{i}.0.0/16\": {{\"mtu\": 1400}}")).collect();
    let text = complaint(&format!("{{\"physical\": {{{}}}}}", nets.join(",")));
    assert!(text.contains("has 33 entries, at most 32"), "{text}");
}
