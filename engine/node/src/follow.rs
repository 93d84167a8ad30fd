//! A peer that bonds with us, while we do not bond with it, sends its frames over another path than before: what we send
//! follows. Its bond asks every few milliseconds, by the frames that it sends, whether their path works; we alone would see
//! after half a second that it does not. The path before is suspect until it answers, so that a peer that moved for another
//! reason costs one probe. Only the receipts of peers that asked us to count what comes are looked at.

use wire::{Address, Now};

use crate::Node;
use crate::limits::{FOLLOW_AFTER_US, FOLLOW_FRAMES, FOLLOW_GAP_MS, FOLLOW_WITHIN_US};
use crate::path::Path;

/// When frames came over one path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) newest_us: u64,
    /// Without a pause until then.
    frames: u64,
}

impl Heard {
    pub(crate) fn came(&mut self, at_us: u64, frames: u64) {
        let goes_on = at_us < self.newest_us + FOLLOW_AFTER_US;
        self.frames = if goes_on { self.frames + frames } else { frames };
        self.newest_us = self.newest_us.max(at_us);
    }

    /// Many frames came by this path until a moment ago, and by the `other` since.
    fn moved_to(&self, other: &Heard, now_us: u64) -> bool {
        let silence_us = now_us.saturating_sub(self.newest_us);
        let silent = (FOLLOW_AFTER_US..FOLLOW_WITHIN_US).contains(&silence_us);
        silent && self.frames >= FOLLOW_FRAMES && other.newest_us >= self.newest_us + FOLLOW_AFTER_US / 2
    }
}

impl Node {
    /// Frames of `peer` came over this path, as it was counted.
    pub(crate) fn follow(&mut self, now: Now, peer: Address, came: Path) {
        if !self.settings.fast_failover || self.bonds.contains(peer) {
            return;
        }
        let other = self.arrival(came, 0).path;
        let Some(known) = self.peers.get(peer) else { return };
        let Some(path) = known.best_slot(now.ms()).map(|slot| slot.path).filter(|path| *path != other) else { return };
        // Whichever of our sockets and of its ports we use: what fails is a line of the peer, if it has several. The peer may
        // send to a port of ours that we have no path from.
        let by_address = path.remote.ip() != other.remote.ip();
        let left = |p: &Path| if by_address { p.remote.ip() == path.remote.ip() } else { *p == path };
        let taken = |p: &Path| if by_address { p.remote.ip() == other.remote.ip() } else { *p == other };
        let usable = known.slots.iter().any(|slot| taken(&slot.path) && slot.alive(now.ms()));
        let over = |which: &dyn Fn(&Path) -> bool| {
            let heard = self.pacts.heard(peer).filter(|(came, _)| which(&self.arrival(*came, 0).path));
            heard.map(|(_, heard)| heard).max_by_key(|heard| heard.newest_us)
        };
        let (here, there) = (over(&left), over(&taken));
        let moved = here.zip(there).is_some_and(|(here, there)| here.moved_to(&there, now.mono_us));
        let Some(known) = self.peers.get_mut(peer).filter(|_| usable && moved) else { return };
        // Whoever bonds with us asks over each of its paths, so a doubt of late says nothing.
        if !known.slot_mut(&path).is_some_and(|slot| slot.watch.last_left.pass(FOLLOW_GAP_MS, now.ms())) {
            return;
        }
        for slot in known.slots.iter_mut().filter(|slot| left(&slot.path)) {
            (slot.watch.suspect, slot.watch.doubted) = (true, false);
        }
        self.counters.paths_followed += 1;
        self.path_changed(now, peer);
    }
}
