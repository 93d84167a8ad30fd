//! Whatever comes, nothing panics and no bound is passed. As ordinary tests the harnesses run a bounded number of inputs,
//! random ones and recorded ones with damage; `cargo bolero test` runs the same harnesses under a fuzzer.

mod support;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;

use network::constants::{GROUP_MEMBERSHIPS_MAX, GROUPS_MAX, HELD_MAX, MEMBERS_MAX, MULTICAST_QUEUE_BYTES_MAX};
use network::{Action, Config, Networks, Sender};
use serde_json::Value;
use support::lab::{config, network_of, secret};
use support::{Around, bytes, list, load, text};
use wire::message::{ErrorMessage, OkMessage};
use wire::{Identity, MulticastGroup, NetworkId, Now, Reader, Verb};

/// Inputs per harness and kind of input.
const ITERATIONS: usize = 3000;
/// Longest random input, bytes.
const MAX_LEN: usize = 600;
/// Damage done to a recorded input at most.
const MAX_EDITS: usize = 4;

/// Feeds `harness` with random bytes, then with damaged copies of `seeds`. The number is random too.
fn fuzz(seeds: &[Vec<u8>], harness: impl Fn(u64, &[u8])) {
    let harness = AssertUnwindSafe(harness);
    let random = (bolero::produce::<u64>(), bolero::produce::<Vec<u8>>().with().len(0..=MAX_LEN));
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_generator(random)
        .for_each(|(n, bytes): &(u64, Vec<u8>)| harness(*n, bytes));
    assert!(!seeds.is_empty());
    let edits = bolero::produce::<Vec<(u16, u8)>>().with().len(0..=MAX_EDITS);
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_generator((bolero::produce::<u64>(), bolero::produce::<u16>(), bolero::produce::<u16>(), edits))
        .for_each(|(n, which, cut, edits): &(u64, u16, u16, Vec<(u16, u8)>)| {
            let mut bytes = seeds[usize::from(*which) % seeds.len()].clone();
            for &(at, byte) in edits.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            // One in four is cut short.
            if cut & 3 == 0 {
                bytes.truncate(usize::from(cut / 4) % (bytes.len() + 1));
            }
            harness(*n, &bytes);
        });
}

#[test]
fn a_configuration_of_any_bytes_is_refused_or_reads_the_same_once_written() {
    let file = load("network-config");
    let seeds: Vec<_> = list(&file, "cases")
        .iter()
        .filter(|c| c["dictionary"].is_string())
        .map(|c| bytes(c, "dictionary"))
        .filter(|d| d.len() < 8000)
        .collect();
    fuzz(&seeds, |_, bytes| {
        let Ok(config) = Config::parse(bytes) else { return };
        let written = config.to_dictionary();
        let again = Config::parse(&written).expect("what we write is a configuration");
        assert_eq!(again.to_dictionary(), written);
        assert!((1280..=10_000).contains(&config.mtu));
        assert!(config.capabilities.len() <= 128 && config.tags.len() <= 128);
    });
}

/// A member that keeps its state from input to input.
struct Member {
    networks: Networks,
    around: Around,
    network: NetworkId,
    senders: Vec<Identity>,
    ms: u64,
}

impl Member {
    fn new() -> Member {
        let (controller, own) = (secret("ctl"), secret("a"));
        let mut around = Around::new(own.public().clone());
        around.upstreams = vec![secret("root").public().address()];
        let senders: Vec<_> = ["ctl", "b", "c", "d"].iter().map(|name| secret(name).public().clone()).collect();
        senders.iter().for_each(|identity| around.know(identity));
        let network = network_of(&controller);
        let mut networks = Networks::new();
        let kept = config(&controller, own.public(), 1_700_000_000_000).to_dictionary();
        networks.join(Now::at_ms(0), network, Some(&kept), &mut around, &mut Vec::new());
        Member { networks, around, network, senders, ms: 0 }
    }

    fn step(&mut self, n: u64, bytes: &[u8]) {
        self.ms += n % 1500;
        let now = Now::at_ms(1_700_000_000_000 + self.ms);
        let identity = self.senders[n as usize / 7 % self.senders.len()].clone();
        let from = Sender { identity: &identity };
        let verb = Verb::ALL[n as usize / 64 % Verb::ALL.len()];
        let (networks, s, mut out) = (&mut self.networks, &mut self.around, Vec::new());
        match n % 11 {
            0 => {
                networks.handle_ok(now, &from, verb, n, bytes, s, &mut out);
            }
            1 => {
                if let Ok(ok) = OkMessage::parse(bytes) {
                    networks.handle_ok(now, &from, ok.in_re.verb().unwrap_or(verb), 1, ok.body, s, &mut out);
                }
            }
            2 => {
                if let Ok(error) = ErrorMessage::parse(bytes) {
                    networks.handle_error(now, &from, &error, s, &mut out);
                }
            }
            3 => networks.handle_tap_frame(now, self.network, bytes, s, &mut out),
            4 => networks.tick(now, s, &mut out),
            5 => {
                let r = &mut Reader::new(bytes);
                let groups = std::iter::from_fn(|| MulticastGroup::read(r).ok()).collect();
                networks.set_subscriptions(now, self.network, groups, s, &mut out);
            }
            6 => networks.peer_known(now, &identity, s, &mut out),
            _ => {
                networks.handle_message(now, &from, n, verb, bytes, s, &mut out);
            }
        }
        for action in out {
            match action {
                Action::Send { payload, .. } => assert!(payload.len() <= wire::packet::MAX_PAYLOAD),
                Action::Deliver { frame, .. } => assert!(frame.len() >= 14),
                Action::StoreConfig { dictionary, .. } => assert!(Config::parse(&dictionary).is_ok()),
                _ => {}
            }
        }
        let gauges = self.networks.gauges();
        assert!(gauges.held <= HELD_MAX && gauges.members <= MEMBERS_MAX);
        assert!(gauges.groups <= GROUPS_MAX && gauges.group_members <= GROUP_MEMBERSHIPS_MAX);
        assert!(gauges.queued_multicast_bytes <= MULTICAST_QUEUE_BYTES_MAX);
        assert_eq!(self.networks.get(self.network).expect("joined").id(), self.network);
    }
}

#[test]
fn messages_and_frames_of_any_bytes_never_panic_and_pass_no_bound() {
    let file = load("network-frames");
    let mut seeds = Vec::new();
    for sequence in list(&file, "sequences") {
        seeds.extend(list(sequence, "steps").iter().flat_map(|step| recorded(step, sequence)));
    }
    let member = RefCell::new(Member::new());
    fuzz(&seeds, |n, bytes| member.borrow_mut().step(n, bytes));
}

/// What a step feeds in, with the network ID our member is on.
fn recorded(step: &Value, sequence: &Value) -> Option<Vec<u8>> {
    assert_eq!(text(sequence, "network_id"), network_of(&secret("ctl")).to_string());
    match text(step, "op") {
        "receive" => Some(bytes(step, "payload")),
        "tap_frame" => {
            let (to, from) = (support::mac(text(step, "dst_mac")), support::mac(text(step, "src_mac")));
            let ethertype = step["ethertype"].as_u64()? as u16;
            Some(support::ethernet(to, from, ethertype, &bytes(step, "frame")))
        }
        _ => None,
    }
}

#[test]
fn every_verb_takes_every_recorded_payload() {
    let file = load("network-frames");
    let mut member = Member::new();
    for sequence in list(&file, "sequences") {
        for payload in list(sequence, "steps").iter().filter_map(|step| recorded(step, sequence)) {
            for n in 0..Verb::ALL.len() as u64 {
                member.step(n * 64 + 7 + n % 4, &payload);
            }
        }
    }
}
