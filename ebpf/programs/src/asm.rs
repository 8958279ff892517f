//! The few instructions that Rust cannot express for BPF: atomics on map values, and loads that may be unaligned.
//!
//! The BPF target has no compare-and-swap in `core`, and an unaligned `read` becomes four byte loads. Every function
//! here is one instruction.

use core::arch::asm;

/// `number & MASK`. A mask that the compiler can prove needless it removes, and then the verifier, which proves less,
/// misses it.
#[inline(always)]
pub(crate) fn masked<const MASK: u32>(number: u32) -> usize {
    let mut number = u64::from(number);
    // SAFETY: changes no more than the register.
    unsafe { asm!("{n} &= {m}", n = inlateout(reg) number, m = const MASK, options(pure, nomem, nostack)) };
    number as usize
}

/// Replaces `*word` by `new` if it holds `expected`; returns what it held. A full barrier.
///
/// # Safety
///
/// `word` points to a map value of 8 bytes, aligned to 8.
#[inline(always)]
pub(crate) unsafe fn compare_exchange_u64(word: *mut u64, expected: u64, new: u64) -> u64 {
    let found;
    // SAFETY: the caller vouches for `word`; the verifier checks it again.
    unsafe {
        asm!(
            "r0 = cmpxchg_64(r1 + 0, r0, r2)",
            inlateout("r0") expected => found,
            in("r1") word,
            in("r2") new,
            options(nostack),
        );
    }
    found
}

/// Adds `n` to `*counter`, wrapping.
///
/// # Safety
///
/// `counter` points to 8 bytes of a map value, aligned to 8.
#[inline(always)]
pub(crate) unsafe fn add_u64(counter: *mut u64, n: u64) {
    // SAFETY: the caller vouches for `counter`; the verifier checks it again.
    unsafe {
        asm!("lock *(u64 *)(r1 + 0) += r2", in("r1") counter, in("r2") n, options(nostack));
    }
}

/// Adds `n` to `*counter`, wrapping.
///
/// # Safety
///
/// `counter` points to 4 bytes of a map value, aligned to 4.
#[inline(always)]
pub(crate) unsafe fn add_u32(counter: *mut u32, n: u32) {
    // SAFETY: the caller vouches for `counter`; the verifier checks it again.
    unsafe {
        asm!("lock *(u32 *)(r1 + 0) += w2", in("r1") counter, in("r2") u64::from(n), options(nostack));
    }
}

/// The byte at `address + OFFSET`.
///
/// # Safety
///
/// The byte lies in the message, and a comparison with `data_end` has shown it (P1).
#[inline(always)]
pub(crate) unsafe fn load_u8<const OFFSET: usize>(address: usize) -> u32 {
    let value: u64;
    // SAFETY: the caller vouches for the address; the verifier checks it again.
    unsafe {
        asm!("{v} = *(u8 *)({a} + {o})", v = out(reg) value, a = in(reg) address, o = const OFFSET,
             options(nostack, readonly));
    }
    value as u32
}

/// The 32-bit word at `address + OFFSET`, aligned or not.
///
/// # Safety
///
/// The word lies in the message, and a comparison with `data_end` has shown it (P1).
#[inline(always)]
pub(crate) unsafe fn load_u32<const OFFSET: usize>(address: usize) -> u32 {
    let value: u64;
    // SAFETY: the caller vouches for the address; the verifier checks it again.
    unsafe {
        asm!("{v} = *(u32 *)({a} + {o})", v = out(reg) value, a = in(reg) address, o = const OFFSET,
             options(nostack, readonly));
    }
    value as u32
}

/// Writes a 32-bit word at `address + OFFSET`, aligned or not.
///
/// # Safety
///
/// The word lies in the message, and a comparison with `data_end` has shown it (P1).
#[inline(always)]
pub(crate) unsafe fn store_u32<const OFFSET: usize>(address: usize, value: u32) {
    // SAFETY: the caller vouches for the address; the verifier checks it again.
    unsafe {
        asm!("*(u32 *)({a} + {o}) = {v}", v = in(reg) u64::from(value), a = in(reg) address, o = const OFFSET,
             options(nostack));
    }
}
