//! A provided-buffer ring: buffers lent to the kernel, which picks one per message. This file knows neither sockets nor
//! messages, only who holds which buffer.

use std::{
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use crate::memory::Region;

/// Offset of the ring's tail: it overlays the reserved field of entry 0, which nobody else may write.
pub(crate) const TAIL_OFFSET: usize = 14;

/// One group of equal buffers.
pub(crate) struct BufferGroup {
    entries: Region,
    memory: Region,
    count: u16,
    bytes: usize,
    tail: u16,
    /// `lent[b]`: the kernel holds buffer `b`.
    lent: Vec<bool>,
}

impl BufferGroup {
    /// Makes `count` buffers of `bytes` each, has their ring registered, and lends them all. Whoever registers it must
    /// be gone before the group is, or the group be leaked.
    pub(crate) fn new(
        count: u16,
        bytes: usize,
        register: impl FnOnce(*mut BufRingEntry) -> io::Result<()>,
    ) -> io::Result<BufferGroup> {
        let entries = Region::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Region::new(usize::from(count) * bytes)?;
        register(entries.at(0, 0).cast())?;
        let mut this = BufferGroup { entries, memory, count, bytes, tail: 0, lent: vec![false; count.into()] };
        for buffer in 0..count {
            this.give_back(buffer);
        }
        this.publish();
        Ok(this)
    }

    /// Takes a buffer that a completion says was filled. `None` if the kernel names a buffer that it does not hold.
    pub(crate) fn take(&mut self, buffer: u16) -> Option<u16> {
        let lent = self.lent.get_mut(usize::from(buffer))?;
        std::mem::replace(lent, false).then_some(buffer)
    }

    /// The first `len` bytes of a buffer that was taken and not given back.
    pub(crate) fn bytes(&mut self, buffer: u16, len: usize) -> &mut [u8] {
        assert!(!self.lent[usize::from(buffer)], "the kernel holds this buffer");
        // SAFETY: a buffer that is not lent is ours alone; `len` is cut to the buffer.
        unsafe { self.memory.bytes(usize::from(buffer) * self.bytes, len.min(self.bytes)) }
    }

    /// Lends a buffer again, effective with the next [`publish`](Self::publish).
    pub(crate) fn give_back(&mut self, buffer: u16) {
        let address = self.memory.at(usize::from(buffer) * self.bytes, self.bytes);
        let index = usize::from(self.tail & (self.count - 1));
        let entry =
            self.entries.at(index * size_of::<BufRingEntry>(), size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        // SAFETY: the entry is inside the mapping, aligned (16 of a page-aligned base), and beyond the published tail,
        // so the kernel does not read it yet. The setters leave the reserved field of entry 0 alone.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address as u64);
        entry.set_len(self.bytes as u32);
        entry.set_bid(buffer);
        self.lent[usize::from(buffer)] = true;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Keeps the memory for ever: the kernel would not let go of it.
    pub(crate) fn leak(&mut self) {
        self.entries.leak();
        self.memory.leak();
    }

    /// Shows the kernel everything that was given back.
    pub(crate) fn publish(&self) {
        // SAFETY: the tail's two bytes are inside entry 0, aligned, and only ever accessed atomically.
        let tail = unsafe { AtomicU16::from_ptr(self.entries.at(TAIL_OFFSET, 2).cast()) };
        tail.store(self.tail, Ordering::Release);
    }
}
