//! Bonds as tables for people: who is bonded, what each path is worth, what was decided and why.

use serde_json::Value;

use super::{items, list, ms, or_dash, pairs, text};

/// Bits per second in the unit that suits; nothing if there are none.
pub fn rate(bits: f64) -> String {
    match bits {
        b if b.is_nan() || b < 1.0 => String::new(),
        b if b < 1e3 => format!("{b:.0} bit/s"),
        b if b < 1e6 => format!("{} kbit/s", Digits(b / 1e3)),
        b if b < 1e9 => format!("{} Mbit/s", Digits(b / 1e6)),
        b => format!("{} Gbit/s", Digits(b / 1e9)),
    }
}

/// A number from 1 to 1000 with three digits that mean something.
struct Digits(f64);

impl std::fmt::Display for Digits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            n if n < 10.0 => write!(f, "{n:.2}"),
            n if n < 100.0 => write!(f, "{n:.1}"),
            n => write!(f, "{n:.0}"),
        }
    }
}

fn bits(v: &Value) -> String {
    rate(v.as_f64().unwrap_or(0.0))
}

/// A share of 0 to 1; nothing if it is none.
fn percent(v: &Value) -> String {
    match v.as_f64().unwrap_or(0.0) * 100.0 {
        p if p <= 0.0 => String::new(),
        p if p < 10.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// How long something is ago, or lasts; nothing if it never was.
fn span(v: &Value) -> String {
    match v.as_i64() {
        Some(ms @ 0..10_000) => format!("{:.1} s", ms as f64 / 1000.0),
        Some(ms @ 10_000..120_000) => format!("{} s", ms / 1000),
        Some(ms @ 120_000..7_200_000) => format!("{} min", ms / 60_000),
        Some(ms @ 7_200_000..) => format!("{} h", ms / 3_600_000),
        _ => String::new(),
    }
}

fn is_bonded(peer: &&Value) -> bool {
    peer["isBonded"] == true
}

/// The links by which data goes now.
fn sends_by(peer: &Value) -> String {
    let bond = &peer["bond"];
    let used = items(&bond["paths"]).iter().filter(|p| p["share"].as_f64().unwrap_or(0.0) > 0.0);
    let mut by: Vec<String> = used.map(|p| text(&p["link"])).collect();
    if bond["relay"] == true {
        by.push("a root".into());
    }
    match text(&bond["forced"]) {
        forced if forced.is_empty() => by.join(" + "),
        _ => format!("{} (test)", by.join(" + ")),
    }
}

/// What the peer does for us because it is a Hawser too.
fn agreed(bond: &Value) -> String {
    let in_words = |name: &Value| match name.as_str() {
        Some("orderMarks") => "order marks",
        Some("reports") => "receive reports",
        Some("duplicatesDropped") => "dropping repetitions",
        _ => "",
    };
    items(&bond["agreed"]).iter().map(in_words).collect::<Vec<_>>().join(", ")
}

fn sum(peer: &Value, key: &str) -> f64 {
    items(&peer["bond"]["paths"]).iter().filter_map(|p| p[key].as_f64()).sum()
}

fn links(peer: &Value) -> String {
    format!("{}/{}", text(&peer["numAliveLinks"]), text(&peer["numTotalLinks"]))
}

/// The bonds among the peers.
pub fn bonds(peers: &Value) -> String {
    let bonded: Vec<Value> = items(peers).iter().filter(is_bonded).cloned().collect();
    let empty = "no bonds; see `defaultBondingPolicy` of local.conf, or `hawser up --help`";
    let header = ["peer", "policy", "mode", "links", "sends by", "since", "load", "flows", "decisions"];
    list(&Value::Array(bonded), empty, &header, |p| {
        vec![
            text(&p["address"]),
            text(&p["bondingPolicyStr"]),
            text(&p["bond"]["mode"]),
            links(p),
            sends_by(p),
            span(&p["bond"]["sinceMs"]),
            rate(sum(p, "load")),
            (sum(p, "flows") as u64).to_string(),
            text(&p["bond"]["decisionsTotal"]),
        ]
    })
}

/// One bond with its paths and its last decisions.
pub fn bond(p: &Value) -> String {
    let bond = &p["bond"];
    let in_force = match text(&bond["inForce"]) {
        none if none == "none" => "not yet: no path has answered".to_owned(),
        policy => format!("{policy} since {}", span(&bond["sinceMs"])),
    };
    let delay = |key: &str| format!("{} ms", text(&p[key]));
    let striping = if bond["striping"] == true { "large flows are spread over all paths in use" } else { "" };
    let mut out = pairs(&[
        ("peer", text(&p["address"])),
        ("policy", format!("{} ({})", text(&p["bondingPolicyStr"]), text(&bond["mode"]))),
        ("in force", in_force),
        ("paths that work", links(p)),
        ("sends by", or_dash(sends_by(p))),
        ("striping", striping.into()),
        ("peer agreed to", agreed(bond)),
        ("select method", text(&bond["selectMethod"])),
        ("failover interval", delay("failoverInterval")),
        ("up delay", delay("upDelay")),
        ("down delay", delay("downDelay")),
    ]);
    out.push_str("\n\n");
    out.push_str(&places(bond));
    out.push_str("\n\n");
    out.push_str(&figures(bond));
    let last = decisions(bond, 12);
    if !last.is_empty() {
        out.push_str(&format!("\n\nlast decisions of {}:\n{last}", text(&bond["decisionsTotal"])));
    }
    out
}

fn places(bond: &Value) -> String {
    let header = ["path", "link", "mode", "remote", "state", "since", "share", "capacity", "penalty"];
    list(&bond["paths"], "no paths yet", &header, |path| {
        let held = if path["held"] == true { " held" } else { "" };
        let penalty = path["penalty"].as_f64().filter(|p| *p >= 1.0).map_or(String::new(), |p| format!("{p:.0}"));
        vec![
            text(&path["id"]),
            text(&path["link"]),
            text(&path["linkMode"]),
            text(&path["address"]),
            text(&path["state"]) + held,
            span(&path["stateSinceMs"]),
            percent(&path["share"]),
            bits(&path["capacity"]),
            penalty,
        ]
    })
}

fn figures(bond: &Value) -> String {
    let header = ["path", "rtt", "p50", "p90", "p99", "var", "loss", "rate", "load", "flows", "sent"];
    list(&bond["paths"], "", &header, |path| {
        let trips = &path["roundTripUs"];
        vec![
            text(&path["id"]),
            ms(&path["rttUs"]),
            ms(&trips["p50"]),
            ms(&trips["p90"]),
            ms(&trips["p99"]),
            ms(&path["rttvarUs"]),
            percent(&path["loss"]),
            bits(&path["rate"]),
            bits(&path["load"]),
            text(&path["flows"]),
            text(&path["sentPackets"]),
        ]
    })
}

/// The last decisions, the latest last.
pub fn decisions(bond: &Value, most: usize) -> String {
    let all = items(&bond["decisions"]);
    let all = &all[all.len().saturating_sub(most)..];
    let ages: Vec<String> = all.iter().map(|d| format!("{} ago", span(&d["ageMs"]))).collect();
    let rows: Vec<_> = ages.iter().zip(all).map(|(age, d)| (age.as_str(), text(&d["text"]))).collect();
    pairs(&rows)
}

/// What tests of several links found, one row each.
pub fn tests(found: &Value) -> String {
    let header =
        ["path", "link", "remote", "answers", "loss", "p50", "p90", "p99", "jitter", "sent meanwhile", "load test"];
    list(found, "no paths to test", &header, |t| {
        let (probes, load) = (&t["probes"], &t["load"]);
        let trips = &probes["roundTripUs"];
        let verdict = match (text(&t["aborted"]), load["delivered"].as_f64()) {
            (why, _) if !why.is_empty() => why,
            (_, None) => "not asked for".to_owned(),
            (_, Some(delivered)) => {
                let (loss, p90) = (percent(&load["loss"]), ms(&load["roundTripUs"]["p90"]));
                let least = if load["full"] == true { "" } else { "at least " };
                format!("{least}{}, loss {}, p90 {}", or_dash(rate(delivered)), or_dash(loss), or_dash(p90))
            }
        };
        vec![
            text(&t["path"]),
            text(&t["link"]),
            text(&t["address"]),
            format!("{}/{}", text(&probes["answered"]), text(&probes["sent"])),
            percent(&probes["loss"]),
            ms(&trips["p50"]),
            ms(&trips["p90"]),
            ms(&trips["p99"]),
            ms(&trips["jitter"]),
            bits(&t["carried"]),
            verdict,
        ]
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_have_three_digits_and_nothing_is_nothing() {
        let shown = [0.0, f64::NAN, 640.0, 1234.0, 37_400_000.0, 250e6, 1.25e9].map(rate);
        assert_eq!(shown, ["", "", "640 bit/s", "1.23 kbit/s", "37.4 Mbit/s", "250 Mbit/s", "1.25 Gbit/s"]);
    }

    #[test]
    fn peers_without_a_bond_are_not_among_the_bonds() {
        let path = |link: &str, share: f64| json!({"link": link, "share": share, "load": 2e6, "flows": 3});
        let bond = json!({"mode": "better", "sinceMs": 61_000, "forced": "", "decisionsTotal": 9,
            "paths": [path("eth0", 0.8), path("wwan0", 0.2), path("eth1", 0.0)]});
        let bonded = json!({"address": "bddd488d45", "isBonded": true, "bondingPolicyStr": "balance-aware",
            "numAliveLinks": 2, "numTotalLinks": 3, "bond": bond});
        let shown = bonds(&json!([bonded, {"address": "b9fd86978b", "isBonded": false}]));
        let row: Vec<&str> = shown.lines().nth(1).expect("a row").split_whitespace().collect();
        let words = "bddd488d45 balance-aware better 2/3 eth0 + wwan0 61 s 6.00 Mbit/s 9 9";
        assert_eq!((row.join(" ").as_str(), shown.lines().count()), (words, 2));
        assert!(bonds(&json!([])).contains("defaultBondingPolicy"));
    }

    #[test]
    fn a_bond_is_shown_with_paths_figures_and_reasons() {
        let path = json!({"id": "1.2", "link": "eth1", "address": "81.77.1.4/9993", "linkMode": "spare", "state": "suspect",
            "stateSinceMs": 120, "share": 1.0, "held": true, "penalty": 2600.0, "rttUs": 20_100, "rttvarUs": 900,
            "roundTripUs": {"samples": 3, "p50": 20_000, "p90": 21_000, "p99": 140_000}, "loss": 0.031, "rate": 37e6,
            "load": 0, "flows": 4, "sentPackets": 77, "capacity": 0});
        let decision = json!({"ageMs": 120, "kind": "suspect", "text": "path eth1: suspect, no answer for 61.0 ms"});
        let bond_object = json!({"mode": "better", "inForce": "active-backup", "sinceMs": 4000, "forced": "", "relay": true,
            "selectMethod": "always", "decisionsTotal": 31, "paths": [path], "decisions": [decision]});
        let shown =
            bond(&json!({"address": "bddd488d45", "bondingPolicyStr": "active-backup", "failoverInterval": 5000,
            "numAliveLinks": 0, "numTotalLinks": 1, "bond": bond_object}));
        for expected in ["eth1 + a root", "suspect held", "2600", "20.1 ms", "140 ms", "3.1 %", "37.0 Mbit/s", "of 31:"]
        {
            assert!(shown.contains(expected), "{expected} is missing:\n{shown}");
        }
        assert!(shown.ends_with("0.1 s ago  path eth1: suspect, no answer for 61.0 ms"), "{shown}");
    }

    #[test]
    fn a_test_says_what_a_link_can_do_or_at_least_does() {
        let row = |load: Value| {
            let probes =
                json!({"sent": 100, "answered": 97, "loss": 0.03, "roundTripUs": {"p50": 20_000, "jitter": 500}});
            let test = json!({"path": "0.1", "link": "eth0", "address": "81.77.0.4/9993", "probes": probes, "load": load,
                "carried": 3.2e6, "aborted": ""});
            tests(&json!([test])).lines().nth(1).expect("a row").to_owned()
        };
        let slow = row(
            json!({"delivered": 9.6e6, "offered": 20e6, "full": true, "loss": 0.52, "roundTripUs": {"p90": 90_000}}),
        );
        assert!(slow.contains("97/100") && slow.contains("9.60 Mbit/s, loss 52 %, p90 90.0 ms"), "{slow}");
        assert!(row(json!({"delivered": 19.9e6, "full": false})).contains("at least 19.9 Mbit/s, loss -"));
        let plain = row(json!({}));
        assert!(plain.contains("3.20 Mbit/s") && plain.ends_with("not asked for"), "{plain}");
    }
}
