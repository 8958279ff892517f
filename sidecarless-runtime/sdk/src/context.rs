//! What a handler may know and do besides reading its request and answering it.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ramet_common::InstanceId;
use ramet_dataplane::clock;

use crate::call::{self, Call, CallError, Reply};
use crate::lending::{self, BodyError};
use crate::service::Service;
use crate::wait::block_on;
use crate::writer::BodyWriter;

/// The circumstances of one request.
pub struct Context {
    pub(crate) service: Rc<Service>,
}

impl Context {
    pub(crate) fn new(service: Rc<Service>) -> Self {
        Self { service }
    }

    /// Reserves shared memory for a body of up to `bytes`, to be written in place.
    ///
    /// # Errors
    /// [`BodyError`]: memory or time is used up.
    pub fn body(&self, bytes: usize) -> Result<BodyWriter, BodyError> {
        block_on(&self.service.instance, lending::body_writer(&self.service, bytes))
    }

    /// Calls another function, which the manifest must list among this one's `calls`, and waits for its answer: at most
    /// until this request's own deadline.
    ///
    /// # Errors
    /// [`CallError`]. An answer with a status of 400 or more is none.
    pub fn call(&self, function: &str, call: Call) -> Result<Reply, CallError> {
        block_on(&self.service.instance, call::call(&self.service, function, call))
    }

    /// When nobody waits for the answer any more.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.remaining()
    }

    /// How long it is until then; zero when it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        clock::until(self.service.envelope.deadline_ns)
    }

    /// Whether the client has gone or the deadline has passed. A long computation should look now and then, and return
    /// anything: nobody will see it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.service.instance.glance();
        self.service.is_cancelled() || self.service.is_expired()
    }

    /// This function's name, with its namespace.
    #[must_use]
    pub fn function_name(&self) -> &str {
        &self.service.instance.name
    }

    /// This process's id on the node.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.service.instance.id
    }

    /// The id of the request, or of the call, as its waiter counts. For logs.
    #[must_use]
    pub fn request_id(&self) -> u64 {
        self.service.envelope.request.0
    }

    /// The W3C trace context as a `traceparent` header's value, if the request has one. Calls carry it along.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let envelope = &self.service.envelope;
        let (trace, span) = (u128::from_be_bytes(envelope.trace_id), u64::from_be_bytes(envelope.span_id));
        (trace != 0 && span != 0).then(|| format!("00-{trace:032x}-{span:016x}-{:02x}", envelope.trace_flags))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("function", &self.function_name())
            .field("request", &self.request_id())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
