//! The last packet IDs of one peer, for all cores together. IDs are random, so this is a set and not a counter; it
//! allocates when made and never again. // spec: paths, "Hardening bounds", duplicates

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// IDs remembered per peer at least; twice as many at most.
pub const RECENT_IDS: usize = 1024;
/// The same for a peer of whom it was asked to remember more: what comes again comes later then.
pub const WIDE_IDS: usize = 8192;

const GENERATIONS: usize = 3;
const EMPTY: u32 = 0;

/// The last packet IDs, 24 KiB: of each 32 bits besides those that say where it stands, so that of a thousand million new
/// ones about one is taken for a repeat, which is one lost packet. Three tables take turns: one is filled, the one before it is still searched, the third
/// has been forgotten and is emptied. So no core ever waits for another, and none moves what another reads. Two cores that
/// get the same ID in the very instant of a turn may both take it for new; at any other time one of them wins.
#[derive(Debug)]
pub struct RecentIds {
    near: Turns<RECENT_IDS>,
    /// 192 KiB.
    wide: OnceLock<Turns<WIDE_IDS>>,
}

/// Three tables of `IDS`, each half empty.
#[derive(Debug)]
struct Turns<const IDS: usize> {
    tables: [Box<[AtomicU32]>; GENERATIONS],
    inserted: AtomicU64,
}

impl Default for RecentIds {
    fn default() -> RecentIds {
        RecentIds::new()
    }
}

impl RecentIds {
    /// Remembers nothing yet.
    pub fn new() -> RecentIds {
        RecentIds { near: Turns::new(), wide: OnceLock::new() }
    }

    /// From now on remembers [`WIDE_IDS`], for good.
    pub fn remember_more(&self) {
        self.wide.get_or_init(Turns::new);
    }

    /// Remembers `id`; false if it is a repeat.
    #[inline]
    pub fn insert(&self, id: u64) -> bool {
        let Some(wide) = self.wide.get() else { return self.near.insert(id) };
        // What came before it was there.
        let young = wide.inserted.load(Ordering::Relaxed) < WIDE_IDS as u64;
        !(young && self.near.knows(id)) && wide.insert(id)
    }
}

impl<const IDS: usize> Turns<IDS> {
    const SLOTS: usize = IDS * 2;

    fn new() -> Turns<IDS> {
        const { assert!(IDS.is_power_of_two()) };
        let table = |_| (0..Self::SLOTS).map(|_| AtomicU32::new(EMPTY)).collect();
        Turns { tables: std::array::from_fn(table), inserted: AtomicU64::new(0) }
    }

    #[inline]
    fn insert(&self, id: u64) -> bool {
        let id = Held::of(id, Self::SLOTS);
        let [current, previous] = self.searched();
        if Self::contains(previous, id) || !Self::put(current, id) {
            return false;
        }
        let inserted = self.inserted.fetch_add(1, Ordering::AcqRel) as usize + 1;
        if inserted.is_multiple_of(IDS) {
            // What was searched until now is not searched any more, and is filled next.
            let turn = inserted / IDS;
            self.tables[(turn + 1) % GENERATIONS].iter().for_each(|slot| slot.store(EMPTY, Ordering::Release));
        }
        true
    }

    /// It is among them.
    fn knows(&self, id: u64) -> bool {
        let id = Held::of(id, Self::SLOTS);
        self.searched().into_iter().any(|table| Self::contains(table, id))
    }

    /// The table that is filled, and the one before it.
    fn searched(&self) -> [&[AtomicU32]; 2] {
        let turn = self.inserted.load(Ordering::Acquire) as usize / IDS;
        [turn, turn + GENERATIONS - 1].map(|t| &*self.tables[t % GENERATIONS])
    }

    fn contains(table: &[AtomicU32], id: Held) -> bool {
        Self::probe(table, id)
            .map(|slot| slot.load(Ordering::Acquire))
            .take_while(|&held| held != EMPTY)
            .any(|held| held == id.tag)
    }

    /// False if it is there already. Half of the slots are free, but for a core that was held up for a whole turn.
    fn put(table: &[AtomicU32], id: Held) -> bool {
        for slot in Self::probe(table, id) {
            match slot.compare_exchange(EMPTY, id.tag, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(held) if held == id.tag => return false,
                Err(_) => {}
            }
        }
        true
    }

    fn probe(table: &[AtomicU32], id: Held) -> impl Iterator<Item = &AtomicU32> {
        let (before, from) = table.split_at(id.home);
        from.iter().chain(before)
    }
}

/// An ID as it is remembered. An authenticated peer that chooses its IDs to collide only hurts its own packets.
#[derive(Clone, Copy)]
struct Held {
    /// Where the search for it begins.
    home: usize,
    tag: u32,
}

impl Held {
    /// In a table of `slots`, a power of two.
    fn of(id: u64, slots: usize) -> Held {
        let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let home = (mixed >> (u64::BITS - slots.ilog2())) as usize;
        Held { home, tag: ((mixed >> 21) as u32).max(EMPTY + 1) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_a_repeat_until_1024_others_came_and_forgotten_after_2048() {
        for phase in [0, 1, 500, 1023] {
            let recent = RecentIds::new();
            (0..phase).for_each(|n| assert!(recent.insert(1_000_000 + n)));
            assert!(recent.insert(7));
            for id in 1000..1000 + RECENT_IDS as u64 {
                assert!(!recent.insert(7), "phase {phase}, before {id}");
                assert!(recent.insert(id));
            }
            for id in 10_000..10_000 + RECENT_IDS as u64 {
                assert!(recent.insert(id));
            }
            assert!(recent.insert(7), "phase {phase}: 7 is older than 2048 others");
        }
    }

    #[test]
    fn colliding_ids_cost_time_but_not_correctness() {
        let recent = RecentIds::new();
        let slots = 2 * RECENT_IDS;
        let same_home: Vec<u64> = (1..).filter(|&id| Held::of(id, slots).home == slots - 1).take(3500).collect();
        for &id in &same_home {
            assert!(recent.insert(id));
            assert!(!recent.insert(id));
        }
        assert!(recent.insert(same_home[0]));
    }

    #[test]
    fn who_is_asked_to_remember_more_does_and_forgets_nothing_over_it() {
        let recent = RecentIds::new();
        assert!((1..=1000).all(|id| recent.insert(id)));
        recent.remember_more();
        assert!((1..=1000).all(|id| !recent.insert(id)), "known from before");
        assert!((2000..2000 + WIDE_IDS as u64).all(|id| recent.insert(id)));
        recent.remember_more();
        assert!((2000..2000 + WIDE_IDS as u64).all(|id| !recent.insert(id)));
        assert!((100_000..100_000 + 2 * WIDE_IDS as u64).all(|id| recent.insert(id)));
        assert!(recent.insert(2000), "older than twice as many");
    }

    #[test]
    fn of_several_cores_with_the_same_id_one_wins() {
        let (recent, taken) = (RecentIds::new(), AtomicUsize::new(0));
        const IDS: u64 = 900; // within one turn
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let new = (1..=IDS).filter(|&id| recent.insert(id)).count();
                    taken.fetch_add(new, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(taken.into_inner(), IDS as usize);
    }

    proptest! {
        #[test]
        fn it_remembers_the_last_1024_and_nothing_older_than_2048(ids in prop::collection::vec(1u64..4000, 0..9000)) {
            let recent = RecentIds::new();
            let mut model = VecDeque::new();
            for id in ids {
                let age = model.iter().rev().position(|&known| known == id);
                let fresh = recent.insert(id);
                match age {
                    Some(age) if age < RECENT_IDS => prop_assert!(!fresh),
                    Some(age) if age < 2 * RECENT_IDS => {}
                    _ => prop_assert!(fresh),
                }
                if fresh {
                    model.push_back(id);
                }
            }
        }
    }
}
