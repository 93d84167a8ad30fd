//! The numbers of our ports: the one that is wanted if it is free, else one drawn at random. Which sockets are opened there
//! is not decided here. // spec: paths, "Sockets and ports"

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

/// Where random ports begin, and how many there are. // spec: paths, "Sockets and ports"
const RANDOM_PORT_BASE: u16 = 20000;
const RANDOM_PORTS: u16 = 45500;
const RANDOM_PORT_TRIES: usize = 256;
/// Ports tried upwards from a random one for a secondary or tertiary port.
const FURTHER_PORT_TRIES: u16 = 1000;

/// The ports in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The one that is known, and the API's.
    pub primary: u16,
    /// A second chance.
    pub secondary: Option<u16>,
    /// The one that routers are asked to map.
    pub tertiary: Option<u16>,
}

/// The port to use: `wanted` if UDP and TCP are free there, or a random one if it is 0.
pub fn choose_port(wanted: u16) -> io::Result<u16> {
    if wanted != 0 {
        return port_is_free(wanted).map(|()| wanted);
    }
    let candidates = (0..RANDOM_PORT_TRIES).map(|_| RANDOM_PORT_BASE + rand::random_range(0..RANDOM_PORTS));
    let mut last = io::Error::other("no free port");
    for port in candidates {
        match port_is_free(port) {
            Ok(()) => return Ok(port),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A random port that is free, for secondary and tertiary sockets. // spec: paths, "Sockets and ports"
pub fn draw_port() -> Option<u16> {
    let first = RANDOM_PORT_BASE + rand::random_range(0..RANDOM_PORTS);
    let mut candidates = (first..=u16::MAX).take(FURTHER_PORT_TRIES.into());
    candidates.find(|port| udp_port_is_free(*port).is_ok())
}

fn port_is_free(port: u16) -> io::Result<()> {
    udp_port_is_free(port)?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// Nobody on this host has the UDP port.
pub fn udp_port_is_free(port: u16) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error() {
        let taken = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = taken.local_addr().expect("address").port();
        assert!(choose_port(port).is_err());
    }
}
