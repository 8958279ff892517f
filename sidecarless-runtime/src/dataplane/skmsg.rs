//! S mode: every rule is an entry in one of SPROXY's maps.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ramet_common::map::{DomainSlots, Edge, EdgeCount, FunctionFlow, Identity};
use ramet_common::{DomainId, FunctionId, InstanceId, Refusal, SlotIndex};
use ramet_dataplane::Ledger;
use ramet_loader::{LoaderError, Sproxy, socket_pairs};

use super::ledger_space::LedgerSpace;
use super::{DataPlaneError, Member, copy};

/// The loaded SPROXY and what the supervisor keeps for it.
#[derive(Debug)]
pub(crate) struct SkMsg {
    sproxy: Sproxy,
    space: LedgerSpace,
    bases: BTreeMap<DomainId, u32>,
    /// The far ends of each member's sockets: the sender's and the receiver's. The first is never used, the second only
    /// to end a wait, but closing one would end the member's.
    far_ends: BTreeMap<InstanceId, [OwnedFd; 2]>,
}

impl SkMsg {
    pub(crate) fn new(sproxy: Sproxy) -> Self {
        let space = LedgerSpace::new(sproxy.ledger_slots());
        Self { sproxy, space, bases: BTreeMap::new(), far_ends: BTreeMap::new() }
    }

    pub(super) fn add_domain(
        &mut self,
        domain: DomainId,
        name: &str,
        slots: u32,
    ) -> Result<(OwnedFd, u32), DataPlaneError> {
        let full = || DataPlaneError::LedgerFull { domain: name.to_owned(), slots };
        let base = self.space.take(slots).ok_or_else(full)?;
        match self.open_domain(domain, name, DomainSlots { base, count: slots }) {
            Ok(ledger) => {
                self.bases.insert(domain, base);
                Ok((ledger, base))
            }
            Err(error) => {
                self.space.free(base);
                Err(error)
            }
        }
    }

    fn open_domain(&mut self, domain: DomainId, name: &str, slots: DomainSlots) -> Result<OwnedFd, DataPlaneError> {
        let mapped = Ledger::map(self.sproxy.ledger_fd(), slots.base, slots.count);
        let ledger =
            mapped.map_err(|error| DataPlaneError::Memory { domain: name.to_owned(), reason: error.to_string() })?;
        // Whoever had these words before may have left owners behind, and descriptors that still name them.
        for slot in 0..slots.count {
            let _ = ledger.take_back(SlotIndex(slot));
        }
        self.sproxy.set_domain(domain, slots)?;
        copy(&self.sproxy.ledger_fd())
    }

    pub(super) fn remove_domain(&mut self, domain: DomainId) {
        report("close a domain", self.sproxy.set_domain(domain, DomainSlots::default()));
        if let Some(base) = self.bases.remove(&domain) {
            self.space.free(base);
        }
    }

    pub(super) fn join(&mut self, member: Member) -> Result<Vec<OwnedFd>, DataPlaneError> {
        let sockets = socket_pairs()?;
        let Member { instance, function, domain, capacity } = member;
        let identity = Identity { instance, function, domain, ..Identity::default() };
        self.sproxy.join(identity, capacity, sockets.sender.as_fd(), sockets.receiver.as_fd())?;
        self.far_ends.insert(instance, [sockets.sender_peer, sockets.receiver_peer]);
        Ok(vec![sockets.sender, sockets.receiver])
    }

    /// The far end of a member's receiving socket.
    pub(super) fn far_end(&self, instance: InstanceId) -> Result<Option<OwnedFd>, DataPlaneError> {
        self.far_ends.get(&instance).map(|[_, receiver]| copy(receiver)).transpose()
    }

    pub(super) fn leave(&mut self, instance: InstanceId) {
        report("take an instance off the data plane", self.sproxy.leave(instance));
        self.far_ends.remove(&instance);
    }

    pub(super) fn set_replicas(&mut self, function: FunctionId, domain: DomainId, replicas: &[InstanceId]) {
        report("set a function's replicas", self.sproxy.set_replicas(function, domain, replicas));
    }

    pub(super) fn allow(&mut self, edge: Edge) -> Result<(), DataPlaneError> {
        Ok(self.sproxy.allow(edge)?)
    }

    pub(super) fn deny(&mut self, edge: Edge) {
        report("forbid a hop", self.sproxy.deny(edge));
    }

    pub(super) fn instances_fd(&self) -> BorrowedFd<'_> {
        self.sproxy.instances_fd()
    }

    pub(super) fn last_refusal(&self, instance: InstanceId) -> Option<Refusal> {
        let state = self.sproxy.instance_state(instance).ok().flatten()?;
        if state.refused == 0 { None } else { Refusal::from_u32(state.last_refusal) }
    }

    pub(super) fn refusals(&self) -> Vec<(Refusal, u64)> {
        let counts = report("read the refusal counters", self.sproxy.refusals());
        Refusal::ALL.into_iter().zip(counts.unwrap_or_default()).collect()
    }

    /// How many messages a member has, by the kernel's count.
    pub(super) fn held(&self, instance: InstanceId) -> Option<u32> {
        let state = report("read an instance's load", self.sproxy.instance_state(instance))??;
        Some(state.load.cast_signed().max(0).cast_unsigned())
    }

    pub(super) fn flow(&self, function: FunctionId) -> Option<FunctionFlow> {
        report("read a function's flow", self.sproxy.flow(function))
    }

    pub(super) fn forget_flow(&mut self, function: FunctionId) {
        report("forget a function's flow", self.sproxy.forget_flow(function));
    }

    pub(super) fn edge_counts(&self) -> Vec<(Edge, EdgeCount)> {
        report("read the edge counters", self.sproxy.edge_counts()).unwrap_or_default()
    }
}

/// Updates of a map that exists fail only when the kernel is out of memory; the node goes on and says so.
fn report<T>(action: &str, result: Result<T, LoaderError>) -> Option<T> {
    result.inspect_err(|error| tracing::error!(%error, "cannot {action}")).ok()
}
