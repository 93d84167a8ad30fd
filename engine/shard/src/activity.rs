//! What frames went over which path of which peer since the last tick, and of peers that bond which packets came. Noted in
//! the peer's own entry, so that a packet costs a comparison or two; carried to the control plane in one batch, which learns
//! paths and liveness from it, and tells the peers that bond.

use std::net::SocketAddr;

use bond::qos::{Arrivals, is_sampled};
use wire::{Address, Now};

use crate::{Path, SocketId};

/// Paths of one peer that are counted within one tick. A peer has at most as many. // spec: paths, "Constants"
pub const ACTIVITY_PATHS_MAX: usize = 64;
/// Packets of a peer that bonds which are remembered per path within one tick, the newest; a report to the peer has room for
/// 100, once a second.
pub const ARRIVALS_MAX: usize = 32;

/// Frames received and sent by a shard over one path of one peer since the last tick. Packets that went to the control
/// plane are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The peer.
    pub peer: Address,
    /// Our socket.
    pub socket: SocketId,
    /// The remote endpoint: the peer's own, or that of the root that relays.
    pub remote: SocketAddr,
    /// The packets received had hop count 0. Says nothing if none was received.
    pub hops0: bool,
    /// Packets received: authenticated, and frames of a network whose gate the peer passes.
    pub rx_packets: u64,
    /// Their bytes, fragment headers not included.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Their bytes, fragment headers not included.
    pub tx_bytes: u64,
}

/// A packet of a peer that bonds: one of those with an odd ID, received directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The peer.
    pub peer: Address,
    /// Our socket.
    pub socket: SocketId,
    /// The remote endpoint.
    pub remote: SocketAddr,
    /// The packet's ID.
    pub packet_id: u64,
    /// How long ago it came. us.
    pub age_us: u64,
}

/// Frames that came straight from a peer that is told what comes, over one path, since the last tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The peer.
    pub peer: Address,
    /// Our socket.
    pub socket: SocketId,
    /// The remote endpoint.
    pub remote: SocketAddr,
    /// How many, repetitions included.
    pub packets: u64,
    /// Bytes of their packets.
    pub bytes: u64,
    /// ID of the newest.
    pub newest: u64,
    /// How long ago that one came. us.
    pub age_us: u64,
}

/// What a shard saw since its last tick.
#[derive(Debug, Default)]
pub struct Report {
    /// Per path.
    pub activity: Vec<Activity>,
    /// Of peers that bond.
    pub arrivals: Vec<Arrival>,
    /// Of peers that are told what comes.
    pub receipts: Vec<Receipt>,
    /// Of peers that we bond with.
    pub bonds: Vec<(Address, bond::Seen)>,
}

impl Report {
    /// There was nothing.
    pub fn is_empty(&self) -> bool {
        self.activity.is_empty() && self.receipts.is_empty() && self.bonds.is_empty()
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.activity.clear();
        self.arrivals.clear();
        self.receipts.clear();
        self.bonds.clear();
    }
}

/// The paths of one peer since the last tick.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lines: Vec<Line>,
    /// If the peer bonds: what came by each line, in their order.
    arrivals: Option<Vec<Arrivals<ARRIVALS_MAX>>>,
    /// If the peer is told what comes.
    receipts: Option<Vec<Count>>,
}

/// What came over one path, repetitions included.
#[derive(Debug)]
struct Count {
    path: Path,
    packets: u64,
    bytes: u64,
    newest: u64,
    newest_us: u64,
}

#[derive(Debug)]
struct Line {
    path: Path,
    hops0: bool,
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
}

/// A packet received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) now: Now,
    pub(crate) packet_id: u64,
    pub(crate) hops0: bool,
    pub(crate) bytes: usize,
}

/// There is no line left for another path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Ledger {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.receipts.as_ref().is_none_or(Vec::is_empty)
    }

    /// Whether the peer is told what comes.
    pub(crate) fn set_reported(&mut self, reported: bool) {
        if reported != self.receipts.is_some() {
            self.receipts = reported.then(|| Vec::with_capacity(4));
        }
    }

    /// Something waits to be told.
    pub(crate) fn has_receipts(&self) -> bool {
        self.receipts.as_ref().is_some_and(|counts| !counts.is_empty())
    }

    /// Counts a frame for a peer that is told what comes, if this is one.
    pub(crate) fn counted(&mut self, path: Path, came: Received) -> Result<(), Full> {
        let Some(receipts) = self.receipts.as_mut().filter(|_| came.hops0) else { return Ok(()) };
        let at = match receipts.iter().position(|count| count.path == path) {
            Some(at) => at,
            None if receipts.len() == ACTIVITY_PATHS_MAX => return Err(Full),
            None => {
                receipts.push(Count { path, packets: 0, bytes: 0, newest: 0, newest_us: 0 });
                receipts.len() - 1
            }
        };
        let count = &mut receipts[at];
        (count.packets, count.bytes) = (count.packets + 1, count.bytes + came.bytes as u64);
        (count.newest, count.newest_us) = (came.packet_id, came.now.mono_us);
        Ok(())
    }

    /// Whether the peer bonds, as it was last said.
    pub(crate) fn is_bonded(&self) -> bool {
        self.arrivals.is_some()
    }

    /// Whether the peer bonds.
    pub(crate) fn set_bonded(&mut self, bonded: bool) {
        if bonded != self.arrivals.is_some() {
            self.arrivals = bonded.then(|| Vec::with_capacity(4));
        }
    }

    pub(crate) fn received(&mut self, path: Path, from: Received) -> Result<(), Full> {
        let Received { now, packet_id, hops0, bytes } = from;
        let at = self.find(path, |line| line.hops0 == hops0 || line.rx_packets == 0)?;
        let line = &mut self.lines[at];
        line.hops0 = hops0;
        line.rx_packets += 1;
        line.rx_bytes += bytes as u64;
        if let Some(arrivals) = &mut self.arrivals
            && hops0
            && is_sampled(packet_id)
        {
            if arrivals.len() <= at {
                arrivals.resize_with(at + 1, Arrivals::default);
            }
            arrivals[at].note(packet_id, now.mono_us);
        }
        Ok(())
    }

    pub(crate) fn sent(&mut self, path: Path, packets: usize, bytes: usize) -> Result<(), Full> {
        let at = self.find(path, |_| true)?;
        let line = &mut self.lines[at];
        line.tx_packets += packets as u64;
        line.tx_bytes += bytes as u64;
        Ok(())
    }

    /// Appends what came to `report` and starts anew.
    pub(crate) fn drain_receipts(&mut self, now: Now, peer: Address, report: &mut Report) {
        report.receipts.extend(self.receipts.iter_mut().flat_map(|counts| counts.drain(..)).map(|count| Receipt {
            peer,
            socket: count.path.socket,
            remote: count.path.remote,
            packets: count.packets,
            bytes: count.bytes,
            newest: count.newest,
            age_us: now.mono_us.saturating_sub(count.newest_us),
        }));
    }

    /// Appends a line's worth each to `report` and starts anew.
    pub(crate) fn drain(&mut self, now: Now, peer: Address, report: &mut Report) {
        for (line, arrivals) in self.lines.iter().zip(self.arrivals.iter_mut().flatten()) {
            let Path { socket, remote } = line.path;
            report.arrivals.extend(arrivals.iter().map(|(packet_id, at_us)| {
                let age_us = now.mono_us.saturating_sub(at_us);
                Arrival { peer, socket, remote, packet_id, age_us }
            }));
            arrivals.clear();
        }
        self.drain_receipts(now, peer, report);
        report.activity.extend(self.lines.drain(..).map(|line| Activity {
            peer,
            socket: line.path.socket,
            remote: line.path.remote,
            hops0: line.hops0,
            rx_packets: line.rx_packets,
            rx_bytes: line.rx_bytes,
            tx_packets: line.tx_packets,
            tx_bytes: line.tx_bytes,
        }));
    }

    /// The place of a line for this path.
    fn find(&mut self, path: Path, fits: impl Fn(&Line) -> bool) -> Result<usize, Full> {
        match self.lines.iter().position(|line| line.path == path && fits(line)) {
            Some(at) => Ok(at),
            None if self.lines.len() == ACTIVITY_PATHS_MAX => Err(Full),
            None => {
                self.lines.push(Line { path, hops0: false, rx_packets: 0, rx_bytes: 0, tx_packets: 0, tx_bytes: 0 });
                Ok(self.lines.len() - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Address = Address::from_u64(0x92514cdce8);

    fn path(port: u16) -> Path {
        Path { socket: SocketId(1), remote: SocketAddr::from(([192, 0, 2, 1], port)) }
    }

    fn came(packet_id: u64, hops0: bool, bytes: usize) -> Received {
        Received { now: Now::at_ms(packet_id), packet_id, hops0, bytes }
    }

    fn drained(ledger: &mut Ledger) -> Vec<Activity> {
        let mut report = Report::default();
        ledger.drain(Now::at_ms(1000), PEER, &mut report);
        assert!(report.arrivals.is_empty());
        report.activity
    }

    #[test]
    fn both_directions_of_a_path_share_a_line() {
        let mut ledger = Ledger::default();
        ledger.sent(path(1), 1, 100).unwrap();
        ledger.received(path(1), came(1, true, 50)).unwrap();
        ledger.sent(path(1), 1, 100).unwrap();
        let report = drained(&mut ledger);
        assert_eq!(
            report,
            [Activity {
                peer: PEER,
                socket: SocketId(1),
                remote: path(1).remote,
                hops0: true,
                rx_packets: 1,
                rx_bytes: 50,
                tx_packets: 2,
                tx_bytes: 200
            }]
        );
        assert!(ledger.is_empty());
    }

    #[test]
    fn relayed_packets_are_kept_apart_from_direct_ones() {
        let mut ledger = Ledger::default();
        ledger.received(path(1), came(1, true, 1)).unwrap();
        ledger.received(path(1), came(3, false, 1)).unwrap();
        let report = drained(&mut ledger);
        assert_eq!(report.iter().map(|a| (a.hops0, a.rx_packets)).collect::<Vec<_>>(), [(true, 1), (false, 1)]);
    }

    #[test]
    fn a_full_ledger_refuses_new_paths_and_still_counts_the_old_ones() {
        let mut ledger = Ledger::default();
        for port in 0..ACTIVITY_PATHS_MAX as u16 {
            ledger.received(path(port), came(1, true, 1)).unwrap();
        }
        assert_eq!(ledger.received(path(1000), came(1, true, 1)), Err(Full));
        assert_eq!(ledger.received(path(0), came(1, true, 1)), Ok(()));
        assert_eq!(drained(&mut ledger).len(), ACTIVITY_PATHS_MAX);
    }

    #[test]
    fn a_peer_that_is_told_what_comes_has_its_frames_counted_by_path_and_relayed_ones_not() {
        let mut ledger = Ledger::default();
        ledger.counted(path(1), came(1, true, 100)).unwrap();
        assert!(ledger.is_empty(), "nobody asked");
        ledger.set_reported(true);
        for (port, id, hops0) in [(1, 10, true), (2, 11, true), (1, 12, true), (1, 13, false)] {
            ledger.counted(path(port), came(id, hops0, 100)).unwrap();
        }
        ledger.set_reported(true); // told again: nothing is lost
        assert!(!ledger.is_empty());
        let mut report = Report::default();
        ledger.drain(Now::at_ms(1000), PEER, &mut report);
        let Path { socket, remote } = path(1);
        let first = Receipt { peer: PEER, socket, remote, packets: 2, bytes: 200, newest: 12, age_us: 988_000 };
        assert_eq!(report.receipts[0], first);
        assert_eq!((report.receipts[1].packets, report.receipts[1].newest), (1, 11));
        assert!(ledger.is_empty() && report.activity.is_empty() && !report.is_empty());
        for port in 0..ACTIVITY_PATHS_MAX as u16 {
            ledger.counted(path(port), came(1, true, 1)).unwrap();
        }
        assert_eq!(ledger.counted(path(1000), came(1, true, 1)), Err(Full));
    }

    #[test]
    fn of_a_peer_that_bonds_the_newest_odd_packets_are_told_by_path_once() {
        let mut ledger = Ledger::default();
        ledger.set_bonded(true);
        ledger.sent(path(1), 1, 100).unwrap();
        for id in 0..100 {
            ledger.received(path(2 + id as u16 % 2), came(id, id < 98, 1)).unwrap();
        }
        ledger.set_bonded(true); // told again: nothing is lost
        let mut report = Report::default();
        ledger.drain(Now::at_ms(1000), PEER, &mut report);
        let Path { socket, remote } = path(3);
        let told = |packet_id| Arrival { peer: PEER, socket, remote, packet_id, age_us: (1000 - packet_id) * 1000 };
        // 99 came relayed; of 1 to 97 the newest
        let newest: Vec<Arrival> = (1..98).filter(|id| id % 2 == 1).skip(49 - ARRIVALS_MAX).map(told).collect();
        assert_eq!(report.arrivals, newest);
        ledger.received(path(5), came(6, true, 1)).unwrap();
        assert!(!drained(&mut ledger).is_empty());
        ledger.set_bonded(false);
        ledger.received(path(5), came(7, true, 1)).unwrap();
        assert!(!drained(&mut ledger).is_empty());
    }
}
