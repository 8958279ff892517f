//! Descriptors and timers that tell of signals and of times, as far as they can be made like those of another process.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::call::CallError;

/// `TFD_IOC_SET_TICKS` (linux/timerfd.h).
const SET_TICKS: libc::c_ulong = 0x4008_5400;

/// Makes a signalfd(2) for a set of signals; bit 0 is signal 1.
///
/// # Errors
/// signalfd's.
pub fn signals(mask: u64) -> Result<OwnedFd, CallError> {
    let bytes = size_of::<u64>();
    // SAFETY: O1, the set is as long as the call is told.
    let made = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, bytes, libc::SFD_CLOEXEC) };
    match i32::try_from(made) {
        Ok(number) if number >= 0 => {
            // SAFETY: O3.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        }
        _ => Err(CallError::last("signalfd")),
    }
}

/// Says how often a timerfd has expired without anybody having read that.
///
/// # Errors
/// ioctl's: `ENOTTY` where the kernel cannot restore processes.
pub fn set_ticks(timer: impl AsFd, ticks: u64) -> Result<(), CallError> {
    // SAFETY: O1, a word is read during the call.
    match unsafe { libc::ioctl(timer.as_fd().as_raw_fd(), SET_TICKS, &raw const ticks) } {
        0 => Ok(()),
        _ => Err(CallError::last("ioctl(TFD_IOC_SET_TICKS)")),
    }
}

/// How the timers of timer_create(2) come to their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerNumbers {
    /// They can be chosen (`PR_TIMER_CREATE_RESTORE_IDS`).
    Chosen,
    /// They are counted, from 0 in a new process.
    Counted,
}

/// How timers come to their numbers here.
#[must_use]
pub fn timer_numbers() -> TimerNumbers {
    const PR_TIMER_CREATE_RESTORE_IDS: libc::c_int = 77;
    const GET: libc::c_ulong = 2;
    let none: libc::c_ulong = 0;
    // SAFETY: O1, the call takes no memory.
    match unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, GET, none, none, none) } {
        -1 => TimerNumbers::Counted,
        _ => TimerNumbers::Chosen,
    }
}
