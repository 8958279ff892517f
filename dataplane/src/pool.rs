//! One security domain's memory: a sealed memfd cut into slots of five sizes.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use ramet_common::{Generation, SlotIndex};
use ramet_shm::segment::{self, Access, Mapping, OutOfBounds, SegmentError};
use serde::{Deserialize, Serialize};

/// How many size classes there are.
pub const CLASSES: usize = 5;

/// The slot sizes in bytes, by class.
pub const CLASS_BYTES: [usize; CLASSES] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// The most slots that one pool can have.
pub const POOL_SLOTS_MAX: u32 = 1 << 20;

/// How many slots of each class a pool has. Slots are numbered from the smallest class up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLayout {
    /// Slots by class, in the order of [`CLASS_BYTES`].
    pub counts: [u32; CLASSES],
}

impl PoolLayout {
    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// The pool's size in bytes: the domain's quota.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.counts.iter().zip(CLASS_BYTES).map(|(&count, bytes)| count as usize * bytes).sum()
    }

    /// The slots of one class.
    #[must_use]
    pub fn class_slots(&self, class: usize) -> Range<u32> {
        let start = self.counts[..class].iter().sum();
        start..start + self.counts[class]
    }

    /// Which class a slot is of.
    #[must_use]
    pub fn class_of(&self, slot: SlotIndex) -> Option<usize> {
        (0..CLASSES).find(|&class| self.class_slots(class).contains(&slot.0))
    }

    /// Where a slot's bytes are in the pool.
    #[must_use]
    pub fn place(&self, slot: SlotIndex) -> Option<Range<usize>> {
        let mut index = slot.0;
        let mut offset = 0;
        for (&count, bytes) in self.counts.iter().zip(CLASS_BYTES) {
            if index < count {
                let start = offset + index as usize * bytes;
                return Some(start..start + bytes);
            }
            index -= count;
            offset += count as usize * bytes;
        }
        None
    }

    /// The smallest class whose slots hold `bytes`.
    #[must_use]
    pub fn class_for(bytes: usize) -> Option<usize> {
        CLASS_BYTES.iter().position(|&class| class >= bytes)
    }

    /// What is wrong with the layout, if anything.
    ///
    /// # Errors
    /// One sentence that says what was found and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if self.counts[0] == 0 {
            return Err("a pool needs at least one slot of 4 KiB: every message has a head slot".to_owned());
        }
        if self.slots() > POOL_SLOTS_MAX {
            return Err(format!("a pool has {} slots; at most {POOL_SLOTS_MAX} are allowed", self.slots()));
        }
        Ok(())
    }
}

/// A slot at one generation: what a descriptor or a part names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRef {
    /// Which slot.
    pub slot: SlotIndex,
    /// Handed out how often.
    pub generation: Generation,
}

/// A mapped pool.
#[derive(Clone, Debug)]
pub struct Pool {
    layout: PoolLayout,
    mapping: Arc<Mapping>,
}

impl Pool {
    /// Makes the memory of a new pool, to be passed to the processes of its domain.
    ///
    /// # Errors
    /// The failing system call.
    pub fn create(name: &str, layout: &PoolLayout) -> Result<OwnedFd, SegmentError> {
        segment::create_sealed(name, layout.bytes())
    }

    /// Maps a pool that the supervisor made.
    ///
    /// # Errors
    /// A file of another size or without seals, or `mmap`'s error.
    pub fn attach(fd: BorrowedFd<'_>, layout: PoolLayout) -> Result<Self, SegmentError> {
        segment::check_sealed(fd, layout.bytes())?;
        let mapping = Mapping::new(fd, 0, layout.bytes(), Access::ReadWrite)?;
        Ok(Self { layout, mapping })
    }

    /// Maps the head slots before the first requests need them. Larger slots are reused last in, first out, and what
    /// somebody has written to once is mapped with few faults.
    pub fn populate_heads(&self) {
        self.mapping.populate(0, self.layout.counts[0] as usize * CLASS_BYTES[0]);
    }

    /// Gives the pool all of its memory, in huge pages where the machine has them, so that no request waits for the
    /// kernel to find and clear some. It takes a while; the pool is in use meanwhile.
    pub fn back_with_memory(&self) {
        self.mapping.populate(0, self.layout.bytes());
        self.mapping.collapse();
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &PoolLayout {
        &self.layout
    }

    /// The bytes of a slot, or `None` where there is no such slot.
    #[must_use]
    pub fn slot(&self, slot: SlotIndex) -> Option<Slot> {
        let place = self.layout.place(slot)?;
        Some(Slot { mapping: Arc::clone(&self.mapping), start: place.start, bytes: place.len() })
    }
}

/// A slot's bytes. Whoever holds one must own the slot by the ledger, or have it lent.
#[derive(Clone, Debug)]
pub struct Slot {
    mapping: Arc<Mapping>,
    start: usize,
    bytes: usize,
}

impl Slot {
    /// The slot's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies bytes out, once.
    ///
    /// # Errors
    /// A range outside the slot.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let start = self.checked(offset, into.len())?;
        self.mapping.copy_out(start, into)
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// A range outside the slot.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let start = self.checked(offset, from.len())?;
        self.mapping.copy_in(start, from)
    }

    /// Bytes in place. A hostile function of the same domain can change them under the reader.
    ///
    /// # Errors
    /// A range outside the slot.
    pub fn slice(&self, offset: usize, bytes: usize) -> Result<&[u8], OutOfBounds> {
        let start = self.checked(offset, bytes)?;
        self.mapping.slice(start, bytes)
    }

    /// Bytes to write in place.
    ///
    /// # Errors
    /// A range outside the slot.
    pub fn slice_mut(&mut self, offset: usize, bytes: usize) -> Result<&mut [u8], OutOfBounds> {
        let start = self.checked(offset, bytes)?;
        self.mapping.slice_mut(start, bytes)
    }

    fn checked(&self, offset: usize, bytes: usize) -> Result<usize, OutOfBounds> {
        let end = offset.checked_add(bytes).ok_or(OutOfBounds)?;
        if end <= self.bytes { Ok(self.start + offset) } else { Err(OutOfBounds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const LAYOUT: PoolLayout = PoolLayout { counts: [3, 2, 1, 0, 1] };

    #[test]
    fn places_are_disjoint_and_fill_the_pool() {
        let mut end = 0;
        for slot in 0..LAYOUT.slots() {
            let place = LAYOUT.place(SlotIndex(slot)).expect("a slot");
            assert_eq!(place.start, end);
            assert_eq!(place.len(), CLASS_BYTES[LAYOUT.class_of(SlotIndex(slot)).expect("a class")]);
            end = place.end;
        }
        assert_eq!(end, LAYOUT.bytes());
        assert_eq!(LAYOUT.place(SlotIndex(LAYOUT.slots())), None);
        assert_eq!(LAYOUT.place(SlotIndex(u32::MAX)), None);
    }

    #[test]
    fn a_slot_cannot_reach_its_neighbour() {
        let fd = Pool::create("pool", &LAYOUT).expect("memfd");
        let pool = Pool::attach(fd.as_fd(), LAYOUT).expect("map");
        let mut slot = pool.slot(SlotIndex(0)).expect("slot 0");
        assert!(slot.slice(0, 4096).is_ok());
        assert!(slot.slice(1, 4096).is_err());
        assert!(slot.slice_mut(usize::MAX, 1).is_err());
        assert!(slot.copy_in(4096, b"x").is_err());
    }

    #[test]
    fn two_processes_worth_of_mappings_see_the_same_bytes() {
        let fd = Pool::create("pool", &LAYOUT).expect("memfd");
        let one = Pool::attach(fd.as_fd(), LAYOUT).expect("map");
        let other = Pool::attach(fd.as_fd(), LAYOUT).expect("map");
        one.slot(SlotIndex(6)).expect("slot").copy_in(1000, b"hello").expect("in bounds");
        assert_eq!(other.slot(SlotIndex(6)).expect("slot").slice(1000, 5), Ok(&b"hello"[..]));
    }
}
