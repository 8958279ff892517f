//! Where the body of an outcome is: where it was, where the handler wrote it, or copied to where it fits.

use std::rc::Rc;

use ramet_dataplane::SlotRef;
use ramet_dataplane::message::{BODY_ALIGN, BodyPlace, ENVELOPE_BYTES, Part};

use crate::body::{Body, Content, Held, Home, Keeper};
use crate::call::copied;
use crate::lending::BodyError;
use crate::service::Service;
use crate::writer::Space;

/// The place of `body` in a message whose head block has `block_bytes`.
pub(super) async fn place(service: &Rc<Service>, body: Body, block_bytes: usize) -> Result<BodyPlace, BodyError> {
    if body.is_empty() {
        return Ok(BodyPlace::EMPTY);
    }
    let block_end = ENVELOPE_BYTES + block_bytes;
    match body.0 {
        Content::Held(held) => match in_place(service, &held, block_end) {
            Some(place) => Ok(place),
            None => copy(service, &Body(Content::Held(held)), block_end).await,
        },
        Content::Written(writer) => match &writer.space {
            Space::Head(head) if head.offset >= block_end => {
                Ok(BodyPlace::Inline { offset: head.offset, bytes: writer.len() })
            }
            Space::Lent(_) => Ok(BodyPlace::Parts(writer.into_parts())),
            Space::Head(_) | Space::None => copy(service, &writer.into(), block_end).await,
        },
        Content::Owned(_) => copy(service, &body, block_end).await,
    }
}

/// A body of this request can stay where it is, unless the head block has grown into it.
fn in_place(service: &Rc<Service>, held: &Held, block_end: usize) -> Option<BodyPlace> {
    match &held.keeper {
        Keeper::Request(reading) if reading.is_of(service) => {}
        // A reply's slots end with the call.
        Keeper::Request(_) | Keeper::Reply(_) => return None,
    }
    if let [piece] = &*held.pieces
        && piece.home == Home::Head
    {
        return (piece.offset >= block_end).then_some(BodyPlace::Inline { offset: piece.offset, bytes: piece.bytes });
    }
    let part = |piece: &crate::body::Piece| match piece.home {
        Home::Part(SlotRef { slot, generation }) => {
            Some(Part { slot, generation, offset: piece.offset as u32, bytes: piece.bytes as u32 })
        }
        Home::Head => None,
    };
    held.pieces.iter().map(part).collect::<Option<Vec<_>>>().map(BodyPlace::Parts)
}

/// Copies a body to the end of the head slot if it fits there, else to lent slots.
async fn copy(service: &Rc<Service>, body: &Body, block_end: usize) -> Result<BodyPlace, BodyError> {
    if let Some(place) = copy_to_head(service, body, block_end) {
        return Ok(place);
    }
    Ok(BodyPlace::Parts(copied(service, body, service.envelope.deadline_ns).await?.into_parts()))
}

fn copy_to_head(service: &Service, body: &Body, block_end: usize) -> Option<BodyPlace> {
    let bytes = usize::try_from(body.len()).ok()?;
    // Below whatever of the slot is still being read.
    let offset = service.block_end_max().checked_sub(bytes)? & !(BODY_ALIGN - 1);
    if offset < block_end {
        return None;
    }
    let mut at = offset;
    for chunk in body.chunks() {
        service.slot.copy_in(at, chunk).ok()?;
        at += chunk.len();
    }
    Some(BodyPlace::Inline { offset, bytes })
}
