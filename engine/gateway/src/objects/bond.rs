//! What the API says of a bonded peer: ZeroTierOne's fields in the peer and its paths, and, in one object of our own, what
//! the bond believes, does and decided. Translates; decides nothing. // spec: bonding, "CLI and local API"

use std::net::SocketAddr;

use bond::config::{LinkMode, Mode, Policy};
use bond::link_test::{Found, LinkTest, Loaded};
use bond::path::BondPath;
use bond::trips::Summary;
use bond::tx::TxState;
use bond::{Bond, Decision, PathId};
use node::{LocalSocketId, PeerStatus};
use serde_json::{Map, Value, json};
use wire::Now;
use wire::endpoint::to_text;
use wire::message::Features;

/// Where the paths of a bond lead, and what is not the bond's own to know.
pub struct Places<'a> {
    /// A path's socket and remote endpoint.
    pub of: &'a dyn Fn(PathId) -> Option<(LocalSocketId, SocketAddr)>,
    /// All data goes over this path because an operator tests it.
    pub forced: Option<PathId>,
    /// What the peer does for us.
    pub agreed: Features,
}

impl Places<'_> {
    fn name(&self, bond: &Bond, id: PathId) -> String {
        match (bond.paths().get(id), (self.of)(id)) {
            (Some(path), Some((_, remote))) => format!("{} {}", path.link.name, to_text(remote)),
            (Some(path), None) => path.link.name.to_string(),
            (None, _) => id.to_string(),
        }
    }
}

/// Adds to the object of a peer what its bond adds. With `all` also the last decisions.
pub fn add(now: Now, object: &mut Value, peer: &PeerStatus, bond: &Bond, places: &Places<'_>, all: bool) {
    let (us, params) = (now.mono_us, bond.params());
    let usable = bond.paths().iter().filter(|p| bond.is_usable(p, us)).count();
    let fields = json!({
        "isBonded": true,
        "bondingPolicyCode": params.policy.code(),
        "bondingPolicyStr": params.policy.name(),
        "numAliveLinks": usable,
        "numTotalLinks": bond.paths().iter().count(),
        "failoverInterval": params.failover_interval,
        // Two of ZeroTierOne's numbers have 16 bits.
        "upDelay": params.up_delay & 0xffff,
        "downDelay": params.down_delay & 0xffff,
        "packetsPerLink": params.packets_per_link,
    });
    let preferred = preferred(bond, places);
    let Some(object) = object.as_object_mut() else { return };
    object.extend(fields.as_object().cloned().unwrap_or_default());
    for path in object.get_mut("paths").and_then(Value::as_array_mut).into_iter().flatten() {
        let here = |id| {
            let place = (places.of)(id);
            place.is_some_and(|(socket, remote)| path["localSocket"] == socket.0 && path["address"] == to_text(remote))
        };
        let known = bond.paths().iter().find(|p| here(p.id));
        let fields = known.map_or_else(outside, |p| member(us, bond, p, places));
        let known = known.map(|p| p.id);
        let ages =
            peer.paths.iter().find(|s| path["localSocket"] == s.socket.0 && path["address"] == to_text(s.remote));
        let Some(path) = path.as_object_mut() else { continue };
        path.extend(fields);
        path.insert("preferred".into(), (known.is_some() && known == preferred).into());
        let age = |ms: Option<u64>| ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
        path.insert("lastInAge".into(), age(ages.and_then(|s| s.verified_ms)).into());
        path.insert("lastOutAge".into(), age(ages.and_then(|s| s.sent_ms)).into());
    }
    object.insert("bond".into(), own(now, bond, places, all));
}

/// The path that the next frame takes, or most of them.
fn preferred(bond: &Bond, places: &Places<'_>) -> Option<PathId> {
    let most = bond.plan().paths.iter().max_by(|a, b| a.weight.total_cmp(&b.weight));
    places.forced.or(most.map(|p| p.id))
}

fn finite(n: f64) -> f64 {
    if n.is_finite() { n } else { 0.0 }
}

/// Share of the traffic that the plan gives to a path, 0 to 1.
fn share(bond: &Bond, id: PathId, places: &Places<'_>) -> f64 {
    if let Some(forced) = places.forced {
        return if forced == id { 1.0 } else { 0.0 };
    }
    let plan = bond.plan();
    let Some(own) = plan.paths.iter().find(|p| p.id == id) else { return 0.0 };
    if plan.policy == Policy::Broadcast {
        return 1.0;
    }
    finite(own.weight / plan.paths.iter().map(|p| p.weight).sum::<f64>())
}

/// ZeroTierOne's fields of a path that the bond uses.
fn member(us: u64, bond: &Bond, p: &BondPath, places: &Places<'_>) -> Map<String, Value> {
    let compat = bond.params().mode == Mode::Compat;
    // One way, as ZeroTierOne has it: by the remote's reports, else half of what our own packets took.
    let half = |us: u64| us as f64 / 2000.0;
    let mean = p.reported.mean().map_or_else(|| p.tx.rtt().map_or(0.0, half), f64::from);
    let variance = p.reported.deviation().map_or_else(|| half(p.tx.rttvar()), f64::from);
    let quality = if compat { f64::from(p.quality.relative) } else { share(bond, p.id, places) };
    let fields = json!({
        "ifname": &*p.link.name,
        "latencyMean": finite(mean),
        "latencyVariance": finite(variance),
        "packetLossRatio": finite(p.tx.recent_loss()),
        "packetErrorRatio": 0.0,
        "assignedFlowCount": p.flows,
        "eligible": u8::from(bond.is_usable(p, us)),
        "bonded": u8::from(bond.plan().paths.iter().any(|m| m.id == p.id)),
        "givenLinkSpeed": p.link.capacity,
        "relativeQuality": finite(quality),
    });
    fields.as_object().cloned().unwrap_or_default()
}

/// The same of a path that it does not.
fn outside() -> Map<String, Value> {
    let fields = json!({
        "ifname": "",
        "latencyMean": 0.0,
        "latencyVariance": 0.0,
        "packetLossRatio": 0.0,
        "packetErrorRatio": 0.0,
        "assignedFlowCount": 0,
        "eligible": 0,
        "bonded": 0,
        "givenLinkSpeed": 0,
        "relativeQuality": 0.0,
    });
    fields.as_object().cloned().unwrap_or_default()
}

fn state(state: TxState) -> &'static str {
    match state {
        TxState::Probing => "probing",
        TxState::Good => "good",
        TxState::Suspect => "suspect",
        TxState::Down => "down",
    }
}

fn trips(summary: Option<Summary>) -> Value {
    let Some(s) = summary else { return json!({"samples": 0}) };
    json!({"samples": s.samples, "last": s.last, "min": s.min, "p50": s.p50, "p90": s.p90, "p99": s.p99, "max": s.max,
        "jitter": s.jitter})
}

/// What we say of a bond beside ZeroTierOne's fields. Rates are bits per second.
fn own(now: Now, bond: &Bond, places: &Places<'_>, all: bool) -> Value {
    let (us, params, plan, counts) = (now.mono_us, bond.params(), bond.plan(), bond.counters());
    let mut object = json!({
        "mode": if params.mode == Mode::Compat { "compat" } else { "better" },
        "inForce": plan.policy.name(),
        "sinceMs": us.saturating_sub(plan.since_us) / 1000,
        "selectMethod": params.select.name(),
        "active": bond.active().map_or(String::new(), |(id, _)| id.to_string()),
        "activeSinceMs": bond.active().map_or(-1, |(_, at)| (us.saturating_sub(at) / 1000) as i64),
        "forced": places.forced.map_or(String::new(), |id| id.to_string()),
        "striping": plan.striping,
        "agreed": agreed(places.agreed),
        "relay": plan.relay,
        "plans": plan.serial,
        "paths": bond.paths().iter().map(|p| path(now, bond, p, places)).collect::<Vec<_>>(),
        "decisionsTotal": bond.decisions_total(),
        "counters": {
            "refusedLink": counts.refused_link,
            "refusedFamily": counts.refused_family,
            "refusedFull": counts.refused_full,
            "unknownAcks": counts.unknown_acks,
            "stale": counts.stale,
            "absurdSamples": counts.absurd_samples,
            "gated": counts.gated,
        },
    });
    if all {
        object["decisions"] = bond.decisions().map(|d| decision(now, bond, d, places)).collect();
    }
    object
}

fn agreed(features: Features) -> Vec<&'static str> {
    let named = [
        (Features::ORDER_MARK, "orderMarks"),
        (Features::REPORTS, "reports"),
        (Features::DUPLICATES, "duplicatesDropped"),
    ];
    named.into_iter().filter(|(feature, _)| features.has(*feature)).map(|(_, name)| name).collect()
}

fn path(now: Now, bond: &Bond, p: &BondPath, places: &Places<'_>) -> Value {
    let us = now.mono_us;
    let place = (places.of)(p.id);
    let bits = |bytes: f64| finite(8.0 * bytes).round() as u64;
    json!({
        "id": p.id.to_string(),
        "link": &*p.link.name,
        "address": place.map_or(String::new(), |(_, remote)| to_text(remote)),
        "localSocket": place.map_or(0, |(socket, _)| socket.0),
        "linkMode": if p.link.mode == LinkMode::Spare { "spare" } else { "primary" },
        "failoverTo": p.link.failover_to.as_deref().unwrap_or_default(),
        "capacity": p.link.capacity,
        "state": state(p.tx.state()),
        "stateSinceMs": us.saturating_sub(p.tx.since()) / 1000,
        "inUse": bond.plan().paths.iter().any(|m| m.id == p.id),
        "share": share(bond, p.id, places),
        "rttUs": p.tx.rtt().map_or(-1, |us| us as i64),
        "rttvarUs": p.tx.rttvar(),
        "rtoUs": p.tx.rto(),
        "roundTripUs": trips(p.tx.round_trips()),
        "loss": finite(p.tx.recent_loss()),
        "lossEver": finite(p.tx.loss()),
        "requests": p.tx.requests(),
        "rate": p.rate.map_or(0, bits),
        "load": bits(p.load),
        "flows": p.flows,
        "sentPackets": p.sent_packets,
        "sentBytes": p.sent_bytes,
        "delivered": p.delivery.rate(now).map_or(-1, |rate| bits(rate) as i64),
        "deliveredLoss": p.delivery.loss(now).map_or(-1.0, finite),
        "lastAckAgeMs": p.tx.last_ack().map_or(-1, |at| (us.saturating_sub(at) / 1000) as i64),
        "lastReportAgeMs": p.reported_us.map_or(-1, |at| (us.saturating_sub(at) / 1000) as i64),
        "penalty": p.tx.penalty(us).round(),
        "held": p.tx.is_held(us),
    })
}

fn decision(now: Now, bond: &Bond, d: &Decision, places: &Places<'_>) -> Value {
    json!({
        "at": d.at.unix_ms,
        "ageMs": now.mono_us.saturating_sub(d.at.mono_us) / 1000,
        "kind": d.reason.kind(),
        "path": d.reason.path().map_or(String::new(), |id| id.to_string()),
        "text": d.reason.tell(|id| places.name(bond, id)),
    })
}

/// Every bond in one object of counters, for the status: how many there are and what they did.
pub fn counters<'a>(bonds: impl Iterator<Item = &'a Bond>) -> Map<String, Value> {
    let mut sums = std::collections::BTreeMap::<&str, u64>::new();
    for bond in bonds {
        let c = bond.counters();
        let mut add = |name, n| *sums.entry(name).or_default() += n;
        add("bonds", 1);
        add("decisions", bond.decisions_total());
        add("plans", bond.plan().serial);
        add("refused_link", c.refused_link);
        add("refused_family", c.refused_family);
        add("refused_full", c.refused_full);
        add("unknown_acks", c.unknown_acks);
        add("stale", c.stale);
        add("absurd_samples", c.absurd_samples);
        add("gated", c.gated);
        for p in bond.paths().iter() {
            add("paths", 1);
            add(
                match p.tx.state() {
                    TxState::Probing => "paths_probing",
                    TxState::Good => "paths_good",
                    TxState::Suspect => "paths_suspect",
                    TxState::Down => "paths_down",
                },
                1,
            );
        }
    }
    sums.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n.into())).collect()
}

/// A test of one path, as far as it is. `carried`: bits per second of data that went over it meanwhile.
pub fn test(now: Now, id: PathId, test: &LinkTest, carried: f64, aborted: Option<&str>) -> Value {
    let found = |f: &Found| json!({"sent": f.asked, "answered": f.answered, "loss": finite(f.loss()), "roundTripUs": trips(f.trips)});
    let bits = |bytes: f64| finite(8.0 * bytes).round() as u64;
    let loaded = |l: Loaded| {
        let mut object = found(&l.found);
        object["offered"] = bits(l.offered).into();
        object["delivered"] = bits(l.delivered).into();
        object["full"] = l.is_full().into();
        object
    };
    json!({
        "path": id.to_string(),
        "over": test.is_over(now.mono_us),
        "aborted": aborted.unwrap_or_default(),
        "probedMs": test.probed_us(now.mono_us) / 1000,
        "probes": found(&test.probes()),
        "carried": finite(carried).round() as u64,
        "load": test.loaded().map_or(json!({}), loaded),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bond::config::Family;
    use bond::config::{Mode, Params, Policy};
    use bond::link_test::{Emit, Order};
    use bond::{NewPath, Observed};
    use node::PathStatus;

    use super::*;
    use crate::objects;
    use crate::objects::tests::covers;

    /// Key sets and types of the captured answers of ZeroTierOne 1.14.1. // spec: service, "Peer and path"
    const BONDED: &str = r#"{"address": "", "bondingPolicyCode": 5, "bondingPolicyStr": "", "downDelay": 0,
        "failoverInterval": 5000, "isBonded": true, "latency": 0, "numAliveLinks": 2, "numTotalLinks": 2,
        "packetsPerLink": 64, "paths": [{"active": true, "address": "", "assignedFlowCount": 0, "bonded": 1, "eligible": 1,
        "expired": false, "givenLinkSpeed": 0, "ifname": "eth1", "lastInAge": 78, "lastOutAge": 78, "lastReceive": 0,
        "lastSend": 0, "latencyMean": 0.0, "latencyVariance": 0.0, "localPort": 9993, "localSocket": 0,
        "packetErrorRatio": 0.0, "packetLossRatio": 0.0, "preferred": false, "relativeQuality": 0.0, "trustedPathId": 0}],
        "role": "LEAF", "tunneled": false, "upDelay": 0, "version": "", "versionMajor": 1, "versionMinor": 14,
        "versionRev": 1}"#;

    fn remote(n: u64) -> SocketAddr {
        SocketAddr::new([81, 77, n as u8, 4].into(), 9993)
    }

    /// Two paths of 10 and 30 ms that answered, a third that did not, and a fourth that the bond does not take.
    fn bonded(policy: Policy, mode: Mode) -> (Bond, PeerStatus) {
        let params = Params { up_delay: 70_000, ..Params::standard(policy, mode) };
        let mut bond = Bond::new(Now::at_ms(0), Arc::new(params), true, false, 7);
        for (n, rtt_us) in [(0, 10_000), (1, 30_000), (2, 0)] {
            let link = format!("eth{n}");
            let new = NewPath { link: &link, family: Family::V4, key: n, remote_port: 9993 };
            let id = bond.learn(Now::at_ms(n), new).expect("room");
            if rtt_us > 0 {
                let at = |us: u64| Now { mono_us: 1_000_000 + us, ..Now::at_ms(1000) };
                bond.requested(at(0), id, 100 + n, true);
                bond.acked(at(rtt_us), id, 100 + n);
                bond.observe(id, Observed { rate: Some(5e6 / (n + 1) as f64), load: 1e5, inbound: 1, outbound: 1 });
                bond.flows(id, 3);
                bond.sent(Now::at_ms(1000), id, 10, 14_000);
            }
        }
        bond.tick(Now::at_ms(1100), &mut Vec::new());
        let path = |n: u64| PathStatus {
            socket: LocalSocketId(n),
            remote: remote(n),
            verified_ms: Some(78),
            sent_ms: (n != 1).then_some(5),
            latency_us: None,
            latency: None,
            alive: true,
            preferred: n == 3,
        };
        let peer = PeerStatus {
            address: "bddd488d45".parse().expect("address"),
            version: (12, 1, 14, 1),
            latency_us: Some(10_000),
            upstream: false,
            planet: false,
            best_upstream: false,
            last_receive_ms: None,
            paths: (0..4).map(path).collect(),
            relayed: None,
        };
        (bond, peer)
    }

    fn shown(policy: Policy, mode: Mode, forced: Option<usize>) -> Value {
        let (bond, peer) = bonded(policy, mode);
        let now = Now { unix_ms: 50_000, ..Now::at_ms(2000) };
        let mut object = objects::peer(now, &peer, |_| 9993, |_| 0);
        let of = |id: PathId| Some((LocalSocketId(id.slot.into()), remote(id.slot.into())));
        let forced = forced.and_then(|n| bond.paths().iter().nth(n)).map(|p| p.id);
        add(now, &mut object, &peer, &bond, &Places { of: &of, forced, agreed: Features::from_bits(5) }, true);
        object
    }

    #[test]
    fn a_bonded_peer_has_every_field_of_zerotier_one_with_its_type_under_every_policy() {
        let model: Value = serde_json::from_str(BONDED).expect("model");
        for policy in Policy::ALL.into_iter().skip(1) {
            for mode in [Mode::Compat, Mode::Better] {
                let object = shown(policy, mode, None);
                covers(&object, &model, "peer");
                assert_eq!(
                    (&object["bondingPolicyCode"], &object["bondingPolicyStr"]),
                    (&json!(policy.code()), &json!(policy.name()))
                );
                assert_eq!((&object["numTotalLinks"], &object["upDelay"]), (&json!(3), &json!(70_000 & 0xffff)));
                let paths = object["paths"].as_array().expect("paths");
                assert!(paths.iter().filter(|p| p["preferred"] == true).count() <= 1, "{policy} {mode:?}");
                let outside = &paths[3];
                assert_eq!((&outside["ifname"], &outside["eligible"]), (&json!(""), &json!(0)), "not in the bond");
            }
        }
    }

    #[test]
    fn what_was_measured_stands_in_both_places() {
        let object = shown(Policy::BalanceAware, Mode::Better, None);
        let path = &object["paths"][0];
        assert_eq!((&path["ifname"], &path["latencyMean"]), (&json!("eth0"), &json!(5.0)));
        assert_eq!((&path["bonded"], &path["eligible"], &path["assignedFlowCount"]), (&json!(1), &json!(1), &json!(3)));
        assert_eq!((&path["lastInAge"], &object["paths"][1]["lastOutAge"]), (&json!(78), &json!(-1)), "never is -1");
        assert_eq!(object["numAliveLinks"], 2);
        let (bond, own) = (&object["bond"], &object["bond"]["paths"][0]);
        assert_eq!((&bond["mode"], &bond["inForce"]), (&json!("better"), &json!("balance-aware")));
        assert_eq!((&own["state"], &own["rttUs"], &own["rate"]), (&json!("good"), &json!(10_000), &json!(40_000_000)));
        assert_eq!((&own["roundTripUs"]["p99"], &own["sentBytes"]), (&json!(10_000), &json!(14_000)));
        let shares: f64 = (0..3).filter_map(|n| bond["paths"][n]["share"].as_f64()).sum();
        assert!((shares - 1.0).abs() < 1e-9 && own["share"].as_f64() > bond["paths"][1]["share"].as_f64(), "{bond}");
        assert_eq!((&bond["paths"][2]["state"], &bond["paths"][2]["rttUs"]), (&json!("probing"), &json!(-1)));
        assert_eq!(bond["agreed"], json!(["orderMarks", "duplicatesDropped"]));
        assert_eq!((&own["delivered"], &own["deliveredLoss"]), (&json!(-1), &json!(-1.0)), "nobody told us");
    }

    #[test]
    fn decisions_say_when_what_and_why_and_name_paths_as_operators_do() {
        let object = shown(Policy::ActiveBackup, Mode::Better, None);
        let decisions = object["bond"]["decisions"].as_array().expect("decisions");
        let active = decisions.iter().find(|d| d["kind"] == "active").expect("one was chosen");
        let text = "active path none -> eth0 81.77.0.4/9993: the first that works";
        assert_eq!((&active["text"], &active["path"]), (&json!(text), &object["bond"]["active"]));
        assert_eq!((&active["at"], &active["ageMs"]), (&json!(1000), &json!(990)));
        assert_eq!(object["bond"]["decisionsTotal"], decisions.len());
    }

    #[test]
    fn a_path_under_test_carries_all() {
        let object = shown(Policy::ActiveBackup, Mode::Better, Some(1));
        assert_eq!(
            (&object["paths"][1]["preferred"], &object["bond"]["paths"][1]["share"]),
            (&json!(true), &json!(1.0))
        );
        assert_eq!(
            (&object["paths"][0]["preferred"], &object["bond"]["paths"][0]["share"]),
            (&json!(false), &json!(0.0))
        );
        let mut test = LinkTest::new(0, Order { length_us: 1_000_000, load: None, frame: 1432 });
        assert_eq!(test.poll(0), Some(Emit::Probe));
        test.requested(0, 9);
        test.acked(21_000, 9);
        let id = PathId { slot: 1, generation: 2 };
        let found = super::test(Now::at_ms(1), id, &test, 3e6, None);
        assert_eq!(
            (&found["path"], &found["over"], &found["carried"]),
            (&json!("1.2"), &json!(false), &json!(3_000_000))
        );
        assert_eq!((&found["probes"]["roundTripUs"]["p50"], &found["load"]), (&json!(21_000), &json!({})));
    }

    #[test]
    fn counters_add_up_over_all_bonds() {
        let bonds = [bonded(Policy::ActiveBackup, Mode::Better).0, bonded(Policy::Broadcast, Mode::Better).0];
        let sums = counters(bonds.iter());
        let n = |name: &str| sums.get(name).and_then(Value::as_u64);
        assert_eq!((n("bonds"), n("paths"), n("paths_good"), n("paths_probing")), (Some(2), Some(6), Some(4), Some(2)));
        assert_eq!(n("gated"), None, "what never happened is left out");
    }
}
