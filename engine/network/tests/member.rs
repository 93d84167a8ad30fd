//! A member among others: what happens between nodes, from the first frame to revocation, and every bound filled.

mod support;

use network::config::Specialist;
use network::constants::*;
use network::membership::Membership;
use network::{Action, Config, Handled, Networks, Sender, Status};
use support::lab::*;
use support::{Around, delivered, ethernet, sent};
use wire::credential::{Com, Revocation, Tag};
use wire::message::{Credentials, ErrorCode, ErrorMessage, Gather, InRe, Like, OkGather, OkMessage};
use wire::rule::RuleTable;
use wire::{Address, Identity, Mac, MulticastGroup, NetworkId, Now, SecretIdentity, Verb};

const START: u64 = 1_700_000_000_000;

fn at(ms: u64) -> Now {
    Now::at_ms(START + ms)
}

fn stranger(n: u64) -> Identity {
    let mut key = [7; 64];
    key[..8].copy_from_slice(&n.to_be_bytes());
    Identity::from_parts(Address::from_u64(0x10_0000_0000 + n), key)
}

/// One member with a configuration, who knows the controller.
struct Alone {
    controller: SecretIdentity,
    network: NetworkId,
    networks: Networks,
    around: Around,
}

impl Alone {
    fn new(change: impl FnOnce(&mut Config)) -> Alone {
        let (controller, own) = (secret("ctl"), secret("a"));
        let mut around = Around::new(own.public().clone());
        around.know(controller.public());
        around.upstreams = vec![secret("root").public().address()];
        let mut config = config(&controller, own.public(), START);
        change(&mut config);
        let mut networks = Networks::new();
        let network = config.network;
        networks.join(at(0), network, Some(&config.to_dictionary()), &mut around, &mut Vec::new());
        networks.tick(at(0), &mut around, &mut Vec::new());
        Alone { controller, network, networks, around }
    }

    fn message(&mut self, ms: u64, from: &Identity, verb: Verb, payload: &[u8]) -> (Vec<Action>, Handled) {
        let mut out = Vec::new();
        let from = Sender { identity: from };
        let handled = self.networks.handle_message(at(ms), &from, 9, verb, payload, &mut self.around, &mut out);
        (out, handled)
    }

    fn frame(&mut self, ms: u64, from: &Identity, len: usize) -> (Vec<Action>, Handled) {
        let payload = [&self.network.0.to_be_bytes()[..], &[8, 0], &vec![0x45; len]].concat();
        self.message(ms, from, Verb::Frame, &payload)
    }

    fn show(&mut self, ms: u64, from: &Identity, credentials: &Credentials) -> (Vec<Action>, Handled) {
        let mut payload = Vec::new();
        credentials.write(&mut payload);
        self.message(ms, from, Verb::NetworkCredentials, &payload)
    }

    fn com(&self, of: &Identity, timestamp: u64) -> Credentials {
        let mut com = Com::new(self.network, of, timestamp, WINDOW_MS);
        com.sign(&self.controller);
        Credentials { coms: vec![com], ..Credentials::default() }
    }

    fn revocation(&self, of: Address, kind: u8, id: u32, threshold: i64, flags: u64) -> Credentials {
        let mut revocation = Revocation {
            id: 1,
            network: self.network,
            credential_id: id,
            threshold,
            flags,
            target: of,
            signer: Address::ZERO,
            kind,
            signature: None,
        };
        revocation.sign(&self.controller);
        Credentials { revocations: vec![revocation], ..Credentials::default() }
    }

    fn tap(&mut self, ms: u64, frame: &[u8]) -> Vec<Action> {
        let mut out = Vec::new();
        self.networks.handle_tap_frame(at(ms), self.network, frame, &mut self.around, &mut out);
        out
    }

    fn tick(&mut self, ms: u64) -> Vec<Action> {
        let mut out = Vec::new();
        self.networks.tick(at(ms), &mut self.around, &mut out);
        out
    }

    fn own(&self) -> Address {
        self.around.own.address()
    }

    fn member(&self, address: Address) -> Option<&Membership> {
        self.networks.get(self.network).unwrap().member(address)
    }

    fn to(&self, member: Address) -> Vec<u8> {
        ipv4(self.network, self.own(), member, 0)
    }
}

fn verbs(actions: &[Action]) -> Vec<(Address, Verb)> {
    sent(actions).into_iter().map(|s| (s.to, s.verb)).collect()
}

fn verdicts(actions: &[Action]) -> Vec<(Address, bool)> {
    let verdict = |action: &Action| match action {
        Action::Member { address, allowed, .. } => Some((*address, *allowed)),
        _ => None,
    };
    actions.iter().filter_map(verdict).collect()
}

// ---- first contact -------------------------------------------------------------------------------------------------

#[test]
fn the_first_arp_request_and_ping_between_strangers_arrive_without_any_waiting() {
    let (a, b) = (secret("a"), secret("b"));
    let mut lab = Lab::new(&[&a, &b]);
    let (network, a, b) = (lab.network, a.public().address(), b.public().address());
    lab.join(a);
    lab.join(b);

    lab.tap(a, &arp_request(network, a, b));
    lab.settle();
    assert_eq!(lab.node(b).delivered.len(), 1, "the ARP request");
    lab.tap(b, &ipv4(network, b, a, 1));
    lab.tap(a, &ipv4(network, a, b, 2));
    lab.settle();
    assert_eq!(lab.node(a).delivered, [ipv4(network, b, a, 1)]);
    assert_eq!(lab.node(b).delivered[1], ipv4(network, a, b, 2));
    assert_eq!((lab.node(a).verdicts[&b], lab.node(b).verdicts[&a]), (true, true));
}

#[test]
fn a_frame_that_overtakes_its_credentials_is_held_and_delivered_the_moment_they_arrive() {
    let (a, b) = (secret("a"), secret("b"));
    let mut lab = Lab::new(&[&a, &b]);
    let (network, a, b) = (lab.network, a.public().address(), b.public().address());
    lab.join(a);
    lab.join(b);
    lab.tap(a, &ipv4(network, a, b, 1));
    let verbs: Vec<_> = lab.wire.iter().map(|p| p.verb).collect();
    assert_eq!(verbs, [Verb::NetworkCredentials, Verb::Frame], "credentials go first");
    lab.wire.swap(0, 1);

    let frame = lab.wire.pop_front().unwrap();
    lab.deliver(frame);
    assert_eq!(lab.node(b).networks.gauges().held, 1);
    assert_eq!(lab.node(b).last, Handled { trust: false, heard: false });
    let credentials = lab.wire.pop_front().unwrap();
    lab.deliver(credentials);
    assert_eq!(lab.node(b).delivered, [ipv4(network, a, b, 1)]);
    assert_eq!(lab.node(b).networks.gauges().held, 0);
}

#[test]
fn a_frame_whose_credentials_were_lost_is_asked_about_and_delivered() {
    let (a, b) = (secret("a"), secret("b"));
    let mut lab = Lab::new(&[&a, &b]);
    let (network, a, b) = (lab.network, a.public().address(), b.public().address());
    lab.join(a);
    lab.join(b);
    lab.tap(a, &ipv4(network, a, b, 1));
    lab.wire.retain(|p| p.verb != Verb::NetworkCredentials);
    lab.settle();
    assert!(lab.node(b).delivered.is_empty(), "asked within a second of the push: not shown again");
    lab.advance(1001);
    lab.tap(a, &ipv4(network, a, b, 2));
    lab.settle();
    assert_eq!(lab.node(b).delivered, [ipv4(network, a, b, 1), ipv4(network, a, b, 2)]);
}

#[test]
fn an_arp_request_is_queued_until_its_target_announces_itself() {
    let (a, b) = (secret("a"), secret("b"));
    let mut lab = Lab::new(&[&a, &b]);
    let (network, a, b) = (lab.network, a.public().address(), b.public().address());
    lab.join(a);
    lab.tap(a, &arp_request(network, a, b));
    lab.settle();
    lab.advance(3000);
    lab.join(b);
    assert!(lab.node(b).delivered.is_empty());
    // The root answers the next request's gather; the queued frame goes out with it.
    lab.tap(a, &arp_request(network, a, b));
    lab.settle();
    assert_eq!(lab.node(b).delivered.len(), 2);
}

#[test]
fn a_de_authorised_member_stops_getting_frames_through_when_its_revocation_arrives() {
    let (a, b, c) = (secret("a"), secret("b"), secret("c"));
    let mut lab = Lab::new(&[&a, &b, &c]);
    let network = lab.network;
    let [a, b, c] = [a, b, c].map(|s| s.public().address());
    for member in [a, b, c] {
        lab.join(member);
    }
    for (from, to) in [(a, b), (b, a), (c, a), (c, b), (a, c), (b, c)] {
        lab.tap(from, &ipv4(network, from, to, 0));
        lab.settle();
    }
    assert_eq!(lab.node(a).delivered.len(), 2);
    lab.advance(2000);
    let revocation = {
        let mut r = Revocation {
            id: 1,
            network,
            credential_id: 0,
            threshold: lab.now.unix_ms as i64,
            flags: Revocation::FAST_PROPAGATE,
            target: b,
            signer: Address::ZERO,
            kind: 1,
            signature: None,
        };
        r.sign(&lab.controller);
        r
    };
    let mut payload = Vec::new();
    Credentials { revocations: vec![revocation], ..Credentials::default() }.write(&mut payload);
    let from = lab.controller.public().address();
    lab.deliver(Packet { from, to: a, id: 1, verb: Verb::NetworkCredentials, payload });
    lab.settle();
    assert_eq!((lab.node(a).verdicts[&b], lab.node(c).verdicts[&b]), (false, false), "passed on to c");
    lab.tap(b, &ipv4(network, b, a, 9));
    lab.settle();
    assert_eq!(lab.node(a).delivered.len(), 2, "nothing more from b");
}

// ---- the gate ------------------------------------------------------------------------------------------------------

#[test]
fn the_verdict_follows_every_certificate_and_configuration() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let address = b.address();
    m.around.know(&b);
    let own = m.around.own.clone();
    let configure = |m: &mut Alone, ms: u64| {
        let update = chunk(&m.controller, &config(&m.controller, &own, START + ms), ms);
        let controller = m.controller.public().clone();
        m.message(ms, &controller, Verb::NetworkConfig, &update).0
    };
    let early = m.com(&b, START);
    assert_eq!(verdicts(&m.show(0, &b, &early).0), [(address, true)]);
    assert_eq!(verdicts(&m.show(1000, &b, &early).0), []);
    assert_eq!(verdicts(&configure(&mut m, WINDOW_MS)), [], "exactly the window still agrees");
    assert_eq!(verdicts(&configure(&mut m, WINDOW_MS + 1)), [(address, false)]);
    assert!(!m.member(address).unwrap().allowed());
    let fresh = m.com(&b, START + WINDOW_MS);
    assert_eq!(verdicts(&m.show(WINDOW_MS + 2000, &b, &fresh).0), [(address, true)]);
    let revocation = m.revocation(address, 1, 0, (START + WINDOW_MS) as i64, 0);
    let controller = m.controller.public().clone();
    assert_eq!(verdicts(&m.show(WINDOW_MS + 2000, &controller, &revocation).0), [(address, false)]);
}

#[test]
fn an_old_configuration_of_ours_refuses_newer_members_until_ours_arrives_and_their_frames_wait() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let late = START + WINDOW_MS + 10;
    let shown = m.com(&b, late);
    m.show(0, &b, &shown);
    assert!(delivered(&m.frame(0, &b, 40).0).is_empty());
    let update = chunk(&m.controller, &config(&m.controller, &m.around.own, late), 1);
    let controller = m.controller.public().clone();
    let (actions, _) = m.message(10, &controller, Verb::NetworkConfig, &update);
    assert_eq!(delivered(&actions).len(), 1);
}

#[test]
fn a_certificate_does_not_serve_another_identity_with_the_same_address() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let thief = Identity::from_parts(b.address(), [9; 64]);
    let shown = m.com(&b, START);
    assert_eq!(verdicts(&m.show(0, &thief, &shown).0), [], "filed, but not believed of the thief");
    let (actions, handled) = m.frame(0, &thief, 40);
    assert!(!handled.trust && delivered(&actions).is_empty());
    let (actions, handled) = m.frame(0, &b, 40);
    assert!(handled.trust);
    assert_eq!(verdicts(&actions), [(b.address(), true)]);
    let (actions, _) = m.frame(1, &thief, 40);
    assert_eq!(verdicts(&actions), [(b.address(), false)]);
}

#[test]
fn credentials_wait_for_the_identity_of_the_controller() {
    let mut m = Alone::new(|_| {});
    let controller = m.around.known.remove(&m.controller.public().address()).unwrap();
    let b = secret("b").public().clone();
    let shown = m.com(&b, START);
    let (actions, handled) = m.show(0, &b, &shown);
    assert_eq!(actions, [Action::Whois(controller.address())]);
    assert!(!handled.trust);
    m.frame(0, &b, 40);
    assert_eq!(m.networks.gauges().held, 2);
    m.around.know(&controller);
    let mut out = Vec::new();
    m.networks.peer_known(at(100), &controller, &mut m.around, &mut out);
    assert_eq!(verdicts(&out), [(b.address(), true)]);
    assert_eq!(delivered(&out).len(), 1);
    assert_eq!(m.networks.gauges().held, 0);
}

#[test]
fn an_identity_learned_later_settles_the_verdict_on_credentials_that_came_before() {
    let mut m = Alone::new(|_| {});
    let (b, c) = (secret("b").public().clone(), secret("c").public().clone());
    let shown = m.com(&b, START);
    assert_eq!(verdicts(&m.show(0, &c, &shown).0), [], "shown by a third party, b himself is unknown");
    m.around.know(&b);
    let mut out = Vec::new();
    m.networks.peer_known(at(1), &b, &mut m.around, &mut out);
    assert_eq!(verdicts(&out), [(b.address(), true)]);
}

#[test]
fn a_peer_is_asked_for_credentials_at_most_once_a_second() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let asked: Vec<_> = (0..2500).step_by(100).map(|ms| verbs(&m.frame(ms, &b, 40).0).len()).collect();
    assert_eq!(asked.iter().sum::<usize>(), 3);
    assert_eq!(m.networks.counters().errors_suppressed, 22);
}

#[test]
fn frames_wait_five_seconds_and_no_longer() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let shown = m.com(&b, START);
    m.frame(0, &b, 40);
    m.frame(1, &b, 40);
    assert_eq!(delivered(&m.show(5001, &b, &shown).0).len(), 1);
    m.frame(6000, &secret("c").public().clone(), 40);
    m.tick(11_001);
    assert_eq!((m.networks.gauges().held, m.networks.counters().held_expired), (0, 2));
}

#[test]
fn a_public_network_admits_everybody_and_says_so_to_the_shards() {
    let mut m = Alone::new(|c| {
        c.public = true;
        c.com = None;
    });
    let b = secret("b").public().clone();
    let (actions, handled) = m.frame(0, &b, 40);
    assert_eq!(verdicts(&actions), [(b.address(), true)]);
    assert!(handled.trust);
    assert_eq!(verdicts(&m.frame(1, &b, 40).0), []);
    m.tick(MEMBER_IDLE_MS + HOUSEKEEPING_MS);
    assert!(m.member(b.address()).is_none(), "idle members are forgotten");
}

#[test]
fn forgotten_members_are_those_unheard_whose_certificate_no_longer_agrees_and_no_revocation_is_lost() {
    let mut m = Alone::new(|_| {});
    let (b, c, d) = (secret("b").public().clone(), secret("c").public().clone(), secret("d").public().clone());
    for peer in [&b, &c, &d] {
        m.around.know(peer);
    }
    let (of_b, of_c) = (m.com(&b, START), m.com(&c, START));
    m.show(0, &b, &of_b);
    m.show(0, &c, &of_c);
    let revoked = m.revocation(d.address(), 1, 0, START as i64 + 5, 0);
    m.show(0, &d, &revoked);
    m.tick(MEMBER_IDLE_MS + 1);
    let on_record = |m: &Alone| [&b, &c, &d].map(|p| m.member(p.address()).is_some());
    assert_eq!(on_record(&m), [true, true, true], "certificates agree, the revocation counts");
    let late = WINDOW_MS + 5;
    let own = m.around.own.clone();
    let update = chunk(&m.controller, &config(&m.controller, &own, START + late), 1);
    let controller = m.controller.public().clone();
    m.message(late, &controller, Verb::NetworkConfig, &update);
    let of_c = m.com(&c, START + late);
    m.show(late, &c, &of_c);
    m.tick(late + HOUSEKEEPING_MS);
    assert_eq!(on_record(&m), [false, true, true], "b's is too old, and d's revocation may still bar one");
    let update = chunk(&m.controller, &config(&m.controller, &own, START + late + 1), 2);
    m.message(late + HOUSEKEEPING_MS, &controller, Verb::NetworkConfig, &update);
    m.tick(late + 2 * HOUSEKEEPING_MS);
    assert_eq!(on_record(&m), [false, true, false]);
}

// ---- configuration -------------------------------------------------------------------------------------------------

#[test]
fn requests_go_out_at_once_then_every_5_s_until_answered_and_every_60_s_after() {
    let (controller, own) = (secret("ctl"), secret("a"));
    let mut around = Around::new(own.public().clone());
    around.know(controller.public());
    let (mut networks, network) = (Networks::new(), network_of(&controller));
    let mut out = Vec::new();
    networks.join(at(0), network, None, &mut around, &mut out);
    assert_eq!(verbs(&out), [(controller.public().address(), Verb::NetworkConfigRequest)]);
    assert!(out.iter().any(|a| matches!(a, Action::Send { expect_reply: true, .. })));
    let mut asked = Vec::new();
    for ms in (0..=130_000).step_by(1000) {
        if networks.poll_timeout() > START + ms {
            continue;
        }
        let mut out = Vec::new();
        networks.tick(at(ms), &mut around, &mut out);
        if verbs(&out).iter().any(|(_, v)| *v == Verb::NetworkConfigRequest) {
            asked.push(ms);
        }
        if ms == 10_000 {
            let update = chunk(&controller, &config(&controller, own.public(), START + ms), 1);
            let from = Sender { identity: controller.public() };
            let verb = Verb::NetworkConfigRequest;
            networks.handle_ok(at(ms), &from, verb, 1, &update, &mut around, &mut out);
        }
    }
    let unanswered_refresh = (70_000..=130_000).step_by(5000);
    assert_eq!(asked, [5000, 10_000].into_iter().chain(unanswered_refresh).collect::<Vec<_>>());
}

#[test]
fn the_kept_configuration_is_in_force_at_once_and_a_strange_one_never() {
    let (controller, own, other) = (secret("ctl"), secret("a"), secret("b"));
    let network = network_of(&controller);
    let good = config(&controller, own.public(), START).to_dictionary();
    let others = config(&controller, other.public(), START).to_dictionary();
    for (cached, status) in [
        (good.as_slice(), Status::Ok),
        (others.as_slice(), Status::RequestingConfiguration),
        (b"\n".as_slice(), Status::RequestingConfiguration),
    ] {
        let mut around = Around::new(own.public().clone());
        let (mut networks, mut out) = (Networks::new(), Vec::new());
        networks.join(at(0), network, Some(cached), &mut around, &mut out);
        assert_eq!(networks.get(network).unwrap().status(), status);
        assert_eq!(verbs(&out).len(), 1, "asked for all the same");
        assert!(out.contains(&Action::Changed(network)));
    }
}

#[test]
fn leaving_forgets_everything_and_sends_nothing() {
    let mut m = Alone::new(|_| {});
    m.frame(0, secret("b").public(), 40);
    m.tap(0, &arp_request(m.network, m.own(), Address::from_u64(9)));
    let mut out = Vec::new();
    m.networks.leave(m.network, &mut out);
    assert_eq!(out, [Action::ForgetConfig(m.network), Action::Changed(m.network)]);
    assert_eq!(m.networks.gauges(), Default::default());
    assert!(m.tap(1, &arp_request(m.network, m.own(), Address::from_u64(9))).is_empty());
}

#[test]
fn a_port_error_outranks_every_other_status() {
    let mut m = Alone::new(|_| {});
    let mut out = Vec::new();
    m.networks.set_port_error(at(0), m.network, true, &mut m.around, &mut out);
    m.networks.set_port_error(at(0), m.network, true, &mut m.around, &mut out);
    assert_eq!(out, [Action::Changed(m.network)]);
    assert_eq!(m.networks.get(m.network).unwrap().status(), Status::PortError);
    assert_eq!(Status::PortError.name(), "PORT_ERROR");
}

#[test]
fn ad_hoc_networks_configure_themselves_every_minute_and_ask_nobody() {
    let own = secret("a");
    let mut around = Around::new(own.public().clone());
    let mut networks = Networks::new();
    let join = |networks: &mut Networks, around: &mut Around, id: u64| {
        let mut out = Vec::new();
        networks.join(at(0), NetworkId(id), None, around, &mut out);
        assert!(sent(&out).is_empty());
        assert!(!out.iter().any(|a| matches!(a, Action::StoreConfig { .. })));
        networks.get(NetworkId(id)).unwrap().status()
    };
    let ports = 0xff00_1600_5000_0000;
    assert_eq!(join(&mut networks, &mut around, ports), Status::Ok);
    assert_eq!(join(&mut networks, &mut around, 0xff00_5000_1600_0000), Status::NotFound);
    assert_eq!(join(&mut networks, &mut around, 0xff0a_0000_0000_0001), Status::Ok);
    assert_eq!(join(&mut networks, &mut around, 0xff0a_0000_0000_0002), Status::RequestingConfiguration);
    networks.tick(at(60_000), &mut around, &mut Vec::new());
    let held = networks.get(NetworkId(ports)).unwrap().config().unwrap();
    assert_eq!(held.timestamp, START + 60_000);
}

#[test]
fn a_network_is_fast_exactly_if_its_rules_let_all_ip_pass() {
    let fast = |rules: &str| {
        let table = RuleTable::parse(&hex::decode(rules).unwrap(), 1024).unwrap();
        let m = Alone::new(|c| c.rules = table);
        m.networks.get(m.network).unwrap().fast()
    };
    assert!(fast("0100"));
    assert!(fast(DEFAULT_RULES));
    assert!(!fast(""));
    assert!(!fast("0000"));
    assert!(!fast("2502080000000100"), "drops IPv4");
    assert!(!fast("240111020e000000fcac9e2c1f0000000000000100"), "may send copies");
}

// ---- credentials of ours -------------------------------------------------------------------------------------------

#[test]
fn credentials_that_do_not_fit_one_packet_follow_at_the_receivers_pace() {
    let (controller, own) = (secret("ctl"), secret("a"));
    let tags: Vec<_> = (0..TAGS_MAX as u32).map(|id| tag(&controller, own.public().address(), id)).collect();
    let mut m = Alone::new(|c| c.tags = tags);
    let b = secret("b").public().address();
    let first = m.tap(0, &m.to(b));
    assert_eq!(verbs(&first), [(b, Verb::NetworkCredentials), (b, Verb::Frame)]);
    assert_eq!(m.networks.poll_timeout(), START + CREDENTIALS_SPACING_MS);
    assert!(verbs(&m.tick(1000)).is_empty());
    let second = m.tick(CREDENTIALS_SPACING_MS);
    assert_eq!(verbs(&second), [(b, Verb::NetworkCredentials)]);
    let shown: usize = [first, second]
        .iter()
        .flat_map(|a| sent(a))
        .filter(|s| s.verb == Verb::NetworkCredentials)
        .map(|s| Credentials::parse(&s.payload).unwrap().tags.len())
        .sum();
    assert_eq!(shown, TAGS_MAX);
    assert!(verbs(&m.tick(4000)).is_empty());
}

fn tag(controller: &SecretIdentity, of: Address, id: u32) -> Tag {
    let mut tag = Tag {
        network: network_of(controller),
        timestamp: START as i64,
        id,
        value: id,
        issued_to: of,
        signer: Address::ZERO,
        signature: None,
    };
    tag.sign(controller);
    tag
}

#[test]
fn activity_that_bypasses_this_room_keeps_credentials_and_announcements_up() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let shown = m.com(&b, START);
    m.show(0, &b, &shown);
    let active = |m: &mut Alone, ms: u64| {
        let mut out = Vec::new();
        m.networks.handle_activity(at(ms), m.network, &b, &mut m.around, &mut out);
        verbs(&out)
    };
    let (credentials, like) = ((b.address(), Verb::NetworkCredentials), (b.address(), Verb::MulticastLike));
    assert_eq!(active(&mut m, 0), [credentials, like]);
    assert_eq!(active(&mut m, 1), []);
    assert_eq!(active(&mut m, LIKE_PERIOD_MS), [like]);
    let own = m.around.own.clone();
    let update = chunk(&m.controller, &config(&m.controller, &own, START + LIKE_PERIOD_MS), 1);
    let controller = m.controller.public().clone();
    m.message(LIKE_PERIOD_MS, &controller, Verb::NetworkConfig, &update);
    assert_eq!(active(&mut m, LIKE_PERIOD_MS + 1), [credentials]);
}

// ---- multicast -----------------------------------------------------------------------------------------------------

fn like(network: NetworkId, group: MulticastGroup) -> Vec<u8> {
    let mut payload = Vec::new();
    Like { network, group }.write(&mut payload);
    payload
}

const GROUP: MulticastGroup = MulticastGroup { mac: Mac::BROADCAST, adi: 7 };

#[test]
fn a_root_keeps_groups_of_networks_it_is_no_member_of_and_others_do_not() {
    let network = NetworkId(0x1122_3344_5566_7788);
    let (b, c) = (stranger(1), stranger(2));
    let gather = {
        let mut payload = Vec::new();
        Gather { network, group: GROUP, limit: 10, com: None }.write(&mut payload);
        payload
    };
    for (upstream, controller_of_b, answered) in [(true, false, true), (false, false, false), (false, true, false)] {
        let mut around = Around::new(stranger(0));
        around.is_upstream = upstream;
        if controller_of_b {
            around.authorised.insert((network, b.address()));
        }
        let (mut networks, mut out) = (Networks::new(), Vec::new());
        let from_b = Sender { identity: &b };
        let from_c = Sender { identity: &c };
        let payload = like(network, GROUP);
        networks.handle_message(at(0), &from_b, 1, Verb::MulticastLike, &payload, &mut around, &mut out);
        assert_eq!(networks.gauges().group_members, usize::from(upstream || controller_of_b));
        networks.handle_message(at(0), &from_c, 2, Verb::MulticastGather, &gather, &mut around, &mut out);
        assert_eq!(!sent(&out).is_empty(), answered);
        if answered {
            let ok = OkMessage::parse(&sent(&out)[0].payload).unwrap().body.to_vec();
            assert_eq!(OkGather::parse(&ok).unwrap().gathered.members, [b.address()]);
        }
    }
}

#[test]
fn likes_are_judged_network_by_network() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let shown = m.com(&b, START);
    m.show(0, &b, &shown);
    let payload = [like(NetworkId(1), GROUP), like(m.network, GROUP), like(NetworkId(2), GROUP)].concat();
    m.message(0, &b, Verb::MulticastLike, &payload);
    assert_eq!(m.networks.gauges().group_members, 1);
    assert_eq!(m.networks.counters().multicast_unauthorised, 2);
}

#[test]
fn the_nearest_live_replicator_gets_one_copy_and_fans_out() {
    let (b, c) = (secret("b").public().address(), secret("c").public().address());
    let mut m = Alone::new(|config| {
        config.specialists = [b, c].map(|a| Specialist(a.to_u64() | Specialist::REPLICATOR)).to_vec();
    });
    let frame = ethernet(Mac::BROADCAST, Mac::of_member(m.network, m.own()), 0x0800, &[0x45; 40]);
    m.around.latencies.extend([(b, 20), (c, 10)]);
    assert_eq!(verbs(&m.tap(0, &frame)), [(c, Verb::MulticastFrame)]);
    assert_eq!(sent(&m.tap(0, &frame))[0].payload[8], 0x0c, "source MAC given, please replicate");
    m.around.latencies.clear();
    let gathers = verbs(&m.tap(0, &frame));
    assert!(gathers.iter().all(|(_, verb)| *verb == Verb::MulticastGather), "none alive: as usual");
    assert_eq!(gathers.len(), 4, "root, controller, both replicators");
}

#[test]
fn an_arp_storm_for_an_absent_host_costs_one_gather_a_second() {
    let mut m = Alone::new(|_| {});
    let arp = arp_request(m.network, m.own(), Address::from_u64(9));
    let mut gathers = 0;
    for ms in (0..10_000).step_by(10) {
        gathers += verbs(&m.tap(ms, &arp)).len();
    }
    assert_eq!(gathers, 10 * 2, "root and controller");
    assert_eq!(m.networks.counters().gathers_suppressed, 990);
}

#[test]
fn announcements_go_out_as_soon_as_the_first_configuration_is_there() {
    let (a, b) = (secret("a"), secret("b"));
    let mut lab = Lab::new(&[&a, &b]);
    lab.join(a.public().address());
    let likes = lab.log.iter().filter(|p| p.verb == Verb::MulticastLike).count();
    assert!(likes > 0);
    lab.node(a.public().address()).networks.upstream_online();
    lab.settle();
    assert!(
        lab.log.iter().filter(|p| p.verb == Verb::MulticastLike).count() > likes,
        "and when roots come within reach"
    );
}

// ---- bounds --------------------------------------------------------------------------------------------------------

#[test]
fn one_peer_can_have_a_bounded_number_of_messages_held() {
    let mut m = Alone::new(|_| {});
    for _ in 0..HELD_PER_PEER_MAX + 5 {
        m.frame(0, secret("b").public(), 40);
    }
    assert_eq!((m.networks.gauges().held, m.networks.counters().held_dropped), (HELD_PER_PEER_MAX, 5));
}

#[test]
fn a_bounded_number_of_messages_is_held_in_all() {
    let mut m = Alone::new(|_| {});
    for n in 0..HELD_MAX as u64 + 5 {
        m.frame(0, &stranger(n), 40);
    }
    assert_eq!((m.networks.gauges().held, m.networks.counters().held_dropped), (HELD_MAX, 5));
}

#[test]
fn a_bounded_number_of_bytes_is_held_in_all() {
    let mut m = Alone::new(|_| {});
    let len = 9000;
    let fit = HELD_BYTES_MAX / (len + 10);
    for n in 0..fit as u64 + 5 {
        m.frame(0, &stranger(n), len);
    }
    assert_eq!((m.networks.gauges().held, m.networks.counters().held_dropped), (fit, 5));
}

#[test]
fn the_table_of_members_is_bounded_and_prefers_those_with_credentials() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let shown = m.com(&b, START);
    m.show(0, &b, &shown);
    for n in 0..MEMBERS_MAX as u64 + 5 {
        m.tap(1, &m.to(Address::from_u64(0x10_0000_0000 + n)));
    }
    assert_eq!(m.networks.gauges().members, MEMBERS_MAX);
    assert_eq!(m.networks.counters().members_full, 6);
    assert!(m.member(b.address()).is_some());
    m.tick(MEMBER_IDLE_MS + HOUSEKEEPING_MS);
    assert_eq!(m.networks.gauges().members, 1, "the others were only written to");
}

#[test]
fn packets_of_credentials_in_line_are_bounded() {
    let (controller, own) = (secret("ctl"), secret("a"));
    let tags: Vec<_> = (0..TAGS_MAX as u32).map(|id| tag(&controller, own.public().address(), id)).collect();
    let mut m = Alone::new(|c| c.tags = tags);
    for n in 0..SPACED_PUSHES_MAX as u64 + 5 {
        m.tap(0, &m.to(Address::from_u64(0x10_0000_0000 + n)));
    }
    assert_eq!(m.networks.counters().spaced_pushes_full, 5);
    assert_eq!(verbs(&m.tick(CREDENTIALS_SPACING_MS)).len(), SPACED_PUSHES_MAX);
}

#[test]
fn credentials_and_revocations_of_one_member_are_bounded() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let mut ms = 0;
    let shown: Vec<_> = (0..TAGS_MAX as u32 + 5).map(|id| tag(&m.controller, b.address(), id)).collect();
    for some in shown.chunks(50) {
        ms += 1000;
        m.show(ms, &b, &Credentials { tags: some.to_vec(), ..Credentials::default() });
    }
    let config = m.networks.get(m.network).unwrap().config().unwrap().clone();
    assert_eq!(m.member(b.address()).unwrap().usable(&config).tags().count(), TAGS_MAX);
    assert_eq!(m.networks.counters().credentials_rejected, 5);

    let revocations: Vec<_> = (0..THRESHOLDS_MAX as u32 + 5)
        .flat_map(|id| m.revocation(b.address(), 3, id, START as i64, 0).revocations)
        .collect();
    for some in revocations.chunks(50) {
        ms += 1000;
        m.show(ms, &b, &Credentials { revocations: some.to_vec(), ..Credentials::default() });
    }
    assert_eq!(m.networks.counters().credentials_rejected, 10);
    assert_eq!(m.member(b.address()).unwrap().usable(&config).tags().count(), 0, "all are revoked");
}

#[test]
fn a_fast_revocation_is_passed_on_to_a_bounded_number_of_members() {
    let mut m = Alone::new(|_| {});
    for n in 0..FLOOD_RECIPIENTS_MAX as u64 + 5 {
        m.tap(0, &m.to(Address::from_u64(0x10_0000_0000 + n)));
    }
    let revocation = m.revocation(Address::from_u64(0x10_0000_0000), 1, 0, START as i64, Revocation::FAST_PROPAGATE);
    let controller = m.controller.public().clone();
    let (actions, _) = m.show(0, &controller, &revocation);
    assert_eq!(verbs(&actions).len(), FLOOD_RECIPIENTS_MAX);
    assert_eq!(m.networks.counters().floods_cut, 5);
    assert!(verbs(&m.show(1000, &controller, &revocation).0).is_empty(), "once");
}

#[test]
fn subscriptions_of_a_tap_are_bounded() {
    let mut m = Alone::new(|_| {});
    let groups: Vec<_> =
        (0..SUBSCRIPTIONS_MAX as u32 + 5).map(|adi| MulticastGroup { mac: Mac::BROADCAST, adi }).collect();
    let mut out = Vec::new();
    m.networks.set_subscriptions(at(0), m.network, groups, &mut m.around, &mut out);
    assert_eq!(m.networks.get(m.network).unwrap().subscriptions().count(), SUBSCRIPTIONS_MAX);
    assert_eq!(m.networks.counters().subscriptions_cut, 5);
    let likes: Vec<_> = sent(&out).iter().map(|s| s.payload.len() / Like::LEN).collect();
    assert_eq!(likes, [LIKES_PER_PACKET, SUBSCRIPTIONS_MAX - LIKES_PER_PACKET].repeat(2), "to root and controller");
}

#[test]
fn what_does_not_fit_a_packet_or_the_mtu_is_dropped_and_counted() {
    let mut m = Alone::new(|c| c.mtu = 10_000);
    let b = secret("b").public().clone();
    let long =
        ethernet(Mac::of_member(m.network, b.address()), Mac::of_member(m.network, m.own()), 0x0800, &[0x45; 9987]);
    assert_eq!(verbs(&m.tap(0, &long)), [(b.address(), Verb::NetworkCredentials)]);
    assert_eq!(verbs(&m.tap(0, &long[..long.len() - 1])), [(b.address(), Verb::Frame)]);
    let mut m = Alone::new(|c| c.mtu = 1280);
    let shown = m.com(&b, START);
    m.show(0, &b, &shown);
    assert_eq!(delivered(&m.frame(0, &b, 1280).0).len(), 1);
    assert_eq!(delivered(&m.frame(0, &b, 1281).0).len(), 0);
    assert_eq!(m.networks.counters().too_long, 1);
}

#[test]
fn one_sender_cannot_make_us_check_signatures_without_end() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    let good = chunk(&m.controller, &config(&m.controller, &m.around.own, START + 1), 1);
    for n in 1..=SIGNATURES_PER_SENDER_MAX as u16 + 5 {
        let mut forged = good.clone();
        let end = forged.len();
        forged[end - 2] ^= (n >> 8) as u8;
        forged[end - 1] ^= n as u8;
        m.message(0, &b, Verb::NetworkConfig, &forged);
    }
    assert_eq!(m.networks.counters().signatures_over_budget, 5);
    let controller = m.controller.public().clone();
    m.message(0, &controller, Verb::NetworkConfig, &good);
    assert_eq!(m.networks.get(m.network).unwrap().config().unwrap().timestamp, START + 1, "others are not affected");
}

#[test]
fn a_bridge_fans_an_unknown_mac_out_to_32_others() {
    let mut m = Alone::new(|c| {
        c.specialists = (0..60).map(|n| Specialist(Specialist::ACTIVE_BRIDGE | 0x10_0000_0000 | n)).collect();
    });
    let foreign = Mac([0, 0x11, 0x22, 0x33, 0x44, 0x55]);
    let frame = ethernet(foreign, Mac::of_member(m.network, m.own()), 0x0800, &[0x45; 40]);
    let mut recipients = verbs(&m.tap(0, &frame));
    recipients.sort();
    recipients.dedup();
    assert_eq!(recipients.len(), BRIDGE_FAN_OUT);
}

#[test]
fn bridge_routes_to_members_own_macs_are_not_learned() {
    let b = secret("b").public().clone();
    let mut m = Alone::new(|c| c.specialists = vec![Specialist(Specialist::ACTIVE_BRIDGE | b.address().to_u64())]);
    let shown = m.com(&b, START);
    m.show(0, &b, &shown);
    let ext = |from: Mac| {
        let own = Mac::of_member(m.network, m.own());
        [&m.network.0.to_be_bytes()[..], &[0], &own.0, &from.0, &[8, 0], &[0x45; 40]].concat()
    };
    let (foreign, computed) = (ext(Mac([0, 1, 2, 3, 4, 5])), ext(Mac::of_member(m.network, Address::from_u64(77))));
    m.message(0, &b, Verb::ExtFrame, &computed);
    assert_eq!(m.networks.gauges().bridge_routes, 0);
    m.message(0, &b, Verb::ExtFrame, &foreign);
    assert_eq!(m.networks.gauges().bridge_routes, 1);
}

#[test]
fn errors_that_are_not_the_controllers_change_nothing() {
    let mut m = Alone::new(|_| {});
    let b = secret("b").public().clone();
    for code in [
        ErrorCode::NetworkAccessDenied(m.network),
        ErrorCode::ObjectNotFound(m.network),
        ErrorCode::NetworkAuthenticationRequired(m.network, b"aU=http://evil"),
        ErrorCode::UnwantedMulticast(m.network, GROUP),
        ErrorCode::IdentityCollision,
    ] {
        let error = ErrorMessage { in_re: InRe::new(Verb::NetworkConfigRequest, 1), code };
        let mut out = Vec::new();
        let from = Sender { identity: &b };
        m.networks.handle_error(at(0), &from, &error, &mut m.around, &mut out);
        assert_eq!(out, []);
    }
    let error = ErrorMessage {
        in_re: InRe::new(Verb::NetworkConfigRequest, 1),
        code: ErrorCode::NetworkAuthenticationRequired(m.network, b"aV=0\naU=https://login.example"),
    };
    let controller = m.controller.public().clone();
    let from = Sender { identity: &controller };
    m.networks.handle_error(at(0), &from, &error, &mut m.around, &mut Vec::new());
    let network = m.networks.get(m.network).unwrap();
    assert_eq!(network.status(), Status::AuthenticationRequired);
    assert_eq!(network.authentication().unwrap().url, "https://login.example");
    assert!(network.config().is_some(), "a failure does not take the configuration away");
}
