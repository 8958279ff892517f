//! The memory of another process.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use libc::{iovec, pid_t};

use crate::call::CallError;

/// How many ranges one call takes (`IOV_MAX`).
pub const RANGES_MAX: usize = 1024;

/// A range of addresses of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// Its first byte.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
}

impl Range {
    /// The range from `start` up to, not with, `end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, bytes: end.saturating_sub(start) }
    }

    /// The first byte after it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.bytes
    }

    /// Whether an address is in it.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end()
    }
}

/// The memory of a process that the caller may trace.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: pid_t,
    file: File,
}

impl ProcessMemory {
    /// Opens the memory of a process.
    ///
    /// # Errors
    /// `open`'s: `EACCES` without the right to trace it.
    pub fn open(pid: i32) -> Result<Self, CallError> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"));
        Ok(Self { pid, file: file.map_err(CallError::of("open(/proc/PID/mem)"))? })
    }

    /// Reads bytes, also where the process itself may not. It waits for a page that comes from a userfaultfd.
    ///
    /// # Errors
    /// `EIO` where nothing is mapped, or where a mapped file has no bytes.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), CallError> {
        // The other way does not wait, and reads where the process may not.
        if self.read_fast(&[Range { start: address, bytes: into.len() as u64 }], into) {
            return Ok(());
        }
        self.file.read_exact_at(into, address).map_err(CallError::of("read(/proc/PID/mem)"))
    }

    /// Writes bytes, also where the process itself may not.
    ///
    /// # Errors
    /// `EIO` where nothing is mapped.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), CallError> {
        self.file.write_all_at(from, address).map_err(CallError::of("write(/proc/PID/mem)"))
    }

    /// Reads ranges one after the other into one buffer, which is as long as all of them together.
    ///
    /// # Errors
    /// The kernel's for the first range that cannot be read; then the buffer holds nothing of use.
    ///
    /// # Panics
    /// If the buffer has another length than the ranges have together.
    pub fn read_ranges(&self, ranges: &[Range], into: &mut [u8]) -> Result<(), CallError> {
        let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
        assert_eq!(bytes, into.len() as u64, "the buffer has the length of what is to be read");
        let mut done = 0;
        for some in ranges.chunks(RANGES_MAX) {
            let bytes: u64 = some.iter().map(|range| range.bytes).sum();
            let part = &mut into[done..done + bytes as usize];
            // The fast way does not read what the process may not read itself.
            if !self.read_fast(some, part) {
                self.read_each(some, part)?;
            }
            done += part.len();
        }
        Ok(())
    }

    fn read_fast(&self, ranges: &[Range], into: &mut [u8]) -> bool {
        let mut remote = [const { iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; RANGES_MAX];
        for (part, range) in remote.iter_mut().zip(ranges) {
            let iov_base = std::ptr::without_provenance_mut(range.start as usize);
            *part = iovec { iov_base, iov_len: range.bytes as usize };
        }
        let local = iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let count = ranges.len() as u64;
        // SAFETY: O1, the local part is a whole buffer of ours, the kernel checks the remote ones.
        let read = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, remote.as_ptr(), count, 0) };
        usize::try_from(read) == Ok(into.len())
    }

    fn read_each(&self, ranges: &[Range], mut into: &mut [u8]) -> Result<(), CallError> {
        for range in ranges {
            let (part, rest) = into.split_at_mut(range.bytes as usize);
            self.file.read_exact_at(part, range.start).map_err(CallError::of("read(/proc/PID/mem)"))?;
            into = rest;
        }
        Ok(())
    }
}
