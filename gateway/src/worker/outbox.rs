//! Descriptors on their way out, grouped by destination: what one turn of the loop produces goes in one system call
//! each.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ramet_common::descriptor::Failure;
use ramet_common::{BATCH_MAX, FunctionId, InstanceId, Kind, PacketDescriptor, Refusal};
use ramet_dataplane::{SendError, Sender};
use tokio::sync::Notify;

use super::Worker;
use crate::flight::Outcome;

#[derive(Debug)]
struct Batch {
    function: FunctionId,
    peer: InstanceId,
    descriptors: Vec<PacketDescriptor>,
}

#[derive(Debug)]
pub(super) struct Outbox {
    sender: Arc<dyn Sender>,
    batches: RefCell<Vec<Batch>>,
    filled: Notify,
    sent: Notify,
}

impl Outbox {
    pub(super) fn new(sender: Arc<dyn Sender>) -> Self {
        Self { sender, batches: RefCell::default(), filled: Notify::new(), sent: Notify::new() }
    }

    /// Queues a descriptor for the end of this turn of the loop.
    pub(super) fn push(&self, worker: &Rc<Worker>, descriptor: PacketDescriptor) {
        let full = {
            let mut batches = self.batches.borrow_mut();
            if batches.iter().all(|batch| batch.descriptors.is_empty()) {
                self.filled.notify_one();
            }
            let to = (descriptor.function, descriptor.peer);
            let place = batches.iter().position(|batch| (batch.function, batch.peer) == to).unwrap_or_else(|| {
                let descriptors = Vec::with_capacity(BATCH_MAX);
                batches.push(Batch { function: to.0, peer: to.1, descriptors });
                batches.len() - 1
            });
            batches[place].descriptors.push(descriptor);
            (batches[place].descriptors.len() == BATCH_MAX).then(|| batches.swap_remove(place))
        };
        if let Some(batch) = full {
            self.send(worker, &batch.descriptors);
        }
    }

    /// Waits until requests have gone out.
    pub(super) async fn sent_requests(&self) {
        self.sent.notified().await;
    }

    fn flush(&self, worker: &Rc<Worker>) {
        // Sending can queue more (a refusal that is told to somebody), so the borrow ends first.
        let mut batches = self.batches.take();
        for batch in &mut batches {
            self.send(worker, &batch.descriptors);
            batch.descriptors.clear();
        }
        let mut kept = self.batches.borrow_mut();
        if kept.is_empty() {
            // The buffers of any-replica batches are used again and again; those of single instances rarely.
            batches.retain(|batch| batch.peer == InstanceId::NONE);
            *kept = batches;
        }
    }

    fn send(&self, worker: &Rc<Worker>, descriptors: &[PacketDescriptor]) {
        if descriptors.is_empty() {
            return;
        }
        let Err(error) = self.sender.send(descriptors) else { return worker.sent(descriptors) };
        if descriptors.len() == 1 {
            worker.not_sent(&descriptors[0], &error);
            return;
        }
        // One bad descriptor refuses the whole batch; the others shall not suffer.
        for descriptor in descriptors {
            match self.sender.send(std::slice::from_ref(descriptor)) {
                Ok(()) => worker.sent(std::slice::from_ref(descriptor)),
                Err(error) => worker.not_sent(descriptor, &error),
            }
        }
    }
}

impl Worker {
    /// Requests that were sent count among what their receivers have.
    fn sent(&self, descriptors: &[PacketDescriptor]) {
        let mut flights = self.flights.borrow_mut();
        for request in descriptors.iter().filter(|descriptor| descriptor.gives_work()) {
            if let Some(flight) = flights.get_mut(request.request) {
                flight.unsent = None;
                self.outbox.sent.notify_one();
            }
        }
    }

    /// What a refused send means for whoever waits.
    fn not_sent(self: &Rc<Self>, descriptor: &PacketDescriptor, error: &SendError) {
        let refusal = match error {
            SendError::Refused(refusal) => *refusal,
            SendError::RefusedUnexplained | SendError::Closed | SendError::System(_) => Refusal::Unreachable,
        };
        match descriptor.kind() {
            Some(Kind::Request) => self.flights.borrow_mut().land(descriptor.request, Outcome::Refused(refusal)),
            Some(Kind::Grant) => self.grant_failed(descriptor),
            // Its reader has gone, or gives up at its own deadline.
            _ => tracing::debug!(?descriptor, %error, "a descriptor could not be delivered"),
        }
    }

    /// Tells whoever waits for slots or for a call that there will be none.
    pub(crate) fn apologise(self: &Rc<Self>, to: InstanceId, about: &PacketDescriptor, failure: Failure) {
        let Some(function) = self.instances.borrow().get(&to).map(|info| info.function) else { return };
        let sorry = PacketDescriptor::new(Kind::Sorry, function, about.slot, about.generation, about.request);
        self.tell(sorry.to_instance(to).with_aux(failure as u32));
    }
}

/// Flushes whenever something was queued. The task runs after those that were ready before it, so it finds all that
/// they queued.
pub(super) async fn flush_always(worker: Rc<Worker>) {
    loop {
        worker.outbox.filled.notified().await;
        worker.outbox.flush(&worker);
    }
}
