//! What a head slot holds: envelope, head block, and the body inline or as a table of parts.
//!
//! ```text
//! 0          128                 128+block_bytes          tail_offset      end of slot
//! ┌──────────┬───────────────────┬─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┬────────────────┐
//! │ Envelope │ head block        │ room for the block to   │ inline body or │
//! │          │ (line, headers)   │ grow                    │ table of parts │
//! └──────────┴───────────────────┴─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┴────────────────┘
//! ```
//! The body sits at the end so that a function can answer with other headers and leave the body where it is.
//! Everything read here comes from a peer: it is copied once, checked, and only then believed.

mod block;
mod envelope;

pub use block::{BlockWriter, HeadBlock, HeadersIter};
pub use envelope::{ENVELOPE_BYTES, Envelope, FLAG_SHARED, FLAG_STREAMED, FLAG_SUPERVISED, Part};

use ramet_common::{ABI, Generation};
use zerocopy::{FromBytes, IntoBytes};

use crate::pool::{PoolLayout, Slot};

/// The largest head block: request line and headers together, in bytes.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;

/// How many parts a body can have: what the largest head slot's table holds beside a full head block.
pub const PARTS_MAX: usize = 32_768;

/// Bodies start at multiples of this in their slot, so that functions can read them as aligned words.
pub const BODY_ALIGN: usize = 64;

const PART_BYTES: usize = size_of::<Part>();

/// Why a message cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The slot's content is of another layout version.
    #[error("the message has layout version {found}; this build speaks {ABI}")]
    Version {
        /// What was found.
        found: u16,
    },
    /// The slot holds an older or newer message than the descriptor names.
    #[error("the slot's content does not belong to the descriptor's generation")]
    Stale,
    /// A length or offset is impossible.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// Head block and body do not fit the slot.
    #[error("the message needs {needed} bytes but its slot has {available}")]
    TooLarge {
        /// What the message needs.
        needed: usize,
        /// What the slot has.
        available: usize,
    },
}

/// Where a message's body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyPlace {
    /// In the head slot.
    Inline {
        /// The offset in the head slot.
        offset: usize,
        /// The length.
        bytes: usize,
    },
    /// In other slots, in this order.
    Parts(Vec<Part>),
}

impl BodyPlace {
    /// No body.
    pub const EMPTY: BodyPlace = BodyPlace::Inline { offset: 0, bytes: 0 };

    /// The body's length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline { bytes, .. } => *bytes as u64,
            Self::Parts(parts) => parts.iter().map(|part| u64::from(part.bytes)).sum(),
        }
    }
}

/// A message as read from its head slot: private copies, checked.
#[derive(Clone, Debug)]
pub struct Message {
    /// The fixed part.
    pub envelope: Envelope,
    /// Request line and headers.
    pub block: HeadBlock,
    /// Where the body is.
    pub body: BodyPlace,
}

impl Message {
    /// Copies and checks the message in `slot`. Parts are checked against `layout`, not against who owns them.
    ///
    /// # Errors
    /// [`MessageError`]; nothing of the message is to be used then.
    pub fn read(slot: &Slot, generation: Generation, layout: &PoolLayout) -> Result<Self, MessageError> {
        let envelope = read_envelope(slot, generation)?;
        let block_bytes = envelope.block_bytes as usize;
        if block_bytes > BLOCK_BYTES_MAX {
            return Err(MessageError::Malformed("the head block is longer than allowed"));
        }
        let mut block = vec![0; block_bytes];
        slot.copy_out(ENVELOPE_BYTES, &mut block)
            .map_err(|_| MessageError::Malformed("the head block leaves the slot"))?;
        let block = HeadBlock::parse(block)?;
        let body = read_body(slot, &envelope, layout)?;
        Ok(Self { envelope, block, body })
    }
}

fn read_envelope(slot: &Slot, generation: Generation) -> Result<Envelope, MessageError> {
    let mut bytes = [0u8; ENVELOPE_BYTES];
    slot.copy_out(0, &mut bytes).map_err(|_| MessageError::Malformed("the slot is smaller than an envelope"))?;
    let envelope: Envelope = zerocopy::transmute!(bytes);
    if envelope.abi != u16::from(ABI) {
        return Err(MessageError::Version { found: envelope.abi });
    }
    if envelope.generation != generation {
        return Err(MessageError::Stale);
    }
    Ok(envelope)
}

fn read_body(slot: &Slot, envelope: &Envelope, layout: &PoolLayout) -> Result<BodyPlace, MessageError> {
    let (offset, bytes) = (envelope.tail_offset as usize, envelope.tail_bytes as usize);
    let block_end = ENVELOPE_BYTES + envelope.block_bytes as usize;
    if bytes > 0 && (offset < block_end || offset > slot.bytes() || bytes > slot.bytes() - offset) {
        return Err(MessageError::Malformed("the body or its table leaves the slot"));
    }
    let body = if envelope.part_count == 0 {
        BodyPlace::Inline { offset, bytes }
    } else {
        BodyPlace::Parts(read_parts(slot, envelope, layout)?)
    };
    if body.bytes() != envelope.body_bytes {
        return Err(MessageError::Malformed("the body's length is not the sum of its parts"));
    }
    Ok(body)
}

fn read_parts(slot: &Slot, envelope: &Envelope, layout: &PoolLayout) -> Result<Vec<Part>, MessageError> {
    let count = envelope.part_count as usize;
    if count > PARTS_MAX || count * PART_BYTES != envelope.tail_bytes as usize {
        return Err(MessageError::Malformed("the table of parts has another length than its count"));
    }
    let mut table = vec![0u8; count * PART_BYTES];
    slot.copy_out(envelope.tail_offset as usize, &mut table)
        .map_err(|_| MessageError::Malformed("the table of parts leaves the slot"))?;
    let mut parts = Vec::with_capacity(count);
    for bytes in table.chunks_exact(PART_BYTES) {
        let part = Part::read_from_bytes(bytes).map_err(|_| MessageError::Malformed("a part is cut short"))?;
        let place = layout.place(part.slot).ok_or(MessageError::Malformed("a part names no slot of the pool"))?;
        let end = u64::from(part.offset) + u64::from(part.bytes);
        if part.bytes == 0 || end > place.len() as u64 {
            return Err(MessageError::Malformed("a part leaves its slot"));
        }
        parts.push(part);
    }
    Ok(parts)
}

/// Where an inline body of `bytes` goes in a slot of `slot_bytes`; `None` if it does not fit behind `block_bytes`.
#[must_use]
pub fn inline_offset(slot_bytes: usize, block_bytes: usize, bytes: usize) -> Option<usize> {
    let offset = slot_bytes.checked_sub(bytes)? & !(BODY_ALIGN - 1);
    (offset >= ENVELOPE_BYTES + block_bytes).then_some(offset)
}

/// How large a slot must be for a head block and an inline body, with room for the block to grow by a few headers.
#[must_use]
pub fn inline_slot_bytes(block_bytes: usize, body_bytes: usize) -> usize {
    const ROOM: usize = 512;
    ENVELOPE_BYTES + block_bytes + ROOM + body_bytes.next_multiple_of(BODY_ALIGN)
}

/// Writes a message into a head slot that the caller owns. `envelope`'s lengths are filled in here. An inline body must
/// already be in place; a table of parts is written. Returns the envelope as written.
///
/// # Errors
/// [`MessageError::TooLarge`]: the slot is unchanged.
pub fn write(slot: &Slot, mut envelope: Envelope, block: &[u8], body: &BodyPlace) -> Result<Envelope, MessageError> {
    let block_end = ENVELOPE_BYTES + block.len();
    let (tail_offset, tail_bytes, part_count) = match body {
        BodyPlace::Inline { bytes: 0, .. } => (slot.bytes(), 0, 0),
        BodyPlace::Inline { offset, bytes } => (*offset, *bytes, 0),
        BodyPlace::Parts(parts) => {
            let bytes = parts.len() * PART_BYTES;
            let offset = slot.bytes().saturating_sub(bytes) & !(BODY_ALIGN - 1);
            (offset, bytes, parts.len())
        }
    };
    let needed = block_end + tail_bytes;
    if block.len() > BLOCK_BYTES_MAX || part_count > PARTS_MAX || tail_offset < block_end || needed > slot.bytes() {
        return Err(MessageError::TooLarge { needed, available: slot.bytes() });
    }
    envelope.abi = u16::from(ABI);
    envelope.block_bytes = block.len() as u32;
    envelope.tail_offset = tail_offset as u32;
    envelope.tail_bytes = tail_bytes as u32;
    envelope.part_count = part_count as u32;
    envelope.body_bytes = body.bytes();
    let outside = |_| MessageError::TooLarge { needed, available: slot.bytes() };
    slot.copy_in(0, envelope.as_bytes()).map_err(outside)?;
    slot.copy_in(ENVELOPE_BYTES, block).map_err(outside)?;
    if let BodyPlace::Parts(parts) = body {
        slot.copy_in(tail_offset, parts.as_slice().as_bytes()).map_err(outside)?;
    }
    Ok(envelope)
}

/// Rewrites the envelope alone, as returned by [`write()`] or read by [`Message::read`]: for a message that goes on to
/// another step unchanged.
///
/// # Errors
/// [`MessageError::Malformed`] for a slot that is too small to be a head.
pub fn rewrite_envelope(slot: &Slot, envelope: &Envelope) -> Result<(), MessageError> {
    slot.copy_in(0, envelope.as_bytes()).map_err(|_| MessageError::Malformed("the slot is smaller than an envelope"))
}

#[cfg(test)]
mod tests;
