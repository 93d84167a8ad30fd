//! Memory that the kernel reads and writes while we hold no reference to it: anonymous, zeroed, page-aligned, never
//! moved. This file knows nothing of what the bytes mean.

use std::{io, ptr::NonNull};

/// Mappings from this size on ask for huge pages: every packet is copied through them, and each page is a TLB entry.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// One mapping, unmapped on drop.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    /// Maps `len` bytes of zeroes. Pages cost nothing until they are touched.
    pub(crate) fn new(len: usize) -> io::Result<Region> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if len >= HUGE_PAGE_BYTES {
            // SAFETY: advice about the mapping just made; a kernel without huge pages refuses it, which changes nothing.
            unsafe { libc::madvise(base, len, libc::MADV_HUGEPAGE) };
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Region { base, len })
    }

    /// Where the `len` bytes at `offset` live.
    pub(crate) fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "range outside the region");
        // SAFETY: the assertion keeps the offset inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The `len` bytes at `offset`.
    ///
    /// # Safety
    /// The kernel must not be reading or writing this range while the slice lives.
    pub(crate) unsafe fn bytes(&mut self, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: `at` checks the range, a mapping starts zeroed, `&mut self` excludes our own aliases and the caller
        // excludes the kernel.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }
}

impl Region {
    /// Keeps the mapping for ever: the kernel would not let go of it.
    pub(crate) fn leak(&mut self) {
        self.len = 0;
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: this mapping was made in `new` with this length and nobody else unmaps it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
