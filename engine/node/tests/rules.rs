//! What shards are told of a network's rules: that something changed, as soon as it did and never before.

mod common;

use std::sync::Arc;

use common::*;
use network::rules::{Direction, Frame, Verdict};
use network::{Config, Policy, Standing};
use node::{Output, PlanChange};
use wire::credential::{Capability, CredentialKind, Custody, Revocation, Tag};
use wire::message::Credentials;
use wire::rule::{Range16, Rule, RuleKind, RuleTable, TagMatch};
use wire::{Address, Mac, NetworkId, Verb};

const AT_CONTROLLER: &str = "44.3.3.3:9993";
const AT_P: &str = "44.2.2.2:9993";
const PORT: u16 = 22;

fn rule(kind: RuleKind) -> Rule {
    Rule { not: false, or: false, kind }
}

/// A node on a network of everybody's whose rules drop what a sender without tag 1 = 7 sends, what no capability accepts.
struct World {
    b: Bench,
    network: NetworkId,
    controller: Address,
    p: Address,
    /// What the shards know.
    policy: Option<Arc<Policy>>,
    standing: Option<Arc<Standing>>,
    /// Changes of either, as they came: `P`, `-` (no rules), `S`.
    log: String,
}

impl World {
    fn new() -> World {
        let (mut b, _) = Bench::leaf();
        let (controller, p) = (b.actor(3), b.actor(4));
        b.befriend(controller, 5, AT_CONTROLLER);
        b.befriend(p, 5, AT_P);
        let network = NetworkId(controller.to_u64() << 24 | 7);
        let mut world = World { b, network, controller, p, policy: None, standing: None, log: String::new() };
        world.configure(1000, tagged());
        world.b.receive(p, 5, AT_P, Verb::Frame, &frame(network));
        world.told();
        world
    }

    /// Puts a configuration in force, as the controller sends it.
    fn configure(&mut self, timestamp: u64, rules: Vec<Rule>) {
        let bare = format!("v=7\nnwid={}\nid={}\nt=1\n", self.network, self.b.own.address());
        let config = Config {
            timestamp,
            credential_window_ms: 500,
            rules: RuleTable::new(rules),
            ..Config::parse(bare.as_bytes()).unwrap()
        };
        if self.b.node.networks().get(self.network).is_none() {
            self.b.node.join(self.b.now, self.network, Some(&config.to_dictionary()));
            return self.b.drain();
        }
        let mut payload = self.network.0.to_be_bytes().to_vec();
        let dictionary = config.to_dictionary();
        payload.extend_from_slice(&(dictionary.len() as u16).to_be_bytes());
        payload.extend_from_slice(&dictionary);
        self.b.receive(self.controller, 5, AT_CONTROLLER, Verb::NetworkConfig, &payload);
    }

    /// The member shows credentials, not sooner than they are read.
    fn show(&mut self, credentials: Credentials) {
        self.b.advance(1100);
        let mut payload = Vec::new();
        credentials.write(&mut payload);
        self.b.receive(self.p, 5, AT_P, Verb::NetworkCredentials, &payload);
        self.told();
    }

    /// Takes in what the shards were told.
    fn told(&mut self) {
        self.b.drain();
        for output in self.b.others.drain(..) {
            match output {
                Output::Plan(PlanChange::Policy { network, policy }) if network == self.network => {
                    self.log.push(if policy.is_some() { 'P' } else { '-' });
                    self.policy = policy;
                }
                Output::Plan(PlanChange::Standing { network, address, standing })
                    if (network, address) == (self.network, self.p) =>
                {
                    self.log.push('S');
                    self.standing = Some(standing);
                }
                _ => {}
            }
        }
    }

    fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log)
    }

    /// Whether a shard delivers what the member sends.
    fn delivers(&self) -> bool {
        let frame = Frame {
            source: self.p,
            destination: self.b.own.address(),
            mac_source: Mac::of_member(self.network, self.p),
            mac_destination: Mac::of_member(self.network, self.b.own.address()),
            ethertype: 0x0800,
            payload: &ipv4(),
        };
        let (policy, standing) = (self.policy.as_ref().unwrap(), self.standing.as_ref().unwrap());
        policy.filter(Direction::Inbound, standing, &frame, &mut || 0).verdict == Verdict::Accept
    }

    fn tag(&self, timestamp: i64, value: u32) -> Tag {
        let (network, issued_to) = (self.network, self.p);
        let mut tag = Tag { network, timestamp, id: 1, value, issued_to, signer: self.controller, signature: None };
        tag.sign(&self.b.actors[&self.controller].secret);
        tag
    }

    fn capability(&self, timestamp: i64) -> Capability {
        let ports = rule(RuleKind::DestPorts(Range16 { low: PORT, high: PORT }));
        let rules = RuleTable::new(vec![ports, rule(RuleKind::Accept)]);
        let (network, custody) = (self.network, Vec::new());
        let mut capability = Capability { network, timestamp, id: 3, rules, max_custody: 1, custody };
        let secret = &self.b.actors[&self.controller].secret;
        let signature = Some(secret.sign(&capability.signed_bytes()));
        capability.custody.push(Custody { to: self.p, from: self.controller, signature });
        capability
    }
}

/// tag sender 1 = 7: accept
fn tagged() -> Vec<Rule> {
    vec![rule(RuleKind::TagSender(TagMatch { id: 1, value: 7 })), rule(RuleKind::Accept)]
}

/// TCP to [`PORT`].
fn ipv4() -> Vec<u8> {
    let mut packet = vec![0; 40];
    (packet[0], packet[9]) = (0x45, 6);
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet
}

fn frame(network: NetworkId) -> Vec<u8> {
    let mut payload = Vec::new();
    wire::message::Frame { network, ethertype: 0x0800, payload: &ipv4() }.write(&mut payload);
    payload
}

#[test]
fn a_tag_a_capability_and_their_revocation_reach_the_shards_at_once() {
    let mut w = World::new();
    assert_eq!(w.take_log(), "PS");
    assert!(!w.delivers());

    w.show(Credentials { tags: vec![w.tag(900, 7)], ..Credentials::default() });
    assert!(w.delivers() && w.take_log() == "S", "the tag");
    w.show(Credentials { tags: vec![w.tag(900, 7)], ..Credentials::default() });
    assert_eq!(w.take_log(), "", "nothing new");
    w.show(Credentials { tags: vec![w.tag(901, 8)], ..Credentials::default() });
    assert!(!w.delivers() && w.take_log() == "S", "another value");

    w.show(Credentials { capabilities: vec![w.capability(900)], ..Credentials::default() });
    assert!(w.delivers() && w.take_log() == "S", "the capability");
    let mut revocation = Revocation {
        network: w.network,
        id: 1,
        credential_id: 3,
        threshold: 950,
        flags: 0,
        target: w.p,
        signer: w.controller,
        kind: CredentialKind::Capability as u8,
        signature: None,
    };
    revocation.sign(&w.b.actors[&w.controller].secret);
    w.show(Credentials { revocations: vec![revocation], ..Credentials::default() });
    assert!(!w.delivers() && w.take_log() == "S", "revoked");
}

#[test]
fn a_configuration_that_changes_rules_and_standings_takes_the_rules_away_meanwhile() {
    let mut w = World::new();
    w.show(Credentials { tags: vec![w.tag(900, 7)], ..Credentials::default() });
    w.take_log();

    w.configure(1100, tagged());
    w.told();
    assert_eq!((w.take_log().as_str(), w.delivers()), ("", true), "only the time changed");
    w.configure(2000, tagged());
    w.told();
    assert_eq!((w.take_log().as_str(), w.delivers()), ("S", false), "the tag is too old now");
    w.configure(2001, vec![rule(RuleKind::Break)]);
    w.told();
    assert_eq!(w.take_log(), "P", "other rules");
    w.configure(1000, vec![rule(RuleKind::Break)]);
    w.told();
    assert_eq!(w.take_log(), "", "an older one is refused");
    w.show(Credentials { tags: vec![w.tag(2001, 7)], ..Credentials::default() });
    assert_eq!(w.take_log(), "S");
    w.configure(3000, tagged());
    w.told();
    assert_eq!((w.take_log().as_str(), w.delivers()), ("-SP", false), "never old and new ones at once");
    w.configure(3001, vec![rule(RuleKind::Accept)]);
    w.told();
    assert_eq!((w.take_log().as_str(), w.policy.is_none()), ("-", true), "a fast network needs none");
    w.configure(3002, tagged());
    w.told();
    assert_eq!(w.take_log(), "SP", "all anew, before the rules");
}
