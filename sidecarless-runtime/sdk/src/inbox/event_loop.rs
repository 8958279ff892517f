//! The inbox as an event loop sees it: nothing here blocks.

use std::os::fd::{AsFd, BorrowedFd};

use ramet_common::PacketDescriptor;
use ramet_dataplane::{Wait, clock};

use super::{EventLoop, Inbox, Seat};
use crate::instance::Instance;

/// How the event loop is woken.
pub(crate) struct Hooks {
    /// There is a new time to watch.
    pub(crate) time_changed: Box<dyn Fn() + Send>,
    /// Another task has received messages, or the data plane is closed.
    pub(crate) work_came: Box<dyn Fn() + Send>,
}

impl Inbox {
    /// From now on an event loop serves.
    pub(crate) fn hook(&self, hooks: Hooks) {
        let Hooks { time_changed, work_came } = hooks;
        self.lock().event_loop = Some(EventLoop { alarms: Vec::new(), time_changed, work_came });
    }

    /// Readable when something has come, after [`Instance::arm`].
    pub(crate) fn arrivals(&self) -> BorrowedFd<'_> {
        self.arrivals.as_fd()
    }

    /// The first time to wake somebody at.
    pub(crate) fn first_alarm(&self) -> Option<u64> {
        let floor = self.lock();
        let alarms =
            floor.event_loop.iter().flat_map(|event_loop| event_loop.alarms.iter().map(|(time_ns, _)| *time_ns));
        alarms.chain(floor.desk.first_deadline()).min()
    }

    /// Wakes those whose time has come.
    pub(crate) fn ring_alarms(&self) {
        let now_ns = clock::now_ns();
        let mut floor = self.lock();
        floor.desk.wake_expired(now_ns);
        if let Some(event_loop) = &mut floor.event_loop {
            for (_, waker) in event_loop.alarms.extract_if(.., |(time_ns, _)| *time_ns <= now_ns) {
                waker.wake();
            }
        }
    }
}

impl Instance {
    /// Takes what has come. True: there may be more.
    pub(crate) fn take_arrivals(&self) -> bool {
        let mut floor = self.inbox.lock();
        let Some(post) = floor.post.take() else { return false };
        let before = floor.turns;
        drop(floor);
        self.receive(post, Wait::No).turns != before
    }

    /// Asks to be woken by the next arrival. False: something is there already.
    pub(crate) fn arm(&self) -> bool {
        let mut floor = self.inbox.lock();
        let armed = floor.post.as_mut().map(|post| post.receiver.arm());
        // An error shows again at the next receive, which reports it.
        matches!(armed, Some(Ok(true)))
    }

    /// The next message, if there is one and a seat for it.
    pub(crate) fn begin(&self) -> Option<(Seat, PacketDescriptor)> {
        let mut floor = self.inbox.lock();
        if floor.recess.is_called() {
            return None;
        }
        let seat = floor.desk.free_seat()?;
        Some((seat, floor.desk.next(seat)?))
    }

    /// The message at `seat` has left.
    pub(crate) fn finish(&self, seat: Seat) {
        let mut floor = self.inbox.lock();
        floor.desk.finish(seat);
        floor.turns += 1;
    }
}
