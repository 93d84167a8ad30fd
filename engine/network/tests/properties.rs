//! The gate and the configuration against models simple enough to be seen to be right.

mod support;

use std::net::IpAddr;

use network::config::{Dns, Oidc, Route, Specialist};
use network::{Action, Config, Networks, Sender};
use proptest::collection::vec;
use proptest::prelude::*;
use support::Around;
use support::lab::{WINDOW_MS, chunk, config, secret};
use wire::credential::{Com, Revocation};
use wire::message::Credentials;
use wire::{Address, Now, Prefix, Verb};

const START: u64 = 1_700_000_000_000;

/// One event that the gate's verdict depends on; times in steps of half a window.
#[derive(Clone, Copy, Debug)]
enum Event {
    Certificate(u64),
    Revocation(u64),
    Configuration(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u64..8).prop_map(Event::Certificate),
        (0u64..8).prop_map(Event::Revocation),
        (0u64..8).prop_map(Event::Configuration),
    ]
}

fn time(steps: u64) -> u64 {
    START + steps * (WINDOW_MS / 2 + 1)
}

/// The gate by its definition. // spec: networks, "The gate: may this peer talk to us on this network"
#[derive(Default)]
struct Model {
    ours: u64,
    theirs: Option<u64>,
    revoked: Option<u64>,
}

impl Model {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Certificate(t) if self.revoked.is_none_or(|r| t > r) => self.theirs = self.theirs.max(Some(t)),
            Event::Certificate(_) => {}
            Event::Revocation(t) => self.revoked = self.revoked.max(Some(t)),
            Event::Configuration(t) => self.ours = self.ours.max(t),
        }
    }

    fn allowed(&self) -> bool {
        let Some(theirs) = self.theirs else { return false };
        time(theirs).abs_diff(time(self.ours)) <= WINDOW_MS && self.revoked.is_none_or(|r| theirs > r)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_told_to_the_shards_is_the_gates_definition_after_every_event(events in vec(event(), 1..24)) {
        let (controller, own, peer) = (secret("ctl"), secret("a"), secret("b"));
        let mut around = Around::new(own.public().clone());
        around.know(controller.public());
        around.know(peer.public());
        let kept = config(&controller, own.public(), time(0));
        let network = kept.network;
        let (mut networks, mut told, mut model) = (Networks::new(), false, Model::default());
        networks.join(Now::at_ms(START), network, Some(&kept.to_dictionary()), &mut around, &mut Vec::new());
        for (n, event) in events.into_iter().enumerate() {
            let now = Now::at_ms(START + 1000 * n as u64);
            let from = Sender { identity: peer.public() };
            let mut shown = Credentials::default();
            let (verb, payload) = match event {
                Event::Configuration(t) => {
                    let update = chunk(&controller, &config(&controller, own.public(), time(t)), n as u64 + 1);
                    (Verb::NetworkConfig, update)
                }
                Event::Certificate(t) => {
                    let mut com = Com::new(network, peer.public(), time(t), WINDOW_MS);
                    com.sign(&controller);
                    shown.coms.push(com);
                    (Verb::NetworkCredentials, Vec::new())
                }
                Event::Revocation(t) => {
                    let mut revocation = Revocation {
                        id: 1,
                        network,
                        credential_id: 0,
                        threshold: time(t) as i64,
                        flags: 0,
                        target: peer.address(),
                        signer: Address::ZERO,
                        kind: 1,
                        signature: None,
                    };
                    revocation.sign(&controller);
                    shown.revocations.push(revocation);
                    (Verb::NetworkCredentials, Vec::new())
                }
            };
            let mut payload = payload;
            if verb == Verb::NetworkCredentials {
                shown.write(&mut payload);
            }
            let mut out = Vec::new();
            networks.handle_message(now, &from, 1, verb, &payload, &mut around, &mut out);
            for action in out {
                if let Action::Member { address, allowed, .. } = action {
                    prop_assert_eq!(address, peer.address());
                    prop_assert_ne!(allowed, told, "told twice");
                    told = allowed;
                }
            }
            model.apply(event);
            prop_assert_eq!(told, model.allowed(), "after {:?}", event);
        }
    }
}

fn prefix() -> impl Strategy<Value = Prefix> {
    any::<(IpAddr, u8)>()
        .prop_map(|(ip, bits)| Prefix::new(ip, bits % if ip.is_ipv4() { 33 } else { 129 }).expect("in range"))
}

fn route() -> impl Strategy<Value = Route> {
    (prefix(), any::<Option<IpAddr>>(), any::<u16>(), any::<u16>()).prop_map(|(target, via, flags, metric)| Route {
        target,
        via,
        flags,
        metric,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_configuration_survives_its_dictionary(
        (timestamp, flags, multicast_limit, revision) in any::<(u64, u64, u64, u64)>(),
        (name, domain) in ("\\PC{0,20}", "[a-z.]{0,120}"),
        mtu in 1280u16..=10_000,
        public in any::<bool>(),
        routes in vec(route(), 0..20),
        addresses in vec(prefix(), 0..32),
        specialists in vec(any::<u64>(), 0..20),
        servers in vec(any::<IpAddr>(), 0..=4),
        login in 0u64..3,
    ) {
        let mut c = config(&secret("ctl"), secret("a").public(), START);
        (c.timestamp, c.flags, c.multicast_limit, c.revision) = (timestamp, flags, multicast_limit, revision);
        (c.name, c.mtu, c.public, c.routes, c.addresses) = (name, mtu, public, routes, addresses);
        c.specialists = specialists.into_iter().map(Specialist).collect();
        c.dns = Dns { domain, servers };
        c.authentication.enabled = login > 0;
        c.authentication.version = login / 2;
        match login {
            1 => c.authentication.url = "https://login.example/?a=b\\c".into(),
            2 => c.authentication.oidc = Some(Oidc { provider: "default".into(), ..Oidc::default() }),
            _ => {}
        }
        prop_assert_eq!(Config::parse(&c.to_dictionary()), Ok(c));
    }
}
