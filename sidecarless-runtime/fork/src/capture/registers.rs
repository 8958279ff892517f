//! The registers of a stopped thread.

use ramet_sys::ptrace::Registers;

use crate::descriptor::GeneralRegisters;

/// The general registers, with an interrupted system call made so that it happens again or says so.
pub(super) fn general(registers: &Registers) -> GeneralRegisters {
    /// What the kernel leaves in `rax` for itself when a call is interrupted (linux/errno.h).
    const RESTART: std::ops::RangeInclusive<i64> = -514..=-512;
    const RESTART_BY_BLOCK: i64 = -516;
    /// `syscall` is two bytes long.
    const SYSCALL_BYTES: u64 = 2;
    let mut rax = registers.rax;
    let mut rip = registers.rip;
    if registers.orig_rax.cast_signed() >= 0 {
        match rax.cast_signed() {
            result if RESTART.contains(&result) => (rax, rip) = (registers.orig_rax, rip - SYSCALL_BYTES),
            // How much of its time has passed only the kernel knows.
            RESTART_BY_BLOCK => rax = i64::from(-libc::EINTR).cast_unsigned(),
            _ => {}
        }
    }
    GeneralRegisters {
        rax,
        rbx: registers.rbx,
        rcx: registers.rcx,
        rdx: registers.rdx,
        rsi: registers.rsi,
        rdi: registers.rdi,
        rbp: registers.rbp,
        rsp: registers.rsp,
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rip,
        flags: registers.eflags,
        fs_base: registers.fs_base,
        gs_base: registers.gs_base,
    }
}
