//! What shards and node saw of the paths of bonds: what left, what was acknowledged, what came in. Brought into the order
//! in which the bonds want to hear it.

use bond::qos::is_sampled;
use bond::{Observed, Seen, Shares};
use std::collections::VecDeque;
use wire::message::{QosRecord, ReceiveReport};
use wire::{Address, Now};

use super::{Bonds, Held};
use bond::limits::QOS_PENDING_MAX;

use crate::Node;
use crate::limits::*;
use crate::path::Path;
use crate::peer::Peer;

/// What one path carried since the bond was last told.
#[derive(Clone, Debug, Default)]
pub(super) struct Carried {
    bytes: u64,
    since_us: u64,
    /// Of the last window, bytes/s.
    load: f64,
    /// What each shard says.
    shares: Shares,
    /// What a shard sent that they do not know yet.
    unshared: (usize, u64),
    /// What they found together, if one of them said so.
    rate: Option<f64>,
    inbound: u64,
    outbound: u64,
}

impl Carried {
    /// A shard sent so much.
    fn sent(&mut self, now_us: u64, shard: usize, packets: u64, bytes: u64) {
        self.bytes += bytes;
        self.outbound += packets;
        if self.unshared.0 != shard {
            self.share(now_us);
            self.unshared = (shard, 0);
        }
        self.unshared.1 += bytes;
    }

    /// What is left of what was sent goes where it belongs.
    fn share(&mut self, now_us: u64) {
        let (shard, bytes) = self.unshared;
        if bytes > 0 {
            self.shares.sent(now_us, shard, bytes);
            self.unshared.1 = 0;
        }
    }

    /// A shard found another rate.
    fn found(&mut self, now_us: u64, shard: usize, rate: f64) {
        self.share(now_us);
        self.shares.found(now_us, shard, rate);
        self.rate = self.shares.rate(now_us);
    }
}

/// The packets sent lately over one path that a report of the remote may name, the newest last: ID, and when in us.
#[derive(Clone, Debug, Default)]
pub(super) struct Sampled(VecDeque<(u64, u64)>);

impl Sampled {
    fn note(&mut self, packet_id: u64, at_us: u64) {
        if self.0.len() >= QOS_PENDING_MAX {
            self.0.pop_front();
        }
        self.0.push_back((packet_id, at_us));
    }

    /// When it was sent. Each is found once.
    fn take(&mut self, packet_id: u64) -> Option<u64> {
        let at = self.0.iter().rposition(|(id, _)| *id == packet_id)?;
        self.0.remove(at).map(|(_, at_us)| at_us)
    }
}

impl Held {
    /// Tells the bond what its paths carried.
    pub(super) fn observe(&mut self, now: Now) {
        let us = now.mono_us;
        for line in &mut self.lines {
            let carried = &mut line.carried;
            carried.share(us);
            let window = us.saturating_sub(carried.since_us);
            if window >= BOND_LOAD_US {
                carried.load = carried.bytes as f64 * 1e6 / window as f64;
                (carried.bytes, carried.since_us) = (0, us);
            }
            let &mut Carried { load, rate, inbound, outbound, .. } = carried;
            (carried.rate, carried.inbound, carried.outbound) = (None, 0, 0);
            self.bond.observe(line.id, Observed { rate, load, inbound, outbound });
        }
    }

    /// An answer proves its path, whoever took it.
    pub(super) fn prove(&mut self, now: Now, peer: Option<&mut Peer>) {
        let Some(peer) = peer else { return };
        peer.last_receive.set(now.ms());
        for line in self.lines.iter_mut().filter(|l| l.answered) {
            line.answered = false;
            peer.slot_mut(&line.path).into_iter().for_each(|slot| slot.verified(now.ms(), true));
        }
    }
}

impl Node {
    /// What a shard saw of our bonds, in order of time. Shards are told apart by any number of theirs.
    pub fn handle_bonds(&mut self, now: Now, shard: usize, seen: &[(Address, Seen)]) {
        let mut at = 0;
        while let Some(&(peer, _)) = seen.get(at) {
            let run = seen[at..].iter().take_while(|(of, _)| *of == peer).count();
            self.bond_saw(now, shard, peer, &seen[at..at + run]);
            at += run;
        }
    }

    fn bond_saw(&mut self, now: Now, shard: usize, peer: Address, seen: &[(Address, Seen)]) {
        let Node { bonds: Bonds { table, due, .. }, .. } = self;
        let Some(held) = table.get_mut(&peer) else {
            self.counters.bond_seen_late += seen.len() as u64;
            return;
        };
        // What a shard says of the future is of now.
        let moment = |at_us: u64| Now { mono_us: at_us.min(now.mono_us), ..now };
        let mut news = false;
        for (_, seen) in seen {
            match *seen {
                Seen::Requested { path, packet_id, at_us } => {
                    held.bond.requested(moment(at_us), path, packet_id, false);
                    held.asking.asked(now.mono_us);
                }
                Seen::Acked { path, packet_id, at_us } => {
                    held.bond.acked(moment(at_us), path, packet_id);
                    held.asking.answered();
                    if let Some(line) = held.line_mut(path) {
                        line.answered = true;
                    }
                }
                Seen::Sent { path, packets, bytes } => {
                    held.data_us = Some(now.mono_us);
                    held.bond.sent(now, path, packets, bytes);
                    if let Some(line) = held.line_mut(path) {
                        line.carried.sent(now.mono_us, shard, packets, bytes);
                    }
                }
                Seen::Rate { path, rate } => {
                    if let Some(line) = held.line_mut(path) {
                        line.carried.found(now.mono_us, shard, rate);
                        news = true;
                    }
                }
                Seen::Flows { path, count } => {
                    if let Some(line) = held.line_mut(path) {
                        line.carried.shares.counted(now.mono_us, shard, count);
                        let flows = line.carried.shares.flows(now.mono_us);
                        held.bond.flows(path, flows);
                    }
                }
                Seen::Sampled { path, packet_id, at_us } => {
                    if let Some(line) = held.line_mut(path) {
                        line.sampled.note(packet_id, at_us.min(now.mono_us));
                    }
                }
            }
        }
        // Most of what is seen is as it was before.
        let next = held.bond.due_us(now).filter(|_| !news).map(|us| us.min(held.look_us(now)));
        let Some(next) = next.filter(|us| *us > now.mono_us) else { return self.tick_bond(now, peer) };
        let next = next.max(held.ticked_us + BOND_TICK_US);
        if next < held.due_us {
            held.set_due(due, peer, next);
        }
        if held.told_serial != held.bond.plan().serial {
            self.bond_decided(now, peer);
        }
    }

    /// An authenticated packet came straight over a path; `frames` of it are data.
    pub(crate) fn bond_heard(&mut self, now: Now, peer: Address, path: &Path, frames: u64) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        let Some(line) = held.line_of(path) else { return };
        line.carried.inbound += frames;
        let id = line.id;
        if held.bond.heard(now, id) {
            self.arm_bond(now, peer);
        }
    }

    /// A frame of the node's own left over a path.
    pub(super) fn bond_carried(&mut self, now: Now, peer: Address, path: &Path, bytes: usize) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        held.data_us = Some(now.mono_us);
        if let Some(line) = held.line_of(path) {
            line.carried.bytes += bytes as u64;
            line.carried.outbound += 1;
            let id = line.id;
            held.bond.sent(now, id, 1, bytes as u64);
        }
    }

    /// A packet of the node's own left over a path: if its ID may be in a report of the remote, it is remembered.
    pub(crate) fn bond_sampled(&mut self, now: Now, peer: Address, path: &Path, packet_id: u64) {
        let Some(held) = self.bonds.table.get_mut(&peer).filter(|held| held.bond.plan().sampled) else { return };
        if is_sampled(packet_id)
            && let Some(line) = held.line_of(path)
        {
            line.sampled.note(packet_id, now.mono_us);
        }
    }

    /// The remote reports when packets that it got over this path came. // spec: bonding, "Receiving"
    pub(crate) fn bond_reported(&mut self, now: Now, peer: Address, path: &Path, records: &[QosRecord]) {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return };
        let Held { bond, lines, .. } = held;
        let Some(line) = lines.iter_mut().find(|l| l.path == *path) else { return };
        bond.report_came(now, line.id);
        for record in records {
            let Some(sent_us) = line.sampled.take(record.packet_id) else { continue };
            // The time held counts modulo 65536 ms; what would have been on its way for longer is not believed.
            let round_us = now.mono_us.saturating_sub(sent_us) % (65_536 * 1000);
            bond.reported(now, line.id, round_us as i64 - i64::from(record.holding_ms) * 1000);
        }
    }

    /// A peer says what came of ours over a path. False if that cannot be. // ours
    pub(crate) fn bond_arrived(&mut self, now: Now, peer: Address, path: &Path, report: &ReceiveReport) -> bool {
        let Some(held) = self.bonds.table.get_mut(&peer) else { return true };
        let Some(id) = held.line_of(path).map(|line| line.id) else { return true };
        held.bond.report(now, id, report)
    }
}
