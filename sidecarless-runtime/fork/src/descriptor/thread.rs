//! What a thread is.

use serde::{Deserialize, Serialize};

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number, as the process itself sees it.
    pub tid: i32,
    /// Its name (`comm`).
    pub name: Vec<u8>,
    /// When it may run.
    pub scheduling: Scheduling,
    /// Which cores it may run on, a bit for each. Nothing: all that its host has.
    pub cores: Vec<u64>,
    /// The general registers.
    pub registers: GeneralRegisters,
    /// The extended state, as `XSAVE` lays it out.
    pub extended_state: Vec<u8>,
    /// Its blocked signals.
    pub blocked_signals: u64,
    /// Signals that wait for it: `siginfo_t` each.
    pub queued_signals: Vec<Vec<u8>>,
    /// Its alternate stack for signals: address, length, flags.
    pub signal_stack: SignalStack,
    /// Where the kernel finds the list of its robust mutexes, and how long that head is.
    pub robust_list: (u64, u64),
    /// What the kernel clears and wakes when it ends (`set_tid_address`). 0: nothing.
    pub tid_address: u64,
    /// Whether its number is there, as glibc has it, or something else.
    pub tid_is_there: bool,
    /// Its restartable sequences. No bytes: none.
    pub rseq: Rseq,
}

/// When a thread may run (`struct sched_attr` of sched_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// `SCHED_…`
    pub policy: u32,
    /// `SCHED_FLAG_…`
    pub flags: u64,
    /// How much it yields to others.
    pub nice: i32,
    /// Its priority in real time.
    pub priority: u32,
}

/// `stack_t` of sigaltstack(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalStack {
    /// Its lowest address.
    pub start: u64,
    /// `SS_DISABLE`: there is none.
    pub flags: u32,
    /// Its length.
    pub bytes: u64,
}

/// The registration of restartable sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rseq {
    /// Where `struct rseq` is.
    pub address: u64,
    /// Its length as registered.
    pub bytes: u32,
    /// What marks abort handlers.
    pub signature: u32,
}

/// The general registers of x86-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields have the names of the registers")]
pub struct GeneralRegisters {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub flags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}
