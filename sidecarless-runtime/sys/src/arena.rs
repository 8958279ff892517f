//! Memory of this process whose pages somebody in it puts there when they are touched: what a fault costs at least is
//! measured with it.

use std::ffi::c_void;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::call::CallError;
use crate::memory::Range;
use crate::pagemap::PAGE_BYTES;
use crate::userfault::Userfault;

/// Pages that are missing until they are put there. Whoever touches one waits for it.
#[derive(Debug)]
pub struct Arena {
    range: Range,
}

impl Arena {
    /// So many pages, and their faults.
    ///
    /// # Errors
    /// The operating system's; `EPERM` for who may not serve faults of system calls.
    pub fn new(pages: usize) -> Result<(Self, Userfault), CallError> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: O1, the call takes no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd == -1 {
            return Err(CallError::last("userfaultfd"));
        }
        // SAFETY: O3.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let userfault = Userfault::begin(fd)?;
        let bytes = pages * PAGE_BYTES as usize;
        let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: O1, the mapping replaces none.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(CallError::last("mmap"));
        }
        let range = Range { start: at.expose_provenance() as u64, bytes: bytes as u64 };
        let arena = Self { range };
        userfault.register(range)?;
        Ok((arena, userfault))
    }

    /// Where it is.
    #[must_use]
    pub const fn range(&self) -> Range {
        self.range
    }

    /// Touches a page, and gives its first byte once it is there.
    ///
    /// # Panics
    /// If there is no such page.
    #[must_use]
    pub fn touch(&self, page: u64) -> u8 {
        let at = self.range.start + page * PAGE_BYTES;
        assert!(self.range.contains(at), "page {page} of an arena");
        let place = std::ptr::with_exposed_provenance::<u8>(at as usize);
        // SAFETY: M1.
        unsafe { place.read_volatile() }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let at = std::ptr::with_exposed_provenance_mut::<c_void>(self.range.start as usize);
        // SAFETY: M1, nothing borrows from it.
        let _ = unsafe { libc::munmap(at, self.range.bytes as usize) };
    }
}
