//! A loaded SPROXY: the typed face of its maps, which only the supervisor holds.

use crate::maps::{
    DomainBytes, EdgeBytes, EdgeCountBytes, FlowBytes, IdentityBytes, Maps, ReplicasBytes, StateBytes, absent_is_fine,
    fd_of,
};
use crate::sockets::{self, tcp_pair};
use crate::{LoaderError, SproxyLogs};
use aya::maps::{MapError, PerCpuValues};
use aya::programs::SkMsg;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader};
use ramet_common::map::{
    DOMAINS_MAX, DomainSlots, Edge, EdgeCount, FUNCTIONS_MAX, FunctionFlow, HOPS, INSTANCES_MAX, Identity,
    InstanceState, LEDGER, REPLICAS_MAX, Replicas, SLOTS_MAX_DEFAULT, SPROXY,
};
use ramet_common::{DomainId, FunctionId, InstanceId, Refusal};
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

/// The name in errors.
const NAME: &str = "SPROXY";
/// `BPF_NOEXIST`: the update fails if the key is there.
const NO_EXIST: u64 = 1;
/// A domain's slots start a page of the ledger, so that a page of it belongs to one domain.
const SLOTS_PER_LEDGER_PAGE: u32 = 512;

/// How to load SPROXY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// How many slots the pools of all domains have together, each domain's rounded up to a multiple of 512.
    pub ledger_slots: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { ledger_slots: SLOTS_MAX_DEFAULT }
    }
}

/// SPROXY, loaded and attached. Dropping it detaches the program and frees its maps.
pub struct Sproxy {
    pub(crate) maps: Maps,
    ledger_slots: u32,
    /// What instances held that have left, by function.
    lost: HashMap<FunctionId, FunctionFlow>,
    // Refused messages are redirected to the first; the second keeps it connected.
    _nowhere: (TcpStream, TcpStream),
    // Holds the program and its attachment.
    ebpf: Ebpf,
}

impl fmt::Debug for Sproxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sproxy").field("ledger_slots", &self.ledger_slots).finish_non_exhaustive()
    }
}

impl Sproxy {
    /// Makes the maps, loads the program and attaches it to the senders' sockmap.
    ///
    /// # Errors
    ///
    /// [`LoaderError::NotPermitted`] without the privilege, [`LoaderError::Rejected`] with the verifier's last lines,
    /// and the other loading errors.
    pub fn load(object: impl AsRef<Path>, options: LoadOptions) -> Result<Self, LoaderError> {
        let mut prepared = Prepared::new(object.as_ref(), options)?;
        prepared.load_program()?;
        prepared.attach()
    }

    /// Says where a domain's slots are in the ledger. A domain must not be moved while instances of it live.
    ///
    /// # Errors
    ///
    /// An id or a range that does not fit, a base that does not start a ledger page, or a failed map update.
    pub fn set_domain(&mut self, domain: DomainId, slots: DomainSlots) -> Result<(), LoaderError> {
        in_range("domain", domain.0, DOMAINS_MAX)?;
        let end = u64::from(slots.base) + u64::from(slots.count);
        if end > u64::from(self.ledger_slots) {
            let limit = u64::from(self.ledger_slots);
            return Err(LoaderError::OutOfRange { what: "the end of a domain's slots,", value: end, limit });
        }
        if !slots.base.is_multiple_of(SLOTS_PER_LEDGER_PAGE) {
            return Err(LoaderError::Meaningless {
                what: "the ledger index of a domain's first slot",
                value: slots.base.into(),
                reason: "a domain starts a page of the ledger, so it is a multiple of 512",
            });
        }
        let bytes: DomainBytes = zerocopy::transmute!(slots);
        self.maps.domains.set(domain.0, bytes, 0).map_err(map("write a domain's place in the ledger"))
    }

    /// Lets an instance send on `sender` (the TCP end of [`crate::SocketPairs`]) and receive on `receiver` (its unix
    /// stream end).
    ///
    /// The instance's table entry is completed last and both sending and receiving need it, so nothing moves before
    /// everything is in place; whatever was done is undone on an error. The sockets are the kernel's business from
    /// here on: the caller may pass its descriptors on and close them.
    ///
    /// # Errors
    ///
    /// [`LoaderError::Occupied`] if somebody lives at the index, and failed map updates.
    pub fn join(
        &mut self,
        identity: Identity,
        capacity: u32,
        sender: BorrowedFd<'_>,
        receiver: BorrowedFd<'_>,
    ) -> Result<(), LoaderError> {
        let Identity { instance, function, domain, .. } = identity;
        let index = index_of(instance)?;
        in_range("function", function.0, FUNCTIONS_MAX)?;
        in_range("domain", domain.0, DOMAINS_MAX)?;
        let living = self.state_at(index)?.instance;
        if living != InstanceId::NONE {
            return Err(LoaderError::Occupied { joining: instance, living });
        }
        let joined = self.enter(index, &identity, capacity, sender, receiver);
        if joined.is_err() {
            self.clear(index)?;
            absent_is_fine(self.maps.identities.remove(&sender)).map_err(map("take back an identity"))?;
        }
        joined
    }

    /// Makes an instance unable to send or receive. Its function's replicas are the caller's to update before.
    ///
    /// Leaving twice is no error, nor is the leave of an instance whose index somebody else has by now.
    ///
    /// # Errors
    ///
    /// An id out of range, or a failed map update.
    pub fn leave(&mut self, instance: InstanceId) -> Result<(), LoaderError> {
        let index = index_of(instance)?;
        let state = self.state_at(index)?;
        if state.instance != instance {
            return Ok(());
        }
        self.clear(index)?;
        // What it holds will never be counted as done with.
        let held = u64::from(state.load.cast_signed().max(0).cast_unsigned());
        let lost = FunctionFlow { left: held, left_ns: held.wrapping_mul(now_ns()), ..FunctionFlow::default() };
        let sum = self.lost.entry(state.function).or_default();
        *sum = sum.plus(lost);
        Ok(())
    }

    /// Sets which instances take a function's requests.
    ///
    /// # Errors
    ///
    /// More than [`REPLICAS_MAX`] instances, the gateway as function, an id out of range, or a failed map update.
    pub fn set_replicas(
        &mut self,
        function: FunctionId,
        domain: DomainId,
        instances: &[InstanceId],
    ) -> Result<(), LoaderError> {
        in_range("function", function.0, FUNCTIONS_MAX)?;
        in_range("domain", domain.0, DOMAINS_MAX)?;
        if function == FunctionId::GATEWAY {
            return Err(LoaderError::Meaningless {
                what: "the function of a replica",
                value: 0,
                reason: "it is the gateway, whose workers are always addressed by name",
            });
        }
        if instances.len() > REPLICAS_MAX {
            let (value, limit) = (instances.len() as u64, REPLICAS_MAX as u64);
            return Err(LoaderError::OutOfRange { what: "the number of replicas,", value, limit });
        }
        let mut replicas =
            Replicas { count: instances.len() as u32, domain, instances: [InstanceId::NONE; REPLICAS_MAX] };
        for (place, instance) in replicas.instances.iter_mut().zip(instances) {
            index_of(*instance)?;
            *place = *instance;
        }
        let bytes: ReplicasBytes = zerocopy::transmute!(replicas);
        self.maps.functions.set(function.0, bytes, 0).map_err(map("write a function's replicas"))
    }

    /// Permits a hop. An edge that is there keeps its counts.
    ///
    /// # Errors
    ///
    /// A failed map update; the table holds [`ramet_common::map::EDGES_MAX`] edges.
    pub fn allow(&mut self, edge: Edge) -> Result<(), LoaderError> {
        let action = "permit a hop";
        let cpus = nr_cpus().map_err(|(_, error)| LoaderError::Map { action, source: MapError::IoError(error) })?;
        let zeros = PerCpuValues::try_from(vec![EdgeCountBytes::default(); cpus])
            .map_err(|error| LoaderError::Map { action, source: MapError::IoError(error) })?;
        let key: EdgeBytes = zerocopy::transmute!(edge);
        match self.maps.edges.insert(key, zeros, NO_EXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(map(action)),
        }
    }

    /// Forbids a hop and forgets its counts. One that was not permitted stays so.
    ///
    /// # Errors
    ///
    /// A failed map update.
    pub fn deny(&mut self, edge: Edge) -> Result<(), LoaderError> {
        let key: EdgeBytes = zerocopy::transmute!(edge);
        absent_is_fine(self.maps.edges.remove(&key)).map_err(map("forbid a hop"))
    }

    /// The ledger, an array of [`Self::ledger_slots`] words that can be mapped.
    #[must_use]
    pub fn ledger_fd(&self) -> BorrowedFd<'_> {
        fd_of(&self.maps.ledger)
    }

    /// How many words the ledger has.
    #[must_use]
    pub const fn ledger_slots(&self) -> u32 {
        self.ledger_slots
    }

    /// The instance table, an array of [`INSTANCES_MAX`] [`InstanceState`] that can be mapped.
    #[must_use]
    pub fn instances_fd(&self) -> BorrowedFd<'_> {
        fd_of(&self.maps.instances)
    }

    /// How many sends were refused for each [`Refusal`], in the order of [`Refusal::ALL`].
    ///
    /// # Errors
    ///
    /// A failed map look-up.
    pub fn refusals(&self) -> Result<[u64; Refusal::COUNT], LoaderError> {
        let mut counts = [0; Refusal::COUNT];
        for (number, count) in (0..).zip(&mut counts) {
            let per_cpu = self.maps.refusals.get(&number, 0).map_err(map("read the refusal counters"))?;
            *count = per_cpu.iter().sum();
        }
        Ok(counts)
    }

    /// What went over every permitted hop.
    ///
    /// # Errors
    ///
    /// A failed map look-up.
    pub fn edge_counts(&self) -> Result<Vec<(Edge, EdgeCount)>, LoaderError> {
        let mut counts = Vec::new();
        for entry in self.maps.edges.iter() {
            let (key, per_cpu) = entry.map_err(map("read the edge counters"))?;
            let mut total = EdgeCount::default();
            for bytes in per_cpu.iter() {
                let one: EdgeCount = zerocopy::transmute!(*bytes);
                total.descriptors += one.descriptors;
                total.batches += one.batches;
            }
            counts.push((zerocopy::transmute!(key), total));
        }
        Ok(counts)
    }

    /// What came to a function and what it has done with, since it was last forgotten.
    ///
    /// # Errors
    ///
    /// An id out of range, or a failed map look-up.
    pub fn flow(&self, function: FunctionId) -> Result<FunctionFlow, LoaderError> {
        in_range("function", function.0, FUNCTIONS_MAX)?;
        let per_cpu = self.maps.flows.get(&function.0, 0).map_err(map("read a function's flow"))?;
        let flows = per_cpu.iter().map(|bytes| zerocopy::transmute!(*bytes));
        let lost = self.lost.get(&function).copied().unwrap_or_default();
        Ok(flows.fold(lost, FunctionFlow::plus))
    }

    /// Begins to count a function's messages anew, for the next function of that id. No instance of it may live.
    ///
    /// # Errors
    ///
    /// An id out of range, or a failed map update.
    pub fn forget_flow(&mut self, function: FunctionId) -> Result<(), LoaderError> {
        in_range("function", function.0, FUNCTIONS_MAX)?;
        let action = "forget a function's flow";
        let failed = |error| LoaderError::Map { action, source: MapError::IoError(error) };
        let cpus = nr_cpus().map_err(|(_, error)| failed(error))?;
        let zeros = PerCpuValues::try_from(vec![FlowBytes::default(); cpus]).map_err(failed)?;
        self.lost.remove(&function);
        self.maps.flows.set(function.0, zeros, 0).map_err(map(action))
    }

    /// What SPROXY keeps of an instance, or `None` if it does not live.
    ///
    /// # Errors
    ///
    /// An id out of range, or a failed map look-up.
    pub fn instance_state(&self, instance: InstanceId) -> Result<Option<InstanceState>, LoaderError> {
        let state = self.state_at(index_of(instance)?)?;
        Ok((state.instance == instance).then_some(state))
    }

    /// The program's log lines; they can be taken once.
    ///
    /// # Errors
    ///
    /// [`LoaderError::Logs`] when they were taken before.
    pub fn logs(&mut self) -> Result<SproxyLogs, LoaderError> {
        SproxyLogs::take(&mut self.ebpf)
    }

    fn state_at(&self, index: u32) -> Result<InstanceState, LoaderError> {
        let bytes = self.maps.instances.get(&index, 0).map_err(map("read an instance's entry"))?;
        Ok(zerocopy::transmute!(bytes))
    }

    fn set_state(&mut self, index: u32, state: InstanceState) -> Result<(), LoaderError> {
        let bytes: StateBytes = zerocopy::transmute!(state);
        self.maps.instances.set(index, bytes, 0).map_err(map("write an instance's entry"))
    }

    /// The steps of [`Sproxy::join`].
    fn enter(
        &mut self,
        index: u32,
        identity: &Identity,
        capacity: u32,
        sender: BorrowedFd<'_>,
        receiver: BorrowedFd<'_>,
    ) -> Result<(), LoaderError> {
        let Identity { instance, function, domain, .. } = *identity;
        // The kernel copies an entry byte by byte. First all but the id, so that nobody sees the id beside another
        // function.
        let mut state = InstanceState { function, domain, capacity, ..InstanceState::default() };
        self.set_state(index, state)?;
        let bytes: IdentityBytes = zerocopy::transmute!(*identity);
        self.maps.identities.insert(&sender, bytes, 0).map_err(map("tie an identity to the sending socket"))?;
        self.maps.receivers.set(index, &receiver, 0).map_err(map("put the receiving socket into its sockmap"))?;
        self.maps.senders.set(index, &sender, 0).map_err(map("put the sending socket into its sockmap"))?;
        state.instance = instance;
        self.set_state(index, state)
    }

    /// Empties an index, the id first, for the reason given in [`Self::enter`].
    fn clear(&mut self, index: u32) -> Result<(), LoaderError> {
        let state = self.state_at(index)?;
        self.set_state(index, InstanceState { instance: InstanceId::NONE, ..state })?;
        absent_is_fine(self.maps.senders.clear_index(&index)).map_err(map("take a sending socket out"))?;
        absent_is_fine(self.maps.receivers.clear_index(&index)).map_err(map("take a receiving socket out"))
    }
}

/// An object whose maps exist and whose program is on its way into the kernel; the probe reports on each stage.
pub(crate) struct Prepared {
    path: PathBuf,
    options: LoadOptions,
    ebpf: Ebpf,
}

impl Prepared {
    /// Reads the object and makes its maps.
    pub(crate) fn new(path: &Path, options: LoadOptions) -> Result<Self, LoaderError> {
        if options.ledger_slots == 0 {
            let reason = "a ledger without slots lets nothing move";
            return Err(LoaderError::Meaningless { what: "the number of slots", value: 0, reason });
        }
        Ok(Self { path: path.to_owned(), options, ebpf: prepare(path, options.ledger_slots)? })
    }

    /// Passes the program through the verifier.
    pub(crate) fn load_program(&mut self) -> Result<(), LoaderError> {
        self.program()?.load().map_err(|error| LoaderError::of_load(NAME, error))
    }

    /// Attaches the program to the senders' sockmap.
    pub(crate) fn attach(mut self) -> Result<Sproxy, LoaderError> {
        let mut maps = Maps::take(&mut self.ebpf, &self.path)?;
        let nowhere = nowhere(&mut maps)?;
        let senders = maps.senders.fd().try_clone().map_err(|error| LoaderError::of_attach(NAME, error.into()))?;
        self.program()?.attach(&senders).map_err(|error| LoaderError::of_attach(NAME, error))?;
        Ok(Sproxy {
            maps,
            ledger_slots: self.options.ledger_slots,
            lost: HashMap::new(),
            _nowhere: nowhere,
            ebpf: self.ebpf,
        })
    }

    fn program(&mut self) -> Result<&mut SkMsg, LoaderError> {
        let path = &self.path;
        let invalid = |reason| LoaderError::ObjectInvalid { path: path.clone(), reason };
        let program = self.ebpf.program_mut(SPROXY).ok_or_else(|| invalid(format!("it has no program {SPROXY}")))?;
        program.try_into().map_err(|_| invalid(format!("its program {SPROXY} is not an sk_msg program")))
    }
}

/// Reads an object and makes its maps, with so many slots in its ledger.
pub(crate) fn prepare(path: &Path, ledger_slots: u32) -> Result<Ebpf, LoaderError> {
    let bytes =
        fs::read(path).map_err(|source: io::Error| LoaderError::ObjectUnreadable { path: path.to_owned(), source })?;
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(LEDGER, ledger_slots).map_max_entries(HOPS, ledger_slots);
    loader.load(&bytes).map_err(|error| match error {
        EbpfError::ParseError(_) | EbpfError::RelocationError(_) => {
            LoaderError::ObjectInvalid { path: path.to_owned(), reason: error.to_string() }
        }
        error => LoaderError::of_maps(error),
    })
}

/// Puts a socket that nothing can be sent on where the program redirects refused messages to.
fn nowhere(maps: &mut Maps) -> Result<(TcpStream, TcpStream), LoaderError> {
    let (end, peer) = tcp_pair()?;
    // A sockmap takes connected sockets only, so it is shut down when it is in.
    maps.nowhere.set(0, &end, 0).map_err(map("put the socket for refused messages into its sockmap"))?;
    end.shutdown(Shutdown::Write).map_err(|source| sockets::error("shutdown", source, "this should not happen"))?;
    Ok((end, peer))
}

pub(crate) fn map(action: &'static str) -> impl FnOnce(MapError) -> LoaderError {
    move |source| LoaderError::Map { action, source }
}

fn in_range(what: &'static str, value: u32, limit: u32) -> Result<(), LoaderError> {
    if value < limit { Ok(()) } else { Err(LoaderError::OutOfRange { what, value: value.into(), limit: limit.into() }) }
}

fn index_of(instance: InstanceId) -> Result<u32, LoaderError> {
    if instance == InstanceId::NONE {
        return Err(LoaderError::Meaningless { what: "an instance", value: 0, reason: "zero is nobody" });
    }
    in_range("instance index", instance.index(), INSTANCES_MAX)?;
    Ok(instance.index())
}

/// The clock that the program stamps with.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}
