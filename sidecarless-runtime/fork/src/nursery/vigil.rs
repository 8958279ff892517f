//! Who hears of the end of children.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The number that it had.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
    /// Whether it was for a page that was not to be had any more.
    pub is_seed_lost: bool,
}

/// Hears of the end of the children that were made with it.
#[derive(Debug)]
pub struct Vigil {
    ended: Mutex<Vec<Ended>>,
    news: OwnedFd,
}

impl Vigil {
    /// Hears of nobody yet.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new() -> io::Result<Self> {
        Ok(Self { ended: Mutex::default(), news: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Those of which it was not said before.
    #[must_use]
    pub fn take(&self) -> Vec<Ended> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing to read is as good.
        let _ = rustix::io::read(&self.news, &mut [0; 8]);
        std::mem::take(&mut *ended)
    }

    pub(super) fn hear(&self, child: Ended) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(child);
        // A counter of as many as there can be children takes one more.
        let _ = rustix::io::write(&self.news, &1_u64.to_ne_bytes());
    }
}

/// Readable when there is somebody of whom it was not said before.
impl AsFd for Vigil {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}
