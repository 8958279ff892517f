//! The free slots of a pool, in the gateway's private memory: no function can spoil or leak them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ramet_common::SlotIndex;
use ramet_shm::ledger::Ledger;

use crate::pool::{CLASSES, PoolLayout, SlotRef};

const NONE: u32 = u32::MAX;

/// Hands out slots, last freed first, so that the memory is still in the cache. Lock-free and shared by all workers.
#[derive(Debug)]
pub struct SlotAllocator {
    layout: PoolLayout,
    ledger: Ledger,
    /// Top of each class's stack: a tag against ABA in the high half, a slot in the low.
    tops: [AtomicU64; CLASSES],
    free: [AtomicU32; CLASSES],
    below: Vec<AtomicU32>,
    out: Vec<AtomicBool>,
}

impl SlotAllocator {
    /// All slots free and the gateway's. The pool must be new: nobody may hold a slot of it.
    #[must_use]
    pub fn new(layout: PoolLayout, ledger: Ledger) -> Self {
        let allocator = Self {
            layout,
            ledger,
            tops: std::array::from_fn(|_| AtomicU64::new(u64::from(NONE))),
            free: std::array::from_fn(|_| AtomicU32::new(0)),
            below: (0..layout.slots()).map(|_| AtomicU32::new(NONE)).collect(),
            out: (0..layout.slots()).map(|_| AtomicBool::new(false)).collect(),
        };
        for class in 0..CLASSES {
            for slot in layout.class_slots(class).rev() {
                allocator.push(class, slot);
            }
        }
        allocator
    }

    /// A slot of `class` or of the next larger class that has one. `None`: the pool is exhausted.
    #[must_use]
    pub fn allocate(&self, class: usize) -> Option<SlotRef> {
        (class..CLASSES).find_map(|class| self.allocate_exactly(class))
    }

    /// A slot of at least `bytes`.
    #[must_use]
    pub fn allocate_bytes(&self, bytes: usize) -> Option<SlotRef> {
        self.allocate(PoolLayout::class_for(bytes)?)
    }

    /// Takes a slot back, from whoever had it: its generation changes, so descriptors that still name it are dead.
    pub fn release(&self, slot: SlotIndex) {
        let Some(class) = self.layout.class_of(slot) else { return };
        let was_out = self.out[slot.0 as usize].swap(false, Ordering::AcqRel);
        debug_assert!(was_out, "slot {slot} was released twice");
        if was_out && self.ledger.take_back(slot).is_some() {
            self.push(class, slot.0);
        }
    }

    /// How many slots of each class are free.
    #[must_use]
    pub fn free(&self) -> [u32; CLASSES] {
        std::array::from_fn(|class| self.free[class].load(Ordering::Relaxed))
    }

    /// The layout of the pool whose slots these are.
    #[must_use]
    pub fn layout(&self) -> &PoolLayout {
        &self.layout
    }

    /// The ledger, to ask who holds a slot.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn allocate_exactly(&self, class: usize) -> Option<SlotRef> {
        let slot = self.pop(class)?;
        self.out[slot as usize].store(true, Ordering::Release);
        let word = self.ledger.read(SlotIndex(slot))?;
        Some(SlotRef { slot: SlotIndex(slot), generation: word.generation })
    }

    fn push(&self, class: usize, slot: u32) {
        let mut top = self.tops[class].load(Ordering::Relaxed);
        loop {
            self.below[slot as usize].store(top as u32, Ordering::Relaxed);
            // SYNC: `below` published; pairs with the load in `pop`.
            match self.tops[class].compare_exchange_weak(top, tagged(top, slot), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(current) => top = current,
            }
        }
        self.free[class].fetch_add(1, Ordering::Relaxed);
    }

    fn pop(&self, class: usize) -> Option<u32> {
        // SYNC: `below` published; pairs with the exchange in `push`.
        let mut top = self.tops[class].load(Ordering::Acquire);
        loop {
            let slot = top as u32;
            if slot == NONE {
                return None;
            }
            let below = self.below[slot as usize].load(Ordering::Relaxed);
            match self.tops[class].compare_exchange_weak(top, tagged(top, below), Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => {
                    self.free[class].fetch_sub(1, Ordering::Relaxed);
                    return Some(slot);
                }
                Err(current) => top = current,
            }
        }
    }
}

fn tagged(top: u64, slot: u32) -> u64 {
    ((top >> 32).wrapping_add(1) << 32) | u64::from(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramet_shm::segment::create_sealed;
    use std::collections::HashSet;
    use std::os::fd::AsFd;

    fn allocator(counts: [u32; CLASSES]) -> SlotAllocator {
        let layout = PoolLayout { counts };
        let fd = create_sealed("ledger", Ledger::bytes_for(layout.slots())).expect("memfd");
        SlotAllocator::new(layout, Ledger::map(fd.as_fd(), 0, layout.slots()).expect("map"))
    }

    #[test]
    fn each_slot_is_handed_out_once_and_larger_classes_help_out() {
        let allocator = allocator([2, 1, 0, 0, 1]);
        let slots: HashSet<_> = (0..4).map(|_| allocator.allocate_bytes(100).expect("a free slot").slot.0).collect();
        assert_eq!(slots.len(), 4);
        assert_eq!(allocator.allocate_bytes(1), None);
        assert_eq!(allocator.free(), [0; CLASSES]);
        for slot in slots {
            allocator.release(SlotIndex(slot));
        }
        assert_eq!(allocator.free(), [2, 1, 0, 0, 1]);
        assert_eq!(allocator.allocate_bytes((1 << 20) + 1), None, "no slot is that large");
    }

    #[test]
    fn a_released_slot_comes_back_at_a_new_generation() {
        let allocator = allocator([1, 0, 0, 0, 0]);
        let first = allocator.allocate(0).expect("free");
        allocator.release(first.slot);
        let second = allocator.allocate(0).expect("free");
        assert_eq!(first.slot, second.slot);
        assert_ne!(first.generation, second.generation);
    }

    #[test]
    fn threads_never_share_a_slot() {
        let allocator = allocator([8, 0, 0, 0, 0]);
        let owners: Vec<AtomicBool> = (0..8).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(slot) = allocator.allocate(0) {
                            let owned = &owners[slot.slot.0 as usize];
                            assert!(!owned.swap(true, Ordering::AcqRel), "handed out twice");
                            owned.store(false, Ordering::Release);
                            allocator.release(slot.slot);
                        }
                    }
                });
            }
        });
        assert_eq!(allocator.free()[0], 8);
    }
}
