//! A descriptor for a process: unlike a number it never comes to name another one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, pidfd_send_signal,
    waitid,
};

/// A child process that leads a session of its own. Readable once it has ended.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
    pid: Pid,
}

/// A request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `SIGTERM`: please.
    Ask,
    /// `SIGKILL`: now.
    Kill,
}

impl Pidfd {
    /// The descriptor of a child that has not been reaped, so that the number still names it.
    ///
    /// # Errors
    /// `pidfd_open`'s error.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::INVAL)?;
        Ok(Self { fd: pidfd_open(pid, PidfdFlags::empty())?, pid })
    }

    /// Its number, which is its own until it is reaped.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Asks or makes the process end. One that has ended already is no error.
    ///
    /// # Errors
    /// `pidfd_send_signal`'s error.
    pub fn signal(&self, end: End) -> io::Result<()> {
        let signal = match end {
            End::Ask => Signal::TERM,
            End::Kill => Signal::KILL,
        };
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the end, kills what is left of the process's group, and reaps the process. Works once.
    ///
    /// # Errors
    /// `waitid`'s error; `ECHILD` when it was reaped before.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        // Not reaped yet, the number still names this process and its group.
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let _ = kill_process_group(self.pid, Signal::KILL);
        match self.status(WaitIdOptions::EXITED)? {
            Some(status) => Ok(status),
            None => Err(Errno::CHILD.into()),
        }
    }

    /// Whether the process has ended; it is not reaped.
    ///
    /// # Errors
    /// `waitid`'s error; `ECHILD` when it was reaped before.
    pub fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(self.status(options)?.is_some())
    }

    fn status(&self, options: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
        loop {
            match waitid(WaitId::PidFd(self.fd.as_fd()), options) {
                Ok(status) => return Ok(status.map(|status| exit_status(&status))),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The status in the form of wait(2), which the standard library prints.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    const CORE_DUMPED: i32 = 0x80;
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) if status.dumped() => signal | CORE_DUMPED,
        (None, Some(signal)) => signal,
        (None, None) => 0,
    };
    ExitStatus::from_raw(raw)
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
