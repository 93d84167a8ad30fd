//! Daemons as their operator sees them: in namespaces of their own, driven by command line, HTTP and files, carrying echo
//! requests through TAP devices. Needs root and iproute2.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};

use lab::daemon::Daemon;
use lab::measure::{PingPlan, ping};
use lab::netns::Namespace;
use serde_json::{Value, json};
use support::{HAWSER, Options, SOON, soon};

fn hawser(words: &[&str]) -> Output {
    Command::new(HAWSER).args(words).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A root with a controller at 10.90.0.1 and two hosts on the same Ethernet.
struct World {
    dir: tempfile::TempDir,
    root: Daemon,
    a: Daemon,
    b: Daemon,
    spaces: [Namespace; 3],
}

impl World {
    fn new(name: &str) -> World {
        World::with(name, &[])
    }

    /// The daemons get `more` words on their command line.
    fn with(name: &str, more: &[&str]) -> World {
        let words = [&["--shards", "2"], more].concat();
        let options = Options { root: &words, gateways: &words, ..Options::default() };
        let support::World { root, gateways: [a, b], spaces: [near, far], wan, dir, .. } =
            support::World::new(name, &options);
        World { dir, root, a, b, spaces: [wan, near, far] }
    }

    /// A private network with both hosts in it; its ID and their addresses.
    fn network(&mut self) -> (String, [IpAddr; 2]) {
        self.network_of("10.77.0.0/24")
    }

    fn network_of(&mut self, subnet: &str) -> (String, [IpAddr; 2]) {
        let words = ["controller", "network", "create", "--name", "test", "--subnet", subnet, "--ipv6", "rfc4193"];
        let made = self.root.cli(&words).expect("network");
        let id = made["id"].as_str().expect("id").to_owned();
        let mut addresses = [IpAddr::from([0, 0, 0, 0]); 2];
        for (daemon, ip) in [&mut self.a, &mut self.b].into_iter().zip(&mut addresses) {
            let member = daemon.address().expect("address");
            self.root.cli(&["controller", "member", "authorize", &id, &member]).expect("authorised");
            *ip = daemon.join(&id, SOON).expect("joined").parse().expect("address");
        }
        (id, addresses)
    }
}

fn until(what: &str, probe: impl FnMut() -> bool) {
    assert!(soon(probe), "{what} did not happen in time");
}

fn reaches(from: &Namespace, to: IpAddr, size: usize) -> bool {
    let plan = PingPlan { count: 5, size, ..PingPlan::default() };
    // No route yet is no answer.
    from.inside(|| ping(to, plan)).is_ok_and(|pings| pings.answered > 0)
}

/// Frames that the daemon wrote to a device.
fn frames_in(ns: &Namespace, name: &str) -> u64 {
    let shown: Value = serde_json::from_str(&device(ns, &["-s", "-j", "link", "show", "dev", name])).expect("JSON");
    shown[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
}

fn device(ns: &Namespace, words: &[&str]) -> String {
    let out = Command::new("ip").args(["-n", ns.name()]).args(words).output().expect("ip");
    text(&out.stdout)
}

#[test]
fn two_members_of_an_own_controller_ping_each_other_through_their_taps() {
    let mut world = World::new("ping");
    let (id, [a_ip, b_ip]) = world.network();
    assert!(reaches(&world.spaces[1], b_ip, 56), "first contact\n{}", world.a.log_tail());
    assert!(reaches(&world.spaces[2], a_ip, 56), "and back");
    assert!(reaches(&world.spaces[1], b_ip, 2700), "frames that take two datagrams");
    let network = world.b.network(&id).expect("networks").expect("joined");
    let v6 = network["assignedAddresses"].as_array().expect("list").iter().filter_map(Value::as_str);
    let v6 =
        v6.filter_map(|a| a.split('/').next()?.parse::<IpAddr>().ok()).find(IpAddr::is_ipv6).expect("an IPv6 address");
    until("the IPv6 address answers", || reaches(&world.spaces[1], v6, 56));
    let b = world.b.address().expect("address");
    until("a direct path", || !world.a.direct_paths(&b).expect("peers").is_empty());
    assert!(world.a.status().expect("status")["online"] == json!(true));
    let name = network["portDeviceName"].as_str().expect("device");
    let shown = device(&world.spaces[2], &["addr", "show", "dev", name]);
    assert!(shown.contains("mtu 2800") && shown.contains(network["mac"].as_str().expect("mac")), "{shown}");
}

#[test]
fn two_gateways_without_io_uring_carry_echoes_and_a_transfer() {
    let mut world = World::with("mmsg", &["--io", "mmsg"]);
    let (_, [a_ip, b_ip]) = world.network();
    assert!(reaches(&world.spaces[1], b_ip, 56), "first contact\n{}", world.a.log_tail());
    assert!(reaches(&world.spaces[2], a_ip, 2700), "frames that take two datagrams");
    let (sent, at) = ((0..8u32 << 20).map(|n| (n ^ n >> 8) as u8).collect::<Vec<u8>>(), SocketAddr::new(b_ip, 7001));
    let listener = world.spaces[2].inside(|| Ok(TcpListener::bind(at))).expect("inside").expect("listens");
    let received = std::thread::scope(|scope| {
        scope.spawn(|| {
            world.spaces[1].inside(|| {
                let mut stream = TcpStream::connect_timeout(&at, SOON).expect("connects");
                stream.write_all(&sent).expect("is sent");
                Ok(())
            })
        });
        let mut received = Vec::new();
        listener.accept().expect("connects").0.read_to_end(&mut received).expect("arrives");
        received
    });
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    for daemon in [&world.a, &world.b] {
        let status = daemon.status().expect("status");
        assert_eq!(status["io"], json!({"backend": "mmsg", "why": "asked for"}));
        assert!(daemon.log_tail().contains("packets go by mmsg: asked for"), "{}", daemon.log_tail());
    }
}

#[test]
fn a_member_that_is_shut_out_gets_nothing_through_and_one_that_leaves_has_no_device() {
    let mut world = World::new("out");
    let (id, [a_ip, b_ip]) = world.network();
    assert!(reaches(&world.spaces[1], b_ip, 56));
    let b = world.b.address().expect("address");
    world.root.cli(&["controller", "member", "deauthorize", &id, &b]).expect("shut out");
    until("frames stop", || !reaches(&world.spaces[1], b_ip, 56));
    // Not only the answers: no frame of it comes out of the other's device, though its kernel tries.
    let [a_name, b_name] = [&world.a, &world.b].map(|daemon| {
        let network = daemon.network(&id).expect("networks").expect("joined");
        network["portDeviceName"].as_str().expect("device").to_owned()
    });
    let before = frames_in(&world.spaces[1], &a_name);
    let _ = world.spaces[2].ip(&["addr", "replace", "10.77.0.200/24", "dev", &b_name]);
    assert!(!reaches(&world.spaces[2], a_ip, 56) && !reaches(&world.spaces[1], b_ip, 56));
    assert_eq!(frames_in(&world.spaces[1], &a_name), before);
    world.a.cli(&["leave", &id]).expect("left");
    until("the device goes", || !device(&world.spaces[1], &["link", "show"]).contains("zt"));
    until("its file goes", || !world.dir.path().join(format!("a/networks.d/{id}.conf")).exists());
    assert_eq!(world.a.cli(&["networks"]).expect("networks"), json!([]));
    let home = world.a.home().display().to_string();
    for words in [vec!["leave", &id, "--home", &home], vec!["leave", &id, "--home", &home, "--json"]] {
        let again = Command::new("ip").args(["netns", "exec", world.spaces[1].name(), HAWSER]).args(&words).output();
        let again = again.expect("the program runs");
        assert_eq!(again.status.code(), Some(4), "{words:?}: {}", text(&again.stderr));
        assert!(text(&again.stderr).contains("not joined") && again.stdout.is_empty());
    }
}

#[test]
fn a_daemon_that_starts_again_is_in_its_networks_before_anybody_answers() {
    let mut world = World::new("again");
    let (id, [a_ip, b_ip]) = world.network();
    assert!(reaches(&world.spaces[1], b_ip, 56));
    world.root.stop();
    let before = world.a.network(&id).expect("networks").expect("joined");
    world.a.stop();
    assert!(!device(&world.spaces[1], &["link", "show"]).contains("zt"), "nothing is left behind");
    assert!(!world.dir.path().join("a/zerotier-one.pid").exists());
    let home = world.dir.path().join("a");
    world.a = Daemon::start(Path::new(HAWSER), &world.spaces[1], &home, &["--shards", "2"]).expect("again");
    until("the device is back", || device(&world.spaces[1], &["addr", "show"]).contains(&a_ip.to_string()));
    let after = world.a.network(&id).expect("networks").expect("joined");
    assert_eq!((&after["status"], &after["portDeviceName"]), (&json!("OK"), &before["portDeviceName"]));
}

#[test]
fn a_device_that_somebody_removes_is_reported_and_made_again_while_the_rest_goes_on() {
    let mut world = World::new("gone");
    let (id, [_, b_ip]) = world.network();
    let (_, [_, other_ip]) = world.network_of("10.78.0.0/24");
    assert!(reaches(&world.spaces[1], b_ip, 56));
    until("the other network works", || reaches(&world.spaces[1], other_ip, 56));
    let name =
        world.a.network(&id).expect("networks").expect("joined")["portDeviceName"].as_str().expect("name").to_owned();
    let plan = PingPlan { count: 100, ..PingPlan::default() };
    let there = || device(&world.spaces[1], &["link", "show"]).contains(&name);
    let pings = std::thread::scope(|scope| {
        let pings = scope.spawn(|| world.spaces[1].inside(|| ping(other_ip, plan)).expect("a way"));
        std::thread::sleep(plan.interval * 10);
        world.spaces[1].ip(&["link", "del", &name]).expect("removed");
        assert!(!pings.is_finished(), "they go on while the device is gone");
        pings.join().expect("pings")
    });
    assert_eq!(pings.answered, pings.sent, "the other network goes on\n{}", world.a.log_tail());
    until("the device is back", there);
    until("the network works again", || reaches(&world.spaces[1], b_ip, 56));
    assert!(world.a.log_tail().contains("vanished"), "{}", world.a.log_tail());
}

/// Where a daemon listens with its first port.
fn listening(daemon: &Daemon) -> Value {
    let status = daemon.status().expect("status");
    let all = status["config"]["settings"]["listeningOn"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|at| at.as_str().is_some_and(|at| at.ends_with("/9993"))).collect()
}

#[test]
fn a_link_that_vanishes_is_closed_and_used_again_when_it_is_back() {
    let mut world = World::new("link");
    let (_, [_, b_ip]) = world.network();
    assert!(reaches(&world.spaces[1], b_ip, 56));
    assert_eq!(listening(&world.a), json!(["10.90.0.2/9993"]));
    world.spaces[1].ip(&["addr", "del", "10.90.0.2/24", "dev", "wan0"]).expect("removed");
    until("the socket is closed", || listening(&world.a) == json!([]));
    world.spaces[1].ip(&["addr", "add", "10.90.0.2/24", "dev", "wan0"]).expect("back");
    until("the socket is back", || listening(&world.a) == json!(["10.90.0.2/9993"]));
    until("traffic flows again", || reaches(&world.spaces[1], b_ip, 56));
}

/// One request over a connection of its own, as `zerotier-cli` sends it; status, content type and body.
fn ask(daemon: &Daemon, method: &str, path: &str, header: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect("127.0.0.1:9993").expect("the API listens");
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{header}\r\n{body}")
        .unwrap_or_else(|e| panic!("{path}: {e}\n{}", daemon.log_tail()));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header");
    let code = head.split_whitespace().nth(1).and_then(|c| c.parse().ok()).expect("a status code");
    let kind = head.lines().find_map(|l| l.strip_prefix("content-type: ")).unwrap_or_default();
    (code, kind.to_owned(), body.to_owned())
}

#[test]
fn the_api_answers_with_the_codes_and_bodies_that_tools_of_zerotier_expect() {
    let mut world = World::new("api");
    let (id, _) = world.network();
    let token = std::fs::read_to_string(world.root.home().join("authtoken.secret")).expect("token");
    let right = format!("X-ZT1-Auth: {token}\r\n");
    let b = world.b.address().expect("address");
    let (root, own) = (&world.root, world.root.address().expect("address"));
    let json_type = "application/json".to_owned();
    let check = |method: &str, path: &str, header: &str, body: &str, code: u16, expected: Option<&str>| {
        let (got, kind, text) = ask(root, method, path, header, body);
        assert_eq!(got, code, "{method} {path}: {text}");
        assert_eq!(kind, json_type, "{method} {path}");
        if let Some(expected) = expected {
            assert_eq!(text, expected, "{method} {path}");
        }
        text
    };
    world.spaces[0]
        .inside(|| {
            check("GET", "/status", "", "", 401, Some("{}"));
            check("GET", "/nosuch", "", "", 401, Some("{}"));
            check("GET", "/status?auth=wrong", &right, "", 200, None);
            check("GET", &format!("/status?auth={token}"), "X-ZT1-Auth: wrong\r\n", "", 401, Some("{}"));
            check("GET", "/status", &format!("Authorization: bearer {token}\r\n"), "", 200, None);
            check("GET", "/health", "", "", 200, None);
            check("GET", "/nosuch", &right, "", 404, Some(""));
            check("GET", "/status/", &right, "", 404, Some(""));
            check("OPTIONS", "/status", &right, "", 404, Some(""));
            check("GET", "/network/6af3745e97fffffe", &right, "", 404, Some("{}"));
            check("DELETE", "/network/6af3745e97fffffe", &right, "", 200, Some("{}"));
            check("GET", "/peer/0123456789", &right, "", 200, Some("{}"));
            check("GET", "/network", &right, "", 200, Some("[]"));
            // Nobody bonds here.
            check("GET", &format!("/bond/show/{b}"), &right, "", 400, Some("{}"));
            check("POST", &format!("/bond/rotate/{b}"), &right, "", 400, Some("{}"));
            let inactive = Some("Bonding layer isn't active yet");
            check("PUT", "/bond/setmtu/1400/eth0/81.77.0.4", &right, "", 400, inactive);
            check("GET", "/bond/show/12345", &right, "", 404, Some(""));
            let state = check("GET", "/controller", &right, "", 200, None);
            assert!(state.starts_with("{\n\t\"controller\": true,\n\t\"apiVersion\": 4,"), "{state}");
            let list = format!("[\"{id}\"]");
            check("GET", "/controller/network", &right, "", 200, Some(&list));
            let base = format!("/controller/network/{id}");
            let members: Value =
                serde_json::from_str(&check("GET", &format!("{base}/member"), &right, "", 200, None)).expect("JSON");
            assert!(members[&b].is_u64(), "{members}");
            let record = format!("{base}/member/{b}");
            let changed = check("PUT", &record, &right, r#"{"name": "gateway"}"#, 200, None);
            let changed: Value = serde_json::from_str(&changed).expect("JSON");
            assert_eq!((&changed["name"], &changed["authorized"]), (&json!("gateway"), &json!(true)));
            check("POST", &record, &right, "", 500, None);
            check("GET", &format!("{base}/member/0123456789"), &right, "", 404, Some(""));
            check("POST", "/controller/network/0123456789______", &right, "{}", 400, Some(""));
            let made = check("POST", &format!("/controller/network/{own}______"), &right, "{}", 200, None);
            let made: Value = serde_json::from_str(&made).expect("JSON");
            let other = format!("/controller/network/{}", made["id"].as_str().expect("id").to_uppercase());
            check("DELETE", &other, &right, "", 200, None);
            check("GET", &other, &right, "", 404, Some(""));
            let (code, kind, text) = ask(root, "GET", "/nosuch?jsonp=f", &right, "");
            assert_eq!((code, kind.as_str(), text.as_str()), (404, "application/javascript", "f(null);"));
            Ok(())
        })
        .expect("inside");
    let status = world.root.status().expect("status");
    assert_eq!(status["counters"]["gateway"]["api_refused"], json!(3), "{}", status["counters"]);
}

#[test]
fn settings_that_change_are_taken_over_and_wrong_ones_change_nothing() {
    let world = World::new("conf");
    let file = world.a.home().join("local.conf");
    assert_eq!(listening(&world.a), json!(["10.90.0.2/9993"]));
    std::fs::write(&file, r#"{"settings": {"interfacePrefixBlacklist": ["wan"]}}"#).expect("write");
    until("the link is given up", || listening(&world.a) == json!([]));
    std::fs::write(&file, r#"{"settings": {"defaultBondingPolicy": "balance-awre"}}"#).expect("write");
    until("the mistake is reported", || world.a.log_tail().contains("the settings in force stay"));
    let warnings = || world.a.status().expect("status")["warnings"].to_string();
    assert!(warnings().contains(r#"did you mean \"balance-aware\"?"#), "{}", warnings());
    assert_eq!(listening(&world.a), json!([]), "still as before");
    let bond = r#"{"settings": {"defaultBondingPolicy": "x",
                   "policies": {"x": {"basePolicy": "balance-xor", "links": {"wan": {}, "lte0": {}, "lo": {}}}}}}"#;
    std::fs::write(&file, bond).expect("write");
    until("the link is back", || listening(&world.a) == json!(["10.90.0.2/9993"]));
    let said = warnings();
    assert!(said.contains("there is no interface lte0") && said.contains("lo is no link"), "{said}");
    assert!(!said.contains("balance-aware") && !said.contains("wan "), "{said}");
}

#[test]
fn a_damaged_controller_record_is_said_to_be_damaged_and_stays_as_it_is() {
    let mut world = World::new("dmg");
    let id =
        world.root.cli(&["controller", "network", "create"]).expect("network")["id"].as_str().expect("id").to_owned();
    world.root.stop();
    let file = world.dir.path().join(format!("root/controller.d/network/{id}.json"));
    std::fs::write(&file, "{ no record").expect("damaged");
    let home = world.dir.path().join("root");
    world.root = Daemon::start(Path::new(HAWSER), &world.spaces[0], &home, &["--shards", "2"]).expect("again");
    for words in [vec!["show", &id], vec!["set", &id, "--name", "x"]] {
        let refused =
            world.root.cli(&[vec!["controller", "network"], words].concat()).expect_err("damaged").to_string();
        assert!(refused.contains("is not overwritten"), "{refused}");
    }
    assert_eq!(std::fs::read(&file).expect("read"), b"{ no record");
}

#[test]
fn what_the_operator_does_wrong_is_said_with_its_own_exit_code() {
    let dir = tempfile::tempdir().expect("tempdir");
    let home = dir.path().display().to_string();
    let nobody = hawser(&["status", "--home", &home]);
    assert_eq!(nobody.status.code(), Some(3));
    assert!(text(&nobody.stderr).contains("hawser up --home"), "{}", text(&nobody.stderr));
    assert_eq!(hawser(&["join", "123", "--home", &home]).status.code(), Some(2));
    std::fs::write(dir.path().join("local.conf"), r#"{"settings": {"primryPort": 1}}"#).expect("write");
    let refused = hawser(&["up", "--home", &home]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("did you mean \"primaryPort\"?"), "{}", text(&refused.stderr));
    std::fs::remove_file(dir.path().join("local.conf")).expect("remove");
    let refused = hawser(&["up", "--home", &home, "--link", "eth0"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("name one with --bond-policy"), "{}", text(&refused.stderr));
    assert_eq!(hawser(&["up", "--home", &home, "--link", "eth0,capcity=1M"]).status.code(), Some(2));
    std::fs::write(dir.path().join("planet"), "not a planet").expect("write");
    let refused = hawser(&["up", "--home", &home, "--port", "0"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("planet: not a planet or moon"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read(dir.path().join("planet")).expect("read"), b"not a planet", "left as it was");
}
