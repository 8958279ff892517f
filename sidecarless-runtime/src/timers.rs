//! What is to happen later, each thing once: an idle node has nothing here and sleeps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use ramet_common::{FunctionId, InstanceId, RouteId};

/// Something that is due. Whoever acts on one checks that it still matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// An instance should be ready by now.
    Start(InstanceId),
    /// An instance should have answered by now.
    Answer(InstanceId),
    /// The gateway of this epoch should have answered by now.
    GatewayAnswer(u32),
    /// A place in a function's replica set may be filled again.
    Restart(FunctionId, u32),
    /// A draining instance has had its time.
    Grace(InstanceId),
    /// A parent should be frozen by now.
    Freeze(InstanceId),
    /// It may be tried again to fork a function's instances.
    Seek(FunctionId),
    /// It is time to look at the loads of functions.
    Look,
    /// It is time to look at what threads do.
    Place,
    /// No request can run on this retired route any more.
    RouteOverdue(RouteId),
}

/// Timers by the time at which they are due.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub(crate) fn set(&mut self, due: Instant, timer: Timer) {
        self.heap.push(Reverse((due, timer)));
    }

    /// When the first one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes one that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.heap.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_come_in_the_order_of_their_time() {
        let mut timers = Timers::default();
        let now = Instant::now();
        timers.set(now + Duration::from_secs(2), Timer::Start(InstanceId(2)));
        timers.set(now + Duration::from_secs(1), Timer::Start(InstanceId(1)));
        assert_eq!(timers.take_due(now), None);
        let later = now + Duration::from_secs(3);
        assert_eq!(timers.take_due(later), Some(Timer::Start(InstanceId(1))));
        assert_eq!(timers.take_due(later), Some(Timer::Start(InstanceId(2))));
        assert_eq!(timers.next_due(), None);
    }
}
