//! What frames went over which path of which peer since the last tick. Noted in the peer's own entry, so that a packet
//! costs a comparison or two; carried to the control plane in one batch, which learns paths and liveness from it.

use std::net::SocketAddr;

use wire::Address;

use crate::{Path, SocketId};

/// Paths of one peer that are counted within one tick. A peer has at most as many. // spec: paths, "Constants"
pub const ACTIVITY_PATHS_MAX: usize = 64;

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

/// The paths of one peer since the last tick.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lines: Vec<Line>,
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

/// There is no line left for another path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Ledger {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn received(&mut self, path: Path, hops0: bool, bytes: usize) -> Result<(), Full> {
        let line = self.line(path, |line| line.hops0 == hops0 || line.rx_packets == 0)?;
        line.hops0 = hops0;
        line.rx_packets += 1;
        line.rx_bytes += bytes as u64;
        Ok(())
    }

    pub(crate) fn sent(&mut self, path: Path, packets: usize, bytes: usize) -> Result<(), Full> {
        let line = self.line(path, |_| true)?;
        line.tx_packets += packets as u64;
        line.tx_bytes += bytes as u64;
        Ok(())
    }

    /// Appends a line's worth each to `report` and starts anew.
    pub(crate) fn drain(&mut self, peer: Address, report: &mut Vec<Activity>) {
        report.extend(self.lines.drain(..).map(|line| Activity {
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

    fn line(&mut self, path: Path, fits: impl Fn(&Line) -> bool) -> Result<&mut Line, Full> {
        let at = match self.lines.iter().position(|line| line.path == path && fits(line)) {
            Some(at) => at,
            None if self.lines.len() == ACTIVITY_PATHS_MAX => return Err(Full),
            None => {
                self.lines.push(Line { path, hops0: false, rx_packets: 0, rx_bytes: 0, tx_packets: 0, tx_bytes: 0 });
                self.lines.len() - 1
            }
        };
        Ok(&mut self.lines[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Address = Address::from_u64(0x92514cdce8);

    fn path(port: u16) -> Path {
        Path { socket: SocketId(1), remote: SocketAddr::from(([192, 0, 2, 1], port)) }
    }

    fn drained(ledger: &mut Ledger) -> Vec<Activity> {
        let mut report = Vec::new();
        ledger.drain(PEER, &mut report);
        report
    }

    #[test]
    fn both_directions_of_a_path_share_a_line() {
        let mut ledger = Ledger::default();
        ledger.sent(path(1), 1, 100).unwrap();
        ledger.received(path(1), true, 50).unwrap();
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
        ledger.received(path(1), true, 1).unwrap();
        ledger.received(path(1), false, 1).unwrap();
        let report = drained(&mut ledger);
        assert_eq!(report.iter().map(|a| (a.hops0, a.rx_packets)).collect::<Vec<_>>(), [(true, 1), (false, 1)]);
    }

    #[test]
    fn a_full_ledger_refuses_new_paths_and_still_counts_the_old_ones() {
        let mut ledger = Ledger::default();
        for port in 0..ACTIVITY_PATHS_MAX as u16 {
            ledger.received(path(port), true, 1).unwrap();
        }
        assert_eq!(ledger.received(path(1000), true, 1), Err(Full));
        assert_eq!(ledger.received(path(0), true, 1), Ok(()));
        assert_eq!(drained(&mut ledger).len(), ACTIVITY_PATHS_MAX);
    }
}
