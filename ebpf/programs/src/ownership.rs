//! Moving slots from the sender to the destination in the ledger, which no function can write.

use core::ptr;
use ramet_common::map::HOPS_MAX;
use ramet_common::{Generation, InstanceId, LedgerWord, Refusal, SlotIndex};

use crate::asm;
use crate::maps::{HOPS, LEDGER};

/// Who gives, who takes, and where the slots of their domain are. The same for all descriptors of a batch.
pub(crate) struct Transfer {
    /// The owner before; [`InstanceId::NONE`] for the gateway.
    pub(crate) from: InstanceId,
    /// The owner after; [`InstanceId::NONE`] for the gateway.
    pub(crate) to: InstanceId,
    /// The ledger index of the domain's slot 0.
    pub(crate) base: u32,
    /// How many slots the domain has.
    pub(crate) count: u32,
}

impl Transfer {
    /// Makes the destination the owner, if the sender is.
    #[inline(always)]
    pub(crate) fn hand_over(&self, slot: SlotIndex, generation: Generation) -> Result<(), Refusal> {
        let index = self.index(slot).ok_or(Refusal::BadSlot)?;
        let word = LEDGER.get_ptr_mut(index).ok_or(Refusal::BadSlot)?;
        let hops = HOPS.get_ptr_mut(index).ok_or(Refusal::BadSlot)?;
        if self.between_functions() {
            // SAFETY: P2; volatile because another sender may count at the same time.
            if unsafe { ptr::read_volatile(hops) } >= HOPS_MAX {
                return Err(Refusal::TooManyHops);
            }
        }
        if !swap(word, generation, self.from, self.to) {
            return Err(Refusal::NotOwner);
        }
        if self.between_functions() {
            // SAFETY: P2.
            unsafe { asm::add_u32(hops, 1) };
        } else if self.from == InstanceId::NONE {
            // SAFETY: P2.
            unsafe { ptr::write_volatile(hops, 0) };
        }
        Ok(())
    }

    /// Makes the sender the owner again, unless the destination has already passed the slot on.
    #[inline(always)]
    pub(crate) fn take_back(&self, slot: SlotIndex, generation: Generation) {
        let Some(index) = self.index(slot) else { return };
        let Some(word) = LEDGER.get_ptr_mut(index) else { return };
        let Some(hops) = HOPS.get_ptr_mut(index) else { return };
        if swap(word, generation, self.to, self.from) && self.between_functions() {
            // SAFETY: P2.
            unsafe { asm::add_u32(hops, 1u32.wrapping_neg()) };
        }
    }

    /// The place of `slot` in the ledger.
    #[inline(always)]
    fn index(&self, slot: SlotIndex) -> Option<u32> {
        (slot.0 < self.count).then(|| self.base.wrapping_add(slot.0))
    }

    #[inline(always)]
    fn between_functions(&self) -> bool {
        self.from != InstanceId::NONE && self.to != InstanceId::NONE
    }
}

/// Changes the owner of a slot from `from` to `to` if `from` owns it at that generation.
#[inline(always)]
fn swap(word: *mut u64, generation: Generation, from: InstanceId, to: InstanceId) -> bool {
    let before = LedgerWord { owner: from, generation }.to_bits();
    let after = LedgerWord { owner: to, generation }.to_bits();
    // SYNC: slot handed over; the message itself orders it for the receiver.
    // SAFETY: P2; ledger words are 8 bytes, aligned to 8.
    unsafe { asm::compare_exchange_u64(word, before, after) == before }
}
