//! One message in this function's hands, from its receipt to its outcome. It has exactly one: dropping it fails it.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use ramet_common::descriptor::Failure;
use ramet_common::{FunctionId, InstanceId, Kind, PacketDescriptor};
use ramet_dataplane::message::{BodyPlace, ENVELOPE_BYTES, Envelope, HeadBlock, Message, MessageError};
use ramet_dataplane::{Slot, SlotRef, clock};

use crate::body::{Body, Content, Held, Home, Keeper, Piece};
use crate::inbox::Seat;
use crate::instance::Instance;
use crate::outbox::Parcel;

/// How much a head block is assumed to grow by the headers that the function adds.
const BLOCK_ROOM: usize = 512;

/// A message that is being served. Single-threaded; whoever holds a clone of the `Rc` keeps its slots from leaving.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) instance: Arc<Instance>,
    pub(crate) seat: Seat,
    pub(crate) slot: Slot,
    pub(crate) head: SlotRef,
    /// Whether another function waits for the answer, not a chain.
    pub(crate) is_call: bool,
    pub(crate) envelope: Envelope,
    pub(crate) block: HeadBlock,
    /// Where the inline body is; empty without one.
    inline: Range<usize>,
    /// How many handles there are on the body that came.
    readers: Cell<u32>,
    /// Where in the head slot a new body is being written.
    writing: Cell<Option<usize>>,
    /// Whether the head slot's content is still as it came.
    untouched: Cell<bool>,
    /// Whether the head has left.
    settled: Cell<bool>,
    /// What the message fails with if it is dropped.
    failure: Cell<Failure>,
}

impl Service {
    /// Copies and checks the message that `descriptor` names.
    pub(crate) fn open(
        instance: &Arc<Instance>,
        seat: Seat,
        descriptor: &PacketDescriptor,
    ) -> Result<(Rc<Self>, Body), MessageError> {
        let head = SlotRef { slot: descriptor.slot, generation: descriptor.generation };
        let slot = instance.pool.slot(head.slot).ok_or(MessageError::Malformed("the slot is not in the pool"))?;
        let message = Message::read(&slot, head.generation, instance.pool.layout())?;
        let inline = match message.body {
            BodyPlace::Inline { offset, bytes } => offset..offset + bytes,
            BodyPlace::Parts(_) => 0..0,
        };
        let service = Rc::new(Self {
            instance: Arc::clone(instance),
            seat,
            slot,
            head,
            is_call: descriptor.kind() == Some(Kind::Call),
            envelope: message.envelope,
            block: message.block,
            inline,
            readers: Cell::new(0),
            writing: Cell::new(None),
            untouched: Cell::new(true),
            settled: Cell::new(false),
            failure: Cell::new(Failure::FunctionError),
        });
        let body = body_of(instance, &service.slot, message.body, || Keeper::Request(Reading::new(&service)));
        Ok((service, body))
    }

    /// Whether nobody waits for the outcome any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.instance.inbox.is_cancelled(self.seat)
    }

    pub(crate) fn is_expired(&self) -> bool {
        clock::now_ns() >= self.envelope.deadline_ns
    }

    /// Whether the head is still this function's.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.get()
    }

    /// Whether the head slot's content is still as it came, but for what the caller writes.
    pub(crate) fn is_untouched(&self) -> bool {
        self.untouched.get()
    }

    /// The message will be sent on with another body than that which the head slot says it has.
    pub(crate) fn touch(&self) {
        self.untouched.set(false);
    }

    /// From where on the head slot is in use by a body.
    pub(crate) fn block_end_max(&self) -> usize {
        let reading = if self.readers.get() > 0 && !self.inline.is_empty() { self.inline.start } else { usize::MAX };
        reading.min(self.writing.get().unwrap_or(usize::MAX)).min(self.slot.bytes())
    }

    /// The offset of `bytes` in the head slot that nobody uses, leaving room for headers.
    pub(crate) fn reserve_in_head(&self, bytes: usize) -> Option<usize> {
        if self.settled.get() || self.writing.get().is_some() {
            return None;
        }
        let offset = self.block_end_max().checked_sub(bytes)? & !(ramet_dataplane::message::BODY_ALIGN - 1);
        if offset < ENVELOPE_BYTES + self.block.as_bytes().len() + BLOCK_ROOM {
            return None;
        }
        self.writing.set(Some(offset));
        self.untouched.set(false);
        Some(offset)
    }

    pub(crate) fn release_in_head(&self) {
        self.writing.set(None);
    }

    /// What the message fails with if nothing better comes.
    pub(crate) fn fail_with(&self, failure: Failure) {
        self.failure.set(failure);
    }

    /// Ends the message as failed.
    pub(crate) fn fail(&self, failure: Failure) {
        self.leave(self.reply_descriptor(Kind::Failed).with_aux(failure as u32));
    }

    /// Hands the head over. The descriptor goes with the next flush.
    pub(crate) fn leave(&self, descriptor: PacketDescriptor) {
        self.settled.set(true);
        self.instance.outbox.push(Parcel::new(descriptor, &self.envelope));
    }

    /// The head has left by other means than [`Service::leave`].
    pub(crate) fn has_left(&self) {
        self.settled.set(true);
    }

    /// A descriptor of the head for whoever waits for the answer.
    pub(crate) fn reply_descriptor(&self, kind: Kind) -> PacketDescriptor {
        self.descriptor(kind, self.envelope.reply_function, self.envelope.reply_instance)
    }

    pub(crate) fn descriptor(&self, kind: Kind, function: FunctionId, peer: InstanceId) -> PacketDescriptor {
        let SlotRef { slot, generation } = self.head;
        PacketDescriptor::new(kind, function, slot, generation, self.envelope.request).to_instance(peer)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !self.settled.get() {
            self.fail(self.failure.get());
        }
    }
}

/// A handle on the body that came with a message: it keeps the message's slots, and new bytes off them.
#[derive(Debug)]
pub(crate) struct Reading(Rc<Service>);

impl Reading {
    pub(crate) fn new(service: &Rc<Service>) -> Self {
        service.readers.set(service.readers.get() + 1);
        Self(Rc::clone(service))
    }

    /// Whether this is the body of that very message.
    pub(crate) fn is_of(&self, service: &Rc<Service>) -> bool {
        Rc::ptr_eq(&self.0, service)
    }
}

impl Clone for Reading {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.set(self.0.readers.get() - 1);
    }
}

/// The body of a message that was read from the head slot `slot`.
pub(crate) fn body_of(instance: &Instance, slot: &Slot, place: BodyPlace, keeper: impl FnOnce() -> Keeper) -> Body {
    let pieces = match place {
        BodyPlace::Inline { bytes: 0, .. } => return Body::empty(),
        BodyPlace::Inline { offset, bytes } => vec![Piece { slot: slot.clone(), offset, bytes, home: Home::Head }],
        BodyPlace::Parts(parts) => {
            let piece = |part: &ramet_dataplane::message::Part| {
                let home = Home::Part(SlotRef { slot: part.slot, generation: part.generation });
                // Reading the message has checked that each part is in the pool.
                let slot = instance.pool.slot(part.slot)?;
                Some(Piece { slot, offset: part.offset as usize, bytes: part.bytes as usize, home })
            };
            parts.iter().filter_map(piece).collect()
        }
    };
    Body(Content::Held(Held { pieces, keeper: keeper() }))
}
