//! A security domain that exists: its memory, and whether the gateway still needs it.

use std::os::fd::AsFd;

use ramet_common::{DomainId, InstanceId, SlotIndex};
use ramet_control::gateway;
use ramet_dataplane::{Ledger, PoolLayout};
use ramet_manifest::DomainName;

use crate::dataplane::Memory;

/// A security domain.
///
/// Wanted → Closing when none of its functions runs and none of its routes is busy; the gateway is told. Gone when the
/// gateway has applied that.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) id: DomainId,
    pub(crate) name: DomainName,
    pub(crate) layout: PoolLayout,
    pub(crate) memory: Memory,
    pub(crate) state: DomainState,
}

/// How far a domain's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DomainState {
    /// Manifests ask for it, or will once a change is through.
    Wanted,
    /// Nothing asks for it; what runs in it drains.
    Retired,
    /// The gateway was told in its message of this number.
    Closing(u64),
}

impl Domain {
    /// The domain as the gateway sees it.
    pub(crate) fn for_gateway(&self) -> gateway::Domain {
        gateway::Domain {
            domain: self.id,
            name: self.name.to_string(),
            layout: self.layout,
            ledger_base: self.memory.ledger_base,
        }
    }

    /// How many messages an instance has, where those who send to it count them.
    pub(crate) fn held_by(&self, instance: InstanceId) -> u32 {
        self.memory.loads.as_ref().map_or(0, |loads| loads.load(instance))
    }

    /// Whether an instance has a message, by the ledger: also one that it has not received yet.
    pub(crate) fn is_held_by(&self, instance: InstanceId) -> bool {
        let slots = self.layout.slots();
        // Without the ledger nothing can be said, and the instance's own word has to do.
        let Ok(ledger) = Ledger::map(self.memory.ledger.as_fd(), self.memory.ledger_base, slots) else { return false };
        (0..slots).any(|slot| ledger.read(SlotIndex(slot)).is_some_and(|word| word.owner == instance))
    }
}
