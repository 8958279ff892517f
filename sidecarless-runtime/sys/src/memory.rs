//! The memory of another process.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use libc::{iovec, pid_t};

use crate::call::CallError;

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
        if self.read_waiting(address, into) {
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

    /// Reads ranges one after the other into one buffer, which is as long as all of them together. It does not wait for
    /// a page that comes from a userfaultfd.
    ///
    /// Whole pages are read no other way: process_vm_readv(2) pins them, and for that the kernel first makes a copy of
    /// each that a fork shares, which takes longer than the rest and is the reader's fault for ever after.
    ///
    /// # Errors
    /// `EIO` for the first range that cannot be read; then the buffer holds nothing of use.
    ///
    /// # Panics
    /// If the buffer has another length than the ranges have together.
    pub fn read_ranges(&self, ranges: &[Range], into: &mut [u8]) -> Result<(), CallError> {
        let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
        assert_eq!(bytes, into.len() as u64, "the buffer has the length of what is to be read");
        let mut rest = into;
        for range in ranges {
            let part;
            (part, rest) = rest.split_at_mut(range.bytes as usize);
            self.file.read_exact_at(part, range.start).map_err(CallError::of("read(/proc/PID/mem)"))?;
        }
        Ok(())
    }

    fn read_waiting(&self, address: u64, into: &mut [u8]) -> bool {
        let iov_base = std::ptr::without_provenance_mut(address as usize);
        let remote = iovec { iov_base, iov_len: into.len() };
        let local = iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        // SAFETY: O1, the local part is a whole buffer of ours, the kernel checks the remote one.
        let read = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, &raw const remote, 1, 0) };
        usize::try_from(read) == Ok(into.len())
    }
}
