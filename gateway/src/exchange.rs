//! Everything that one request owns. Dropping the last reference gives every slot back, whatever has happened.

use std::sync::{Arc, Mutex, PoisonError};

use ramet_common::SlotIndex;
use ramet_dataplane::{Slot, SlotRef};

use crate::domain::Domain;

/// The private list of a request's slots. References are held by whoever may still need the slots: the request's task,
/// each flight that is out, and each piece of the answer that hyper has not written yet.
#[derive(Debug)]
pub(crate) struct Holdings {
    domain: Arc<Domain>,
    slots: Mutex<Vec<SlotIndex>>,
}

impl Holdings {
    pub(crate) fn new(domain: Arc<Domain>) -> Arc<Self> {
        Arc::new(Self { domain, slots: Mutex::new(Vec::with_capacity(4)) })
    }

    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// A slot of at least `bytes` that belongs to this request until it ends. `None`: the pool is exhausted.
    pub(crate) fn allocate_bytes(&self, bytes: usize) -> Option<SlotRef> {
        self.keep(self.domain.slots.allocate_bytes(bytes)?)
    }

    /// A slot of `class` or larger.
    pub(crate) fn allocate_class(&self, class: usize) -> Option<SlotRef> {
        self.keep(self.domain.slots.allocate(class)?)
    }

    fn keep(&self, slot: SlotRef) -> Option<SlotRef> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot.slot);
        Some(slot)
    }

    /// Whether the request owns this slot at this generation: what a part of an answer may name.
    pub(crate) fn owns(&self, slot: SlotRef) -> bool {
        let known = self.slots.lock().unwrap_or_else(PoisonError::into_inner).contains(&slot.slot);
        known && self.domain.slots.ledger().read(slot.slot).is_some_and(|word| word.generation == slot.generation)
    }

    /// Gives one slot back early.
    pub(crate) fn release(&self, slot: SlotIndex) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = slots.iter().position(|&held| held == slot) {
            slots.swap_remove(place);
            self.domain.slots.release(slot);
        }
    }

    /// The bytes of a slot.
    pub(crate) fn slot(&self, slot: SlotIndex) -> Option<Slot> {
        self.domain.pool.slot(slot)
    }
}

impl Drop for Holdings {
    fn drop(&mut self) {
        for &slot in self.slots.get_mut().unwrap_or_else(PoisonError::into_inner).iter() {
            self.domain.slots.release(slot);
        }
    }
}
