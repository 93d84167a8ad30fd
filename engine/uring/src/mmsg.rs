//! Requests and completions without io_uring, for kernels and sandboxes that do not have it: `recvmmsg`, `sendmmsg`,
//! `read`, `write` and epoll. It reads the same buffer rings and lays messages out in the same way, so that nobody above
//! notices. This file knows system calls and nothing of what is carried.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use io_uring::types::BufRingEntry;

use crate::{
    SOCKETS_MAX, TAPS_MAX,
    buffers::TAIL_OFFSET,
    io::{Port, RECEIVE_CONTROL_BYTES, RECEIVE_HEADER_BYTES, RECEIVE_NAME_BYTES, RECEIVE_PREFIX_BYTES},
    kernel::{
        Completion, KIND_READ, KIND_RECEIVE, KIND_SEND, KIND_WAKE, KIND_WRITE, REQUESTS_MAX, Request, TAP_GROUP,
        UDP_GROUP, Wait, user_data,
    },
};

/// Messages taken from one socket or TAP queue in one `enter`, so that none starves the others.
const BATCH: usize = 32;
/// Ready files that one `epoll_wait` tells of; more are told of by the next.
const EVENTS: usize = 64;
/// What epoll says of the waker; files are told by their number.
const WAKER: u64 = u64::MAX;
// io_uring's completion flags
const BUFFER: u32 = 1;
const MORE: u32 = 2;

pub(crate) struct Mmsg {
    epoll: OwnedFd,
    waker: RawFd,
    wake_wanted: bool,
    /// Sockets, then TAP queues.
    files: Vec<File>,
    /// Files whose events may have to be asked for anew.
    changed: Vec<usize>,
    groups: [Group; 2],
    sends: Vec<Send>,
    completions: Vec<Completion>,
    outgoing: Vec<libc::mmsghdr>,
    incoming: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
}

#[derive(Clone, Copy)]
struct File {
    fd: RawFd,
    /// What arrives is wanted.
    armed: bool,
    /// The send that waits for room in the socket's buffer.
    parked: Option<Send>,
    /// The events that epoll was asked for.
    watched: u32,
}

const NO_FILE: File = File { fd: -1, armed: false, parked: None, watched: 0 };

#[derive(Clone, Copy)]
struct Send {
    slot: u16,
    socket: u16,
    message: *const libc::msghdr,
    wait: bool,
    silent: bool,
}

/// A ring of buffers, as the kernel sees it.
#[derive(Clone, Copy)]
struct Group {
    entries: *mut BufRingEntry,
    count: u16,
    head: u16,
}

impl Group {
    /// Buffers that may be filled.
    fn ready(&self) -> usize {
        if self.entries.is_null() {
            return 0;
        }
        // SAFETY: the tail's two bytes lie in entry 0, aligned, and are only ever accessed atomically.
        let tail = unsafe { AtomicU16::from_ptr(self.entries.cast::<u8>().add(TAIL_OFFSET).cast()) };
        usize::from(tail.load(Ordering::Acquire).wrapping_sub(self.head))
    }

    /// Address, length and number of the `n`th of them.
    fn peek(&self, n: usize) -> (*mut u8, usize, u16) {
        let index = usize::from(self.head.wrapping_add(n as u16) & (self.count - 1));
        // SAFETY: `n` is less than `ready`, so the entry is inside the ring and not written to until it is taken.
        let entry = unsafe { &*self.entries.add(index) };
        (entry.addr() as *mut u8, entry.len() as usize, entry.bid())
    }
}

const fn number(port: Port) -> usize {
    match port {
        Port::Socket(index) => index as usize,
        Port::Tap(index) => SOCKETS_MAX + index as usize,
    }
}

fn port(number: usize) -> Port {
    match number.checked_sub(SOCKETS_MAX) {
        None => Port::Socket(number as u16),
        Some(index) => Port::Tap(index as u16),
    }
}

/// A system call's result; -1 becomes the negative error number.
fn result(returned: isize) -> i32 {
    match returned {
        0.. => returned as i32,
        _ => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    }
}

impl Mmsg {
    pub(crate) fn new(waker: RawFd) -> io::Result<Mmsg> {
        // SAFETY: a plain system call without pointers.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        control(&epoll, libc::EPOLL_CTL_ADD, waker, libc::EPOLLIN as u32, WAKER)?;
        // SAFETY: zeroes are a valid header: null pointers with zero lengths.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Ok(Mmsg {
            epoll,
            waker,
            wake_wanted: false,
            files: vec![NO_FILE; SOCKETS_MAX + TAPS_MAX],
            changed: Vec::with_capacity(SOCKETS_MAX + TAPS_MAX),
            groups: [Group { entries: ptr::null_mut(), count: 0, head: 0 }; 2],
            sends: Vec::with_capacity(REQUESTS_MAX as usize),
            completions: Vec::with_capacity(REQUESTS_MAX as usize),
            outgoing: Vec::with_capacity(REQUESTS_MAX as usize),
            incoming: vec![header; BATCH],
            vectors: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH],
        })
    }

    pub(crate) fn add_file(&mut self, port: Port, fd: RawFd) {
        self.files[number(port)] = File { fd, ..NO_FILE };
    }

    pub(crate) fn remove_file(&mut self, port: Port) {
        let file = std::mem::replace(&mut self.files[number(port)], NO_FILE);
        if file.watched != 0 {
            let _ = control(&self.epoll, libc::EPOLL_CTL_DEL, file.fd, 0, 0);
        }
    }

    pub(crate) fn register_buffers(&mut self, group: u16, entries: *mut BufRingEntry, count: u16) {
        self.groups[usize::from(group)] = Group { entries, count, head: 0 };
    }

    /// Takes a request; false if there are too many sends for one `enter`.
    pub(crate) fn push(&mut self, request: Request) -> bool {
        match request {
            Request::Send { slot, socket, message, wait, silent } => {
                if self.sends.len() == REQUESTS_MAX as usize {
                    return false;
                }
                self.sends.push(Send { slot, socket, message, wait, silent });
            }
            Request::Write { slot, tap, address, len, silent } => {
                let fd = self.files[number(Port::Tap(tap))].fd;
                // SAFETY: address and length describe the readable frame that the request names.
                let written = result(unsafe { libc::write(fd, address.cast(), len as usize) });
                if written < 0 || !silent {
                    self.complete(KIND_WRITE, slot, written);
                }
            }
            Request::Receive { socket } => self.arm(Port::Socket(socket)),
            Request::Read { tap, .. } => self.arm(Port::Tap(tap)),
            Request::Wake => self.wake_wanted = true,
            Request::CancelPort(port) => self.cancel(number(port)),
            Request::CancelSend(slot) => {
                let parked = |file: &File| file.parked.is_some_and(|send| send.slot == slot);
                if let Some(file) = self.files.iter().position(parked) {
                    self.cancel_parked(file);
                }
            }
            Request::CancelAll => {
                (0..self.files.len()).for_each(|file| self.cancel(file));
                if std::mem::take(&mut self.wake_wanted) {
                    self.complete(KIND_WAKE, 0, -libc::ECANCELED);
                }
            }
        }
        true
    }

    fn arm(&mut self, port: Port) {
        self.files[number(port)].armed = true;
        self.changed.push(number(port));
    }

    fn cancel(&mut self, file: usize) {
        if self.files[file].armed {
            self.disarm(file, -libc::ECANCELED);
        }
        self.cancel_parked(file);
    }

    fn cancel_parked(&mut self, file: usize) {
        if let Some(send) = self.files[file].parked.take() {
            self.changed.push(file);
            self.complete(KIND_SEND, send.slot, -libc::ECANCELED);
        }
    }

    /// Ends what was asked of a file's arrivals.
    fn disarm(&mut self, file: usize, result: i32) {
        self.files[file].armed = false;
        self.changed.push(file);
        self.arrived(file, result, 0);
    }

    fn arrived(&mut self, file: usize, result: i32, flags: u32) {
        let user_data = match port(file) {
            Port::Socket(index) => user_data(KIND_RECEIVE, index),
            Port::Tap(index) => user_data(KIND_READ, index),
        };
        self.completions.push(Completion { user_data, result, flags });
    }

    fn complete(&mut self, kind: u64, index: u16, result: i32) {
        self.completions.push(Completion { user_data: user_data(kind, index), result, flags: 0 });
    }

    pub(crate) fn collect(&mut self, to: &mut Vec<Completion>) -> bool {
        to.append(&mut self.completions);
        false
    }

    /// Sends what was pushed, waits for files that are ready, and takes what they have.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.send_all();
        self.watch();
        let timeout = match wait {
            Wait::One(timeout) | Wait::Batch(_, timeout) if self.completions.is_empty() => milliseconds(timeout),
            _ => 0,
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: pointer and length describe writable events.
        let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, timeout) };
        let ready = match result(ready as isize) {
            errno if errno == -libc::EINTR => 0,
            errno if errno < 0 => return Err(io::Error::from_raw_os_error(-errno)),
            ready => ready as usize,
        };
        for event in &events[..ready] {
            if event.u64 == WAKER {
                self.take_wake();
                continue;
            }
            let file = event.u64 as usize;
            let File { armed, parked, .. } = self.files[file];
            if let Some(send) = parked.filter(|_| event.events != libc::EPOLLIN as u32) {
                self.files[file].parked = None;
                self.changed.push(file);
                self.send_one(send);
            }
            if armed && event.events != libc::EPOLLOUT as u32 {
                match port(file) {
                    Port::Socket(_) => self.receive(file),
                    Port::Tap(_) => self.read(file),
                }
            }
        }
        Ok(())
    }

    /// Asks epoll for what is wanted of the files that changed.
    fn watch(&mut self) {
        while let Some(number) = self.changed.pop() {
            let File { fd, armed, parked, watched } = self.files[number];
            let readable = if armed { libc::EPOLLIN as u32 } else { 0 };
            let writable = if parked.is_some() { libc::EPOLLOUT as u32 } else { 0 };
            let wanted = readable | writable;
            let operation = match (watched, wanted) {
                _ if watched == wanted => continue,
                (0, _) => libc::EPOLL_CTL_ADD,
                (_, 0) => libc::EPOLL_CTL_DEL,
                _ => libc::EPOLL_CTL_MOD,
            };
            self.files[number].watched = wanted;
            if let Err(error) = control(&self.epoll, operation, fd, wanted, number as u64)
                && armed
            {
                self.files[number].watched = 0;
                self.disarm(number, -error.raw_os_error().unwrap_or(libc::EIO));
            }
        }
    }

    fn take_wake(&mut self) {
        if !self.wake_wanted {
            return;
        }
        let mut count = [0u8; 8];
        // SAFETY: the buffer is eight writable bytes.
        let read = result(unsafe { libc::read(self.waker, count.as_mut_ptr().cast(), count.len()) });
        self.wake_wanted = false;
        self.complete(KIND_WAKE, 0, read);
    }

    fn send_all(&mut self) {
        let mut sends = std::mem::take(&mut self.sends);
        let mut rest = &sends[..];
        while let Some(&first) = rest.first() {
            let sent = if first.wait {
                self.send_one(first);
                1
            } else {
                let run = rest.iter().take_while(|send| send.socket == first.socket && !send.wait).count();
                self.send_run(&rest[..run])
            };
            rest = &rest[sent..];
        }
        sends.clear();
        self.sends = sends;
    }

    /// Sends messages of one socket in one call, as far as it goes. Returns how many are through or refused.
    fn send_run(&mut self, run: &[Send]) -> usize {
        let fd = self.files[number(Port::Socket(run[0].socket))].fd;
        // SAFETY: whoever pushed the sends keeps their headers valid.
        let header = |send: &Send| libc::mmsghdr { msg_hdr: unsafe { *send.message }, msg_len: 0 };
        self.outgoing.clear();
        self.outgoing.extend(run.iter().map(header));
        let (headers, count) = (self.outgoing.as_mut_ptr(), run.len() as u32);
        // SAFETY: pointer and length describe writable headers, and what these point to is kept valid by who pushed.
        let sent = result(unsafe { libc::sendmmsg(fd, headers, count, libc::MSG_DONTWAIT as _) } as isize);
        match -sent {
            libc::EINTR => 0,
            libc::EAGAIN => {
                // what is behind must not overtake
                run.iter().for_each(|send| self.complete(KIND_SEND, send.slot, sent));
                run.len()
            }
            errno if errno > 0 => {
                self.complete(KIND_SEND, run[0].slot, sent);
                1
            }
            _ => {
                for (at, send) in run.iter().enumerate().take(sent as usize).filter(|(_, send)| !send.silent) {
                    self.complete(KIND_SEND, send.slot, self.outgoing[at].msg_len as i32);
                }
                sent as usize
            }
        }
    }

    /// Sends a message that may wait: in a full socket's file, until there is room.
    fn send_one(&mut self, send: Send) {
        let file = number(Port::Socket(send.socket));
        // SAFETY: whoever pushed the send keeps its header valid, and what that points to.
        let sent = unsafe { libc::sendmsg(self.files[file].fd, send.message, libc::MSG_DONTWAIT) };
        match result(sent) {
            errno if errno == -libc::EAGAIN || errno == -libc::EINTR => {
                self.files[file].parked = Some(send);
                self.changed.push(file);
            }
            sent => self.complete(KIND_SEND, send.slot, sent),
        }
    }

    /// Takes datagrams, each with a header, the sender's name and control messages in front, as io_uring lays them out.
    fn receive(&mut self, file: usize) {
        let group = self.groups[usize::from(UDP_GROUP)];
        let ready = group.ready().min(BATCH);
        if ready == 0 {
            return self.disarm(file, -libc::ENOBUFS);
        }
        for n in 0..ready {
            let (address, len, _) = group.peek(n);
            let name = address.wrapping_add(RECEIVE_HEADER_BYTES);
            let control = name.wrapping_add(RECEIVE_NAME_BYTES);
            let payload = address.wrapping_add(RECEIVE_PREFIX_BYTES).cast();
            self.vectors[n] = libc::iovec { iov_base: payload, iov_len: len - RECEIVE_PREFIX_BYTES };
            let message = &mut self.incoming[n].msg_hdr;
            message.msg_name = name.cast();
            message.msg_namelen = RECEIVE_NAME_BYTES as libc::socklen_t;
            message.msg_iov = &raw mut self.vectors[n];
            message.msg_iovlen = 1;
            message.msg_control = control.cast();
            message.msg_controllen = RECEIVE_CONTROL_BYTES as _;
        }
        let (fd, headers) = (self.files[file].fd, self.incoming.as_mut_ptr());
        // SAFETY: the headers are writable, and each points into a buffer of its own that nobody else uses: it is lent.
        let got = unsafe { libc::recvmmsg(fd, headers, ready as u32, libc::MSG_DONTWAIT as _, ptr::null_mut()) };
        match -result(got as isize) {
            libc::EAGAIN | libc::EINTR => return,
            errno if errno > 0 => return self.disarm(file, -errno),
            _ => {}
        }
        for n in 0..got as usize {
            let libc::mmsghdr { msg_hdr: message, msg_len: bytes } = self.incoming[n];
            let words = [message.msg_namelen, message.msg_controllen as u32, bytes, message.msg_flags as u32];
            let (address, _, buffer) = group.peek(n);
            // SAFETY: the header's bytes are the first of this buffer, which is lent.
            unsafe { address.cast::<[u32; 4]>().write_unaligned(words) };
            self.arrived(file, (RECEIVE_PREFIX_BYTES + bytes as usize) as i32, MORE | filled(buffer));
        }
        self.groups[usize::from(UDP_GROUP)].head = group.head.wrapping_add(got as u16);
        if got as usize == group.ready() {
            self.disarm(file, -libc::ENOBUFS);
        }
    }

    /// Takes frames.
    fn read(&mut self, file: usize) {
        for _ in 0..BATCH {
            let group = &mut self.groups[usize::from(TAP_GROUP)];
            if group.ready() == 0 {
                break;
            }
            let (address, len, buffer) = group.peek(0);
            // SAFETY: address and length describe a buffer that nobody else uses: it is lent.
            match result(unsafe { libc::read(self.files[file].fd, address.cast(), len) }) {
                0 => return,
                errno if errno == -libc::EAGAIN || errno == -libc::EINTR => return,
                errno if errno < 0 => return self.disarm(file, errno),
                bytes => {
                    group.head = group.head.wrapping_add(1);
                    self.arrived(file, bytes, MORE | filled(buffer));
                }
            }
        }
        if self.groups[usize::from(TAP_GROUP)].ready() == 0 {
            self.disarm(file, -libc::ENOBUFS);
        }
    }
}

/// How a completion names the buffer that was filled.
const fn filled(buffer: u16) -> u32 {
    BUFFER | (buffer as u32) << 16
}

/// A wait in epoll's unit, never shorter than asked for.
fn milliseconds(timeout: Option<Duration>) -> i32 {
    timeout.map_or(-1, |timeout| timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32)
}

fn control(epoll: &OwnedFd, operation: i32, fd: RawFd, events: u32, name: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: name };
    // SAFETY: the event is readable, and the kernel keeps no pointer to it.
    let done = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &raw mut event) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
