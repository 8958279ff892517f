//! The waiting end of something that was asked for: a future that ends with it, without it, or by being dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ramet_common::{PacketDescriptor, RequestId};
use ramet_dataplane::clock;

use super::{Expects, WaitError};
use crate::instance::Instance;
use crate::service::Service;
use crate::wait::{Pending, waits_for};

/// A wait for descriptors. Dropping it gives back what has come and what still comes.
pub(crate) struct Ticket<'a> {
    instance: &'a Instance,
    number: u64,
    until_ns: u64,
    is_done: bool,
}

impl Instance {
    /// Announces what is about to be asked for, so that a quick answer finds its place.
    pub(crate) fn expect(&self, service: &Service, request: RequestId, expects: Expects, until_ns: u64) -> Ticket<'_> {
        let gateway = service.envelope.gateway;
        let number = self.inbox.lock().desk.expect(service.seat, request, gateway, expects, until_ns);
        Ticket { instance: self, number, until_ns, is_done: false }
    }
}

impl Future for Ticket<'_> {
    type Output = Result<Vec<PacketDescriptor>, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let instance = self.instance;
        let mut floor = instance.inbox.lock();
        let polled = floor.desk.poll(self.number, clock::now_ns(), context.waker());
        if polled.is_pending() {
            if let Some(event_loop) = &floor.event_loop {
                (event_loop.time_changed)();
            }
            waits_for(Pending::Descriptor { until_ns: self.until_ns });
        } else {
            instance.give_strays_back(&mut floor.desk);
            self.is_done = true;
        }
        polled
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let mut floor = self.instance.inbox.lock();
            floor.desk.forget(self.number);
            self.instance.give_strays_back(&mut floor.desk);
        }
    }
}
