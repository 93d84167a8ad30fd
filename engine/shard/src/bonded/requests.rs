//! Frames that asked for acknowledgement, until they have it, and what the control plane is told of them.

use bond::{PathId, Seen};

use super::{Bonded, REQUEST_LIFE_US, REQUESTS_MAX, SEEN_MAX, Turn};
use crate::{Counters, Path};

/// A frame that asks for acknowledgement and has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) packet_id: u64,
    pub(super) path: PathId,
    pub(super) sent_us: u64,
    /// The striper's name for it.
    pub(super) striped: Option<u64>,
    /// Its copies took other paths, and who answers which is seen by the path of the answer only.
    pub(super) copy: bool,
    pub(super) open: bool,
}

impl Bonded {
    pub(super) fn requested<E>(&mut self, turn: &mut Turn<'_, '_, E>, request: Request) {
        let over = |request: &Request| !request.open || turn.now_us.saturating_sub(request.sent_us) > REQUEST_LIFE_US;
        while self.requests.front().is_some_and(over) || self.requests.len() >= REQUESTS_MAX {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
        turn.sealer.counters.bond_requests += 1;
        let Request { path, packet_id, sent_us: at_us, .. } = request;
        self.saw(Seen::Requested { path, packet_id, at_us }, turn.sealer.counters);
    }

    /// A frame was acknowledged. False if we did not ask for that. `over`: the path of the answer, which tells copies apart.
    pub(crate) fn acked(&mut self, now_us: u64, packet_id: u64, over: Path, counters: &mut Counters) -> bool {
        let came_by = |request: &Request| {
            let lane = self.lanes.iter().find(|lane| lane.id == request.path);
            lane.is_some_and(|lane| (lane.route.socket, lane.route.remote) == (over.socket, over.remote))
        };
        let ours = |request: &&mut Request| request.packet_id == packet_id && request.open;
        let Some(request) = self.requests.iter_mut().filter(ours).find(|r| !r.copy || came_by(r)) else { return false };
        request.open = false;
        let Request { path, sent_us, striped, .. } = *request;
        let at = self.lanes.iter().position(|lane| lane.id == path);
        match (striped, &mut self.striper, at) {
            (Some(name), Some(striper), Some(at)) => {
                striper.acked(now_us * 1000, at, name);
            }
            (None, _, Some(at)) => {
                if let Some(model) = &mut self.lanes[at].model {
                    model.acked(now_us * 1000, packet_id);
                }
            }
            _ => {}
        }
        if !self.recall.is_empty() {
            self.recall.covered(path, sent_us);
        }
        counters.bond_acks += 1;
        self.saw(Seen::Acked { path, packet_id, at_us: now_us }, counters);
        true
    }

    pub(super) fn saw(&mut self, seen: Seen, counters: &mut Counters) {
        if self.seen.len() < SEEN_MAX {
            self.seen.push(seen);
        } else {
            counters.seen_full += 1;
        }
    }
}
