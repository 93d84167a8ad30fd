//! The reference's decisions, as recorded.

use std::collections::BTreeMap;

use bond::compat::active_backup::{ActiveBackup, Path};
use bond::compat::balance::{self, Candidate, RoundRobin};
use bond::compat::bonded_set::{self, Member};
use bond::compat::eligibility::{Ages, Rules, Verdict, judge};
use bond::compat::gate::{BurstGate, EchoGate};
use bond::compat::negotiation::{Asked, Check, Seen, accepts};
use bond::compat::qos::{Table, records};
use bond::compat::quality::{Measured, avoid_next, estimate};
use bond::config::{
    Bonding, Family, IpPreference, LinkMode, LinkSettings, Mode, Policy, PolicySettings, Problem, QualityLimits,
    SelectMethod, Settings,
};
use bond::limits::QOS_RECORDS_OURS;
use bond::qos::{Arrivals, Window};
use serde_json::Value;
use wire::message::qos::{QosMeasurement, QosRecord};

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v[key].as_array().unwrap_or_else(|| panic!("{key} in {v}"))
}

fn num(v: &Value, key: &str) -> u64 {
    v[key].as_u64().unwrap_or_else(|| panic!("{key} in {v}"))
}

fn float(v: &Value, key: &str) -> f32 {
    v[key].as_f64().unwrap_or_else(|| panic!("{key} in {v}")) as f32
}

fn family(v: &Value) -> Family {
    if num(v, "family") == 4 { Family::V4 } else { Family::V6 }
}

fn ip(v: &Value) -> IpPreference {
    IpPreference(num(v, "ip_pref") as u8)
}

fn policy(v: &Value) -> Policy {
    Policy::from_name(v["policy"].as_str().unwrap()).unwrap()
}

fn select(v: &Value) -> SelectMethod {
    SelectMethod::from_name(v["select_method"].as_str().unwrap()).unwrap()
}

fn mode(v: &Value) -> LinkMode {
    if v["mode"].as_str() == Some("spare") { LinkMode::Spare } else { LinkMode::Primary }
}

fn id(v: &Value) -> u64 {
    u64::from_str_radix(v.as_str().unwrap(), 16).unwrap()
}

fn indices(v: &[Value]) -> Vec<usize> {
    v.iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

/// Links by name, in order of their names.
fn link_number(links: &mut BTreeMap<String, usize>, name: &str) -> usize {
    let next = links.len();
    *links.entry(name.to_owned()).or_insert(next)
}

#[test]
fn paths_are_eligible_when_the_reference_finds_them_so() {
    for (name, file) in vectors::family("bonding-eligibility") {
        let cases = list(&file, "eligibility");
        for case in cases {
            let rules = Rules {
                policy: policy(case),
                leaf: case["peer_is_leaf"].as_bool().unwrap(),
                failover_interval: num(case, "failover_interval"),
                up_delay: num(case, "up_delay"),
                down_delay: num(case, "down_delay"),
            };
            let ages = Ages {
                heard: num(case, "ms_since_rx"),
                nominated: num(case, "ms_since_nominated"),
                revived: case["ms_since_last_revival"].as_u64(),
                qos: case["ms_since_qos_received"].as_u64(),
                eligible: num(case, "ms_since_eligible"),
            };
            let expect = &case["expect"];
            let want = if expect["removed"].as_bool().unwrap() {
                Verdict::Removed
            } else {
                Verdict::Kept {
                    alive: expect["alive"].as_bool().unwrap(),
                    eligible: expect["eligible"].as_bool().unwrap(),
                }
            };
            assert_eq!(judge(rules, ages, ip(case), family(case)), want, "{name}: {case}");
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn the_bonded_set_is_the_references() {
    for (name, file) in vectors::family("bonding-eligibility") {
        let cases = list(&file, "bonded_set");
        for case in cases {
            let mut links = BTreeMap::new();
            let paths = list(case, "paths");
            let mut members: Vec<Option<Member>> = paths
                .iter()
                .map(|p| {
                    let alive = num(p, "ms_since_rx") < 5000;
                    let link = link_number(&mut links, p["link"].as_str().unwrap());
                    let only = paths.iter().filter(|o| o["link"] == p["link"]).count() == 1;
                    let (mode, ip, family) = (mode(p), ip(p), family(p));
                    let eligible = alive && ip.permits(family);
                    let bonded = p["bonded_before"].as_bool().unwrap();
                    Some(Member { link, mode, ip, family, only, alive, eligible, bonded })
                })
                .collect();
            let rebuild = |members: &mut Vec<Option<Member>>| {
                let mut set = Vec::new();
                bonded_set::rebuild(members, &mut set);
                for (i, m) in members.iter_mut().enumerate() {
                    m.as_mut().unwrap().bonded = set.contains(&i);
                }
                // The order of links is arbitrary in the reference.
                set.sort_unstable();
                set
            };
            let first = rebuild(&mut members);
            assert_eq!(first, indices(list(case, "bonded_after_forced_rebuild")), "{name}: {case}");
            let next = if bonded_set::is_hollow(&members) { rebuild(&mut members) } else { first };
            assert_eq!(next, indices(list(case, "bonded_after_next_tick")), "{name}: {case}");
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn active_backup_takes_the_path_that_the_reference_takes() {
    for (name, file) in vectors::family("bonding-activebackup") {
        let cases = list(&file, "cases");
        for case in cases {
            let mut links = BTreeMap::new();
            let written = list(case, "paths");
            let mut paths: Vec<Option<Path>> = written
                .iter()
                .map(|p| {
                    let only = written.iter().filter(|o| o["link"] == p["link"]).count() == 1;
                    Some(Path {
                        link: link_number(&mut links, p["link"].as_str().unwrap()),
                        mode: mode(p),
                        eligible: p["eligible"].as_bool().unwrap(),
                        permitted: ip(p).permits(family(p)),
                        preferred: only || ip(p).prefers(family(p)),
                        failover_to: p["failover_to"].as_str().map(|l| link_number(&mut links, l)),
                        quality: float(p, "relative_quality"),
                    })
                })
                .collect();
            let has_primary = case["links_configured"].as_bool().unwrap()
                && written.iter().any(|p| p["mode"].as_str() == Some("primary"));
            let mut machine = ActiveBackup::default();
            let mut now = 1_000_000;
            for (n, step) in list(case, "steps").iter().enumerate() {
                let slot = step["path"].as_u64().map(|i| i as usize);
                match step["op"].as_str().unwrap() {
                    op @ ("eligible" | "ineligible") => {
                        // Some are said of a slot that is empty by then.
                        if let Some(path) = &mut paths[slot.unwrap()] {
                            path.eligible = op == "eligible";
                        }
                    }
                    "path_removed" => {
                        paths[slot.unwrap()] = None;
                        machine.removed(slot.unwrap());
                    }
                    "rotate" => {
                        machine.rotate(now);
                    }
                    "tick" => {
                        now += num(step, "advance_ms");
                        machine.tick(now, select(case), has_primary, &paths);
                    }
                    other => panic!("{other}"),
                }
                if step.get("queue").is_some() {
                    let active = step["active"].as_u64().map(|i| i as usize);
                    assert_eq!(machine.active(), active, "{name}: step {n} of {case}");
                    let queue: Vec<usize> = machine.queue().collect();
                    assert_eq!(queue, indices(list(step, "queue")), "{name}: step {n} of {case}");
                }
            }
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn flows_fall_on_the_references_paths() {
    for (name, file) in vectors::family("bonding-hash") {
        for case in list(&file, "xor") {
            let set = indices(list(case, "bonded_paths"));
            for (flow, path) in list(case, "flow_ids").iter().zip(indices(list(case, "path"))) {
                let flow = flow.as_u64().unwrap() as u16;
                assert_eq!(balance::xor(flow, set.len()).map(|i| set[i]), Some(path), "{name}: {flow} in {set:?}");
            }
        }
        for case in list(&file, "aware") {
            let set = indices(list(case, "bonded_paths"));
            let candidates: Vec<Candidate> = list(case, "paths").iter().map(candidate).collect();
            let mut bytes = list(case, "random_bytes").iter().map(|b| b.as_u64().unwrap() as u8);
            let chosen = balance::aware(&candidates, || bytes.next().unwrap());
            assert_eq!(chosen.map(|i| set[i] as u64), case["path"].as_u64(), "{name}: {case}");
        }
        vectors::ran(&name, list(&file, "xor").len() + list(&file, "aware").len());
    }
}

fn candidate(v: &Value) -> Candidate {
    Candidate {
        avoid: v["avoid"].as_bool().unwrap(),
        capacity: v["relative_capacity"].as_f64().map(|c| c as f32),
        quality: float(v, "relative_quality"),
    }
}

#[test]
fn shares_of_balance_aware_are_the_references() {
    for (name, file) in vectors::family("bonding-hash") {
        let cases = list(&file, "aware_shares");
        for case in cases {
            let capacities = list(case, "relative_capacity");
            let candidates: Vec<Candidate> = capacities
                .iter()
                .map(|c| Candidate {
                    avoid: false,
                    capacity: Some(c.as_f64().unwrap() as f32),
                    quality: c.as_f64().unwrap() as f32,
                })
                .collect();
            let mut state = 1u64;
            let mut byte = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            let mut counts = vec![0u32; candidates.len()];
            for _ in 0..100_000 {
                counts[balance::aware(&candidates, &mut byte).unwrap()] += 1;
            }
            for (count, share) in counts.iter().zip(list(case, "reference_share")) {
                let (got, want) = (f64::from(*count) / 100_000.0, share.as_f64().unwrap());
                assert!(
                    (got - want).abs() <= case["tolerance"].as_f64().unwrap(),
                    "{name}: {got} for {want} in {case}"
                );
            }
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn packets_take_turns_as_in_the_reference() {
    for (name, file) in vectors::family("bonding-roundrobin") {
        let cases = list(&file, "cases");
        for case in cases {
            let eligible: Vec<bool> = list(case, "eligible").iter().map(|e| e.as_bool().unwrap()).collect();
            let mut turns = RoundRobin::new(num(case, "packets_per_link") as u32);
            let mut runs: Vec<(usize, u64)> = Vec::new();
            for _ in 0..num(case, "packets") {
                let i = turns.next(eligible.len(), |i| eligible[i]).unwrap();
                match runs.last_mut() {
                    Some((last, count)) if *last == i => *count += 1,
                    _ => runs.push((i, 1)),
                }
            }
            let want: Vec<(usize, u64)> =
                list(case, "runs").iter().map(|r| (r[0].as_u64().unwrap() as usize, r[1].as_u64().unwrap())).collect();
            assert_eq!(runs, want, "{name}: {case}");
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn quality_is_the_references() {
    for (name, file) in vectors::family("bonding-quality") {
        let cases = list(&file, "cases");
        for case in cases {
            let w = &case["weights"];
            let limits = QualityLimits {
                latency_max: float(case, "lat_max"),
                pdv_max: float(case, "pdv_max"),
                loss_max: float(case, "plr_max"),
                error_max: float(case, "per_max"),
                weights: [float(w, "lat"), float(w, "pdv"), float(w, "plr"), float(w, "per")],
            };
            let paths: Vec<Measured> = list(case, "paths")
                .iter()
                .map(|p| Measured {
                    latency: float(p, "latency_ms"),
                    pdv: float(p, "pdv_ms"),
                    loss: float(p, "loss"),
                    error: float(p, "error"),
                    capacity: num(p, "capacity"),
                    bonded: p["bonded"].as_bool().unwrap(),
                    before: 0.0,
                })
                .collect();
            let mut estimates = Vec::new();
            estimate(&limits, &paths, &mut estimates);
            for (i, q) in estimates.iter().enumerate() {
                let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-5;
                assert!(near(q.relative, case["relative_quality"][i].as_f64().unwrap()), "{name}: {i} {q:?} in {case}");
                match case["relative_capacity"][i].as_f64() {
                    Some(c) => assert!(near(q.capacity.unwrap(), c), "{name}: {i} {q:?} in {case}"),
                    None => assert_eq!(q.capacity, None, "{name}: {case}"),
                }
                let before = case["paths"][i]["avoided_before"].as_bool().unwrap();
                assert_eq!(avoid_next(before, q.violates), case["avoid_after"][i], "{name}: {i} in {case}");
            }
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn reports_are_written_and_read_as_by_the_reference() {
    for (name, file) in vectors::family("bonding-qos") {
        for case in list(&file, "encode") {
            let mut table = Table::default();
            for r in list(case, "received") {
                assert!(table.insert(id(&r["packet_id"]), num(r, "at_ms")));
            }
            let records = table.report(num(case, "now_ms"), num(case, "received_since_last_qos") as usize);
            let mut payload = Vec::new();
            QosMeasurement { records }.write(&mut payload);
            assert_eq!(hex::encode(payload), case["payload"], "{name}: {case}");
            let remaining: Vec<u64> = list(case, "remaining").iter().map(id).collect();
            assert_eq!(table.ids().collect::<Vec<_>>(), remaining, "{name}: {case}");
            ours_says_the_same(&name, case);
        }
        for case in list(&file, "decode") {
            let mut table = Table::default();
            for r in list(case, "outstanding") {
                assert!(table.insert(id(&r["packet_id"]), num(r, "sent_ms")));
            }
            let payload = hex::decode(case["payload"].as_str().unwrap()).unwrap();
            let read: Vec<QosRecord> = records(&payload).unwrap().collect();
            assert_eq!(read.len() as u64, num(case, "records"), "{name}: {case}");
            let (mut samples, mut window) = (Vec::new(), Window::default());
            table.samples(num(case, "now_ms"), read, |s| {
                samples.push(u64::from(s));
                window.push(f32::from(s));
            });
            let want: Vec<u64> = list(case, "samples_ms").iter().map(|s| s.as_u64().unwrap()).collect();
            assert_eq!(samples, want, "{name}: {case}");
            let mut left: Vec<u64> = list(case, "left_outstanding").iter().map(id).collect();
            left.sort_unstable();
            assert_eq!(table.ids().collect::<Vec<_>>(), left, "{name}: {case}");
            statistics(&name, case, &window);
        }
        for case in list(&file, "payload_size") {
            let payload = vec![0; num(case, "payload_len") as usize];
            let read = records(&payload).map(|r| r.count() as u64);
            assert_eq!(read.is_some(), case["accepted"].as_bool().unwrap(), "{name}: {case}");
            assert_eq!(read.unwrap_or(0), num(case, "whole_records"), "{name}: {case}");
        }
        for case in list(&file, "statistics") {
            let mut window = Window::default();
            for s in list(case, "samples_ms") {
                window.push(s.as_f64().unwrap() as f32);
            }
            statistics(&name, case, &window);
        }
        vectors::ran(
            &name,
            ["encode", "decode", "payload_size", "statistics"].map(|k| list(&file, k).len()).iter().sum(),
        );
    }
}

/// Where the reference reports all that it has, our report is the same; where it chooses, we choose the newest instead.
fn ours_says_the_same(name: &str, case: &Value) {
    let (received, now_ms) = (list(case, "received"), num(case, "now_ms"));
    let all = list(case, "remaining").is_empty() && received.len() <= QOS_RECORDS_OURS;
    if !all || num(case, "received_since_last_qos") == 0 {
        return;
    }
    let mut arrivals: Arrivals = Arrivals::default();
    for r in received {
        assert!(arrivals.note(id(&r["packet_id"]), num(r, "at_ms") * 1000));
    }
    let mut payload = Vec::new();
    QosMeasurement { records: arrivals.report(now_ms * 1000, QOS_RECORDS_OURS) }.write(&mut payload);
    assert_eq!(hex::encode(payload), case["payload"], "{name}: ours, {case}");
}

/// Only what is right: what the reference shows instead is its defect B12.
fn statistics(name: &str, case: &Value, window: &Window) {
    if let Some(mean) = case["correct_mean"].as_f64() {
        let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-4 * b.abs().max(1.0);
        assert!(near(window.mean().unwrap(), mean), "{name}: {:?} in {case}", window.mean());
        let deviation = case["correct_stddev"].as_f64().unwrap();
        assert!(near(window.deviation().unwrap(), deviation), "{name}: {:?} in {case}", window.deviation());
    }
}

#[test]
fn gates_open_and_shut_as_in_the_reference() {
    for (name, file) in vectors::family("bonding-gates") {
        let cases = list(&file, "cases");
        for case in cases {
            match case["gate"].as_str().unwrap() {
                "qos" => {
                    let mut gate = BurstGate::qos(num(case, "qos_send_interval") as u32 / 2);
                    let (mut now, mut n, mut passed, mut rejected) = (1_000_000, 0u64, 0u64, None);
                    for arrivals in list(case, "arrivals") {
                        for _ in 0..num(arrivals, "count") {
                            now += num(arrivals, "gap_ms");
                            if gate.pass(now) {
                                passed += 1;
                            } else {
                                rejected.get_or_insert(n);
                            }
                            n += 1;
                        }
                    }
                    assert_eq!(passed, num(case, "passed"), "{name}: {case}");
                    assert_eq!(rejected, case["first_rejected"].as_u64(), "{name}: {case}");
                }
                "echo" => {
                    let (mut gate, mut now) = (EchoGate::default(), 1_000_000);
                    for (gap, answered) in list(case, "gaps_ms").iter().zip(list(case, "answered")) {
                        now += gap.as_u64().unwrap();
                        assert_eq!(u64::from(gate.pass(now)), answered.as_u64().unwrap(), "{name}: {case}");
                    }
                }
                "negotiation" => {
                    let (gap, count) = (num(case, "gap_limit_ms"), num(case, "count_limit"));
                    let (mut close, mut apart) = (BurstGate::negotiation(), BurstGate::negotiation());
                    let passed = (0..=count).filter(|n| close.pass(n * gap)).count() as u64;
                    assert_eq!(passed, count, "{name}: {case}");
                    assert!((0..=2 * count).all(|n| apart.pass(n * (gap + 1))), "{name}: {case}");
                }
                other => panic!("{other}"),
            }
        }
        vectors::ran(&name, cases.len());
    }
}

#[test]
fn negotiation_decides_as_the_reference_would() {
    for (name, file) in vectors::family("bonding-negotiation") {
        for case in list(&file, "receive") {
            let payload = hex::decode(case["payload"].as_str().unwrap()).unwrap();
            let remote = wire::message::qos::PathNegotiation::parse(&payload).unwrap().utility;
            assert_eq!(i64::from(remote), case["remote_utility"].as_i64().unwrap(), "{name}: {case}");
            let run = case["own_check_has_run"].as_bool().unwrap() && case["path_known"].as_bool().unwrap();
            let local = run.then(|| case["local_utility"].as_i64().unwrap() as i32);
            let greater = case["sender_address_greater"].as_bool().unwrap();
            assert_eq!(accepts(select(case), local, remote, greater), case["accept"], "{name}: {case}");
        }
        for case in list(&file, "check") {
            let now = 10_000_000;
            let mut asked = Asked {
                sent: num(case, "requests_sent_before") as u8,
                last: case["ms_since_last_request"].as_u64().map(|ms| now - ms),
            };
            let paths: Vec<Seen> = list(case, "paths")
                .iter()
                .map(|p| Seen {
                    inbound: num(p, "in"),
                    outbound: num(p, "out"),
                    score: p["score"].as_i64().unwrap() as i32,
                    negotiated: p["negotiated"].as_bool().unwrap(),
                })
                .collect();
            let expect = &case["expect"];
            match asked.check(now, select(case), &paths) {
                Check::Synchronized => assert_eq!(expect["synchronized"], true, "{name}: {case}"),
                Check::Differs { utility, send_on, yield_to } => {
                    assert_eq!(expect["synchronized"], false, "{name}: {case}");
                    assert_eq!(i64::from(utility), expect["utility"].as_i64().unwrap(), "{name}: {case}");
                    assert_eq!(send_on.is_some(), expect["send"], "{name}: {case}");
                    assert_eq!(u64::from(asked.sent), num(expect, "requests_sent_after"), "{name}: {case}");
                    assert_eq!(yield_to.is_some(), expect["yield_to_inbound_path"], "{name}: {case}");
                    if let Some(path) = expect["send_on_path"].as_u64() {
                        assert_eq!(send_on, Some(path as usize), "{name}: {case}");
                        let utility = utility as i16;
                        let mut payload = Vec::new();
                        wire::message::qos::PathNegotiation { utility }.write(&mut payload);
                        assert_eq!(hex::encode(payload), expect["payload"], "{name}: {case}");
                    }
                }
            }
        }
        vectors::ran(&name, list(&file, "receive").len() + list(&file, "check").len());
    }
}

fn number(v: &Value) -> Option<i64> {
    v.as_i64().or_else(|| v.as_str()?.parse().ok()).or_else(|| v.as_bool().map(i64::from))
}

fn text(v: &Value) -> Option<String> {
    v.as_str().map(str::to_owned)
}

fn settings(v: &Value, mode: Mode) -> Settings {
    let entries = |v: &Value| v.as_object().cloned().unwrap_or_default();
    let link = |l: &Value| LinkSettings {
        mode: text(&l["mode"]),
        failover_to: text(&l["failoverTo"]),
        ip_preference: number(&l["ipvPref"]),
        capacity: number(&l["capacity"]),
        capacity_has_unit: false,
        mtu: number(&l["mtu"]),
        enabled: l["enabled"].as_bool(),
    };
    let policy = |p: &Value| PolicySettings {
        base: text(&p["basePolicy"]),
        failover_interval: number(&p["failoverInterval"]),
        up_delay: number(&p["upDelay"]),
        down_delay: number(&p["downDelay"]),
        packets_per_link: number(&p["packetsPerLink"]),
        active_reselect: text(&p["activeReselect"]),
        link_select_method: text(&p["linkSelectMethod"]),
        quality: entries(&p["linkQuality"]).into_iter().map(|(k, v)| (k, v.as_f64().unwrap())).collect(),
        negotiate: None,
        links: entries(&p["links"]).iter().map(|(k, l)| (k.clone(), link(l))).collect(),
    };
    Settings {
        default: text(&v["defaultBondingPolicy"]).unwrap_or_default(),
        policies: entries(&v["policies"]).iter().map(|(k, p)| (k.clone(), policy(p))).collect(),
        peers: entries(&v["peerSpecificBonds"])
            .iter()
            .map(|(k, n)| (u64::from_str_radix(k, 16).unwrap(), text(n).unwrap()))
            .collect(),
        mode,
    }
}

/// The words by which the records name a kind of message. None: the reference says nothing, and we do.
fn kind(problem: &Problem) -> Option<&'static str> {
    Some(match problem {
        Problem::NoBase(_) => "no base policy",
        Problem::UnknownBase(..) => "invalid base policy",
        Problem::StandardName(_) => "standard name",
        Problem::UnknownDefault(_) => "unknown",
        Problem::SpareFailover(_) => "spare cannot have failoverTo",
        Problem::IpPreference(..) => "ipvPref",
        Problem::NoEffect(..) | Problem::PeerDefault(..) | Problem::Clamped(..) | Problem::UnknownSelect(..) => {
            return None;
        }
        other => panic!("{other}"),
    })
}

#[test]
fn settings_mean_what_they_mean_to_the_reference() {
    for (name, file) in vectors::family("bonding-config") {
        let cases = list(&file, "cases");
        for case in cases {
            let (bonding, problems) = Bonding::read(&settings(&case["settings"], Mode::Compat));
            let mut want: Vec<&str> = list(case, "errors").iter().map(|e| e.as_str().unwrap()).collect();
            // A missing base is no unknown one to us: one message is enough.
            if want.first().is_some_and(|e| e.starts_with("no base policy")) {
                want.remove(1);
            }
            let kinds: Vec<&str> = problems.iter().filter_map(kind).collect();
            assert_eq!(kinds.len(), want.len(), "{name}: {problems:?} in {case}");
            for (kind, want) in kinds.iter().zip(want) {
                assert!(want.contains(kind), "{name}: {kind} for {want}");
            }
            let peer = u64::from_str_radix(case["peer"].as_str().unwrap(), 16).unwrap();
            let Some(params) = bonding.of(peer) else {
                assert!(case["effective"].is_null(), "{name}: {case}");
                continue;
            };
            let effective = &case["effective"];
            // What is written counts, unlike in the reference. // defect B16
            let written = number(&case["settings"]["policies"]["x"]["packetsPerLink"]);
            let packets = written.map_or(num(effective, "packets_per_link"), |n| n as u64);
            assert_eq!(u64::from(params.packets_per_link), packets, "{name}: {case}");
            assert_eq!(params.policy, policy(effective), "{name}: {case}");
            assert_eq!(params.select, select(effective), "{name}: {case}");
            for (key, value) in [
                ("failover_interval", params.failover_interval),
                ("up_delay", params.up_delay),
                ("down_delay", params.down_delay),
            ] {
                assert_eq!(u64::from(value), num(effective, key), "{name}: {key} in {case}");
            }
            if let Some(quality) = effective["quality"].as_array() {
                let q = params.quality;
                let limits = [q.latency_max, q.pdv_max, q.loss_max, q.error_max];
                for (got, want) in limits.iter().chain(&q.weights).zip(quality) {
                    assert_eq!(*got, want.as_f64().unwrap() as f32, "{name}: {case}");
                }
            }
            for (link, want) in case["links"].as_object().into_iter().flatten() {
                let got = params.links.iter().find(|l| &*l.name == link.as_str()).unwrap();
                assert_eq!(got.mode, mode(want), "{name}: {case}");
                assert_eq!(got.enabled, want["enabled"], "{name}: {case}");
                if let Some(failover_to) = want.get("failover_to") {
                    assert_eq!(got.failover_to.as_deref(), failover_to.as_str(), "{name}: {case}");
                }
                if let Some(ip) = want.get("ip_pref") {
                    assert_eq!(Some(u64::from(got.ip.0)), ip.as_u64(), "{name}: {case}");
                }
            }
        }
        vectors::ran(&name, cases.len());
    }
}
