//! Frames on their way into TAP queues: slots that stay put until the kernel is done. A write never waits and its
//! success is silent, where the device can be told so.

use std::{
    collections::VecDeque,
    io as std_io,
    ops::{Deref, DerefMut, Range},
};

use crate::{Config, Io, Refused, Token, io::Port, kernel::Request, slots::Slots};

/// TAP slots and the queues they are in.
pub(crate) struct Writes {
    slots: Slots,
    table: Vec<Write>,
    queued: VecDeque<u16>,
    /// What was submitted and succeeds silently.
    submitted: Vec<u16>,
}

/// What a TAP slot holds.
#[derive(Clone, Copy)]
struct Write {
    state: State,
    tap: u16,
    len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Open,
    Queued,
    /// In the kernel; its success is silent.
    Silent,
    /// In the kernel; completes one way or the other.
    Spoken,
}

impl Writes {
    pub(crate) fn new(config: &Config) -> std_io::Result<Writes> {
        let count = usize::from(config.tap_slots);
        Ok(Writes {
            slots: Slots::new(config.tap_slots, config.tap_slot_bytes)?,
            table: vec![Write { state: State::Free, tap: 0, len: 0 }; count],
            queued: VecDeque::with_capacity(count),
            submitted: Vec::with_capacity(count),
        })
    }

    pub(crate) fn busy_with(&self, tap: u16) -> bool {
        self.table.iter().any(|write| write.state != State::Free && write.tap == tap)
    }

    pub(crate) fn in_kernel(&self) -> bool {
        self.table.iter().any(|write| matches!(write.state, State::Silent | State::Spoken))
    }

    pub(crate) fn leak(&mut self) {
        self.slots.leak();
    }

    fn write(&mut self, slot: u16) -> &mut Write {
        &mut self.table[usize::from(slot)]
    }

    fn is_held(&self, held: HeldFrame) -> bool {
        self.table.get(usize::from(held.0)).is_some_and(|write| write.state == State::Open)
    }

    fn free(&mut self, slot: u16) {
        self.write(slot).state = State::Free;
        self.slots.give_back(slot);
    }

    fn queue(&mut self, slot: u16) {
        self.write(slot).state = State::Queued;
        self.queued.push_back(slot);
    }
}

/// A slot in which a frame grows, from [`Io::hold_frame`] to [`Io::commit_held`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldFrame(pub u16);

/// Room for one frame. Write into it, then [`commit`](Self::commit); dropped without, nothing is written.
pub struct FrameRoom<'a> {
    io: &'a mut Io,
    slot: u16,
    range: Range<usize>,
    committed: bool,
}

impl FrameRoom<'_> {
    /// Gives the first `len` bytes to the TAP queue with this turn. Zero gives nothing.
    pub fn commit(mut self, len: usize) {
        assert!(len <= self.range.len(), "more bytes than there was room for");
        if len == 0 {
            return;
        }
        self.committed = true;
        self.io.writes.write(self.slot).len = len;
        self.io.writes.queue(self.slot);
    }
}

impl Deref for FrameRoom<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let address = self.io.writes.slots.address(self.slot, &self.range);
        // SAFETY: the range is inside the slot, the slot is open, so the kernel does not use it, and `self` borrows it.
        unsafe { std::slice::from_raw_parts(address, self.range.len()) }
    }
}

impl DerefMut for FrameRoom<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slot is open: no request names it yet.
        unsafe { self.io.writes.slots.bytes(self.slot, self.range.clone()) }
    }
}

impl Drop for FrameRoom<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.io.writes.free(self.slot);
        }
    }
}

impl Io {
    /// Room for a frame of up to `room` bytes into a TAP queue, with the virtio-net header if the queue was opened so.
    pub fn frame(&mut self, tap: Token, room: usize) -> Result<FrameRoom<'_>, Refused> {
        if room > self.writes.slots.slot_bytes() {
            return Err(Refused::TooLong);
        }
        let index = self.tap_index(tap).ok_or(Refused::Unknown)?;
        if self.writes.slots.free() == 0 {
            self.flush();
        }
        let Some(slot) = self.writes.slots.take() else {
            self.counters.dropped_no_tap_slot += 1;
            return Err(Refused::NoSlot);
        };
        *self.writes.write(slot) = Write { state: State::Open, tap: index, len: 0 };
        Ok(FrameRoom { io: self, slot, range: 0..room, committed: false })
    }

    /// A slot for a frame that grows over several calls. It must be given back with [`commit_held`](Self::commit_held)
    /// within this turn: until then it is not free.
    pub fn hold_frame(&mut self, tap: Token) -> Result<HeldFrame, Refused> {
        let room = self.writes.slots.slot_bytes();
        let mut room = self.frame(tap, room)?;
        room.committed = true; // nothing is written before it is given back
        Ok(HeldFrame(room.slot))
    }

    /// All the room of a held slot; empty if it is not held.
    pub fn held_frame(&mut self, held: HeldFrame) -> &mut [u8] {
        let room = if self.writes.is_held(held) { self.writes.slots.slot_bytes() } else { 0 };
        let slot = if room > 0 { held.0 } else { 0 };
        // SAFETY: a held slot is open: no request names it. Of any other, no byte is touched.
        unsafe { self.writes.slots.bytes(slot, 0..room) }
    }

    /// Gives the first `len` bytes of a held slot to its TAP queue with this turn. Zero gives nothing.
    pub fn commit_held(&mut self, held: HeldFrame, len: usize) {
        if !self.writes.is_held(held) {
            return;
        }
        if len == 0 {
            return self.writes.free(held.0);
        }
        assert!(len <= self.writes.slots.slot_bytes(), "more bytes than there was room for");
        self.writes.write(held.0).len = len;
        self.writes.queue(held.0);
    }

    /// Gives a copy of one frame to a TAP queue with this turn.
    pub fn write(&mut self, tap: Token, frame: &[u8]) -> Result<(), Refused> {
        let mut room = self.frame(tap, frame.len())?;
        room.copy_from_slice(frame);
        room.commit(frame.len());
        Ok(())
    }

    /// Turns all frames into requests.
    pub(crate) fn push_writes(&mut self) {
        while let Some(slot) = self.writes.queued.pop_front() {
            let Write { tap: index, len, .. } = *self.writes.write(slot);
            let Some(nowait) = self.tap(index).filter(|tap| tap.closing.is_none()).map(|tap| tap.nowait) else {
                self.counters.dropped_tap_failed += 1;
                self.writes.free(slot);
                continue;
            };
            let address = self.writes.slots.address(slot, &(0..len));
            self.writes.write(slot).state = if nowait { State::Silent } else { State::Spoken };
            self.push(Request::Write { slot, tap: index, address, len: len as u32, silent: nowait });
            if nowait {
                self.writes.submitted.push(slot); // not before it is in the queue, which `push` may have to empty first
            }
        }
    }

    /// Frees the slots of all writes that were submitted and raised no complaint.
    pub(crate) fn settle_writes(&mut self) {
        while let Some(slot) = self.writes.submitted.pop() {
            if self.writes.write(slot).state == State::Silent {
                self.counters.frames_out += 1;
                self.writes.free(slot);
            }
        }
    }

    pub(crate) fn write_completed(&mut self, slot: u16, result: i32) {
        let Write { tap: index, state, .. } = *self.writes.write(slot);
        match -result {
            libc::EOPNOTSUPP if state == State::Silent => {
                // this kernel's device cannot be told not to wait: its writes complete aloud from now on
                self.counters.writes_waiting += 1;
                if let Some(tap) = self.tap(index) {
                    tap.nowait = false;
                }
                return self.writes.queue(slot);
            }
            libc::EIO => self.counters.dropped_tap_down += 1,
            errno @ (libc::EBADFD | libc::EBADF | libc::ENODEV) => {
                self.counters.dropped_tap_failed += 1;
                self.dead.push((Port::Tap(index), errno));
            }
            errno if errno > 0 => self.counters.dropped_tap_failed += 1,
            _ => self.counters.frames_out += 1,
        }
        self.writes.free(slot);
    }
}
