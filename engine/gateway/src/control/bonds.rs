//! The operator's questions about bonds: what they are, another path, a smaller datagram, a test of a path. Knows the API's
//! meanings, not its transport. // spec: service, "Bond endpoints"

use std::net::IpAddr;

use bond::PathId;
use bond::link_test::Order;
use node::PeerStatus;
use serde_json::{Value, json};
use tracing::info;
use wire::message::Features;
use wire::{Address, Now};

use super::Control;
use crate::api::bond::{BondAsk, TestAsk, refused};
use crate::api::{Answer, Body};
use crate::objects;
use crate::objects::bond::Places;

fn no_bond() -> Answer {
    Answer { code: 400, body: Body::Json(json!({})) }
}

impl Control {
    pub(super) fn answer_bond(&mut self, now: Now, ask: BondAsk) -> Answer {
        match ask {
            BondAsk::Show(peer) => self.bond_object(now, peer).map_or_else(no_bond, Answer::ok),
            BondAsk::Rotate(peer) => match self.p.node.rotate_bond(now, peer) {
                Ok(rotated) => {
                    info!(%peer, rotated, "rotation asked for");
                    Answer::ok(json!({}))
                }
                Err(_) => no_bond(),
            },
            BondAsk::SetMtu { mtu, link, ip } => self.set_bond_mtu(now, mtu, &link, &ip),
            BondAsk::Test(peer, test) => self.test_bond(now, peer, &test),
            BondAsk::Found(peer) => {
                self.test_found(now, peer).map_or_else(|| refused("no path of this peer was tested"), Answer::ok)
            }
            BondAsk::StopTest(peer) => {
                if self.p.node.path_test().is_some_and(|t| t.peer == peer) {
                    self.p.node.stop_path_test(now);
                }
                Answer::ok(json!({"result": true}))
            }
        }
    }

    /// Adds to the object of a peer what its bond adds, if it has one.
    pub(super) fn add_bond(&self, now: Now, object: &mut Value, peer: &PeerStatus, all: bool) {
        let Some(bond) = self.p.node.bond(peer.address) else { return };
        let of = |id: PathId| self.p.node.bond_path(peer.address, id);
        let agreed = self.p.node.agreed(peer.address).map_or(Features::NONE, |agreed| agreed.features);
        let places = Places { of: &of, forced: self.p.node.forced_bond_path(peer.address), agreed };
        objects::bond::add(now, object, peer, bond, &places, all);
    }

    fn bond_object(&self, now: Now, peer: Address) -> Option<Value> {
        self.p.node.bond(peer)?;
        let peers = self.p.node.peers(now);
        let status = peers.iter().find(|p| p.address == peer)?;
        Some(self.peer(now, status, true))
    }

    fn set_bond_mtu(&mut self, now: Now, mtu: u32, link: &str, ip: &str) -> Answer {
        if !self.p.bonds.bonding.in_use() {
            return refused("Bonding layer isn't active yet");
        }
        let Some(mtu) = u16::try_from(mtu).ok().filter(|mtu| *mtu >= 68) else {
            return refused("Specified MTU is not reasonable");
        };
        let paths = ip.parse::<IpAddr>().map_or(0, |ip| self.p.node.set_bond_mtu(now, link, ip, mtu));
        if paths == 0 {
            return refused("Unable to find specified link");
        }
        info!(link, remote = ip, mtu, paths, "MTU set");
        Answer::ok(json!({}))
    }

    fn test_bond(&mut self, now: Now, peer: Address, test: &TestAsk) -> Answer {
        let Some(bond) = self.p.node.bond(peer) else { return refused("there is no bond with this peer") };
        let Some(id) = bond.paths().iter().map(|p| p.id).find(|id| id.to_string() == test.path) else {
            return refused("the bond has no such path");
        };
        let load = (test.load > 0.0).then_some(test.load / 8.0);
        let order = Order { length_us: (test.seconds * 1e6) as u64, load, frame: 0 };
        match self.p.node.test_bond_path(now, peer, id, order, test.force) {
            Ok(()) => {
                info!(%peer, path = test.path, seconds = test.seconds, load = test.load, "path under test");
                Answer::ok(json!({}))
            }
            Err(e) => refused(&e.to_string()),
        }
    }

    fn test_found(&self, now: Now, peer: Address) -> Option<Value> {
        let t = self.p.node.path_test().filter(|t| t.peer == peer)?;
        Some(objects::bond::test(now, t.id, &t.test, 8.0 * t.carried(), t.aborted))
    }
}
