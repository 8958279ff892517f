//! A thread that serves: one message after the other, each from its receipt to its outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ramet_common::descriptor::Failure;
use ramet_common::{FunctionId, Kind, PacketDescriptor};

use crate::body::Body;
use crate::context::Context;
use crate::error::Result;
use crate::inbox::{Seat, Served};
use crate::incoming::StreamedRequest;
use crate::instance::Instance;
use crate::outbox::Parcel;
use crate::outcome::conclude;
use crate::response::Response;
use crate::service::Service;
use crate::wait::block_on;

/// Serves at `seat` until the data plane is closed.
pub(crate) fn work(
    instance: &Arc<Instance>,
    seat: Seat,
    handler: &(impl Fn(StreamedRequest, &Context) -> Result<Response> + Sync),
) {
    let mut last = None;
    while let Some((descriptor, start)) = instance.next(seat, last) {
        if let Some((service, body)) = open(instance, seat, &descriptor) {
            serve(service, body, handler);
        }
        let end = Instant::now();
        last = Some(Served { took: end - start, end });
    }
}

fn serve(service: Rc<Service>, body: Body, handler: &impl Fn(StreamedRequest, &Context) -> Result<Response>) {
    let instance = Arc::clone(&service.instance);
    let request = StreamedRequest::new(Rc::clone(&service), body);
    let context = Context::new(Rc::clone(&service));
    let result = catch_unwind(AssertUnwindSafe(|| handler(request, &context)));
    drop(context);
    match result {
        Ok(result) => block_on(&instance, conclude(service, result)),
        // The panic's message is on standard error already.
        Err(_) => service.fail_with(Failure::Panicked),
    }
}

/// Reads the message that a descriptor names. `None`: it has been answered already.
pub(crate) fn open(instance: &Arc<Instance>, seat: Seat, descriptor: &PacketDescriptor) -> Option<(Rc<Service>, Body)> {
    match Service::open(instance, seat, descriptor) {
        Ok((service, _)) if service.is_expired() => {
            service.fail(Failure::DeadlineExceeded);
            None
        }
        Ok(opened) => Some(opened),
        Err(error) => {
            instance.log(format_args!("request {}: {error}", descriptor.request));
            refuse(instance, descriptor);
            None
        }
    }
}

/// Gives back a message that cannot be read: to its sender if that is the gateway, else to the gateway it names.
fn refuse(instance: &Instance, descriptor: &PacketDescriptor) {
    let failed = PacketDescriptor { function: FunctionId::GATEWAY, kind: Kind::Failed as u8, flags: 0, ..*descriptor }
        .with_aux(Failure::BadMessage as u32);
    if instance.sender.send(&[failed]).is_err() {
        instance.outbox.push(Parcel::to_gateway(failed.to_instance(instance.gateway_of(descriptor))));
    }
}
