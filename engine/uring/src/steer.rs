//! Which socket or TAP queue the kernel gives a packet to: small programs that it runs for each. Sockets of one port are
//! chosen by where a datagram comes from, queues by the flow a frame belongs to. This file knows the two kinds of program
//! and the headers they look at, nothing of rings.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::sys;

/// Spreads what arrives over the sockets that share a port with `socket`: remote address and source port are added up, so
/// that consecutive ports of one remote take turns exactly, and remotes that all use the same port are spread by their
/// addresses. A remote endpoint always has the same socket. `sockets` counts them; their order is that of binding, so a
/// group of which one was replaced must be made anew. Without this the kernel spreads by a hash of its own.
pub fn sockets(socket: &std::net::UdpSocket, sockets: usize) -> io::Result<()> {
    let v6 = socket.local_addr()?.is_ipv6();
    let mut program = by_remote(v6, sockets.max(1) as u32);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the structure is plain data that lives until the call below returns; the kernel copies what it points to.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const program).cast::<u8>(), size_of::<libc::sock_fprog>()) };
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, bytes)
}

/// Classic BPF over a datagram: the sum of the halves of the source address and of the source port, modulo `sockets`.
/// It cannot wrap, so that modulo is exact for any number of them.
fn by_remote(v6: bool, sockets: u32) -> Vec<libc::sock_filter> {
    use libc::{BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_H, BPF_K, BPF_LD, BPF_MISC, BPF_MOD, BPF_RET, BPF_TAX, BPF_X};
    /// What is before the payload: offsets from here are those inside the IP packet. // linux/filter.h
    const SKF_NET_OFF: i32 = -0x10_0000;
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let (address, port) = if v6 { (8..24, 40) } else { (12..16, 20) };
    let half = |offset: i32| op(BPF_LD | BPF_H | BPF_ABS, (SKF_NET_OFF + offset) as u32);
    let mut program = vec![half(port)];
    for offset in address.step_by(2) {
        program.extend([op(BPF_MISC | BPF_TAX, 0), half(offset), op(BPF_ALU | BPF_ADD | BPF_X, 0)]);
    }
    program.extend([op(BPF_ALU | BPF_MOD | BPF_K, sockets), op(BPF_RET | BPF_A, 0)]);
    program
}

/// Lets a flow's frames, both ways alike, come out of the same queue of a TAP for ever. Otherwise the kernel moves a flow
/// to the queue its answers were last written to, and frames overtake each other. `queue` is any queue of the device.
pub fn tap(queue: BorrowedFd<'_>) -> io::Result<()> {
    let program = load(&by_flow())?;
    let mut fd = program.as_raw_fd();
    // SAFETY: the request reads one descriptor; the device keeps its own reference to the program.
    unsafe { sys::ioctl(queue, libc::TUNSETSTEERINGEBPF, &mut fd) }
}

/// One instruction of eBPF. // linux/bpf.h
#[derive(Clone, Copy)]
#[repr(C)]
struct Op {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// eBPF over an Ethernet frame: addresses and, of unfragmented TCP and UDP, ports are added up, which is the same in both
/// directions, and mixed. The kernel takes it modulo the number of queues. What is no IP, or too short, has queue 0.
fn by_flow() -> Vec<Op> {
    const MIX: i32 = 0x9e37_79b1_u32 as i32;
    const TCP: i32 = 6;
    const UDP: i32 = 17;
    const SUM: u8 = 7;
    const HEADER: u8 = 8;
    let op = |code, destination: u8, source: u8, immediate| Op {
        code,
        registers: source << 4 | destination,
        offset: 0,
        immediate,
    };
    let mut program = Vec::new();
    let mut jumps: Vec<(usize, &str)> = Vec::new();
    let mut labels: Vec<(&str, usize)> = Vec::new();
    // loads at a fixed place and at one after the header, in host order
    let load = |code, at| op(code, 0, 0, at);
    let (word, half, byte) = (0x20, 0x28, 0x30);
    let half_after_header = |at| op(0x48, 0, HEADER, at);
    let add = || op(0x0f, SUM, 0, 0);
    let mut jump = |program: &mut Vec<Op>, code, immediate, to| {
        jumps.push((program.len(), to));
        program.push(op(code, 0, 0, immediate));
    };
    let (if_equal, if_not_equal, always) = (0x15, 0x55, 0x05);

    program.extend([op(0xbf, 6, 1, 0), op(0xb7, SUM, 0, 0), load(half, 12)]); // loads want the frame in r6
    jump(&mut program, if_equal, 0x86dd, "ipv6");
    jump(&mut program, if_not_equal, 0x0800, "mix");
    program.extend([load(word, 26), add(), load(word, 30), add()]);
    program.extend([load(half, 20), op(0x57, 0, 0, 0x3fff)]); // a fragment: no ports, or not in every part
    jump(&mut program, if_not_equal, 0, "mix");
    program.push(load(byte, 23));
    jump(&mut program, if_equal, TCP, "ports");
    jump(&mut program, if_not_equal, UDP, "mix");
    labels.push(("ports", program.len()));
    program.extend([load(byte, 14), op(0x57, 0, 0, 15), op(0x67, 0, 0, 2), op(0xbf, HEADER, 0, 0)]);
    program.extend([half_after_header(14), add(), half_after_header(16), add()]);
    jump(&mut program, always, 0, "mix");
    labels.push(("ipv6", program.len()));
    for at in (22..54).step_by(4) {
        program.extend([load(word, at), add()]);
    }
    program.push(load(byte, 20));
    jump(&mut program, if_equal, TCP, "ports of ipv6");
    jump(&mut program, if_not_equal, UDP, "mix");
    labels.push(("ports of ipv6", program.len()));
    program.extend([load(half, 54), add(), load(half, 56), add()]);
    labels.push(("mix", program.len()));
    program.extend([op(0x24, SUM, 0, MIX), op(0x74, SUM, 0, 16), op(0xbf, 0, SUM, 0), op(0x95, 0, 0, 0)]);

    for (at, to) in jumps {
        let target = labels.iter().find(|(label, _)| *label == to).map_or(at + 1, |(_, target)| *target);
        program[at].offset = (target - at - 1) as i16;
    }
    program
}

/// `BPF_PROG_LOAD`.
fn load(program: &[Op]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const SOCKET_FILTER: u32 = 1;
    /// The first fields of `union bpf_attr`.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
        log: [u32; 6],
    }
    let mut attributes = Attributes {
        kind: SOCKET_FILTER,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 6],
    };
    // SAFETY: the attributes and what they point to live until the call returns, and their size is given.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut attributes, size_of::<Attributes>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp;
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    const GROUP: usize = 3;

    fn group(ip: &str) -> (SocketAddr, Vec<UdpSocket>) {
        let mut options = udp::Options::new(SocketAddr::new(ip.parse().unwrap(), 0));
        options.reuse_port = true;
        let first = udp::bind(&options).unwrap();
        options.address = first.local_addr().unwrap();
        let mut group = vec![first];
        group.extend((1..GROUP).map(|_| udp::bind(&options).unwrap()));
        sockets(&group[0], GROUP).unwrap();
        for socket in &group {
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        }
        (options.address, group)
    }

    /// Which of the sockets gets what `from` sends.
    fn taker(from: &UdpSocket, to: SocketAddr, group: &[UdpSocket]) -> usize {
        from.send_to(b"hello", to).unwrap();
        let took = |socket: &UdpSocket| socket.recv(&mut [0; 8]).is_ok();
        group.iter().position(took).expect("somebody took it")
    }

    #[test]
    fn consecutive_ports_of_one_remote_take_turns_and_a_port_keeps_its_socket() {
        for ip in ["127.0.0.1", "::1"] {
            let (to, group) = group(ip);
            let consecutive = (20_000..60_000).step_by(101).find_map(|port| {
                let bind = |port| UdpSocket::bind(SocketAddr::new(ip.parse().unwrap(), port)).ok();
                (port..port + 2 * GROUP as u16).map(bind).collect::<Option<Vec<_>>>()
            });
            let senders = consecutive.expect("free ports");
            let first = taker(&senders[0], to, &group);
            for (n, sender) in senders.iter().enumerate() {
                assert_eq!(taker(sender, to, &group), (first + n) % GROUP, "{ip}");
            }
        }
    }

    #[test]
    fn remotes_that_use_the_same_port_are_spread_by_their_addresses() {
        let (to, group) = group("127.0.0.1");
        let mut options = udp::Options::new("127.0.0.2:0".parse().unwrap());
        let sender = udp::bind(&options).unwrap();
        options.address = sender.local_addr().unwrap();
        let mut takers: Vec<usize> = vec![taker(&sender, to, &group)];
        for last in 3..5 {
            options.address.set_ip(std::net::Ipv4Addr::new(127, 0, 0, last).into());
            takers.push(taker(&udp::bind(&options).unwrap(), to, &group));
        }
        takers.sort_unstable();
        assert_eq!(takers, [0, 1, 2]);
    }

    #[test]
    fn the_kernel_accepts_the_program_for_taps() {
        load(&by_flow()).unwrap();
    }
}
