//! The few system calls and kernel structures that the standard library does not offer, behind safe functions. This
//! file knows Linux's layouts and nothing of rings.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// First and longest pause of [`retry_while_busy`].
const BACKOFF_FIRST: Duration = Duration::from_millis(1);
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// Repeats `attempt` with growing pauses while it answers `EBUSY` or `EADDRINUSE`, for at most `limit`. A ring lets go
/// of its sockets and TAP queues some milliseconds after it is gone, even across processes, so a restart needs this.
pub fn retry_while_busy<T>(limit: Duration, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let started = Instant::now();
    let mut pause = BACKOFF_FIRST;
    loop {
        let error = match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let busy = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EADDRINUSE));
        if !busy || started.elapsed() + pause > limit {
            return Err(error);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// `socket(2)`, closed on exec.
pub(crate) fn socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call without pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt(2)` with raw bytes.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe a readable slice.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `setsockopt(2)` with an integer.
pub(crate) fn set_option_int(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    set_option(fd, level, option, &value.to_ne_bytes())
}

/// `getsockopt(2)` of an integer.
pub(crate) fn option_int(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: pointer and length describe one writable integer.
    let done = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// `bind(2)`.
pub(crate) fn bind(fd: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let (name, len) = Name::new(address);
    // SAFETY: `name` is a complete socket address of `len` bytes.
    let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An `ioctl(2)` whose argument is one plain structure, read or written.
///
/// # Safety
/// `T` must be what `request` expects, and every pointer in it must be good for what the request does with it.
pub(crate) unsafe fn ioctl<T>(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: the caller vouches for request and argument.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket address as the kernel lays it out.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    pub(crate) fn new(address: SocketAddr) -> (Name, libc::socklen_t) {
        match address {
            SocketAddr::V4(address) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (Name { v4 }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(address) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                (Name { v6 }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
}

/// Reads a socket address that the kernel wrote.
pub(crate) fn read_name(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let octets = rest.first_chunk::<4>()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(*octets)), port))
        }
        libc::AF_INET6 => {
            let octets = rest.get(4..)?.first_chunk::<16>()?;
            let scope = rest.get(20..)?.first_chunk::<4>()?;
            let (ip, scope) = (Ipv6Addr::from(*octets), u32::from_ne_bytes(*scope));
            Some(std::net::SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

/// Bytes of a control message's head: length, level, type.
const CONTROL_HEAD: usize = size_of::<usize>() + 8;

const fn control_align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// Lays control messages out one after the other.
pub(crate) struct ControlWriter<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for ControlWriter<N> {
    fn default() -> Self {
        ControlWriter { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> ControlWriter<N> {
    pub(crate) fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        let at = &mut self.bytes[self.len..];
        let len = CONTROL_HEAD + value.len();
        at[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        at[size_of::<usize>()..][..4].copy_from_slice(&level.to_ne_bytes());
        at[size_of::<usize>() + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
        at[CONTROL_HEAD..len].copy_from_slice(value);
        self.len += control_align(len);
    }

    /// The bytes as aligned words, and how many bytes are used.
    pub(crate) fn finish<const W: usize>(self) -> ([u64; W], usize) {
        let mut words = [0; W];
        for (word, bytes) in words.iter_mut().zip(self.bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        (words, self.len)
    }
}

/// A control message that the kernel wrote.
pub(crate) struct Control<'a> {
    pub(crate) level: i32,
    pub(crate) kind: i32,
    pub(crate) value: &'a [u8],
}

/// Walks control messages; stops at the first that does not fit.
pub(crate) fn controls(mut bytes: &[u8]) -> impl Iterator<Item = Control<'_>> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk::<{ size_of::<usize>() }>()?;
        let (level, rest) = rest.split_first_chunk::<4>()?;
        let (kind, _) = rest.split_first_chunk::<4>()?;
        let len = usize::from_ne_bytes(*len);
        let value = bytes.get(CONTROL_HEAD..len)?;
        let control = Control { level: i32::from_ne_bytes(*level), kind: i32::from_ne_bytes(*kind), value };
        bytes = bytes.get(control_align(len)..).unwrap_or_default();
        Some(control)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["192.0.2.7:9993", "[2001:db8::7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, len) = Name::new(address);
            // SAFETY: `Name::new` initialised the first `len` bytes of the union.
            let bytes = unsafe { std::slice::from_raw_parts((&raw const name).cast::<u8>(), len as usize) };
            assert_eq!(read_name(bytes), Some(address));
        }
        assert_eq!(read_name(&[0; 28]), None);
        assert_eq!(read_name(&[2, 0, 1]), None);
    }

    #[test]
    fn a_broken_control_message_ends_the_walk() {
        let mut writer = ControlWriter::<48>::default();
        writer.push(17, 104, &1400i32.to_ne_bytes());
        let mut bytes = writer.bytes;
        assert_eq!(controls(&bytes[..24]).count(), 1);
        bytes[0] = 200;
        assert_eq!(controls(&bytes).count(), 0);
        assert_eq!(controls(&[0; 15]).count(), 0);
        assert_eq!(controls(&[0; 48]).count(), 0);
    }

    #[test]
    fn a_busy_resource_is_tried_again_and_other_errors_are_not() {
        let mut attempts = 0;
        let done = retry_while_busy(Duration::from_secs(2), || {
            attempts += 1;
            if attempts < 4 { Err(io::Error::from_raw_os_error(libc::EBUSY)) } else { Ok(attempts) }
        });
        assert_eq!(done.unwrap(), 4);
        let mut attempts = 0;
        let failed: io::Result<()> = retry_while_busy(Duration::from_secs(2), || {
            attempts += 1;
            Err(io::Error::from_raw_os_error(libc::EACCES))
        });
        assert_eq!((failed.unwrap_err().raw_os_error(), attempts), (Some(libc::EACCES), 1));
    }
}
