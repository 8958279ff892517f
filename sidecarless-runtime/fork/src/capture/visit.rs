//! System calls made in a seed that is described already: what was there stays as it was.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use libc::{SYS_close, SYS_mmap, SYS_munmap, SYS_recvmsg, SYS_socketpair};
use ramet_sys::pagemap::PAGE_BYTES;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::inject::Injection;
use super::{PrepareError, Seed};

/// A seed that does system calls for its keeper. It has a page more than it is described with, for their arguments;
/// both are over when this is dropped.
pub(crate) struct Visit<'s> {
    seed: &'s Seed,
    injection: Option<Injection<'s>>,
    page: u64,
}

impl Seed {
    /// Lets the seed do system calls.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn visit(&self) -> Result<Visit<'_>, PrepareError> {
        let registers = self.tracee.registers()?;
        let injection = Injection::begin(&self.tracee, registers, self.instruction)?;
        let mut visit = Visit { seed: self, injection: Some(injection), page: 0 };
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        visit.page = visit.call("mmap", SYS_mmap, [0, PAGE_BYTES, protection, flags, u64::MAX, 0])?;
        Ok(visit)
    }
}

impl Visit<'_> {
    /// Makes one system call.
    ///
    /// # Errors
    /// Its own, or that the seed is gone.
    pub(crate) fn call(
        &self,
        call: &'static str,
        number: libc::c_long,
        arguments: [u64; 6],
    ) -> Result<u64, PrepareError> {
        let pid = self.seed.pid();
        let Some(injection) = &self.injection else { return Err(PrepareError::NoProcess(pid)) };
        match injection.call(number, arguments)? {
            error @ -4095..0 => {
                let source = io::Error::from_raw_os_error(-error as i32);
                Err(PrepareError::Injected { pid, call, source })
            }
            result => Ok(result.cast_unsigned()),
        }
    }

    /// Where the page for arguments is.
    pub(crate) const fn page(&self) -> u64 {
        self.page
    }

    /// Lays bytes into the page.
    ///
    /// # Errors
    /// The seed is gone.
    ///
    /// # Panics
    /// If there is no room for them.
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) -> Result<(), PrepareError> {
        assert!(at + bytes.len() as u64 <= PAGE_BYTES, "{} bytes at {at} of a page", bytes.len());
        Ok(self.seed.memory().write(self.page + at, bytes)?)
    }

    /// Takes bytes out of the page.
    ///
    /// # Errors
    /// The seed is gone.
    ///
    /// # Panics
    /// If they are not all in it.
    pub(crate) fn get(&self, at: u64, bytes: &mut [u8]) -> Result<(), PrepareError> {
        assert!(at + bytes.len() as u64 <= PAGE_BYTES, "{} bytes at {at} of a page", bytes.len());
        Ok(self.seed.memory().read(self.page + at, bytes)?)
    }

    /// Gives the seed an open file of ours, and says which number it has there. A socket of its own is what needs no
    /// right of it over anybody.
    ///
    /// # Errors
    /// The calls' errors.
    pub(crate) fn give(&self, file: BorrowedFd<'_>) -> Result<u64, PrepareError> {
        let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64;
        self.call("socketpair", SYS_socketpair, [libc::AF_UNIX as u64, kind, 0, self.page, 0, 0])?;
        let mut pair = [0; 8];
        self.get(0, &mut pair)?;
        let number = |at: usize| pair[at..at + 4].try_into().map_or(-1, i32::from_ne_bytes);
        let (ours, theirs) = (number(0), number(4));
        let received = self.send(ours, file).and_then(|()| self.receive(theirs));
        for socket in [ours, theirs] {
            self.call("close", SYS_close, [socket as u64, 0, 0, 0, 0, 0])?;
        }
        received
    }

    fn send(&self, socket: i32, file: BorrowedFd<'_>) -> Result<(), PrepareError> {
        let failed = |call| {
            let pid = self.seed.pid();
            move |errno: rustix::io::Errno| PrepareError::Injected { pid, call, source: errno.into() }
        };
        let seed = Pid::from_raw(self.seed.pid()).ok_or(PrepareError::NoProcess(self.seed.pid()))?;
        let seed = pidfd_open(seed, PidfdFlags::empty()).map_err(failed("pidfd_open"))?;
        let socket: OwnedFd = pidfd_getfd(&seed, socket, PidfdGetfdFlags::empty()).map_err(failed("pidfd_getfd"))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        let files = [file];
        message.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&socket, &[IoSlice::new(&[0])], &mut message, SendFlags::DONTWAIT).map_err(failed("sendmsg"))?;
        Ok(())
    }

    fn receive(&self, socket: i32) -> Result<u64, PrepareError> {
        // `struct msghdr`, then the one part of the data, then room for the file's message, then the data.
        const PART_AT: u64 = 64;
        const MESSAGE_AT: u64 = 96;
        const MESSAGE_BYTES: u64 = 24;
        const DATA_AT: u64 = 128;
        let words = [0, 0, self.page + PART_AT, 1, self.page + MESSAGE_AT, MESSAGE_BYTES, 0];
        self.put(0, words.map(u64::to_ne_bytes).as_flattened())?;
        self.put(PART_AT, [self.page + DATA_AT, 1].map(u64::to_ne_bytes).as_flattened())?;
        let flags = (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as u64;
        self.call("recvmsg", SYS_recvmsg, [socket as u64, self.page, flags, 0, 0, 0])?;
        let mut message = [0; MESSAGE_BYTES as usize];
        self.get(MESSAGE_AT, &mut message)?;
        let word = |at: usize| message[at..at + 4].try_into().map_or(-1, i32::from_ne_bytes);
        // Its length, its level and what it is, then the file.
        if (word(8), word(12)) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) || word(16) < 0 {
            let source = io::Error::from(io::ErrorKind::InvalidData);
            return Err(PrepareError::Injected { pid: self.seed.pid(), call: "recvmsg", source });
        }
        Ok(word(16) as u64)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.page != 0 {
            // Of a seed that is gone nothing is left.
            let _ = self.call("munmap", SYS_munmap, [self.page, PAGE_BYTES, 0, 0, 0, 0]);
        }
        if let Some(injection) = self.injection.take() {
            let _ = injection.end();
        }
    }
}
