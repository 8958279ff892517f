//! The maps that the supervisor fills, and typed access to what they hold about the sender.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, PerCpuArray, PerCpuHashMap, SkStorage, SockMap};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_sk_storage_get};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkMsgContext;
use core::ptr;
use ramet_common::map::{
    DOMAINS_MAX, DomainSlots, EDGES_MAX, Edge, EdgeCount, FUNCTIONS_MAX, FunctionFlow, INSTANCES_MAX, Identity,
    InstanceState, POLICE_TOKENS, POLICE_WINDOW_NS, Replicas, SLOTS_MAX_DEFAULT,
};
use ramet_common::{DomainId, FunctionId, InstanceId, Refusal};

use crate::asm;
use crate::batch::Tally;
use crate::value::{field, read_field};

/// User space maps the array, so that the gateway reads it without a system call.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static IDENTITIES: SkStorage<Identity> = SkStorage::new();
#[btf_map]
static SENDERS: SockMap<{ INSTANCES_MAX as usize }> = SockMap::new();
#[btf_map]
pub(crate) static RECEIVERS: SockMap<{ INSTANCES_MAX as usize }> = SockMap::new();
#[btf_map]
pub(crate) static NOWHERE: SockMap<1> = SockMap::new();
#[btf_map]
pub(crate) static FUNCTIONS: Array<Replicas, { FUNCTIONS_MAX as usize }> = Array::new();
#[btf_map]
pub(crate) static INSTANCES: Array<InstanceState, { INSTANCES_MAX as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static DOMAINS: Array<DomainSlots, { DOMAINS_MAX as usize }> = Array::new();
// Edges come and go while the program runs; without preallocation a removed one is freed only after the readers of it
// are done, instead of being handed to another edge at once.
#[btf_map]
static EDGES: PerCpuHashMap<Edge, EdgeCount, { EDGES_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> =
    PerCpuHashMap::new();
#[btf_map]
pub(crate) static LEDGER: Array<u64, { SLOTS_MAX_DEFAULT as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static HOPS: Array<u32, { SLOTS_MAX_DEFAULT as usize }> = Array::new();
#[btf_map]
static FUNCTION_FLOWS: PerCpuArray<FunctionFlow, { FUNCTIONS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static REFUSALS: PerCpuArray<u64, { Refusal::COUNT }> = PerCpuArray::new();

/// The instance on whose socket the program runs.
pub(crate) struct Sender {
    pub(crate) instance: InstanceId,
    pub(crate) function: FunctionId,
    pub(crate) domain: DomainId,
    identity: *mut Identity,
    pub(crate) state: *mut InstanceState,
}

impl Sender {
    /// The instance that the supervisor tied to this socket, if it still lives.
    #[inline(always)]
    pub(crate) fn of(ctx: &SkMsgContext) -> Option<Self> {
        // SAFETY: the kernel passes a valid context.
        let field = unsafe { &(*ctx.msg).__bindgen_anon_3 };
        // SAFETY: the union's other members only fill its 8 bytes.
        let socket = unsafe { field.sk };
        if socket.is_null() {
            return None;
        }
        let map = ptr::addr_of!(IDENTITIES).cast_mut().cast();
        // SAFETY: `map` is a socket storage map and `socket` was just seen not to be null.
        let identity = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) }.cast::<Identity>();
        if identity.is_null() {
            return None;
        }
        // SAFETY: P2; P3 makes this the only access.
        let Identity { instance, function, domain, .. } = unsafe { ptr::read_volatile(identity) };
        let state = instance_state(instance)?;
        Some(Self { instance, function, domain, identity, state })
    }

    /// Whether this is a worker of the gateway, which is trusted with every domain's slots.
    #[inline(always)]
    pub(crate) fn is_gateway(&self) -> bool {
        self.function == FunctionId::GATEWAY
    }

    /// Takes `n` from the token bucket of descriptors that move no slot and so cost the sender nothing.
    #[inline(always)]
    pub(crate) fn police(&self, n: u32) -> Result<(), Refusal> {
        // SAFETY: a helper without arguments.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        // SAFETY: P2, P3.
        let identity = unsafe { &mut *self.identity };
        if now_ns.wrapping_sub(identity.window_start_ns) >= POLICE_WINDOW_NS {
            identity.window_start_ns = now_ns;
            identity.tokens = POLICE_TOKENS;
        }
        if identity.tokens < n {
            return Err(Refusal::RateLimited);
        }
        identity.tokens -= n;
        Ok(())
    }

    /// Books what this send did.
    #[inline(always)]
    pub(crate) fn count(&self, tally: &Tally) {
        let sent = field!(self.state, sent);
        // SAFETY: P2, P3.
        unsafe { *sent += u64::from(tally.done) };
        if !self.is_gateway() && tally.released != 0 {
            let load = field!(self.state, load);
            // SAFETY: P2; the destination's senders add to it at the same time, hence atomic.
            unsafe { asm::add_u32(load, tally.released.wrapping_neg()) };
            count_departures(self.function, tally.released);
        }
    }
}

/// Books that so many messages came to a function.
#[inline(always)]
pub(crate) fn count_arrivals(function: FunctionId, messages: u32) {
    if let Some(flow) = FUNCTION_FLOWS.get_ptr_mut(function.0) {
        add(field!(flow, arrived), field!(flow, arrived_ns), messages);
    }
}

/// Books that a function has done with so many messages.
#[inline(always)]
fn count_departures(function: FunctionId, messages: u32) {
    if let Some(flow) = FUNCTION_FLOWS.get_ptr_mut(function.0) {
        add(field!(flow, left), field!(flow, left_ns), messages);
    }
}

#[inline(always)]
fn add(count: *mut u64, times: *mut u64, messages: u32) {
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: P2; atomic because another task may run the program on this CPU in between.
    unsafe { asm::add_u64(count, u64::from(messages)) };
    // SAFETY: as above.
    unsafe { asm::add_u64(times, now_ns.wrapping_mul(u64::from(messages))) };
}

/// The entry of exactly this instance; one that has left or was replaced has none.
#[inline(always)]
pub(crate) fn instance_state(instance: InstanceId) -> Option<*mut InstanceState> {
    let state = INSTANCES.get_ptr_mut(instance.index())?;
    let living = read_field!(state, instance);
    (living == instance && instance != InstanceId::NONE).then_some(state)
}

/// The counters of a permitted hop, or `None` where policy has no such edge.
#[inline(always)]
pub(crate) fn edge(from: FunctionId, to: FunctionId) -> Option<*mut EdgeCount> {
    EDGES.get_ptr_mut(Edge { from, to })
}

/// Books one send on its edge.
#[inline(always)]
pub(crate) fn count_edge(edge: *mut EdgeCount, tally: &Tally) {
    let descriptors = field!(edge, descriptors);
    // SAFETY: P2; atomic because another task may run the program on this CPU in between.
    unsafe { asm::add_u64(descriptors, u64::from(tally.done)) };
    let batches = field!(edge, batches);
    // SAFETY: as above.
    unsafe { asm::add_u64(batches, 1) };
}
