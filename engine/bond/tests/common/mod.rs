//! A small deterministic world for striping: links with rate, delay, jitter, loss and buffer, several TCP connections and a
//! light one over them, behind one or more stripers. A pacer wakes late, acknowledgements come in batches, the processor
//! takes its time per packet.

pub mod tcp;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bond::model::PathModel;
use bond::striper::{Out, Striper};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use tcp::Tolerance;
use tcp::{Ack, Receiver, Sender};

pub const MS: u64 = 1_000_000;
/// Bytes of a full packet.
pub const PACKET: usize = 1400;
/// Between two packets of the light connection.
const PING_GAP: u64 = 20 * MS;
const PING_BYTES: usize = 128;

#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Mbit/s.
    pub rate: f64,
    /// One way, ms, each way.
    pub delay: f64,
    /// Up to this much more, ms; order is kept.
    pub jitter: f64,
    /// Share of packets.
    pub loss: f64,
    /// Of the bottleneck, ms at full rate.
    pub buffer: f64,
    /// From this second on the rate is this many times as high.
    pub change: Option<(f64, f64)>,
}

impl Link {
    pub const fn new(rate: f64, delay: f64) -> Link {
        Link { rate, delay, jitter: 0.0, loss: 0.0, buffer: 100.0, change: None }
    }
}

struct Line {
    link: Link,
    busy_until: f64,
    last_arrival: u64,
    last_return: u64,
    dropped: u64,
    carried: u64,
}

impl Line {
    fn send(&mut self, now: u64, bytes: usize, rng: &mut StdRng) -> Option<u64> {
        let backlog = (self.busy_until - now as f64).max(0.0);
        if backlog > self.link.buffer * 1e6 {
            self.dropped += 1;
            return None;
        }
        let factor = self.link.change.filter(|c| now as f64 >= c.0 * 1e9).map_or(1.0, |c| c.1);
        self.busy_until = self.busy_until.max(now as f64) + bytes as f64 * 8.0 / (self.link.rate * factor) * 1e3;
        self.carried += bytes as u64;
        if rng.random::<f64>() < self.link.loss {
            return None;
        }
        let way = self.link.delay + self.link.jitter * rng.random::<f64>();
        let arrival = (self.busy_until + way * 1e6) as u64;
        self.last_arrival = self.last_arrival.max(arrival);
        Some(self.last_arrival)
    }

    fn answer(&mut self, now: u64, rng: &mut StdRng) -> u64 {
        let way = self.link.delay + self.link.jitter * rng.random::<f64>();
        self.last_return = self.last_return.max(now + (way * 1e6) as u64);
        self.last_return
    }
}

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub tolerance: Tolerance,
    /// TCP connections, over the stripers in turn.
    pub flows: usize,
    pub stripers: usize,
    /// All but the first striper begin then, ms: beside it, unless `alone`. Disorder counts from then on.
    pub second_ms: u64,
    /// As if nobody had told them.
    pub alone: bool,
    pub seconds: u64,
    /// Seconds that do not count.
    pub warm_up: u64,
    /// The pacer wakes up to this much late, us.
    pub slack: u64,
    /// What comes in is seen this often, us.
    pub batch: u64,
    /// One packet, ns of the processor of its striper.
    pub cpu: u64,
    /// Share of the answers to requests that is lost.
    pub ack_loss: f64,
    pub seed: u64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            tolerance: Tolerance::Rack,
            flows: 1,
            stripers: 1,
            second_ms: 0,
            alone: false,
            seconds: 16,
            warm_up: 8,
            slack: 100,
            batch: 100,
            cpu: 0,
            ack_loss: 0.0,
            seed: 1,
        }
    }
}

/// A packet: of which connection, its number, whether it is a repetition. The last connection is the light one.
type Packet = (usize, u64, bool);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Poll(usize),
    Timer(usize),
    Ping,
    Arrive { striper: usize, path: usize, packet: Packet, request: Option<u64> },
    Acked { striper: usize, path: usize, request: u64 },
    Ack(usize),
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Mbit/s that reached the receivers in order, after the warm-up.
    pub goodput: f64,
    /// The same, during the warm-up.
    pub start: f64,
    /// By connection.
    pub each: Vec<f64>,
    /// Share of first sendings that arrived after a later one.
    pub reordered: f64,
    /// How late these were, 99th percentile, ms.
    pub late_p99: f64,
    /// Repetitions that were not needed.
    pub spurious: u64,
    pub recoveries: u64,
    pub timeouts: u64,
    /// Dropped by the managed queue and by the links.
    pub codel: u64,
    pub overflow: u64,
    /// Estimated rate per path at the end, Mbit/s, of the first striper.
    pub rates: Vec<f64>,
    /// Bytes per path, share.
    pub shares: Vec<f64>,
    /// One way of the light connection beyond the delay of the fastest link, ms: median, 99th percentile.
    pub ping: (f64, f64),
}

impl Outcome {
    /// How alike the connections' rates are: 1 is equal.
    pub fn jain(&self) -> f64 {
        let sum: f64 = self.each.iter().sum();
        let squares: f64 = self.each.iter().map(|x| x * x).sum();
        sum * sum / (self.each.len() as f64 * squares).max(f64::MIN_POSITIVE)
    }
}

struct World {
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
}

impl World {
    fn at(&mut self, at: u64, e: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, e)));
    }
}

/// TCP connections over these links.
pub fn run(links: &[Link], setup: Setup) -> Outcome {
    let mut rng = StdRng::seed_from_u64(setup.seed);
    let mut lines: Vec<Line> = links
        .iter()
        .map(|&link| Line { link, busy_until: 0.0, last_arrival: 0, last_return: 0, dropped: 0, carried: 0 })
        .collect();
    // A probe has measured each path's round trip before: that is how a path comes to be used at all.
    let rtt = |l: &Link| ((2.0 * l.delay + l.jitter) * 1e6) as u64;
    let striper =
        |_| -> Striper<Packet> { Striper::new(0, links.iter().map(|l| PathModel::new(0, Some(rtt(l)), None))) };
    let mut stripers: Vec<Striper<Packet>> = (0..setup.stripers).map(striper).collect();
    let mut free = vec![0u64; setup.stripers];
    let mut poll_at = vec![u64::MAX; setup.stripers];
    let mut senders: Vec<Sender> = (0..setup.flows).map(|_| Sender::new(setup.tolerance)).collect();
    let mut timer_at = vec![u64::MAX; setup.flows];
    let mut receivers: Vec<Receiver> = (0..setup.flows).map(|_| Receiver::default()).collect();
    let mut at_warm_up = vec![0; setup.flows];
    let mut pings: (Vec<u64>, Vec<f64>) = Default::default();
    let mut acks: Vec<Option<(usize, Ack)>> = Vec::new();
    let mut world = World { events: BinaryHeap::new(), order: 0 };
    let mut codel = 0;
    // The acknowledgements of the connections come back over the fastest link.
    let back = links.iter().map(|l| l.delay).fold(f64::MAX, f64::min);
    let batched = |at: u64| at.next_multiple_of(setup.batch.max(1) * 1000);
    for f in 0..setup.flows {
        // Not all in the same instant.
        let begin = if f % setup.stripers == 0 { 0 } else { setup.second_ms * MS };
        world.at(begin + f as u64 * 7 * MS, Event::Timer(f));
    }
    world.at(0, Event::Ping);
    let mut joining = setup.second_ms > 0;
    while let Some(Reverse((now, _, event))) = world.events.pop() {
        if now > setup.seconds * 1000 * MS {
            break;
        }
        if joining && now >= setup.second_ms * MS {
            joining = false;
            let known: Vec<f64> = (0..links.len()).map(|i| stripers[0].model(i).map_or(0.0, |m| m.rate())).collect();
            let beside = || links.iter().zip(&known).map(|(l, rate)| PathModel::beside(now, Some(rtt(l)), *rate));
            stripers.iter_mut().skip(1).filter(|_| !setup.alone).for_each(|s| *s = Striper::new(now, beside()));
            receivers.iter_mut().for_each(|r| (r.got, r.late) = (0, Vec::new()));
        }
        if now < setup.warm_up * 1000 * MS {
            for (at, r) in at_warm_up.iter_mut().zip(&receivers) {
                *at = r.cum;
            }
        }
        let s = match event {
            Event::Poll(s) => {
                poll_at[s] = u64::MAX;
                s
            }
            Event::Timer(f) => {
                timer_at[f] = u64::MAX;
                senders[f].on_timer(now);
                f % setup.stripers
            }
            Event::Ping => {
                let _ = stripers[0].offer_light((setup.flows, pings.0.len() as u64, false), PING_BYTES);
                pings.0.push(now);
                world.at(now + PING_GAP, Event::Ping);
                0
            }
            Event::Arrive { striper, path, packet: (flow, seq, again), request } => {
                if let Some(request) = request
                    && rng.random::<f64>() >= setup.ack_loss
                {
                    let at = batched(lines[path].answer(now, &mut rng));
                    world.at(at, Event::Acked { striper, path, request });
                }
                if flow == setup.flows {
                    if now > setup.warm_up * 1000 * MS {
                        pings.1.push((now - pings.0[seq as usize]) as f64 / 1e6 - back);
                    }
                } else if let Some(ack) = receivers[flow].on_data(now, seq, !again) {
                    acks.push(Some((flow, ack)));
                    world.at(batched(now + (back * 1e6) as u64), Event::Ack(acks.len() - 1));
                }
                continue;
            }
            Event::Acked { striper, path, request } => {
                stripers[striper].acked(now, path, request);
                striper
            }
            Event::Ack(n) => {
                let (flow, ack) = acks[n].take().expect("each is read once");
                senders[flow].on_ack(now, &ack);
                flow % setup.stripers
            }
        };
        for f in (s..setup.flows).step_by(setup.stripers) {
            while let Some(seq) = senders[f].poll(now) {
                let again = senders[f].flight[(seq - senders[f].una) as usize].again > 0;
                if stripers[s].offer(now, f as u64, (f, seq, again), PACKET).is_err() {
                    codel += 1;
                }
            }
            let due = senders[f].deadline();
            if due < timer_at[f] {
                timer_at[f] = due;
                world.at(due.max(now), Event::Timer(f));
            }
        }
        while free[s] <= now
            && let Some(out) = stripers[s].poll(now)
        {
            match out {
                Out::Drop(_) => codel += 1,
                Out::Send { path, item, request } => {
                    free[s] = free[s].max(now.saturating_sub(setup.cpu)) + setup.cpu;
                    let bytes = if item.0 == setup.flows { PING_BYTES } else { PACKET };
                    if let Some(at) = lines[path].send(now, bytes, &mut rng) {
                        world.at(at, Event::Arrive { striper: s, path, packet: item, request });
                    }
                }
            }
        }
        if let Some(next) = stripers[s].next_ns() {
            let next = match next <= now {
                true => free[s],
                false => (next + (setup.slack as f64 * 1e3 * rng.random::<f64>()) as u64).max(free[s]),
            };
            // The timer that is set stays, unless it would be much too late.
            if next + setup.slack * 1000 < poll_at[s] || poll_at[s] == u64::MAX {
                poll_at[s] = next.max(now + 1);
                world.at(poll_at[s], Event::Poll(s));
            }
        }
    }
    let mbit = |packets: u64, seconds: u64| packets as f64 * PACKET as f64 * 8.0 / 1e6 / seconds as f64;
    let counted = setup.seconds - setup.warm_up;
    let each: Vec<f64> = receivers.iter().zip(&at_warm_up).map(|(r, at)| mbit(r.cum - at, counted)).collect();
    let mut late: Vec<u64> = receivers.iter().flat_map(|r| r.late.iter().copied()).collect();
    late.sort_unstable();
    pings.1.sort_unstable_by(f64::total_cmp);
    let nth = |n: usize, len: usize| (len * n / 100).min(len.saturating_sub(1));
    let ping = |n: usize| pings.1.get(nth(n, pings.1.len())).copied().unwrap_or(0.0);
    let carried: u64 = lines.iter().map(|l| l.carried).sum();
    let got: u64 = receivers.iter().map(|r| r.got).sum();
    let sum = |count: fn(&Sender) -> u64| senders.iter().map(count).sum();
    Outcome {
        goodput: each.iter().sum(),
        start: mbit(at_warm_up.iter().sum(), setup.warm_up),
        each,
        reordered: late.len() as f64 / got.max(1) as f64,
        late_p99: late.get(nth(99, late.len())).map_or(0.0, |ns| *ns as f64 / 1e6),
        spurious: sum(|s| s.spurious),
        recoveries: sum(|s| s.recoveries),
        timeouts: sum(|s| s.timeouts),
        codel,
        overflow: lines.iter().map(|l| l.dropped).sum(),
        rates: (0..links.len()).map(|i| stripers[0].model(i).map_or(0.0, |m| m.rate() * 8.0 / 1e6)).collect(),
        shares: lines.iter().map(|l| l.carried as f64 / carried.max(1) as f64).collect(),
        ping: (ping(50), ping(99)),
    }
}
