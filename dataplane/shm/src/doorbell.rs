//! An eventfd per lane: it wakes the lane's reader, and only the lane's writer can ring or silence it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Makes the doorbell of a new lane.
///
/// # Errors
/// `eventfd`'s error.
pub fn create() -> io::Result<OwnedFd> {
    let doorbell = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    Ok(doorbell.into())
}

/// Rings. A counter at its limit is already ringing, so that is no error.
///
/// # Errors
/// `write`'s error, which means that the descriptor is no eventfd.
pub fn ring(doorbell: BorrowedFd<'_>) -> io::Result<()> {
    match nix::unistd::write(doorbell, &1u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Silences it; needed only by readers that wait level-triggered.
pub fn silence(doorbell: &impl AsFd) {
    let mut count = [0; 8];
    // An error means that it was not ringing.
    let _ = nix::unistd::read(doorbell.as_fd(), &mut count);
}
