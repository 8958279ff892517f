//! Memory whose content both ends know. It is read before any other: a device that reads wrongly is found out by what
//! nobody needs.
//!
//! There are such devices. The soft-RoCE of Linux 6.18 takes every packet of an answer from the beginning of a page
//! when it pages on demand, so that reads are right only with packets of at least a page (an MTU of 4200 or more).

use std::sync::LazyLock;

use crate::VerbsError;
use crate::domain::Domain;
use crate::reader::Piece;
use crate::registration::{Paging, Region, Registration};

const PAGE_BYTES: usize = 4096;
const PAGES: usize = 4;
/// Read once in one piece, and once more with the pages in another order.
const BYTES: usize = 2 * PAGES * PAGE_BYTES;

/// How much of a buffer it is read to.
pub const CANARY_BYTES: usize = BYTES;

#[repr(align(4096))]
struct Content([u8; PAGES * PAGE_BYTES]);

/// The memory itself, which is there for good.
static CONTENT: LazyLock<&'static Content> = LazyLock::new(|| {
    let mut content = Box::new(Content([0; PAGES * PAGE_BYTES]));
    for (place, byte) in content.0.iter_mut().enumerate() {
        *byte = expected(place);
    }
    Box::leak(content)
});

/// No two words are the same.
const fn expected(place: usize) -> u8 {
    let word = (place as u64 / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed_ca4a_2b1d_0001;
    word.to_le_bytes()[place % 8]
}

/// Lets a domain's peers read it.
///
/// # Errors
/// The kernel's.
pub fn register(domain: &Domain, paging: Paging) -> Result<Registration, VerbsError> {
    Registration::own(domain, paging, &CONTENT.0)
}

/// How to read it, to the beginning of a buffer.
#[must_use]
pub fn pieces(region: Region) -> Vec<Piece> {
    let piece = |page: usize, to: usize, pages: usize| Piece {
        from: region.start + (page * PAGE_BYTES) as u64,
        key: region.key,
        to: to * PAGE_BYTES,
        bytes: (pages * PAGE_BYTES) as u32,
    };
    let backwards = (0..PAGES).map(|page| piece(page, PAGES + PAGES - 1 - page, 1));
    let mut pieces: Vec<Piece> = backwards.chain([piece(0, 0, PAGES)]).collect();
    pieces.sort_by_key(|piece| piece.to);
    pieces
}

/// Whether it was read rightly.
#[must_use]
pub fn is_intact(read: &[u8]) -> bool {
    let backwards = |place: usize| (PAGES - 1 - place / PAGE_BYTES) * PAGE_BYTES + place % PAGE_BYTES;
    let (whole, single) = read.split_at(read.len().min(PAGES * PAGE_BYTES));
    read.len() == BYTES
        && whole.iter().enumerate().all(|(place, byte)| *byte == expected(place))
        && single.iter().enumerate().all(|(place, byte)| *byte == expected(backwards(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(shift: impl Fn(usize) -> usize) -> Vec<u8> {
        let region = Region { start: 0, bytes: CONTENT.0.len() as u64, key: 0 };
        let mut buffer = vec![0; CANARY_BYTES];
        for piece in pieces(region) {
            for place in 0..piece.bytes as usize {
                buffer[piece.to + place] = CONTENT.0[shift(piece.from as usize + place)];
            }
        }
        buffer
    }

    #[test]
    fn what_is_read_rightly_is_intact_and_nothing_else_is() {
        assert!(is_intact(&read(|place| place)));
        // What soft-RoCE does with packets of 1024 bytes.
        assert!(!is_intact(&read(|place| place / PAGE_BYTES * PAGE_BYTES + place % 1024)));
        assert!(!is_intact(&read(|place| place % PAGE_BYTES)));
        assert!(!is_intact(&vec![0; CANARY_BYTES]));
        assert!(!is_intact(&[]));
        for place in (0..CANARY_BYTES).step_by(97) {
            let mut flipped = read(|place| place);
            flipped[place] ^= 1;
            assert!(!is_intact(&flipped), "byte {place}");
        }
    }
}
