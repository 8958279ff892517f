//! Outcomes on their way out: several for one destination go in one system call, and each is settled if it cannot go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ramet_common::descriptor::Failure;
use ramet_common::{BATCH_MAX, FunctionId, InstanceId, Kind, PacketDescriptor, Refusal};
use ramet_dataplane::message::Envelope;
use ramet_dataplane::{SendError, clock};

use crate::delivery::{ABSENCE_MAX, Undelivered, after};
use crate::instance::Instance;

/// How long a finished outcome may wait for company. A send costs about a microsecond, so waiting longer gains little.
const HOLD_MAX: Duration = Duration::from_micros(20);

/// A descriptor that gives a slot up, and what is needed to give it up otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parcel {
    descriptor: PacketDescriptor,
    reply_function: FunctionId,
    reply_instance: InstanceId,
    gateway: InstanceId,
    deadline_ns: u64,
}

impl Parcel {
    /// The outcome of a message with this envelope.
    pub(crate) fn new(descriptor: PacketDescriptor, envelope: &Envelope) -> Self {
        Self {
            descriptor,
            reply_function: envelope.reply_function,
            reply_instance: envelope.reply_instance,
            gateway: envelope.gateway,
            deadline_ns: envelope.deadline_ns,
        }
    }

    /// A slot that goes back to the gateway it came from.
    pub(crate) fn to_gateway(descriptor: PacketDescriptor) -> Self {
        Self {
            descriptor,
            reply_function: FunctionId::GATEWAY,
            reply_instance: descriptor.peer,
            gateway: descriptor.peer,
            deadline_ns: 0,
        }
    }

    fn destination(&self) -> (FunctionId, InstanceId) {
        (self.descriptor.function, self.descriptor.peer)
    }

    /// What becomes of the slot when the parcel cannot be delivered; `None` when the gateway knows already.
    fn instead(&self, undelivered: Undelivered) -> Option<Self> {
        let failed = |failure: Failure| {
            let to = PacketDescriptor { function: self.reply_function, ..self.descriptor };
            PacketDescriptor { kind: Kind::Failed as u8, flags: 0, aux: failure as u32, ..to }
                .to_instance(self.reply_instance)
        };
        // As a failure, not as a return: it ends this function's work on what it was given, which the kernel counts.
        let given_up = || {
            let to = PacketDescriptor { function: FunctionId::GATEWAY, ..self.descriptor };
            let failure = Failure::Unreachable as u32;
            PacketDescriptor { kind: Kind::Failed as u8, flags: 0, aux: failure, ..to }.to_instance(self.gateway)
        };
        let descriptor = match (self.descriptor.kind()?, undelivered) {
            (Kind::Request, Undelivered::Full) => failed(Failure::Full),
            (Kind::Request, Undelivered::Unreachable) => failed(Failure::Unreachable),
            (Kind::Request, _) => given_up(),
            (Kind::Reply | Kind::Failed, _) if self.descriptor.function != FunctionId::GATEWAY => given_up(),
            // The request has ended at the gateway, or the gateway has.
            _ => return None,
        };
        Some(Self { descriptor, ..*self })
    }
}

#[derive(Debug, Default)]
struct Held {
    parcels: Vec<Parcel>,
    oldest: Option<Instant>,
    /// Buffers of the last flush, to be used again.
    spare: Vec<Parcel>,
    batch: Vec<PacketDescriptor>,
}

/// The outcomes that wait for the next flush.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    held: Mutex<Held>,
    count: AtomicUsize,
}

/// What one round of sends left over.
pub(crate) type Refused = Vec<(Parcel, SendError)>;

impl Outbox {
    pub(crate) fn push(&self, parcel: Parcel) {
        let mut held = self.lock();
        held.oldest.get_or_insert_with(Instant::now);
        held.parcels.push(parcel);
        self.count.store(held.parcels.len(), Ordering::Relaxed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether the outcomes have waited long enough, or are enough.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let held = self.lock();
        let has_waited = |oldest| now.saturating_duration_since(oldest) >= HOLD_MAX;
        held.parcels.len() >= BATCH_MAX || held.oldest.is_some_and(has_waited)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all that waits, one send per destination and [`BATCH_MAX`].
    fn send_all(&self, instance: &Instance) -> Refused {
        let (mut parcels, mut batch) = {
            let mut held = self.lock();
            held.oldest = None;
            self.count.store(0, Ordering::Relaxed);
            let spare = std::mem::take(&mut held.spare);
            (std::mem::replace(&mut held.parcels, spare), std::mem::take(&mut held.batch))
        };
        let mut refused = Vec::new();
        parcels.sort_by_key(Parcel::destination);
        let destinations = parcels.chunk_by(|one, other| one.destination() == other.destination());
        for parcels in destinations.flat_map(|group| group.chunks(BATCH_MAX)) {
            batch.clear();
            batch.extend(parcels.iter().map(|parcel| parcel.descriptor));
            match (instance.sender.send(&batch), parcels) {
                (Ok(()), _) => {}
                (Err(error), [parcel]) => refused.push((*parcel, error)),
                // One bad descriptor refuses the whole batch; the others shall not suffer.
                (Err(_), parcels) => refused.extend(parcels.iter().filter_map(|parcel| {
                    instance.sender.send(&[parcel.descriptor]).err().map(|error| (*parcel, error))
                })),
            }
        }
        parcels.clear();
        let mut held = self.lock();
        (held.spare, held.batch) = (parcels, batch);
        refused
    }
}

impl Instance {
    /// Sends all outcomes that wait, and settles those that are refused.
    pub(crate) async fn flush(&self) {
        if self.outbox.is_empty() {
            return;
        }
        for (parcel, error) in self.outbox.send_all(self) {
            self.settle(parcel, error).await;
        }
    }

    /// Sends what has waited too long because its thread is busy. What is refused waits for that thread.
    pub(crate) fn flush_overdue(&self) {
        if !self.outbox.is_empty() && self.outbox.is_due(Instant::now()) {
            for (parcel, _) in self.outbox.send_all(self) {
                self.outbox.push(parcel);
            }
        }
    }

    /// As [`Instance::flush`], in two halves: what was refused, for a task that can wait.
    #[cfg(feature = "async")]
    pub(crate) fn flush_now(&self) -> Refused {
        if self.outbox.is_empty() { Vec::new() } else { self.outbox.send_all(self) }
    }

    #[cfg(feature = "async")]
    pub(crate) async fn settle_all(&self, refused: Refused) {
        for (parcel, error) in refused {
            self.settle(parcel, error).await;
        }
    }

    async fn settle(&self, parcel: Parcel, error: SendError) {
        let (mut parcel, mut error) = (parcel, error);
        loop {
            // What gives a slot back must get through even when nobody waits for the request any more.
            let deadline_ns = parcel.deadline_ns.max(after(clock::now_ns(), ABSENCE_MAX));
            let Err(undelivered) = self.deliver_after(error, &parcel.descriptor, deadline_ns).await else { return };
            self.log_undelivered(&parcel, undelivered);
            let Some(instead) = parcel.instead(undelivered) else { return };
            parcel = instead;
            match self.sender.send(&[parcel.descriptor]) {
                Ok(()) => return,
                Err(again) => error = again,
            }
        }
    }

    fn log_undelivered(&self, parcel: &Parcel, undelivered: Undelivered) {
        let refusal = match undelivered {
            // The gateway ends requests whose clients have gone, and takes their slots back.
            Undelivered::Refused(Refusal::NotOwner) | Undelivered::Closed => return,
            Undelivered::Refused(refusal) => refusal,
            Undelivered::Full => Refusal::Full,
            Undelivered::Unreachable => Refusal::Unreachable,
        };
        if self.refusals.is_new(Some(refusal)) {
            let (kind, function) = (parcel.descriptor.kind(), parcel.descriptor.function);
            self.log(format_args!("could not send {kind:?} to function {function}: {}", refusal.as_str()));
        }
    }
}
