//! Single threads and processes that are not our children.

use std::fs;

use libc::{SYS_get_robust_list, SYS_kcmp, SYS_sched_getattr, pid_t};

use crate::call::CallError;

/// Where a thread's list of robust mutexes begins, and how long its head is. `None`: the caller may not know.
#[must_use]
pub fn robust_list(tid: i32) -> Option<(u64, u64)> {
    let (mut head, mut bytes) = (0_u64, 0_u64);
    // SAFETY: O1, both are written during the call.
    let result = unsafe { libc::syscall(SYS_get_robust_list, tid, &raw mut head, &raw mut bytes) };
    (result == 0).then_some((head, bytes))
}

/// A thread's name, and the core that it ran on last, which a set of cores has room for. `None`: it has ended, or
/// nobody may know.
#[must_use]
pub fn name_and_core(tid: i32) -> Option<(String, usize)> {
    of_stat(&fs::read(format!("/proc/{tid}/stat")).ok()?)
}

/// From the text of `/proc/PID/stat` (proc_pid_stat(5)): the second field, in parentheses, which may have any character
/// in it, and the 39th.
fn of_stat(text: &[u8]) -> Option<(String, usize)> {
    const FIELDS_AFTER_NAME: usize = 36;
    let text = String::from_utf8_lossy(text);
    let (name, fields) = text.split_once('(')?.1.rsplit_once(')')?;
    let core = fields.split_ascii_whitespace().nth(FIELDS_AFTER_NAME)?.parse().ok()?;
    (core < libc::CPU_SETSIZE as usize).then(|| (name.to_owned(), core))
}

/// When a thread may run (`struct sched_attr` of sched_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scheduling {
    /// The length of this.
    pub size: u32,
    /// `SCHED_…`
    pub policy: u32,
    /// `SCHED_FLAG_…`
    pub flags: u64,
    /// How much it yields to others.
    pub nice: i32,
    /// Its priority in real time.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds: how long it runs, until when, and how often.
    pub deadline_ns: [u64; 3],
}

/// When a thread may run.
///
/// # Errors
/// sched_getattr's.
pub fn scheduling(tid: pid_t) -> Result<Scheduling, CallError> {
    let mut scheduling = Scheduling::default();
    let bytes = size_of::<Scheduling>();
    // SAFETY: O1, it is written during the call.
    match unsafe { libc::syscall(SYS_sched_getattr, tid, &raw mut scheduling, bytes, 0) } {
        0 => Ok(scheduling),
        _ => Err(CallError::last("sched_getattr")),
    }
}

/// Whether two descriptors of a process are of one open file: they share its position (kcmp(2)).
///
/// # Errors
/// kcmp's: `ENOSYS` where the kernel was built without it.
pub fn is_same_file(pid: pid_t, one: i32, other: i32) -> Result<bool, CallError> {
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: O1, the call takes no memory.
    match unsafe { libc::syscall(SYS_kcmp, pid, pid, KCMP_FILE, i64::from(one), i64::from(other)) } {
        -1 => Err(CallError::last("kcmp")),
        order => Ok(order == 0),
    }
}

/// Something that an epoll(7) watches (`struct kcmp_epoll_slot`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EpollSlot {
    /// The epoll's descriptor.
    pub epoll: u32,
    /// The number that the file had when it was added.
    pub number: u32,
    /// Which one of those with this number, in the kernel's order.
    pub nth: u32,
}

/// Whether a descriptor of a process is of the open file that an epoll of it watches (kcmp(2)).
///
/// # Errors
/// kcmp's: `EBADF` where there is no such descriptor, `ENOSYS` where the kernel was built without it.
pub fn is_watched(pid: pid_t, slot: EpollSlot, fd: i32) -> Result<bool, CallError> {
    const KCMP_EPOLL_TFD: libc::c_int = 7;
    // SAFETY: O1, the slot is read during the call.
    match unsafe { libc::syscall(SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, i64::from(fd), &raw const slot) } {
        -1 => Err(CallError::last("kcmp")),
        order => Ok(order == 0),
    }
}

/// Kills a process that the caller traces, so that its number cannot have come to mean another one.
pub fn kill(pid: pid_t) {
    // SAFETY: O1, the call takes no memory.
    let _ = unsafe { libc::kill(pid, libc::SIGKILL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_any_character() {
        let text =
            b"7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 \
                     34 35 1 41 42\n";
        assert_eq!(of_stat(text), Some(("a) b".to_owned(), 1)));
        assert_eq!(of_stat(b"7 (a"), None);
    }
}
