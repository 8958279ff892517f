//! One message of a sender: 1 to [`BATCH_MAX`] descriptors, all for one destination, handed over whole or not at all.

use aya_ebpf::helpers::{bpf_loop, bpf_msg_pull_data};
use aya_ebpf::programs::SkMsgContext;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr;
use ramet_common::descriptor::{FLAG_LENT, FLAG_MORE};
use ramet_common::{
    ABI, BATCH_MAX, DESCRIPTOR_BYTES, FunctionId, Generation, InstanceId, Kind, PacketDescriptor, Refusal, SlotIndex,
};

use crate::asm::{load_u8, load_u32, masked, store_u32};
use crate::maps::Sender;
use crate::ownership::Transfer;

const VERSION: usize = offset_of!(PacketDescriptor, version);
const KIND: usize = offset_of!(PacketDescriptor, kind);
const FLAGS: usize = offset_of!(PacketDescriptor, flags);
const FUNCTION: usize = offset_of!(PacketDescriptor, function);
const PEER: usize = offset_of!(PacketDescriptor, peer);
const SLOT: usize = offset_of!(PacketDescriptor, slot);
const GENERATION: usize = offset_of!(PacketDescriptor, generation);

/// The bits of the kinds for which `$holds` holds: a test of a bit instead of a jump table.
macro_rules! kinds {
    (|$kind:ident| $holds:expr) => {{
        let mut bits = 0u32;
        let mut byte = 0u8;
        while byte < 32 {
            if let Some($kind) = Kind::from_u8(byte) {
                if $holds {
                    bits |= 1 << byte;
                }
            }
            byte += 1;
        }
        bits
    }};
}

const KNOWN: u32 = kinds!(|_kind| true);
const MOVES_SLOT: u32 = kinds!(|kind| kind.moves_slot());
const GATEWAY_ONLY: u32 = kinds!(|kind| kind.gateway_only());
const TO_GATEWAY_ONLY: u32 = kinds!(|kind| kind.to_gateway_only());
/// Kinds that give the destination work.
const LOADS: u32 = kinds!(|kind| kind.gives_work());
/// Kinds that end a function's work on what it was given, unless [`FLAG_MORE`] says that the work goes on.
const RELEASES: u32 = kinds!(|kind| kind.ends_work());
/// The only kind that may carry [`FLAG_LENT`]: with it on another one, a message could travel without its slot.
const MAY_BE_LENT: u32 = kinds!(|kind| matches!(kind, Kind::Return));

/// What was done with the descriptors of a batch so far.
pub(crate) struct Tally {
    /// How many were checked, and moved if they move.
    pub(crate) done: u32,
    /// How many of them give the destination work.
    pub(crate) loaded: u32,
    /// How many of them end the sender's work on something.
    pub(crate) released: u32,
    /// How many of them move no slot.
    pub(crate) unmoved: u32,
}

/// The message's bytes.
pub(crate) struct Batch {
    data: usize,
    data_end: usize,
    count: u32,
}

impl Batch {
    /// The message of `ctx`, made linear and private to the kernel.
    #[inline(always)]
    pub(crate) fn of(ctx: &SkMsgContext) -> Result<Self, Refusal> {
        let size = ctx.size();
        if size == 0 || size > (BATCH_MAX * DESCRIPTOR_BYTES) as u32 || !size.is_multiple_of(DESCRIPTOR_BYTES as u32) {
            return Err(Refusal::Malformed);
        }
        // A splice or sendfile leaves the sender's own pages in the message; this copies them.
        // SAFETY: the context is the kernel's.
        let pulled = unsafe { bpf_msg_pull_data(ctx.msg, 0, size, 0) };
        if pulled != 0 {
            return Err(Refusal::Malformed);
        }
        let (data, data_end) = (ctx.data(), ctx.data_end());
        if data + DESCRIPTOR_BYTES > data_end {
            return Err(Refusal::Malformed);
        }
        Ok(Self { data, data_end, count: size / DESCRIPTOR_BYTES as u32 })
    }

    /// Where the first descriptor wants to go.
    #[inline(always)]
    pub(crate) fn address(&self) -> (FunctionId, InstanceId) {
        // SAFETY: P1; `of` has compared the first descriptor's end.
        let function = unsafe { load_u32::<FUNCTION>(self.data) };
        // SAFETY: as above.
        let peer = unsafe { load_u32::<PEER>(self.data) };
        (FunctionId(function), InstanceId(peer))
    }

    /// A walk over the batch that hands it over to one destination.
    #[inline(always)]
    pub(crate) fn walk(&self, sender: &Sender, function: FunctionId, peer: InstanceId, transfer: Transfer) -> Walk {
        let denied = (if sender.is_gateway() { 0 } else { GATEWAY_ONLY })
            | (if function == FunctionId::GATEWAY { 0 } else { TO_GATEWAY_ONLY });
        Walk {
            data: self.data,
            data_end: self.data_end,
            count: self.count,
            function,
            peer,
            stamp: sender.instance,
            denied,
            refusal: None,
            transfer,
            tally: Tally { done: 0, loaded: 0, released: 0, unmoved: 0 },
        }
    }
}

/// The hand-over of one batch.
///
/// It goes through `bpf_loop`, because the verifier looks at such a loop's body once, and at every turn of a plain
/// loop again: 64 turns with these branches are more than it is willing to follow.
///
/// Before Linux 6.7 it even looks only at the first turn, and removes branches that a later one alone would take. So
/// nothing in a turn may branch on what an earlier one wrote.
pub(crate) struct Walk {
    data: usize,
    data_end: usize,
    count: u32,
    function: FunctionId,
    peer: InstanceId,
    stamp: InstanceId,
    denied: u32,
    refusal: Option<Refusal>,
    transfer: Transfer,
    pub(crate) tally: Tally,
}

impl Walk {
    /// Checks every descriptor, moves the slots of those that move one, and stamps the sender on each.
    ///
    /// On an error the first `tally.done` have been handed over: [`Walk::take_back`] undoes them.
    #[inline(always)]
    pub(crate) fn hand_over(&mut self) -> Result<(), Refusal> {
        self.each(self.count, hand_over_one);
        match self.refusal {
            Some(reason) => Err(reason),
            None if self.tally.done != self.count => Err(Refusal::Malformed),
            None => Ok(()),
        }
    }

    /// Gives the slots that were handed over back to the sender.
    #[inline(always)]
    pub(crate) fn take_back(&mut self) {
        self.each(self.tally.done, take_back_one);
    }

    #[inline(always)]
    fn each(&mut self, count: u32, step: unsafe extern "C" fn(u32, *mut Walk) -> i64) {
        let context = ptr::from_mut(self).cast();
        // SAFETY: `step` takes what `bpf_loop` passes: an index and `context`.
        unsafe { bpf_loop(count, step as *mut c_void, context, 0) };
    }

    /// The address of the `index`-th descriptor, if all of it is in the message.
    #[inline(always)]
    fn address_of(&self, index: u32) -> Option<usize> {
        const { assert!(BATCH_MAX.is_power_of_two()) };
        let at = self.data + masked::<{ BATCH_MAX as u32 - 1 }>(index) * DESCRIPTOR_BYTES;
        (at + DESCRIPTOR_BYTES <= self.data_end).then_some(at)
    }

    #[inline(always)]
    fn hand_over_at(&mut self, at: usize) -> Result<(), Refusal> {
        // SAFETY: P1; `address_of` has compared the descriptor's end. The same holds for every access below.
        let function = unsafe { load_u32::<FUNCTION>(at) };
        // SAFETY: P1.
        let peer = unsafe { load_u32::<PEER>(at) };
        if function != self.function.0 || peer != self.peer.0 {
            return Err(Refusal::MixedBatch);
        }
        let (kind, moves, ends) = kind_at(at)?;
        if kind & self.denied != 0 {
            return Err(Refusal::KindDenied);
        }
        if moves {
            // SAFETY: P1.
            let slot = unsafe { load_u32::<SLOT>(at) };
            // SAFETY: P1.
            let generation = unsafe { load_u32::<GENERATION>(at) };
            self.transfer.hand_over(SlotIndex(slot), Generation(generation))?;
        } else {
            self.tally.unmoved += 1;
        }
        // SAFETY: P1.
        unsafe { store_u32::<PEER>(at, self.stamp.0) };
        self.tally.loaded += u32::from(kind & LOADS != 0);
        self.tally.released += u32::from(ends);
        self.tally.done += 1;
        Ok(())
    }
}

/// One turn of [`Walk::hand_over`]; 1 ends the loop.
///
/// # Safety
/// `walk` is what [`Walk::each`] passes to the loop.
unsafe extern "C" fn hand_over_one(index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `Walk::each` passes itself, and nothing else uses it while the loop runs.
    let walk = unsafe { &mut *walk };
    let Some(at) = walk.address_of(index) else { return 1 };
    match walk.hand_over_at(at) {
        Ok(()) => 0,
        Err(reason) => {
            walk.refusal = Some(reason);
            1
        }
    }
}

/// One turn of [`Walk::take_back`]; 1 ends the loop.
///
/// # Safety
/// `walk` is what [`Walk::each`] passes to the loop.
unsafe extern "C" fn take_back_one(index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `Walk::each` passes itself, and nothing else uses it while the loop runs.
    let walk = unsafe { &mut *walk };
    let Some(at) = walk.address_of(index) else { return 1 };
    if let Ok((_, true, _)) = kind_at(at) {
        // SAFETY: P1; `address_of` has compared the descriptor's end.
        let slot = unsafe { load_u32::<SLOT>(at) };
        // SAFETY: P1.
        let generation = unsafe { load_u32::<GENERATION>(at) };
        walk.transfer.take_back(SlotIndex(slot), Generation(generation));
    }
    0
}

/// The bit of the kind of the descriptor at `at`, whether it moves its slot, and whether it ends the sender's work.
///
/// `at` must come from [`Walk::address_of`].
#[inline(always)]
fn kind_at(at: usize) -> Result<(u32, bool, bool), Refusal> {
    // SAFETY: P1; `address_of` has compared the descriptor's end.
    let version = unsafe { load_u8::<VERSION>(at) };
    // SAFETY: P1.
    let kind = unsafe { load_u8::<KIND>(at) };
    // SAFETY: P1.
    let flags = unsafe { load_u8::<FLAGS>(at) };
    let bit = 1u32.wrapping_shl(kind);
    if version != u32::from(ABI) || kind >= 32 || bit & KNOWN == 0 {
        return Err(Refusal::Malformed);
    }
    let lent = flags & u32::from(FLAG_LENT) != 0;
    if lent && bit & MAY_BE_LENT == 0 {
        return Err(Refusal::Malformed);
    }
    let more = flags & u32::from(FLAG_MORE) != 0;
    Ok((bit, bit & MOVES_SLOT != 0 && !lent, bit & RELEASES != 0 && !more))
}
