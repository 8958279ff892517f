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
        if self.read_now([Range { start: address, bytes: into.len() as u64 }], into) {
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

    /// Gives the process a copy of its own of each of these pages that it shares with others since a fork, by writing
    /// to them what is there. It must not run meanwhile.
    ///
    /// # Errors
    /// The calls': `EFAULT` for the first that is not there.
    pub fn unshare(&self, pages: &[u64]) -> Result<(), CallError> {
        for pages in pages.chunks(libc::UIO_MAXIOV as usize) {
            let mut bytes = vec![0_u8; pages.len()];
            let local = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let byte_of = |page: &u64| iovec { iov_base: std::ptr::without_provenance_mut(*page as usize), iov_len: 1 };
            let remote: Vec<iovec> = pages.iter().map(byte_of).collect();
            let (parts, count) = (remote.as_ptr(), remote.len() as libc::c_ulong);
            // SAFETY: O1, the local part is a whole buffer of ours, the kernel checks the remote ones.
            let read = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, parts, count, 0) };
            if usize::try_from(read) != Ok(pages.len()) {
                return Err(CallError::last("process_vm_readv"));
            }
            // SAFETY: O1, as before.
            let written = unsafe { libc::process_vm_writev(self.pid, &raw const local, 1, parts, count, 0) };
            if usize::try_from(written) != Ok(pages.len()) {
                return Err(CallError::last("process_vm_writev"));
            }
        }
        Ok(())
    }

    /// Reads ranges one after the other, as [`ProcessMemory::read_ranges`] does, but from the memory that the process
    /// has now: by execve(2) that may be another one than was opened. Says whether it could.
    ///
    /// # Panics
    /// If the buffer has another length than the ranges have together.
    pub fn read_now<const N: usize>(&self, ranges: [Range; N], into: &mut [u8]) -> bool {
        let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
        assert_eq!(bytes, into.len() as u64, "the buffer has the length of what is to be read");
        let remote = ranges.map(|range| iovec {
            iov_base: std::ptr::without_provenance_mut(range.start as usize),
            iov_len: range.bytes as usize,
        });
        let local = iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let (parts, count) = (remote.as_ptr(), N as libc::c_ulong);
        // SAFETY: O1, the local part is a whole buffer of ours, the kernel checks the remote ones.
        let read = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, parts, count, 0) };
        usize::try_from(read) == Ok(into.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pagemap::{PAGE_BYTES, Pagemap};

    /// A fork of this process, which does nothing. It ends when it is dropped.
    struct Fork(pid_t);

    impl Fork {
        fn new() -> Self {
            // SAFETY: C1, the child only makes system calls.
            match unsafe { libc::fork() } {
                -1 => panic!("fork: {}", std::io::Error::last_os_error()),
                0 => loop {
                    // SAFETY: O1, the call takes nothing.
                    unsafe { libc::pause() };
                },
                pid => Self(pid),
            }
        }
    }

    impl Drop for Fork {
        fn drop(&mut self) {
            // SAFETY: O1, our own child.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
            // SAFETY: O1, no status is asked for.
            unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
        }
    }

    #[test]
    fn pages_become_a_fork_s_own_and_stay_what_they_were() {
        const PAGES: u64 = 8;
        let bytes: Vec<u8> = (0..(PAGES + 1) * PAGE_BYTES).map(|at| (at / 7) as u8).collect();
        let start = (bytes.as_ptr().expose_provenance() as u64).next_multiple_of(PAGE_BYTES);
        let page = |number: u64| start + number * PAGE_BYTES;
        let range = Range { start, bytes: PAGES * PAGE_BYTES };
        let fork = Fork::new();
        let pagemap = Pagemap::open(fork.0).expect("its page tables");
        let own = || pagemap.unshared_pages(&[range]).expect("the table");
        assert_eq!(own(), [], "a fork shares all");
        let memory = ProcessMemory::open(fork.0).expect("its memory");
        memory.unshare(&[page(2), page(3), page(6)]).expect("copies");
        let expected = [Range { start: page(2), bytes: 2 * PAGE_BYTES }, Range { start: page(6), bytes: PAGE_BYTES }];
        assert_eq!(own(), expected);
        let mut found = vec![0; range.bytes as usize];
        memory.read_ranges(&[range], &mut found).expect("its bytes");
        let first = (start - bytes.as_ptr().expose_provenance() as u64) as usize;
        assert!(found == bytes[first..][..found.len()], "they changed");
        assert!(memory.unshare(&[0]).is_err(), "there is nothing");
    }
}
