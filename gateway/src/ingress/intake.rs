//! A request on its way into slots: the body is written once, as it comes from the socket.

use std::sync::Arc;
use std::time::Duration;

use ramet_dataplane::message::{self, BodyPlace, Envelope, Part};
use ramet_dataplane::pool::{CLASS_BYTES, CLASSES};
use ramet_dataplane::{Slot, SlotRef};
use tokio::time::Instant;

use crate::exchange::Holdings;
use crate::problem::Problem;

/// What bounds the body of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// The longest body.
    pub(crate) bytes_max: u64,
    /// The longest wait for the next piece.
    pub(crate) pause_max: Duration,
    /// When all of it has to be there.
    pub(crate) deadline: Instant,
}

impl BodyLimits {
    /// Until when a wait that begins now may last.
    pub(super) fn next_pause_ends(&self) -> Instant {
        self.deadline.min(Instant::now() + self.pause_max)
    }
}

/// Where a body comes from.
pub(crate) trait Source {
    /// Writes the body's next bytes at `offset` of `slot`, at most `bytes_max`; returns how many, 0 at the end. A body
    /// that breaks off is an error.
    async fn fill(
        &mut self,
        slot: &mut Slot,
        offset: usize,
        bytes_max: usize,
        limits: BodyLimits,
    ) -> Result<usize, Problem>;
}

/// Takes the body in and writes the message; returns its head and the envelope as written.
pub(crate) async fn take_in(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
    source: &mut impl Source,
    exact: Option<u64>,
    limits: BodyLimits,
) -> Result<(SlotRef, Envelope), Problem> {
    if exact == Some(0) {
        return write_head(holdings, envelope, block, None, &BodyPlace::EMPTY);
    }
    if exact.is_some_and(|bytes| bytes > limits.bytes_max) {
        return Err(Problem::BodyTooLarge(limits.bytes_max));
    }
    let largest = CLASS_BYTES[CLASSES - 1];
    let inline = exact.and_then(|bytes| usize::try_from(bytes).ok());
    let inline = inline.filter(|&bytes| message::inline_slot_bytes(block.len(), bytes) <= largest);
    match inline {
        Some(bytes) => take_inline(holdings, envelope, block, source, bytes, limits).await,
        None => take_parts(holdings, envelope, block, source, exact, limits).await,
    }
}

async fn take_inline(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
    source: &mut impl Source,
    bytes: usize,
    limits: BodyLimits,
) -> Result<(SlotRef, Envelope), Problem> {
    let head = holdings.allocate_bytes(message::inline_slot_bytes(block.len(), bytes)).ok_or(Problem::PoolExhausted)?;
    let mut slot = holdings.slot(head.slot).ok_or(Problem::PoolExhausted)?;
    let offset = message::inline_offset(slot.bytes(), block.len(), bytes).ok_or(Problem::HeadTooLarge)?;
    let mut written = 0;
    while written < bytes {
        match source.fill(&mut slot, offset + written, bytes - written, limits).await? {
            0 => return Err(Problem::BadBody),
            count => written += count,
        }
    }
    write_head(holdings, envelope, block, Some((head, slot)), &BodyPlace::Inline { offset, bytes })
}

/// Fills slots one after the other, each larger than the one before where the length is not known.
async fn take_parts(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
    source: &mut impl Source,
    exact: Option<u64>,
    limits: BodyLimits,
) -> Result<(SlotRef, Envelope), Problem> {
    let mut parts = Vec::new();
    let (mut total, mut is_whole) = (0u64, false);
    while !is_whole && exact != Some(total) {
        let class = exact.map_or(parts.len(), |exact| class_for(exact - total));
        let (found, mut slot) = next_slot(holdings, class).ok_or(Problem::PoolExhausted)?;
        let mut filled = 0;
        while filled < slot.bytes() && !is_whole {
            let room = slot.bytes() - filled;
            let count = source.fill(&mut slot, filled, room, limits).await?;
            filled += count;
            is_whole = count == 0 || exact == Some(total + filled as u64);
            if total + filled as u64 > limits.bytes_max {
                return Err(Problem::BodyTooLarge(limits.bytes_max));
            }
        }
        if filled == 0 {
            holdings.release(found.slot);
            break;
        }
        total += filled as u64;
        parts.push(Part { slot: found.slot, generation: found.generation, offset: 0, bytes: filled as u32 });
    }
    let place = if parts.is_empty() { BodyPlace::EMPTY } else { BodyPlace::Parts(parts) };
    write_head(holdings, envelope, block, None, &place)
}

/// Writes the message without its body, which its function gets in pieces. There is room for it to name some.
pub(crate) fn take_in_head(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
) -> Result<(SlotRef, Envelope), Problem> {
    const TABLE_BYTES: usize = 64 * size_of::<Part>();
    let head = holdings.allocate_bytes(message::inline_slot_bytes(block.len(), TABLE_BYTES));
    let head = head.ok_or(Problem::PoolExhausted)?;
    let slot = holdings.slot(head.slot).ok_or(Problem::PoolExhausted)?;
    write_head(holdings, envelope, block, Some((head, slot)), &BodyPlace::EMPTY)
}

fn class_for(bytes: u64) -> usize {
    CLASS_BYTES.iter().position(|&class| class as u64 >= bytes).unwrap_or(CLASSES - 1)
}

/// A slot of that class; when the large ones are used up, smaller ones serve as well.
fn next_slot(holdings: &Holdings, class: usize) -> Option<(SlotRef, Slot)> {
    let found = (0..=class.min(CLASSES - 1)).rev().find_map(|class| holdings.allocate_class(class))?;
    Some((found, holdings.slot(found.slot)?))
}

fn write_head(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
    head: Option<(SlotRef, Slot)>,
    body: &BodyPlace,
) -> Result<(SlotRef, Envelope), Problem> {
    let (head, slot) = match head {
        Some(head) => head,
        None => {
            let table_bytes = match body {
                BodyPlace::Parts(parts) => parts.len() * size_of::<Part>(),
                BodyPlace::Inline { .. } => 0,
            };
            let needed = message::inline_slot_bytes(block.len(), table_bytes);
            let head = holdings.allocate_bytes(needed).ok_or(Problem::PoolExhausted)?;
            (head, holdings.slot(head.slot).ok_or(Problem::PoolExhausted)?)
        }
    };
    let envelope = Envelope { generation: head.generation, ..envelope };
    let envelope = message::write(&slot, envelope, block, body).map_err(|_| Problem::HeadTooLarge)?;
    Ok((head, envelope))
}
