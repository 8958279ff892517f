//! What this instance has to do and what it waits for: each descriptor that comes in finds its place here.
//!
//! Pure bookkeeping, without threads or system calls. A descriptor that finds no place gives its slot back.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use ramet_common::descriptor::{FLAG_LENT, FLAG_PIECE, Failure};
use ramet_common::{FunctionId, InstanceId, Kind, PacketDescriptor, RequestId};
use ramet_dataplane::SlotRef;

/// One of the `concurrency` places at which messages are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(pub(crate) usize);

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    /// So many `Lend`s.
    Lends(u16),
    /// A `Lend` with the next piece of the request's body.
    Piece,
    /// One `Grant`.
    Grant,
    /// The `Reply` or `Failed` that brings this head back.
    Answer(SlotRef),
}

/// Why what was waited for did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitError {
    /// The gateway says that it will not come.
    Sorry(Failure),
    /// The time is over.
    DeadlineExceeded,
    /// Nobody waits for the request any more for which it was needed.
    Cancelled,
    /// This instance has no data plane any more.
    Closed,
}

#[derive(Debug)]
struct Serving {
    head: SlotRef,
    cancelled: bool,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    seat: Seat,
    request: RequestId,
    gateway: InstanceId,
    expects: Expects,
    until_ns: u64,
    got: Vec<PacketDescriptor>,
    waker: Option<Waker>,
}

impl Waiter {
    fn is_complete(&self) -> bool {
        match self.expects {
            Expects::Lends(count) => self.got.len() >= usize::from(count) || self.sorry().is_some(),
            Expects::Piece | Expects::Grant | Expects::Answer(_) => !self.got.is_empty(),
        }
    }

    fn sorry(&self) -> Option<Failure> {
        self.got.iter().find(|got| got.kind() == Some(Kind::Sorry)).map(|sorry| Failure::from_u32(sorry.aux))
    }

    /// Whether the descriptor is (part of) what is waited for, from whom it is waited for.
    fn accepts(&self, kind: Kind, descriptor: &PacketDescriptor) -> bool {
        if self.request != descriptor.request || self.is_complete() {
            return false;
        }
        let is_piece = descriptor.flags & FLAG_PIECE != 0;
        match (kind, self.expects) {
            (Kind::Lend, Expects::Piece) => is_piece && self.gateway == descriptor.peer,
            (Kind::Lend, Expects::Lends(_)) => !is_piece && self.gateway == descriptor.peer,
            // That there is no more of a body is said by a piece.
            (Kind::Sorry, Expects::Piece) => false,
            (Kind::Grant, Expects::Grant) | (Kind::Sorry, _) => self.gateway == descriptor.peer,
            (Kind::Reply | Kind::Failed, Expects::Answer(head)) => head == head_of(descriptor),
            _ => false,
        }
    }
}

/// The work and the waiters of one instance.
#[derive(Debug)]
pub(super) struct Desk {
    queue: VecDeque<PacketDescriptor>,
    seats: Vec<Option<Serving>>,
    waiters: Vec<Waiter>,
    last_ticket: u64,
    closed: bool,
    /// Slots that came for nobody, as the descriptors that give them back. `peer` is the gateway worker, or nobody
    /// where only the slot itself can tell.
    strays: Vec<PacketDescriptor>,
}

impl Desk {
    pub(super) fn new(seats: usize) -> Self {
        Self {
            queue: VecDeque::with_capacity(ramet_common::BATCH_MAX),
            seats: std::iter::repeat_with(|| None).take(seats).collect(),
            waiters: Vec::new(),
            last_ticket: 0,
            closed: false,
            strays: Vec::new(),
        }
    }

    /// Finds the place of a descriptor that has come in.
    pub(super) fn take(&mut self, descriptor: PacketDescriptor) {
        let Some(kind) = descriptor.kind() else { return };
        match kind {
            Kind::Request | Kind::Call => self.queue.push_back(descriptor),
            Kind::Cancel => self.cancel(&descriptor),
            Kind::Reply | Kind::Failed | Kind::Grant | Kind::Lend | Kind::Sorry => self.answer(kind, descriptor),
            // Only the gateway receives these, so a transport that works never brings them here.
            _ => {}
        }
    }

    fn answer(&mut self, kind: Kind, descriptor: PacketDescriptor) {
        let Some(waiter) = self.waiters.iter_mut().find(|waiter| waiter.accepts(kind, &descriptor)) else {
            self.strays.extend(give_back(&descriptor));
            return;
        };
        waiter.got.push(descriptor);
        if waiter.is_complete()
            && let Some(waker) = waiter.waker.take()
        {
            waker.wake();
        }
    }

    fn cancel(&mut self, cancel: &PacketDescriptor) {
        let head = head_of(cancel);
        if let Some(place) = self.queue.iter().position(|queued| head_of(queued) == head) {
            self.queue.remove(place);
            // As a failure, not as a return: the kernel counts the message among this instance's until it ends.
            let aux = Failure::DeadlineExceeded as u32;
            let back = PacketDescriptor { kind: Kind::Failed as u8, flags: 0, aux, ..*cancel };
            self.strays.push(PacketDescriptor { function: FunctionId::GATEWAY, ..back });
            return;
        }
        for (seat, serving) in self.seats.iter_mut().enumerate() {
            if let Some(serving) = serving.as_mut().filter(|serving| serving.head == head) {
                serving.cancelled = true;
                let waiting = self.waiters.iter_mut().filter(|waiter| waiter.seat == Seat(seat));
                waiting.filter_map(|waiter| waiter.waker.take()).for_each(Waker::wake);
            }
        }
    }

    /// The next message, to be served at `seat`.
    pub(super) fn next(&mut self, seat: Seat) -> Option<PacketDescriptor> {
        let descriptor = self.queue.pop_front()?;
        self.seats[seat.0] = Some(Serving { head: head_of(&descriptor), cancelled: false });
        Some(descriptor)
    }

    /// The message at `seat` has left.
    pub(super) fn finish(&mut self, seat: Seat) {
        self.seats[seat.0] = None;
    }

    pub(super) fn is_cancelled(&self, seat: Seat) -> bool {
        self.seats[seat.0].as_ref().is_some_and(|serving| serving.cancelled)
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn served(&self) -> usize {
        self.seats.iter().flatten().count()
    }

    /// A seat where nothing is served.
    #[cfg(feature = "async")]
    pub(super) fn free_seat(&self) -> Option<Seat> {
        self.seats.iter().position(Option::is_none).map(Seat)
    }

    /// Registers a waiter. Its ticket asks for the result.
    pub(super) fn expect(
        &mut self,
        seat: Seat,
        request: RequestId,
        gateway: InstanceId,
        expects: Expects,
        until_ns: u64,
    ) -> u64 {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let got = Vec::new();
        self.waiters.push(Waiter { ticket, seat, request, gateway, expects, until_ns, got, waker: None });
        ticket
    }

    /// What the waiter got, if it is complete or in vain; else `waker` is woken when it is.
    pub(super) fn poll(
        &mut self,
        ticket: u64,
        now_ns: u64,
        waker: &Waker,
    ) -> Poll<Result<Vec<PacketDescriptor>, WaitError>> {
        let Some(place) = self.waiters.iter().position(|waiter| waiter.ticket == ticket) else {
            return Poll::Ready(Err(WaitError::Closed));
        };
        let waiter = &self.waiters[place];
        let outcome = if let Some(failure) = waiter.sorry() {
            Err(WaitError::Sorry(failure))
        } else if waiter.is_complete() {
            return Poll::Ready(Ok(self.waiters.swap_remove(place).got));
        } else if self.is_cancelled(waiter.seat) {
            Err(WaitError::Cancelled)
        } else if self.closed {
            Err(WaitError::Closed)
        } else if now_ns >= waiter.until_ns {
            Err(WaitError::DeadlineExceeded)
        } else {
            self.waiters[place].waker = Some(waker.clone());
            return Poll::Pending;
        };
        self.forget(ticket);
        Poll::Ready(outcome)
    }

    /// Takes a waiter away. What it got in part goes back.
    pub(super) fn forget(&mut self, ticket: u64) {
        if let Some(place) = self.waiters.iter().position(|waiter| waiter.ticket == ticket) {
            let waiter = self.waiters.swap_remove(place);
            self.strays.extend(waiter.got.iter().filter_map(give_back));
        }
    }

    /// The first time at which a waiter waits in vain.
    #[cfg(feature = "async")]
    pub(super) fn first_deadline(&self) -> Option<u64> {
        self.waiters.iter().filter(|waiter| waiter.waker.is_some()).map(|waiter| waiter.until_ns).min()
    }

    /// Wakes the waiters whose time is over.
    #[cfg(feature = "async")]
    pub(super) fn wake_expired(&mut self, now_ns: u64) {
        let expired = self.waiters.iter_mut().filter(|waiter| waiter.until_ns <= now_ns);
        expired.filter_map(|waiter| waiter.waker.take()).for_each(Waker::wake);
    }

    /// Nothing will come in any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.waiters.iter_mut().filter_map(|waiter| waiter.waker.take()).for_each(Waker::wake);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn strays(&mut self) -> std::vec::Drain<'_, PacketDescriptor> {
        self.strays.drain(..)
    }
}

/// The descriptor that gives an unwanted slot back; `None` where there is no slot.
fn give_back(descriptor: &PacketDescriptor) -> Option<PacketDescriptor> {
    let back = PacketDescriptor { kind: Kind::Return as u8, flags: 0, aux: 0, ..*descriptor };
    let back = PacketDescriptor { function: FunctionId::GATEWAY, ..back };
    match descriptor.kind()? {
        // The end of a body is in no slot.
        Kind::Lend if descriptor.flags & FLAG_PIECE != 0 && descriptor.aux == 0 => None,
        Kind::Lend => Some(back.with_flags(FLAG_LENT)),
        Kind::Grant => Some(back),
        // The sender was a function; which gateway worker the head belongs to is written in the head.
        Kind::Reply | Kind::Failed => Some(back.to_instance(InstanceId::NONE)),
        _ => None,
    }
}

fn head_of(descriptor: &PacketDescriptor) -> SlotRef {
    SlotRef { slot: descriptor.slot, generation: descriptor.generation }
}

#[cfg(test)]
mod tests;
