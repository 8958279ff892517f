//! Another process's page faults, answered here (userfaultfd(2), ioctl_userfaultfd(2)).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_ulong;

use crate::call::CallError;
use crate::memory::Range;
use crate::pagemap::PAGE_BYTES;

/// The faults of one address space. Reading events does not block.
#[derive(Debug)]
pub struct Userfault {
    file: File,
}

/// What happened in the address space.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for a page.
    Fault {
        /// What it touched.
        address: u64,
        /// Which thread, as the process's own namespace numbers it.
        thread: u32,
    },
    /// It was forked; the child has the same ranges and faults of its own.
    Forked(Userfault),
    /// A range has moved; what was missing in it is missing there.
    Moved {
        /// Where it was.
        from: Range,
        /// Where it begins now.
        to: u64,
    },
    /// The content of a range was given up: what is missing there is zeros now.
    Removed(Range),
    /// A range is no longer mapped.
    Unmapped(Range),
}

/// What became of putting pages somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// All are there.
    All,
    /// So many bytes are there. Events wait that may change where the rest belongs: read them first.
    Until(u64),
    /// After so many bytes there was a page already.
    Exists(u64),
    /// After so many bytes the range is not there any more, or not registered.
    NoRange(u64),
    /// The process is gone.
    Ended,
}

/// How many events one read takes.
const EVENTS_READ: usize = 16;
const EVENT_BYTES: usize = 32;

/// The last page that a process can map (x86-64, four levels of page tables).
const ADDRESS_LAST: u64 = 0x7fff_ffff_e000;

const UFFD_API: u64 = 0xaa;
const EVENT_FORK: u64 = 1 << 1;
const EVENT_REMAP: u64 = 1 << 2;
const EVENT_REMOVE: u64 = 1 << 3;
const MISSING_SHMEM: u64 = 1 << 5;
const EVENT_UNMAP: u64 = 1 << 6;
const THREAD_ID: u64 = 1 << 8;
const POISON: u64 = 1 << 14;

const UFFDIO_API: c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: c_ulong = 0xc020_aa00;
const UFFDIO_WAKE: c_ulong = 0x8010_aa02;
const UFFDIO_COPY: c_ulong = 0xc028_aa03;
const UFFDIO_ZEROPAGE: c_ulong = 0xc020_aa04;
const UFFDIO_CONTINUE: c_ulong = 0xc020_aa07;
const UFFDIO_POISON: c_ulong = 0xc020_aa08;
const REGISTER_MODE_MISSING: u64 = 1;

#[repr(C)]
struct ApiArgument {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeArgument {
    start: u64,
    bytes: u64,
}

#[repr(C)]
struct RegisterArgument {
    range: RangeArgument,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct CopyArgument {
    to: u64,
    from: u64,
    bytes: u64,
    mode: u64,
    copied: i64,
}

/// `uffdio_zeropage` and `uffdio_poison`.
#[repr(C)]
struct FillArgument {
    range: RangeArgument,
    mode: u64,
    filled: i64,
}

impl Userfault {
    /// Takes over a descriptor that the process has just made with userfaultfd(2), and asks for all events that move
    /// or end what is missing: without them a page would silently come back as zeros or as what it was.
    ///
    /// # Errors
    /// `EINVAL` where the kernel does not know these events.
    pub fn begin(fd: OwnedFd) -> Result<Self, CallError> {
        let this = Self { file: File::from(fd) };
        let features = EVENT_FORK | EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP | MISSING_SHMEM | THREAD_ID;
        // Where the kernel knows no poison, the caller finds out when it needs it.
        this.api(features | POISON).or_else(|_| this.api(features))?;
        Ok(this)
    }

    fn api(&self, features: u64) -> Result<(), CallError> {
        // The kernel writes into it, so each attempt has one of its own.
        let mut argument = ApiArgument { api: UFFD_API, features, ioctls: 0 };
        self.ioctl("ioctl(UFFDIO_API)", UFFDIO_API, &mut argument)
    }

    /// Asks for the faults on pages of a mapped range that are not there.
    ///
    /// # Errors
    /// `EINVAL` where something is mapped that cannot be served, `ENOMEM` where nothing is.
    pub fn register(&self, range: Range) -> Result<(), CallError> {
        let range = RangeArgument { start: range.start, bytes: range.bytes };
        let mut argument = RegisterArgument { range, mode: REGISTER_MODE_MISSING, ioctls: 0 };
        self.ioctl("ioctl(UFFDIO_REGISTER)", UFFDIO_REGISTER, &mut argument)
    }

    /// Puts whole pages at an address and wakes who waits for them.
    ///
    /// # Errors
    /// Those that [`Placed`] does not name.
    pub fn copy(&self, to: u64, from: &[u8]) -> Result<Placed, CallError> {
        let bytes = from.len() as u64;
        let mut argument =
            CopyArgument { to, from: from.as_ptr().expose_provenance() as u64, bytes, mode: 0, copied: 0 };
        let result = self.ioctl("ioctl(UFFDIO_COPY)", UFFDIO_COPY, &mut argument);
        placed(result, argument.copied)
    }

    /// Puts zeros into a range and wakes who waits for them.
    ///
    /// # Errors
    /// Those that [`Placed`] does not name.
    pub fn zero(&self, range: Range) -> Result<Placed, CallError> {
        self.fill("ioctl(UFFDIO_ZEROPAGE)", UFFDIO_ZEROPAGE, range)
    }

    /// Makes whoever touches the range get `SIGBUS`: its pages are lost.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6, and those that [`Placed`] does not name.
    pub fn poison(&self, range: Range) -> Result<Placed, CallError> {
        self.fill("ioctl(UFFDIO_POISON)", UFFDIO_POISON, range)
    }

    /// Wakes who waits for a page of the range, which is there by now.
    ///
    /// # Errors
    /// ioctl's.
    pub fn wake(&self, range: Range) -> Result<(), CallError> {
        let mut argument = RangeArgument { start: range.start, bytes: range.bytes };
        self.ioctl("ioctl(UFFDIO_WAKE)", UFFDIO_WAKE, &mut argument)
    }

    /// Whether the address space is no more. Nothing else tells of its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.probe(ADDRESS_LAST) == libc::ESRCH
    }

    /// Whether something that was done to the address space has not been told yet, or not gone on since it was.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.probe(ADDRESS_LAST) == libc::EAGAIN
    }

    /// Whether a page of memory of the process's own is mapped and registered. It may be while the space is changing.
    #[must_use]
    pub fn is_registered(&self, page: u64) -> bool {
        self.probe(page) != libc::ENOENT
    }

    /// Asks for a page that is in a file's cache already, which changes nothing: the process's own memory is in none,
    /// and beyond it there is nothing. How that failed says how things are.
    fn probe(&self, page: u64) -> i32 {
        let range = RangeArgument { start: page, bytes: PAGE_BYTES };
        let mut argument = FillArgument { range, mode: 0, filled: 0 };
        let result = self.ioctl("ioctl(UFFDIO_CONTINUE)", UFFDIO_CONTINUE, &mut argument);
        result.map_or_else(|error| error.source.raw_os_error().unwrap_or(0), |()| 0)
    }

    /// The same faults once more, for who is to keep them from becoming zeros when this is closed.
    ///
    /// # Errors
    /// The operating system's: there are too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// Takes over faults that somebody else has begun with.
    #[must_use]
    pub fn adopt(fd: OwnedFd) -> Self {
        Self { file: File::from(fd) }
    }

    /// Appends all events that have come. False: there were none.
    ///
    /// # Errors
    /// `read`'s.
    pub fn events(&self, into: &mut Vec<Event>) -> Result<bool, CallError> {
        let mut bytes = [0_u8; EVENTS_READ * EVENT_BYTES];
        let before = into.len();
        loop {
            match (&self.file).read(&mut bytes) {
                Ok(read) => {
                    into.extend(bytes[..read].chunks_exact(EVENT_BYTES).filter_map(event));
                    // There were no more, then.
                    if read < bytes.len() {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(into.len() > before),
                Err(error) => return Err(CallError { call: "read(userfaultfd)", source: error }),
            }
        }
    }

    fn fill(&self, call: &'static str, request: c_ulong, range: Range) -> Result<Placed, CallError> {
        let range = RangeArgument { start: range.start, bytes: range.bytes };
        let mut argument = FillArgument { range, mode: 0, filled: 0 };
        let result = self.ioctl(call, request, &mut argument);
        placed(result, argument.filled)
    }

    fn ioctl<T>(&self, call: &'static str, request: c_ulong, argument: &mut T) -> Result<(), CallError> {
        // SAFETY: O1, each request is given the structure that it is defined for; what that points to lives as long.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if result == -1 { Err(CallError::last(call)) } else { Ok(()) }
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `done` is the number of bytes, or a negative error number if there were none.
fn placed(result: Result<(), CallError>, done: i64) -> Result<Placed, CallError> {
    let Err(error) = result else { return Ok(Placed::All) };
    let bytes = u64::try_from(done).unwrap_or(0);
    match error.source.raw_os_error() {
        Some(libc::EAGAIN) => Ok(Placed::Until(bytes)),
        Some(libc::EEXIST) => Ok(Placed::Exists(bytes)),
        Some(libc::ENOENT) => Ok(Placed::NoRange(bytes)),
        Some(libc::ESRCH) => Ok(Placed::Ended),
        _ => Err(error),
    }
}

/// Reads one `struct uffd_msg`. `None`: an event that was not asked for.
fn event(message: &[u8]) -> Option<Event> {
    const FAULT: u8 = 0x12;
    const FORK: u8 = 0x13;
    const REMAP: u8 = 0x14;
    const REMOVE: u8 = 0x15;
    const UNMAP: u8 = 0x16;
    let word = |at: usize| message.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    Some(match *message.first()? {
        FAULT => Event::Fault { address: word(16)?, thread: (word(24)? & 0xffff_ffff) as u32 },
        FORK => {
            let fd = i32::try_from(word(8)? & 0xffff_ffff).ok()?;
            // SAFETY: O3, the kernel has just made this descriptor for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Event::Forked(Userfault { file: File::from(fd) })
        }
        REMAP => Event::Moved { from: Range { start: word(8)?, bytes: word(24)? }, to: word(16)? },
        REMOVE => Event::Removed(Range::new(word(8)?, word(16)?)),
        UNMAP => Event::Unmapped(Range::new(word(8)?, word(16)?)),
        _ => return None,
    })
}
