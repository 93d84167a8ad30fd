//! The API's objects as tables for people. Reads JSON as the daemon gives it and never fails on a field that is missing.

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
    let online = if v["online"] == true { "online" } else { "offline: no root answers" };
    vec![
        ("address", text(&v["address"])),
        ("state", online.into()),
        ("version", format!("{} (ZeroTier {})", text(&v["hawserVersion"]), text(&v["version"]))),
        ("planet", format!("{} of {}", text(&v["planetWorldId"]), text(&v["planetWorldTimestamp"]))),
        ("home", text(&settings["homeDir"])),
        ("port", text(&settings["primaryPort"])),
        ("listening on", text(&settings["listeningOn"])),
        ("seen as", text(&settings["surfaceAddresses"])),
        ("shards", text(&v["shards"])),
        ("io", format!("{} ({})", text(&v["io"]["backend"]), text(&v["io"]["why"]))),
    ]
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

/// The peer list.
pub fn peers(v: &Value) -> String {
    let header = ["address", "version", "role", "latency", "way", "path"];
    list(v, "no peers known yet", &header, |p| {
        let best = items(&p["paths"]).iter().find(|path| path["preferred"] == true).or(items(&p["paths"]).first());
        let latency = p["latency"].as_i64().filter(|ms| *ms >= 0).map(|ms| format!("{ms} ms")).unwrap_or_default();
        let version = text(&p["version"]);
        vec![
            text(&p["address"]),
            if version.starts_with('-') { String::new() } else { version },
            text(&p["role"]),
            latency,
            if best.is_some() { "direct" } else { "relayed" }.into(),
            best.map(|path| text(&path["address"])).unwrap_or_default(),
        ]
    })
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

    #[test]
    fn a_peer_without_paths_is_shown_as_relayed_and_unknown_values_as_dashes() {
        let shown = peers(
            &json!([{"address": "b9fd86978b", "latency": -1, "version": "-1.-1.-1", "role": "LEAF", "paths": []}]),
        );
        let line = shown.lines().nth(1).expect("a row");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["b9fd86978b", "-", "LEAF", "-", "relayed", "-"]);
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
