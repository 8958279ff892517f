//! What runs a [`crate::program::Program`]: a page of machine code that uses no stack, no data of its own and no
//! library, because while it runs there is nothing else in the address space.
//!
//! # Invariants that SAFETY comments name
//!
//! - **I1 linked:** the assembly below defines both symbols, the second one after the first, in read-only memory.
//! - **I2 no way back:** entering the interpreter gives up everything that Rust knows of the process. Only a child that
//!   was forked for it, and that has one thread, does so.
#![allow(unsafe_code, reason = "assembly, and the jump into it")]

use std::arch::{asm, global_asm};
use std::slice;

/// How long an operation is.
pub(crate) const OPERATION_BYTES: usize = 96;
/// What a child says of an operation that failed: its address and its result.
pub(crate) const FAILURE_BYTES: usize = 16;

// r12: the operation. r14: where a failure is noted. r15: the descriptor that it is told to.
global_asm!(
    ".pushsection .rodata.ramet_interpreter, \"a\", @progbits",
    ".balign 64",
    ".globl ramet_interpreter_start",
    ".hidden ramet_interpreter_start",
    "ramet_interpreter_start:",
    "2:",
    "mov rax, [r12]",
    "cmp rax, 1",
    "je 6f",
    "cmp rax, 2",
    "je 7f",
    "cmp rax, 3",
    "je 8f",
    // A system call.
    "mov rax, [r12 + 8]",
    "mov rdi, [r12 + 16]",
    "mov rsi, [r12 + 24]",
    "mov rdx, [r12 + 32]",
    "mov r10, [r12 + 40]",
    "mov r8, [r12 + 48]",
    "mov r9, [r12 + 56]",
    "syscall",
    // Its result is kept,
    "mov rbx, [r12 + 88]",
    "test rbx, rbx",
    "jz 3f",
    "mov [rbx], rax",
    // checked,
    "3:",
    "mov rbx, [r12 + 64]",
    "cmp rbx, 1",
    "jne 31f",
    "cmp rax, -4095",
    "jae 9f",
    "31:",
    "cmp rbx, 2",
    "jne 32f",
    "cmp rax, [r12 + 72]",
    "jne 9f",
    // and may say where to go on.
    "32:",
    "test rax, rax",
    "jnz 5f",
    "mov rbx, [r12 + 80]",
    "test rbx, rbx",
    "jz 5f",
    // A new thread goes on in a copy of this code that is its own; a new process in its copy of this one.
    "mov rcx, [r12 + 56]",
    "mov r12, rbx",
    "jmp rcx",
    "5:",
    "add r12, 96",
    "jmp 2b",
    // Finish: what it needs is read before it is gone.
    "6:",
    "mov rsp, [r12 + 16]",
    "mov rdi, [r12 + 24]",
    "mov rsi, [r12 + 32]",
    "mov rbx, [r12 + 40]",
    "mov rax, [r12 + 8]",
    "test rbx, rbx",
    "jz 61f",
    "jmp rbx",
    "61:",
    "syscall",
    "add rsp, 8",
    "mov eax, 15",
    "syscall",
    // Jump.
    "7:",
    "mov r12, [r12 + 16]",
    "jmp 2b",
    // Copy.
    "8:",
    "mov rdi, [r12 + 16]",
    "mov rsi, [r12 + 24]",
    "mov rcx, [r12 + 32]",
    "cld",
    "rep movsb",
    "jmp 5b",
    // Failure.
    "9:",
    "mov [r14], r12",
    "mov [r14 + 8], rax",
    "mov rdi, r15",
    "mov rsi, r14",
    "mov edx, 16",
    "mov eax, 1",
    "syscall",
    "mov edi, 126",
    "mov eax, 231",
    "syscall",
    "ud2",
    ".globl ramet_interpreter_end",
    ".hidden ramet_interpreter_end",
    "ramet_interpreter_end:",
    ".popsection",
);

// SAFETY: I1.
unsafe extern "C" {
    static ramet_interpreter_start: u8;
    static ramet_interpreter_end: u8;
}

/// The interpreter. It runs wherever it lies.
pub(crate) fn code() -> &'static [u8] {
    let (start, end) = (&raw const ramet_interpreter_start, &raw const ramet_interpreter_end);
    // SAFETY: I1.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Gives up everything and runs the operations at an address.
pub(crate) fn enter(code: u64, operations: u64, failure: u64, control: i32) -> ! {
    // SAFETY: I2.
    unsafe {
        asm!(
            "jmp {code}",
            code = in(reg) code,
            in("r12") operations,
            in("r14") failure,
            in("r15") i64::from(control),
            options(noreturn),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_its_page() {
        assert!((64..=4096).contains(&code().len()));
    }
}
