//! One path of a bond, as one shard sends over it: when a frame is to be acknowledged, and what left since the last report.

use bond::model::PathModel;
use bond::qos::{Arrivals, is_sampled};
use bond::{PathId, Seen};

use crate::tables::Route;

/// Sent odd IDs of one path between two reports, the newest.
const SAMPLED_MAX: usize = 32;
/// Between two requests on one path that carries data. us. // spec: one per 2 to 10 ms
const REQUEST_GAP_US: u64 = 2_000;
/// Frames after which one is to be acknowledged sooner than that.
const REQUEST_FRAMES: u32 = 64;
/// But not sooner than this. us.
const REQUEST_GAP_MIN_US: u64 = 500;
/// A frame that would need another datagram for it is spared until then. us.
const REQUEST_GAP_MAX_US: u64 = 4_000;

/// One path.
pub(super) struct Lane {
    pub(super) id: PathId,
    pub(super) route: Route,
    /// What is known of it, unless the striper knows it.
    pub(super) model: Option<PathModel>,
    /// The rate that was told last. bytes/s.
    pub(super) rate: f64,
    requested_us: Option<u64>,
    frames: u32,
    packets: u64,
    bytes: u64,
    sampled: Arrivals<SAMPLED_MAX>,
}

impl Lane {
    pub(super) fn new(id: PathId, route: Route) -> Lane {
        Lane {
            id,
            route,
            model: None,
            rate: 0.0,
            requested_us: None,
            frames: 0,
            packets: 0,
            bytes: 0,
            sampled: Arrivals::default(),
        }
    }

    /// Whether the frame that leaves now is to be acknowledged. `cheap`: it takes no datagram more.
    pub(super) fn wants_request(&mut self, now_us: u64, cheap: bool) -> bool {
        self.frames += 1;
        let gap = self.requested_us.map_or(u64::MAX, |at| now_us.saturating_sub(at));
        let due = gap >= REQUEST_GAP_US || (self.frames >= REQUEST_FRAMES && gap >= REQUEST_GAP_MIN_US);
        let wanted = due && (cheap || gap >= REQUEST_GAP_MAX_US);
        if wanted {
            self.requested(now_us);
        }
        wanted
    }

    /// One left that is to be acknowledged.
    pub(super) fn requested(&mut self, now_us: u64) {
        (self.requested_us, self.frames) = (Some(now_us), 0);
    }

    /// A packet left.
    pub(super) fn left(&mut self, now_us: u64, packet_id: u64, bytes: usize, sampled: bool) {
        self.count(bytes);
        if sampled && is_sampled(packet_id) {
            self.sampled.note(packet_id, now_us);
        }
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// Appends what left since the last time.
    pub(super) fn report(&mut self, seen: &mut Vec<Seen>) {
        let path = self.id;
        seen.extend(self.sampled.iter().map(|(packet_id, at_us)| Seen::Sampled { path, packet_id, at_us }));
        self.sampled.clear();
        if self.packets > 0 {
            seen.push(Seen::Sent { path, packets: self.packets, bytes: self.bytes });
            (self.packets, self.bytes) = (0, 0);
        }
    }
}
