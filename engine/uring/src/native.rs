//! Requests and completions on io_uring: how each request is written into the submission queue, and how the ring is
//! entered. This file knows opcodes and nothing of what is carried.

use std::{io, os::fd::RawFd, time::Duration};

use io_uring::{
    EnterFlags, IoUring, opcode, squeue,
    types::{self, BufRingEntry},
};

use crate::{
    Config, Error, SOCKETS_MAX, TAPS_MAX,
    io::{Port, RECEIVE_CONTROL_BYTES, RECEIVE_NAME_BYTES, SINGLE_READS},
    kernel::{
        Completion, KIND_CANCEL, KIND_READ, KIND_RECEIVE, KIND_SEND, KIND_WAKE, KIND_WRITE, REQUESTS_MAX, Request,
        TAP_GROUP, UDP_GROUP, Wait, user_data,
    },
    memory::Region,
    probe::{self, Setup},
};

/// Completions beyond buffers and slots: the ends of receives and reads, errors, cancellations, the waker.
const CQ_SPARE: u32 = 64 + SOCKETS_MAX as u32 + TAPS_MAX as u32 * SINGLE_READS as u32;

pub(crate) struct Native {
    // dropped in this order: the ring before the memory it works on
    ring: IoUring,
    receive_header: Box<libc::msghdr>,
    wake_count: Region,
    waker: RawFd,
    pub(crate) setup: Setup,
    pub(crate) multishot_read: bool,
    pub(crate) min_wait: bool,
}

/// Submission and completion queue entries that suit a configuration.
pub(crate) fn queue_sizes(config: &Config) -> (u32, u32) {
    let parts = [config.udp_buffers, config.tap_buffers, config.send_slots, config.tap_slots];
    let completions = parts.into_iter().map(u32::from).sum::<u32>() + CQ_SPARE;
    (REQUESTS_MAX, completions.next_power_of_two())
}

/// Registered-file index of a port: TAP queues come after the sockets.
const fn file(port: Port) -> u32 {
    match port {
        Port::Socket(index) => index as u32,
        Port::Tap(index) => SOCKETS_MAX as u32 + index as u32,
    }
}

impl Native {
    pub(crate) fn new((sq, cq): (u32, u32), setups: &[Setup], waker: RawFd) -> Result<Native, Error> {
        let (ring, setup) = probe::build(sq, cq, setups)?;
        probe::essentials(&ring)?;
        ring.submitter().register_files_sparse((SOCKETS_MAX + TAPS_MAX) as u32)?;
        Ok(Native {
            setup,
            multishot_read: probe::has_multishot_read(&ring),
            min_wait: ring.params().is_feature_min_timeout(),
            ring,
            receive_header: receive_header(),
            wake_count: Region::new(size_of::<u64>())?,
            waker,
        })
    }

    /// Entries of the completion queue.
    pub(crate) fn completions_max(&self) -> usize {
        self.ring.params().cq_entries() as usize
    }

    /// Whether the kernel has something for us. Looked up in shared memory, without a system call.
    pub(crate) fn due(&mut self) -> bool {
        self.ring.submission().taskrun() || !self.ring.completion().is_empty()
    }

    /// Has the kernel poll network cards before it sleeps.
    pub(crate) fn busy_poll(&self, time: Duration) -> io::Result<()> {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.ring.submitter().register_napi(&mut types::Napi::new().set_busy_poll_timeout(micros))
    }

    pub(crate) fn set_file(&mut self, port: Port, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(file(port), &[fd]).map(drop)
    }

    pub(crate) fn release_files(&mut self) {
        let _ = self.ring.submitter().unregister_files();
    }

    pub(crate) fn leak(&mut self) {
        self.wake_count.leak();
    }

    /// Makes a ring of buffers known.
    ///
    /// # Safety
    /// The entries, and the buffers that they name, must outlive the ring.
    pub(crate) unsafe fn register_buffers(&self, group: u16, entries: *mut BufRingEntry, count: u16) -> io::Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(entries as u64, count, group, 0) }
    }

    /// Writes one request into the submission queue; false if that is full.
    ///
    /// # Safety
    /// What the request points to must stay valid and untouched until it has completed.
    #[inline]
    pub(crate) unsafe fn push(&mut self, request: Request) -> bool {
        let entry = self.entry(request);
        // SAFETY: the caller vouches for what its request points to; header and count live as long as the ring, or are
        // leaked.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    #[inline]
    fn entry(&self, request: Request) -> squeue::Entry {
        let fixed = |port| types::Fixed(file(port));
        match request {
            Request::Send { slot, socket, message, wait, silent } => {
                let flags = if wait { 0 } else { libc::MSG_DONTWAIT as u32 };
                let send = opcode::SendMsg::new(fixed(Port::Socket(socket)), message).flags(flags).build();
                let send = if silent { send.flags(squeue::Flags::SKIP_SUCCESS) } else { send };
                send.user_data(user_data(KIND_SEND, slot))
            }
            Request::Write { slot, tap, address, len, silent } => {
                let write = opcode::Write::new(fixed(Port::Tap(tap)), address, len);
                let write = if silent {
                    write.rw_flags(libc::RWF_NOWAIT).build().flags(squeue::Flags::SKIP_SUCCESS)
                } else {
                    write.build()
                };
                write.user_data(user_data(KIND_WRITE, slot))
            }
            Request::Receive { socket } => {
                let header = &raw const *self.receive_header;
                let receive = opcode::RecvMsgMulti::new(fixed(Port::Socket(socket)), header, UDP_GROUP);
                receive.build().user_data(user_data(KIND_RECEIVE, socket))
            }
            Request::Read { tap, once } => {
                let file = fixed(Port::Tap(tap));
                let read = match once {
                    // io-uring 0.7 forgets the flag for multishot reads
                    None => opcode::ReadMulti::new(file, 0, TAP_GROUP).build().flags(squeue::Flags::FIXED_FILE),
                    Some(bytes) => {
                        let read = opcode::Read::new(file, std::ptr::null_mut(), bytes).buf_group(TAP_GROUP);
                        read.build().flags(squeue::Flags::BUFFER_SELECT)
                    }
                };
                read.user_data(user_data(KIND_READ, tap))
            }
            Request::Wake => {
                let count = self.wake_count.at(0, size_of::<u64>());
                let read = opcode::Read::new(types::Fd(self.waker), count, size_of::<u64>() as u32);
                read.build().user_data(user_data(KIND_WAKE, 0))
            }
            Request::CancelPort(port) => {
                let all = types::CancelBuilder::fd(fixed(port)).all();
                opcode::AsyncCancel2::new(all).build().user_data(user_data(KIND_CANCEL, 0))
            }
            Request::CancelSend(slot) => {
                let cancel = opcode::AsyncCancel::new(user_data(KIND_SEND, slot));
                cancel.build().user_data(user_data(KIND_CANCEL, 0))
            }
            Request::CancelAll => {
                let all = types::CancelBuilder::any().all();
                opcode::AsyncCancel2::new(all).build().user_data(user_data(KIND_CANCEL, 0))
            }
        }
    }

    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let queued = self.ring.submission().len();
        let submitter = self.ring.submitter();
        let mut arguments = types::SubmitArgs::new();
        let (wanted, timeout) = match wait {
            Wait::No => (0, None),
            Wait::One(timeout) => (1, timeout),
            Wait::Batch(gather, timeout) => {
                arguments = arguments.min_wait_usec(gather.wait.as_micros() as u32);
                (gather.messages, timeout)
            }
        };
        let timeout = timeout.map(types::Timespec::from);
        if let Some(timeout) = &timeout {
            arguments = arguments.timespec(timeout);
        }
        let entered = if wanted == 0 {
            // the kernel's deferred work runs only with GETEVENTS, also when nothing is waited for
            // SAFETY: the queue holds `queued` requests, and there is no argument.
            unsafe { submitter.enter::<libc::sigset_t>(queued as u32, 0, EnterFlags::GETEVENTS.bits(), None) }
        } else {
            submitter.submit_with_args(wanted, &arguments)
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    pub(crate) fn collect(&mut self, to: &mut Vec<Completion>) -> bool {
        let overflowed = self.ring.submission().cq_overflow();
        to.extend(self.ring.completion().map(Completion::from));
        overflowed
    }

    pub(crate) fn took_all(&mut self) -> bool {
        self.ring.submission().is_empty()
    }
}

/// What a multishot receive is armed with: how much room to keep in front of each payload.
pub(crate) fn receive_header() -> Box<libc::msghdr> {
    // SAFETY: zeroes are a valid msghdr: null pointers with zero lengths.
    let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
    header.msg_namelen = RECEIVE_NAME_BYTES as libc::socklen_t;
    header.msg_controllen = RECEIVE_CONTROL_BYTES as _;
    header
}
