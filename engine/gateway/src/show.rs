//! The API's objects as tables for people. Reads JSON as the daemon gives it and never fails on a field that is missing.

pub mod bond;

use comfy_table::{Table, presets};
use serde_json::Value;

/// JSON for programs: two spaces of indent, keys in byte order.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn table(header: &[&str]) -> Table {
    let mut t = Table::new();
    t.load_style(presets::NOTHING).set_header(header.to_vec());
    t
}

fn pairs(rows: &[(&str, String)]) -> String {
    let mut t = Table::new();
    t.load_style(presets::NOTHING);
    for (key, value) in rows.iter().filter(|(_, v)| !v.is_empty()) {
        t.add_row([*key, value.as_str()]);
    }
    t.trim_fmt()
}

/// What a measurement found, row by row.
pub fn rows(rows: &[(String, String)]) -> String {
    let rows: Vec<_> = rows.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    pairs(&rows)
}

/// A value as a person would write it.
fn text(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Bool(b) => if *b { "yes" } else { "no" }.into(),
        Value::Array(a) => a.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn items(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

fn or_dash(s: String) -> String {
    if s.is_empty() { "-".into() } else { s }
}

fn list(v: &Value, empty: &str, header: &[&str], row: impl Fn(&Value) -> Vec<String>) -> String {
    if items(v).is_empty() {
        return empty.to_owned();
    }
    let mut t = table(header);
    for item in items(v) {
        t.add_row(row(item).into_iter().map(or_dash));
    }
    t.trim_fmt()
}

/// The status object.
pub fn status(v: &Value) -> String {
    pairs(&status_rows(v))
}

fn status_rows(v: &Value) -> Vec<(&'static str, String)> {
    let settings = &v["config"]["settings"];
    let online = match (v["online"] == true, v["tcpFallbackActive"] == true) {
        (true, false) => "online",
        (true, true) => "online, by TCP through a relay: UDP does not get through",
        (false, _) => "offline: no root answers",
    };
    vec![
        ("address", text(&v["address"])),
        ("state", online.into()),
        ("version", format!("{} (ZeroTier {})", text(&v["hawserVersion"]), text(&v["version"]))),
        ("planet", format!("{} of {}", text(&v["planetWorldId"]), text(&v["planetWorldTimestamp"]))),
        ("home", text(&settings["homeDir"])),
        ("port", text(&settings["primaryPort"])),
        ("listening on", text(&settings["listeningOn"])),
        ("seen as", text(&settings["surfaceAddresses"])),
        ("nat", nat(&v["nat"])),
        ("shards", text(&v["shards"])),
        ("io", format!("{} ({})", text(&v["io"]["backend"]), text(&v["io"]["why"]))),
        ("warnings", items(&v["warnings"]).iter().map(text).collect::<Vec<_>>().join("\n")),
    ]
}

/// The kind of NAT before each link and family, as far as it is known.
fn nat(v: &Value) -> String {
    let mut known: Vec<String> = Vec::new();
    for socket in items(v) {
        let kind = match (socket["mapping"].as_str().unwrap_or_default(), socket["portStep"].as_u64()) {
            ("none", _) => "none".into(),
            ("symmetric", Some(step @ 1..)) => format!("symmetric, ports in steps of {step}"),
            ("" | "unknown", _) => continue,
            (other, _) => other.to_owned(),
        };
        let family = if text(&socket["address"]).contains(':') { "IPv6" } else { "IPv4" };
        let line = format!("{} {family}: {kind}", text(&socket["link"]));
        if !known.contains(&line) {
            known.push(line);
        }
    }
    match (known.is_empty(), items(v).is_empty()) {
        (true, true) => String::new(),
        (true, false) => "not known: it takes two roots that say how they see us".into(),
        _ => known.join("; "),
    }
}

/// Status, networks and peers in short.
pub fn overview(v: &Value, networks: &Value, peers: &Value) -> String {
    let direct = items(peers).iter().filter(|p| !items(&p["paths"]).is_empty()).count();
    let ok = items(networks).iter().filter(|n| n["status"] == "OK").count();
    let mut rows = status_rows(v);
    rows.push(("networks", format!("{} joined, {ok} OK", items(networks).len())));
    rows.push(("peers", format!("{} known, {direct} with a direct path", items(peers).len())));
    pairs(&rows)
}

/// Microseconds as milliseconds with three digits that mean something; nothing if unknown.
fn ms(us: &Value) -> String {
    match us.as_i64() {
        Some(us @ 100_000..) => format!("{} ms", us / 1000),
        Some(us @ 10_000..) => format!("{:.1} ms", us as f64 / 1000.0),
        Some(us @ 0..) => format!("{:.2} ms", us as f64 / 1000.0),
        _ => String::new(),
    }
}

/// The path in use, or any.
fn best_path(p: &Value) -> Option<&Value> {
    items(&p["paths"]).iter().find(|path| path["preferred"] == true).or(items(&p["paths"]).first())
}

fn version(p: &Value) -> String {
    Some(text(&p["version"])).filter(|v| !v.starts_with('-')).unwrap_or_default()
}

/// How what goes to a peer goes.
fn way(p: &Value) -> &'static str {
    match (best_path(p), p["role"].as_str()) {
        (Some(_), _) => "direct",
        (None, Some("PLANET" | "MOON")) => "silent",
        _ => "relayed",
    }
}

/// Why a peer is relayed: in a word, and what can be done.
fn why_relayed(p: &Value) -> [&'static str; 2] {
    match p["whyRelayed"].as_str().unwrap_or_default() {
        "idle" => ["idle", "nothing was said for minutes, so that no path is kept"],
        "untrusted" => ["no shared network yet", "addresses are told to members of a common network only"],
        "trying" => ["trying", "addresses are being exchanged"],
        "symmetric-here" => {
            let advice = "the NAT here is symmetric, and what is there filters by port: forward a UDP port on one side";
            ["symmetric NAT here", advice]
        }
        "unanswered" => {
            let advice = "a firewall drops UDP between the two, or the NAT there is symmetric: open UDP on one side";
            ["nothing gets through", advice]
        }
        _ => ["", ""],
    }
}

/// The peer list.
pub fn peers(v: &Value) -> String {
    let header = ["address", "version", "role", "way", "latency", "p99", "path"];
    list(v, "no peers known yet", &header, |p| {
        let best = best_path(p);
        let others = match items(&p["paths"]).len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        vec![
            text(&p["address"]),
            version(p),
            text(&p["role"]),
            way(p).into(),
            best.map(|path| ms(&path["latencyUs"])).unwrap_or_default(),
            best.map(|path| ms(&path["roundTripUs"]["p99"])).unwrap_or_default(),
            best.map_or(why_relayed(p)[0].into(), |path| text(&path["address"]) + &others),
        ]
    })
}

/// One peer and its paths.
pub fn peer(p: &Value) -> String {
    let what = match why_relayed(p) {
        ["", _] => way(p).to_owned(),
        [why, advice] => format!("{}, {why}: {advice}", way(p)),
    };
    let mut out =
        pairs(&[("address", text(&p["address"])), ("version", version(p)), ("role", text(&p["role"])), ("way", what)]);
    if !items(&p["paths"]).is_empty() {
        let header = ["path", "from port", "used", "last", "p50", "p90", "p99", "max", "jitter", "samples"];
        out.push_str("\n\n");
        out.push_str(&list(&p["paths"], "", &header, |path| {
            let trips = &path["roundTripUs"];
            let used = if path["preferred"] == true { "yes" } else { "" };
            let mut row = vec![text(&path["address"]), text(&path["localPort"]), used.into()];
            row.extend(["last", "p50", "p90", "p99", "max", "jitter"].map(|k| ms(&trips[k])));
            row.push(text(&trips["samples"]));
            row
        }));
    }
    out
}

/// The moon list.
pub fn moons(v: &Value) -> String {
    let header = ["moon", "state", "timestamp", "roots"];
    list(v, "no moons; follow one with `hawser orbit <moon> <seed>`", &header, |m| {
        let state = match m["waiting"] == true {
            true => format!("waiting for {}", text(&m["seed"])),
            false => "followed".into(),
        };
        let address = |root: &Value| text(&root["identity"]).chars().take(10).collect::<String>();
        let roots: Vec<String> = items(&m["roots"]).iter().map(address).collect();
        vec![text(&m["id"]), state, text(&m["timestamp"]), roots.join(" ")]
    })
}

/// The network list.
pub fn networks(v: &Value) -> String {
    let header = ["network", "name", "status", "type", "device", "mac", "addresses"];
    let mut out = list(v, "no networks joined; join one with `hawser join <network>`", &header, |n| {
        ["id", "name", "status", "type", "portDeviceName", "mac", "assignedAddresses"].map(|k| text(&n[k])).to_vec()
    });
    for n in items(v) {
        let why = advice(n);
        if !why.is_empty() {
            out.push_str(&format!("\n\n{}: {why}", text(&n["id"])));
        }
    }
    out
}

/// What a status means for the operator.
fn advice(n: &Value) -> String {
    let detail = text(&n["statusDetail"]);
    let hint = match n["status"].as_str().unwrap_or_default() {
        "ACCESS_DENIED" => "the controller has not authorised this node",
        "NOT_FOUND" => "the controller does not know this network, or cannot be reached",
        "PORT_ERROR" => "the TAP device cannot be used",
        "AUTHENTICATION_REQUIRED" => "the network wants a single sign-on, which is not supported yet",
        _ => "",
    };
    match (hint.is_empty(), detail.is_empty()) {
        (_, true) => hint.to_owned(),
        (true, false) => detail,
        (false, false) => format!("{hint} ({detail})"),
    }
}

/// A network after joining.
pub fn joined(v: &Value) -> String {
    let id = text(&v["id"]);
    match v["status"].as_str().unwrap_or_default() {
        "OK" => networks(&Value::Array(vec![v.clone()])),
        _ => format!("joined {id}; its configuration is on the way, see `hawser networks`"),
    }
}

/// One record of the controller.
pub fn controller_network(v: &Value) -> String {
    pairs(&[
        ("network", text(&v["id"])),
        ("name", text(&v["name"])),
        ("private", text(&v["private"])),
        ("mtu", text(&v["mtu"])),
        ("pools", pools(v)),
        ("routes", routes(v)),
        ("revision", text(&v["revision"])),
    ])
}

fn pools(v: &Value) -> String {
    let pool = |p: &Value| format!("{} - {}", text(&p["ipRangeStart"]), text(&p["ipRangeEnd"]));
    items(&v["ipAssignmentPools"]).iter().map(pool).collect::<Vec<_>>().join(", ")
}

fn routes(v: &Value) -> String {
    let route = |r: &Value| match text(&r["via"]) {
        via if via.is_empty() => text(&r["target"]),
        via => format!("{} via {via}", text(&r["target"])),
    };
    items(&v["routes"]).iter().map(route).collect::<Vec<_>>().join(", ")
}

/// All networks of the controller.
pub fn controller_networks(v: &Value) -> String {
    let header = ["network", "name", "private", "members", "authorised", "routes"];
    list(v, "no networks; make one with `hawser controller network create`", &header, |n| {
        let meta = &n["meta"];
        vec![
            text(&n["id"]),
            text(&n["name"]),
            text(&n["private"]),
            text(&meta["totalMemberCount"]),
            text(&meta["authorizedMemberCount"]),
            routes(n),
        ]
    })
}

/// One member.
pub fn controller_member(v: &Value) -> String {
    pairs(&[
        ("member", text(&v["address"])),
        ("network", text(&v["nwid"])),
        ("name", text(&v["name"])),
        ("authorised", text(&v["authorized"])),
        ("addresses", text(&v["ipAssignments"])),
        ("bridge", text(&v["activeBridge"])),
        ("revision", text(&v["revision"])),
    ])
}

/// All members of a network.
pub fn controller_members(v: &Value) -> String {
    let header = ["member", "name", "authorised", "addresses", "version"];
    list(v, "no members yet; nodes appear here when they ask to join", &header, |m| {
        let version = match m["vMajor"].as_i64() {
            Some(major) if major >= 0 => format!("{major}.{}.{}", text(&m["vMinor"]), text(&m["vRev"])),
            _ => String::new(),
        };
        vec![text(&m["address"]), text(&m["name"]), text(&m["authorized"]), text(&m["ipAssignments"]), version]
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn a_peer_without_paths_is_shown_as_relayed_and_why_and_unknown_values_as_dashes() {
        let mut p = json!({"address": "b9fd86978b", "latency": -1, "version": "-1.-1.-1", "role": "LEAF", "paths": []});
        let row = |p: &Value| peers(&json!([p])).lines().nth(1).expect("a row").to_owned();
        assert_eq!(words(&row(&p)), ["b9fd86978b", "-", "LEAF", "relayed", "-", "-", "-"]);
        p["whyRelayed"] = "symmetric-here".into();
        assert!(row(&p).ends_with("symmetric NAT here"), "{}", row(&p));
        assert!(peer(&p).contains("relayed, symmetric NAT here: "), "{}", peer(&p));
        p["role"] = "PLANET".into();
        assert_eq!(words(&row(&p))[3], "silent");
    }

    #[test]
    fn a_peer_is_shown_with_the_path_in_use_and_in_detail_with_all_of_them() {
        let trips = json!({"samples": 52, "last": 21_300, "min": 420, "p50": 20_040, "p90": 20_900, "p99": 140_600,
            "max": 141_000, "jitter": 830});
        let path = |address: &str, preferred: bool| json!({"address": address, "preferred": preferred, "localPort": 9993, "latencyUs": 421, "roundTripUs": trips});
        let paths = [path("192.0.2.1/9993", false), path("192.0.2.2/9993", true)];
        let p = json!({"address": "b9fd86978b", "version": "1.14.1", "role": "LEAF", "paths": paths});
        let list = peers(&json!([p]));
        let row: Vec<&str> = words(list.lines().nth(1).expect("a row"));
        assert_eq!(row[3..8], ["direct", "0.42", "ms", "140", "ms"]);
        assert!(list.ends_with("192.0.2.2/9993 and 1 more"), "{list}");
        let detail = peer(&p);
        let used = words(detail.lines().last().expect("a row"));
        assert_eq!(used[..5], ["192.0.2.2/9993", "9993", "yes", "21.3", "ms"]);
        assert_eq!(used[13..], ["0.83", "ms", "52"]);
    }

    #[test]
    fn the_nat_of_a_link_is_said_once_and_not_before_it_is_known() {
        let socket = |mapping: &str, step: u64, address: &str| json!({"link": "eth0", "address": address, "mapping": mapping, "portStep": step});
        let (v4, v6) = ("10.0.0.2/9993", "fd00::2/9993");
        assert_eq!(nat(&Value::Null), "");
        assert!(nat(&json!([socket("unknown", 0, v4)])).starts_with("not known"));
        let sockets = json!([socket("symmetric", 2, v4), socket("symmetric", 2, v4), socket("none", 0, v6)]);
        assert_eq!(nat(&sockets), "eth0 IPv4: symmetric, ports in steps of 2; eth0 IPv6: none");
    }

    #[test]
    fn a_refused_network_is_shown_with_what_it_means() {
        let shown = networks(&json!([{"id": "6af3745e97000001", "status": "ACCESS_DENIED"}]));
        assert!(shown.contains("6af3745e97000001: the controller has not authorised this node"), "{shown}");
    }

    #[test]
    fn a_moon_is_shown_with_its_roots_or_with_whom_it_waits_for() {
        let shown = moons(&json!([
            {"id": "000000b9fd86978b", "timestamp": 7, "waiting": false, "roots": [{"identity": "b9fd86978b:0:00"}]},
            {"id": "0000000000000001", "timestamp": 0, "waiting": true, "roots": [], "seed": "1122334455"},
        ]));
        let words = |n| shown.lines().nth(n).expect("a row").split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(1), ["000000b9fd86978b", "followed", "7", "b9fd86978b"]);
        assert_eq!(words(2), ["0000000000000001", "waiting", "for", "1122334455", "0", "-"]);
    }

    #[test]
    fn nothing_to_show_says_what_to_do() {
        assert!(networks(&json!([])).contains("hawser join"));
        assert!(controller_networks(&Value::Null).contains("hawser controller network create"));
    }
}
