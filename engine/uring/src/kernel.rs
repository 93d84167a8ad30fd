//! What a ring asks of the kernel, and what the kernel answers: requests and completions. Two ways of asking stand behind
//! it, io_uring and the older system calls; the rest of the room cannot tell them apart but by speed.

use std::{io, time::Duration};

use io_uring::{cqueue, types::BufRingEntry};

use crate::{Gather, io::Port, mmsg::Mmsg, native::Native};

/// Requests that a kernel takes before it must be entered: one turn's sends, TAP writes and re-arms.
pub(crate) const REQUESTS_MAX: u32 = 512;

/// Buffer groups.
pub(crate) const UDP_GROUP: u16 = 0;
pub(crate) const TAP_GROUP: u16 = 1;

// user_data of a completion: what it is about, and the index of its port or slot
pub(crate) const KIND_RECEIVE: u64 = 0;
pub(crate) const KIND_READ: u64 = 1;
pub(crate) const KIND_SEND: u64 = 2;
pub(crate) const KIND_WRITE: u64 = 3;
pub(crate) const KIND_WAKE: u64 = 4;
pub(crate) const KIND_CANCEL: u64 = 5;

pub(crate) const fn user_data(kind: u64, index: u16) -> u64 {
    kind << 16 | index as u64
}

/// Something for the kernel to do. What it points to stays put until it has completed.
#[derive(Clone, Copy)]
pub(crate) enum Request {
    /// Datagrams of a socket into buffers of [`UDP_GROUP`], until it is cancelled, fails, or no buffer is left.
    Receive { socket: u16 },
    /// Frames of a TAP queue into buffers of [`TAP_GROUP`], likewise; or only one, of up to `once` bytes.
    Read { tap: u16, once: Option<u32> },
    /// A note when the waker is used.
    Wake,
    /// One message. `wait`: until the socket's buffer has room. `silent`: success is not answered.
    Send { slot: u16, socket: u16, message: *const libc::msghdr, wait: bool, silent: bool },
    /// One frame. `silent`: it must not wait, and success is not answered.
    Write { slot: u16, tap: u16, address: *const u8, len: u32, silent: bool },
    /// The end of everything that was asked of a port.
    CancelPort(Port),
    /// The end of one send.
    CancelSend(u16),
    /// The end of everything.
    CancelAll,
}

/// An answer, in io_uring's form.
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl From<cqueue::Entry> for Completion {
    fn from(entry: cqueue::Entry) -> Completion {
        Completion { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() }
    }
}

/// How long an `enter` waits.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// For one completion.
    One(Option<Duration>),
    /// For a batch.
    Batch(Gather, Option<Duration>),
}

/// One of the two ways.
pub(crate) enum Kernel {
    Native(Native),
    Mmsg(Mmsg),
}

impl Kernel {
    /// Whether an `enter` may bring something.
    pub(crate) fn due(&mut self) -> bool {
        match self {
            Kernel::Native(native) => native.due(),
            Kernel::Mmsg(_) => true, // it has nothing to look at but the calls themselves
        }
    }

    /// Polls network cards for this long before sleep.
    pub(crate) fn busy_poll(&self, time: Duration) -> io::Result<()> {
        match self {
            Kernel::Native(native) => native.busy_poll(time),
            Kernel::Mmsg(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "only io_uring has it")),
        }
    }

    /// Makes a file known under an index, before requests name it.
    pub(crate) fn add_file(&mut self, port: Port, fd: i32) -> io::Result<()> {
        match self {
            Kernel::Native(native) => native.set_file(port, fd),
            Kernel::Mmsg(mmsg) => {
                mmsg.add_file(port, fd);
                Ok(())
            }
        }
    }

    /// Forgets a file before its descriptor is closed, or the port would stay taken.
    pub(crate) fn remove_file(&mut self, port: Port) {
        match self {
            Kernel::Native(native) => drop(native.set_file(port, -1)),
            Kernel::Mmsg(mmsg) => mmsg.remove_file(port),
        }
    }

    /// Makes a ring of buffers known.
    ///
    /// # Safety
    /// The entries, and the buffers that they name, must outlive the kernel's use of them.
    pub(crate) unsafe fn register_buffers(
        &mut self,
        group: u16,
        entries: *mut BufRingEntry,
        count: u16,
    ) -> io::Result<()> {
        match self {
            // SAFETY: as the caller promises.
            Kernel::Native(native) => unsafe { native.register_buffers(group, entries, count) },
            Kernel::Mmsg(mmsg) => {
                mmsg.register_buffers(group, entries, count);
                Ok(())
            }
        }
    }

    /// Takes a request; false if it must be entered first.
    ///
    /// # Safety
    /// What the request points to must stay valid and untouched until it has completed.
    #[inline]
    pub(crate) unsafe fn push(&mut self, request: Request) -> bool {
        match self {
            // SAFETY: as the caller promises.
            Kernel::Native(native) => unsafe { native.push(request) },
            Kernel::Mmsg(mmsg) => mmsg.push(request),
        }
    }

    /// Lets the kernel work on what it was given, and waits.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        match self {
            Kernel::Native(native) => native.enter(wait),
            Kernel::Mmsg(mmsg) => mmsg.enter(wait),
        }
    }

    /// Adds what was completed to `to`. True if completions had to be kept back because there were too many.
    pub(crate) fn collect(&mut self, to: &mut Vec<Completion>) -> bool {
        match self {
            Kernel::Native(native) => native.collect(to),
            Kernel::Mmsg(mmsg) => mmsg.collect(to),
        }
    }

    /// Whether it has taken up everything that it was given.
    pub(crate) fn took_all(&mut self) -> bool {
        match self {
            Kernel::Native(native) => native.took_all(),
            Kernel::Mmsg(_) => true, // by the end of each `enter`
        }
    }

    /// Lets go of all files.
    pub(crate) fn release_files(&mut self) {
        if let Kernel::Native(native) = self {
            native.release_files();
        }
    }

    /// Keeps the memory that the kernel would not let go of.
    pub(crate) fn leak(&mut self) {
        if let Kernel::Native(native) = self {
            native.leak();
        }
    }
}
