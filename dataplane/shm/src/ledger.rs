//! One owner word per slot, in memory that functions of another domain, or in S mode any function, cannot map.
//!
//! Where senders themselves choose among replicas, the loads of the domain's instances follow the words: what SPROXY
//! keeps in its instance table otherwise.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ramet_common::map::INSTANCES_MAX;
use ramet_common::{Generation, InstanceId, LedgerWord, SlotIndex};

use crate::segment::{Access, Mapping, SegmentError, check_sealed};

/// The bytes of one word.
pub const WORD_BYTES: usize = 8;

/// Each word of a load is on a cache line of its own.
const LINE_BYTES: usize = 64;

/// In how many words those who give an instance messages count them, so that they hardly ever meet, nor the instance.
const GIVERS: u32 = 4;

/// One word that the instance counts in, and those of its senders.
const LOAD_BYTES: usize = (1 + GIVERS as usize) * LINE_BYTES;

/// A domain's ledger: the words of its slots, inside a BPF array or a memfd.
#[derive(Clone, Debug)]
pub struct Ledger {
    mapping: Arc<Mapping>,
    count: u32,
    /// Where the loads begin, if they are here.
    loads: Option<usize>,
}

impl Ledger {
    /// Maps the words `base..base + count`. `base` starts a page: it is a multiple of 512.
    ///
    /// # Errors
    /// `mmap`'s error.
    pub fn map(fd: BorrowedFd<'_>, base: u32, count: u32) -> Result<Self, SegmentError> {
        let bytes = Self::bytes_for(count);
        let mapping = Mapping::new(fd, base as usize * WORD_BYTES, bytes, Access::ReadWrite)?;
        Ok(Self { mapping, count, loads: None })
    }

    /// Maps all of a memfd of [`Self::shared_bytes_for`]: the words of slots `0..count`, and the loads.
    ///
    /// # Errors
    /// A file of another size or without seals, or `mmap`'s error.
    pub fn map_shared(fd: BorrowedFd<'_>, count: u32) -> Result<Self, SegmentError> {
        let bytes = Self::shared_bytes_for(count);
        check_sealed(fd, bytes)?;
        let mapping = Mapping::new(fd, 0, bytes, Access::ReadWrite)?;
        Ok(Self { mapping, count, loads: Some(Self::bytes_for(count)) })
    }

    /// The bytes to map for `count` words: whole pages.
    #[must_use]
    pub fn bytes_for(count: u32) -> usize {
        (count as usize * WORD_BYTES).next_multiple_of(4096).max(4096)
    }

    /// The bytes of a memfd that holds `count` words and the loads of all instances that there can be. Only the pages
    /// of those that there are become memory.
    #[must_use]
    pub fn shared_bytes_for(count: u32) -> usize {
        Self::bytes_for(count) + INSTANCES_MAX as usize * LOAD_BYTES
    }

    /// How many slots it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The words of the slots. Whoever asks about several takes them once. Of a copy of this process it has none.
    #[must_use]
    #[inline]
    pub fn slots(&self) -> Slots<'_> {
        Slots(self.mapping.atomics(self.count as usize).unwrap_or_default())
    }

    /// Who owns `slot` now; `None` where there is no such slot.
    #[must_use]
    #[inline]
    pub fn read(&self, slot: SlotIndex) -> Option<LedgerWord> {
        self.slots().read(slot)
    }

    /// Moves `slot` from one owner to another at an unchanged generation. False if `from` did not own it.
    #[must_use]
    #[inline]
    pub fn hand_over(&self, slot: SlotIndex, generation: Generation, from: InstanceId, to: InstanceId) -> bool {
        self.slots().hand_over(slot, generation, from, to)
    }

    /// Makes the gateway the owner at the next generation, which kills every descriptor that still names the slot.
    /// Returns the new generation. Only the gateway calls this.
    #[must_use]
    pub fn take_back(&self, slot: SlotIndex) -> Option<Generation> {
        let word = self.slots().word(slot)?;
        // SYNC: owner published; pairs with `hand_over`.
        let generation = LedgerWord::from_bits(word.load(Ordering::Acquire)).generation.next();
        // SYNC: owner published. A plain store: whatever a racing hand-over wrote is dead by the new generation.
        word.store(LedgerWord { owner: InstanceId::NONE, generation }.to_bits(), Ordering::Release);
        Some(generation)
    }

    /// An instance joins: it has nothing. Whoever had its place before is counted no more.
    pub fn begin_load(&self, instance: InstanceId) {
        for word in self.load_words(instance) {
            word.store(Load { instance, messages: 0 }.to_bits(), Ordering::Relaxed);
        }
    }

    /// Books messages that an instance has been given by `giver`.
    ///
    /// After the send, not before: a sender that dies in between leaves a load that is too low by a batch, and not an
    /// instance that looks full for good. So a load may be below zero for a moment.
    #[inline]
    pub fn give_load(&self, instance: InstanceId, giver: InstanceId, messages: u32) {
        self.add_load(self.load_word(instance, 1 + giver.index() % GIVERS), instance, messages.cast_signed());
    }

    /// Books messages that an instance has done with.
    #[inline]
    pub fn ease_load(&self, instance: InstanceId, messages: u32) {
        self.add_load(self.load_word(instance, 0), instance, messages.cast_signed().wrapping_neg());
    }

    /// How many messages an instance has; zero for one that is not there.
    #[must_use]
    pub fn load(&self, instance: InstanceId) -> u32 {
        let words = self.load_words(instance).map(|word| Load::from_bits(word.load(Ordering::Relaxed)));
        let its_own = words.filter(|word| word.instance == instance);
        its_own.fold(0, |sum: i32, word| sum.wrapping_add(word.messages)).max(0).cast_unsigned()
    }

    #[inline]
    fn add_load(&self, word: Option<&AtomicU64>, instance: InstanceId, messages: i32) {
        let more = |bits: u64| {
            let load = Load::from_bits(bits);
            let messages = load.messages.wrapping_add(messages);
            (load.instance == instance).then(|| Load { messages, ..load }.to_bits())
        };
        if let Some(word) = word {
            // An error is a successor's word.
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    fn load_words(&self, instance: InstanceId) -> impl Iterator<Item = &AtomicU64> {
        (0..=GIVERS).filter_map(move |number| self.load_word(instance, number))
    }

    /// A word of an instance's load: its own is the first.
    #[inline]
    fn load_word(&self, instance: InstanceId, number: u32) -> Option<&AtomicU64> {
        if instance == InstanceId::NONE || instance.index() >= INSTANCES_MAX {
            return None;
        }
        let offset = instance.index() as usize * LOAD_BYTES + number as usize * LINE_BYTES;
        let pointer = self.mapping.typed::<AtomicU64>(self.loads? + offset).ok()?;
        // SAFETY: S1, S2, S4: an aligned word inside the mapping, only ever accessed as an atomic.
        Some(unsafe { pointer.as_ref() })
    }
}

/// The owner words of a ledger's slots.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a>(&'a [AtomicU64]);

impl<'a> Slots<'a> {
    /// As [`Ledger::read`].
    #[must_use]
    #[inline]
    pub fn read(self, slot: SlotIndex) -> Option<LedgerWord> {
        // SYNC: owner published; pairs with `hand_over`.
        Some(LedgerWord::from_bits(self.word(slot)?.load(Ordering::Acquire)))
    }

    /// Asks for the word's cache line as if to write it, and does not wait. Whoever will look at the words of several
    /// slots, or has something else to do first, asks before: then the line is under way meanwhile, and comes once for
    /// [`Self::is_owned`] and the hand-over that follows it.
    #[inline]
    pub fn expect(self, slot: SlotIndex) {
        if let Some(word) = self.word(slot) {
            prefetch_to_write(word);
        }
    }

    /// Whether `owner` owns `slot` at that generation.
    #[must_use]
    #[inline]
    pub fn is_owned(self, slot: SlotIndex, generation: Generation, owner: InstanceId) -> bool {
        self.read(slot) == Some(LedgerWord { owner, generation })
    }

    /// As [`Ledger::hand_over`].
    #[must_use]
    #[inline]
    pub fn hand_over(self, slot: SlotIndex, generation: Generation, from: InstanceId, to: InstanceId) -> bool {
        let before = LedgerWord { owner: from, generation }.to_bits();
        let after = LedgerWord { owner: to, generation }.to_bits();
        // SYNC: owner published; pairs with `read` and with SPROXY's compare-and-swap.
        self.word(slot)
            .is_some_and(|word| word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    #[inline]
    fn word(self, slot: SlotIndex) -> Option<&'a AtomicU64> {
        self.0.get(slot.0 as usize)
    }
}

/// A hint, which changes nothing that a program can see.
#[cfg_attr(
    not(all(target_arch = "x86_64", not(miri))),
    expect(unused_variables, reason = "elsewhere the line comes when it is needed")
)]
#[inline]
fn prefetch_to_write(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: S1, S2: the address is a word of the mapping; the instruction neither faults nor touches a register, and
    // every 64-bit processor knows it, if only as one that does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) std::ptr::from_ref(word), options(nostack, preserves_flags));
    }
}

/// How many messages the instance at a place has: the instance in the high half, so that what is meant for it never
/// counts for a successor.
#[derive(Clone, Copy)]
struct Load {
    instance: InstanceId,
    messages: i32,
}

impl Load {
    fn to_bits(self) -> u64 {
        u64::from(self.instance.0) << 32 | u64::from(self.messages.cast_unsigned())
    }

    fn from_bits(bits: u64) -> Self {
        Self { instance: InstanceId((bits >> 32) as u32), messages: (bits as u32).cast_signed() }
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
    fn a_slot_is_owned_by_one_at_one_generation_and_asking_for_its_word_changes_nothing() {
        let ledger = ledger(4);
        let (slot, a, b) = (SlotIndex(3), InstanceId(1), InstanceId(2));
        assert!(ledger.hand_over(slot, Generation(0), InstanceId::NONE, a));
        for asked in [slot, SlotIndex(4), SlotIndex(u32::MAX)] {
            ledger.slots().expect(asked);
        }
        assert!(ledger.slots().is_owned(slot, Generation(0), a));
        for (slot, generation, owner) in [(slot, 0, b), (slot, 1, a), (slot, 0, InstanceId::NONE), (SlotIndex(4), 0, a)]
        {
            assert!(!ledger.slots().is_owned(slot, Generation(generation), owner));
        }
    }

    #[test]
    fn a_load_is_the_living_instances_and_never_a_successors() {
        let fd = create_sealed("ledger", Ledger::shared_bytes_for(4)).expect("memfd");
        let ledger = Ledger::map_shared(fd.as_fd(), 4).expect("map");
        let (first, second, last) = (InstanceId::new(3, 1), InstanceId::new(3, 2), InstanceId::new(4095, 9));
        let giver = |index| InstanceId::new(index, 1);
        ledger.give_load(first, giver(1), 5);
        assert_eq!(ledger.load(first), 0, "it has not joined");
        for instance in [first, last] {
            ledger.begin_load(instance);
            (1..=6).for_each(|index| ledger.give_load(instance, giver(index), 2));
            ledger.ease_load(instance, 9);
            assert_eq!(ledger.load(instance), 3, "of six givers, more than there are words");
        }
        ledger.begin_load(second);
        ledger.give_load(first, giver(1), 7);
        assert_eq!((ledger.load(first), ledger.load(second)), (0, 0));
        ledger.ease_load(second, 1);
        assert_eq!(ledger.load(second), 0, "below zero is idle");
        ledger.give_load(second, giver(2), 2);
        assert_eq!(ledger.load(second), 1);
        let nobodys = [InstanceId::NONE, InstanceId::new(4096, 1), InstanceId::new(u16::MAX, 1)];
        nobodys.into_iter().for_each(|nobody| ledger.give_load(nobody, giver(1), 1));
        assert!(nobodys.into_iter().all(|nobody| ledger.load(nobody) == 0));
        assert_eq!(ledger.read(SlotIndex(3)), Some(LedgerWord { owner: InstanceId::NONE, generation: Generation(0) }));
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
