//! Hand-made segments of one TCP flow to an address that nobody has, and the order in which a TAP gets them. They are what a
//! core stripes that has no TCP of its own; nobody answers them, so none is ever sent twice.

use std::io::Read;
use std::time::Duration;

use lab::{IoContext, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Where the flow leads to.
const NOBODY: [u8; 4] = [10, 77, 0, 99];
const PAYLOAD: usize = 1300;
const HEADERS: usize = 40;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// The last segment is not on its way longer than that.
const PATIENCE: Duration = Duration::from_secs(2);

fn sum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2)).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

/// An IP packet with segment `number` of the flow to `port`.
pub fn segment(port: u16, number: u32) -> Vec<u8> {
    packet(port, number * PAYLOAD as u32, ACK, &[7; PAYLOAD])
}

/// An IP packet with the SYN before segment 0.
pub fn syn(port: u16) -> Vec<u8> {
    packet(port, u32::MAX, SYN, &[])
}

fn packet(port: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let from = [10, 77, 0, 2];
    let len = ((HEADERS + payload.len()) as u16).to_be_bytes();
    let mut ip = [&[0x45, 0][..], &len, &[0, 0, 0x40, 0, 64, 6, 0, 0], &from, &NOBODY].concat();
    let check = sum(&[&ip]);
    ip[10..12].copy_from_slice(&check);
    let ports = [&40_000u16.to_be_bytes()[..], &port.to_be_bytes()].concat();
    let rest = [0, 0, 0, 8, 0x50, flags, 1, 1, 0, 0, 0, 0];
    let mut tcp = [&ports[..], &sequence.to_be_bytes(), &rest, payload].concat();
    let pseudo = [0, 6].into_iter().chain(((tcp.len()) as u16).to_be_bytes()).collect::<Vec<u8>>();
    let check = sum(&[&from, &NOBODY, &pseudo, &tcp]);
    tcp[16..18].copy_from_slice(&check);
    [ip, tcp].concat()
}

/// As the reference node reads it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Hears what comes to a namespace of the flow to one port.
pub struct Ear {
    socket: Socket,
    port: u16,
}

impl Ear {
    /// In the namespace of the calling thread.
    pub fn open(port: u16) -> Result<Ear> {
        // Every protocol, in the byte order of the network.
        let all = Protocol::from(i32::from(3u16.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).doing("open a packet socket")?;
        socket.set_recv_buffer_size(4 << 20).doing("size a packet socket")?;
        socket.set_read_timeout(Some(PATIENCE)).doing("limit a packet socket")?;
        Ok(Ear { socket, port })
    }

    /// The numbers of the segments in the order in which they come, until there are so many or no more come. Such as were
    /// joined count each.
    pub fn listen(mut self, count: u32) -> Vec<u32> {
        let (mut seen, mut frame) = (Vec::new(), vec![0; 1 << 17]);
        while seen.len() < count as usize
            && let Ok(len) = self.socket.read(&mut frame)
        {
            let Some(packet) = frame[..len].get(14..).filter(|p| p.len() >= HEADERS) else { continue };
            if packet[9] != 6 || packet[16..20] != NOBODY || packet[22..24] != self.port.to_be_bytes() {
                continue;
            }
            let first = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]) / PAYLOAD as u32;
            // None in a SYN.
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            seen.extend((first..).take((total - HEADERS) / PAYLOAD));
        }
        seen
    }
}

/// How many came after one that they should have preceded.
pub fn late(seen: &[u32]) -> u32 {
    let mut highest = 0;
    let after = |number: &&u32| {
        highest = highest.max(**number);
        **number < highest
    };
    seen.iter().filter(after).count() as u32
}
