//! Waking a ring from other threads. A wake costs a system call only when the ring's thread sleeps; while it works, one
//! atomic exchange leaves a note that the next turn finds. This file knows nothing of what the wake is about.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

const RUNNING: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

/// Wakes one ring. Cheap to clone, usable from any thread; outlives the ring harmlessly.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

struct Shared {
    state: AtomicU8,
    eventfd: OwnedFd,
    asked: AtomicU64,
    written: AtomicU64,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: a plain system call without pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        let (asked, written) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Waker(Arc::new(Shared { state: AtomicU8::new(RUNNING), eventfd, asked, written })))
    }

    /// Makes the ring's next turn call [`Handler::woken`](crate::Handler::woken), ending its sleep if it sleeps. What was
    /// written to a queue before this call is visible to that turn. At most one wake is ever pending.
    pub fn wake(&self) {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        if self.0.state.swap(NOTIFIED, Ordering::AcqRel) != SLEEPING {
            return;
        }
        self.0.written.fetch_add(1, Ordering::Relaxed);
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight readable bytes. The counter cannot overflow: one write per sleep.
        unsafe { libc::write(self.0.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// How often somebody asked for a wake.
    pub fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// How often that took a system call.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Announces sleep; false if a wake is pending, and then the ring must not sleep.
    pub(crate) fn sleep(&self) -> bool {
        self.0.state.compare_exchange(RUNNING, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends sleep and takes the note; true if somebody wanted us.
    pub(crate) fn awake(&self) -> bool {
        self.0.state.swap(RUNNING, Ordering::AcqRel) == NOTIFIED
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }
}
