//! The operator's questions, answered from what the control thread holds. Knows the API's meanings, not its transport.

use std::net::SocketAddr;

use controller::Controller;
use node::{LocalSocketId, PeerStatus};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing::info;
use wire::{Address, NetworkId, Now};

use super::{Control, counts};
use crate::api::{Allow, Answer, Ask, Body, CONTROLLER_API_VERSION, ControllerAsk};
use crate::home::{MAX_MOONS, MAX_NETWORKS, PUBLIC};
use crate::objects::{self, PortFacts, StatusFacts};
use crate::portmap::Mapped;

impl Control {
    pub(super) fn answer(&mut self, now: Now, ask: Ask, reply: oneshot::Sender<Answer>) {
        let answer = match ask {
            Ask::Status => Answer::ok(self.status(now)),
            Ask::Health => Answer::ok(objects::health(now, self.p.node.is_online())),
            Ask::Config => Answer::ok(self.p.conf.raw.clone().into()),
            Ask::Networks => Answer::ok(self.networks.keys().filter_map(|id| self.network(*id)).collect()),
            Ask::Network(id) => match self.network(id) {
                Some(object) => Answer::ok(object),
                None => Answer { code: 404, body: Body::Json(json!({})) },
            },
            Ask::Join(id, allow) => self.join(now, id, allow),
            Ask::Leave(id) => self.leave(now, id),
            Ask::Moons => Answer::ok(self.moons().into()),
            Ask::Moon(id) => Answer::ok(self.moon(id).unwrap_or_else(|| json!({}))),
            Ask::Orbit(id, seed) => self.orbit(now, id, seed),
            Ask::Deorbit(id) => {
                info!(moon = format!("{id:016x}"), "no longer orbiting");
                self.p.node.deorbit(now, id);
                Answer::ok(json!({"result": true}))
            }
            Ask::Peers => Answer::ok(self.peers(now).into()),
            Ask::Peer(address) => {
                let peers = self.p.node.peers(now);
                let known = peers.iter().find(|p| p.address == address);
                Answer::ok(known.map_or_else(|| json!({}), |p| self.peer(now, p, false)))
            }
            Ask::Bond(ask) => self.answer_bond(now, ask),
            Ask::Controller(ask) => self.ask_controller(now, ask),
        };
        let _ = reply.send(answer);
    }

    fn status(&self, now: Now) -> Value {
        let facts = StatusFacts {
            identity: self.p.identity.public(),
            online: self.p.node.is_online(),
            planet: &self.p.planet,
            local_conf: &self.p.conf.raw,
            ports: self.links.ports(),
            mapped: self.mapped(),
            home: self.p.home.root().display().to_string(),
            listening: self.links.iter().flat_map(|l| l.endpoints().map(|(_, at)| at)).collect(),
            surface: self.p.node.surfaces(now).0,
            nat: &self.p.node.nat(now),
            shards: self.p.shards,
            io: &self.p.io,
            tcp_fallback: (self.fallback.settings(), self.fallback.is_active()),
            warnings: self.warnings(),
            counters: counts::all(self),
        };
        objects::status(now, &facts)
    }

    /// The link of a socket, and the address that it is bound to.
    fn socket_at(&self, id: LocalSocketId) -> Option<(&str, SocketAddr)> {
        let link = self.links.get(id)?;
        let at = link.endpoints().find(|(socket, _)| *socket == id).map_or(link.local, |(_, at)| at);
        Some((&link.name, at))
    }

    fn mapped(&self) -> Vec<(String, SocketAddr, Mapped)> {
        let at = |(id, mapped): (&LocalSocketId, &Mapped)| {
            let (link, local) = self.socket_at(*id)?;
            Some((link.to_owned(), local, *mapped))
        };
        self.mapped.iter().filter_map(at).collect()
    }

    fn network(&self, id: NetworkId) -> Option<Value> {
        let (network, port) = (self.p.node.networks().get(id)?, self.networks.get(&id)?);
        let facts = PortFacts {
            device: port.device.as_deref(),
            error: port.error.as_ref(),
            problem: port.problem.as_deref(),
            conf: port.conf.clone(),
        };
        Some(objects::network(network, &facts))
    }

    fn peers(&self, now: Now) -> Vec<Value> {
        self.p.node.peers(now).iter().map(|p| self.peer(now, p, false)).collect()
    }

    /// One peer; with `all` also what its bond decided.
    pub(super) fn peer(&self, now: Now, p: &PeerStatus, all: bool) -> Value {
        let port_of = |id: LocalSocketId| self.socket_at(id).map_or(0, |(_, at)| at.port());
        let trusted = |remote: SocketAddr| {
            let inside = self.p.conf.physical.iter().filter(|p| p.net.contains(remote.ip()));
            inside.min_by_key(|p| p.net.bits).map_or(0, |p| p.trusted_path_id)
        };
        let mut object = objects::peer(now, p, port_of, trusted);
        object["tunneled"] = self.fallback.is_active().into();
        self.add_bond(now, &mut object, p, all);
        object
    }

    fn moons(&self) -> Vec<Value> {
        let awaited = self.p.node.awaited_moons().map(|(id, seed)| objects::awaited_moon(id, seed));
        self.p.node.moons().map(objects::moon).chain(awaited).collect()
    }

    fn moon(&self, id: u64) -> Option<Value> {
        let held = self.p.node.moons().find(|m| m.id == id).map(objects::moon);
        held.or_else(|| {
            let (_, seed) = self.p.node.awaited_moons().find(|(moon, _)| *moon == id)?;
            Some(objects::awaited_moon(id, seed))
        })
    }

    // spec: service, "Node endpoints": without a seed nothing is done
    fn orbit(&mut self, now: Now, id: u64, seed: Option<Address>) -> Answer {
        let Some(seed) = seed else { return Answer::ok(json!({})) };
        if !self.p.node.orbit(now, id, seed) {
            return Answer::error(503, &format!("{MAX_MOONS} moons are followed, no more are possible"));
        }
        info!(moon = format!("{id:016x}"), %seed, "orbiting");
        Answer::ok(self.moon(id).unwrap_or_else(|| json!({})))
    }

    // spec: service, "Node endpoints"
    fn join(&mut self, now: Now, id: NetworkId, allow: Allow) -> Answer {
        let is_new = !self.networks.contains_key(&id);
        if is_new && self.networks.len() >= MAX_NETWORKS {
            return Answer::error(503, &format!("{MAX_NETWORKS} networks are joined, no more are possible"));
        }
        let port = self.networks.entry(id).or_default();
        let conf = &mut port.conf;
        if let Some(managed) = allow.managed {
            conf.allow_managed = managed;
        }
        conf.allow_global = allow.global.unwrap_or(conf.allow_global);
        conf.allow_default = allow.default.unwrap_or(conf.allow_default);
        conf.allow_dns = allow.dns.unwrap_or(conf.allow_dns);
        self.p.writer.replace(self.p.home.network_local(id), PUBLIC, conf.to_text().into_bytes());
        if is_new {
            info!(network = %id, "joining");
            // That the file exists means joined; its content comes with the first configuration.
            self.p.writer.replace(self.p.home.network(id), PUBLIC, b"\n".to_vec());
            self.p.node.join(now, id, None);
        }
        self.dirty.insert(id);
        self.tell_overlay();
        self.network(id).map_or_else(Answer::not_found, Answer::ok)
    }

    fn leave(&mut self, now: Now, id: NetworkId) -> Answer {
        if self.networks.remove(&id).is_none() {
            return Answer::ok(json!({}));
        }
        info!(network = %id, "leaving");
        self.p.node.leave(now, id);
        self.tell_overlay();
        self.p.dataplane.remove_tap(id);
        self.settle(now);
        self.p.writer.remove(self.p.home.network(id));
        self.p.writer.remove(self.p.home.network_local(id));
        self.dirty.insert(id);
        Answer::ok(json!({"result": true}))
    }

    // spec: controller, "REST interface"
    fn ask_controller(&mut self, now: Now, ask: ControllerAsk) -> Answer {
        let c = &mut self.p.controller;
        let found = |value: Option<Value>| value.map_or_else(Answer::not_found, Answer::ok);
        match ask {
            ControllerAsk::State => {
                let text = format!(
                    "{{\n\t\"controller\": true,\n\t\"apiVersion\": {},\n\t\"clock\": {},\n\t\"databaseReady\": true\n}}\n",
                    CONTROLLER_API_VERSION, now.unix_ms
                );
                Answer { code: 200, body: Body::Text(text) }
            }
            ControllerAsk::Networks => Answer::ok(c.networks_json()),
            ControllerAsk::NetworkRecords => Answer::ok(c.networks_full_json()),
            ControllerAsk::Create(Some(own), _) if own != c.address() => Answer { code: 400, body: Body::Empty },
            ControllerAsk::Create(_, body) => {
                changed(c.create_network(now, &Value::Object(body)).map(|(_, record)| record.clone()))
            }
            ControllerAsk::Network(id) => record(c, (id, None), c.network(id)),
            ControllerAsk::SetNetwork(id, body) => changed(c.update_network(now, id, &Value::Object(body)).cloned()),
            ControllerAsk::DeleteNetwork(id) => deleted(c.delete_network(now, id)),
            ControllerAsk::Members(id) => found(c.members_json(id)),
            ControllerAsk::MemberRecords(id) => found(c.members_full_json(id)),
            ControllerAsk::Member(id, who) => record(c, (id, Some(who)), c.member(id, who)),
            ControllerAsk::SetMember(id, who, body) => {
                changed(c.update_member(now, id, who, &Value::Object(body)).cloned())
            }
            ControllerAsk::DeleteMember(id, who) => deleted(c.delete_member(now, id, who)),
        }
    }
}

/// A record; or why it is not served, if its file is there.
fn record<S: controller::Storage>(
    c: &Controller<S>,
    key: controller::Key,
    record: Option<&controller::Record>,
) -> Answer {
    if let Some(record) = record {
        return Answer::ok(Value::Object(record.clone()));
    }
    let Some(fault) = c.faults().iter().find(|fault| fault.key == Some(key)) else { return Answer::not_found() };
    refused(&controller::Error::Faulty { name: fault.name.clone(), reason: fault.reason.clone() })
}

fn changed(result: Result<controller::Record, controller::Error>) -> Answer {
    match result {
        Ok(record) => Answer::ok(Value::Object(record)),
        Err(e) => refused(&e),
    }
}

fn deleted(result: Result<Option<controller::Record>, controller::Error>) -> Answer {
    match result {
        Ok(Some(record)) => Answer::ok(Value::Object(record)),
        Ok(None) => Answer::not_found(),
        Err(e) => refused(&e),
    }
}

fn refused(e: &controller::Error) -> Answer {
    match e {
        controller::Error::UnknownNetwork(_) => Answer::not_found(),
        _ => Answer::error(400, &e.to_string()),
    }
}
