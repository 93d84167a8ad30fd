//! The last step of a frame's way in, for peers that are heard over several paths: their TCP segments reach the coalescer
//! in the order of their flow. A peer heard over one path costs a comparison. Which segment waits, and for how long, is
//! judged by `bond`.

use bond::resequence::{Counters, Resequencer, Source};
use wire::{Address, NetworkId, Now};

use crate::egress::Egress;
use crate::{ETHERNET_HEADER_LEN, Path, Shard};

/// Over which paths one peer is heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    last: Option<Path>,
    /// If there were several of late.
    source: Option<Box<Source<Path>>>,
}

impl Heard {
    /// A frame came over a path: its number, if several are in use.
    pub(crate) fn by(&mut self, now_us: u64, path: Path) -> Option<u8> {
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

/// The segments of one shard that wait.
#[derive(Debug)]
pub(crate) struct Reorder {
    on: bool,
    resequencer: Resequencer,
}

impl Reorder {
    /// `seed` should be random.
    pub(crate) fn new(seed: u64) -> Reorder {
        Reorder { on: true, resequencer: Resequencer::new(seed) }
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
    /// A frame for a TAP by the path of this number, of several.
    pub(crate) fn in_order(
        &mut self,
        now: Now,
        sender: Address,
        by: u8,
        network: NetworkId,
        frame: &[u8],
        out: &mut impl Egress,
    ) {
        let source = self.tables.peers.get_mut(&sender).and_then(|peer| peer.heard.source.as_deref_mut());
        let (resequencer, coalescer, counters) =
            (&mut self.reorder.resequencer, &mut self.coalescer, &mut self.counters);
        let segment = match frame.split_first_chunk::<ETHERNET_HEADER_LEN>() {
            Some(([.., e0, e1], payload)) => resequencer.read(network.0, u16::from_be_bytes([*e0, *e1]), payload),
            None => None,
        };
        let (Some(segment), Some(source)) = (segment, source) else {
            return coalescer.push(network, frame, out, counters);
        };
        resequencer.segment(now.mono_us, source, by, &segment, network.0, frame, &mut |network, frame| {
            coalescer.push(NetworkId(network), frame, out, counters);
        });
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
