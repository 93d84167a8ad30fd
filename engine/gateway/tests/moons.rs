//! Moons at run time against the real core as a moon's root: orbited through their seed, used as upstreams, kept over a
//! restart, left again. Worlds are made and signed by the real core's tool.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::daemon::Daemon;
use lab::measure::{PingPlan, ping};
use lab::netns::{self, Namespace};
use lab::reference::{self, ReferenceNode};
use serde_json::{Value, json};
use support::{HAWSER, SOON, soon};

/// A seed that has no path is greeted every 28 s.
const SEED_TURN: Duration = Duration::from_secs(40);

/// A Hawser root with a controller at .1, members at .2 and .3, and a host for the moon's root at .4.
struct Sky {
    root: Option<Daemon>,
    members: [Daemon; 2],
    spaces: [Namespace; 2],
    moon: Namespace,
    _wan: Namespace,
    dir: tempfile::TempDir,
}

impl Sky {
    fn new() -> Sky {
        netns::check_privilege().expect("these tests make namespaces");
        reference::set_up().expect("the reference node needs python3, pip, gcc and the package registry");
        let space = |tag: &str| Namespace::new(&format!("mo{tag}")).expect("namespace");
        let (wan, spaces, moon) = (space("w"), [space("a"), space("b")], space("m"));
        netns::bridge(&wan, "br0", "10.90.0.1/24").expect("bridge");
        for (host, address) in [(&spaces[0], "10.90.0.2/24"), (&spaces[1], "10.90.0.3/24"), (&moon, "10.90.0.4/24")] {
            netns::plug(&wan, "br0", (host, "wan0", address)).expect("WAN");
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let (planet, secret) = (dir.path().join("planet"), dir.path().join("root/identity.secret"));
        let (planet_text, secret) = (planet.display().to_string(), secret.display().to_string());
        netns::run(HAWSER, &["identity", "new", "--out", &secret]).expect("identity");
        let at = format!("{secret}@10.90.0.1/9993");
        netns::run(HAWSER, &["planet", "make", "--root", &at, "--out", &planet_text]).expect("planet");
        let start = |ns: &Namespace, name: &str| {
            let home = dir.path().join(name);
            std::fs::create_dir_all(&home).expect("home");
            std::fs::copy(&planet, home.join("planet")).expect("planet");
            up(ns, &home)
        };
        let root = Some(start(&wan, "root"));
        let members = [start(&spaces[0], "a"), start(&spaces[1], "b")];
        Sky { root, members, spaces, moon, _wan: wan, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A moon file of the real tool; the same key signs the next one.
    fn make_moon(&self, name: &str) {
        let root = format!("{}@10.90.0.4:9993", self.text("moon.id"));
        reference::tool(&["make-moon", "--root", &root, "--out", &self.text(name), "--key", &self.text("moon.key")])
            .expect("moon");
    }

    /// The real core as the moon's root.
    fn real_moon(&self, world: &str) -> ReferenceNode {
        let (identity, planet, moon) = (self.text("moon.id"), self.text("planet"), self.text(world));
        let args = ["--identity", &identity, "--planet", &planet, "--moon", &moon, "--bind", "10.90.0.4:9993"];
        ReferenceNode::start(&self.moon, &self.path("moon.log"), &args).expect("reference node")
    }

    fn restart(&mut self, i: usize) {
        let home = self.members[i].home().to_owned();
        self.members[i].stop();
        self.members[i] = up(&self.spaces[i], &home);
    }
}

fn up(ns: &Namespace, home: &Path) -> Daemon {
    Daemon::start(Path::new(HAWSER), ns, home, &["--shards", "1"]).expect("daemon")
}

fn moons(of: &Daemon) -> Vec<Value> {
    of.cli(&["moons"]).expect("moons").as_array().cloned().unwrap_or_default()
}

fn role(of: &Daemon, peer: &str) -> Value {
    of.peer(peer).expect("peers").unwrap_or_default()["role"].clone()
}

/// Waits until the first moon that `of` follows satisfies `is`.
fn wait_for_moon(of: &mut Daemon, what: &str, limit: Duration, is: impl Fn(&Value) -> bool) -> Value {
    of.wait_for(what, limit, |d| moons(d).into_iter().find(|m| is(m))).expect("in time")
}

#[test]
fn a_real_moon_is_orbited_through_its_seed_relays_when_the_planet_is_gone_and_is_left_again() {
    let mut sky = Sky::new();
    reference::tool(&["make-identity", "--out", &sky.text("moon.id")]).expect("identity");
    let address = std::fs::read_to_string(sky.path("moon.id")).expect("identity")[..10].to_owned();
    let id = format!("000000{address}");
    sky.make_moon("moon-1");

    // The seed does not run yet: the moon is waited for, even by the next start.
    let waiting = sky.members[0].cli(&["orbit", &id, &address]).expect("orbit");
    assert_eq!((&waiting["id"], &waiting["waiting"], &waiting["timestamp"]), (&json!(id), &json!(true), &json!(0)));
    assert_eq!((&waiting["signature"], &waiting["roots"]), (&Value::Null, &json!([])));
    let files = |d: &Daemon| ["seed", "moon"].map(|kind| d.home().join(format!("moons.d/{id}.{kind}")).exists());
    assert!(soon(|| files(&sky.members[0]) == [true, false]));
    sky.restart(0);
    assert_eq!(moons(&sky.members[0])[0]["waiting"], true);

    let mut real = sky.real_moon("moon-1");
    let [a, b] = &mut sky.members;
    let moon = wait_for_moon(a, "the moon", SEED_TURN, |m| m["waiting"] == false);
    assert_eq!(moon["roots"][0]["stableEndpoints"], json!(["10.90.0.4/9993"]));
    assert!(moon["roots"][0]["identity"].as_str().is_some_and(|i| i.starts_with(&address)));
    assert!(soon(|| files(a) == [false, true]) && role(a, &address) == "MOON");

    // The other member gets the definition by hand, as the reference's operators do it.
    std::fs::create_dir_all(b.home().join("moons.d")).expect("folder");
    std::fs::copy(sky.dir.path().join("moon-1"), b.home().join(format!("moons.d/{id}.moon"))).expect("moon");
    sky.restart(1);
    assert_eq!(moons(&sky.members[1])[0]["waiting"], false);

    // A newer revision by the same key comes with the first HELLO after a start.
    sky.make_moon("moon-2");
    real.command(json!({"cmd": "stop"})).ok();
    drop(real);
    let _real = sky.real_moon("moon-2");
    sky.restart(0);
    let first = moon["timestamp"].as_u64().expect("timestamp");
    let newer = |m: &Value| m["timestamp"].as_u64().is_some_and(|t| t > first);
    wait_for_moon(&mut sky.members[0], "the newer moon", SEED_TURN, newer);

    // Without a direct way between the members and without the planet, the moon relays.
    let root = sky.root.take().expect("the root");
    let config = json!({
        "private": false, "v4AssignMode": {"zt": true},
        "ipAssignmentPools": [{"ipRangeStart": "10.77.0.10", "ipRangeEnd": "10.77.0.20"}],
        "routes": [{"target": "10.77.0.0/24", "via": null}],
    });
    let made = root.cli(&["controller", "network", "create", "--config", &config.to_string()]).expect("network");
    let network = made["id"].as_str().expect("id").to_owned();
    for (space, other) in sky.spaces.iter().zip(["10.90.0.3", "10.90.0.2"]) {
        let shut = "type filter hook input priority 0";
        let rules = format!("table inet shut {{ chain in {{ {shut}; ip saddr {other} drop; }}; }}");
        netns::run("ip", &["netns", "exec", space.name(), "nft", &rules]).expect("nft");
    }
    let addresses = sky.members.each_mut().map(|m| m.join(&network, SOON).expect("joined"));
    let echoes = |space: &Namespace| {
        let plan = PingPlan { count: 3, ..PingPlan::default() };
        space.inside(|| ping(addresses[1].parse().expect("address"), plan)).unwrap_or_default().answered
    };
    assert!(soon(|| echoes(&sky.spaces[0]) == 3), "relayed by any root");
    drop(root);
    let other = sky.members[1].address().expect("address");
    assert!(soon(|| echoes(&sky.spaces[0]) == 3), "relayed by the moon");
    assert_eq!(sky.members[0].direct_paths(&other).expect("paths"), Vec::<String>::new());
    assert_eq!(sky.members[0].status().expect("status")["online"], true);

    let a = &sky.members[0];
    assert_eq!(a.cli(&["deorbit", &address]).expect("deorbit"), json!({"result": true}));
    assert!(moons(a).is_empty() && role(a, &address) != "MOON");
    assert!(soon(|| files(a) == [false, false]));
}
