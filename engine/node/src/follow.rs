//! A peer that bonds with us, while we do not bond with it, sends its frames over another path than before: what we send
//! follows. Its bond asks every few milliseconds, by the frames that it sends, whether their path works; we alone would see
//! after half a second that it does not. The path before is suspect until it answers, so that a peer that moved for another
//! reason costs one probe. Only the receipts of peers that asked us to count what comes are looked at.

use wire::{Address, Now};

use crate::Node;
use crate::limits::{FOLLOW_AFTER_US, FOLLOW_WITHIN_US, WATCH_DOUBT_MS};
use crate::path::Path;

/// When frames came over one path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// The first after a pause.
    pub(crate) began_us: u64,
    pub(crate) newest_us: u64,
}

impl Heard {
    pub(crate) fn came(&mut self, at_us: u64) {
        if at_us > self.newest_us + FOLLOW_WITHIN_US {
            self.began_us = at_us;
        }
        self.newest_us = self.newest_us.max(at_us);
    }

    /// Frames came by this path until a moment ago and come by the `other` since.
    fn moved_to(&self, other: &Heard, now_us: u64) -> bool {
        let silence_us = now_us.saturating_sub(self.newest_us);
        let silent = (FOLLOW_AFTER_US..FOLLOW_WITHIN_US).contains(&silence_us);
        silent && other.begins(now_us) && other.newest_us > self.newest_us
    }

    fn begins(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.began_us) < FOLLOW_WITHIN_US
    }
}

impl Node {
    /// Frames of `peer` came over some of its paths.
    pub(crate) fn follow(&mut self, now: Now, peer: Address) {
        if !self.settings.fast_failover || self.bonds.contains(peer) {
            return;
        }
        if !self.pacts.heard(peer).any(|(_, heard)| heard.begins(now.mono_us)) {
            return;
        }
        let Some(path) = self.peers.get(peer).and_then(|p| p.best_slot(now.ms())).map(|slot| slot.path) else { return };
        let Some(other) = self.left_for(now, peer, &path) else { return };
        let Some(known) = self.peers.get_mut(peer) else { return };
        let usable = known.slot(&other).is_some_and(|slot| slot.alive(now.ms()));
        let Some(slot) = known.slot_mut(&path).filter(|_| usable) else { return };
        if slot.watch.last_doubt.pass(WATCH_DOUBT_MS, now.ms()) {
            slot.watch.suspect = true;
            slot.watch.doubted = false;
            self.counters.paths_followed += 1;
            self.path_changed(now, peer);
        }
    }

    /// The path over which the frames of `peer` come since they come no more over this one.
    fn left_for(&self, now: Now, peer: Address, path: &Path) -> Option<Path> {
        let heard = self.pacts.heard(peer).map(|(came, heard)| (self.arrival(came, 0).path, heard));
        let here = heard.clone().filter(|(p, _)| p == path).map(|(_, h)| h).max_by_key(|h| h.newest_us)?;
        heard.clone().find(|(other, h)| other != path && here.moved_to(h, now.mono_us)).map(|(other, _)| other)
    }
}
