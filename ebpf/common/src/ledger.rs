//! Who owns a slot: one 64-bit word each, so that every change of owner is one compare-and-swap.

use crate::{Generation, InstanceId};

/// The owner and generation of one slot, packed into the word that the ledger stores.
///
/// In S mode the ledger is a BPF array that functions cannot map; the ring and socket transports keep the same
/// words in a memfd of the domain. An all-zero ledger is a pool that is free and the gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerWord {
    /// The instance that may read, write and pass on the slot; [`InstanceId::NONE`] is the gateway.
    pub owner: InstanceId,
    /// The slot's current generation.
    pub generation: Generation,
}

impl LedgerWord {
    /// The stored form: owner in the high half, generation in the low.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.owner.0 as u64) << 32 | self.generation.0 as u64
    }

    /// The word that `bits` stores.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { owner: InstanceId((bits >> 32) as u32), generation: Generation(bits as u32) }
    }
}
