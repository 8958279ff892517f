//! Slots that the gateway lends for new bytes: asked for, waited for, named in a table of parts or given back.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ramet_common::descriptor::{FLAG_BROKEN, FLAG_LENT, Failure, PIECE_FULL, WANT_PIECE, want_aux};
use ramet_common::{FunctionId, Kind, PacketDescriptor};
use ramet_dataplane::message::{FLAG_STREAMED, Part};
use ramet_dataplane::pool::{CLASS_BYTES, CLASSES, PoolLayout};
use ramet_dataplane::{Slot, SlotRef, clock};

use crate::body::{Body, Content, Held, Home, Keeper, Piece};
use crate::call::copied;
use crate::delivery::{Undelivered, after};
use crate::inbox::{Expects, WaitError};
use crate::outbox::Parcel;
use crate::service::{Reading, Service};
use crate::writer::{BodyWriter, HeadSpace, Space};

/// Why there is no memory for a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The pool has no such slots free, or the request has had its share.
    #[error("shared memory for {bytes} bytes of body is used up")]
    Exhausted {
        /// How much was asked for.
        bytes: u64,
    },
    /// No message of this pool can hold that much.
    #[error("a body of {bytes} bytes is larger than any message of this pool can be")]
    TooLarge {
        /// How much was asked for.
        bytes: u64,
    },
    /// The request's deadline passed while waiting for memory, or for more of the request's body.
    #[error("the request's deadline passed while waiting for shared memory or a body")]
    DeadlineExceeded,
    /// Nobody waits for the answer any more.
    #[error("the request was cancelled")]
    Cancelled,
    /// The gateway cannot be asked for memory.
    #[error("the gateway cannot be reached")]
    Unreachable,
    /// The client did not send all of its body, or sent too much, or too slowly.
    #[error("the request's body broke off")]
    BrokenOff,
}

impl BodyError {
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Exhausted { .. } => Failure::Exhausted,
            Self::TooLarge { .. } | Self::BrokenOff => Failure::FunctionError,
            Self::DeadlineExceeded | Self::Cancelled => Failure::DeadlineExceeded,
            Self::Unreachable => Failure::Unreachable,
        }
    }
}

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> Self {
        Self::other(error)
    }
}

/// A slot to write into. Dropped unused, it goes back to the gateway.
pub(crate) struct Lent {
    service: Rc<Service>,
    pub(crate) slot: Slot,
    reference: SlotRef,
    used: bool,
}

impl Lent {
    /// The slot's first `bytes`, for the table of parts of a message of this request.
    pub(crate) fn into_part(mut self, bytes: usize) -> Part {
        self.used = true;
        let SlotRef { slot, generation } = self.reference;
        Part { slot, generation, offset: 0, bytes: bytes as u32 }
    }

    /// The slot's first `bytes`, which the gateway has written.
    fn into_piece(mut self, bytes: usize) -> Piece {
        self.used = true;
        Piece { slot: self.slot.clone(), offset: 0, bytes, home: Home::Part(self.reference) }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lent").field(&self.reference).finish()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        let SlotRef { slot, generation } = self.reference;
        let envelope = &self.service.envelope;
        let back = PacketDescriptor::new(Kind::Return, FunctionId::GATEWAY, slot, generation, envelope.request)
            .to_instance(envelope.gateway)
            .with_flags(FLAG_LENT);
        self.service.instance.outbox.push(Parcel::to_gateway(back));
    }
}

/// Memory for a body of `bytes`: in the head slot if it fits there, else lent.
pub(crate) async fn body_writer(service: &Rc<Service>, bytes: usize) -> Result<BodyWriter, BodyError> {
    if bytes == 0 {
        return Ok(BodyWriter::new(Space::None, 0));
    }
    if let Some(head) = HeadSpace::reserve(service, bytes) {
        return Ok(BodyWriter::new(Space::Head(head), bytes));
    }
    let slots = borrow(service, bytes, service.envelope.deadline_ns).await?;
    Ok(BodyWriter::new(Space::Lent(slots), bytes))
}

/// Slots that together hold `bytes`: one if any is large enough, else several of the largest.
pub(crate) async fn borrow(service: &Rc<Service>, bytes: usize, until_ns: u64) -> Result<Vec<Lent>, BodyError> {
    let too_large = BodyError::TooLarge { bytes: bytes as u64 };
    let (class, count) = class_and_count(service.instance.pool.layout(), bytes).ok_or(too_large)?;
    borrow_class(service, class, count, until_ns).await
}

/// That many slots of that class or larger.
pub(crate) async fn borrow_class(
    service: &Rc<Service>,
    class: usize,
    count: u16,
    until_ns: u64,
) -> Result<Vec<Lent>, BodyError> {
    let instance = &service.instance;
    let gateway = service.envelope.gateway;
    let ticket = instance.expect(service, service.envelope.request, Expects::Lends(count), until_ns);
    let want = service.descriptor(Kind::Want, FunctionId::GATEWAY, gateway).with_aux(want_aux(class as u16, count));
    instance.deliver(&want, until_ns).await.map_err(unreachable)?;
    let bytes = CLASS_BYTES[class] as u64 * u64::from(count);
    let lends = ticket.await.map_err(|error| without(&error, bytes))?;
    let lent = |lend: &PacketDescriptor| {
        let slot = instance.pool.slot(lend.slot)?;
        let reference = SlotRef { slot: lend.slot, generation: lend.generation };
        Some(Lent { service: Rc::clone(service), slot, reference, used: false })
    };
    let slots: Vec<_> = lends.iter().filter_map(lent).collect();
    let held: usize = slots.iter().map(|lent| lent.slot.bytes()).sum();
    if (held as u64) < bytes { Err(BodyError::Exhausted { bytes }) } else { Ok(slots) }
}

/// How long a piece of a body may take to come once the answer has begun, and no deadline ends the request: the gateway
/// ends a body that comes too slowly long before.
const PIECE_WAIT_MAX: Duration = Duration::from_secs(600);

/// How large a piece is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Some bytes.
    Any,
    /// As many as its slot holds: it will be kept.
    Full,
}

/// The next piece of a request's body that is still coming, with its length. `None`: that was all of it.
pub(crate) async fn next_piece(service: &Rc<Service>, size: Size) -> Result<Option<(Lent, usize)>, BodyError> {
    let instance = &service.instance;
    let until_ns =
        if service.is_settled() { after(clock::now_ns(), PIECE_WAIT_MAX) } else { service.envelope.deadline_ns };
    // Those that were read go back first, or a long body would need as much memory as it is long.
    instance.flush().await;
    let full = if size == Size::Full { PIECE_FULL } else { 0 };
    let ticket = instance.expect(service, service.envelope.request, Expects::Piece, until_ns);
    let want = service.descriptor(Kind::Want, FunctionId::GATEWAY, service.envelope.gateway);
    instance.deliver(&want.with_aux(want_aux(WANT_PIECE, full)), until_ns).await.map_err(unreachable)?;
    let lends = ticket.await.map_err(|error| without(&error, 0))?;
    let Some(lend) = lends.first().filter(|lend| lend.flags & FLAG_BROKEN == 0) else {
        return Err(BodyError::BrokenOff);
    };
    if lend.aux == 0 {
        return Ok(None);
    }
    let slot = instance.pool.slot(lend.slot).ok_or(BodyError::BrokenOff)?;
    let bytes = slot.bytes().min(lend.aux as usize);
    let reference = SlotRef { slot: lend.slot, generation: lend.generation };
    Ok(Some((Lent { service: Rc::clone(service), slot, reference, used: false }, bytes)))
}

/// How many pieces a message surely has room to name.
const PIECES_MAX: usize = 64;

/// All of a request's body, which may still be coming.
pub(crate) async fn whole_body(service: &Rc<Service>, body: Body) -> Result<Body, BodyError> {
    if service.envelope.flags & FLAG_STREAMED == 0 {
        return Ok(body);
    }
    // What is in the head slot is not the message any more that it will be sent on as.
    service.touch();
    let mut pieces = Vec::new();
    while let Some((lent, bytes)) = next_piece(service, Size::Full).await? {
        pieces.push(lent.into_piece(bytes));
    }
    let many = pieces.len() > PIECES_MAX;
    let body = Body(Content::Held(Held { pieces, keeper: Keeper::Request(Reading::new(service)) }));
    if many { Ok(copied(service, &body, service.envelope.deadline_ns).await?.into()) } else { Ok(body) }
}

/// The class of slots to ask for, and how many of them.
pub(crate) fn class_and_count(layout: &PoolLayout, bytes: usize) -> Option<(usize, u16)> {
    let has_slots = |class: &usize| layout.counts[*class] > 0;
    if let Some(class) = (0..CLASSES).filter(has_slots).find(|&class| CLASS_BYTES[class] >= bytes) {
        return Some((class, 1));
    }
    let class = (0..CLASSES).rev().find(has_slots)?;
    let count = u16::try_from(bytes.div_ceil(CLASS_BYTES[class])).ok()?;
    (u32::from(count) <= layout.counts[class]).then_some((class, count))
}

fn unreachable(undelivered: Undelivered) -> BodyError {
    match undelivered {
        Undelivered::Full => BodyError::DeadlineExceeded,
        // The gateway takes a request's slots from whoever holds them when it ends.
        Undelivered::Refused(_) => BodyError::Cancelled,
        Undelivered::Unreachable | Undelivered::Closed => BodyError::Unreachable,
    }
}

fn without(error: &WaitError, bytes: u64) -> BodyError {
    match error {
        WaitError::Sorry(_) => BodyError::Exhausted { bytes },
        WaitError::DeadlineExceeded => BodyError::DeadlineExceeded,
        WaitError::Cancelled => BodyError::Cancelled,
        WaitError::Closed => BodyError::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_slot_that_fits_else_several_of_the_largest() {
        let layout = PoolLayout { counts: [8, 0, 4, 0, 2] };
        assert_eq!(class_and_count(&layout, 1), Some((0, 1)));
        assert_eq!(class_and_count(&layout, 5000), Some((2, 1)), "no slot of 16 KiB: the next larger");
        assert_eq!(class_and_count(&layout, 100 << 10), Some((4, 1)));
        assert_eq!(class_and_count(&layout, (1 << 20) + 1), Some((4, 2)));
        assert_eq!(class_and_count(&layout, 3 << 20), None, "more than the pool has");
        let small = PoolLayout { counts: [8, 0, 0, 0, 0] };
        assert_eq!(class_and_count(&small, 10_000), Some((0, 3)));
    }
}
