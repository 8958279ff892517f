//! Copies of a process that has a single thread, and fixed mappings in them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, pid_t};

use crate::call::CallError;
use crate::memory::Range;

/// The knowledge that this process has one thread, so that no lock is held by another when it is copied.
#[derive(Debug)]
pub struct SingleThread(());

/// Who goes on after a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The new process.
    New,
    /// The old one, and the new one's number.
    Old(pid_t),
}

/// How a copy and its children are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// As its maker is.
    Same,
    /// In a namespace of its own, whose first process it is (pid_namespaces(7)).
    New,
}

impl SingleThread {
    /// Counts the threads.
    ///
    /// # Errors
    /// The file system's, or that there are more.
    pub fn prove() -> io::Result<Self> {
        match fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            threads => Err(io::Error::other(format!("this process has {threads} threads, and must have one"))),
        }
    }

    /// Copies the process. The new one is a child of this one's parent.
    ///
    /// # Errors
    /// clone3's.
    pub fn copy_as_sibling(&self, numbers: Numbers) -> Result<Copied, CallError> {
        let namespace = match numbers {
            Numbers::Same => 0,
            Numbers::New => libc::CLONE_NEWPID,
        };
        copy(libc::CLONE_PARENT | namespace)
    }

    /// Takes away what ends, as the first process of a namespace has to.
    pub fn reap_for_ever(&self) -> ! {
        loop {
            // SAFETY: O1, no status is asked for.
            let reaped = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) };
            if reaped == -1 {
                // There is nobody yet, or not any more: the next one's end is told by a signal.
                let child = 1_u64 << (libc::SIGCHLD - 1);
                let (none, bytes) = (std::ptr::null_mut::<u64>(), size_of::<u64>());
                // SAFETY: O1.
                let _ = unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, &raw const child, none, none, bytes) };
            }
        }
    }

    /// Blocks every signal from now on that can be blocked; copies do too.
    pub fn block_signals(&self) {
        let all = u64::MAX;
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: O1.
        let _ = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, none, 8_usize) };
    }
}

fn copy(flags: c_int) -> Result<Copied, CallError> {
    // `struct clone_args`. A sibling's end is told as its maker's is.
    let mut arguments = [0_u64; 11];
    arguments[0] = flags as u64;
    // SAFETY: O4, the only thread; with no stack given the copy goes on on its copy of this one.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    match pid {
        -1 => Err(CallError::last("clone3")),
        0 => Ok(Copied::New),
        pid => Ok(Copied::Old(pid as pid_t)),
    }
}

/// Maps a file, privately, where nothing is mapped.
///
/// # Errors
/// mmap's; `EEXIST` where something is.
pub fn map_fixed(file: impl AsFd, offset: u64, to: Range, protection: c_int) -> Result<(), CallError> {
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
    let address = std::ptr::without_provenance_mut(to.start as usize);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: O1, the mapping replaces none, so nothing that Rust knows of changes.
    let at = unsafe { libc::mmap(address, to.bytes as usize, protection, flags, fd, offset.cast_signed()) };
    if at == libc::MAP_FAILED { Err(CallError::last("mmap")) } else { Ok(()) }
}

/// Gives an open file another number, which no other open file of this process has.
///
/// # Errors
/// fcntl's.
pub fn duplicate_from(file: impl AsFd, lowest: i32) -> Result<i32, CallError> {
    // SAFETY: O1, the call takes no memory; the new descriptor is nobody's yet.
    match unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) } {
        -1 => Err(CallError::last("fcntl(F_DUPFD_CLOEXEC)")),
        fd => Ok(fd),
    }
}
