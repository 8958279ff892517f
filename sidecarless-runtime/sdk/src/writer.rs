//! A new body, written where it will be read: in the message's own slot if it fits, else in slots that the gateway
//! lends.

use std::fmt;
use std::io;
use std::rc::Rc;

use ramet_dataplane::Slot;
use ramet_dataplane::message::Part;

use crate::lending::Lent;
use crate::service::Service;

/// Shared memory for a body of up to a known length, from [`crate::Context::body`]. It becomes a [`crate::Body`].
///
/// Either fill it in place ([`BodyWriter::as_mut_slice`], [`BodyWriter::slices_mut`]), or write to it as an
/// [`io::Write`]. The memory holds what its last user left there, so what is not written must be cut off
/// ([`BodyWriter::truncate`]).
pub struct BodyWriter {
    pub(crate) space: Space,
    capacity: usize,
    written: usize,
}

/// Where the bytes go.
pub(crate) enum Space {
    /// Nowhere: the body is empty.
    None,
    /// Into the message's own slot.
    Head(HeadSpace),
    /// Into lent slots, one after the other.
    Lent(Vec<Lent>),
}

/// The one piece of a head slot that can be written at a time.
pub(crate) struct HeadSpace {
    service: Rc<Service>,
    slot: Slot,
    pub(crate) offset: usize,
}

impl HeadSpace {
    /// A place for `bytes` in the head slot, if there is one now.
    pub(crate) fn reserve(service: &Rc<Service>, bytes: usize) -> Option<Self> {
        let offset = service.reserve_in_head(bytes)?;
        Some(Self { service: Rc::clone(service), slot: service.slot.clone(), offset })
    }
}

impl Drop for HeadSpace {
    fn drop(&mut self) {
        self.service.release_in_head();
    }
}

impl BodyWriter {
    pub(crate) fn new(space: Space, capacity: usize) -> Self {
        Self { space, capacity, written: 0 }
    }

    /// Slots that are all full but the last.
    pub(crate) fn filled(slots: Vec<Lent>, written: usize) -> Self {
        Self { space: Space::Lent(slots), capacity: written, written }
    }

    /// How many bytes the body can have.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes the body has now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.written
    }

    /// Whether the body has no bytes yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// All of the memory as one slice, if it is in one slot, as up to 1 MiB are. The body is then as long as the slice.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if let Space::Lent(slots) = &self.space
            && slots.len() > 1
        {
            return None;
        }
        self.slices_mut().next().or(Some(&mut []))
    }

    /// All of the memory, slot by slot. The body is then as long as the slices together.
    pub fn slices_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.written = self.capacity;
        let mut left = self.capacity;
        let (head, lent) = match &mut self.space {
            Space::None => (None, None),
            Space::Head(head) => (Some((&mut head.slot, head.offset)), None),
            Space::Lent(slots) => (None, Some(slots.iter_mut().map(|lent| (&mut lent.slot, 0)))),
        };
        head.into_iter().chain(lent.into_iter().flatten()).filter_map(move |(slot, offset)| {
            let bytes = left.min(slot.bytes() - offset);
            left -= bytes;
            if bytes == 0 { None } else { slot.slice_mut(offset, bytes).ok() }
        })
    }

    /// Cuts the body to `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        self.written = self.written.min(bytes);
    }

    pub(crate) fn piece(&self, index: usize) -> Option<&[u8]> {
        match &self.space {
            Space::None => None,
            Space::Head(head) if index == 0 && self.written > 0 => head.slot.slice(head.offset, self.written).ok(),
            Space::Head(_) => None,
            Space::Lent(slots) => {
                let before: usize = slots.get(..index)?.iter().map(|lent| lent.slot.bytes()).sum();
                let slot = &slots.get(index)?.slot;
                let bytes = self.written.saturating_sub(before).min(slot.bytes());
                if bytes == 0 { None } else { slot.slice(0, bytes).ok() }
            }
        }
    }

    /// The table of parts that names the lent slots. Those that hold nothing go back.
    pub(crate) fn into_parts(self) -> Vec<Part> {
        let Space::Lent(slots) = self.space else { return Vec::new() };
        let mut left = self.written;
        let mut parts = Vec::with_capacity(slots.len());
        for lent in slots {
            let bytes = left.min(lent.slot.bytes());
            left -= bytes;
            if bytes > 0 {
                parts.push(lent.into_part(bytes));
            }
        }
        parts
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let from = &from[..from.len().min(self.capacity - self.written)];
        let mut place = self.written;
        let target = match &mut self.space {
            Space::None => None,
            Space::Head(head) => Some((&mut head.slot, head.offset + place)),
            Space::Lent(slots) => slots.iter_mut().find_map(|lent| {
                if place < lent.slot.bytes() {
                    return Some((&mut lent.slot, place));
                }
                place -= lent.slot.bytes();
                None
            }),
        };
        let Some((slot, offset)) = target else { return Ok(0) };
        let bytes = from.len().min(slot.bytes() - offset);
        slot.copy_in(offset, &from[..bytes]).map_err(io::Error::other)?;
        self.written += bytes;
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter").field("capacity", &self.capacity).field("written", &self.written).finish()
    }
}
