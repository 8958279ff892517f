//! SPROXY's maps with their values as plain bytes, which is how a crate without unsafe code can hand them to aya.

use crate::LoaderError;
use aya::maps::{Array, IterableMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, SkStorage, SockMap};
use aya::{Ebpf, Pod};
use ramet_common::map::{
    DOMAINS, DomainSlots, EDGES, Edge, EdgeCount, FUNCTION_FLOWS, FUNCTIONS, FunctionFlow, HOPS, IDENTITIES, INSTANCES,
    Identity, InstanceState, LEDGER, NOWHERE, RECEIVERS, REFUSALS, Replicas, SENDERS,
};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

pub(crate) type IdentityBytes = [u8; size_of::<Identity>()];
pub(crate) type ReplicasBytes = [u8; size_of::<Replicas>()];
pub(crate) type StateBytes = [u8; size_of::<InstanceState>()];
pub(crate) type DomainBytes = [u8; size_of::<DomainSlots>()];
pub(crate) type EdgeBytes = [u8; size_of::<Edge>()];
pub(crate) type FlowBytes = [u8; size_of::<FunctionFlow>()];
pub(crate) type EdgeCountBytes = [u8; size_of::<EdgeCount>()];

/// Every map of the object, taken out of it and typed.
pub(crate) struct Maps {
    pub(crate) identities: SkStorage<MapData, IdentityBytes>,
    pub(crate) senders: SockMap<MapData>,
    pub(crate) receivers: SockMap<MapData>,
    pub(crate) nowhere: SockMap<MapData>,
    pub(crate) functions: Array<MapData, ReplicasBytes>,
    pub(crate) instances: Array<MapData, StateBytes>,
    pub(crate) domains: Array<MapData, DomainBytes>,
    pub(crate) edges: PerCpuHashMap<MapData, EdgeBytes, EdgeCountBytes>,
    pub(crate) ledger: Array<MapData, u64>,
    /// Only the program uses it; it is held so that its absence is noticed.
    pub(crate) _hops: Array<MapData, u32>,
    pub(crate) flows: PerCpuArray<MapData, FlowBytes>,
    pub(crate) refusals: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Takes the maps out of a loaded object; `path` is for the error only.
    pub(crate) fn take(ebpf: &mut Ebpf, path: &Path) -> Result<Self, LoaderError> {
        let mut take = Take::new(ebpf, path);
        Ok(Self {
            identities: take.one(IDENTITIES)?,
            senders: take.one(SENDERS)?,
            receivers: take.one(RECEIVERS)?,
            nowhere: take.one(NOWHERE)?,
            functions: take.one(FUNCTIONS)?,
            instances: take.one(INSTANCES)?,
            domains: take.one(DOMAINS)?,
            edges: take.one(EDGES)?,
            ledger: take.one(LEDGER)?,
            _hops: take.one(HOPS)?,
            flows: take.one(FUNCTION_FLOWS)?,
            refusals: take.one(REFUSALS)?,
        })
    }
}

/// Takes maps out of a loaded object, typed.
pub(crate) struct Take<'a> {
    ebpf: &'a mut Ebpf,
    path: &'a Path,
}

impl<'a> Take<'a> {
    /// `path` is for the error only.
    pub(crate) fn new(ebpf: &'a mut Ebpf, path: &'a Path) -> Self {
        Self { ebpf, path }
    }

    pub(crate) fn one<M: TryFrom<Map, Error = MapError>>(&mut self, name: &str) -> Result<M, LoaderError> {
        let invalid = |reason| LoaderError::ObjectInvalid { path: self.path.to_owned(), reason };
        let map = self.ebpf.take_map(name).ok_or_else(|| invalid(format!("it has no map {name}")))?;
        M::try_from(map).map_err(|error| invalid(format!("its map {name} has another layout: {error}")))
    }
}

/// The descriptor of an array, to be mapped by somebody who may.
pub(crate) fn fd_of<V: Pod>(array: &Array<MapData, V>) -> BorrowedFd<'_> {
    IterableMap::<u32, V>::map(array).fd().as_fd()
}

/// Removing what is already gone is success: a socket leaves its sockmap by itself when it is closed.
pub(crate) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if matches!(error.io_error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) =>
        {
            Ok(())
        }
        other => other,
    }
}
