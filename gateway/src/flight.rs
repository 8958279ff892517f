//! A message that is out at the functions, from the send to its outcome.
//!
//! Transitions: `Out` → `Streaming` when an answer with more to come arrives → gone at the last chunk;
//! `Out` → gone at any other outcome (answer, failure, forward, death of the holder). A flight that nobody waits for
//! any more (`abandoned`) stays in the table until then, because its slots are still somebody's to write.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use ramet_common::descriptor::Failure;
use ramet_common::{InstanceId, PacketDescriptor, Refusal, RequestId, SlotIndex};
use ramet_dataplane::SlotRef;
use slab::Slab;
use tokio::time::Instant;

use crate::exchange::Holdings;
use crate::incoming::Incoming;
use crate::room::Unsent;

/// What became of a flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The head is back with an answer; `more`: chunks follow.
    Reply { more: bool },
    /// The head is back, for the step that it names.
    Forward,
    /// The head is back, but the function failed.
    Failed(Failure),
    /// The instance that held the head died; the head has been taken back.
    Died,
    /// The send was refused; the head never left.
    Refused(Refusal),
    /// The deadline has passed; the head is still out.
    Late,
}

/// What follows a streamed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes in a lent slot.
    Bytes { slot: SlotRef, bytes: u32 },
    /// The end.
    End,
    /// The sender died: the body must break off visibly.
    Broken,
}

/// The waiting side of a flight.
#[derive(Debug, Default)]
struct Mailbox {
    outcome: Option<Outcome>,
    pieces: VecDeque<Piece>,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) head: SlotRef,
    /// Slots lent to whoever holds the head; the only ones that a function may give back by itself.
    pub(crate) lent: Vec<SlotIndex>,
    /// Whether the waiter gave up.
    pub(crate) abandoned: bool,
    /// Who streams the answer, once it does.
    pub(crate) streaming: Option<InstanceId>,
    /// What the streaming instance has asked for, to be answered when the client has read on.
    pub(crate) withheld: VecDeque<PacketDescriptor>,
    /// The request's body, where the function has it while it comes.
    pub(crate) incoming: Option<Rc<Incoming>>,
    /// Until the head has been sent, where it is a request's first.
    pub(crate) unsent: Option<Unsent>,
    /// When the waiter is told that it is late, unless the head is back before.
    deadline: Instant,
    mailbox: Rc<RefCell<Mailbox>>,
}

impl Flight {
    /// How many pieces of a streamed answer wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.mailbox.borrow().pieces.len()
    }

    fn post(&self, change: impl FnOnce(&mut Mailbox)) {
        let waker = {
            let mut mailbox = self.mailbox.borrow_mut();
            change(&mut mailbox);
            mailbox.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// All flights of a worker. An id carries a count, so a late message for a reused place finds nothing.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    slab: Slab<(u32, Flight)>,
    count: u32,
    /// No flight's deadline is earlier.
    earliest: Option<Instant>,
}

impl Flights {
    /// Starts a flight; the ticket is what its task waits with.
    pub(crate) fn depart(
        &mut self,
        holdings: Arc<Holdings>,
        head: SlotRef,
        deadline: Instant,
        unsent: Option<Unsent>,
    ) -> Ticket {
        self.count = self.count.wrapping_add(1);
        let mailbox = Rc::new(RefCell::new(Mailbox::default()));
        let flight = Flight {
            holdings,
            head,
            lent: Vec::new(),
            abandoned: false,
            streaming: None,
            withheld: VecDeque::new(),
            incoming: None,
            unsent,
            deadline,
            mailbox: Rc::clone(&mailbox),
        };
        let place = self.slab.insert((self.count, flight));
        let id = RequestId(u64::from(self.count) << 32 | place as u64);
        Ticket { id, mailbox }
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut Flight> {
        let (count, flight) = self.slab.get_mut(place_of(id))?;
        (*count == count_of(id)).then_some(flight)
    }

    /// Ends a flight with its outcome. Its slots go back now if nobody else holds them.
    pub(crate) fn land(&mut self, id: RequestId, outcome: Outcome) {
        if self.get_mut(id).is_some() {
            let (_, flight) = self.slab.remove(place_of(id));
            flight.post(|mailbox| mailbox.outcome = Some(outcome));
        }
    }

    /// The head is back with the start of a streamed answer by `from`; the flight goes on for the chunks.
    pub(crate) fn stream(&mut self, id: RequestId, from: InstanceId) {
        if let Some(flight) = self.get_mut(id) {
            flight.streaming = Some(from);
            flight.post(|mailbox| mailbox.outcome = Some(Outcome::Reply { more: true }));
        }
    }

    /// A piece of a streamed answer. The flight ends with the last.
    pub(crate) fn piece(&mut self, id: RequestId, piece: Piece) {
        let Some(flight) = self.get_mut(id) else { return };
        match piece {
            Piece::Bytes { slot, .. } if flight.abandoned => flight.holdings.release(slot.slot),
            piece => flight.post(|mailbox| mailbox.pieces.push_back(piece)),
        }
        if !matches!(piece, Piece::Bytes { .. }) {
            self.slab.remove(place_of(id));
        }
    }

    /// Forgets a flight whose head never left or is back.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Flight> {
        self.get_mut(id)?;
        Some(self.slab.remove(place_of(id)).1)
    }

    /// Until when nobody needs to be told that it is late.
    pub(crate) fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Notes a deadline. True: it is the earliest now.
    pub(crate) fn expect(&mut self, deadline: Instant) -> bool {
        let is_earliest = self.earliest.is_none_or(|earliest| deadline < earliest);
        if is_earliest {
            self.earliest = Some(deadline);
        }
        is_earliest
    }

    /// Tells everybody whose deadline has passed. One look at all flights, once per deadline at the most.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.earliest = None;
        for (_, (_, flight)) in &self.slab {
            if flight.abandoned || flight.streaming.is_some() {
                continue;
            }
            if flight.deadline <= now {
                flight.post(|mailbox| mailbox.outcome = Some(Outcome::Late));
            } else if self.earliest.is_none_or(|earliest| flight.deadline < earliest) {
                self.earliest = Some(flight.deadline);
            }
        }
    }

    /// Every flight with its id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RequestId, &Flight)> {
        self.slab.iter().map(|(place, (count, flight))| (RequestId(u64::from(*count) << 32 | place as u64), flight))
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
}

fn place_of(id: RequestId) -> usize {
    (id.0 & 0xffff_ffff) as usize
}

fn count_of(id: RequestId) -> u32 {
    (id.0 >> 32) as u32
}

/// A flight's waiting end.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: RequestId,
    mailbox: Rc<RefCell<Mailbox>>,
}

impl Ticket {
    /// Waits for the outcome.
    pub(crate) async fn outcome(&self) -> Outcome {
        poll_fn(|context| {
            let mut mailbox = self.mailbox.borrow_mut();
            match mailbox.outcome.take() {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    mailbox.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The next piece of a streamed answer.
    pub(crate) fn poll_piece(&self, context: &mut std::task::Context<'_>) -> Poll<Piece> {
        let mut mailbox = self.mailbox.borrow_mut();
        match mailbox.pieces.pop_front() {
            Some(piece) => Poll::Ready(piece),
            None => {
                mailbox.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Domain;
    use ramet_common::{DomainId, Generation};
    use ramet_control::gateway;
    use ramet_dataplane::ids::SlotIndex;
    use ramet_dataplane::{Ledger, Pool, PoolLayout, TransportKind};
    use std::time::Duration;

    fn domain() -> Arc<Domain> {
        let layout = PoolLayout { counts: [4, 0, 0, 0, 0] };
        let pool = Pool::create("pool", &layout).expect("pool");
        let ledger_pages = (Ledger::shared_bytes_for(4) / 4096) as u32;
        let ledger = Pool::create("ledger", &PoolLayout { counts: [ledger_pages, 0, 0, 0, 0] }).expect("ledger");
        let info = gateway::Domain { domain: DomainId(1), name: "default".to_owned(), layout, ledger_base: 0 };
        Arc::new(Domain::attach(info, vec![pool, ledger], TransportKind::Ring).expect("attached"))
    }

    #[test]
    fn a_late_outcome_finds_no_successor() {
        let mut flights = Flights::default();
        let head = SlotRef { slot: SlotIndex(0), generation: Generation(0) };
        let deadline = Instant::now();
        let first = flights.depart(Holdings::new(domain()), head, deadline, None);
        flights.land(first.id, Outcome::Died);
        let second = flights.depart(Holdings::new(domain()), head, deadline, None);
        assert_eq!(place_of(first.id), place_of(second.id), "the place is reused");
        assert!(flights.get_mut(first.id).is_none());
        flights.land(first.id, Outcome::Reply { more: false });
        assert!(flights.get_mut(second.id).is_some(), "the successor still flies");
    }

    #[test]
    fn slots_come_back_when_the_last_holder_goes() {
        let domain = domain();
        let mut flights = Flights::default();
        let holdings = Holdings::new(Arc::clone(&domain));
        let head = holdings.allocate_bytes(100).expect("free");
        let ticket = flights.depart(Arc::clone(&holdings), head, Instant::now(), None);
        drop(holdings);
        assert_eq!(domain.slots.free()[0], 3, "the flight still holds it");
        flights.land(ticket.id, Outcome::Died);
        assert_eq!(domain.slots.free()[0], 4);
    }

    #[test]
    fn only_the_late_are_told_and_the_next_deadline_is_known() {
        let domain = domain();
        let mut flights = Flights::default();
        let head = SlotRef { slot: SlotIndex(0), generation: Generation(0) };
        let now = Instant::now();
        let mut depart = |after_ms| {
            let deadline = now + Duration::from_millis(after_ms);
            flights.expect(deadline);
            flights.depart(Holdings::new(Arc::clone(&domain)), head, deadline, None)
        };
        let (late, next, last) = (depart(10), depart(20), depart(30));
        let outcome = |ticket: &Ticket| ticket.mailbox.borrow().outcome.clone();
        assert_eq!(flights.earliest_deadline(), Some(now + Duration::from_millis(10)));
        flights.expire(now + Duration::from_millis(15));
        assert_eq!((outcome(&late), outcome(&next)), (Some(Outcome::Late), None));
        assert!(flights.get_mut(late.id).is_some(), "its slots are still somebody's to write");
        assert_eq!(flights.earliest_deadline(), Some(now + Duration::from_millis(20)));
        flights.land(next.id, Outcome::Forward);
        flights.expire(now + Duration::from_millis(25));
        assert_eq!((outcome(&next), outcome(&last)), (Some(Outcome::Forward), None), "what has landed is not late");
    }
}
