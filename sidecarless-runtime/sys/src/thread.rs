//! Single threads and processes that are not our children.

use libc::{SYS_get_robust_list, pid_t};

/// Where a thread's list of robust mutexes begins, and how long its head is. `None`: the caller may not know.
#[must_use]
pub fn robust_list(tid: i32) -> Option<(u64, u64)> {
    let (mut head, mut bytes) = (0_u64, 0_u64);
    // SAFETY: O1, both are written during the call.
    let result = unsafe { libc::syscall(SYS_get_robust_list, tid, &raw mut head, &raw mut bytes) };
    (result == 0).then_some((head, bytes))
}

/// Kills a process that the caller traces, so that its number cannot have come to mean another one.
pub fn kill(pid: pid_t) {
    // SAFETY: O1, the call takes no memory.
    let _ = unsafe { libc::kill(pid, libc::SIGKILL) };
}
