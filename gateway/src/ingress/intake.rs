//! A request on its way into slots: the body is written once, as it comes from the socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use ramet_dataplane::message::{self, BodyPlace, Envelope, Part};
use ramet_dataplane::pool::{CLASS_BYTES, CLASSES};
use ramet_dataplane::{Slot, SlotRef};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::exchange::Holdings;
use crate::problem::Problem;

/// What bounds the body of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// The longest body.
    pub(crate) bytes_max: u64,
    /// The longest wait for the next piece.
    pub(crate) pause_max: Duration,
    /// Whether the client sends its body only when it is asked to.
    pub(crate) awaits_continue: bool,
}

/// Takes the body in and writes the message; returns its head and the envelope as written.
pub(crate) async fn take_in(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
    body: Incoming,
    limits: BodyLimits,
) -> Result<(SlotRef, Envelope), Problem> {
    if body.is_end_stream() {
        return write_head(holdings, envelope, block, None, &BodyPlace::EMPTY);
    }
    let exact = body.size_hint().exact();
    if exact.is_some_and(|bytes| bytes > limits.bytes_max) {
        if !limits.awaits_continue {
            spawn_local(discard(body));
        }
        return Err(Problem::BodyTooLarge(limits.bytes_max));
    }
    let largest = CLASS_BYTES[CLASSES - 1];
    let inline = exact.and_then(|bytes| usize::try_from(bytes).ok());
    let inline = inline.filter(|&bytes| message::inline_slot_bytes(block.len(), bytes) <= largest);
    match inline {
        Some(bytes) => take_inline(holdings, envelope, block, body, bytes, limits).await,
        None => take_parts(holdings, envelope, block, body, exact, limits).await,
    }
}

async fn take_inline(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
    mut body: Incoming,
    bytes: usize,
    limits: BodyLimits,
) -> Result<(SlotRef, Envelope), Problem> {
    let head = holdings.allocate_bytes(message::inline_slot_bytes(block.len(), bytes)).ok_or(Problem::PoolExhausted)?;
    let slot = holdings.slot(head.slot).ok_or(Problem::PoolExhausted)?;
    let offset = message::inline_offset(slot.bytes(), block.len(), bytes).ok_or(Problem::HeadTooLarge)?;
    let mut written = 0;
    while let Some(data) = next_piece(&mut body, limits.pause_max).await? {
        if data.len() > bytes - written {
            return Err(Problem::BadBody);
        }
        slot.copy_in(offset + written, &data).map_err(|_| Problem::BadBody)?;
        written += data.len();
    }
    if written < bytes {
        return Err(Problem::BadBody);
    }
    write_head(holdings, envelope, block, Some((head, slot)), &BodyPlace::Inline { offset, bytes })
}

async fn take_parts(
    holdings: &Arc<Holdings>,
    envelope: Envelope,
    block: &[u8],
    mut body: Incoming,
    exact: Option<u64>,
    limits: BodyLimits,
) -> Result<(SlotRef, Envelope), Problem> {
    let mut parts = PartsWriter { holdings, parts: Vec::new(), open: None, total: 0, class: 0 };
    while let Some(mut data) = next_piece(&mut body, limits.pause_max).await? {
        if parts.total + data.len() as u64 > limits.bytes_max {
            spawn_local(discard(body));
            return Err(Problem::BodyTooLarge(limits.bytes_max));
        }
        let left = exact.map(|exact| exact.saturating_sub(parts.total));
        while data.has_remaining() {
            let taken = parts.write(&data, left)?;
            data.advance(taken);
        }
    }
    let parts = parts.parts;
    let place = if parts.is_empty() { BodyPlace::EMPTY } else { BodyPlace::Parts(parts) };
    write_head(holdings, envelope, block, None, &place)
}

/// Fills slots one after the other, each larger than the one before where the length is not known.
struct PartsWriter<'h> {
    holdings: &'h Arc<Holdings>,
    parts: Vec<Part>,
    open: Option<Slot>,
    total: u64,
    class: usize,
}

impl PartsWriter<'_> {
    fn write(&mut self, data: &Bytes, left: Option<u64>) -> Result<usize, Problem> {
        let slot = match self.open.take() {
            Some(slot) => slot,
            None => self.next_slot(left)?,
        };
        let part = self.parts.last_mut().ok_or(Problem::BadBody)?;
        let filled = part.bytes as usize;
        let taken = data.len().min(slot.bytes() - filled);
        slot.copy_in(filled, &data[..taken]).map_err(|_| Problem::BadBody)?;
        part.bytes += taken as u32;
        self.total += taken as u64;
        if filled + taken < slot.bytes() {
            self.open = Some(slot);
        }
        Ok(taken)
    }

    fn next_slot(&mut self, left: Option<u64>) -> Result<Slot, Problem> {
        let largest = CLASSES - 1;
        let class = match left.and_then(|left| usize::try_from(left).ok()) {
            Some(left) => CLASS_BYTES.iter().position(|&bytes| bytes >= left).unwrap_or(largest),
            None => self.class,
        };
        self.class = (self.class + 1).min(largest);
        // When the large slots are used up, smaller ones serve as well.
        let found = (0..=class).rev().find_map(|class| self.holdings.allocate_class(class));
        let found = found.ok_or(Problem::PoolExhausted)?;
        self.parts.push(Part { slot: found.slot, generation: found.generation, offset: 0, bytes: 0 });
        self.holdings.slot(found.slot).ok_or(Problem::PoolExhausted)
    }
}

/// Reads what a client is still sending while it is told that it is too much: a connection that is closed on unread
/// bytes is reset, and the client would never see why.
async fn discard(mut body: Incoming) {
    const BYTES_MAX: usize = 64 << 20;
    const TIME_MAX: Duration = Duration::from_secs(2);
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > BYTES_MAX {
                break;
            }
        }
    };
    // Whoever sends for longer is cut off.
    let _ = timeout(TIME_MAX, read).await;
}

async fn next_piece(body: &mut Incoming, pause_max: Duration) -> Result<Option<Bytes>, Problem> {
    loop {
        match timeout(pause_max, body.frame()).await {
            Err(_) => return Err(Problem::BodyTimeout),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(Problem::BadBody),
            // Trailers are not passed on.
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
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
