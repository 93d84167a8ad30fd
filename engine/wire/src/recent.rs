//! The last packet IDs of one peer. IDs are random, so this is a set and not a counter; it allocates when made and never
//! again. // spec: paths, "Hardening bounds", duplicates

/// IDs remembered per peer.
pub const RECENT_IDS: usize = 1024;

const SLOTS: usize = RECENT_IDS * 2;
const EMPTY: u16 = u16::MAX;

/// The last [`RECENT_IDS`] packet IDs, 12 KiB.
#[derive(Clone, Debug)]
pub struct RecentIds {
    /// In order of arrival; the next to be forgotten is at `oldest` once the ring is full.
    ring: Vec<u64>,
    oldest: usize,
    /// Open addressing with linear probing: positions in `ring`.
    slots: Box<[u16]>,
}

impl Default for RecentIds {
    fn default() -> RecentIds {
        RecentIds::new()
    }
}

impl RecentIds {
    /// Remembers nothing yet.
    pub fn new() -> RecentIds {
        RecentIds { ring: Vec::with_capacity(RECENT_IDS), oldest: 0, slots: vec![EMPTY; SLOTS].into_boxed_slice() }
    }

    /// Remembers `id`; false if it is a repeat.
    pub fn insert(&mut self, id: u64) -> bool {
        let Err(free) = self.find(id) else {
            return false;
        };
        if self.ring.len() < RECENT_IDS {
            self.slots[free] = self.ring.len() as u16;
            self.ring.push(id);
            return true;
        }
        self.forget(self.ring[self.oldest]);
        // Forgetting moves slots, so the free one is sought again.
        if let Err(free) = self.find(id) {
            self.slots[free] = self.oldest as u16;
            self.ring[self.oldest] = id;
        }
        self.oldest = (self.oldest + 1) % RECENT_IDS;
        true
    }

    /// The slot that holds `id`, or the free one where it would go. Half of the slots are always free.
    fn find(&self, id: u64) -> Result<usize, usize> {
        let mut at = home(id);
        loop {
            match self.slots[at] {
                EMPTY => return Err(at),
                position if self.ring[usize::from(position)] == id => return Ok(at),
                _ => at = (at + 1) % SLOTS,
            }
        }
    }

    fn forget(&mut self, id: u64) {
        let Ok(mut hole) = self.find(id) else {
            return;
        };
        self.slots[hole] = EMPTY;
        // Whatever was pushed past the hole moves back into it, so that no search stops too early.
        let mut at = (hole + 1) % SLOTS;
        while self.slots[at] != EMPTY {
            let start = home(self.ring[usize::from(self.slots[at])]);
            if (at + SLOTS - start) % SLOTS >= (at + SLOTS - hole) % SLOTS {
                self.slots.swap(hole, at);
                hole = at;
            }
            at = (at + 1) % SLOTS;
        }
    }
}

/// Where the search for `id` begins. An authenticated peer that chooses its IDs to collide only slows its own packets.
fn home(id: u64) -> usize {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_a_repeat_until_1024_others_came() {
        let mut recent = RecentIds::new();
        assert!(recent.insert(7));
        for id in 1000..1000 + RECENT_IDS as u64 - 1 {
            assert!(recent.insert(id));
        }
        assert!(!recent.insert(7));
        assert!(recent.insert(99));
        assert!(recent.insert(7), "7 was the oldest and is forgotten");
    }

    #[test]
    fn colliding_ids_cost_time_but_not_correctness() {
        let mut recent = RecentIds::new();
        let same_home: Vec<u64> = (0..).filter(|&id| home(id) == SLOTS - 1).take(1500).collect();
        for &id in &same_home {
            assert!(recent.insert(id));
            assert!(!recent.insert(id));
        }
        assert!(recent.insert(same_home[0]));
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_queue_of_the_last_1024(ids in prop::collection::vec(0u64..1500, 0..4000)) {
            let mut recent = RecentIds::new();
            let mut model = VecDeque::new();
            for id in ids {
                let fresh = !model.contains(&id);
                prop_assert_eq!(recent.insert(id), fresh);
                if fresh {
                    model.push_back(id);
                    if model.len() > RECENT_IDS {
                        model.pop_front();
                    }
                }
            }
        }
    }
}
