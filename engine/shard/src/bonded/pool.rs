//! Packets that wait for their turn to be sealed: plaintext, copied out of the TAP's memory. Bounded in packets and in bytes
//! for all peers of a shard together; it allocates nothing once its places have found their size.

use wire::NetworkId;
use wire::message::OrderMark;

/// Packets that wait at most.
pub const WAITING_PACKETS_MAX: usize = 4096;
/// Bytes of memory for them.
pub const WAITING_BYTES_MAX: usize = 8 << 20;
/// Places grow in steps of this.
const STEP: usize = 1024;
/// Ticks without a packet after which all memory is given back.
const IDLE_TICKS: u8 = 20;

/// Names a packet that waits.
pub(crate) type Handle = u32;

/// What is needed to make a packet of it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) network: NetworkId,
    pub(crate) ethertype: u16,
    /// What follows the Ethernet header.
    pub(crate) payload: Vec<u8>,
    /// And an order mark.
    pub(crate) marked: bool,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    places: Vec<Waiting>,
    /// The one used last is on top: its memory is warm.
    free: Vec<Handle>,
    bytes: usize,
    idle: u8,
}

impl Pool {
    /// Copies a payload that lies in two pieces; none if there is no room.
    pub(crate) fn put(&mut self, network: NetworkId, ethertype: u16, headers: &[u8], payload: &[u8]) -> Option<Handle> {
        self.idle = 0;
        let handle = match self.free.pop() {
            Some(handle) => handle,
            None if self.places.len() == WAITING_PACKETS_MAX => return None,
            None => {
                self.places.push(Waiting { network, ethertype, payload: Vec::new(), marked: false });
                (self.places.len() - 1) as Handle
            }
        };
        let len = headers.len() + payload.len();
        self.places[handle as usize].payload.clear();
        if !self.make_room(handle, len) {
            self.free.push(handle);
            return None;
        }
        let place = &mut self.places[handle as usize];
        (place.network, place.ethertype, place.marked) = (network, ethertype, false);
        place.payload.extend_from_slice(headers);
        place.payload.extend_from_slice(payload);
        Some(handle)
    }

    /// Whether a mark can be put behind a payload: it is a whole IP packet, and there is room.
    pub(crate) fn may_mark(&mut self, handle: Handle) -> bool {
        let Some(place) = self.get(handle) else { return false };
        let len = place.payload.len() + OrderMark::LEN;
        OrderMark::fits(place.ethertype, &place.payload) && self.make_room(handle, len)
    }

    pub(crate) fn mark(&mut self, handle: Handle, mark: OrderMark) {
        let Some(place) = self.places.get_mut(handle as usize) else { return };
        place.payload.extend_from_slice(&mark.to_bytes());
        place.marked = true;
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&Waiting> {
        self.places.get(handle as usize)
    }

    pub(crate) fn free(&mut self, handle: Handle) {
        self.free.push(handle);
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// It has no memory.
    pub(crate) fn is_bare(&self) -> bool {
        self.places.is_empty()
    }

    /// Gives memory back that was not used for long. Once per tick.
    pub(crate) fn tick(&mut self) {
        if self.places.is_empty() || !self.is_empty() {
            return;
        }
        self.idle += 1;
        if self.idle == IDLE_TICKS {
            *self = Pool::default();
        }
    }

    /// Lets a place grow with what it holds, at the cost of free ones if need be.
    fn make_room(&mut self, handle: Handle, len: usize) -> bool {
        let has = self.places[handle as usize].payload.capacity();
        if has >= len {
            return true;
        }
        let wanted = len.next_multiple_of(STEP);
        let mut coldest = self.free.iter();
        while self.bytes - has + wanted > WAITING_BYTES_MAX {
            let Some(&cold) = coldest.next() else { return false };
            let memory = std::mem::take(&mut self.places[cold as usize].payload);
            self.bytes -= memory.capacity();
        }
        self.bytes -= has;
        let payload = &mut self.places[handle as usize].payload;
        payload.reserve_exact(wanted - payload.len());
        self.bytes += payload.capacity();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId(1);

    #[test]
    fn what_is_put_in_is_what_waits() {
        let mut pool = Pool::default();
        let a = pool.put(NETWORK, 0x0800, &[1, 2], &[3]).unwrap();
        let b = pool.put(NETWORK, 0x86dd, &[], &[4; 3000]).unwrap();
        assert_eq!(pool.get(a).map(|w| (w.ethertype, &w.payload[..])), Some((0x0800, &[1, 2, 3][..])));
        assert_eq!(pool.get(b).map(|w| w.payload.len()), Some(3000));
        assert!(!pool.is_empty());
        pool.free(a);
        pool.free(b);
        assert!(pool.is_empty());
    }

    #[test]
    fn a_place_that_grows_for_a_mark_keeps_the_packet() {
        let mut pool = Pool::default();
        for len in [1020u16, 1021, 1024, 2047, 2048] {
            let [l0, l1] = len.to_be_bytes();
            let packet = [&[0x45, 0, l0, l1][..], &vec![7; usize::from(len) - 4]].concat();
            let handle = pool.put(NETWORK, 0x0800, &[], &packet).unwrap();
            assert!(pool.may_mark(handle));
            pool.mark(handle, OrderMark(9));
            assert_eq!(pool.get(handle).unwrap().payload, [&packet[..], &[0, 0, 0, 9]].concat(), "{len}");
            pool.free(handle);
        }
    }

    #[test]
    fn packets_and_bytes_are_bounded() {
        let mut pool = Pool::default();
        let small: Vec<Handle> = std::iter::from_fn(|| pool.put(NETWORK, 0, &[], &[0; 100])).collect();
        assert_eq!(small.len(), WAITING_PACKETS_MAX);
        small.into_iter().for_each(|handle| pool.free(handle));
        // what the small ones took is there for the large
        let large = std::iter::from_fn(|| pool.put(NETWORK, 0, &[], &[0; 9000])).count();
        assert_eq!(large, WAITING_BYTES_MAX / 9216);
        assert!(pool.bytes <= WAITING_BYTES_MAX);
    }

    #[test]
    fn memory_comes_back_after_a_pause() {
        let mut pool = Pool::default();
        let handle = pool.put(NETWORK, 0, &[], &[0; 100]).unwrap();
        (0..100).for_each(|_| pool.tick());
        assert!(pool.get(handle).is_some(), "it waits");
        pool.free(handle);
        (0..IDLE_TICKS).for_each(|_| pool.tick());
        assert_eq!((pool.places.capacity(), pool.bytes), (0, 0));
    }
}
