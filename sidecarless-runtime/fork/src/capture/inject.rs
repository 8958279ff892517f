//! System calls made by a stopped thread of another process.

use ramet_sys::CallError;
use ramet_sys::ptrace::{Registers, Stop, Tracee};

use super::PrepareError;

/// Blocks every signal but `SIGTRAP`, which says that a step is done.
const ALL_BUT_TRAP: u64 = !(1 << (libc::SIGTRAP - 1));

/// A stopped thread that is made to do system calls. When this ends or is dropped the thread is as it was.
pub(super) struct Injection<'t> {
    tracee: &'t Tracee,
    /// Where it was stopped.
    before: Registers,
    blocked: u64,
    /// Where there is an instruction `syscall`.
    instruction: u64,
    has_ended: bool,
}

impl<'t> Injection<'t> {
    pub(super) fn begin(tracee: &'t Tracee, before: Registers, instruction: u64) -> Result<Self, CallError> {
        let blocked = tracee.blocked_signals()?;
        tracee.block_signals(ALL_BUT_TRAP)?;
        Ok(Self { tracee, before, blocked, instruction, has_ended: false })
    }

    /// Makes one system call. Its result is negative if it failed, as the kernel has it.
    pub(super) fn call(&self, number: libc::c_long, arguments: [u64; 6]) -> Result<i64, PrepareError> {
        self.begin_call(number, arguments)?;
        self.end_call()
    }

    /// The same, with no stack: a copy that this makes cannot go on by itself.
    pub(super) fn call_without_stack(&self, number: libc::c_long, arguments: [u64; 6]) -> Result<i64, PrepareError> {
        self.step_from(Registers { rsp: 0, ..self.registers(number, arguments) })?;
        self.end_call()
    }

    /// Begins to make a system call; [`Injection::end_call`] waits.
    pub(super) fn begin_call(&self, number: libc::c_long, arguments: [u64; 6]) -> Result<(), PrepareError> {
        self.step_from(self.registers(number, arguments))
    }

    pub(super) fn end_call(&self) -> Result<i64, PrepareError> {
        match self.tracee.end_step()? {
            Stop::Signal(libc::SIGTRAP) => {}
            _ => return Err(PrepareError::Unexpected { tid: self.tracee.tid() }),
        }
        Ok(self.tracee.registers()?.rax.cast_signed())
    }

    /// Puts the thread back to where it was.
    pub(super) fn end(mut self) -> Result<(), CallError> {
        self.has_ended = true;
        self.restore()
    }

    fn registers(&self, number: libc::c_long, arguments: [u64; 6]) -> Registers {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        Registers {
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
        }
    }

    fn step_from(&self, registers: Registers) -> Result<(), PrepareError> {
        self.tracee.set_registers(&registers)?;
        Ok(self.tracee.begin_step()?)
    }

    fn restore(&self) -> Result<(), CallError> {
        self.tracee.set_registers(&self.before)?;
        self.tracee.block_signals(self.blocked)
    }
}

impl Drop for Injection<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            let _ = self.restore();
        }
    }
}
