//! System calls made by a stopped thread of another process.

use ramet_sys::CallError;
use ramet_sys::ptrace::{Registers, Stop, Tracee};

use super::PrepareError;

/// Blocks every signal but `SIGTRAP`, which says that a step is done.
const ALL_BUT_TRAP: u64 = !(1 << (libc::SIGTRAP - 1));

/// A stopped thread that is made to do system calls. [`Injection::end`] leaves it as it was.
pub(super) struct Injection<'t> {
    tracee: &'t Tracee,
    /// Where it was stopped.
    before: Registers,
    blocked: u64,
    /// Where there is an instruction `syscall`.
    instruction: u64,
}

impl<'t> Injection<'t> {
    pub(super) fn begin(tracee: &'t Tracee, before: Registers, instruction: u64) -> Result<Self, CallError> {
        let blocked = tracee.blocked_signals()?;
        tracee.block_signals(ALL_BUT_TRAP)?;
        Ok(Self { tracee, before, blocked, instruction })
    }

    /// Makes one system call. Its result is negative if it failed, as the kernel has it.
    pub(super) fn call(&self, number: libc::c_long, arguments: [u64; 6]) -> Result<i64, PrepareError> {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let registers = Registers {
            rip: self.instruction,
            rax: number.cast_unsigned(),
            // Not in a system call: there is none to restart.
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.before
        };
        self.tracee.set_registers(&registers)?;
        match self.tracee.step()? {
            Stop::Signal(libc::SIGTRAP) => {}
            stop => return Err(PrepareError::Unexpected { tid: self.tracee.tid(), stop }),
        }
        Ok(self.tracee.registers()?.rax.cast_signed())
    }

    /// Puts the thread back to where it was.
    pub(super) fn end(self) -> Result<(), CallError> {
        self.tracee.set_registers(&self.before)?;
        self.tracee.block_signals(self.blocked)
    }
}
