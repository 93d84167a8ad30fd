//! One packet thread: turns its ring, hands what arrives to its shard, obeys the control thread between turns. Knows how
//! to carry and when to report, not what is carried.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam::channel::{Receiver, Sender};
use shard::{Egress, Gso, Offload, Report, Shard, SocketId, Stray, TapSlot, ToControl, Update};
use tracing::{debug, error, warn};
use uring::tap::SuperFrames;
use uring::{Event, Handler, HeldFrame, Io, Ring, Token, Waker};
use wire::fragment::ReassemblyCounters;
use wire::packet::Packet;
use wire::{Address, NetworkId, Now, Verb};

use super::{BOND_TICK, FromShard, TICK, lock, meeting::Meeting, queues::Outbox};

/// Datagrams of the control plane sent in one turn; the rest follows in the next.
const SENDS_PER_TURN: usize = 256;
/// Frames of the control plane delivered in one turn.
const FRAMES_PER_TURN: usize = 128;
/// After the last traffic a shard looks once more for packets that stayed incomplete. // spec: paths, "Hardening bounds"
const LAST_LOOK: Duration = Duration::from_millis(600);

/// What one shard did and dropped since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardCounters {
    /// Packets and frames.
    pub shard: shard::Counters,
    /// Fragments.
    pub reassembly: ReassemblyCounters,
    /// Segments that came out of order.
    pub reordering: bond::resequence::Counters,
    /// Datagrams, TAP reads and writes, and the ring itself.
    pub ring: uring::Counters,
}

/// A decision of the control plane.
pub(super) enum Command {
    Update(Update),
    AddSocket(SocketId, UdpSocket),
    RemoveSocket(SocketId),
    AddTap(NetworkId, OwnedFd, SuperFrames),
    RemoveTap(NetworkId),
    Stop,
}

/// A datagram of the control plane.
pub(super) struct Outgoing {
    pub(super) socket: SocketId,
    pub(super) remote: SocketAddr,
    pub(super) ttl: Option<u8>,
    pub(super) datagram: Vec<u8>,
}

/// What comes from the control thread.
pub(super) struct Mail {
    pub(super) commands: Receiver<Command>,
    pub(super) sends: Receiver<Outgoing>,
    pub(super) frames: Receiver<(NetworkId, Vec<u8>)>,
}

pub(super) struct Setup {
    pub(super) shard: usize,
    pub(super) shards: usize,
    pub(super) own: Address,
    pub(super) ring: uring::Config,
    pub(super) origin: Instant,
    pub(super) mail: Mail,
    pub(super) outbox: Outbox,
    pub(super) meeting: Option<Arc<Meeting>>,
    pub(super) counters: Arc<Mutex<ShardCounters>>,
}

/// The thread. Says through `started` whether it has a ring, and how to wake it.
pub(super) fn run(mut setup: Setup, started: &Sender<Result<Waker, uring::Error>>) {
    let mut ring = match Ring::new(setup.ring.clone()) {
        Ok(ring) => ring,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    if let Some(error) = ring.io().busy_poll_refused() {
        warn!(shard = setup.shard, %error, "no busy poll");
    }
    let waker = ring.waker();
    if let Some(meeting) = setup.meeting.take() {
        setup.outbox.join(meeting, setup.shard, waker.clone());
    }
    let _ = started.send(Ok(waker.clone()));
    let _alarm = Alarm { shard: setup.shard, outbox: setup.outbox.clone() };
    let mut worker = Worker::new(setup, waker);
    let mut timeout = None;
    while !worker.stop {
        if let Err(error) = ring.turn(timeout, &mut worker) {
            error!(shard = worker.number, %error, "the ring broke");
            worker.outbox.lost(FromShard::ShardGone { shard: worker.number, error });
            break;
        }
        timeout = worker.end_turn(&mut ring);
    }
    // what was committed in the last turn leaves now
    let _ = ring.turn(Some(Duration::ZERO), &mut worker);
    worker.publish(&mut ring);
    worker.outbox.announce();
}

/// Tells the control thread if this thread panics: nobody else would notice before the end.
pub(super) struct Alarm {
    pub(super) shard: usize,
    pub(super) outbox: Outbox,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = io::Error::other("it panicked");
            self.outbox.lost(FromShard::ShardGone { shard: self.shard, error });
            self.outbox.announce();
        }
    }
}

struct Worker {
    number: usize,
    shard: Shard,
    clock: Clock,
    now: Now,
    mail: Mail,
    outbox: Outbox,
    counters: Arc<Mutex<ShardCounters>>,
    waker: Waker,
    taps: Taps,
    report: Report,
    /// Packets or frames came since the last tick.
    traffic: bool,
    next_tick: Option<Instant>,
    /// The next tick is the last before sleep, unless there is traffic.
    last_look: bool,
    next_bond_tick: Option<Instant>,
    stop: bool,
}

/// What each TAP carries. Few: a list is searched faster than a table.
#[derive(Default)]
struct Taps(Vec<(NetworkId, SuperFrames)>);

impl Taps {
    fn add(&mut self, network: NetworkId, carries: SuperFrames) {
        self.0.retain(|(known, _)| *known != network);
        self.0.push((network, carries));
    }

    fn carries(&self, network: NetworkId) -> SuperFrames {
        self.0.iter().find(|(known, _)| *known == network).map_or(SuperFrames::None, |(_, carries)| *carries)
    }

    /// Gives a complete frame to a TAP.
    fn write(&self, io: &mut Io, network: NetworkId, frame: &[u8]) {
        let header: &[u8] = match self.carries(network) {
            SuperFrames::None => &[],
            SuperFrames::Tcp | SuperFrames::TcpAndUdp => &[0; Offload::LEN],
        };
        let len = header.len() + frame.len();
        let Ok(mut room) = io.frame(network.0, len) else { return }; // counted by the ring
        room[..header.len()].copy_from_slice(header);
        room[header.len()..].copy_from_slice(frame);
        room.commit(len);
    }
}

/// The two clocks, read once per turn.
struct Clock {
    /// Of all threads.
    origin: Instant,
    start: Instant,
    unix_ms: u64,
}

impl Clock {
    fn now(&self, at: Instant) -> Now {
        let unix_ms = self.unix_ms + at.saturating_duration_since(self.start).as_millis() as u64;
        Now { mono_us: at.saturating_duration_since(self.origin).as_micros() as u64, unix_ms }
    }
}

impl Worker {
    fn new(setup: Setup, waker: Waker) -> Worker {
        let start = Instant::now();
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let clock = Clock { origin: setup.origin, start, unix_ms };
        Worker {
            number: setup.shard,
            shard: Shard::new(setup.own, shard::Config { seed: rand::random(), shards: setup.shards }),
            now: clock.now(start),
            clock,
            mail: setup.mail,
            outbox: setup.outbox,
            counters: setup.counters,
            waker,
            taps: Taps::default(),
            report: Report::default(),
            traffic: false,
            next_tick: None,
            last_look: false,
            next_bond_tick: None,
            stop: false,
        }
    }

    /// Lets go what is due, announces what was handed over, ticks if it is time, and says how long the next turn may sleep.
    fn end_turn(&mut self, ring: &mut Ring) -> Option<Duration> {
        let now = self.let_go(ring);
        if self.traffic && (self.next_tick.is_none() || self.last_look) {
            self.last_look = false;
            self.next_tick = Some(now + TICK);
        } else if self.next_tick.is_some_and(|at| now >= at) {
            self.tick(ring);
            self.last_look = std::mem::take(&mut self.traffic);
            self.next_tick =
                if self.shard.keeps_packets() { Some(now + TICK) } else { self.last_look.then(|| now + LAST_LOOK) };
        }
        match self.next_bond_tick {
            Some(at) if now >= at => self.bond_tick(now),
            None if self.shard.has_bond_news() => self.next_bond_tick = Some(now + BOND_TICK),
            _ => {}
        }
        let released = self.release(ring.io(), now);
        self.outbox.announce();
        let due = self.shard.next_due_us().map(|us| self.clock.origin + Duration::from_micros(us));
        let next = [self.next_tick, self.next_bond_tick, due, released].into_iter().flatten().min();
        next.map(|at| at.saturating_duration_since(now))
    }

    /// Packets that waited for their path leave. Returns the time.
    fn let_go(&mut self, ring: &mut Ring) -> Instant {
        let io = ring.io();
        if !self.shard.has_waiting() {
            return io.now();
        }
        let now = Instant::now(); // the turn may have been long, and they wait for microseconds
        self.now = self.clock.now(now);
        self.shard.poll(self.now, &mut Out { io, outbox: &mut self.outbox, taps: &self.taps });
        now
    }

    fn bond_tick(&mut self, now: Instant) {
        let mut report = Report::default();
        self.shard.bond_tick(self.clock.now(now), &mut report);
        if !report.is_empty() {
            self.outbox.report(FromShard::Activity { shard: self.number, report });
        }
        self.next_bond_tick = None;
    }

    /// Segments that waited for others go to their TAP, if nothing came in that did it. Returns when the next are due.
    fn release(&mut self, io: &mut Io, now: Instant) -> Option<Instant> {
        let at = |us| self.clock.origin + Duration::from_micros(us);
        if self.shard.release_due_us().is_some_and(|us| now >= at(us)) {
            let out = &mut Out { io, outbox: &mut self.outbox, taps: &self.taps };
            self.shard.release(self.clock.now(now), out);
            self.shard.flush(out);
        }
        self.shard.release_due_us().map(at)
    }

    fn tick(&mut self, ring: &mut Ring) {
        self.shard.tick(self.now, &mut self.report);
        for line in self.report.activity.iter().filter(|line| line.rx_packets > 0) {
            if let Some(scattered) = self.outbox.scattered(line.peer) {
                self.shard.set_scattered(line.peer, scattered);
            }
        }
        if !self.report.is_empty() {
            let report = std::mem::take(&mut self.report);
            self.outbox.report(FromShard::Activity { shard: self.number, report });
        }
        self.publish(ring);
    }

    fn publish(&mut self, ring: &mut Ring) {
        *lock(&self.counters) = ShardCounters {
            shard: self.shard.counters(),
            reassembly: self.shard.reassembly(),
            reordering: self.shard.reordering(),
            ring: *ring.io().counters(),
        };
    }
}

impl Handler for Worker {
    fn begin(&mut self, now: Instant) {
        self.now = self.clock.now(now);
        self.outbox.begin(self.now);
    }

    fn datagrams(&mut self, io: &mut Io, socket: Token, remote: SocketAddr, bytes: &mut [u8], segment: usize) {
        self.traffic = true;
        let out = &mut Out { io, outbox: &mut self.outbox, taps: &self.taps };
        for datagram in bytes.chunks_mut(segment) {
            self.shard.inbound(self.now, SocketId(socket), remote, datagram, out);
        }
    }

    fn frame(&mut self, io: &mut Io, tap: Token, frame: &mut [u8]) {
        self.traffic = true;
        let network = NetworkId(tap);
        let out = &mut Out { io, outbox: &mut self.outbox, taps: &self.taps };
        if self.taps.carries(network) == SuperFrames::None {
            self.shard.clamp_from_tap(network, frame);
            return self.shard.outbound(self.now, network, frame, out);
        }
        let Some((header, frame)) = frame.split_first_chunk_mut::<{ Offload::LEN }>() else { return };
        self.shard.outbound_offloaded(self.now, network, Offload::parse(header), frame, out);
    }

    fn end(&mut self, io: &mut Io) {
        let out = &mut Out { io, outbox: &mut self.outbox, taps: &self.taps };
        self.shard.release(self.now, out);
        self.shard.flush(out);
    }

    fn woken(&mut self, io: &mut Io) {
        // Counted before the decisions are taken: what came after them finds its socket and its TAP.
        let (sends, frames) = (self.mail.sends.len(), self.mail.frames.len());
        for _ in 0..self.mail.commands.len() {
            let Ok(command) = self.mail.commands.try_recv() else { break };
            self.obey(command, io);
        }
        for Outgoing { socket, remote, ttl, datagram } in self.mail.sends.try_iter().take(sends.min(SENDS_PER_TURN)) {
            let _ = io.send(socket.0, remote, ttl, &datagram); // counted by the ring
        }
        for (network, mut frame) in self.mail.frames.try_iter().take(frames.min(FRAMES_PER_TURN)) {
            self.shard.clamp_to_tap(network, &mut frame);
            self.taps.write(io, network, &frame);
        }
        for _ in 0..self.outbox.strays() {
            let Some(given) = self.outbox.take_stray() else { break };
            self.traffic = true;
            self.shard.stray(self.now, &given.stray(), &mut Out { io, outbox: &mut self.outbox, taps: &self.taps });
            self.outbox.recycle(given);
        }
        if !(self.mail.commands.is_empty() && self.mail.sends.is_empty() && self.mail.frames.is_empty()) {
            self.waker.wake();
        }
    }

    fn event(&mut self, _: &mut Io, event: Event) {
        let shard = self.number;
        match event {
            Event::SocketGone { socket, error } => {
                self.outbox.lost(FromShard::SocketGone { shard, socket: SocketId(socket), error });
            }
            Event::TapGone { tap, error } => {
                self.outbox.lost(FromShard::TapGone { shard, network: NetworkId(tap), error });
            }
            Event::Narrow { socket, remote, bytes } => {
                self.outbox.refused(FromShard::Narrow { socket: SocketId(socket), remote, bytes });
            }
            Event::SendFailed { socket, remote, bytes, error } => {
                self.outbox.refused(FromShard::SendFailed { socket: SocketId(socket), remote, bytes, error });
            }
        }
    }
}

impl Worker {
    fn obey(&mut self, command: Command, io: &mut Io) {
        let shard = self.number;
        match command {
            Command::Update(update) => self.shard.apply(update),
            Command::AddSocket(id, socket) => {
                debug!(shard, socket = id.0, "socket added");
                if let Err(error) = io.add_udp(id.0, socket) {
                    let error = Some(io::Error::other(error));
                    self.outbox.lost(FromShard::SocketGone { shard, socket: id, error });
                }
            }
            Command::RemoveSocket(id) => {
                io.remove_udp(id.0);
            }
            Command::AddTap(network, queue, carries) => {
                debug!(shard, %network, ?carries, "TAP queue added");
                self.taps.add(network, carries);
                if let Err(error) = io.add_tap(network.0, queue) {
                    let error = Some(io::Error::other(error));
                    self.outbox.lost(FromShard::TapGone { shard, network, error });
                }
            }
            Command::RemoveTap(network) => {
                io.remove_tap(network.0);
            }
            Command::Stop => self.stop = true,
        }
    }
}

/// The shard's outside: this thread's ring, and the queues to the control thread.
struct Out<'a> {
    io: &'a mut Io,
    outbox: &'a mut Outbox,
    taps: &'a Taps,
}

impl Egress for Out<'_> {
    fn tap(&mut self, network: NetworkId, frame: &[u8]) {
        self.taps.write(self.io, network, frame);
    }

    fn tap_open(&mut self, network: NetworkId, kind: Gso) -> Option<TapSlot> {
        match (self.taps.carries(network), kind) {
            (SuperFrames::None, _) | (SuperFrames::Tcp, Gso::Udp) => None,
            _ => self.io.hold_frame(network.0).ok().map(|held| TapSlot(held.0)),
        }
    }

    fn tap_slot(&mut self, slot: TapSlot) -> &mut [u8] {
        self.io.held_frame(HeldFrame(slot.0)).get_mut(Offload::LEN..).unwrap_or_default()
    }

    fn tap_close(&mut self, slot: TapSlot, len: usize, offload: Offload) {
        let held = HeldFrame(slot.0);
        if let Some(header) = self.io.held_frame(held).first_chunk_mut().filter(|_| len > 0) {
            *header = offload.emit();
        }
        self.io.commit_held(held, if len > 0 { Offload::LEN + len } else { 0 });
    }

    fn udp(&mut self, socket: SocketId, remote: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.io.put(socket.0, remote, None, len).ok()
    }

    fn meet(&mut self, stray: &Stray<'_>) -> bool {
        self.outbox.meet(stray)
    }

    fn control(&mut self, what: ToControl<'_>) {
        match what {
            ToControl::Foreign { socket, remote, bytes } => {
                self.outbox.foreign(bytes, |bytes| FromShard::Datagram { socket, remote, bytes });
            }
            ToControl::Datagram { socket, remote, bytes } => {
                self.outbox.datagram(bytes, |bytes| FromShard::Datagram { socket, remote, bytes });
            }
            ToControl::Reassembled { socket, remote, packet } => {
                self.outbox.datagram(packet, |packet| FromShard::Reassembled { socket, remote, packet });
            }
            ToControl::Opened { socket, remote, packet } if is_frame(packet) => {
                self.outbox.opened_frame(packet, |packet| FromShard::Opened { socket, remote, packet });
            }
            ToControl::Opened { socket, remote, packet } => {
                self.outbox.opened(packet, |packet| FromShard::Opened { socket, remote, packet });
            }
            ToControl::Frame { network, frame } => {
                self.outbox.frame(frame, |frame| FromShard::Frame { network, frame });
            }
        }
    }
}

/// Whether a packet carries an Ethernet frame: there may be as many of them as there is traffic.
fn is_frame(packet: &[u8]) -> bool {
    let verb = Packet::new(packet).ok().and_then(|packet| Verb::from_u8(packet.verb_number()));
    matches!(verb, Some(Verb::Frame | Verb::ExtFrame | Verb::MulticastFrame))
}
