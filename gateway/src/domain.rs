//! A security domain as the gateway holds it: the pool, its ledger, its free slots.

use std::os::fd::{AsFd, OwnedFd};

use ramet_common::DomainId;
use ramet_control::gateway;
use ramet_dataplane::pool::CLASS_BYTES;
use ramet_dataplane::{Ledger, Pool, SlotAllocator, TransportKind};

/// Shared by all workers.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) id: DomainId,
    pub(crate) name: String,
    pub(crate) pool: Pool,
    pub(crate) slots: SlotAllocator,
}

impl Domain {
    /// Maps what the supervisor sent: the pool and the ledger.
    pub(crate) fn attach(info: gateway::Domain, fds: Vec<OwnedFd>, transport: TransportKind) -> Result<Self, String> {
        let [pool, ledger] = <[OwnedFd; 2]>::try_from(fds)
            .map_err(|fds| format!("a domain comes with 2 descriptors, not {}", fds.len()))?;
        info.layout.check()?;
        let pool = Pool::attach(pool.as_fd(), info.layout).map_err(|error| error.to_string())?;
        let (fd, slots) = (ledger.as_fd(), info.layout.slots());
        let ledger = match transport {
            TransportKind::SkMsg => Ledger::map(fd, info.ledger_base, slots),
            TransportKind::Ring | TransportKind::Socket => Ledger::map_shared(fd, slots),
        };
        let ledger = ledger.map_err(|error| error.to_string())?;
        pool.populate_heads();
        let slots = SlotAllocator::new(info.layout, ledger);
        Ok(Self { id: info.domain, name: info.name, pool, slots })
    }

    /// The longest request body that one request may bring: a quarter of the pool stays for everybody else.
    pub(crate) fn body_quota_bytes(&self) -> u64 {
        let bytes = self.pool.layout().bytes() as u64;
        bytes - bytes / 4
    }

    /// How many free slots of each size there are, for metrics.
    pub(crate) fn free_slots(&self) -> impl Iterator<Item = (usize, u32)> {
        CLASS_BYTES.into_iter().zip(self.slots.free())
    }
}
