//! What of an address space is still missing, and where it comes from.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use ramet_sys::Range;

use crate::mapped::Beneath;

/// Where the bytes of a range come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From the seed's memory, or an ancestor's, at this address for all of them and after.
    Seed(u64),
    /// From a mapped file at this offset and after: what was over it was given up.
    File(u32, u64),
    /// They are zeros.
    Zeros,
}

impl Origin {
    const fn after(self, bytes: u64) -> Self {
        match self {
            Self::Seed(start) => Self::Seed(start + bytes),
            Self::File(file, offset) => Self::File(file, offset + bytes),
            Self::Zeros => Self::Zeros,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    end: u64,
    origin: Origin,
}

/// The ranges of an address space whose faults are ours. Ranges that are in none are zeros: they were added since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pieces: BTreeMap<u64, Piece>,
    beneath: Arc<Beneath>,
}

impl Missing {
    /// Nothing is missing yet.
    pub(crate) fn over(beneath: Beneath) -> Self {
        Self { pieces: BTreeMap::new(), beneath: Arc::new(beneath) }
    }

    /// What given up pages may come from.
    pub(crate) fn beneath(&self) -> &Beneath {
        &self.beneath
    }

    /// Says where a range comes from, in place of what was said before.
    pub(crate) fn set(&mut self, range: Range, origin: Origin) {
        self.take(range);
        self.pieces.insert(range.start, Piece { end: range.end(), origin });
    }

    /// Where the byte at an address comes from, and how much after it comes from there too.
    pub(crate) fn origin(&self, address: u64) -> (Origin, u64) {
        match self.pieces.range(..=address).next_back() {
            Some((start, piece)) if address < piece.end => (piece.origin.after(address - start), piece.end - address),
            _ => (Origin::Zeros, 0),
        }
    }

    /// What is known of a range, ascending.
    pub(crate) fn pieces(&self, range: Range) -> Vec<(Range, Origin)> {
        let first = self.pieces.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let pieces = self.pieces.range(first..range.end()).filter(|(_, piece)| piece.end > range.start);
        let within = pieces.map(|(start, piece)| {
            let from = (*start).max(range.start);
            (Range::new(from, piece.end.min(range.end())), piece.origin.after(from - start))
        });
        within.collect()
    }

    /// The range is somewhere else now, in place of what was there.
    pub(crate) fn rename(&mut self, from: Range, to: u64) {
        let pieces = self.take(from);
        self.take(Range { start: to, bytes: from.bytes });
        for (start, piece) in pieces {
            self.set(Range { start: to + (start - from.start), bytes: piece.end - start }, piece.origin);
        }
    }

    /// What the range held is given up: it is zeros now, or the file's that was beneath.
    pub(crate) fn give_up(&mut self, range: Range) {
        for (start, piece) in self.take(range) {
            let file = match piece.origin {
                // A piece is in one run of changed pages.
                Origin::Seed(from) => self.beneath.file(from),
                Origin::File(file, offset) => Some((file, offset)),
                Origin::Zeros => None,
            };
            if let Some((file, offset)) = file {
                self.set(Range::new(start, piece.end), Origin::File(file, offset));
            }
        }
    }

    /// Nothing is known of the range any more.
    pub(crate) fn forget(&mut self, range: Range) {
        self.take(range);
    }

    /// Forgets those pieces of a range that are not mapped.
    pub(crate) fn keep_mapped(&mut self, range: Range, is_mapped: impl Fn(u64) -> bool) {
        for (start, piece) in self.take(range) {
            if is_mapped(start) {
                self.pieces.insert(start, piece);
            }
        }
    }

    /// Cuts a range out.
    fn take(&mut self, range: Range) -> Vec<(u64, Piece)> {
        self.split(range.start);
        self.split(range.end());
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end()));
        let taken: Vec<_> = self.pieces.range(bounds).map(|(start, piece)| (*start, *piece)).collect();
        for (start, _) in &taken {
            self.pieces.remove(start);
        }
        taken
    }

    /// Lets no piece go across an address.
    fn split(&mut self, at: u64) {
        let Some((&start, piece)) = self.pieces.range_mut(..at).next_back() else { return };
        if piece.end <= at {
            return;
        }
        let rest = Piece { end: piece.end, origin: piece.origin.after(at - start) };
        piece.end = at;
        self.pieces.insert(at, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded() -> Missing {
        let mut missing = Missing::default();
        missing.set(Range::new(0x1000, 0x9000), Origin::Seed(0x1000));
        missing
    }

    #[test]
    fn what_was_removed_is_zeros_and_its_neighbours_are_not() {
        let mut missing = seeded();
        missing.give_up(Range::new(0x3000, 0x5000));
        assert_eq!(missing.origin(0x2fff), (Origin::Seed(0x2fff), 1));
        assert_eq!(missing.origin(0x3000), (Origin::Zeros, 0));
        assert_eq!(missing.origin(0x5000), (Origin::Seed(0x5000), 0x4000));
        assert_eq!(missing.origin(0x9000), (Origin::Zeros, 0));
    }

    #[test]
    fn what_has_moved_comes_from_where_it_came() {
        let mut missing = seeded();
        missing.rename(Range::new(0x2000, 0x4000), 0x10_0000);
        assert_eq!(missing.origin(0x10_0000), (Origin::Seed(0x2000), 0x2000));
        assert_eq!(missing.origin(0x2000), (Origin::Zeros, 0));
        assert_eq!(missing.origin(0x4000), (Origin::Seed(0x4000), 0x5000));
        // And back, in part over what is still there.
        missing.rename(Range::new(0x10_0000, 0x10_1000), 0x4000);
        assert_eq!(missing.origin(0x4000), (Origin::Seed(0x2000), 0x1000));
        assert_eq!(missing.origin(0x5000), (Origin::Seed(0x5000), 0x4000));
    }

    #[test]
    fn what_is_known_of_a_range_is_no_more_than_that() {
        let mut missing = seeded();
        missing.give_up(Range::new(0x3000, 0x5000));
        let known = missing.pieces(Range::new(0x2000, 0x7000));
        let known_of = |start, end| (Range::new(start, end), Origin::Seed(start));
        assert_eq!(known, [known_of(0x2000, 0x3000), known_of(0x5000, 0x7000)]);
        assert_eq!(missing.pieces(Range::new(0x3000, 0x5000)), []);
    }

    #[test]
    fn what_is_unmapped_is_forgotten() {
        let mut missing = seeded();
        missing.forget(Range::new(0, 0x8000));
        assert_eq!(missing.origin(0x1000), (Origin::Zeros, 0));
        assert_eq!(missing.origin(0x8000), (Origin::Seed(0x8000), 0x1000));
    }
}
