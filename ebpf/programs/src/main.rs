//! SPROXY runs on every send of an instance, so that no function has to be trusted with routing or ownership.
//!
//! Reading order: [`maps`] is what the supervisor filled, [`batch`] is the message, [`route`] finds the destination,
//! [`ownership`] moves the slots, [`refusal`] says no; [`shortcut`] is two programs of its own. Unsafe code
//! leans on three invariants:
//!
//! - **P1**: between `pull_data` and the return, `data..data_end` of the message is kernel memory that no user process
//!   can write; every access is preceded by a comparison with `data_end`, which the verifier insists on.
//! - **P2**: a pointer from a map look-up stays valid until the program returns, because the kernel runs it in one RCU
//!   read-side section and array elements are never freed while the program holds the map.
//! - **P3**: the kernel holds the sender's socket lock while this runs, so what only the sender's own program writes
//!   (its token bucket, its `sent`, `refused` and `last_refusal`) has one writer.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

// The log macros expand to `::aya_log_ebpf::macro_support`; this makes that path mean our own `macro_support`.
extern crate self as aya_log_ebpf;

mod asm;
mod batch;
pub mod macro_support;
mod maps;
mod ownership;
mod refusal;
mod route;
mod shortcut;
mod value;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use batch::Batch;
use maps::Sender;
use ramet_common::{InstanceId, Refusal};
use route::Destination;

/// Checks, stamps and redirects one send, or refuses it, which the sender sees as `EPIPE`.
///
/// A stranger's send is dropped, which it sees as `EACCES`, now and ever after.
#[sk_msg]
fn sproxy(ctx: SkMsgContext) -> u32 {
    let Some(sender) = Sender::of(&ctx) else {
        refusal::of_stranger(&ctx);
        return SK_DROP;
    };
    match forward(&ctx, &sender) {
        Ok(()) => SK_PASS,
        Err(reason) => refusal::of_sender(&ctx, &sender, reason),
    }
}

/// The whole check of one send, cheapest first; nothing has changed when it fails.
#[inline(always)]
fn forward(ctx: &SkMsgContext, sender: &Sender) -> Result<(), Refusal> {
    let batch = Batch::of(ctx)?;
    let (function, peer) = batch.address();
    let edge = maps::edge(sender.function, function).ok_or(Refusal::EdgeDenied)?;
    let destination =
        if peer == InstanceId::NONE { Destination::pick(function)? } else { Destination::named(function, peer)? };
    let transfer = destination.transfer_from(sender)?;

    let mut walk = batch.walk(sender, function, peer, transfer);
    let mut outcome = walk.hand_over();
    if outcome.is_ok() && walk.tally.unmoved != 0 && !sender.is_gateway() {
        outcome = sender.police(walk.tally.unmoved);
    }
    if outcome.is_ok() {
        outcome = destination.redirect(ctx);
    }
    if outcome.is_err() {
        walk.take_back();
        return outcome;
    }
    sender.count(&walk.tally);
    destination.count(&walk.tally);
    maps::count_edge(edge, &walk.tally);
    Ok(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this is reachable.
    loop {}
}

/// GPL-compatible licence, which several helpers demand.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
