//! The signal frame from which a thread goes on as it was (rt_sigreturn(2), the kernel's asm/sigcontext.h).

use crate::descriptor::Thread;

/// Where a frame is on its thread's stack, and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) address: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The System V ABI's red zone, which a leaf function may be using.
const RED_ZONE_BYTES: u64 = 128;
const EXTENDED_STATE_ALIGNMENT: u64 = 64;
/// Return address, `ucontext`, `siginfo`.
const CONTEXT_BYTES: u64 = 8 + 304 + 128;

/// Where in the frame.
const FLAGS: usize = 8;
const STACK: usize = 24;
const GENERAL: usize = 48;
const MASK: usize = 304;

/// There is extended state; the stack segment is restored as it is.
const UC_FLAGS: u64 = 1 | 2 | 4;
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;

/// Where in the extended state its own description is (`struct _fpx_sw_bytes`).
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Where in the extended state it says which parts it has.
const XSTATE_BV: usize = 512;

/// The frame of a thread. When it is used the stack pointer is at its address and `restorer` is returned to.
pub(crate) fn frame(thread: &Thread, restorer: u64) -> Frame {
    let state = &thread.extended_state;
    let registers = &thread.registers;
    let state_bytes = state.len() as u64 + size_of::<u32>() as u64;
    let top = registers.rsp - RED_ZONE_BYTES;
    let state_address = (top - state_bytes) & !(EXTENDED_STATE_ALIGNMENT - 1);
    // As after a call: the return address makes the stack pointer odd by eight.
    let address = ((state_address - CONTEXT_BYTES) & !0xf) - 8;

    let mut bytes = vec![0; (top - address) as usize];
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    put(0, restorer);
    put(FLAGS, UC_FLAGS);
    put(STACK, thread.signal_stack.start);
    put(STACK + 8, u64::from(thread.signal_stack.flags));
    put(STACK + 16, thread.signal_stack.bytes);
    let r = registers;
    let general = [
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        r.rdi,
        r.rsi,
        r.rbp,
        r.rbx,
        r.rdx,
        r.rax,
        r.rcx,
        r.rsp,
        r.rip,
        r.flags,                 // four segments of two bytes each: cs, gs, fs, ss
        USER_CS | USER_SS << 48, // error, trap, old mask, fault address
        0,
        0,
        0,
        0,
        state_address,
    ];
    for (word, at) in general.into_iter().zip((GENERAL..).step_by(8)) {
        put(at, word);
    }
    put(MASK, thread.blocked_signals);

    let at = (state_address - address) as usize;
    let saved = &mut bytes[at..at + state.len() + size_of::<u32>()];
    saved[..state.len()].copy_from_slice(state);
    let software = &mut saved[SOFTWARE..XSTATE_BV];
    software.fill(0);
    software[..4].copy_from_slice(&MAGIC1.to_ne_bytes());
    software[4..8].copy_from_slice(&(state_bytes as u32).to_ne_bytes());
    // All parts that there are, of those that the state itself says it has.
    software[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
    software[16..20].copy_from_slice(&(state.len() as u32).to_ne_bytes());
    saved[state.len()..].copy_from_slice(&MAGIC2.to_ne_bytes());
    Frame { address, bytes }
}
