//! Words that several processes share: each on a cache line of its own, so that only those who mean the same word meet.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::segment::{Access, Mapping, SegmentError};

const LINE_BYTES: usize = 64;

/// Some words in a sealed memfd, all zero in the beginning.
#[derive(Clone, Debug)]
pub struct SharedWords {
    mapping: Arc<Mapping>,
    count: usize,
}

impl SharedWords {
    /// The bytes of the memfd of so many words.
    #[must_use]
    pub const fn bytes_for(count: usize) -> usize {
        (count * LINE_BYTES).next_multiple_of(4096)
    }

    /// Maps the words in `fd`, made by [`crate::segment::create_sealed`] with [`Self::bytes_for`].
    ///
    /// # Errors
    /// A file of another size or without seals, or `mmap`'s error.
    pub fn map(fd: BorrowedFd<'_>, count: usize) -> Result<Self, SegmentError> {
        let bytes = Self::bytes_for(count);
        crate::segment::check_sealed(fd, bytes)?;
        Ok(Self { mapping: Mapping::new(fd, 0, bytes, Access::ReadWrite)?, count })
    }

    /// A word, which its other users may change at any moment. `None`: there are not so many.
    #[must_use]
    pub fn word(&self, number: usize) -> Option<&AtomicU32> {
        if number >= self.count {
            return None;
        }
        let pointer = self.mapping.typed::<AtomicU32>(number * LINE_BYTES).ok()?;
        // SAFETY: S1, S2, S4: an aligned word inside the mapping, only ever accessed as an atomic.
        Some(unsafe { pointer.as_ref() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::create_sealed;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_see_the_same_words_and_no_others() {
        let fd = create_sealed("words", SharedWords::bytes_for(2)).expect("memfd");
        let map = || SharedWords::map(fd.as_fd(), 2).expect("map");
        let (one, other) = (map(), map());
        one.word(1).expect("a word").store(7, Ordering::Relaxed);
        assert_eq!(other.word(1).expect("a word").load(Ordering::Relaxed), 7);
        assert_eq!(other.word(0).expect("a word").load(Ordering::Relaxed), 0);
        assert!(one.word(2).is_none());
    }
}
