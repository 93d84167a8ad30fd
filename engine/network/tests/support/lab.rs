//! A network of members, a root and a controller whose messages reach each other at once, in the order in which they
//! were sent, or as a test wants it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use network::config::{Dns, Specialist};
use network::{Action, Config, Handled, Networks, Sender};
use wire::chunk::ConfigChunk;
use wire::credential::Com;
use wire::message::{ConfigRequest, ErrorMessage, OkMessage};
use wire::rule::RuleTable;
use wire::{Address, Identity, Mac, MulticastGroup, NetworkId, Now, Prefix, SecretIdentity, Verb};

use super::{Around, load, text};

pub const WINDOW_MS: u64 = 1_800_000;
/// drop unless IPv4, ARP or IPv6; accept
pub const DEFAULT_RULES: &str = "a5020800a5020806a50286dd00000100";

pub fn secret(name: &str) -> SecretIdentity {
    let file = load("network-frames");
    text(&file["identities"][name], "secret").parse().unwrap()
}

pub fn network_of(controller: &SecretIdentity) -> NetworkId {
    NetworkId(controller.public().address().to_u64() << 24 | 0x0a0a0a)
}

/// A private network's configuration for one member, as a controller writes it.
pub fn config(controller: &SecretIdentity, member: &Identity, timestamp: u64) -> Config {
    let network = network_of(controller);
    let mut com = Com::new(network, member, timestamp, WINDOW_MS);
    com.sign(controller);
    Config {
        network,
        timestamp,
        credential_window_ms: WINDOW_MS,
        revision: 1,
        issued_to: member.address(),
        trace_target: None,
        trace_level: 0,
        flags: Config::BROADCAST,
        multicast_limit: 32,
        public: false,
        name: "lab".into(),
        mtu: 2800,
        com: Some(com),
        capabilities: Vec::new(),
        tags: Vec::new(),
        ownerships: Vec::new(),
        specialists: Vec::<Specialist>::new(),
        routes: Vec::new(),
        addresses: vec![Prefix::new([10, 1, 0, member.address().to_bytes()[4]].into(), 24).unwrap()],
        rules: RuleTable::parse(&hex::decode(DEFAULT_RULES).unwrap(), 1024).unwrap(),
        dns: Dns::default(),
        authentication: Default::default(),
    }
}

/// A configuration as one signed chunk.
pub fn chunk(controller: &SecretIdentity, config: &Config, update_id: u64) -> Vec<u8> {
    let dictionary = config.to_dictionary();
    let mut chunk = ConfigChunk {
        network: config.network,
        data: &dictionary,
        flags: 0,
        update_id,
        total: dictionary.len() as u32,
        index: 0,
        signature: None,
    };
    chunk.sign(controller);
    let mut out = Vec::new();
    chunk.write(&mut out);
    out
}

pub struct Node {
    pub networks: Networks,
    pub around: Around,
    pub delivered: Vec<Vec<u8>>,
    pub whois: Vec<Address>,
    pub verdicts: BTreeMap<Address, bool>,
    pub last: Handled,
    expected: BTreeMap<u64, Verb>,
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub from: Address,
    pub to: Address,
    pub id: u64,
    pub verb: Verb,
    pub payload: Vec<u8>,
}

pub struct Lab {
    pub now: Now,
    pub controller: SecretIdentity,
    pub network: NetworkId,
    pub nodes: BTreeMap<Address, Node>,
    pub wire: VecDeque<Packet>,
    pub log: Vec<Packet>,
    /// Makes a member's configuration from the one it would get.
    pub configure: fn(&mut Config),
    next_id: u64,
}

impl Lab {
    /// A root that is the controller too, and members who know only the root.
    pub fn new(members: &[&SecretIdentity]) -> Lab {
        let controller = secret("ctl");
        let network = network_of(&controller);
        let mut lab = Lab {
            now: Now::at_ms(1_700_000_000_000),
            network,
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            log: Vec::new(),
            configure: |_| {},
            next_id: 0x1_0000,
            controller,
        };
        let root = lab.controller.public().clone();
        let mut around = Around::new(root.clone());
        around.is_upstream = true;
        lab.add(around);
        for member in members {
            let mut around = Around::new(member.public().clone());
            around.know(&root);
            around.upstreams = vec![root.address()];
            lab.nodes.get_mut(&root.address()).unwrap().around.know(member.public());
            lab.add(around);
        }
        lab
    }

    fn add(&mut self, around: Around) {
        let address = around.own.address();
        let node = Node {
            networks: Networks::new(),
            around,
            delivered: Vec::new(),
            whois: Vec::new(),
            verdicts: BTreeMap::new(),
            last: Handled::default(),
            expected: BTreeMap::new(),
        };
        self.nodes.insert(address, node);
    }

    pub fn node(&mut self, address: Address) -> &mut Node {
        self.nodes.get_mut(&address).unwrap()
    }

    pub fn advance(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
    }

    pub fn join(&mut self, address: Address) {
        let network = self.network;
        self.act(address, |n, now, out| n.networks.join(now, network, None, &mut n.around, out));
        self.settle();
        // As the gateway does once the addresses are on the TAP.
        let ip = [10, 1, 0, address.to_bytes()[4]].into();
        self.subscribe(address, vec![MulticastGroup::for_resolving(ip)]);
        self.settle();
    }

    pub fn subscribe(&mut self, address: Address, groups: Vec<MulticastGroup>) {
        let network = self.network;
        self.act(address, |n, now, out| n.networks.set_subscriptions(now, network, groups, &mut n.around, out));
    }

    pub fn tap(&mut self, address: Address, frame: &[u8]) {
        let network = self.network;
        self.act(address, |n, now, out| n.networks.handle_tap_frame(now, network, frame, &mut n.around, out));
    }

    pub fn tick(&mut self, address: Address) {
        self.act(address, |n, now, out| n.networks.tick(now, &mut n.around, out));
    }

    /// Everything that is due now happens, and everything that follows from it.
    pub fn settle(&mut self) {
        loop {
            let due = self.nodes.iter().find(|(_, n)| n.networks.poll_timeout() <= self.now.ms()).map(|(&a, _)| a);
            if let Some(address) = due {
                self.tick(address);
            } else if let Some(packet) = self.wire.pop_front() {
                self.deliver(packet);
            } else {
                return;
            }
        }
    }

    /// Whoever gets a packet knows its sender: the peer-to-peer layer sees to that.
    pub fn deliver(&mut self, packet: Packet) {
        self.log.push(packet.clone());
        let Some(from) = self.nodes.get(&packet.from).map(|n| n.around.own.clone()) else { return };
        if !self.nodes.contains_key(&packet.to) {
            return;
        }
        if packet.verb == Verb::NetworkConfigRequest && packet.to == self.controller.public().address() {
            return self.answer_request(&from, &packet);
        }
        self.act(packet.to, |n, now, out| {
            n.around.know(&from);
            let sender = Sender { identity: &from };
            n.last = match packet.verb {
                Verb::Ok => {
                    let ok = OkMessage::parse(&packet.payload).unwrap();
                    match n.expected.get(&ok.in_re.packet_id) {
                        Some(&verb) if Some(verb) == ok.in_re.verb() => {
                            let id = ok.in_re.packet_id;
                            n.networks.handle_ok(now, &sender, verb, id, ok.body, &mut n.around, out)
                        }
                        _ => Handled::default(),
                    }
                }
                Verb::Error => {
                    let error = ErrorMessage::parse(&packet.payload).unwrap();
                    n.networks.handle_error(now, &sender, &error, &mut n.around, out)
                }
                verb => {
                    let (id, payload) = (packet.id, &packet.payload);
                    n.networks.handle_message(now, &sender, id, verb, payload, &mut n.around, out)
                }
            };
        });
    }

    fn answer_request(&mut self, member: &Identity, packet: &Packet) {
        let request = ConfigRequest::parse(&packet.payload).unwrap();
        assert_eq!(request.network, self.network);
        let mut config = config(&self.controller, member, self.now.unix_ms);
        (self.configure)(&mut config);
        let mut payload = vec![Verb::NetworkConfigRequest as u8];
        payload.extend_from_slice(&packet.id.to_be_bytes());
        payload.extend_from_slice(&chunk(&self.controller, &config, self.now.unix_ms));
        self.next_id += 1;
        let from = self.controller.public().address();
        self.wire.push_back(Packet { from, to: member.address(), id: self.next_id, verb: Verb::Ok, payload });
    }

    pub fn act(&mut self, address: Address, work: impl FnOnce(&mut Node, Now, &mut Vec<Action>)) {
        let mut out = Vec::new();
        let now = self.now;
        let node = self.nodes.get_mut(&address).unwrap();
        work(node, now, &mut out);
        for action in out {
            match action {
                Action::Send { to, verb, payload, expect_reply, .. } => {
                    self.next_id += 1;
                    if expect_reply {
                        node.expected.insert(self.next_id, verb);
                    }
                    self.wire.push_back(Packet { from: address, to, id: self.next_id, verb, payload });
                }
                Action::Reply { to, verb, payload } => {
                    self.next_id += 1;
                    self.wire.push_back(Packet { from: address, to, id: self.next_id, verb, payload });
                }
                Action::Deliver { frame, .. } => node.delivered.push(frame),
                Action::Whois(address) => node.whois.push(address),
                Action::Member { address, allowed, .. } => {
                    assert_ne!(node.verdicts.insert(address, allowed), Some(allowed), "a verdict is told twice");
                }
                Action::Changed(_) | Action::StoreConfig { .. } | Action::ForgetConfig(_) | Action::Standing { .. } => {
                }
            }
        }
    }

    pub fn mac(&self, address: Address) -> Mac {
        Mac::of_member(self.network, address)
    }
}

/// An ARP request from a member's 10.1.0.x for another's.
pub fn arp_request(network: NetworkId, from: Address, to: Address) -> Vec<u8> {
    let own = Mac::of_member(network, from);
    let mut arp = hex::decode("0001080006040001").unwrap();
    arp.extend_from_slice(&own.0);
    arp.extend_from_slice(&[10, 1, 0, from.to_bytes()[4], 0, 0, 0, 0, 0, 0, 10, 1, 0, to.to_bytes()[4]]);
    super::ethernet(Mac::BROADCAST, own, 0x0806, &arp)
}

/// An IPv4 frame from one member to another.
pub fn ipv4(network: NetworkId, from: Address, to: Address, note: u8) -> Vec<u8> {
    let mut packet = vec![0; 60];
    (packet[0], packet[9], packet[59]) = (0x45, 17, note);
    super::ethernet(Mac::of_member(network, to), Mac::of_member(network, from), 0x0800, &packet)
}
