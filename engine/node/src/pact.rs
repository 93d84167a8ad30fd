//! What is agreed on with other Hawsers by USER_MESSAGE, and the receive reports that follow from it. A peer that we have a
//! bond for is asked; whoever asks us is answered, bond or not. What marks and reports are good for is not known here.
// ours; spec: bonding, "A better bond on the same wire"

use std::collections::{BTreeMap, BTreeSet};

use bond::config::Policy;
use bond::pact::{Agreed, Pact, Unheeded};
use rand::Rng;
use wire::message::{ExtFrame, Features, OrderMark, PactMessage, ReceiveReport, UserMessage};
use wire::{Address, Mac, Now, Verb};

use crate::Node;
use crate::dispatch::Heard;
use crate::follow;
use crate::gate::{Bucket, Rate};
use crate::io::{Event, Output, PlanChange, Receipt};
use crate::limits::*;
use crate::path::Path;
use crate::send::Arrival;

const REPORTS: Rate = Rate::per_second(PACT_REPORTS_PER_S);

/// What is agreed on, by peer.
#[derive(Debug, Default)]
pub(crate) struct Pacts {
    peers: BTreeMap<Address, Held>,
    due: BTreeSet<(u64, Address)>,
    /// Paths with something to report, and from when on.
    reports: BTreeSet<(u64, Address, Path)>,
    paths: usize,
}

#[derive(Debug, Default)]
struct Held {
    pact: Pact,
    due_ms: Option<u64>,
    /// What the shards know.
    agreed: Option<Agreed>,
    given: Features,
    /// The same of `given`, which they may have forgotten with the peer.
    told: Features,
    /// Somebody was told that copies reach the peer's TAP.
    warned: bool,
    /// Names our counts.
    epoch: u32,
    /// What came, by the socket that it really came to.
    counted: BTreeMap<Path, Counted>,
    /// Reports of the peer.
    reported: Bucket,
}

/// What came over one path.
#[derive(Debug, Default)]
struct Counted {
    report: ReceiveReport,
    heard: follow::Heard,
    /// Packets and bytes that were reported, and when.
    told: (u64, u64),
    told_ms: Option<u64>,
    due_ms: Option<u64>,
}

impl Counted {
    /// When it is to be reported: as soon as a report is a hundredth of what came, at least each second, and never if
    /// nothing came.
    fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let (packets, bytes) = self.told;
        if self.report.packets == packets {
            return None;
        }
        let much = self.report.bytes.saturating_sub(bytes) >= PACT_REPORT_BYTES;
        let gap_ms = if much { PACT_REPORT_MS } else { PACT_REPORT_SLOW_MS };
        Some(self.told_ms.map_or(now_ms, |at| at + gap_ms))
    }
}

impl Pacts {
    /// What the peer does for us.
    pub(crate) fn agreed(&self, peer: Address) -> Option<Agreed> {
        self.peers.get(&peer)?.agreed
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        let offers = self.due.first().map(|&(at_ms, _)| at_ms);
        let reports = self.reports.first().map(|&(at_ms, ..)| at_ms);
        offers.into_iter().chain(reports).min()
    }

    /// Peers, paths that are counted.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.peers.len(), self.paths]
    }

    /// When a peer's frames came, by path.
    pub(crate) fn heard(&self, peer: Address) -> impl Iterator<Item = (Path, follow::Heard)> + '_ {
        let held = self.peers.get(&peer).into_iter();
        held.flat_map(|held| held.counted.iter().map(|(path, counted)| (*path, counted.heard)))
    }

    pub(crate) fn forget(&mut self, peer: Address) {
        let Some(held) = self.peers.remove(&peer) else { return };
        self.due.retain(|(_, of)| *of != peer);
        self.uncount(peer, held.counted);
    }

    fn uncount(&mut self, peer: Address, counted: BTreeMap<Path, Counted>) {
        self.paths -= counted.len();
        for (path, Counted { due_ms, .. }) in counted {
            due_ms.into_iter().for_each(|at_ms| {
                self.reports.remove(&(at_ms, peer, path));
            });
        }
    }

    /// The peer's entry. None: there is no room.
    fn entry(&mut self, peer: Address) -> Option<&mut Held> {
        if self.peers.len() >= PACTS_MAX && !self.peers.contains_key(&peer) {
            return None;
        }
        Some(self.peers.entry(peer).or_default())
    }

    /// Looks at the peer again at that time.
    fn set_due(&mut self, peer: Address, due_ms: u64) {
        let Some(held) = self.peers.get_mut(&peer) else { return };
        if let Some(at_ms) = held.due_ms.replace(due_ms) {
            self.due.remove(&(at_ms, peer));
        }
        self.due.insert((due_ms, peer));
    }

    /// Something came of a peer that wants to be told. False if there is no room for its path.
    fn count(&mut self, now: Now, peer: Address, path: Path, came: &Receipt) -> bool {
        let Some(held) = self.peers.get_mut(&peer).filter(|h| h.given.has(Features::REPORTS)) else { return true };
        let room = held.counted.len() < SLOTS_MAX && self.paths < PACT_PATHS_MAX;
        if !room && !held.counted.contains_key(&path) {
            return false;
        }
        let counted = held.counted.entry(path).or_insert_with(|| {
            self.paths += 1;
            Counted::default()
        });
        let report = &mut counted.report;
        (report.packets, report.bytes) = (report.packets + came.packets, report.bytes + came.bytes);
        let came_us = now.mono_us.saturating_sub(came.age_us);
        if came_us >= counted.heard.newest_us {
            report.newest = came.newest;
        }
        counted.heard.came(came_us, came.packets);
        let due_ms = counted.due_ms(now.ms());
        if let Some(at_ms) = std::mem::replace(&mut counted.due_ms, due_ms) {
            self.reports.remove(&(at_ms, peer, path));
        }
        self.reports.extend(due_ms.map(|at_ms| (at_ms, peer, path)));
        true
    }
}

impl Node {
    /// What a peer does for us because we have a bond for it.
    pub fn agreed(&self, peer: Address) -> Option<Agreed> {
        self.pacts.agreed(peer)
    }

    /// We have a bond for this peer, or none any more: that decides what we want of it.
    pub(crate) fn pact_wanted(&mut self, now: Now, peer: Address, wanted: Features) {
        if wanted.is_none() && !self.pacts.peers.contains_key(&peer) {
            return;
        }
        let Some(held) = self.pacts.entry(peer) else {
            self.counters.pacts_full += 1;
            return;
        };
        held.pact.want(now.ms(), wanted);
        self.pact_step(now, peer);
    }

    /// The settings changed: what we do not do any more is not agreed to either.
    pub(crate) fn pacts_configured(&mut self, now: Now) {
        if self.settings.resequence {
            return;
        }
        for peer in self.pacts.peers.keys().copied().collect::<Vec<_>>() {
            self.pacts.peers.get_mut(&peer).into_iter().for_each(|held| held.pact.stop_ordering());
            self.pact_changed(now, peer);
        }
    }

    /// Sends the offers and reports that are due, and ends what is over.
    pub(crate) fn pacts_step(&mut self, now: Now) {
        while let Some(&(at_ms, peer)) = self.pacts.due.first().filter(|(at_ms, _)| *at_ms <= now.ms()) {
            self.pact_step(now, peer);
            // Each is at a later time now, or it would be looked at for ever.
            if self.pacts.due.remove(&(at_ms, peer)) {
                self.pacts.set_due(peer, now.ms() + PACT_RETRY_MS);
            }
        }
        while let Some(&(at_ms, to, path)) = self.pacts.reports.first().filter(|(at_ms, ..)| *at_ms <= now.ms()) {
            self.pacts.reports.remove(&(at_ms, to, path));
            self.report_receipts(now, to, path);
        }
    }

    fn pact_step(&mut self, now: Now, peer: Address) {
        let now_ms = now.ms();
        let (nonce, path) = (self.random_id(), self.pact_path(now, peer));
        let Some(held) = self.pacts.peers.get_mut(&peer) else { return };
        held.pact.expire(now_ms);
        // Without a path of its own there is nothing to agree on; it is waited for.
        let offer = path.and_then(|path| Some((path, held.pact.poll(now_ms, nonce)?)));
        let earliest_ms = if path.is_some() { 0 } else { now_ms + PACT_RETRY_MS };
        // If there is nothing else, to be forgotten.
        let due_ms = held.pact.next_ms().unwrap_or(now_ms + PACT_IDLE_MS).max(earliest_ms);
        let in_vain = held.pact.unanswered() >= PACT_OFFERS_IN_VAIN && !held.warned;
        self.pacts.set_due(peer, due_ms);
        if let Some((path, offer)) = offer {
            self.counters.pact_offers += 1;
            self.tell(now, peer, path, &offer);
        }
        if in_vain && self.bond(peer).is_some_and(|bond| bond.params().policy == Policy::Broadcast) {
            self.pacts.peers.get_mut(&peer).into_iter().for_each(|held| held.warned = true);
            self.event(Event::CopiesDelivered { peer });
        }
        self.pact_changed(now, peer);
    }

    /// The proven path by which the peer is reached directly, if it is.
    fn pact_path(&self, now: Now, peer: Address) -> Option<Path> {
        let way = self.way(peer, now.ms()).filter(|way| way.owner == peer)?;
        self.is_proven(peer, &way.path).then_some(way.path)
    }

    fn tell(&mut self, now: Now, to: Address, path: Path, message: &PactMessage) {
        let mut payload = Vec::with_capacity(PactMessage::LEN_MAX);
        message.write(&mut payload);
        self.send_straight(now, to, Some(path.socket), path.remote, Verb::UserMessage, &payload, false);
    }

    /// Tells the shards what holds now, if that is something else.
    fn pact_changed(&mut self, now: Now, peer: Address) {
        let now_ms = now.ms();
        let epoch = self.rng.next_u32();
        let Some(held) = self.pacts.peers.get_mut(&peer) else { return };
        let (agreed, given) = (held.pact.agreed(now_ms), held.pact.given(now_ms));
        let (were, gave) = (std::mem::replace(&mut held.agreed, agreed), std::mem::replace(&mut held.given, given));
        if given.has(Features::REPORTS) && !gave.has(Features::REPORTS) {
            held.epoch = epoch;
        }
        if !given.has(Features::REPORTS) && !held.counted.is_empty() {
            let counted = std::mem::take(&mut held.counted);
            self.pacts.uncount(peer, counted);
        }
        if were.is_some() != agreed.is_some() {
            let n = if agreed.is_some() { &mut self.counters.pacts_made } else { &mut self.counters.pacts_ended };
            *n += 1;
        }
        if given != gave {
            if given.has(Features::DUPLICATES)
                && let Some(known) = self.peers.get(peer)
            {
                known.keys.remember_more();
            }
            self.plan_given(peer);
        }
        if agreed != were {
            self.plan_bond(now, peer);
        }
        let idle = self.pacts.peers.get(&peer).is_some_and(|held| held.pact.is_idle(now_ms));
        if idle {
            self.pacts.forget(peer);
        }
    }

    /// Tells the shards what we do for a peer, if they know the peer and not that.
    pub(crate) fn plan_given(&mut self, peer: Address) {
        let known = self.plan.has(peer);
        let Some(held) = self.pacts.peers.get_mut(&peer) else { return };
        let given = if known { held.given } else { Features::NONE };
        if std::mem::replace(&mut held.told, given) != given && known {
            self.output(Output::Plan(PlanChange::Given { address: peer, given }));
        }
    }

    /// A USER_MESSAGE of our kind.
    pub(crate) fn pact_message(
        &mut self,
        now: Now,
        arrival: &Arrival,
        from: Address,
        id: u64,
        message: &UserMessage<'_>,
    ) -> Heard {
        let Some(message) = PactMessage::parse(message) else {
            self.counters.pact_unknown += 1;
            return Heard::YES;
        };
        if !self.may_agree(arrival, from) {
            self.counters.pact_refused += 1;
            return Heard::YES;
        }
        if !self.peers.get(from).is_some_and(|p| p.keys.first_time(id)) {
            self.counters.dropped_repeat += 1;
            return Heard::NO;
        }
        match message {
            PactMessage::Offer { features, nonce } => self.pact_offered(now, arrival, from, features, nonce),
            PactMessage::Answer { features, nonce, window } => {
                let Some(held) = self.pacts.peers.get_mut(&from) else {
                    self.counters.pact_refused += 1;
                    return Heard::YES;
                };
                match held.pact.answered(now.ms(), features, nonce, window) {
                    Ok(()) => self.pact_step(now, from),
                    Err(Unheeded::Unasked | Unheeded::TooOften) => self.counters.pact_refused += 1,
                }
            }
            PactMessage::Report(report) => self.pact_reported(now, arrival, from, &report),
        }
        Heard::YES
    }

    fn pact_offered(&mut self, now: Now, arrival: &Arrival, from: Address, features: Features, nonce: u64) {
        let Some(held) = self.pacts.entry(from) else {
            self.counters.pacts_full += 1;
            return;
        };
        let features = if self.settings.resequence { features } else { features.without(Features::ORDER_MARK) };
        match held.pact.offered(now.ms(), features, nonce, wire::recent::WIDE_IDS as u32) {
            Ok(answer) => {
                // The shards know before the peer does.
                self.pact_step(now, from);
                if let Some(answer) = answer {
                    self.counters.pact_answers += 1;
                    self.tell(now, from, came_over(arrival), &answer);
                }
            }
            Err(Unheeded::Unasked | Unheeded::TooOften) => self.counters.pact_refused += 1,
        }
    }

    /// The peer reports what came over this path.
    fn pact_reported(&mut self, now: Now, arrival: &Arrival, from: Address, report: &ReceiveReport) {
        let wanted = |held: &&mut Held| held.agreed.is_some_and(|a| a.features.has(Features::REPORTS));
        let Some(held) = self.pacts.peers.get_mut(&from).filter(wanted) else {
            self.counters.pact_refused += 1;
            return;
        };
        if !held.reported.take(REPORTS, now.ms()) {
            self.counters.receipts_over_rate += 1;
            return;
        }
        self.counters.receipts_received += 1;
        if !self.bond_arrived(now, from, &arrival.path, report) {
            self.counters.receipts_absurd += 1;
        }
    }

    /// Whether what came says anything: straight from a peer that we have to do with, over a path where it was proven to be.
    fn may_agree(&self, arrival: &Arrival, from: Address) -> bool {
        let Some(peer) = self.peers.get(from) else { return false };
        arrival.direct() && !peer.stranger() && !peer.upstream && self.is_proven(from, &arrival.path) && !self.halted
    }

    /// What the shards received of peers that want to be told.
    pub fn handle_receipts(&mut self, now: Now, receipts: &[Receipt]) {
        for came in receipts {
            let path = Path { socket: came.socket, remote: came.remote };
            self.counters.receipts_full += u64::from(!self.pacts.count(now, came.peer, path, came));
            self.follow(now, came.peer, path);
        }
        self.pacts_step(now);
    }

    fn report_receipts(&mut self, now: Now, to: Address, path: Path) {
        let proven = self.is_proven(to, &self.arrival(path, 0).path);
        let Some(held) = self.pacts.peers.get_mut(&to) else { return };
        if !proven {
            if held.counted.remove(&path).is_some() {
                self.pacts.paths -= 1;
            }
            return;
        }
        let epoch = held.epoch;
        let Some(counted) = held.counted.get_mut(&path) else { return };
        (counted.due_ms, counted.told_ms) = (None, Some(now.ms()));
        counted.told = (counted.report.packets, counted.report.bytes);
        let held_us = u32::try_from(now.mono_us.saturating_sub(counted.heard.newest_us)).unwrap_or(u32::MAX);
        let report = ReceiveReport { epoch, held_us, ..counted.report };
        self.counters.receipts_sent += 1;
        self.tell(now, to, path, &PactMessage::Report(report));
    }

    /// An EXT_FRAME's payload without its order mark, if it has one. Who marks frames although we never agreed to it, or
    /// have forgotten, is told so.
    pub(crate) fn unmarked<'p>(&mut self, now: Now, arrival: &Arrival, from: Address, payload: &'p [u8]) -> &'p [u8] {
        let Ok(frame) = ExtFrame::parse(payload) else { return payload };
        let ends = (Mac::of_member(frame.network, self.address()), Mac::of_member(frame.network, from));
        if !frame.is_marked() || (frame.to, frame.from) != ends {
            return payload;
        }
        if OrderMark::split(frame.ethertype, frame.payload).is_none() {
            return payload;
        }
        self.counters.marks_removed += 1;
        if self.may_agree(arrival, from) {
            self.stray_mark(now, arrival, from);
        }
        &payload[..payload.len() - OrderMark::LEN]
    }

    fn stray_mark(&mut self, now: Now, arrival: &Arrival, from: Address) {
        let Some(held) = self.pacts.entry(from) else {
            self.counters.pacts_full += 1;
            return;
        };
        if let Some(message) = held.pact.stray_mark(now.ms()) {
            self.counters.pact_answers += 1;
            self.tell(now, from, came_over(arrival), &message);
            self.pact_step(now, from);
        }
    }
}

/// By which way to answer what came.
fn came_over(arrival: &Arrival) -> Path {
    Path { socket: arrival.lane.unwrap_or(arrival.path.socket), remote: arrival.path.remote }
}
