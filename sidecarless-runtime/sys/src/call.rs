//! A system call that failed, with its name.

use std::io;

/// A system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed: {source}")]
pub struct CallError {
    /// The call, as its manual page names it.
    pub call: &'static str,
    /// The reason.
    pub source: io::Error,
}

impl CallError {
    /// What the call that has just failed left in `errno`.
    pub(crate) fn last(call: &'static str) -> Self {
        Self { call, source: io::Error::last_os_error() }
    }

    /// Names the call of an error.
    pub(crate) fn of(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { call, source }
    }

    /// Whether the call failed because what it asked about is gone (`ESRCH`), or is nobody that the caller could wait
    /// for (`ECHILD`).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ESRCH | libc::ECHILD))
    }
}
