//! Saying no: counted by reason, noted for the sender, and logged ever more rarely.

use aya_ebpf::programs::SkMsgContext;
use aya_log_ebpf_macros::info;
use ramet_common::Refusal;

use crate::asm;
use crate::maps::{NOWHERE, REFUSALS, Sender};
use crate::value::field;

/// Refuses a send on a socket that belongs to no living instance.
#[inline(always)]
pub(crate) fn of_stranger(ctx: &SkMsgContext) {
    let before = count(Refusal::UnknownSender);
    if doubles(before + 1) {
        log(ctx, 0, 0, Refusal::UnknownSender);
    }
}

/// Refuses a send of a known instance; returns the program's verdict.
///
/// The kernel keeps the verdict `SK_DROP` of one message for all that follow on the socket, without running the program
/// for them. So the message is redirected to a socket that nothing can be sent on: that fails too, and only once.
#[inline(always)]
pub(crate) fn of_sender(ctx: &SkMsgContext, sender: &Sender, reason: Refusal) -> u32 {
    count(reason);
    let last_refusal = field!(sender.state, last_refusal);
    // SAFETY: P2, P3.
    unsafe { last_refusal.write_volatile(reason as u32) };
    let refused = field!(sender.state, refused);
    // SAFETY: P2, P3.
    let total = unsafe { refused.read_volatile() } + 1;
    // SAFETY: P2, P3.
    unsafe { refused.write_volatile(total) };
    if doubles(total) {
        log(ctx, sender.instance.0, sender.function.0, reason);
    }
    NOWHERE.redirect_msg(ctx, 0, 0) as u32
}

/// Counts `reason`; returns the count before.
#[inline(always)]
fn count(reason: Refusal) -> u64 {
    let Some(counter) = REFUSALS.get_ptr_mut(reason as u32) else { return 0 };
    // SAFETY: P2.
    let before = unsafe { counter.read_volatile() };
    // SAFETY: P2; atomic because another task may run the program on this CPU in between.
    unsafe { asm::add_u64(counter, 1) };
    before
}

/// Whether `n` is a power of two: a hostile sender gets a handful of log lines, not a stream.
#[inline(always)]
fn doubles(n: u64) -> bool {
    n & n.wrapping_sub(1) == 0
}

/// The length of the longest name, and of all of them once padded.
const NAME_BYTES: usize = 16;

/// Every reason's name, padded: a table of `&str` would need relocations that no loader does.
static NAMES: [[u8; NAME_BYTES]; Refusal::COUNT] = {
    let mut names = [[b' '; NAME_BYTES]; Refusal::COUNT];
    let mut reason = 0;
    while reason < Refusal::COUNT {
        let name = Refusal::ALL[reason].as_str().as_bytes();
        let mut at = 0;
        while at < name.len() {
            names[reason][at] = name[at];
            at += 1;
        }
        reason += 1;
    }
    names
};

#[inline(never)]
fn log(ctx: &SkMsgContext, instance: u32, function: u32, reason: Refusal) {
    let Some(name) = NAMES.get(asm::masked::<31>(reason as u32)) else { return };
    // SAFETY: the names are ASCII.
    let name = unsafe { str::from_utf8_unchecked(name) };
    info!(ctx, target: "ramet::sproxy", "refused a send of instance {} of function {}: {}", instance, function, name);
}
