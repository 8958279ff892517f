//! Which instance a send goes to, and whether it may.

use aya_ebpf::bindings::{BPF_F_INGRESS, sk_action::SK_PASS};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use aya_ebpf::programs::SkMsgContext;
use core::ffi::c_void;
use core::ptr;
use ramet_common::map::{InstanceState, REPLICAS_MAX, Replicas};
use ramet_common::{DomainId, FunctionId, InstanceId, Refusal};

use crate::asm;
use crate::batch::Tally;
use crate::maps::{self, DOMAINS, FUNCTIONS, RECEIVERS, Sender, instance_state};
use crate::ownership::Transfer;
use crate::value::{field, read_field};

/// The instance that a send goes to.
pub(crate) struct Destination {
    instance: InstanceId,
    function: FunctionId,
    domain: DomainId,
    state: *mut InstanceState,
}

impl Destination {
    /// The instance that the sender named, if it lives and is one of `function`.
    #[inline(always)]
    pub(crate) fn named(function: FunctionId, instance: InstanceId) -> Result<Self, Refusal> {
        let state = instance_state(instance).ok_or(Refusal::NoReplica)?;
        Self::checked(function, instance, state).ok_or(Refusal::NoReplica)
    }

    /// The replica of `function` with the most residual capacity. The search starts anywhere, so that equals share.
    #[inline(always)]
    pub(crate) fn pick(function: FunctionId) -> Result<Self, Refusal> {
        // A gateway worker waits for particular answers; any other one would not know them.
        if function == FunctionId::GATEWAY {
            return Err(Refusal::NoReplica);
        }
        let replicas = FUNCTIONS.get_ptr(function.0).ok_or(Refusal::NoReplica)?;
        let count = read_field!(replicas, count);
        if count == 0 || count > REPLICAS_MAX as u32 {
            return Err(Refusal::NoReplica);
        }
        // SAFETY: a helper without arguments.
        let random = unsafe { bpf_get_prandom_u32() };
        // A random 32-bit fraction of `count`, without a division.
        let start = ((u64::from(random) * u64::from(count)) >> 32) as u32;
        let best = instance_at(replicas, start);
        // Before Linux 6.7 the verifier looks at the body of a `bpf_loop` only with the values before the first turn.
        // Began the search with a constant, it would take the comparison for decided and remove the other branch.
        let mut choice = Choice { replicas, count, start, best, residual: residual(best) };
        let context = ptr::from_mut(&mut choice).cast();
        // SAFETY: `consider_next` takes what `bpf_loop` passes: an index and `context`.
        unsafe { bpf_loop(count - 1, consider_next as *mut c_void, context, 0) };
        if choice.residual == DEAD {
            return Err(Refusal::NoReplica);
        }
        if choice.residual < 1 {
            return Err(Refusal::Full);
        }
        Self::named(function, choice.best)
    }

    #[inline(always)]
    fn checked(function: FunctionId, instance: InstanceId, state: *mut InstanceState) -> Option<Self> {
        let its_function = read_field!(state, function);
        let domain = read_field!(state, domain);
        (its_function == function).then_some(Self { instance, function, domain, state })
    }

    /// Who hands slots to whom, and of which domain they are.
    #[inline(always)]
    pub(crate) fn transfer_from(&self, sender: &Sender) -> Result<Transfer, Refusal> {
        let to_gateway = self.function == FunctionId::GATEWAY;
        if !sender.is_gateway() && !to_gateway && sender.domain != self.domain {
            return Err(Refusal::EdgeDenied);
        }
        let domain = if sender.is_gateway() { self.domain } else { sender.domain };
        let slots = DOMAINS.get_ptr(domain.0).ok_or(Refusal::BadSlot)?;
        let base = read_field!(slots, base);
        let count = read_field!(slots, count);
        Ok(Transfer {
            from: if sender.is_gateway() { InstanceId::NONE } else { sender.instance },
            to: if to_gateway { InstanceId::NONE } else { self.instance },
            base,
            count,
        })
    }

    /// Puts the message into the destination's receiving socket once the program returns.
    #[inline(always)]
    pub(crate) fn redirect(&self, ctx: &SkMsgContext) -> Result<(), Refusal> {
        let verdict = RECEIVERS.redirect_msg(ctx, self.instance.index(), u64::from(BPF_F_INGRESS));
        if verdict == i64::from(SK_PASS) { Ok(()) } else { Err(Refusal::Unreachable) }
    }

    /// Books the work that this send gives the destination.
    #[inline(always)]
    pub(crate) fn count(&self, tally: &Tally) {
        if self.function != FunctionId::GATEWAY && tally.loaded != 0 {
            let load = field!(self.state, load);
            // SAFETY: P2.
            unsafe { asm::add_u32(load, tally.loaded) };
            maps::count_arrivals(self.function, tally.loaded);
        }
    }
}

/// The search for the replica with the most residual capacity.
struct Choice {
    replicas: *const Replicas,
    count: u32,
    start: u32,
    best: InstanceId,
    residual: i64,
}

/// One turn of [`Destination::pick`]: the replica `index + 1` places after the first.
///
/// # Safety
/// `choice` is what [`Destination::pick`] passes to the loop.
unsafe extern "C" fn consider_next(index: u32, choice: *mut Choice) -> i64 {
    // SAFETY: `pick` passes its own, and does not use it while the loop runs.
    let choice = unsafe { &mut *choice };
    let mut place = choice.start + index + 1;
    if place >= choice.count {
        place -= choice.count;
    }
    let instance = instance_at(choice.replicas, place);
    let residual = residual(instance);
    if residual > choice.residual {
        choice.best = instance;
        choice.residual = residual;
    }
    0
}

#[inline(always)]
fn instance_at(replicas: *const Replicas, place: u32) -> InstanceId {
    const { assert!(REPLICAS_MAX.is_power_of_two()) };
    let place = asm::masked::<{ REPLICAS_MAX as u32 - 1 }>(place);
    // SAFETY: P2.
    let first = unsafe { &raw const (*replicas).instances }.cast::<InstanceId>();
    // SAFETY: the mask keeps `place` inside the array.
    let entry = unsafe { first.add(place) };
    // SAFETY: P2; volatile because the supervisor may write at the same time.
    unsafe { ptr::read_volatile(entry) }
}

/// The residual capacity of an instance that has left; its function's table will say so soon.
const DEAD: i64 = i64::MIN;

/// How many more messages the instance may be given; zero or less when its queue is full, [`DEAD`] if it has left.
#[inline(always)]
fn residual(instance: InstanceId) -> i64 {
    let Some(state) = instance_state(instance) else { return DEAD };
    let capacity = read_field!(state, capacity);
    let load = read_field!(state, load);
    // A replaced predecessor's late answer may take it below zero, which means idle.
    i64::from(capacity) - i64::from((load as i32).max(0))
}
