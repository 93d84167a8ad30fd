//! What a packet of 1400 bytes costs, stage by stage, both ways, next to a budget: the kernel's stages as [`ceiling`]
//! measures them, the gateway's own walks over memory. It asks the packet rooms themselves and must be changed with them.
//!
//! The budget is what the best known technique costs on the reference machine (two virtual cores of a 2.7 GHz
//! Sapphire Rapids Xeon); on another one compare rows with each other, not with it.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shard::{
    Coalescer, Config, Counters, Egress, Gso, Offload as Virtio, Partial, Route, Segments, Shard, SocketId, TapSlot,
    ToControl, Update,
};
use wire::fragment::{Reassembler, split_even};
use wire::keys::Keys;
use wire::packet::{HDR_LEN, Packet, Suite, header};
use wire::{Address, Mac, NetworkId, Now, SharedKey};

use crate::ceiling::{self, CPU, HOST, Selection, thread_cpu};
use crate::record::{Better, Cell, median, spread};
use crate::rig::Offload;
use crate::{Error, Result};

/// Bytes of the packet that is measured, header included.
pub const PACKET: usize = 1400;
/// CPU time of one repetition of a walk.
const ENOUGH: Duration = Duration::from_millis(30);
/// Segments of a super-frame.
const SEGMENTS: usize = 44;
/// Super-frames sealed in advance: more packets than anybody remembers as duplicates.
const BATCHES: usize = 1 + 2 * wire::recent::RECENT_IDS / SEGMENTS;
const NETWORK: NetworkId = NetworkId(0x01ec4f9b42000042);
const ALICE: Address = Address::from_u64(0xfcac9e2c1f);
const BOB: Address = Address::from_u64(0x92514cdce8);
const SOCKET: SocketId = SocketId(1);
/// Ethernet, IPv4 and TCP.
const HEADERS: usize = 54;
/// FRAME packet before the IP packet.
const PREFIX: usize = HDR_LEN + wire::message::Frame::HEADER_LEN;
/// TCP payload that makes a packet of [`PACKET`] bytes.
const SEGMENT: usize = PACKET - PREFIX - (HEADERS - 14);

/// One row: where, what, the values of the repetitions, the budget in nanoseconds with super-packets passing the wire
/// whole and without.
struct Stage {
    way: &'static str,
    name: &'static str,
    ns: [Vec<f64>; 2],
    budget: Option<[f64; 2]>,
    /// It belongs to every packet, so that it counts in the sum.
    counts: bool,
}

const IN: &str = "network to TAP";
const OUT: &str = "TAP to network";
const BESIDE: &str = "beside";

/// Measures all stages in one run. Cells for the record, tables for people.
pub fn measure(options: &ceiling::Options) -> Result<(Vec<Cell>, String)> {
    let host = options.measure(Selection::Stages)?;
    let walks = Walks::measure(options.repeat)?;
    let stages = stages(&host, &walks);
    let cells = stages.iter().flat_map(|stage| stage.cells(&options.offload)).collect();
    let tables: Vec<String> = options.offload.iter().map(|&offload| table(&stages, offload)).collect();
    Ok((cells, tables.join("\n\n")))
}

/// Measures and prints.
pub fn run(options: &ceiling::Options) -> Result<()> {
    let (cells, tables) = measure(options)?;
    println!("{tables}");
    ceiling::save(options, cells)
}

fn stages(host: &[Cell], walks: &Walks) -> Vec<Stage> {
    let find = |load: &str, offload: Option<Offload>| -> Vec<f64> {
        let fits = |c: &&Cell| {
            c.load == load && offload.is_none_or(|o| c.setup.get("offload").is_some_and(|text| *text == o.to_string()))
        };
        host.iter().find(fits).map(|c| c.repetitions.clone()).unwrap_or_default()
    };
    let wire = |load: &str| [Offload::Hw, Offload::Sw].map(|offload| find(load, Some(offload)));
    let tap = |load: &str| [find(load, None), find(load, None)];
    let both = |ns: &[f64]| [ns.to_vec(), ns.to_vec()];
    let send = wire("UDP send, GSO");
    let over = wire("UDP send, GSO over the wire");
    let softirq = [less(&over[0], &[&send[0]]), less(&over[1], &[&send[1]])];
    let stage = |way, name, ns, budget: [f64; 2]| Stage { way, name, ns, budget: Some(budget), counts: true };
    let beside = |name, ns, budget| Stage { way: BESIDE, name, ns, budget, counts: false };
    vec![
        stage(IN, "softirq: IP, UDP, GRO, enqueue (on the sender's core here)", softirq, [200.0; 2]),
        stage(IN, "UDP receive, GRO", wire("UDP receive, GRO"), [165.0; 2]),
        stage(
            IN,
            "parse, look-ups, duplicates, counters",
            both(&less(&walks.inbound, &[&walks.open, &walks.join])),
            [30.0; 2],
        ),
        stage(IN, "open, AES-GMAC-SIV", both(&walks.open), [175.0; 2]),
        stage(IN, "join: verify checksum, copy into the TAP's slot", both(&walks.join), [117.0; 2]),
        stage(IN, "TAP write, super-frames", tap("TAP write, super-frames"), [43.0; 2]),
        stage(OUT, "TAP read, super-frames", tap("TAP read, super-frames"), [175.0; 2]),
        stage(OUT, "cut: headers anew, checksum", both(&walks.cut), [80.0; 2]),
        stage(
            OUT,
            "way, packet ID, header, counters",
            both(&less(&walks.outbound, &[&walks.cut, &walks.seal])),
            [90.0; 2],
        ),
        stage(OUT, "seal while copying, AES-GMAC-SIV", both(&walks.seal), [175.0; 2]),
        stage(OUT, "UDP send, GSO", send, [47.0, 180.0]),
        beside("open, Salsa20/12-Poly1305, instead of AES", both(&walks.open_salsa), Some([705.0; 2])),
        beside("seal while copying, Salsa20/12-Poly1305, instead of AES", both(&walks.seal_salsa), Some([705.0; 2])),
        beside("parse alone: header and FRAME", both(&walks.parse), None),
        beside("reassemble 1539 bytes of two datagrams, instead of one datagram", both(&walks.reassemble), None),
        beside("tick of a shard with one active peer (a tick, not a packet)", both(&walks.tick), None),
    ]
}

/// What is left of each repetition's value when parts are taken away: parts and whole were measured in the same one.
fn less(whole: &[f64], parts: &[&[f64]]) -> Vec<f64> {
    let part = |n: usize| parts.iter().map(|part| part.get(n).copied().unwrap_or(0.0)).sum::<f64>();
    whole.iter().enumerate().map(|(n, whole)| (whole - part(n)).max(0.0)).collect()
}

impl Stage {
    fn cells(&self, offloads: &[Offload]) -> Vec<Cell> {
        let of = |&offload: &Offload| {
            let nth = usize::from(offload == Offload::Sw);
            let mut setup = BTreeMap::from([("offload".to_owned(), offload.to_string())]);
            setup.insert("bytes".into(), PACKET.to_string());
            if let Some(budget) = self.budget {
                setup.insert("budget_ns".into(), budget[nth].to_string());
            }
            let load = format!("stage, {}: {}", self.way, self.name);
            let mut cell = Cell::new(HOST, setup, &load, CPU, "ns", Better::Lower);
            cell.repetitions.clone_from(&self.ns[nth]);
            cell
        };
        offloads.iter().map(of).collect()
    }
}

fn table(stages: &[Stage], offload: Offload) -> String {
    let nth = usize::from(offload == Offload::Sw);
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["1400-byte packet, ns of CPU time", "measured", "least .. most", "budget", "ratio"]);
    let numbers = |ns: f64, budget: f64| [format!("{budget:.0}"), format!("{:.2}", ns / budget)];
    for way in [IN, OUT, BESIDE] {
        table.add_row([format!("— {way} —")]);
        let (mut sum, mut budgets, mut complete) = (0.0, 0.0, true);
        for stage in stages.iter().filter(|stage| stage.way == way) {
            let Some((ns, (least, most))) = median(stage.ns[nth].clone()).zip(spread(&stage.ns[nth])) else {
                complete &= !stage.counts;
                table.add_row([stage.name, "not measured"]);
                continue;
            };
            if let Some(budget) = stage.budget.filter(|_| stage.counts) {
                (sum, budgets) = (sum + ns, budgets + budget[nth]);
            }
            let [budget, ratio] = stage.budget.map_or_else(Default::default, |budget| numbers(ns, budget[nth]));
            table.add_row([stage.name.into(), format!("{ns:.0}"), format!("{least:.0} .. {most:.0}"), budget, ratio]);
        }
        if way == BESIDE {
            let text = "a flow's queue: chosen by a program that the kernel runs, nothing of the shard's";
            table.add_row([text, "-"]);
        } else if complete {
            let [budget, ratio] = numbers(sum, budgets);
            let rate = format!("{:.1} Gbit/s a core", PACKET as f64 * 8.0 / sum);
            table.add_row([format!("sum, {way}"), format!("{sum:.0}"), rate, budget, ratio]);
        }
    }
    let model = match offload {
        Offload::Hw => "super-packets pass the wire whole (hw)",
        Offload::Sw => "the kernel segments and coalesces (sw)",
    };
    format!("{model}\n{table}")
}

/// The gateway's own work over memory, ns per packet, one value for each repetition.
#[derive(Default)]
struct Walks {
    inbound: Vec<f64>,
    open: Vec<f64>,
    open_salsa: Vec<f64>,
    join: Vec<f64>,
    outbound: Vec<f64>,
    cut: Vec<f64>,
    seal: Vec<f64>,
    seal_salsa: Vec<f64>,
    parse: Vec<f64>,
    reassemble: Vec<f64>,
    tick: Vec<f64>,
}

impl Walks {
    fn measure(repeat: u32) -> Result<Walks> {
        let mut walks = Walks::default();
        for _ in 0..repeat {
            if lab::interrupted() {
                return Err(Error::Interrupted);
            }
            walks.once()?;
        }
        Ok(walks)
    }

    fn once(&mut self) -> Result<()> {
        let (offload, super_frame) = super_frame();
        let odd = || Error::Unusable("a packet did not come through its own walk".into());

        let mut alice = shard(ALICE, BOB);
        let mut sink = Sink::default();
        self.outbound.push(timed(SEGMENTS, || {
            alice.outbound_offloaded(
                Now::at_ms(1),
                NETWORK,
                Ok(offload),
                black_box(&mut super_frame.clone()),
                &mut sink,
            );
        }));
        // the copy above stands for nothing in the walk
        let copy = timed(SEGMENTS, || drop(black_box(super_frame.clone())));
        if let Some(outbound) = self.outbound.last_mut() {
            *outbound -= copy;
        }
        self.cut.push(timed(SEGMENTS, || {
            let Some(mut segments) = Segments::new(black_box(&super_frame), &offload) else { return };
            while let Some(segment) = segments.next() {
                black_box(segment);
            }
        }));

        let mut kept = Keep::default();
        for _ in 0..BATCHES {
            alice.outbound_offloaded(Now::at_ms(1), NETWORK, Ok(offload), &mut super_frame.clone(), &mut kept);
        }
        if kept.0.len() != BATCHES * SEGMENTS || kept.0.iter().any(|packet| packet.len() != PACKET) {
            return Err(odd());
        }
        let mut bob = shard(BOB, ALICE);
        self.inbound.push(over_copies(&kept.0, |packets| {
            for packet in packets {
                bob.inbound(Now::at_ms(1), SOCKET, remote(), packet, &mut sink);
            }
            bob.flush(&mut sink);
        }));
        let counters = bob.counters();
        if counters.joined_in != counters.frames_in || counters.duplicate > 0 {
            return Err(odd());
        }

        let frames = frames(&super_frame, &offload);
        let (mut coalescer, mut counters) = (Coalescer::new(7), Counters::default());
        self.join.push(over_copies(&frames, |frames| {
            for frame in frames {
                coalescer.push(NETWORK, frame, &mut sink, &mut counters);
            }
            coalescer.flush(&mut sink, &mut counters);
        }));

        for (suite, seals, opens) in [
            (Suite::AesGmacSiv, &mut self.seal, &mut self.open),
            (Suite::Salsa2012Poly1305, &mut self.seal_salsa, &mut self.open_salsa),
        ] {
            let keys = keys();
            let (prefix, payload) = (PREFIX + HEADERS - 14, [7u8; SEGMENT]);
            let mut packet = header(0x0123_4567_89ab_cdef, BOB, ALICE, 6).to_vec();
            packet.resize(PACKET, 0xa5);
            let mut buffer = packet.clone();
            seals.push(timed(1, || {
                buffer[..prefix].copy_from_slice(&packet[..prefix]);
                keys.seal_copy(black_box(&mut buffer), prefix, black_box(&payload), suite);
            }));
            let sealed = vec![buffer; SEGMENTS];
            opens.push(over_copies(&sealed, |packets| {
                for packet in packets {
                    let _ = black_box(keys.open(packet));
                }
            }));
        }

        let packet = &kept.0[0];
        self.parse.push(timed(1, || {
            let Ok(view) = Packet::new(black_box(&packet[..])) else { return };
            let frame = wire::message::Frame::parse(view.payload());
            black_box((view.source(), view.destination(), view.suite(), view.fragmented(), frame.is_ok()));
        }));

        let mut whole = packet[..HDR_LEN].to_vec();
        whole.resize(PREFIX + 1500, 0xa5);
        if let Ok(mut packet) = Packet::new(&mut whole[..]) {
            packet.set_fragmented(true);
        }
        let parts: Vec<Vec<u8>> =
            split_even(&whole, wire::packet::DEFAULT_PHYS_MTU).into_iter().flatten().map(|p| p.to_vec()).collect();
        let mut reassembler = Reassembler::new(7);
        self.reassemble.push(timed(1, || {
            let _ = reassembler.head(Now::at_ms(1), 0u8, black_box(&parts[0]));
            if let Some(packet) = reassembler.fragment(Now::at_ms(1), 0, black_box(&parts[1])) {
                reassembler.recycle(black_box(packet));
            }
        }));

        let mut report = shard::Report::default();
        let with_frame = timed(1, || {
            alice.outbound(Now::at_ms(1), NETWORK, &frames[0], &mut sink);
            report.clear();
            alice.tick(Now::at_ms(1), &mut report);
        });
        let frame_alone = timed(1, || alice.outbound(Now::at_ms(1), NETWORK, &frames[0], &mut sink));
        self.tick.push((with_frame - frame_alone).max(0.0));
        Ok(())
    }
}

/// CPU nanoseconds per packet of `work`, which does `packets` of them.
fn timed(packets: usize, mut work: impl FnMut()) -> f64 {
    let mut rounds = 16u64;
    loop {
        let before = thread_cpu();
        for _ in 0..rounds {
            work();
        }
        let cpu = thread_cpu() - before;
        if cpu >= ENOUGH {
            return cpu.as_nanos() as f64 / (rounds * packets as u64) as f64;
        }
        rounds *= 2;
    }
}

/// The same for work that spoils its packets: each turn gets fresh copies of the next ones, which nobody pays for.
fn over_copies(originals: &[Vec<u8>], mut work: impl FnMut(&mut [Vec<u8>])) -> f64 {
    let mut copies: Vec<Vec<u8>> = originals[..SEGMENTS].to_vec();
    let (mut cpu, mut packets) = (Duration::ZERO, 0usize);
    let reading = (0..64).map(|_| thread_cpu()).collect::<Vec<_>>();
    let reading = (reading[63] - reading[0]) / 63;
    for batch in originals.chunks_exact(SEGMENTS).cycle() {
        for (copy, original) in copies.iter_mut().zip(batch) {
            copy.copy_from_slice(original);
        }
        let before = thread_cpu();
        work(black_box(&mut copies));
        cpu += (thread_cpu() - before).saturating_sub(reading);
        packets += SEGMENTS;
        if cpu >= ENOUGH {
            break;
        }
    }
    cpu.as_nanos() as f64 / packets.max(1) as f64
}

fn remote() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 9993))
}

fn keys() -> Arc<Keys> {
    Arc::new(Keys::new(SharedKey::from_bytes([9; 48])))
}

fn shard(own: Address, peer: Address) -> Shard {
    let mut shard = Shard::new(own, Config { seed: [7; 32], shards: 1 });
    let route = Some(Route { socket: SOCKET, remote: remote(), mtu: 1432 });
    shard.apply(Update::Network { id: NETWORK, mac: Mac::of_member(NETWORK, own), mtu: 2800, fast: true });
    shard.apply(Update::Peer { address: peer, keys: keys(), suite: Suite::AesGmacSiv, route, bonded: false });
    shard.apply(Update::Member { network: NETWORK, address: peer, allowed: true });
    shard
}

/// A TCP super-frame from Alice to Bob as the kernel hands it over.
fn super_frame() -> (Virtio, Vec<u8>) {
    let payload = SEGMENTS * SEGMENT;
    let mut frame = [Mac::of_member(NETWORK, BOB).0, Mac::of_member(NETWORK, ALICE).0].concat();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((40 + payload as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([1, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0x50, 0x10, 1, 1]);
    // the sum over the pseudo-header, as the kernel leaves it
    frame.extend((0x0a00u16 * 2 + 3 + 6).wrapping_add(20 + payload as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(HEADERS + payload, 7);
    let checksum = Some(Partial { start: 34, offset: 16 });
    (Virtio { checksum, segments: Some((Gso::Tcp4, SEGMENT as u16)), headers_len: HEADERS as u16 }, frame)
}

/// The frames that a super-frame stands for.
fn frames(super_frame: &[u8], offload: &Virtio) -> Vec<Vec<u8>> {
    let mut frames = Vec::with_capacity(SEGMENTS);
    if let Some(mut segments) = Segments::new(super_frame, offload) {
        while let Some((headers, payload)) = segments.next() {
            frames.push([headers, payload].concat());
        }
    }
    frames
}

/// Takes everything; super-frames grow in its one slot.
struct Sink {
    slot: Vec<u8>,
    buffer: Vec<u8>,
}

impl Default for Sink {
    fn default() -> Sink {
        Sink { slot: vec![0; 68 << 10], buffer: vec![0; 1500] }
    }
}

impl Egress for Sink {
    fn tap(&mut self, _: NetworkId, frame: &[u8]) {
        black_box(frame);
    }

    fn tap_open(&mut self, _: NetworkId, _: Gso) -> Option<TapSlot> {
        Some(TapSlot(0))
    }

    fn tap_slot(&mut self, _: TapSlot) -> &mut [u8] {
        &mut self.slot
    }

    fn tap_close(&mut self, _: TapSlot, len: usize, _: Virtio) {
        black_box(len);
    }

    fn udp(&mut self, _: SocketId, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.buffer.get_mut(..len)
    }

    fn control(&mut self, what: ToControl<'_>) {
        black_box(what);
    }
}

/// Keeps the datagrams.
#[derive(Default)]
struct Keep(Vec<Vec<u8>>);

impl Egress for Keep {
    fn tap(&mut self, _: NetworkId, _: &[u8]) {}

    fn tap_open(&mut self, _: NetworkId, _: Gso) -> Option<TapSlot> {
        None
    }

    fn tap_slot(&mut self, _: TapSlot) -> &mut [u8] {
        &mut []
    }

    fn tap_close(&mut self, _: TapSlot, _: usize, _: Virtio) {}

    fn udp(&mut self, _: SocketId, _: SocketAddr, len: usize) -> Option<&mut [u8]> {
        self.0.push(vec![0; len]);
        self.0.last_mut().map(Vec::as_mut_slice)
    }

    fn control(&mut self, _: ToControl<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_super_frame_becomes_packets_of_the_stated_length_and_is_joined_again() {
        let (offload, bytes) = super_frame();
        let (mut kept, mut sink) = (Keep::default(), Sink::default());
        shard(ALICE, BOB).outbound_offloaded(Now::at_ms(1), NETWORK, Ok(offload), &mut bytes.clone(), &mut kept);
        assert!(kept.0.len() == SEGMENTS && kept.0.iter().all(|packet| packet.len() == PACKET));
        let mut bob = shard(BOB, ALICE);
        for packet in &mut kept.0 {
            bob.inbound(Now::at_ms(1), SOCKET, remote(), packet, &mut sink);
        }
        bob.flush(&mut sink);
        let counters = bob.counters();
        assert_eq!((counters.super_frames_in, counters.joined_in), (1, SEGMENTS as u64));
    }

    #[test]
    fn a_part_is_taken_from_the_whole_of_its_own_repetition() {
        assert_eq!(less(&[10.0, 20.0, 3.0], &[&[1.0, 2.0, 5.0], &[1.0, 1.0, 0.0]]), [8.0, 17.0, 0.0]);
    }
}
