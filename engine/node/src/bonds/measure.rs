//! An operator's test of one path, one at a time: probes and padded frames go out over it, data too if he wants it so, and
//! what comes back is what the path can do. The test ends by itself, and with it what it did to the data.

use bond::PathId;
use bond::link_test::{Emit, LinkTest, Order};
use wire::message::ExtFrame;
use wire::packet::HDR_LEN;
use wire::{Address, Mac, NetworkId, Now, Verb};

use super::BondError;
use crate::Node;
use crate::path::Path;

/// For experiments (IEEE 802): no system has a handler for it, and rules that name what may pass do not name it.
const ETHERTYPE_EXPERIMENT: u16 = 0x88b5;

/// A path that is tested, or was last.
#[derive(Debug)]
pub struct PathTest {
    /// The bond's peer.
    pub peer: Address,
    /// Which path.
    pub id: PathId,
    /// What was found so far.
    pub test: LinkTest,
    /// Why it ended before its time.
    pub aborted: Option<&'static str>,
    path: Path,
    network: NetworkId,
    /// UDP payload of a padded frame.
    frame: usize,
    /// When there is something to do, us.
    due: Option<u64>,
    force: bool,
    forced: bool,
    /// Bytes of data that the path had carried when it was forced, and since when, us.
    from: (u64, u64),
    carried: f64,
}

impl PathTest {
    /// Data that went over the path while all of it did, bytes/s.
    pub fn carried(&self) -> f64 {
        self.carried
    }
}

impl Node {
    /// Tests one path of a bond for a bounded time. With `force` all data to the peer goes over it while it is probed, as
    /// soon as it answered and as long as it does.
    pub fn test_bond_path(
        &mut self,
        now: Now,
        peer: Address,
        id: PathId,
        order: Order,
        force: bool,
    ) -> Result<(), BondError> {
        if self.path_test.as_ref().is_some_and(|t| !t.test.is_over(now.mono_us)) {
            return Err(BondError::Testing);
        }
        let held = self.bonds.table.get(&peer).ok_or(BondError::NoBond)?;
        let path = held.line(id).ok_or(BondError::NoPath)?.path;
        let network = held.asking.network.or(self.plan.networks_of(peer).first().copied());
        let network = network.ok_or(BondError::NoNetwork)?;
        let frame = self.mtu_over(peer, Some(path.socket), path.remote);
        let test = LinkTest::new(now.mono_us, Order { frame, ..order });
        let begun = PathTest {
            peer,
            id,
            test,
            aborted: None,
            path,
            network,
            frame,
            due: Some(now.mono_us),
            force,
            forced: false,
            from: (0, now.mono_us),
            carried: 0.0,
        };
        self.path_test = Some(begun);
        self.step_path_test(now);
        Ok(())
    }

    /// The test that runs, or ran last.
    pub fn path_test(&self) -> Option<&PathTest> {
        self.path_test.as_ref()
    }

    /// Ends the test of a path.
    pub fn stop_path_test(&mut self, now: Now) {
        self.abort_path_test(now, "stopped");
    }

    fn abort_path_test(&mut self, now: Now, why: &'static str) {
        if let Some(t) = self.path_test.as_mut().filter(|t| !t.test.is_over(now.mono_us)) {
            t.test.stop();
            (t.aborted, t.due) = (Some(why), None);
        }
        self.release_tested(now);
    }

    /// Data goes where the bond wants it again.
    fn release_tested(&mut self, now: Now) {
        let Some(t) = self.path_test.as_mut().filter(|t| t.forced) else { return };
        t.forced = false;
        t.force = false;
        let (peer, id) = (t.peer, t.id);
        // Somebody may have forced another one meanwhile.
        if self.forced_bond_path(peer) == Some(id) {
            let _ = self.force_bond_path(now, peer, None);
        }
    }

    pub(crate) fn next_path_test_ms(&self) -> Option<u64> {
        self.path_test.as_ref()?.due.map(|us| us.div_ceil(1000))
    }

    /// Does what is due for the test that runs.
    pub(crate) fn step_path_test(&mut self, now: Now) {
        if self.path_test.as_ref().is_some_and(|t| t.due.is_some_and(|due| due <= now.mono_us)) {
            self.work_path_test(now);
            if let Some(t) = self.path_test.as_mut() {
                t.due = t.test.next_due(now.mono_us);
            }
        }
    }

    /// Sends, and looks whether data may still go this way.
    fn work_path_test(&mut self, now: Now) {
        let us = now.mono_us;
        let Some(t) = self.path_test.as_ref() else { return };
        let (peer, id, path, network, frame) = (t.peer, t.id, t.path, t.network, t.frame);
        if t.forced && !t.test.is_probing(us) {
            self.release_tested(now);
        }
        let Some(bytes) = self.bond(peer).and_then(|b| b.paths().get(id)).map(|p| p.sent_bytes) else {
            return self.abort_path_test(now, "the path is gone");
        };
        let Some(t) = self.path_test.as_mut() else { return };
        if t.test.is_silent(us) {
            let why = if t.test.probes().answered > 0 { "it fell silent" } else { "it does not answer" };
            return self.abort_path_test(now, why);
        }
        if t.forced && us > t.from.1 {
            t.carried = bytes.saturating_sub(t.from.0) as f64 * 1e6 / (us - t.from.1) as f64;
        }
        if t.force && !t.forced && t.test.is_probing(us) && t.test.probes().answered > 0 {
            (t.forced, t.from) = (true, (bytes, us));
            if self.force_bond_path(now, peer, Some(id)).is_err() {
                return self.abort_path_test(now, "the path is gone");
            }
        }
        while let Some(emit) = self.path_test.as_mut().and_then(|t| t.test.poll(us)) {
            let asked = match emit {
                Emit::Probe => self.send_asking(now, peer, path, network),
                Emit::Padded { ask } => self.send_padded(now, peer, path, network, (frame, ask)).filter(|_| ask),
            };
            if let (Some(packet_id), Some(t)) = (asked, self.path_test.as_mut()) {
                t.test.requested(us, packet_id);
            }
        }
    }

    /// A frame that fills a datagram and that nobody wants. The remote's rules or its kernel drop it.
    fn send_padded(
        &mut self,
        now: Now,
        peer: Address,
        path: Path,
        network: NetworkId,
        (bytes, ask): (usize, bool),
    ) -> Option<u64> {
        let Path { socket, remote } = path;
        let size = bytes.saturating_sub(HDR_LEN + ExtFrame::HEADER_LEN);
        let (to, from) = (Mac::of_member(network, peer), Mac::of_member(network, self.address()));
        let flags = if ask { ExtFrame::ACK } else { 0 };
        let padding = vec![0; size];
        let frame =
            ExtFrame { network, flags, com: None, to, from, ethertype: ETHERTYPE_EXPERIMENT, payload: &padding };
        let mut payload = Vec::with_capacity(size + ExtFrame::HEADER_LEN);
        frame.write(&mut payload);
        let id = self.send_straight(now, peer, Some(socket), remote, Verb::ExtFrame, &payload, false)?;
        if ask {
            self.expectations.register(id, Verb::ExtFrame, peer, Some(socket), Some(remote), None, now);
        }
        self.counters.test_frames += 1;
        Some(id)
    }

    /// A frame of the node's own was acknowledged. False if no test sent it.
    pub(crate) fn path_test_acked(&mut self, now: Now, peer: Address, packet_id: u64) -> bool {
        let test = self.path_test.as_mut().filter(|t| t.peer == peer);
        test.is_some_and(|t| t.test.acked(now.mono_us, packet_id))
    }
}
