//! What a bond does between frames: packets that waited for their path leave, and what was lost with a path goes again over
//! another.

use bond::striper::{Out, Striper};
use wire::keys::Keys;
use wire::packet::Suite;

use super::pool::{self, Handle};
use super::{AGAIN_GAP_US, AGAIN_PACKETS, Bonded, Turn, plain};
use crate::egress::Egress;
use crate::seal::{Outgoing, fits};

impl Bonded {
    /// Lets go what is due. False if nothing waits any more.
    pub(crate) fn poll<E: Egress>(&mut self, turn: &mut Turn<'_, '_, E>, keys: &Keys, suite: Suite) -> bool {
        if self.ended || self.lanes.is_empty() {
            self.let_go(turn, keys, suite);
        }
        self.again(turn);
        while let Some(out) = self.striper.as_mut().and_then(|striper| striper.poll(turn.now_us * 1000)) {
            match out {
                Out::Drop(handle) => {
                    turn.bonds.pool.free(handle);
                    turn.sealer.counters.stripe_dropped += 1;
                }
                Out::Send { path, item, request } => self.release(turn, keys, suite, item, Some(path), request),
            }
        }
        self.queued = !self.is_empty();
        self.queued
    }

    /// A packet that waited leaves over a path of the plan, or without one.
    fn release<E: Egress>(
        &mut self,
        turn: &mut Turn<'_, '_, E>,
        keys: &Keys,
        suite: Suite,
        handle: Handle,
        lane: Option<usize>,
        request: Option<u64>,
    ) {
        // Taken out, so that the rest of the turn may be used.
        let pool = std::mem::take(&mut turn.bonds.pool);
        if let Some(waiting) = pool.get(handle) {
            let pool::Waiting { network, ethertype, ref payload, marked } = *waiting;
            let frame = Outgoing { to: turn.address, keys, suite, network, ethertype, headers: &[], payload, marked };
            match lane.filter(|at| *at < self.lanes.len()) {
                Some(at) => self.leave(turn, &frame, at, request.is_some(), request),
                None => plain(turn, &frame, self.bonding.relay.filter(|_| !self.ended).unwrap_or(turn.route)),
            }
        }
        turn.bonds.pool = pool;
        turn.bonds.pool.free(handle);
    }

    /// What waits leaves at once, because there is nothing left to stripe over.
    pub(super) fn let_go<E: Egress>(&mut self, turn: &mut Turn<'_, '_, E>, keys: &Keys, suite: Suite) {
        let Some(mut striper) = self.striper.take() else { return };
        let lane = (!self.lanes.is_empty()).then_some(0);
        for handle in striper.drain() {
            self.release(turn, keys, suite, handle, lane, None);
        }
        if !self.ended {
            self.striper = Some(striper);
        }
    }

    /// Sends the next batch of what was lost with its path.
    fn again<E: Egress>(&mut self, turn: &mut Turn<'_, '_, E>) {
        let now_us = turn.now_us;
        if self.again_us.is_none_or(|at| at > now_us) {
            return;
        }
        let plan = &self.bonding.plan;
        let best = (0..self.lanes.len()).filter(|at| !plan.lost.contains(&self.lanes[*at].id));
        let Some(at) = best.min_by_key(|at| plan.paths[*at].delay_us) else {
            // Nowhere to go: until there is, they grow old.
            self.again_us = (!self.recall.is_empty()).then_some(now_us + 10 * AGAIN_GAP_US);
            return;
        };
        let (id, route, rate) = (self.lanes[at].id, self.lanes[at].route, plan.paths[at].rate);
        let batch = (rate * AGAIN_GAP_US as f64 / 1e6 / f64::from(route.mtu)) as usize;
        for _ in 0..batch.max(AGAIN_PACKETS) {
            let Some(kept) = self.recall.next_lost(now_us, id) else {
                self.again_us = None;
                return;
            };
            let mtu = kept.mtu.min(route.mtu);
            if !fits(kept.packet, mtu) {
                continue;
            }
            // Should it ask for acknowledgement, the answer would be none of the path that it took first.
            let id = kept.packet.first_chunk().map(|id| u64::from_be_bytes(*id));
            if let Some(request) = self.requests.iter_mut().find(|request| Some(request.packet_id) == id) {
                request.open = false;
            }
            turn.sealer.send_again(kept.packet, route, mtu, turn.out);
            turn.sealer.counters.recalled += 1;
            let len = kept.packet.len();
            self.lanes[at].count(len);
            turn.note(route, len);
        }
        self.again_us = Some(now_us + AGAIN_GAP_US);
    }

    /// When [`Bonded::poll`] has something to do.
    pub(crate) fn next_us(&self) -> Option<u64> {
        let striped = self.striper.as_ref().and_then(Striper::next_ns).map(|ns| ns.div_ceil(1000));
        [striped, self.again_us].into_iter().flatten().min()
    }
}
