//! Datagrams on their way out: batches of equal size that leave as one GSO send, slots that stay put until the kernel
//! is done, and what happens when it is not: a full socket buffer, a route without GSO, a path that became narrower.
//!
//! A send is submitted so that it never waits and that its success is silent. Then all slots are free again when
//! `io_uring_enter` returns, but for those with a completion: these failed, and are parked, sent one by one, or dropped.

use std::{
    collections::VecDeque,
    io as std_io,
    net::SocketAddr,
    ops::{Deref, DerefMut, Range},
    time::{Duration, Instant},
};

use crate::{
    Config, Counters, Event, GSO_BYTES_MAX, GSO_SEGMENTS_MAX, Io, Refused, SEND_WAIT_MAX, Token,
    io::Socket,
    kernel::Request,
    slots::{Headers, Slots},
};

/// Longest payload of a UDP datagram over IPv4, bytes.
const DATAGRAM_MAX: usize = 65_507;
/// Batches that may grow side by side in one turn; one more closes the oldest.
const OPEN_BATCHES_MAX: usize = 16;
/// Remotes remembered as refusing GSO, and for how long.
const NO_GSO_MAX: usize = 64;
const NO_GSO_TIME: Duration = Duration::from_secs(60);
/// The same if only the datagrams were too long: soon they will be shorter.
const NARROW_TIME: Duration = Duration::from_secs(1);
/// A socket whose buffer has been full for so long keeps no more than its share of slots while another socket has room.
const FULL_MAX: Duration = Duration::from_millis(100);

/// Send slots and the queues they are in.
pub(crate) struct Sends {
    pub(crate) slots: Slots,
    headers: Headers,
    table: Vec<Send>,
    /// Batches that may still grow, oldest first.
    open: Vec<u16>,
    /// What the next `enter` submits, in order.
    queued: VecDeque<u16>,
    /// What was submitted and succeeds silently.
    submitted: Vec<u16>,
    /// Sockets with a parked send.
    pub(crate) parked: usize,
    /// Slots that may be held behind each send that has been parked for long.
    share: usize,
    no_gso: Vec<(SocketAddr, Instant)>,
}

/// What a send slot holds.
#[derive(Clone, Copy)]
struct Send {
    state: State,
    socket: u16,
    remote: SocketAddr,
    ttl: Option<u8>,
    /// Bytes of each datagram but the last.
    segment: usize,
    /// Bytes of all of them.
    len: usize,
    /// Bytes that have left, if the datagrams leave one by one.
    sent: usize,
    singly: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// Being filled, or an open batch.
    Open,
    Queued,
    /// In the kernel; its success is silent.
    Silent,
    /// In the kernel; completes one way or the other.
    Spoken,
    /// Behind a parked send.
    Held,
}

/// A send that waits for room in its socket's buffer.
#[derive(Clone, Copy)]
pub(crate) struct Parked {
    slot: u16,
    since: Instant,
    cancelled: bool,
}

impl Socket {
    /// Since when its buffer has been full.
    fn full_since(&self) -> Option<Instant> {
        self.parked.map(|parked| parked.since)
    }
}

impl Send {
    /// What the next request for this slot sends.
    fn next(&self) -> Range<usize> {
        let end = if self.singly { self.len.min(self.sent + self.segment) } else { self.len };
        self.sent..end
    }

    fn datagrams(&self, bytes: usize) -> u64 {
        bytes.div_ceil(self.segment.max(1)) as u64
    }
}

impl Sends {
    pub(crate) fn new(config: &Config) -> std_io::Result<Sends> {
        let remote = SocketAddr::from(([0; 4], 0));
        let free =
            Send { state: State::Free, socket: 0, remote, ttl: None, segment: 0, len: 0, sent: 0, singly: false };
        let count = usize::from(config.send_slots);
        Ok(Sends {
            slots: Slots::new(config.send_slots, config.send_slot_bytes)?,
            headers: Headers::new(config.send_slots)?,
            table: vec![free; count],
            open: Vec::with_capacity(OPEN_BATCHES_MAX),
            queued: VecDeque::with_capacity(count),
            submitted: Vec::with_capacity(count),
            parked: 0,
            share: usize::MAX,
            no_gso: Vec::with_capacity(NO_GSO_MAX),
        })
    }

    pub(crate) fn busy_with(&self, socket: u16) -> bool {
        self.table.iter().any(|send| send.state != State::Free && send.socket == socket)
    }

    pub(crate) fn in_kernel(&self) -> bool {
        self.table.iter().any(|send| matches!(send.state, State::Silent | State::Spoken))
    }

    pub(crate) fn leak(&mut self) {
        self.slots.leak();
        self.headers.leak();
    }

    fn send(&mut self, slot: u16) -> &mut Send {
        &mut self.table[usize::from(slot)]
    }

    fn free(&mut self, slot: u16) {
        self.send(slot).state = State::Free;
        self.slots.give_back(slot);
    }

    fn queue(&mut self, slot: u16) {
        self.send(slot).state = State::Queued;
        self.queued.push_back(slot);
    }

    fn queue_first(&mut self, slot: u16) {
        self.send(slot).state = State::Queued;
        self.queued.push_front(slot);
    }

    fn close(&mut self, position: usize) {
        let slot = self.open.remove(position);
        self.queue(slot);
    }

    /// Whether a route to this remote refused GSO lately.
    fn refuses_gso(&mut self, remote: SocketAddr, now: Instant) -> bool {
        if self.no_gso.is_empty() {
            return false;
        }
        self.no_gso.retain(|(_, until)| *until > now);
        self.no_gso.iter().any(|(known, _)| *known == remote)
    }

    fn remember_no_gso(&mut self, remote: SocketAddr, until: Instant) {
        self.no_gso.retain(|(known, _)| *known != remote);
        if self.no_gso.len() == NO_GSO_MAX {
            self.no_gso.remove(0);
        }
        self.no_gso.push((remote, until));
    }
}

/// Room for one datagram. Write into it, then [`commit`](Self::commit); dropped without, nothing is sent.
pub struct Room<'a> {
    io: &'a mut Io,
    slot: u16,
    range: Range<usize>,
    /// Position of the open batch it continues; a datagram in a slot of its own has none.
    batch: Option<usize>,
    committed: bool,
}

impl Room<'_> {
    /// Sends the first `len` bytes with this turn. Zero sends nothing.
    pub fn commit(mut self, len: usize) {
        assert!(len <= self.range.len(), "more bytes than there was room for");
        if len == 0 {
            return;
        }
        self.committed = true;
        self.io.commit(self.slot, self.batch, len);
    }
}

impl Deref for Room<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let address = self.io.sends.slots.address(self.slot, &self.range);
        // SAFETY: the range is inside the slot, the slot is open, so the kernel does not use it, and `self` borrows it.
        unsafe { std::slice::from_raw_parts(address, self.range.len()) }
    }
}

impl DerefMut for Room<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slot is open: no request names it yet.
        unsafe { self.io.sends.slots.bytes(self.slot, self.range.clone()) }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if !self.committed && self.batch.is_none() {
            self.io.sends.free(self.slot);
        }
    }
}

impl Io {
    /// Room for a datagram of up to `room` bytes to `remote`. It leaves with this turn, together with others of its size
    /// to the same remote. `ttl` sets the time to live (hop limit) of this datagram alone.
    pub fn datagram(
        &mut self,
        socket: Token,
        remote: SocketAddr,
        ttl: Option<u8>,
        room: usize,
    ) -> Result<Room<'_>, Refused> {
        if room > self.sends.slots.slot_bytes().min(DATAGRAM_MAX) {
            return Err(Refused::TooLong);
        }
        if let Some(position) = self.open_batch(socket, remote, ttl) {
            let slot = self.sends.open[position];
            let Send { segment, len, .. } = *self.sends.send(slot);
            if room <= segment && len + room <= self.sends.slots.slot_bytes().min(GSO_BYTES_MAX) {
                return Ok(Room { io: self, slot, range: len..len + room, batch: Some(position), committed: false });
            }
            self.sends.close(position);
        }
        let index = self.socket_index(socket).ok_or(Refused::Unknown)?;
        if self.socket(index).is_some_and(|socket| socket.v6 != remote.is_ipv6()) {
            return Err(Refused::Family);
        }
        if self.sends.slots.free() == 0 {
            self.flush();
        }
        let Some(slot) = self.sends.slots.take() else {
            self.counters.dropped_no_send_slot += 1;
            return Err(Refused::NoSlot);
        };
        *self.sends.send(slot) =
            Send { state: State::Open, socket: index, remote, ttl, segment: 0, len: 0, sent: 0, singly: false };
        Ok(Room { io: self, slot, range: 0..room, batch: None, committed: false })
    }

    /// Room for a datagram of exactly `len` bytes that is committed already: what is in it when the turn ends, leaves.
    /// Zero bytes send nothing.
    pub fn put(
        &mut self,
        socket: Token,
        remote: SocketAddr,
        ttl: Option<u8>,
        len: usize,
    ) -> Result<&mut [u8], Refused> {
        let room = self.datagram(socket, remote, ttl, len)?;
        let (slot, range) = (room.slot, room.range.clone());
        room.commit(len);
        // SAFETY: the slot is an open batch or queued. Its request is only made by an `enter`, which needs the `Io` that
        // the result borrows.
        Ok(unsafe { self.sends.slots.bytes(slot, range) })
    }

    /// Sends a copy of one datagram with this turn.
    pub fn send(&mut self, socket: Token, remote: SocketAddr, ttl: Option<u8>, bytes: &[u8]) -> Result<(), Refused> {
        self.put(socket, remote, ttl, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// Send slots free now. Few means that the kernel does not take what was given to it.
    pub fn free_send_slots(&self) -> usize {
        self.sends.slots.free()
    }

    fn open_batch(&self, socket: Token, remote: SocketAddr, ttl: Option<u8>) -> Option<usize> {
        self.sends.open.iter().position(|&slot| {
            let batch = &self.sends.table[usize::from(slot)];
            let port = self.sockets[usize::from(batch.socket)].as_ref();
            batch.remote == remote
                && batch.ttl == ttl
                && port.is_some_and(|port| port.token == socket && port.closing.is_none())
        })
    }

    fn commit(&mut self, slot: u16, batch: Option<usize>, len: usize) {
        let now = self.now;
        let send = self.sends.send(slot);
        if let Some(position) = batch {
            let shorter = len < send.segment;
            send.len += len;
            if shorter || send.len / send.segment >= GSO_SEGMENTS_MAX {
                self.sends.close(position);
            }
            return;
        }
        (send.segment, send.len) = (len, len);
        let (socket, remote) = (send.socket, send.remote);
        let gso = self.socket(socket).is_some_and(|socket| socket.gso);
        if !gso || self.sends.refuses_gso(remote, now) {
            return self.sends.queue(slot);
        }
        if self.sends.open.len() == OPEN_BATCHES_MAX {
            self.sends.close(0);
        }
        self.sends.open.push(slot);
    }

    /// Drops what is left of a send and counts its datagrams.
    pub(crate) fn drop_send(&mut self, slot: u16, counter: impl FnOnce(&mut Counters) -> &mut u64) {
        let send = self.sends.send(slot);
        let lost = send.datagrams(send.len - send.sent);
        *counter(&mut self.counters) += lost;
        self.sends.free(slot);
    }

    /// Turns everything that is committed into requests.
    pub(crate) fn push_sends(&mut self) {
        while !self.sends.open.is_empty() {
            self.sends.close(0);
        }
        while let Some(slot) = self.sends.queued.pop_front() {
            let index = self.sends.send(slot).socket;
            let Some(socket) = self.socket(index) else {
                self.drop_send(slot, |counters| &mut counters.dropped_socket_gone);
                continue;
            };
            let parked = socket.parked.map(|parked| parked.slot);
            if socket.closing.is_some() {
                if parked == Some(slot) {
                    socket.parked = None;
                    self.sends.parked -= 1;
                }
                self.drop_send(slot, |counters| &mut counters.dropped_socket_gone);
            } else if parked.is_some_and(|parked| parked != slot) {
                self.hold(slot, index);
            } else {
                self.push_send(slot, parked.is_some());
            }
        }
    }

    /// Hands a send to the kernel. `park`: it may wait there for room in the socket buffer.
    fn push_send(&mut self, slot: u16, park: bool) {
        let send = *self.sends.send(slot);
        let range = send.next();
        let segment = (range.len() > send.segment).then_some(send.segment as u16);
        let payload = (self.sends.slots.address(slot, &range), range.len());
        let message = self.sends.headers.prepare(slot, payload, send.remote, segment, send.ttl);
        let silent = !(park || send.singly);
        self.sends.send(slot).state = if silent { State::Silent } else { State::Spoken };
        self.push(Request::Send { slot, socket: send.socket, message, wait: park, silent });
        if silent {
            self.sends.submitted.push(slot); // not before it is in the queue, which `push` may have to empty first
        }
    }

    /// Frees the slots of all sends that were submitted and raised no complaint.
    pub(crate) fn settle_sends(&mut self) {
        while let Some(slot) = self.sends.submitted.pop() {
            if self.sends.send(slot).state == State::Silent {
                self.send_succeeded(slot);
            }
        }
    }

    pub(crate) fn send_completed(&mut self, slot: u16, result: i32) {
        let send = *self.sends.send(slot);
        let parked = self.socket(send.socket).and_then(|socket| socket.parked.take_if(|parked| parked.slot == slot));
        let expired = parked.is_some_and(|parked| parked.cancelled) && result == -libc::ECANCELED;
        if parked.is_some() {
            self.sends.parked -= 1;
            self.release_held(send.socket, expired);
        }
        if result >= 0 {
            return self.send_succeeded(slot);
        }
        let gso = !send.singly && send.len > send.segment;
        match -result {
            libc::EAGAIN if parked.is_none() => self.park(slot),
            libc::ECANCELED if expired => self.drop_send(slot, |counters| &mut counters.dropped_send_expired),
            libc::ECANCELED => self.drop_send(slot, |counters| &mut counters.dropped_socket_gone),
            errno @ (libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP) if gso => {
                self.step_down(slot, errno)
            }
            errno => self.send_failed(slot, errno),
        }
    }

    /// A part of a send, or all of it, has left.
    fn send_succeeded(&mut self, slot: u16) {
        let send = self.sends.send(slot);
        let range = send.next();
        send.sent = range.end;
        let datagrams = send.datagrams(range.len());
        let done = send.sent == send.len;
        self.counters.messages_out += 1;
        self.counters.bytes_out += range.len() as u64;
        self.counters.datagrams_out += datagrams;
        if done { self.sends.free(slot) } else { self.sends.queue_first(slot) }
    }

    /// The kernel refuses the next part of a send for good.
    fn send_failed(&mut self, slot: u16, errno: i32) {
        let send = self.sends.send(slot);
        let range = send.next();
        send.sent = range.end;
        let (index, remote, bytes) = (send.socket, send.remote, range.len().min(send.segment));
        let (lost, done) = (send.datagrams(range.len()), send.sent == send.len);
        self.counters.dropped_send_failed += lost;
        if done {
            self.sends.free(slot)
        } else {
            self.sends.queue_first(slot)
        }
        if let Some(socket) = self.socket(index).map(|socket| socket.token) {
            let error = std_io::Error::from_raw_os_error(errno);
            self.event(Event::SendFailed { socket, remote, bytes, error });
        }
    }

    /// The socket buffer is full: the first such send waits in the kernel, the others behind it.
    fn park(&mut self, slot: u16) {
        let (now, index) = (self.now, self.sends.send(slot).socket);
        let Some(socket) = self.socket(index).filter(|socket| socket.closing.is_none()) else {
            return self.drop_send(slot, |counters| &mut counters.dropped_socket_gone);
        };
        if socket.parked.is_some() {
            return self.hold(slot, index);
        }
        socket.parked = Some(Parked { slot, since: now, cancelled: false });
        self.sends.parked += 1;
        self.sends.queue_first(slot);
        self.counters.sends_parked += 1;
    }

    /// Keeps a send behind the parked one, unless its socket has kept others waiting for too long.
    fn hold(&mut self, slot: u16, index: u16) {
        let (now, share) = (self.now, self.sends.share);
        let Some(socket) = self.socket(index) else { return };
        if socket.full_since().is_some_and(|since| now - since > FULL_MAX) && socket.held.len() >= share {
            return self.drop_send(slot, |counters| &mut counters.dropped_socket_full);
        }
        socket.held.push_back(slot);
        self.sends.send(slot).state = State::Held;
    }

    /// The parked send is through, or given up: those behind it are next, or given up with it.
    fn release_held(&mut self, index: u16, expired: bool) {
        while let Some(slot) = self.socket(index).and_then(|socket| socket.held.pop_back()) {
            if expired {
                self.drop_send(slot, |counters| &mut counters.dropped_send_expired);
            } else {
                self.sends.queue_first(slot);
            }
        }
    }

    /// Gives up sends that have waited too long for room in a socket buffer, so that one dead link cannot keep all slots.
    pub(crate) fn expire_parked(&mut self) {
        if self.sends.parked == 0 {
            return;
        }
        let open = self.sockets.iter().flatten().filter(|socket| socket.closing.is_none()).count();
        let spare = usize::from(self.config.send_slots - self.config.tap_reserve);
        // if all are full, what waits is better kept than dropped
        self.sends.share = if open > self.sends.parked { spare / 2 / self.sends.parked } else { usize::MAX };
        for index in 0..self.sockets.len() {
            let now = self.now;
            self.trim_held(index as u16);
            let parked = self.sockets[index].as_mut().and_then(|socket| socket.parked.as_mut());
            let Some(parked) = parked.filter(|parked| !parked.cancelled && now - parked.since > SEND_WAIT_MAX) else {
                continue;
            };
            parked.cancelled = true;
            let slot = parked.slot;
            self.push(Request::CancelSend(slot));
        }
    }

    /// Drops what a socket that has been full for long holds beyond its share, the newest first.
    fn trim_held(&mut self, index: u16) {
        let (now, share) = (self.now, self.sends.share);
        while let Some(socket) = self.socket(index)
            && socket.full_since().is_some_and(|since| now - since > FULL_MAX)
            && socket.held.len() > share
            && let Some(slot) = socket.held.pop_back()
        {
            self.drop_send(slot, |counters| &mut counters.dropped_socket_full);
        }
    }

    /// The route does not take a GSO send: its datagrams leave one by one, and the remote is spared more of them.
    fn step_down(&mut self, slot: u16, errno: i32) {
        self.counters.gso_refused += 1;
        let narrow = errno == libc::EMSGSIZE;
        let until = self.now + if narrow { NARROW_TIME } else { NO_GSO_TIME };
        let send = self.sends.send(slot);
        send.singly = true;
        let (index, remote, bytes) = (send.socket, send.remote, send.segment);
        if let Some(socket) = self.socket(index).map(|socket| socket.token).filter(|_| narrow) {
            self.event(Event::Narrow { socket, remote, bytes });
        }
        self.sends.remember_no_gso(remote, until);
        self.sends.queue_first(slot);
    }
}
