//! A time when nothing is served: each thread ends what it serves and leaves its seat, so that the process can be
//! copied without them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::MutexGuard;

use ramet_dataplane::transport::skmsg;

use super::{Floor, Seat, nudge};
use crate::instance::Instance;

/// None → called → none. Whoever has left by then takes its seat again.
#[derive(Debug, Default)]
pub(super) struct Recess {
    is_called: bool,
    left: Vec<Seat>,
}

impl Recess {
    pub(super) fn is_called(&self) -> bool {
        self.is_called
    }
}

impl Instance {
    /// The thread at `seat` is about to end. Somebody in the middle of a handler may have to receive in its place.
    pub(super) fn leave(&self, mut floor: MutexGuard<'_, Floor>, seat: Seat) {
        floor.recess.left.push(seat);
        let to_wake = if floor.post.is_some() { floor.blocked.pop() } else { None };
        drop(floor);
        nudge(to_wake);
        self.ring();
    }

    /// Calls a recess. `far_end` is that of the receiving socket, where there is one.
    pub(crate) fn call_recess(&self, far_end: Option<OwnedFd>) {
        let mut floor = self.inbox.lock();
        floor.recess.is_called = true;
        floor.idle.drain(..).for_each(|idle| idle.nudge());
        if let Some(event_loop) = &floor.event_loop {
            (event_loop.work_came)();
        }
        let is_led = floor.post.is_none();
        drop(floor);
        if is_led {
            if let Some(links) = &self.links {
                links.wake();
            } else if let Some(far_end) = far_end {
                skmsg::wake(far_end.as_fd());
            }
        }
    }

    /// Whether there is a recess.
    #[cfg(feature = "async")]
    pub(crate) fn is_recess(&self) -> bool {
        self.inbox.lock().recess.is_called()
    }

    /// The event loop, which has one thread for all seats, is about to end, unless there is something to do. False: it
    /// has to go on.
    #[cfg(feature = "async")]
    pub(crate) fn may_leave(&self) -> bool {
        let floor = self.inbox.lock();
        if !floor.recess.is_called() || floor.desk.served() > 0 || !self.outbox.is_empty() {
            return false;
        }
        self.leave(floor, Seat(0));
        true
    }

    /// How many seats have been left.
    pub(crate) fn left_seats(&self) -> usize {
        self.inbox.lock().recess.left.len()
    }

    /// Ends the recess, and gives the seats that were left. Their threads have ended or are about to.
    pub(crate) fn end_recess(&self) -> Vec<Seat> {
        let mut floor = self.inbox.lock();
        floor.recess.is_called = false;
        std::mem::take(&mut floor.recess.left)
    }
}
