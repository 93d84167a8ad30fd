//! A tunnel without a cipher: the most that this kernel and this host let a user-space tunnel carry.
//!
//! Included is all that moving packets takes: TAP super-frames in and out, their cutting and joining with every checksum
//! computed and verified (Hawser's own code for both), a 28-byte head on every packet and a 16-byte one on every further
//! fragment, datagrams of at most [`PAYLOAD_MAX`] bytes and of equal size, UDP GSO and GRO, one thread, one ring. One
//! copy on the way out, two on the way in. Left out is all that makes a tunnel one: cipher, peers, rules, duplicates,
//! reordered fragments, any answer to a stranger but silence. It is for measuring and carries nothing worth protecting.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::netns::Namespace;
use shard::{Coalescer, Egress, Gso, Offload, Segments, SocketId, TapSlot, ToControl};
use uring::tap::SuperFrames;
use uring::{Event, Handler, HeldFrame, Io, Ring, Token};
use wire::fragment::datagrams_needed;
use wire::packet::{
    Datagram, FRAG_HDR_LEN, Fragment, HDR_LEN, MAX_FRAGMENTS, Packet, classify, fragment_header, header,
};
use wire::{Address, NetworkId};

use super::{Running, Tunnel};
use crate::rig::{Guard, Rig};
use crate::{Error, IoContext, Result};

/// Name of the hidden subcommand that is one end of this tunnel.
pub const FORWARDER: &str = "plain-forwarder";
/// Most UDP payload bytes of one datagram, as in Hawser.
pub const PAYLOAD_MAX: usize = wire::packet::DEFAULT_PHYS_MTU;

const DEVICE: &str = "plain0";
const PORT: u16 = 9994;
const OVERLAY: [&str; 2] = ["10.78.0.1", "10.78.0.2"];
const DEVICE_LIMIT: Duration = Duration::from_secs(5);
/// One socket, one TAP queue, one network: all have this name.
const ONLY: Token = 1;
const NETWORK: NetworkId = NetworkId(ONLY);
/// Bytes of a buffer for a super-frame.
const SUPER_FRAME: usize = 68 << 10;
/// How long an idle forwarder sleeps before it looks whether it still has a parent.
const IDLE: Duration = Duration::from_secs(1);

/// The tunnel without a cipher.
#[derive(Clone, Debug)]
pub struct Plain {
    /// This program: each end is a child of it.
    pub exe: PathBuf,
    /// MTU of the virtual network.
    pub mtu: u32,
}

impl Plain {
    /// With the running program at both ends.
    pub fn new(mtu: u32) -> Result<Plain> {
        Ok(Plain { exe: std::env::current_exe().doing("find this program")?, mtu })
    }
}

/// Options of one end.
#[derive(Clone, Debug, clap::Args)]
pub struct ForwarderArgs {
    /// Name of the TAP device
    #[arg(long)]
    pub device: String,
    /// Own UDP endpoint
    #[arg(long)]
    pub bind: SocketAddr,
    /// UDP endpoint of the far end
    #[arg(long)]
    pub remote: SocketAddr,
}

struct Pair(#[allow(dead_code)] [Guard; 2], [u32; 2]);

impl Tunnel for Plain {
    fn name(&self) -> &str {
        "plain"
    }

    fn about(&self) -> String {
        format!("no cipher, virtual MTU {}, datagrams of at most {PAYLOAD_MAX} bytes, GSO, GRO, super-frames", self.mtu)
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        let start = |i: usize| -> Result<Guard> {
            let endpoint = |i: usize| SocketAddr::new(rig.sites[i].wan, PORT).to_string();
            let log = rig.files.path().join(format!("plain_{i}.log"));
            let mut command = Command::new(&self.exe);
            command.args([FORWARDER, "--device", DEVICE, "--bind", &endpoint(i), "--remote", &endpoint(1 - i)]);
            let mut guard = rig.sites[i].spawn(&mut command, &log)?;
            wait_for_device(&rig.sites[i].gateway, || guard.alive(), &log)?;
            let gateway = &rig.sites[i].gateway;
            gateway.ip(&["addr", "add", &format!("{}/24", OVERLAY[i]), "dev", DEVICE])?;
            gateway.ip(&["link", "set", DEVICE, "mtu", &self.mtu.to_string(), "up"])?;
            rig.route(i, &["via", OVERLAY[1 - i]])?;
            Ok(guard)
        };
        let guards = [start(0)?, start(1)?];
        let pids = [guards[0].pid(), guards[1].pid()];
        Ok(Box::new(Pair(guards, pids)))
    }
}

impl Running for Pair {
    fn pids(&self) -> [Vec<u32>; 2] {
        self.1.map(|pid| vec![pid])
    }

    fn overlay(&self) -> [IpAddr; 2] {
        OVERLAY.map(|ip| ip.parse().expect("an address of the tunnel"))
    }
}

fn wait_for_device(gateway: &Namespace, mut alive: impl FnMut() -> bool, log: &std::path::Path) -> Result<()> {
    let end = Instant::now() + DEVICE_LIMIT;
    while gateway.ip(&["link", "show", DEVICE]).is_err() {
        if !alive() {
            let reason = std::fs::read_to_string(log).unwrap_or_default().trim().to_owned();
            return Err(Error::Command { command: FORWARDER.into(), reason });
        }
        if Instant::now() > end {
            let what = format!("the device {DEVICE}");
            return Err(Error::Timeout { what, seconds: DEVICE_LIMIT.as_secs(), detail: String::new() });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// One end of the tunnel, in the namespace and on the cores it was started in, until a signal or until its parent is gone.
pub fn forward(args: &ForwarderArgs) -> Result<()> {
    lab::catch_signals()?;
    let parent = nix::unistd::getppid();
    let broken = |e: uring::Error| Error::Unusable(format!("{FORWARDER}: {e}"));
    let tap = uring::tap::Options { name: args.device.clone(), queues: 1, super_frames: true };
    let mut tap = uring::tap::open(&tap).doing(format!("open the TAP device {}", args.device))?;
    let socket = uring::udp::bind(&uring::udp::Options::new(args.bind)).doing(format!("bind {}", args.bind))?;
    let mut ring = Ring::new(ring_config()).map_err(broken)?;
    ring.io().add_udp(ONLY, socket).map_err(broken)?;
    for queue in tap.queues.drain(..) {
        ring.io().add_tap(ONLY, queue).map_err(broken)?;
    }
    let mut forwarder = Forwarder::new(args.remote, tap.super_frames);
    while !lab::interrupted() && forwarder.gone.is_none() {
        let messages = ring.turn(Some(IDLE), &mut forwarder).doing("turn the ring")?;
        if messages == 0 && nix::unistd::getppid() != parent {
            break;
        }
    }
    eprintln!("{:?}\n{:?}\nfragments out of order: {}", ring.io().counters(), forwarder.counters, forwarder.disordered);
    match forwarder.gone {
        Some(what) => Err(Error::Unusable(what)),
        None => Ok(()),
    }
}

/// As the gateway sets its rings up.
pub fn ring_config() -> uring::Config {
    uring::Config {
        tap_buffers: 32,
        tap_buffer_bytes: SUPER_FRAME,
        tap_slots: 64,
        tap_slot_bytes: SUPER_FRAME,
        send_slots: 128,
        ..uring::Config::default()
    }
}

struct Forwarder {
    remote: SocketAddr,
    carries: SuperFrames,
    next_id: u64,
    partial: Partial,
    coalescer: Coalescer,
    counters: shard::Counters,
    /// Fragments that did not continue the packet before them.
    disordered: u64,
    /// What died, if anything did.
    gone: Option<String>,
}

/// The packet whose fragments are coming. They come in order or not at all.
#[derive(Default)]
struct Partial {
    id: u64,
    parts: u8,
    frame: Vec<u8>,
}

impl Forwarder {
    fn new(remote: SocketAddr, carries: SuperFrames) -> Forwarder {
        Forwarder {
            remote,
            carries,
            next_id: 0,
            partial: Partial::default(),
            coalescer: Coalescer::new(0),
            counters: shard::Counters::default(),
            disordered: 0,
            gone: None,
        }
    }

    /// Sends one Ethernet frame, which lies in two pieces, as one packet in datagrams of equal size.
    fn outbound(&mut self, io: &mut Io, headers: &[u8], payload: &[u8]) {
        self.next_id += 1;
        let len = HDR_LEN + headers.len() + payload.len();
        let total = datagrams_needed(len, PAYLOAD_MAX);
        if total > MAX_FRAGMENTS {
            self.counters.unsplittable += 1;
            return;
        }
        let mut head = header(self.next_id, Address::from_u64(2), Address::from_u64(1), 0);
        if let Ok(mut packet) = Packet::new(&mut head[..]) {
            packet.set_fragmented(total > 1);
        }
        let each = (len + FRAG_HDR_LEN * (total - 1)).div_ceil(total);
        let (mut at, mut left) = (0, len - HDR_LEN);
        for number in 0..total {
            let fragment;
            let front: &[u8] = if number == 0 {
                &head
            } else {
                fragment = fragment_header(&head, total as u8, number as u8);
                &fragment
            };
            let piece = left.min(each - front.len());
            let Ok(buffer) = io.put(ONLY, self.remote, None, front.len() + piece) else { return }; // counted by the ring
            let (to_front, to_piece) = buffer.split_at_mut(front.len());
            to_front.copy_from_slice(front);
            copy(headers, payload, at, to_piece);
            (at, left) = (at + piece, left - piece);
        }
        self.counters.frames_out += 1;
        self.counters.datagrams_out += total as u64;
    }

    fn inbound(&mut self, io: &mut Io, datagram: &[u8]) {
        match classify(datagram) {
            Datagram::Head => {
                let Ok(packet) = Packet::new(datagram) else { return };
                if !packet.fragmented() {
                    return self.deliver(io, &datagram[HDR_LEN..]);
                }
                self.partial.id = packet.id();
                self.partial.parts = 1;
                self.partial.frame.clear();
                self.partial.frame.extend_from_slice(&datagram[HDR_LEN..]);
            }
            Datagram::Fragment => {
                let Ok(fragment) = Fragment::new(datagram) else { return };
                if fragment.id() != self.partial.id || fragment.number() != self.partial.parts {
                    self.disordered += 1;
                    return;
                }
                self.partial.parts += 1;
                self.partial.frame.extend_from_slice(fragment.data());
                if self.partial.parts == fragment.total() {
                    let frame = std::mem::take(&mut self.partial.frame);
                    self.deliver(io, &frame);
                    self.partial.frame = frame;
                }
            }
            Datagram::Beacon | Datagram::Ignored => self.counters.not_a_packet += 1,
        }
    }

    fn deliver(&mut self, io: &mut Io, frame: &[u8]) {
        self.counters.frames_in += 1;
        self.coalescer.push(NETWORK, frame, &mut Out { io, carries: self.carries }, &mut self.counters);
    }
}

/// Fills `to` with what lies `at` bytes into both pieces together.
fn copy(headers: &[u8], payload: &[u8], at: usize, to: &mut [u8]) {
    let from_headers = headers.get(at..).unwrap_or_default();
    let cut = from_headers.len().min(to.len());
    to[..cut].copy_from_slice(&from_headers[..cut]);
    let from = (at + cut).saturating_sub(headers.len());
    let rest = to.len() - cut;
    to[cut..].copy_from_slice(&payload[from..from + rest]);
}

impl Handler for Forwarder {
    fn datagrams(&mut self, io: &mut Io, _: Token, remote: SocketAddr, bytes: &mut [u8], segment: usize) {
        if remote != self.remote {
            return;
        }
        for datagram in bytes.chunks(segment) {
            self.inbound(io, datagram);
        }
    }

    fn frame(&mut self, io: &mut Io, _: Token, bytes: &mut [u8]) {
        if self.carries == SuperFrames::None {
            return self.outbound(io, bytes, &[]);
        }
        let Some((header, frame)) = bytes.split_first_chunk_mut::<{ Offload::LEN }>() else { return };
        match Offload::parse(header) {
            Ok(offload) if offload.segments.is_some() => {
                let Some(mut segments) = Segments::new(frame, &offload) else {
                    self.counters.odd_out += 1;
                    return;
                };
                while let Some((headers, payload)) = segments.next() {
                    self.outbound(io, headers, payload);
                }
            }
            Ok(offload) if offload.checksum.is_none_or(|partial| partial.complete(frame)) => {
                self.outbound(io, frame, &[]);
            }
            _ => self.counters.odd_out += 1,
        }
    }

    fn end(&mut self, io: &mut Io) {
        self.coalescer.flush(&mut Out { io, carries: self.carries }, &mut self.counters);
    }

    fn event(&mut self, _: &mut Io, event: Event) {
        if let Event::SocketGone { error, .. } | Event::TapGone { error, .. } = event {
            self.gone = Some(format!("socket or device is gone: {error:?}"));
        }
    }
}

/// Where joined frames go: into the TAP's own slots.
struct Out<'a> {
    io: &'a mut Io,
    carries: SuperFrames,
}

impl Egress for Out<'_> {
    fn tap(&mut self, _: NetworkId, frame: &[u8]) {
        let front = if self.carries == SuperFrames::None { 0 } else { Offload::LEN };
        let Ok(mut room) = self.io.frame(ONLY, front + frame.len()) else { return }; // counted by the ring
        room[..front].fill(0);
        room[front..].copy_from_slice(frame);
        room.commit(front + frame.len());
    }

    fn tap_open(&mut self, _: NetworkId, kind: Gso) -> Option<TapSlot> {
        match (self.carries, kind) {
            (SuperFrames::None, _) | (SuperFrames::Tcp, Gso::Udp) => None,
            _ => self.io.hold_frame(ONLY).ok().map(|held| TapSlot(held.0)),
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

    // The way out is the forwarder's own.
    fn udp(&mut self, _: SocketId, _: SocketAddr, _: usize) -> Option<&mut [u8]> {
        None
    }

    fn control(&mut self, _: ToControl<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pieces_are_copied_as_if_they_were_one() {
        let (headers, payload) = ([1u8, 2, 3], [4u8, 5, 6, 7, 8]);
        let whole = [1u8, 2, 3, 4, 5, 6, 7, 8];
        for from in 0..whole.len() {
            for to in from..=whole.len() {
                let mut copied = vec![0; to - from];
                copy(&headers, &payload, from, &mut copied);
                assert_eq!(copied, whole[from..to]);
            }
        }
    }
}
