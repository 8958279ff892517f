//! Descriptors coming in: each is checked against what this worker knows before anything it names is touched.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use ramet_common::descriptor::{FLAG_BROKEN, FLAG_LENT, FLAG_MORE, Failure};
use ramet_common::{BATCH_MAX, InstanceId, Kind, PacketDescriptor, RequestId};
use ramet_dataplane::transport::patience::{LOOKS, Patience};
use ramet_dataplane::{ReceiveError, Receiver, SlotRef, TransportKind, Wait, clock};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Worker;
use crate::crew::Stray;
use crate::domain::Domain;
use crate::flight::{Outcome, Piece};

/// Receives until the endpoint is closed.
pub(super) async fn receive_always(worker: Rc<Worker>, mut receiver: Box<dyn Receiver>) -> Result<(), ReceiveError> {
    #[allow(deprecated, reason = "sound for an OwnedFd; its replacement is unsafe, which this crate forbids")]
    let readiness: AsyncFd<OwnedFd> =
        AsyncFd::with_interest(receiver.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    let settings = &worker.shared.settings;
    let mut patience = match settings.transport {
        TransportKind::Ring => Patience::of(settings.busy_poll),
        TransportKind::SkMsg | TransportKind::Socket => Patience::none(),
    };
    let mut batch = Vec::with_capacity(2 * BATCH_MAX);
    loop {
        if receive(&worker, receiver.as_mut(), &mut batch)? >= BATCH_MAX {
            // There may be more. Let what has landed run before it is taken.
            tokio::task::yield_now().await;
            continue;
        }
        if !look(&worker, receiver.as_mut(), &mut batch, &mut patience).await? && receiver.arm()? {
            // Readiness is cleared before the next receive, so whatever comes after that receive is a new event.
            sleep(&worker, &readiness, &mut patience).await?;
            receiver.disarm();
        }
    }
}

fn receive(
    worker: &Rc<Worker>,
    receiver: &mut dyn Receiver,
    batch: &mut Vec<PacketDescriptor>,
) -> Result<usize, ReceiveError> {
    let received = receiver.receive(Wait::No, &mut |descriptor| batch.push(descriptor))?;
    for descriptor in batch.drain(..) {
        worker.take(&descriptor);
    }
    Ok(received)
}

/// Looks at the rings for a while before the loop sleeps, letting its other tasks and other processes run in between.
/// True when something has come. Where nothing is in flight nothing comes, so only who never sleeps looks.
async fn look(
    worker: &Rc<Worker>,
    receiver: &mut dyn Receiver,
    batch: &mut Vec<PacketDescriptor>,
    patience: &mut Patience,
) -> Result<bool, ReceiveError> {
    let may_look = |patience: &Patience| worker.flights_now() > 0 || patience.never_sleeps();
    if !patience.ever_looks() || !may_look(patience) {
        return Ok(false);
    }
    let since_ns = clock::now_ns();
    let budget = patience.budget(since_ns);
    let mut looked = Duration::ZERO;
    while looked < budget && may_look(patience) {
        for _ in 0..LOOKS {
            if receive(worker, receiver, batch)? > 0 {
                patience.found(looked);
                return Ok(true);
            }
        }
        std::thread::yield_now();
        tokio::task::yield_now().await;
        looked = Duration::from_nanos(clock::now_ns().saturating_sub(since_ns));
    }
    if looked >= budget && !budget.is_zero() {
        patience.looked_in_vain(looked);
    }
    Ok(false)
}

/// Sleeps until something has come, or has gone out whose answer is worth a look.
async fn sleep(worker: &Worker, readiness: &AsyncFd<OwnedFd>, patience: &mut Patience) -> Result<(), ReceiveError> {
    if !patience.ever_looks() {
        readiness.readable().await?.clear_ready();
        return Ok(());
    }
    // A wait begins when there is something to wait for.
    let mut since_ns = (worker.flights_now() > 0).then(clock::now_ns);
    loop {
        tokio::select! {
            readable = readiness.readable() => {
                readable?.clear_ready();
                if let Some(since_ns) = since_ns {
                    patience.slept(Duration::from_nanos(clock::now_ns().saturating_sub(since_ns)));
                }
                return Ok(());
            }
            () = worker.outbox.sent_requests() => {
                let now_ns = clock::now_ns();
                if !patience.budget(now_ns).is_zero() {
                    return Ok(());
                }
                since_ns.get_or_insert(now_ns);
            }
        }
    }
}

impl Worker {
    /// Takes one descriptor from an instance. `peer` is its true sender; all else is only a claim.
    fn take(self: &Rc<Self>, descriptor: &PacketDescriptor) {
        let Some(domain) = self.domain_of(descriptor.peer) else {
            // From an instance that left long ago; the sweeps have dealt with what it held.
            return;
        };
        let Some(kind) = descriptor.kind() else { return self.reject(descriptor) };
        match kind {
            Kind::Reply => self.replied(descriptor, &domain),
            Kind::Forward => self.landed(descriptor, &domain, Outcome::Forward),
            Kind::Failed => self.failed(descriptor, &domain, Failure::from_u32(descriptor.aux)),
            Kind::Return if descriptor.flags & FLAG_LENT != 0 => self.lent_returned(descriptor, &domain),
            Kind::Return => self.failed(descriptor, &domain, Failure::Unreachable),
            Kind::Want => self.lend(descriptor, &domain),
            Kind::Chunk => self.chunk(descriptor, &domain),
            _ => self.reject(descriptor),
        }
    }

    fn replied(self: &Rc<Self>, descriptor: &PacketDescriptor, domain: &Domain) {
        if descriptor.flags & FLAG_MORE == 0 {
            return self.landed(descriptor, domain, Outcome::Reply { more: false });
        }
        if self.is_head_of(descriptor.request, descriptor, domain) {
            self.flights.borrow_mut().stream(descriptor.request, descriptor.peer);
            // Its client may have left while the head was on its way here and had no holder to be told.
            if self.with_flight(descriptor.request, |flight| flight.abandoned) == Some(true) {
                self.cancel(descriptor.peer, slot_ref(descriptor), descriptor.request);
            }
        } else {
            self.misdirected(descriptor, domain);
        }
    }

    fn landed(self: &Rc<Self>, descriptor: &PacketDescriptor, domain: &Domain, outcome: Outcome) {
        if self.is_head_of(descriptor.request, descriptor, domain) {
            self.flights.borrow_mut().land(descriptor.request, outcome);
        } else {
            self.misdirected(descriptor, domain);
        }
    }

    /// A head is back without an answer: a request's, or one that was granted for a call.
    fn failed(self: &Rc<Self>, descriptor: &PacketDescriptor, domain: &Domain, failure: Failure) {
        let loan = self.loans.borrow_mut().take(domain.id, slot_ref(descriptor));
        match loan {
            Some(loan) => self.end_loan(loan),
            None => self.landed(descriptor, domain, Outcome::Failed(failure)),
        }
    }

    fn chunk(self: &Rc<Self>, descriptor: &PacketDescriptor, domain: &Domain) {
        let known = {
            let mut flights = self.flights.borrow_mut();
            flights.get_mut(descriptor.request).is_some_and(|flight| {
                let known = flight.streaming == Some(descriptor.peer)
                    && flight.holdings.domain().id == domain.id
                    && (descriptor.aux == 0
                        || flight.lent.contains(&descriptor.slot) && flight.holdings.owns(slot_ref(descriptor)));
                // A slot with bytes on their way out is lent no more, so it cannot be named twice.
                flight.lent.retain(|&lent| !known || descriptor.aux == 0 || lent != descriptor.slot);
                known
            })
        };
        if !known {
            return self.reject(descriptor);
        }
        let mut flights = self.flights.borrow_mut();
        if descriptor.aux > 0 {
            let piece = Piece::Bytes { slot: slot_ref(descriptor), bytes: descriptor.aux };
            flights.piece(descriptor.request, piece);
        }
        if descriptor.flags & FLAG_BROKEN != 0 {
            flights.piece(descriptor.request, Piece::Broken);
        } else if descriptor.flags & FLAG_MORE == 0 {
            flights.piece(descriptor.request, Piece::End);
        }
    }

    /// Whether the descriptor brings back the very head that the flight sent out, from the flight's own domain.
    pub(crate) fn is_head_of(&self, id: RequestId, descriptor: &PacketDescriptor, domain: &Domain) -> bool {
        self.flights.borrow_mut().get_mut(id).is_some_and(|flight| {
            flight.head == slot_ref(descriptor)
                && flight.holdings.domain().id == domain.id
                && flight.streaming.is_none()
        })
    }

    /// A head came back under another request's name. It is the gateway's again, so whoever it belonged to is told.
    fn misdirected(self: &Rc<Self>, descriptor: &PacketDescriptor, domain: &Domain) {
        self.reject(descriptor);
        let slot = slot_ref(descriptor);
        let loan = self.loans.borrow_mut().take(domain.id, slot);
        if let Some(loan) = loan {
            return self.end_loan(loan);
        }
        let stray = Stray { domain: domain.id, head: slot };
        self.end_stray(stray);
        self.shared.crew.tell_others(self.place, stray);
    }

    /// Fails the flight whose head has come back elsewhere, if it is one of this worker's.
    pub(super) fn end_stray(&self, stray: Stray) {
        let owner = self.flights.borrow().iter().find_map(|(id, flight)| {
            let is_it = flight.head == stray.head && flight.holdings.domain().id == stray.domain;
            (is_it && flight.streaming.is_none()).then_some(id)
        });
        if let Some(id) = owner {
            self.flights.borrow_mut().land(id, Outcome::Failed(Failure::BadMessage));
        }
    }

    /// Counts a descriptor that its sender had no business sending.
    pub(crate) fn reject(&self, descriptor: &PacketDescriptor) {
        self.shared.metrics.rejected_descriptors.inc();
        tracing::debug!(?descriptor, "a function sent a descriptor that makes no sense here");
    }

    pub(crate) fn function_of(&self, instance: InstanceId) -> Option<ramet_common::FunctionId> {
        self.instances.borrow().get(&instance).map(|info| info.function)
    }

    /// Gives slots that were lent for a flight's head back early.
    pub(crate) fn with_flight<R>(
        &self,
        id: RequestId,
        work: impl FnOnce(&mut crate::flight::Flight) -> R,
    ) -> Option<R> {
        self.flights.borrow_mut().get_mut(id).map(work)
    }
}

pub(crate) fn slot_ref(descriptor: &PacketDescriptor) -> SlotRef {
    SlotRef { slot: descriptor.slot, generation: descriptor.generation }
}
