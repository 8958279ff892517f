//! The answer to a call, read where the other function wrote it.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use ramet_common::{FunctionId, Kind, PacketDescriptor, RequestId};
use ramet_dataplane::message::{HeadBlock, Message, MessageError};
use ramet_dataplane::{Slot, SlotRef};

use crate::body::{Body, Keeper};
use crate::outbox::Parcel;
use crate::service::{Service, body_of};

/// A head slot that the gateway has granted for a call. It goes back when nobody reads the answer any more.
pub(crate) struct Granted {
    service: Rc<Service>,
    pub(super) head: SlotRef,
    pub(super) slot: Slot,
    pub(super) call: RequestId,
    is_ours: Cell<bool>,
}

impl Granted {
    pub(super) fn new(service: Rc<Service>, head: SlotRef, slot: Slot, call: RequestId) -> Self {
        Self { service, head, slot, call, is_ours: Cell::new(true) }
    }

    /// The slot is with the called function.
    pub(super) fn is_away(&self) {
        self.is_ours.set(false);
    }

    /// The slot is with this function again.
    pub(super) fn is_back(&self) {
        self.is_ours.set(true);
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if self.is_ours.get() {
            let SlotRef { slot, generation } = self.head;
            let back = PacketDescriptor::new(Kind::Return, FunctionId::GATEWAY, slot, generation, self.call);
            let parcel = Parcel::to_gateway(back.to_instance(self.service.envelope.gateway));
            self.service.instance.outbox.push(parcel);
        }
    }
}

/// What a called function answered.
pub struct Reply {
    status: u16,
    block: HeadBlock,
    body: Body,
}

impl Reply {
    pub(super) fn read(granted: Rc<Granted>) -> Result<Self, MessageError> {
        let instance = &granted.service.instance;
        let Message { envelope, block, body } =
            Message::read(&granted.slot, granted.head.generation, instance.pool.layout())?;
        let body = body_of(instance, &granted.slot, body, || Keeper::Reply(Rc::clone(&granted)));
        Ok(Self { status: envelope.status, block, body })
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is one of success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The headers in their order: lower-case names, raw values.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.block.headers()
    }

    /// The first header of that lower-case name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.block.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The body, in place.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The body, to put into the response. It is copied once then, because its slots end with the call.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).field("body", &self.body).finish_non_exhaustive()
    }
}
