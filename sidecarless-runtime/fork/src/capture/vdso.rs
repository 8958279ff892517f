//! The kernel's code that every process has mapped.

use ramet_sys::ptrace::SYSCALL_INSTRUCTION;

/// `AT_SYSINFO_EHDR` of getauxval(3): where the vdso is.
pub(super) const SYSINFO: u64 = 33;

/// How far into the vdso there is a `syscall` instruction.
pub(super) fn syscall_offset(vdso: &[u8]) -> Option<u64> {
    vdso.windows(2).position(|bytes| bytes == SYSCALL_INSTRUCTION).map(|at| at as u64)
}

/// How far into the vdso there is a `syscall` instruction after which nothing happens but a return: some registers may
/// be cleared.
pub(crate) fn call_and_return_offset(vdso: &[u8]) -> Option<u64> {
    let leads_to_return = |mut rest: &[u8]| loop {
        rest = match rest {
            [0xc3, ..] => return true,
            // xor of a 32-bit register with itself, of the first or the second eight
            [0x31, register, rest @ ..] | [0x45, 0x31, register, rest @ ..] if clears(*register) => rest,
            _ => return false,
        };
    };
    let found = vdso.windows(2).enumerate().filter(|(_, bytes)| *bytes == SYSCALL_INSTRUCTION);
    found.map(|(at, _)| at).find(|at| leads_to_return(&vdso[at + 2..])).map(|at| at as u64)
}

/// Whether an instruction's operands are one register twice.
const fn clears(operands: u8) -> bool {
    operands >= 0xc0 && (operands >> 3) & 7 == operands & 7
}
