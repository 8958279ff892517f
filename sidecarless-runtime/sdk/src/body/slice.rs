//! A range of a body, in place: all of it, or one branch's answer in a joined one.

use std::borrow::Cow;

use super::{Body, BodyReader};

/// Bytes of a [`Body`], in place.
#[derive(Clone, Copy, Debug)]
pub struct BodySlice<'a> {
    body: &'a Body,
    start: u64,
    bytes: u64,
}

impl<'a> BodySlice<'a> {
    pub(super) fn all(body: &'a Body) -> Self {
        Self { body, start: 0, bytes: body.len() }
    }

    /// The `bytes` from `start` on, or as many of them as there are.
    #[must_use]
    pub fn cut(self, start: u64, bytes: u64) -> Self {
        let start = start.min(self.bytes);
        Self { body: self.body, start: self.start + start, bytes: bytes.min(self.bytes - start) }
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// All bytes in place, if they are in one slot.
    #[must_use]
    pub fn as_contiguous(&self) -> Option<&'a [u8]> {
        let first = self.chunks().next().unwrap_or_default();
        (first.len() as u64 == self.bytes).then_some(first)
    }

    /// All bytes: in place if they are in one slot, else copied together.
    #[must_use]
    pub fn to_contiguous(&self) -> Cow<'a, [u8]> {
        self.as_contiguous().map_or_else(|| Cow::Owned(self.chunks().collect::<Vec<_>>().concat()), Cow::Borrowed)
    }

    /// The bytes in place, slot by slot. No chunk is empty.
    #[must_use]
    pub fn chunks(&self) -> Chunks<'a> {
        Chunks { body: self.body, index: 0, skip: self.start, left: self.bytes }
    }

    /// The bytes as a stream that can be read, sought in and read by lines.
    #[must_use]
    pub fn reader(&self) -> BodyReader<'a> {
        BodyReader::new(*self)
    }
}

/// Iterates over the bytes of a body, slot by slot.
#[derive(Clone, Debug)]
pub struct Chunks<'a> {
    body: &'a Body,
    index: usize,
    skip: u64,
    left: u64,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while self.left > 0 {
            let piece = self.body.piece(self.index)?;
            self.index += 1;
            if piece.len() as u64 <= self.skip {
                self.skip -= piece.len() as u64;
                continue;
            }
            let rest = &piece[self.skip as usize..];
            self.skip = 0;
            let chunk = &rest[..rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))];
            self.left -= chunk.len() as u64;
            return Some(chunk);
        }
        None
    }
}
