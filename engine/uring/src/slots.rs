//! Memory for what leaves: payload slots and, for datagrams, the message headers beside them, at addresses that stay
//! put until the kernel is done. This file knows how a send is described to the kernel, not when it is sent.

use std::{io, net::SocketAddr, ops::Range, ptr::addr_of_mut};

use crate::{memory::Region, sys};

/// Room for two control messages: GSO segment size and TTL.
const CONTROL_BYTES: usize = 48;

/// Equal payload slots with a last-in-first-out free list, so that few slots stay hot when few are needed.
pub(crate) struct Slots {
    memory: Region,
    bytes: usize,
    free: Vec<u16>,
}

impl Slots {
    pub(crate) fn new(count: u16, bytes: usize) -> io::Result<Slots> {
        let memory = Region::new(usize::from(count) * bytes)?;
        Ok(Slots { memory, bytes, free: (0..count).rev().collect() })
    }

    /// Keeps the memory for ever: the kernel would not let go of it.
    pub(crate) fn leak(&mut self) {
        self.memory.leak();
    }

    pub(crate) fn slot_bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(crate) fn give_back(&mut self, slot: u16) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} given back twice");
        self.free.push(slot);
    }

    /// A slot's bytes. The caller is filling it, so it has not been submitted.
    ///
    /// # Safety
    /// No request that the kernel still works on may name this slot.
    pub(crate) unsafe fn bytes(&mut self, slot: u16, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.bytes, "range outside the slot");
        // SAFETY: the range is inside this slot, which the caller says the kernel does not use.
        unsafe { self.memory.bytes(usize::from(slot) * self.bytes + range.start, range.len()) }
    }

    /// Address of a slot's bytes, for the kernel.
    pub(crate) fn address(&self, slot: u16, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.bytes, "range outside the slot");
        self.memory.at(usize::from(slot) * self.bytes + range.start, range.len())
    }
}

/// What `sendmsg` reads: the header, and all that it points to but the payload.
#[repr(C)]
struct Header {
    message: libc::msghdr,
    payload: libc::iovec,
    name: sys::Name,
    control: [u64; CONTROL_BYTES / 8],
}

/// One [`Header`] for every send slot.
pub(crate) struct Headers {
    memory: Region,
}

impl Headers {
    pub(crate) fn new(count: u16) -> io::Result<Headers> {
        Ok(Headers { memory: Region::new(usize::from(count) * size_of::<Header>())? })
    }

    /// Keeps the memory for ever: the kernel would not let go of it.
    pub(crate) fn leak(&mut self) {
        self.memory.leak();
    }

    /// Describes one send: `payload` to `remote`, cut into segments of `segment` bytes if given, with TTL or hop limit.
    /// The result stays valid until the next call for this slot.
    pub(crate) fn prepare(
        &mut self,
        slot: u16,
        payload: (*mut u8, usize),
        remote: SocketAddr,
        segment: Option<u16>,
        ttl: Option<u8>,
    ) -> *const libc::msghdr {
        let mut control = sys::ControlWriter::<CONTROL_BYTES>::default();
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if let Some(ttl) = ttl {
            let (level, kind) = match remote {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
            };
            control.push(level, kind, &libc::c_int::from(ttl).to_ne_bytes());
        }
        let (control, control_len) = control.finish();
        let (name, name_len) = sys::Name::new(remote);

        let offset = usize::from(slot) * size_of::<Header>();
        let header = self.memory.at(offset, size_of::<Header>()).cast::<Header>();
        // SAFETY: the header lies inside the mapping and is aligned (the mapping is page-aligned, the size a multiple of
        // the alignment). No request names this slot while it is prepared, so the kernel does not read it. Only places
        // are written, through one pointer, so the addresses stored in `message` stay valid for the kernel to follow.
        unsafe {
            (*header).control = control;
            (*header).name = name;
            (*header).payload = libc::iovec { iov_base: payload.0.cast(), iov_len: payload.1 };
            let message = addr_of_mut!((*header).message);
            (*message).msg_name = addr_of_mut!((*header).name).cast();
            (*message).msg_namelen = name_len;
            (*message).msg_iov = addr_of_mut!((*header).payload);
            (*message).msg_iovlen = 1;
            (*message).msg_control = addr_of_mut!((*header).control).cast();
            (*message).msg_controllen = control_len as _;
            (*message).msg_flags = 0;
            if control_len == 0 {
                (*message).msg_control = std::ptr::null_mut();
            }
            message
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_where_how_large_and_how_far() {
        let mut headers = Headers::new(4).unwrap();
        let mut payload = [0u8; 300];
        let remote: SocketAddr = "[2001:db8::1]:9993".parse().unwrap();
        let message = headers.prepare(3, (payload.as_mut_ptr(), 300), remote, Some(100), Some(7));
        // SAFETY: `prepare` returned a pointer to an initialised header that lives as long as `headers`.
        let message = unsafe { &*message };
        assert_eq!(message.msg_controllen, 48);
        assert_eq!(message.msg_namelen as usize, size_of::<libc::sockaddr_in6>());
        // SAFETY: msg_control points to 48 initialised bytes of the same header.
        let control = unsafe { std::slice::from_raw_parts(message.msg_control.cast::<u8>(), 48) };
        let found: Vec<_> = sys::controls(control).map(|c| (c.level, c.kind, c.value.to_vec())).collect();
        assert_eq!(found[0], (libc::SOL_UDP, libc::UDP_SEGMENT, 100u16.to_ne_bytes().to_vec()));
        assert_eq!(found[1], (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, 7i32.to_ne_bytes().to_vec()));
    }

    #[test]
    fn slots_come_back_hot() {
        let mut slots = Slots::new(3, 64).unwrap();
        let first = slots.take().unwrap();
        let second = slots.take().unwrap();
        slots.give_back(first);
        assert_eq!(slots.take(), Some(first));
        assert_eq!(slots.free(), 1);
        slots.give_back(second);
    }
}
