//! What differs between transports, seen from the supervisor: who enforces the rules, and what a newcomer is given.

use std::os::fd::{AsFd, OwnedFd};

use ramet_common::map::{Edge, EdgeCount, FunctionFlow};
use ramet_common::{DomainId, FunctionId, InstanceId, Refusal};
use ramet_dataplane::{Ledger, Pool, PoolLayout, TransportKind};
use ramet_loader::LoaderError;
use ramet_shm::segment::create_sealed;

mod lanes;
mod ledger_space;
mod skmsg;

pub(crate) use lanes::{LaneKind, Lanes};
pub(crate) use skmsg::SkMsg;

/// Why something could not be put on the data plane.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// SPROXY's maps or sockets.
    #[error(transparent)]
    SkMsg(#[from] LoaderError),
    /// A pool or ledger.
    #[error("cannot make the memory of security domain {domain}: {reason}; is there enough memory?")]
    Memory {
        /// The domain.
        domain: String,
        /// The reason.
        reason: String,
    },
    /// The kernel's ledger has a fixed size.
    #[error(
        "the pool of security domain {domain} needs {slots} slots, more than the kernel's ledger has left; make pools \
         smaller or use `transport = \"ring\"`"
    )]
    LedgerFull {
        /// The domain.
        domain: String,
        /// How many.
        slots: u32,
    },
    /// A lane or a copy of a descriptor.
    #[error("cannot make a descriptor for a child: {0}; is the supervisor's limit of open files reached?")]
    Descriptor(#[from] std::io::Error),
}

/// Somebody with a place on the data plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) instance: InstanceId,
    pub(crate) function: FunctionId,
    pub(crate) domain: DomainId,
    /// How many messages it may hold.
    pub(crate) capacity: u32,
}

/// A domain's memory, as passed to processes.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) pool: OwnedFd,
    pub(crate) ledger: OwnedFd,
    pub(crate) ledger_base: u32,
    /// The same ledger, where the loads of instances are beside it.
    pub(crate) loads: Option<Ledger>,
}

impl Memory {
    /// Fetches the pool's memory, beside everything else. A pool whose memory cannot be fetched ahead gets it as it is
    /// used, so that is no error.
    pub(crate) fn prefault(&self, layout: PoolLayout) {
        let pool = match Pool::attach(self.pool.as_fd(), layout) {
            Ok(pool) => pool,
            Err(error) => return tracing::warn!(%error, "the memory of a pool cannot be fetched ahead"),
        };
        let started = std::thread::Builder::new().name("prefault".to_owned()).spawn(move || pool.back_with_memory());
        if let Err(error) = started {
            tracing::warn!(%error, "the memory of a pool cannot be fetched ahead");
        }
    }
}

/// How descriptors travel on this node.
#[derive(Debug)]
pub(crate) enum DataPlane {
    /// The kernel knows members, replicas and edges.
    SkMsg(Box<SkMsg>),
    /// Only the two ends of a lane know it; the supervisor makes them.
    Lanes(Box<Lanes>),
}

impl DataPlane {
    pub(crate) fn kind(&self) -> TransportKind {
        match self {
            Self::SkMsg(_) => TransportKind::SkMsg,
            Self::Lanes(lanes) => lanes.kind.transport(),
        }
    }

    /// The kind of lanes, where there are lanes.
    pub(crate) fn lanes(&self) -> Option<LaneKind> {
        match self {
            Self::SkMsg(_) => None,
            Self::Lanes(lanes) => Some(lanes.kind),
        }
    }

    /// Makes the memory of a new domain, all of it free.
    pub(crate) fn add_domain(
        &mut self,
        domain: DomainId,
        name: &str,
        layout: &PoolLayout,
    ) -> Result<Memory, DataPlaneError> {
        let failed = |reason: String| DataPlaneError::Memory { domain: name.to_owned(), reason };
        let pool = Pool::create("ramet-pool", layout).map_err(|error| failed(error.to_string()))?;
        match self {
            Self::SkMsg(plane) => {
                let (ledger, ledger_base) = plane.add_domain(domain, name, layout.slots())?;
                Ok(Memory { pool, ledger, ledger_base, loads: None })
            }
            Self::Lanes(_) => {
                let ledger = create_sealed("ramet-ledger", Ledger::shared_bytes_for(layout.slots()))
                    .map_err(|error| failed(error.to_string()))?;
                let loads =
                    Ledger::map_shared(ledger.as_fd(), layout.slots()).map_err(|error| failed(error.to_string()))?;
                Ok(Memory { pool, ledger, ledger_base: 0, loads: Some(loads) })
            }
        }
    }

    /// Frees a domain that nobody uses any more.
    pub(crate) fn remove_domain(&mut self, domain: DomainId) {
        match self {
            Self::SkMsg(plane) => plane.remove_domain(domain),
            Self::Lanes(_) => {}
        }
    }

    /// Gives `member` its place, and returns the descriptors that it needs there, beside its domain's memory.
    pub(crate) fn join(&mut self, member: Member) -> Result<Vec<OwnedFd>, DataPlaneError> {
        match self {
            Self::SkMsg(plane) => plane.join(member),
            Self::Lanes(lanes) => lanes.join(member),
        }
    }

    /// What ends the wait of whoever receives for a member, where it cannot do so itself.
    pub(crate) fn far_end(&self, instance: InstanceId) -> Result<Option<OwnedFd>, DataPlaneError> {
        match self {
            Self::SkMsg(plane) => plane.far_end(instance),
            Self::Lanes(_) => Ok(None),
        }
    }

    /// Takes a member's place away: it can neither send nor receive.
    pub(crate) fn leave(&mut self, instance: InstanceId) {
        match self {
            Self::SkMsg(plane) => plane.leave(instance),
            Self::Lanes(lanes) => lanes.leave(instance),
        }
    }

    /// Says which instances senders choose from. In lane modes the links say it.
    pub(crate) fn set_replicas(&mut self, function: FunctionId, domain: DomainId, replicas: &[InstanceId]) {
        match self {
            Self::SkMsg(plane) => plane.set_replicas(function, domain, replicas),
            Self::Lanes(_) => {}
        }
    }

    /// Permits a hop. In lane modes the links permit it, and only the counts begin.
    pub(crate) fn allow(&mut self, edge: Edge) -> Result<(), DataPlaneError> {
        match self {
            Self::SkMsg(plane) => plane.allow(edge),
            Self::Lanes(lanes) => {
                lanes.allow(edge);
                Ok(())
            }
        }
    }

    /// Forbids a hop.
    pub(crate) fn deny(&mut self, edge: Edge) {
        match self {
            Self::SkMsg(plane) => plane.deny(edge),
            Self::Lanes(lanes) => lanes.deny(edge),
        }
    }

    /// What a gateway worker needs to see why its sends are refused.
    pub(crate) fn reasons(&self) -> Result<Option<OwnedFd>, DataPlaneError> {
        match self {
            Self::SkMsg(plane) => Ok(Some(plane.instances_fd().try_clone_to_owned()?)),
            Self::Lanes(_) => Ok(None),
        }
    }

    /// Why an instance's last send was refused, where the supervisor is the one to know.
    pub(crate) fn last_refusal(&self, instance: InstanceId) -> Option<Refusal> {
        match self {
            Self::SkMsg(plane) => plane.last_refusal(instance),
            Self::Lanes(_) => None,
        }
    }

    /// Refused sends by reason, where they are counted.
    pub(crate) fn refusals(&self) -> Vec<(Refusal, u64)> {
        match self {
            Self::SkMsg(plane) => plane.refusals(),
            Self::Lanes(_) => Vec::new(),
        }
    }

    /// How many messages an instance has, where the kernel counts them.
    pub(crate) fn held(&self, instance: InstanceId) -> Option<u32> {
        match self {
            Self::SkMsg(plane) => plane.held(instance),
            Self::Lanes(_) => None,
        }
    }

    /// What came to a function and what it has done with.
    pub(crate) fn flow(&self, function: FunctionId) -> Option<FunctionFlow> {
        match self {
            Self::SkMsg(plane) => plane.flow(function),
            Self::Lanes(lanes) => Some(lanes.flow(function)),
        }
    }

    /// A function is gone; the next one of that id begins at nothing.
    pub(crate) fn forget_flow(&mut self, function: FunctionId) {
        match self {
            Self::SkMsg(plane) => plane.forget_flow(function),
            Self::Lanes(lanes) => lanes.forget_flow(function),
        }
    }

    /// What went over each permitted edge.
    pub(crate) fn edge_counts(&self) -> Vec<(Edge, EdgeCount)> {
        match self {
            Self::SkMsg(plane) => plane.edge_counts(),
            Self::Lanes(lanes) => lanes.edge_counts(),
        }
    }
}

/// A descriptor to pass on, while the supervisor keeps its own.
pub(crate) fn copy(fd: &impl AsFd) -> Result<OwnedFd, DataPlaneError> {
    Ok(fd.as_fd().try_clone_to_owned()?)
}
