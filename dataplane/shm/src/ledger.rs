//! One owner word per slot, in memory that functions of another domain, or in S mode any function, cannot map.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ramet_common::{Generation, InstanceId, LedgerWord, SlotIndex};

use crate::segment::{Access, Mapping, SegmentError};

/// The bytes of one word.
pub const WORD_BYTES: usize = 8;

/// A domain's ledger: the words of its slots, inside a BPF array or a memfd.
#[derive(Clone, Debug)]
pub struct Ledger {
    mapping: Arc<Mapping>,
    count: u32,
}

impl Ledger {
    /// Maps the words `base..base + count`. `base` starts a page: it is a multiple of 512.
    ///
    /// # Errors
    /// `mmap`'s error.
    pub fn map(fd: BorrowedFd<'_>, base: u32, count: u32) -> Result<Self, SegmentError> {
        let bytes = Self::bytes_for(count);
        let mapping = Mapping::new(fd, base as usize * WORD_BYTES, bytes, Access::ReadWrite)?;
        Ok(Self { mapping, count })
    }

    /// The bytes to map for `count` words: whole pages.
    #[must_use]
    pub fn bytes_for(count: u32) -> usize {
        (count as usize * WORD_BYTES).next_multiple_of(4096).max(4096)
    }

    /// How many slots it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Who owns `slot` now; `None` where there is no such slot.
    #[must_use]
    pub fn read(&self, slot: SlotIndex) -> Option<LedgerWord> {
        // SYNC: owner published; pairs with `hand_over`.
        Some(LedgerWord::from_bits(self.word(slot)?.load(Ordering::Acquire)))
    }

    /// Whether `owner` owns `slot` at that generation, for an owner that will hand it on: the word is taken as if to be
    /// written, so that its cache line comes here once and not twice.
    #[must_use]
    pub fn is_owned(&self, slot: SlotIndex, generation: Generation, owner: InstanceId) -> bool {
        self.hand_over(slot, generation, owner, owner)
    }

    /// Moves `slot` from one owner to another at an unchanged generation. False if `from` did not own it.
    #[must_use]
    pub fn hand_over(&self, slot: SlotIndex, generation: Generation, from: InstanceId, to: InstanceId) -> bool {
        let before = LedgerWord { owner: from, generation }.to_bits();
        let after = LedgerWord { owner: to, generation }.to_bits();
        // SYNC: owner published; pairs with `read` and with SPROXY's compare-and-swap.
        self.word(slot)
            .is_some_and(|word| word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// Makes the gateway the owner at the next generation, which kills every descriptor that still names the slot.
    /// Returns the new generation. Only the gateway calls this.
    #[must_use]
    pub fn take_back(&self, slot: SlotIndex) -> Option<Generation> {
        let word = self.word(slot)?;
        // SYNC: owner published; pairs with `hand_over`.
        let generation = LedgerWord::from_bits(word.load(Ordering::Acquire)).generation.next();
        // SYNC: owner published. A plain store: whatever a racing hand-over wrote is dead by the new generation.
        word.store(LedgerWord { owner: InstanceId::NONE, generation }.to_bits(), Ordering::Release);
        Some(generation)
    }

    fn word(&self, slot: SlotIndex) -> Option<&AtomicU64> {
        if slot.0 >= self.count {
            return None;
        }
        let pointer = self.mapping.typed::<AtomicU64>(slot.0 as usize * WORD_BYTES).ok()?;
        // SAFETY: S1, S2, S4: an aligned word inside the mapping, only ever accessed as an atomic.
        Some(unsafe { pointer.as_ref() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::create_sealed;
    use std::os::fd::AsFd;

    fn ledger(count: u32) -> Ledger {
        let fd = create_sealed("ledger", Ledger::bytes_for(count)).expect("memfd");
        Ledger::map(fd.as_fd(), 0, count).expect("map")
    }

    #[test]
    fn only_the_owner_at_that_generation_hands_over() {
        let ledger = ledger(4);
        let (slot, a, b) = (SlotIndex(3), InstanceId(1), InstanceId(2));
        assert!(ledger.hand_over(slot, Generation(0), InstanceId::NONE, a));
        assert!(!ledger.hand_over(slot, Generation(0), InstanceId::NONE, b), "a owns it");
        assert!(!ledger.hand_over(slot, Generation(1), a, b), "stale generation");
        assert!(ledger.hand_over(slot, Generation(0), a, b));
        assert!(!ledger.hand_over(slot, Generation(0), a, b), "replayed");
    }

    #[test]
    fn taking_back_kills_descriptors_in_flight() {
        let ledger = ledger(1);
        let a = InstanceId(7);
        assert!(ledger.hand_over(SlotIndex(0), Generation(0), InstanceId::NONE, a));
        assert_eq!(ledger.take_back(SlotIndex(0)), Some(Generation(1)));
        assert!(!ledger.hand_over(SlotIndex(0), Generation(0), a, InstanceId(8)));
        assert_eq!(ledger.take_back(SlotIndex(1)), None, "no such slot");
    }
}
