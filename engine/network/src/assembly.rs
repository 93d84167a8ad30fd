//! Puts the chunks of a configuration together. Must never see a chunk whose signature was not checked, and never knows
//! what a dictionary means.

use std::collections::BTreeMap;

use wire::chunk::ConfigChunk;

use crate::constants::{
    CONFIG_ASSEMBLY_BYTES_MAX, CONFIG_ASSEMBLY_MS, CONFIG_CHUNKS_MAX, CONFIG_TOTAL_LIMIT, CONFIG_UPDATES_MAX,
};

/// The first 16 bytes of a chunk's signature: what tells chunks apart.
type ChunkId = [u8; 16];

/// One configuration on its way in.
#[derive(Debug)]
struct Update {
    id: u64,
    total: usize,
    started_ms: u64,
    fed: u64,
    /// By offset; they never overlap.
    slices: BTreeMap<usize, Vec<u8>>,
    chunks: Vec<ChunkId>,
    bytes: usize,
    /// Every chunk came as an answer to a request of ours, from the controller itself.
    asked_for: bool,
    complete: bool,
}

/// A whole dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assembled {
    pub update_id: u64,
    pub dictionary: Vec<u8>,
    /// All of it answers our own request and came from the controller itself.
    pub asked_for: bool,
}

/// What became of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It does not fit what is there.
    Refused,
    /// More is needed.
    Partial,
    /// It was the last one.
    Whole(Assembled),
}

/// Configurations of one network in assembly. // spec: networks, "Accepting chunks"
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    updates: Vec<Update>,
    feedings: u64,
}

impl Assembly {
    /// This very chunk is already held.
    pub fn holds(&self, chunk: &ConfigChunk<'_>) -> bool {
        let id = chunk_id(chunk);
        self.updates.iter().any(|u| u.id == chunk.update_id && u.chunks.contains(&id))
    }

    /// Stores a chunk whose signature holds. Slices must tile the total exactly.
    pub fn store(&mut self, now_ms: u64, chunk: &ConfigChunk<'_>, asked_for: bool) -> Stored {
        self.sweep(now_ms);
        let (total, start) = (chunk.total as usize, chunk.index as usize);
        let Some(end) = start.checked_add(chunk.data.len()).filter(|&end| end <= total) else { return Stored::Refused };
        if chunk.data.is_empty() || total >= CONFIG_TOTAL_LIMIT {
            return Stored::Refused;
        }
        self.feedings += 1;
        let update = self.update(now_ms, chunk.update_id, total);
        if update.complete || update.total != total || update.chunks.len() >= CONFIG_CHUNKS_MAX {
            return Stored::Refused;
        }
        let before = update.slices.range(..end).next_back();
        if before.is_some_and(|(&offset, slice)| offset + slice.len() > start) {
            return Stored::Refused;
        }
        update.slices.insert(start, chunk.data.to_vec());
        update.chunks.push(chunk_id(chunk));
        update.bytes += chunk.data.len();
        update.asked_for &= asked_for;
        if update.bytes < total {
            self.make_room(chunk.update_id);
            return Stored::Partial;
        }
        update.complete = true;
        let dictionary = std::mem::take(&mut update.slices).into_values().flatten().collect();
        Stored::Whole(Assembled { update_id: update.id, dictionary, asked_for: update.asked_for })
    }

    /// Forgets what does not complete.
    pub fn sweep(&mut self, now_ms: u64) {
        self.updates.retain(|u| now_ms.saturating_sub(u.started_ms) < CONFIG_ASSEMBLY_MS);
    }

    /// The update with this id; if it is new, the one that was fed longest ago makes room for it.
    fn update(&mut self, now_ms: u64, id: u64, total: usize) -> &mut Update {
        let fed = self.feedings;
        let at = match self.updates.iter().position(|u| u.id == id) {
            Some(at) => at,
            None => {
                if self.updates.len() >= CONFIG_UPDATES_MAX {
                    self.remove_oldest_but(id);
                }
                self.updates.push(Update {
                    id,
                    total,
                    started_ms: now_ms,
                    fed,
                    slices: BTreeMap::new(),
                    chunks: Vec::new(),
                    bytes: 0,
                    asked_for: true,
                    complete: false,
                });
                self.updates.len() - 1
            }
        };
        let update = &mut self.updates[at];
        update.fed = fed;
        update
    }

    fn make_room(&mut self, for_id: u64) {
        while self.bytes() > CONFIG_ASSEMBLY_BYTES_MAX && self.updates.len() > 1 {
            self.remove_oldest_but(for_id);
        }
    }

    fn remove_oldest_but(&mut self, id: u64) {
        let oldest = self.updates.iter().enumerate().filter(|(_, u)| u.id != id).min_by_key(|(_, u)| u.fed);
        if let Some((at, _)) = oldest {
            self.updates.swap_remove(at);
        }
    }

    fn bytes(&self) -> usize {
        self.updates.iter().filter(|u| !u.complete).map(|u| u.bytes).sum()
    }
}

fn chunk_id(chunk: &ConfigChunk<'_>) -> ChunkId {
    let mut id = [0; 16];
    if let Some(signature) = &chunk.signature {
        id.copy_from_slice(&signature.0[..16]);
    }
    id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::NetworkId;
    use wire::identity::Signature;

    use super::*;

    /// A chunk whose signature, never checked here, is made of its place.
    fn chunk(update_id: u64, total: usize, index: usize, data: &[u8]) -> ConfigChunk<'_> {
        let mut signature = [0; 96];
        signature[..8].copy_from_slice(&index.to_be_bytes());
        signature[8..16].copy_from_slice(&data.len().to_be_bytes());
        ConfigChunk {
            network: NetworkId(1),
            data,
            flags: 0,
            update_id,
            total: total as u32,
            index: index as u32,
            signature: Some(Signature(signature)),
        }
    }

    proptest! {
        #[test]
        fn chunks_in_any_order_give_the_dictionary_back(
            dictionary in proptest::collection::vec(any::<u8>(), 1..2000),
            size in 5usize..300,
            order in any::<u64>(),
        ) {
            let mut pieces: Vec<_> = dictionary.chunks(size).enumerate().map(|(n, d)| (n * size, d)).collect();
            let len = pieces.len();
            pieces.rotate_left(order as usize % len);
            if order & 1 == 1 { pieces.reverse(); }
            let mut assembly = Assembly::default();
            let mut whole = None;
            for (index, data) in pieces {
                prop_assert!(whole.is_none());
                let c = chunk(9, dictionary.len(), index, data);
                prop_assert!(!assembly.holds(&c));
                match assembly.store(0, &c, true) {
                    Stored::Whole(w) => whole = Some(w),
                    other => prop_assert_eq!(other, Stored::Partial),
                }
                prop_assert!(assembly.holds(&c));
            }
            let expected = Assembled { update_id: 9, dictionary, asked_for: true };
            prop_assert_eq!(whole, Some(expected));
        }

        #[test]
        fn whatever_completes_has_exactly_its_total(
            chunks in proptest::collection::vec((0u64..3, 1usize..40, 0usize..40, 0usize..40), 0..200),
        ) {
            let data = [7; 40];
            let mut assembly = Assembly::default();
            for (id, total, index, len) in chunks {
                if let Stored::Whole(w) = assembly.store(0, &chunk(id, total, index, &data[..len]), false) {
                    prop_assert_eq!(w.dictionary.len(), total);
                    prop_assert!(!w.asked_for);
                }
            }
        }
    }

    #[test]
    fn slices_that_overlap_or_disagree_on_the_total_are_refused() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.store(0, &chunk(1, 10, 0, b"01234"), true), Stored::Partial);
        assert_eq!(assembly.store(0, &chunk(1, 10, 4, b"456789"), true), Stored::Refused);
        assert_eq!(assembly.store(0, &chunk(1, 11, 5, b"56789"), true), Stored::Refused);
        assert_eq!(assembly.store(0, &chunk(1, 10, 5, b""), true), Stored::Refused);
        assert_eq!(assembly.store(0, &chunk(1, 10, 6, b"56789"), true), Stored::Refused);
        assert!(matches!(assembly.store(0, &chunk(1, 10, 5, b"56789"), true), Stored::Whole(_)));
        assert_eq!(assembly.store(0, &chunk(1, 10, 5, b"56789"), true), Stored::Refused);
    }

    #[test]
    fn a_fourth_update_takes_the_place_of_the_one_fed_longest_ago() {
        let mut assembly = Assembly::default();
        for id in 1..=3 {
            assembly.store(0, &chunk(id, 10, 0, b"01234"), true);
        }
        assembly.store(0, &chunk(1, 10, 5, b"5"), true);
        assembly.store(0, &chunk(4, 10, 0, b"01234"), true);
        let held: Vec<_> = assembly.updates.iter().map(|u| u.id).collect();
        assert_eq!(held.len(), CONFIG_UPDATES_MAX);
        assert!(!held.contains(&2));
    }

    #[test]
    fn an_update_that_does_not_complete_in_30_s_starts_anew() {
        let mut assembly = Assembly::default();
        assembly.store(0, &chunk(1, 10, 0, b"01234"), true);
        let late = assembly.store(CONFIG_ASSEMBLY_MS, &chunk(1, 10, 5, b"56789"), true);
        assert_eq!(late, Stored::Partial);
    }

    #[test]
    fn unfinished_updates_never_take_more_than_the_bound() {
        let mut assembly = Assembly::default();
        let data = vec![1; 60_000];
        for id in 1..=3 {
            for n in 0..8 {
                assembly.store(0, &chunk(id, CONFIG_TOTAL_LIMIT - 1, n * data.len(), &data), true);
            }
        }
        assert!(assembly.bytes() <= CONFIG_ASSEMBLY_BYTES_MAX, "{}", assembly.bytes());
        assert_eq!(assembly.updates.len(), 2);
        let too_much = assembly.store(0, &chunk(9, CONFIG_TOTAL_LIMIT, 0, b"x"), true);
        assert_eq!(too_much, Stored::Refused);
    }

    #[test]
    fn a_configuration_has_at_most_474_chunks() {
        let mut assembly = Assembly::default();
        for n in 0..CONFIG_CHUNKS_MAX {
            assert_eq!(assembly.store(0, &chunk(1, 1000, n, b"x"), true), Stored::Partial);
        }
        assert_eq!(assembly.store(0, &chunk(1, 1000, CONFIG_CHUNKS_MAX, b"x"), true), Stored::Refused);
    }
}
