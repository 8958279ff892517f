//! The signal frame from which a thread goes on as it was (rt_sigreturn(2), the kernel's asm/sigcontext.h).

use ramet_sys::pagemap::PAGE_BYTES;

use crate::descriptor::Thread;

/// The frames of all threads. They are in memory that the forked process did not have, and not on the threads' stacks
/// as a signal's would be: below a stack pointer there may be another thread's stack, or anything.
#[derive(Debug)]
pub(crate) struct Frames {
    /// What is there, whole pages.
    pub(crate) bytes: Vec<u8>,
    /// Where each thread's begins.
    pub(crate) addresses: Vec<u64>,
}

const STATE_ALIGNMENT: usize = 64;
const RETURN_BYTES: usize = size_of::<u64>();
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

impl Frames {
    /// The frames of threads, where they begin at `start`, which begins a page. `restorer` is returned to.
    pub(crate) fn new(threads: &[Thread], restorer: u64, start: u64) -> Self {
        let mut frames = Self { bytes: Vec::new(), addresses: Vec::with_capacity(threads.len()) };
        for thread in threads {
            // As after a call: the return address makes the stack pointer odd by eight.
            frames.bytes.resize(frames.bytes.len().next_multiple_of(STATE_ALIGNMENT) + RETURN_BYTES, 0);
            let address = start + frames.bytes.len() as u64;
            frames.addresses.push(address);
            frames.bytes.extend(frame(thread, restorer, address));
        }
        frames.bytes.resize(frames.bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
        frames
    }
}

/// The frame of a thread that begins at `address`, where the stack pointer is when it is used.
fn frame(thread: &Thread, restorer: u64, address: u64) -> Vec<u8> {
    let state = &thread.extended_state;
    let registers = &thread.registers;
    let state_bytes = state.len() + size_of::<u32>();
    let state_address = (address + CONTEXT_BYTES).next_multiple_of(STATE_ALIGNMENT as u64);

    let at = (state_address - address) as usize;
    let mut bytes = vec![0; at + state_bytes];
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

    let saved = &mut bytes[at..];
    saved[..state.len()].copy_from_slice(state);
    let software = &mut saved[SOFTWARE..XSTATE_BV];
    software.fill(0);
    software[..4].copy_from_slice(&MAGIC1.to_ne_bytes());
    software[4..8].copy_from_slice(&(state_bytes as u32).to_ne_bytes());
    // All parts that there are, of those that the state itself says it has.
    software[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
    software[16..20].copy_from_slice(&(state.len() as u32).to_ne_bytes());
    saved[state.len()..].copy_from_slice(&MAGIC2.to_ne_bytes());
    bytes
}
