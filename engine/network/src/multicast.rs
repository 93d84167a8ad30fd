//! Who is in which multicast group, as far as this node has heard, and the multicasts that wait for recipients. Must
//! never know who is allowed to say so, nor how a frame is sent.

use std::collections::{BTreeMap, VecDeque};

use wire::{Address, Mac, MulticastGroup, NetworkId};

use crate::constants::{
    GATHER_EMPTY_PERIOD_MS, GATHER_PERIOD_MS, GATHER_REPEATS_MAX, GATHER_REPEATS_MS, GROUP_MEMBERS_MAX,
    GROUP_MEMBERSHIPS_MAX, GROUPS_MAX, GROUPS_PER_MEMBER_MAX, LIKE_EXPIRY_MS, MULTICAST_QUEUE_BYTES_MAX,
    MULTICAST_QUEUE_MAX, MULTICAST_QUEUE_MS,
};

/// What a multicast says, whoever gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Multicast {
    /// Given in the message if it is not the sender's own.
    pub source: Option<Mac>,
    pub group: MulticastGroup,
    pub ethertype: u16,
    pub payload: Vec<u8>,
    pub gather_limit: u32,
}

/// A multicast that has not had all its recipients yet.
#[derive(Debug)]
pub(crate) struct Queued {
    pub multicast: Multicast,
    since_ms: u64,
    /// Recipients it may still have.
    left: usize,
    sent_to: Vec<Address>,
}

#[derive(Debug, Default)]
struct Group {
    /// By address.
    members: Vec<(Address, u64)>,
    queue: VecDeque<Queued>,
    gathered_ms: Option<u64>,
}

/// A gather that found nobody, to be repeated while a multicast waits.
#[derive(Clone, Copy, Debug)]
struct Repeat {
    due_ms: u64,
    key: Key,
    /// Repeats made already.
    made: usize,
}

/// Result of noting a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    New,
    Known,
    NoRoom,
}

type Key = (NetworkId, MulticastGroup);

/// All groups of all networks. // spec: networks, "Database"
#[derive(Debug, Default)]
pub(crate) struct Database {
    groups: BTreeMap<Key, Group>,
    repeats: Vec<Repeat>,
    groups_of: BTreeMap<(NetworkId, Address), usize>,
    memberships: usize,
    queued_bytes: usize,
}

impl Database {
    /// Notes that `member` was seen in the group now.
    pub fn note(&mut self, now_ms: u64, network: NetworkId, group: MulticastGroup, member: Address) -> Noted {
        let key = (network, group);
        let of_member = self.groups_of.get(&(network, member)).copied().unwrap_or(0);
        let room = self.memberships < GROUP_MEMBERSHIPS_MAX && of_member < GROUPS_PER_MEMBER_MAX;
        if !self.groups.contains_key(&key) && (!room || self.groups.len() >= GROUPS_MAX) {
            return Noted::NoRoom;
        }
        let members = &mut self.groups.entry(key).or_default().members;
        match members.binary_search_by_key(&member, |&(a, _)| a) {
            Ok(at) => {
                let seen = &mut members[at].1;
                let expired = now_ms.saturating_sub(*seen) >= LIKE_EXPIRY_MS;
                *seen = now_ms;
                if expired { Noted::New } else { Noted::Known }
            }
            Err(_) if !room || members.len() >= GROUP_MEMBERS_MAX => Noted::NoRoom,
            Err(at) => {
                members.insert(at, (member, now_ms));
                self.memberships += 1;
                *self.groups_of.entry((network, member)).or_default() += 1;
                Noted::New
            }
        }
    }

    /// Forgets one member of a group. // spec: networks, "Errors from the controller", code 0x08
    pub fn forget(&mut self, network: NetworkId, group: MulticastGroup, member: Address) {
        let Some(entry) = self.groups.get_mut(&(network, group)) else { return };
        if let Ok(at) = entry.members.binary_search_by_key(&member, |&(a, _)| a) {
            entry.members.remove(at);
            self.memberships -= 1;
            release(&mut self.groups_of, network, member);
        }
    }

    /// Members of a group, by address.
    pub fn members(&self, now_ms: u64, network: NetworkId, group: MulticastGroup) -> Vec<Address> {
        let Some(group) = self.groups.get(&(network, group)) else { return Vec::new() };
        let alive = |&&(_, seen): &&(Address, u64)| now_ms.saturating_sub(seen) < LIKE_EXPIRY_MS;
        group.members.iter().filter(alive).map(|&(a, _)| a).collect()
    }

    /// Whether to gather now, with `known` members; if so the time of this gather is noted.
    // spec: networks, "Sending", "Traps and hardening"
    pub fn gather_due(&mut self, now_ms: u64, network: NetworkId, group: MulticastGroup, known: usize) -> bool {
        let period = if known == 0 { GATHER_EMPTY_PERIOD_MS } else { GATHER_PERIOD_MS };
        let key = (network, group);
        if !self.groups.contains_key(&key) && self.groups.len() >= GROUPS_MAX {
            return false;
        }
        let gathered = &mut self.groups.entry(key).or_default().gathered_ms;
        let due = gathered.is_none_or(|at| now_ms.saturating_sub(at) >= period);
        let lately = gathered.is_some_and(|at| now_ms.saturating_sub(at) < GATHER_PERIOD_MS);
        if due {
            *gathered = Some(now_ms);
        }
        // A group that stays empty has this once a minute, however often it is asked for.
        if due && !lately && known == 0 {
            self.repeat(key, now_ms, 0);
        }
        due
    }

    fn repeat(&mut self, key: Key, now_ms: u64, made: usize) {
        if let Some(pause_ms) = GATHER_REPEATS_MS.get(made)
            && self.repeats.len() < GATHER_REPEATS_MAX
        {
            self.repeats.push(Repeat { due_ms: now_ms + pause_ms, key, made });
        }
    }

    /// When [`Database::repeats_due`] is due next.
    pub fn repeats_due_ms(&self) -> Option<u64> {
        self.repeats.iter().map(|r| r.due_ms).min()
    }

    /// The multicasts for which gathers are to be repeated now: groups where one waits and still nobody is known.
    pub fn repeats_due(&mut self, now_ms: u64) -> Vec<(NetworkId, Multicast)> {
        let due: Vec<Repeat> = self.repeats.extract_if(.., |r| r.due_ms <= now_ms).collect();
        let mut waiting = Vec::new();
        for Repeat { key, made, .. } in due {
            self.expire_queue(now_ms, key);
            let group = self.groups.get(&key).filter(|group| group.members.is_empty());
            if let Some(queued) = group.and_then(|group| group.queue.front()) {
                waiting.push((key.0, queued.multicast.clone()));
                self.repeat(key, now_ms, made + 1);
            }
        }
        waiting
    }

    /// Keeps a multicast for `left` more recipients; false if it was not kept because a bound is reached.
    pub fn enqueue(
        &mut self,
        now_ms: u64,
        network: NetworkId,
        multicast: Multicast,
        sent_to: Vec<Address>,
        left: usize,
    ) -> bool {
        self.expire_queue(now_ms, (network, multicast.group));
        let Some(group) = self.groups.get_mut(&(network, multicast.group)) else { return false };
        let bytes = multicast.payload.len();
        if group.queue.len() >= MULTICAST_QUEUE_MAX || self.queued_bytes + bytes > MULTICAST_QUEUE_BYTES_MAX {
            return false;
        }
        self.queued_bytes += bytes;
        group.queue.push_back(Queued { multicast, since_ms: now_ms, left, sent_to });
        true
    }

    /// The queued multicasts that a member who just turned up has not had; they are noted as sent to it.
    pub fn release_to(
        &mut self,
        now_ms: u64,
        network: NetworkId,
        group: MulticastGroup,
        member: Address,
    ) -> Vec<Multicast> {
        let key = (network, group);
        self.expire_queue(now_ms, key);
        let Some(group) = self.groups.get_mut(&key) else { return Vec::new() };
        let mut released = Vec::new();
        for queued in group.queue.iter_mut().filter(|q| !q.sent_to.contains(&member)) {
            queued.left -= 1;
            queued.sent_to.push(member);
            released.push(queued.multicast.clone());
        }
        let bytes = &mut self.queued_bytes;
        group.queue.retain(|q| {
            if q.left == 0 {
                *bytes -= q.multicast.payload.len();
            }
            q.left > 0
        });
        released
    }

    /// Forgets everything about a network.
    pub fn leave(&mut self, network: NetworkId) {
        let keys: Vec<Key> = self.groups.range((network, MulticastGroup::default())..).map(|(&k, _)| k).collect();
        for key in keys.into_iter().take_while(|k| k.0 == network) {
            if let Some(group) = self.groups.remove(&key) {
                self.memberships -= group.members.len();
                self.queued_bytes -= group.queue.iter().map(|q| q.multicast.payload.len()).sum::<usize>();
                group.members.iter().for_each(|&(m, _)| release(&mut self.groups_of, network, m));
            }
        }
        self.repeats.retain(|r| r.key.0 != network);
    }

    /// Forgets members not heard of, multicasts that waited too long, and groups with nothing left in them.
    pub fn sweep(&mut self, now_ms: u64) {
        let Database { groups, groups_of, memberships, queued_bytes, .. } = self;
        groups.retain(|&(network, _), group| {
            group.members.retain(|&(member, seen)| {
                let keep = now_ms.saturating_sub(seen) < LIKE_EXPIRY_MS;
                if !keep {
                    *memberships -= 1;
                    release(groups_of, network, member);
                }
                keep
            });
            *queued_bytes -= expire(&mut group.queue, now_ms);
            let gathered_lately = group.gathered_ms.is_some_and(|at| now_ms.saturating_sub(at) < GATHER_PERIOD_MS);
            !group.members.is_empty() || !group.queue.is_empty() || gathered_lately
        });
    }

    pub fn len(&self) -> (usize, usize, usize) {
        (self.groups.len(), self.memberships, self.queued_bytes)
    }

    fn expire_queue(&mut self, now_ms: u64, key: Key) {
        if let Some(group) = self.groups.get_mut(&key) {
            self.queued_bytes -= expire(&mut group.queue, now_ms);
        }
    }
}

/// Drops what waited too long; returns its bytes. At 5 s sharp, not at the next sweep.
// spec: networks, "Traps and hardening"
fn expire(queue: &mut VecDeque<Queued>, now_ms: u64) -> usize {
    let mut bytes = 0;
    while queue.front().is_some_and(|q| now_ms.saturating_sub(q.since_ms) >= MULTICAST_QUEUE_MS) {
        bytes += queue.pop_front().map_or(0, |q| q.multicast.payload.len());
    }
    bytes
}

fn release(groups_of: &mut BTreeMap<(NetworkId, Address), usize>, network: NetworkId, member: Address) {
    if let Some(n) = groups_of.get_mut(&(network, member)) {
        *n -= 1;
        if *n == 0 {
            groups_of.remove(&(network, member));
        }
    }
}

/// Moves a random choice of `count` to the front, in random order.
pub(crate) fn shuffle<T>(items: &mut [T], count: usize, mut random: impl FnMut() -> u64) {
    for at in 0..count.min(items.len()) {
        let rest = (items.len() - at) as u64;
        items.swap(at, at + (random() % rest) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId(0x0123_4567_89ab_cdef);

    fn group(n: usize) -> MulticastGroup {
        MulticastGroup { mac: Mac::BROADCAST, adi: n as u32 }
    }

    fn member(n: usize) -> Address {
        Address::from_u64(n as u64 + 1)
    }

    fn multicast(bytes: usize) -> Multicast {
        Multicast { source: None, group: group(0), ethertype: 0x800, payload: vec![0; bytes], gather_limit: 1 }
    }

    #[test]
    fn members_expire_after_600_s_and_leave_no_trace() {
        let mut db = Database::default();
        assert_eq!(db.note(0, NETWORK, group(0), member(0)), Noted::New);
        assert_eq!(db.note(1, NETWORK, group(0), member(0)), Noted::Known);
        assert_eq!(db.members(LIKE_EXPIRY_MS, NETWORK, group(0)), [member(0)]);
        assert!(db.members(LIKE_EXPIRY_MS + 1, NETWORK, group(0)).is_empty());
        db.sweep(LIKE_EXPIRY_MS + 1);
        assert_eq!((db.len(), db.groups_of.len()), ((0, 0, 0), 0));
    }

    #[test]
    fn a_queued_multicast_goes_once_to_each_newcomer_until_its_recipients_or_5_s_are_used_up() {
        let mut db = Database::default();
        db.note(0, NETWORK, group(0), member(0));
        assert!(db.enqueue(0, NETWORK, multicast(10), vec![member(0)], 2));
        assert!(db.release_to(0, NETWORK, group(0), member(0)).is_empty());
        assert_eq!(db.release_to(1, NETWORK, group(0), member(1)).len(), 1);
        assert!(db.release_to(1, NETWORK, group(0), member(1)).is_empty());
        assert_eq!(db.release_to(2, NETWORK, group(0), member(2)).len(), 1);
        assert!(db.release_to(2, NETWORK, group(0), member(3)).is_empty());
        assert!(db.enqueue(10, NETWORK, multicast(10), vec![], 2));
        assert!(db.release_to(10 + MULTICAST_QUEUE_MS, NETWORK, group(0), member(3)).is_empty());
        assert_eq!(db.len().2, 0);
    }

    #[test]
    fn one_member_cannot_be_in_more_groups_than_its_share() {
        let mut db = Database::default();
        let noted = (0..GROUPS_PER_MEMBER_MAX + 5).filter(|&n| db.note(0, NETWORK, group(n), member(0)) == Noted::New);
        assert_eq!(noted.count(), GROUPS_PER_MEMBER_MAX);
        assert_eq!(db.note(0, NETWORK, group(0), member(1)), Noted::New);
    }

    #[test]
    fn a_group_has_room_for_a_bounded_number_of_members() {
        let mut db = Database::default();
        let noted = (0..GROUP_MEMBERS_MAX + 5).filter(|&n| db.note(0, NETWORK, group(0), member(n)) == Noted::New);
        assert_eq!(noted.count(), GROUP_MEMBERS_MAX);
    }

    #[test]
    fn groups_and_memberships_are_bounded_and_leaving_frees_them() {
        let mut db = Database::default();
        for n in 0..GROUPS_MAX + 5 {
            db.note(0, NETWORK, group(n), member(n));
            db.gather_due(0, NETWORK, group(n), 0);
        }
        assert_eq!((db.len().0, db.len().1), (GROUPS_MAX, GROUPS_MAX));
        for n in 0..GROUP_MEMBERSHIPS_MAX {
            db.note(0, NETWORK, group(n % 1000), member(GROUPS_MAX + n));
        }
        assert_eq!(db.len().1, GROUP_MEMBERSHIPS_MAX);
        db.note(0, NetworkId(1), group(0), member(0));
        db.leave(NETWORK);
        assert_eq!(db.len(), (0, 0, 0));
        assert!(db.groups_of.is_empty());
    }

    #[test]
    fn the_queue_is_bounded_per_group_and_in_bytes() {
        let mut db = Database::default();
        db.note(0, NETWORK, group(0), member(0));
        let kept = (0..MULTICAST_QUEUE_MAX + 3).filter(|_| db.enqueue(0, NETWORK, multicast(1), vec![], 1)).count();
        assert_eq!(kept, MULTICAST_QUEUE_MAX);
        let mut db = Database::default();
        for n in 0..2000 {
            db.note(0, NETWORK, group(n), member(0));
            db.enqueue(0, NETWORK, Multicast { group: group(n), ..multicast(9000) }, vec![], 1);
        }
        assert!(db.len().2 <= MULTICAST_QUEUE_BYTES_MAX);
        db.sweep(MULTICAST_QUEUE_MS);
        assert_eq!(db.len().2, 0);
    }

    #[test]
    fn a_gather_that_found_nobody_is_repeated_three_times_while_something_waits_and_then_not_for_a_minute() {
        let mut db = Database::default();
        let repeats = |db: &mut Database, from: u64, to: u64| -> Vec<u64> {
            (from..to).filter(|&ms| !db.repeats_due(ms).is_empty()).collect()
        };
        assert!(db.gather_due(0, NETWORK, group(0), 0));
        assert!(db.enqueue(0, NETWORK, multicast(10), Vec::new(), 5));
        assert_eq!(db.repeats_due_ms(), Some(100));
        assert_eq!(repeats(&mut db, 0, 1000), [100, 300, 700]);
        assert!(db.gather_due(1000, NETWORK, group(0), 0));
        assert!(repeats(&mut db, 1000, 3000).is_empty() && db.repeats_due_ms().is_none());
        assert!(db.gather_due(61_000, NETWORK, group(0), 0));
        assert!(repeats(&mut db, 61_000, 63_000).is_empty(), "nothing waits any more");
        (0..2 * GATHER_REPEATS_MAX).for_each(|n| assert!(db.gather_due(130_000, NETWORK, group(n), 0)));
        assert_eq!(db.repeats.len(), GATHER_REPEATS_MAX);
        db.leave(NETWORK);
        assert_eq!(db.repeats.len(), 0);
    }

    #[test]
    fn a_gather_is_not_repeated_once_somebody_is_known() {
        let mut db = Database::default();
        assert!(db.gather_due(0, NETWORK, group(0), 0));
        assert!(db.enqueue(0, NETWORK, multicast(10), Vec::new(), 5));
        db.note(50, NETWORK, group(0), Address::from_u64(9));
        assert!(db.repeats_due(100).is_empty() && db.repeats_due_ms().is_none());
    }

    #[test]
    fn gathers_are_one_a_second_while_nobody_is_known_and_one_a_minute_after() {
        let mut db = Database::default();
        assert!(db.gather_due(0, NETWORK, group(0), 0));
        assert!(!db.gather_due(999, NETWORK, group(0), 0));
        assert!(db.gather_due(1000, NETWORK, group(0), 0));
        assert!(!db.gather_due(60_999, NETWORK, group(0), 1));
        assert!(db.gather_due(61_000, NETWORK, group(0), 1));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<_> = (0..100).collect();
        let mut seed = 1u64;
        shuffle(&mut items, 50, || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            seed >> 33
        });
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
