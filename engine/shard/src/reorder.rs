//! The last step of a frame's way in, for peers that are heard over several paths: their TCP segments, and all frames with
//! an order mark, reach the coalescer in the order of their flow. Where they come to several shards, they meet in one first. A
//! peer heard over one path costs a comparison. Which frame waits, and for how long, is judged by `bond`.

use std::hash::BuildHasher;

use bond::resequence::{Counters, Resequencer, Source};
use foldhash::fast::FixedState;
use wire::message::OrderMark;
use wire::{Address, NetworkId, Now};

use crate::bonded::flow;
use crate::egress::{Egress, Stray};
use crate::tables::Peer;
use crate::{ETHERNET_HEADER_LEN, Path, Shard};

/// Over which paths one peer is heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    last: Option<Path>,
    /// If there were several of late.
    source: Option<Box<Source<Path>>>,
    /// Other shards hear it too.
    scattered: bool,
}

/// What is to be done about the order of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// The number of its path, if several are in use.
    by: Option<u8>,
    /// Its flow may come to other shards too.
    scattered: bool,
}

impl Heard {
    /// The number of a path over which a frame came, if several are in use.
    fn by(&mut self, now_us: u64, path: Path) -> Option<u8> {
        let last = self.last.replace(path);
        if let Some(source) = &mut self.source {
            let by = source.heard(now_us, path);
            if by.is_none() {
                self.source = None;
            }
            return by;
        }
        let before = last.filter(|last| *last != path)?;
        self.source.insert(Box::new(Source::new(now_us, before))).heard(now_us, path)
    }
}

impl Peer {
    /// A frame of it came over a path. None: nothing is to be done about its order.
    pub(crate) fn came(&mut self, now_us: u64, path: Path) -> Option<Order> {
        let (by, scattered) = (self.heard.by(now_us, path), self.heard.scattered && self.bonds());
        (by.is_some() || scattered).then_some(Order { by, scattered })
    }
}

/// The segments of one shard that wait.
#[derive(Debug)]
pub(crate) struct Reorder {
    on: bool,
    /// For the flows of frames with order marks.
    hasher: FixedState,
    resequencer: Resequencer,
}

impl Reorder {
    /// `seed` should be random.
    pub(crate) fn new(seed: u64) -> Reorder {
        Reorder { on: true, hasher: FixedState::with_seed(seed), resequencer: Resequencer::new(seed) }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// What waits when it is switched off goes when its time has come.
    pub(crate) fn set(&mut self, on: bool) {
        self.on = on;
    }
}

impl Shard {
    /// A frame for a TAP whose place among others is to be found.
    pub(crate) fn in_order(&mut self, now: Now, order: Order, came: &Stray<'_>, out: &mut impl Egress) {
        let Stray { peer, network, frame, mark, .. } = *came;
        let mut source = self.tables.peers.get_mut(&peer).and_then(|peer| peer.heard.source.as_deref_mut());
        let (resequencer, coalescer, counters) =
            (&mut self.reorder.resequencer, &mut self.coalescer, &mut self.counters);
        let segment = match frame.split_first_chunk::<ETHERNET_HEADER_LEN>() {
            Some(([.., e0, e1], payload)) if mark.is_none() => {
                resequencer.read(network.0, u16::from_be_bytes([*e0, *e1]), payload)
            }
            _ => None,
        };
        let ordered = mark.is_some() || segment.is_some_and(|segment| segment.len > 0);
        if order.scattered && ordered && out.meet(came) {
            counters.strays_given += 1;
            return;
        }
        // A mark says more than a sequence number.
        if let (Some(OrderMark(counter)), Some(source), Some(by), Some(([.., e0, e1], payload))) =
            (mark, &mut source, order.by, frame.split_first_chunk::<ETHERNET_HEADER_LEN>())
        {
            let (hasher, ethertype) = (&self.reorder.hasher, u16::from_be_bytes([*e0, *e1]));
            let flow = hasher.hash_one((peer.to_u64(), network.0, flow(hasher, ethertype, payload)));
            let let_go = &mut |network, frame: &[u8]| coalescer.push(NetworkId(network), frame, out, counters);
            return resequencer.marked(now.mono_us, source, by, (flow, counter), network.0, frame, let_go);
        }
        let (Some(segment), Some(source), Some(by)) = (segment, source, order.by) else {
            return coalescer.push(network, frame, out, counters);
        };
        resequencer.segment(now.mono_us, source, by, &segment, network.0, frame, &mut |network, frame| {
            coalescer.push(NetworkId(network), frame, out, counters);
        });
    }

    /// Takes a frame that another shard [gave](Egress::meet), because those of its flow meet here.
    pub fn stray(&mut self, now: Now, stray: &Stray<'_>, out: &mut impl Egress) {
        self.counters.strays_taken += 1;
        let path = Path { socket: stray.socket, remote: stray.remote };
        let peer = self.tables.peers.get_mut(&stray.peer).filter(|_| self.reorder.on);
        let by = peer.and_then(|peer| peer.heard.by(now.mono_us, path));
        self.in_order(now, Order { by, scattered: false }, stray, out);
    }

    /// Whether other shards hear a peer too. If it bonds, what can be put in order is offered to
    /// [`Egress::meet`] then.
    pub fn set_scattered(&mut self, peer: Address, scattered: bool) {
        if let Some(peer) = self.tables.peers.get_mut(&peer) {
            peer.heard.scattered = scattered;
        }
    }

    /// Lets go the segments that have waited long enough for those before them. To be called when
    /// [`Shard::release_due_us`] says so, before [`Shard::flush`].
    pub fn release(&mut self, now: Now, out: &mut impl Egress) {
        let (coalescer, counters) = (&mut self.coalescer, &mut self.counters);
        self.reorder.resequencer.expire(now.mono_us, &mut |network, frame| {
            coalescer.push(NetworkId(network), frame, out, counters);
        });
    }

    /// When [`Shard::release`] has something to do, us of the monotonic clock.
    pub fn release_due_us(&self) -> Option<u64> {
        self.reorder.resequencer.due_us()
    }

    /// What became of segments that came out of order.
    pub fn reordering(&self) -> Counters {
        self.reorder.resequencer.counters()
    }
}
