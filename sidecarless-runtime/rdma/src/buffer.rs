//! Memory that a device writes what it reads to.

use std::fmt;
use std::io;
use std::ptr::{self, NonNull};

use crate::VerbsError;
use crate::bindings::{ACCESS_LOCAL_WRITE, ibv_mr};
use crate::domain::Domain;

/// Pinned memory of this process. It is not in its forks: a page that is pinned is copied by every fork.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    bytes: usize,
    region: NonNull<ibv_mr>,
    key: u32,
    domain: Domain,
}

// SAFETY: V4, it is plain memory that this value owns.
unsafe impl Send for Buffer {}
// SAFETY: V4, what changes it takes it exclusively.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Maps and pins so many bytes, a multiple of a page.
    pub(crate) fn new(domain: &Domain, bytes: usize) -> Result<Self, VerbsError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: V3, a new mapping.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(VerbsError::last("mmap"));
        }
        // SAFETY: V4, the mapping is this one's alone.
        let kept = unsafe { libc::madvise(start, bytes, libc::MADV_DONTFORK) };
        let library = domain.device().0.library;
        let region = if kept == 0 {
            // SAFETY: V2, V3; the mapping is there until the region is not any more.
            let region = unsafe { (library.reg_mr)(domain.as_ptr(), start, bytes, ACCESS_LOCAL_WRITE as i32) };
            NonNull::new(region).ok_or_else(|| registered(VerbsError::last("ibv_reg_mr"), bytes))
        } else {
            Err(VerbsError::last("madvise(MADV_DONTFORK)"))
        };
        let start_of = NonNull::new(start.cast());
        match (region, start_of) {
            (Ok(region), Some(start)) => {
                // SAFETY: V2.
                let key = unsafe { region.as_ref() }.lkey;
                Ok(Self { start, bytes, region, key, domain: domain.clone() })
            }
            (region, _) => {
                // SAFETY: V4, nobody knows of it.
                let _ = unsafe { libc::munmap(start, bytes) };
                Err(region.err().unwrap_or(VerbsError { call: "mmap", source: io::ErrorKind::OutOfMemory.into() }))
            }
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes
    }

    /// What the device knows it by.
    pub(crate) const fn key(&self) -> u32 {
        self.key
    }

    /// Where the device finds a byte.
    pub(crate) fn address(&self, at: usize) -> u64 {
        (self.start.as_ptr().expose_provenance() + at) as u64
    }

    /// Bytes that no read is under way into.
    ///
    /// # Safety
    /// V4 for these bytes.
    pub(crate) unsafe fn quiet(&self, at: usize, bytes: usize) -> &[u8] {
        assert!(at <= self.bytes && bytes <= self.bytes - at, "{bytes} bytes at {at} of a buffer of {}", self.bytes);
        // SAFETY: V4, inside the mapping.
        let start = unsafe { self.start.add(at) };
        // SAFETY: V4, the caller's.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) }
    }

    /// The same, to be written to.
    ///
    /// # Safety
    /// V4 for these bytes.
    pub(crate) unsafe fn quiet_mut(&mut self, at: usize, bytes: usize) -> &mut [u8] {
        assert!(at <= self.bytes && bytes <= self.bytes - at, "{bytes} bytes at {at} of a buffer of {}", self.bytes);
        // SAFETY: V4, inside the mapping.
        let start = unsafe { self.start.add(at) };
        // SAFETY: V4, the caller's.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) }
    }
}

/// Says what to do where the limit of locked memory is too low.
fn registered(error: VerbsError, bytes: usize) -> VerbsError {
    if error.source.raw_os_error() != Some(libc::ENOMEM) {
        return error;
    }
    let text = format!("{bytes} bytes are more than may be locked; raise the limit (`ulimit -l`)");
    VerbsError { source: io::Error::new(io::ErrorKind::OutOfMemory, text), ..error }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Buffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: V2, the queue pair that writes to it is gone.
        let _ = unsafe { (self.domain.device().0.library.dereg_mr)(self.region.as_ptr()) };
        // SAFETY: V4, no reference outlives this value.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
