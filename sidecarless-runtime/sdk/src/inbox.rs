//! Which thread receives and which one works.
//!
//! One thread at a time leads: it holds the receiver, takes what has come, serves one message itself and leaves the
//! rest in the queue. Another thread is woken only if the work in sight is worth the price of a wake-up, so that at low
//! load a message is received, served and sent on by one thread. A thread that waits for a descriptor in the middle of
//! a handler leads if nobody does, and otherwise sleeps until it is given what it waits for.
//!
//! Whoever puts the receiver down calls [`Floor::hand_on`], and whoever waits looks under the lock first, so the
//! receiver never lies there while a thread sleeps on it. A handler that is unexpectedly slow is noticed by the control
//! thread ([`Instance::watch`]), which then wakes another one.

mod desk;
#[cfg(feature = "async")]
mod event_loop;
mod pace;
mod recess;
mod ticket;

pub(crate) use desk::{Expects, Seat, WaitError};
#[cfg(feature = "async")]
pub(crate) use event_loop::Hooks;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use ramet_common::{BATCH_MAX, InstanceId, PacketDescriptor};
use ramet_dataplane::message::Envelope;
use ramet_dataplane::{ReceiveError, Receiver, Wait, clock};

use crate::instance::Instance;
use crate::outbox::Parcel;
use crate::wait::{Parker, block_on, here};
use desk::Desk;
use pace::Pace;
use recess::Recess;

/// How many ticks without any event put the watch to sleep.
const QUIET_TICKS_MAX: u32 = 100;

/// The receiver, on the desk or in the leader's hands.
struct Post {
    receiver: Box<dyn Receiver>,
    batch: Vec<PacketDescriptor>,
}

/// Everything that threads share in order to divide the work.
struct Floor {
    desk: Desk,
    /// `None` while a thread leads.
    post: Option<Post>,
    /// Threads without work.
    idle: Vec<Arc<Parker>>,
    /// Threads that wait for a descriptor in the middle of a handler while another one leads.
    blocked: Vec<Arc<Parker>>,
    pace: Pace,
    /// Counts whatever happens.
    turns: u64,
    watch: Watch,
    recess: Recess,
    /// Where an event loop serves instead of threads.
    event_loop: Option<EventLoop>,
}

#[derive(Default)]
struct Watch {
    asleep: bool,
    seen_turns: u64,
    quiet_ticks: u32,
    drained_turns: Option<u64>,
}

/// What an event loop has to be told. Blocking threads watch the time and the queue themselves.
struct EventLoop {
    alarms: Vec<(u64, Waker)>,
    time_changed: Box<dyn Fn() + Send>,
    work_came: Box<dyn Fn() + Send>,
}

/// Whether the control thread should look again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rhythm {
    /// Soon.
    Tick,
    /// When it is rung.
    Sleep,
}

/// The incoming side of an instance.
pub(crate) struct Inbox {
    floor: Mutex<Floor>,
    /// The receiver's descriptor, to look at while a thread leads.
    arrivals: OwnedFd,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    /// With `seats` places to serve messages at.
    pub(crate) fn new(receiver: Box<dyn Receiver>, seats: usize) -> std::io::Result<Self> {
        let arrivals = receiver.as_fd().try_clone_to_owned()?;
        let floor = Floor {
            desk: Desk::new(seats),
            post: Some(Post { receiver, batch: Vec::with_capacity(2 * BATCH_MAX) }),
            idle: Vec::with_capacity(seats),
            blocked: Vec::with_capacity(seats),
            pace: Pace::unknown(),
            turns: 0,
            watch: Watch::default(),
            recess: Recess::default(),
            event_loop: None,
        };
        Ok(Self { floor: Mutex::new(floor), arrivals })
    }

    /// Whether nobody waits any more for what is served at `seat`.
    pub(crate) fn is_cancelled(&self, seat: Seat) -> bool {
        self.lock().desk.is_cancelled(seat)
    }

    /// Wakes `waker` at a time, where an event loop keeps the time.
    pub(crate) fn set_alarm(&self, time_ns: u64, waker: &Waker) {
        if let Some(event_loop) = &mut self.lock().event_loop {
            event_loop.alarms.push((time_ns, waker.clone()));
            (event_loop.time_changed)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Floor> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Floor {
    /// The calling thread goes to do something else: who has to take over, if anybody.
    fn hand_on(&mut self) -> Option<Arc<Parker>> {
        if self.post.is_some()
            && let Some(blocked) = self.blocked.pop()
        {
            return Some(blocked);
        }
        let queued = self.desk.queued();
        let is_needed = (queued > 0 || self.post.is_some()) && self.pace.is_worth_waking(queued + 1);
        if is_needed { self.idle.pop() } else { None }
    }

    fn close(&mut self) {
        self.desk.close();
        self.idle.drain(..).for_each(|idle| idle.nudge());
        if let Some(event_loop) = &self.event_loop {
            (event_loop.work_came)();
        }
    }
}

/// A message that a thread has served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) took: Duration,
    pub(crate) end: Instant,
}

impl Instance {
    /// Blocks until there is a message for `seat`, where `last` was the one before; also says since when it is served.
    /// `None`: there will be no more, or none for this thread, because there is a recess.
    pub(crate) fn next(&self, seat: Seat, last: Option<Served>) -> Option<(PacketDescriptor, Instant)> {
        let here = here();
        let mut floor = self.inbox.lock();
        // Asking for the time is not for nothing, so it is only asked again after a wait.
        let mut now = last.map(|served| served.end);
        if let Some(Served { took, .. }) = last {
            floor.desk.finish(seat);
            floor.pace.took(took);
            floor.turns += 1;
        }
        loop {
            if floor.desk.is_closed() {
                return None;
            }
            if floor.recess.is_called() {
                if self.outbox.is_empty() {
                    self.leave(floor, seat);
                    return None;
                }
                drop(floor);
                block_on(self, self.flush());
                floor = self.inbox.lock();
                continue;
            }
            if let Some(descriptor) = floor.desk.next(seat) {
                let (to_wake, may_hold) = (floor.hand_on(), floor.pace.is_short());
                drop(floor);
                nudge(to_wake);
                let mut now = now.unwrap_or_else(Instant::now);
                if !self.outbox.is_empty() && (!may_hold || self.outbox.is_due(now)) {
                    block_on(self, self.flush());
                    now = Instant::now();
                }
                return Some((descriptor, now));
            }
            now = None;
            if !self.outbox.is_empty() {
                drop(floor);
                block_on(self, self.flush());
                floor = self.inbox.lock();
                continue;
            }
            if let Some(post) = floor.post.take() {
                drop(floor);
                floor = self.receive(post, Wait::Forever);
            } else {
                floor.idle.push(Arc::clone(&here));
                drop(floor);
                std::thread::park();
                floor = self.inbox.lock();
                floor.idle.retain(|idle| !Arc::ptr_eq(idle, &here));
            }
        }
    }

    /// Waits, in the middle of a handler, until this thread is woken or the time is over, receiving for all if nobody
    /// else does. May return early.
    pub(crate) fn receive_until(&self, here: &Arc<Parker>, until_ns: u64) {
        let mut floor = self.inbox.lock();
        let mut led = false;
        if !here.is_woken() && !floor.desk.is_closed() {
            if let Some(post) = floor.post.take() {
                drop(floor);
                floor = self.receive(post, Wait::For(clock::until(until_ns)));
                led = true;
            } else {
                floor.blocked.push(Arc::clone(here));
                drop(floor);
                std::thread::park_timeout(clock::until(until_ns));
                floor = self.inbox.lock();
                floor.blocked.retain(|blocked| !Arc::ptr_eq(blocked, here));
            }
        }
        let leaves = here.is_woken() || clock::now_ns() >= until_ns;
        let to_wake = match (leaves, led) {
            (true, _) => floor.hand_on(),
            // This thread is busy with its own request, so what it has received for others is others' to do.
            (false, true) if floor.desk.queued() > 0 => floor.idle.pop(),
            (false, _) => None,
        };
        drop(floor);
        nudge(to_wake);
    }

    /// Looks, in the middle of a handler, whether anything has come, if nobody else looks.
    pub(crate) fn glance(&self) {
        let mut floor = self.inbox.lock();
        let Some(post) = floor.post.take() else { return };
        drop(floor);
        let mut floor = self.receive(post, Wait::No);
        let to_wake = if floor.desk.queued() > 0 { floor.idle.pop() } else { None };
        drop(floor);
        nudge(to_wake);
    }

    /// Receives once with the post in hand, and puts it back.
    fn receive(&self, mut post: Post, wait: Wait) -> MutexGuard<'_, Floor> {
        let Post { receiver, batch } = &mut post;
        let received = receiver.receive(wait, &mut |descriptor| batch.push(descriptor));
        let mut floor = self.inbox.lock();
        if !batch.is_empty() {
            floor.turns += 1;
            batch.drain(..).for_each(|descriptor| floor.desk.take(descriptor));
            if std::mem::take(&mut floor.watch.asleep) {
                self.ring();
            }
            self.give_strays_back(&mut floor.desk);
        }
        floor.post = Some(post);
        if let Some(event_loop) = &floor.event_loop
            && floor.desk.queued() > 0
        {
            (event_loop.work_came)();
        }
        if let Err(error) = received {
            if let ReceiveError::System(error) = error {
                self.log(format_args!("receiving from the data plane failed: {error}"));
            }
            floor.close();
            self.ring();
        }
        floor
    }

    fn give_strays_back(&self, desk: &mut Desk) {
        for stray in desk.strays() {
            let gateway = if stray.peer == InstanceId::NONE { self.gateway_of(&stray) } else { stray.peer };
            self.outbox.push(Parcel::to_gateway(stray.to_instance(gateway)));
        }
    }

    /// The gateway worker to which the head in a slot belongs, by the slot's own word. A wrong one refuses it.
    pub(crate) fn gateway_of(&self, head: &PacketDescriptor) -> InstanceId {
        let mut gateway = [0; 4];
        let read =
            self.pool.slot(head.slot).map(|slot| slot.copy_out(std::mem::offset_of!(Envelope, gateway), &mut gateway));
        if read == Some(Ok(())) { InstanceId(u32::from_ne_bytes(gateway)) } else { InstanceId::NONE }
    }

    /// The control thread's look at what the workers cannot see while they work: somebody has to receive, and finished
    /// outcomes have to go.
    pub(crate) fn watch(&self) -> Rhythm {
        let mut floor = self.inbox.lock();
        let is_still = floor.turns == floor.watch.seen_turns;
        let mut to_wake = None;
        if is_still {
            floor.watch.quiet_ticks += 1;
            if floor.post.is_some() {
                to_wake = floor.blocked.pop();
            }
            if to_wake.is_none() && (floor.post.is_some() || floor.desk.queued() > 0) {
                to_wake = floor.idle.pop();
            }
        } else {
            floor.watch.quiet_ticks = 0;
            floor.watch.seen_turns = floor.turns;
        }
        let may_sleep = to_wake.is_none() && self.outbox.is_empty() && floor.desk.queued() == 0;
        floor.watch.asleep = may_sleep && floor.watch.quiet_ticks > QUIET_TICKS_MAX;
        let rhythm = if floor.watch.asleep { Rhythm::Sleep } else { Rhythm::Tick };
        drop(floor);
        nudge(to_wake);
        self.flush_overdue();
        rhythm
    }

    /// Whether there is no work at all, as [`Instance::watch`] saw it twice in a row. True once per such time.
    ///
    /// For the lane transports this is exact: no slot's owner is this instance. In S mode a message can be between the
    /// kernel and the leader's next instruction; the supervisor, who sees the ledger, checks it again.
    pub(crate) fn has_drained(&self) -> bool {
        let mut floor = self.inbox.lock();
        let is_idle = floor.desk.queued() == 0 && floor.desk.served() == 0 && self.outbox.is_empty();
        let is_still = floor.watch.quiet_ticks > 0 && floor.watch.seen_turns == floor.turns;
        if !is_idle || !is_still || floor.watch.drained_turns == Some(floor.turns) || self.has_arrivals() {
            return false;
        }
        floor.watch.drained_turns = Some(floor.turns);
        true
    }

    /// Ends the serving of this instance.
    #[cfg(feature = "async")]
    pub(crate) fn close(&self) {
        self.inbox.lock().close();
        self.ring();
    }

    /// Whether the data plane was closed under this instance.
    pub(crate) fn is_closed(&self) -> bool {
        self.inbox.lock().desk.is_closed()
    }

    fn has_arrivals(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        if let Some(ledger) = &self.ledger {
            let slots = 0..self.pool.layout().slots();
            let owner = |slot| ledger.read(ramet_common::SlotIndex(slot)).map(|word| word.owner);
            return slots.into_iter().any(|slot| owner(slot) == Some(self.id));
        }
        let mut fds = [PollFd::new(self.inbox.arrivals.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) != Ok(0)
    }
}

fn nudge(to_wake: Option<Arc<Parker>>) {
    if let Some(parker) = to_wake {
        parker.nudge();
    }
}
