//! Opening UDP sockets the way a link wants them: bound to address and device, fragmentation allowed, large buffers,
//! GRO. This file knows socket options and nothing of rings.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use crate::sys;

/// Bytes asked for each socket buffer when nothing else is said. A 1400-byte datagram is charged about 2.3 KiB, so this
/// holds about 2 ms of a full core.
pub const BUFFER_BYTES: usize = 4 << 20;

/// How to open a socket.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port to bind; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Interface to bind to. Failure is ignored: without the privilege the address alone must do.
    pub device: Option<String>,
    /// Share the port with other sockets of this user; the kernel spreads 4-tuples over them.
    pub reuse_port: bool,
    /// Wanted size of the send and of the receive buffer, bytes. With less privilege the kernel's maximum is taken.
    pub buffer_bytes: usize,
    /// Let the kernel coalesce equal-sized datagrams.
    pub gro: bool,
}

impl Options {
    /// What a link needs: large buffers, GRO, nothing shared.
    pub fn new(address: SocketAddr) -> Options {
        Options { address, device: None, reuse_port: false, buffer_bytes: BUFFER_BYTES, gro: true }
    }
}

/// Opens and binds a socket. Datagrams longer than the path's MTU leave as IP fragments (don't-fragment clear).
///
/// The IPv4 UDP checksum stays on although the packets carry their own authentication: GSO needs it.
pub fn bind(options: &Options) -> io::Result<UdpSocket> {
    let v6 = options.address.is_ipv6();
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let socket = sys::socket(family, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
    let fd = socket.as_fd();
    if v6 {
        sys::set_option_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        sys::set_option_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
    } else {
        sys::set_option_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    }
    if options.reuse_port {
        sys::set_option_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if let Some(device) = &options.device {
        let _ = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes());
    }
    let bytes = options.buffer_bytes.min(i32::MAX as usize / 2) as i32;
    set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)?;
    set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)?;
    if options.gro {
        // a kernel without it delivers datagrams one by one: nothing to report
        let _ = sys::set_option_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    }
    sys::bind(fd, options.address)?;
    Ok(UdpSocket::from(socket))
}

/// Bytes of the socket's receive and send buffers, as the kernel counts them (twice what was asked for).
pub fn buffer_bytes(socket: &UdpSocket) -> io::Result<(usize, usize)> {
    let get = |option| sys::option_int(socket.as_fd(), libc::SOL_SOCKET, option).map(|bytes| bytes.max(0) as usize);
    Ok((get(libc::SO_RCVBUF)?, get(libc::SO_SNDBUF)?))
}

fn set_buffer(fd: BorrowedFd<'_>, force: i32, ordinary: i32, bytes: i32) -> io::Result<()> {
    sys::set_option_int(fd, libc::SOL_SOCKET, force, bytes)
        .or_else(|_| sys::set_option_int(fd, libc::SOL_SOCKET, ordinary, bytes))
}

/// Whether this socket has GRO on; a ring's buffers must be 68 KiB then.
pub(crate) fn has_gro(fd: BorrowedFd<'_>) -> bool {
    sys::option_int(fd, libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|on| on != 0)
}

/// Whether the kernel knows GSO for this socket.
pub(crate) fn has_gso(fd: BorrowedFd<'_>) -> bool {
    sys::set_option_int(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_socket_is_as_the_options_say() {
        let mut options = Options::new("127.0.0.1:0".parse().unwrap());
        options.reuse_port = true;
        let first = bind(&options).unwrap();
        options.address = first.local_addr().unwrap();
        let second = bind(&options).unwrap();
        assert_eq!(second.local_addr().unwrap(), first.local_addr().unwrap());
        let (receive, send) = buffer_bytes(&first).unwrap();
        assert!(receive >= 1 << 20 && send >= 1 << 20, "buffers of {receive} and {send} bytes");
        assert!(has_gro(first.as_fd()) && has_gso(first.as_fd()));
        let mtu_discovery = sys::option_int(first.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap();
        assert_eq!(mtu_discovery, libc::IP_PMTUDISC_DONT);
    }

    #[test]
    fn a_port_in_use_is_an_error_without_reuse() {
        let first = bind(&Options::new("[::1]:0".parse().unwrap())).unwrap();
        let error = bind(&Options::new(first.local_addr().unwrap())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
    }
}
