//! Timing reports to peers that bond. Such a peer sends QOS_MEASUREMENT, uses several paths at once, and gives up each of them
//! over which no QOS_MEASUREMENT comes back, whatever we do ourselves: so it is told which of its packets came by which path,
//! and how long ago. Others get reports only while a bond of ours in `compat` mode asks for theirs. What a peer reports is for
//! our own bond with it, if there is one.
// spec: bonding, "QoS measurement", "Who is bonded with whom"

use std::collections::{BTreeMap, BTreeSet};

use bond::compat::gate::BurstGate;
use bond::limits::{FAILOVER_INTERVAL_MS, QOS_RECORDS_OURS};
use bond::qos::{Arrivals, is_sampled};
use wire::message::qos::{QOS_MAX, QOS_MIN};
use wire::message::{QosMeasurement, QosRecord};
use wire::packet::HDR_LEN;
use wire::{Address, Malformed, Now, Verb};

use crate::Node;
use crate::dispatch::{Handled, Heard};
use crate::gate::Stamp;
use crate::io::Arrival as Came;
use crate::limits::*;
use crate::path::{Path, Slot};
use crate::send::Arrival;

/// The peers that bond, and what is to be reported to them.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    peers: BTreeMap<Address, Bonded>,
    /// Paths with something to report, and from when on, ms.
    due: BTreeSet<(u64, Address, Path)>,
    paths: usize,
}

/// A record that names no packet, since none is sampled under an even ID: "I report because you do". Others do not find it;
/// two of us know by it that there is no bond between them, and stop. // ours
const ANSWER: QosRecord = QosRecord { packet_id: u64::from_be_bytes(*b"hawser.\0"), holding_ms: 0 };

#[derive(Debug)]
struct Bonded {
    /// Its own latest report that was no answer to ours.
    last_heard: Stamp,
    /// We report of our own accord, this often. ms
    ours_ms: Option<u64>,
    gate: BurstGate,
    /// By the socket that packets really came to, be it a lane: for the peer that is a path of its own.
    paths: BTreeMap<Path, Reported>,
}

#[derive(Debug, Default)]
struct Reported {
    arrivals: Arrivals,
    last_sent: Stamp,
}

impl Reports {
    pub(crate) fn is_bonded(&self, peer: Address) -> bool {
        self.peers.contains_key(&peer)
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.due.first().map(|&(at_ms, ..)| at_ms)
    }

    /// Peers, paths.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.peers.len(), self.paths]
    }

    pub(crate) fn forget(&mut self, peer: Address) {
        if let Some(bonded) = self.peers.remove(&peer) {
            self.paths -= bonded.paths.len();
            self.due.retain(|(_, of, _)| *of != peer);
        }
    }

    fn forget_path(&mut self, peer: Address, path: &Path) {
        if self.peers.get_mut(&peer).is_some_and(|bonded| bonded.paths.remove(path).is_some()) {
            self.paths -= 1;
            self.due.retain(|(_, of, due)| (of, due) != (&peer, path));
        }
    }

    /// Takes a report of a peer for what it is: a sign that the peer bonds.
    fn heard(&mut self, peer: Address, now_ms: u64) -> Heeded {
        if self.peers.len() >= QOS_PEERS_MAX && !self.peers.contains_key(&peer) {
            return Heeded::Full;
        }
        let bonded = self.peers.entry(peer).or_insert_with(|| Bonded {
            last_heard: Stamp::NEVER,
            ours_ms: None,
            gate: BurstGate::qos(FAILOVER_INTERVAL_MS),
            paths: BTreeMap::new(),
        });
        if !bonded.gate.pass(now_ms) {
            return Heeded::Gated;
        }
        let new = !bonded.last_heard.is_set();
        bonded.last_heard.set(now_ms);
        if new { Heeded::New } else { Heeded::Known }
    }

    /// Reports go to a peer of our own accord from now on, or no longer. False if there is no room for one more.
    fn initiate(&mut self, peer: Address, ours_ms: Option<u64>) -> bool {
        if let Some(bonded) = self.peers.get_mut(&peer) {
            bonded.ours_ms = ours_ms;
            if ours_ms.is_none() && !bonded.last_heard.is_set() {
                self.forget(peer);
            }
        } else if ours_ms.is_some() && self.peers.len() < QOS_PEERS_MAX {
            let gate = BurstGate::qos(FAILOVER_INTERVAL_MS);
            let bonded = Bonded { last_heard: Stamp::NEVER, ours_ms, gate, paths: BTreeMap::new() };
            self.peers.insert(peer, bonded);
        }
        ours_ms.is_none() || self.peers.contains_key(&peer)
    }

    /// An answer to what we report of our own accord; others are answers to answers. False beyond the gate.
    fn answered(&mut self, peer: Address, now_ms: u64) -> bool {
        self.peers.get_mut(&peer).is_some_and(|bonded| bonded.gate.pass(now_ms))
    }

    /// A packet of a peer that bonds came.
    fn note(&mut self, peer: Address, path: Path, packet_id: u64, at_us: u64, now_ms: u64) -> Noted {
        let Some(bonded) = self.peers.get_mut(&peer) else { return Noted::Kept };
        let room = self.paths < QOS_PATHS_MAX && bonded.paths.len() < SLOTS_MAX;
        if !room && !bonded.paths.contains_key(&path) {
            return Noted::Full;
        }
        let reported = bonded.paths.entry(path).or_insert_with(|| {
            self.paths += 1;
            Reported::default()
        });
        if reported.arrivals.contains(packet_id) {
            return Noted::Kept;
        }
        if reported.arrivals.is_empty() {
            let gap_ms = bonded.ours_ms.filter(|_| !bonded.last_heard.is_set()).unwrap_or(QOS_REPORT_MS);
            let due_ms = reported.last_sent.get().map_or(now_ms, |at| now_ms.max(at + gap_ms));
            self.due.insert((due_ms, peer, path));
        }
        if reported.arrivals.note(packet_id, at_us) { Noted::Kept } else { Noted::Pushed }
    }
}

/// What became of a report of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heeded {
    /// The peer's first.
    New,
    Known,
    Gated,
    /// There is no room for one more peer.
    Full,
}

/// What became of a packet to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    Kept,
    /// An older one went for it.
    Pushed,
    /// There is no room for one more path.
    Full,
}

impl Node {
    /// Handles QOS_MEASUREMENT. It is no sign of life and confirms no path. // spec: bonding, "Receiving"
    pub(crate) fn qos_measurement(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        id: u64,
        payload: &[u8],
    ) -> Handled {
        // What is left of a record at the end is left alone, like the records.
        if !(QOS_MIN..=QOS_MAX).contains(&payload.len()) {
            return Err(Malformed { what: "qos measurement length" });
        }
        let Some(peer) = self.peers.get(from) else { return Ok(Heard::NO) };
        if !arrival.direct() || (peer.stranger() && !self.roots.is_upstream()) {
            self.counters.qos_refused += 1;
            return Ok(Heard::NO);
        }
        if !peer.keys.first_time(id) {
            self.counters.dropped_repeat += 1;
            return Ok(Heard::NO);
        }
        let whole = payload.len() / QosRecord::LEN * QosRecord::LEN;
        let records = QosMeasurement::parse(&payload[..whole]).map(|report| report.records).unwrap_or_default();
        if records.contains(&ANSWER) {
            match self.reports.answered(from, now.ms()) {
                true => self.counters.qos_received += 1,
                false => self.counters.qos_gated += 1,
            }
            self.bond_reported(now, from, &arrival.path, &records);
            return Ok(Heard::NO);
        }
        match self.reports.heard(from, now.ms()) {
            Heeded::New => {
                self.counters.qos_received += 1;
                self.plan_peer(now, from);
            }
            Heeded::Known => self.counters.qos_received += 1,
            Heeded::Gated => {
                self.counters.qos_gated += 1;
                return Ok(Heard::NO);
            }
            Heeded::Full => self.counters.qos_full += 1,
        }
        self.bond_reported(now, from, &arrival.path, &records);
        Ok(Heard::NO)
    }

    /// What a bond of ours in `compat` mode wants told to its peer, or nothing any more.
    pub(crate) fn report_of_our_own(&mut self, now: Now, to: Address, every_ms: Option<u64>) {
        self.counters.qos_full += u64::from(!self.reports.initiate(to, every_ms));
        self.plan_peer(now, to);
    }

    /// What the shards received from peers that bond.
    pub fn handle_arrivals(&mut self, now: Now, arrivals: &[Came]) {
        for came in arrivals {
            let arrival = self.arrival(Path { socket: came.socket, remote: came.remote }, 0);
            self.note_arrival(now, &arrival, came.peer, came.packet_id, came.age_us);
        }
    }

    /// A packet that counts as received came that long ago: if its sender bonds, it will be told so.
    pub(crate) fn note_arrival(&mut self, now: Now, arrival: &Arrival, from: Address, packet_id: u64, age_us: u64) {
        if !self.reports.is_bonded(from) || !arrival.direct() || !is_sampled(packet_id) {
            return;
        }
        // Nothing is sent to where the peer was never proven to be.
        if !self.is_proven(from, &arrival.path) {
            return;
        }
        let path = Path { socket: arrival.lane.unwrap_or(arrival.path.socket), remote: arrival.path.remote };
        match self.reports.note(from, path, packet_id, now.mono_us.saturating_sub(age_us), now.ms()) {
            Noted::Kept => {}
            Noted::Pushed => self.counters.qos_unreported += 1,
            Noted::Full => self.counters.qos_full += 1,
        }
        self.send_reports(now);
    }

    /// The peer was proven to be at the far end of this path. It may send to a port of ours that we have no path from, because
    /// we reach its host from an earlier one.
    pub(crate) fn is_proven(&self, peer: Address, path: &Path) -> bool {
        let here = |s: &Slot| {
            s.path == *path || s.path.remote.ip() == path.remote.ip() && self.sockets.contains_key(&path.socket)
        };
        self.peers.get(peer).is_some_and(|p| p.slots.iter().any(here))
    }

    /// Sends the reports that are due, each over the path that it is about.
    pub(crate) fn send_reports(&mut self, now: Now) {
        while self.reports.next_ms().is_some_and(|at_ms| at_ms <= now.ms()) {
            if let Some((_, to, path)) = self.reports.due.pop_first() {
                self.send_report(now, to, path);
            }
        }
    }

    fn send_report(&mut self, now: Now, to: Address, path: Path) {
        if !self.is_proven(to, &self.arrival(path, 0).path) {
            return self.reports.forget_path(to, &path);
        }
        let room = self.mtu_over(to, Some(path.socket), path.remote).saturating_sub(HDR_LEN) / QosRecord::LEN;
        let reported = self.reports.peers.get_mut(&to).and_then(|bonded| bonded.paths.get_mut(&path));
        let Some(Reported { arrivals, last_sent }) = reported else { return };
        let mut records = arrivals.report(now.mono_us, room.saturating_sub(1).min(QOS_RECORDS_OURS));
        last_sent.set(now.ms());
        if self.reports.peers.get(&to).is_some_and(|bonded| bonded.ours_ms.is_none()) {
            records.push(ANSWER);
            records.sort_unstable_by_key(|record| record.packet_id);
        }
        let mut payload = Vec::with_capacity(records.len() * QosRecord::LEN);
        QosMeasurement { records }.write(&mut payload);
        // V1 sends it in clear and takes it either way.
        self.send_straight(now, to, Some(path.socket), path.remote, Verb::QosMeasurement, &payload, false);
        self.counters.qos_sent += 1;
    }

    /// Forgets peers that do not bond any more, and paths that are gone.
    pub(crate) fn expire_reports(&mut self, now: Now) {
        let now_ms = now.ms();
        for bonded in self.reports.peers.values_mut().filter(|b| b.ours_ms.is_some()) {
            if !bonded.last_heard.within(QOS_LIFE_MS, now_ms) {
                bonded.last_heard.clear();
            }
        }
        let over = |bonded: &Bonded| !bonded.last_heard.within(QOS_LIFE_MS, now_ms) && bonded.ours_ms.is_none();
        let gone: Vec<Address> = self.reports.peers.iter().filter(|(_, b)| over(b)).map(|(&peer, _)| peer).collect();
        for peer in gone {
            self.reports.forget(peer);
            self.plan_peer(now, peer);
        }
        let known = self.reports.peers.iter().flat_map(|(&peer, b)| b.paths.keys().map(move |&path| (peer, path)));
        let lost = |&(peer, path): &(Address, Path)| !self.is_proven(peer, &self.arrival(path, 0).path);
        for (peer, path) in known.filter(lost).collect::<Vec<_>>() {
            self.reports.forget_path(peer, &path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::LocalSocketId;

    fn peer(n: usize) -> Address {
        Address::from_u64(n as u64 + 1)
    }

    fn path(n: usize) -> Path {
        Path { socket: LocalSocketId(1), remote: ([192, 0, 2, 1], n as u16 + 1).into() }
    }

    #[test]
    fn peers_and_paths_have_bounds_and_what_is_forgotten_makes_room() {
        let mut reports = Reports::default();
        assert!((0..QOS_PEERS_MAX).all(|n| reports.heard(peer(n), 1) == Heeded::New));
        assert_eq!(reports.heard(peer(QOS_PEERS_MAX), 1), Heeded::Full);
        assert_eq!(reports.heard(peer(3), 1), Heeded::Known);
        assert!((0..SLOTS_MAX).all(|n| reports.note(peer(0), path(n), 1, 1, 1) == Noted::Kept));
        assert_eq!(reports.note(peer(0), path(SLOTS_MAX), 1, 1, 1), Noted::Full, "too many of one peer");
        for n in SLOTS_MAX..QOS_PATHS_MAX {
            assert_eq!(reports.note(peer(n / SLOTS_MAX), path(n), 1, 1, 1), Noted::Kept);
        }
        assert_eq!(reports.note(peer(1000), path(1), 1, 1, 1), Noted::Full, "too many in all");
        assert_eq!((reports.sizes(), reports.due.len()), ([QOS_PEERS_MAX, QOS_PATHS_MAX], QOS_PATHS_MAX));
        reports.forget(peer(0));
        reports.forget_path(peer(1), &path(SLOTS_MAX));
        let left = QOS_PATHS_MAX - SLOTS_MAX - 1;
        assert_eq!((reports.sizes(), reports.due.len()), ([QOS_PEERS_MAX - 1, left], left));
        assert_eq!(reports.heard(peer(QOS_PEERS_MAX), 1), Heeded::New);
        assert_eq!(reports.note(peer(QOS_PEERS_MAX), path(1), 1, 1, 1), Noted::Kept);
    }

    #[test]
    fn a_packet_is_reported_once_and_the_oldest_goes_first() {
        let mut reports = Reports::default();
        reports.heard(peer(0), 1);
        let mut note = |id| reports.note(peer(0), path(0), id, id * 1000, 1);
        assert!((0..QOS_RECORDS_OURS as u64).all(|id| note(id) == Noted::Kept && note(id) == Noted::Kept));
        assert_eq!(note(500), Noted::Pushed);
        assert_eq!(note(500), Noted::Kept);
    }
}
