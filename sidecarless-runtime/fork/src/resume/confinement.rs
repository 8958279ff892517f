//! The seccomp filters of a child, and which of its last steps they would let pass (seccomp(2)).

use libc::SYS_seccomp;

use crate::descriptor::{Filter, ForkDescriptor};
use crate::program::Program;

/// `SECCOMP_FILTER_FLAG_TSYNC`: all threads get the filter, which wait for it.
const FOR_ALL_THREADS: u64 = 1;
/// `AUDIT_ARCH_X86_64`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// `SECCOMP_RET_ACTION_FULL`.
const ACTION: u32 = 0xffff_0000;

/// `struct sock_filter`.
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    on_true: u8,
    on_false: u8,
    constant: u32,
}

/// A system call, as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: libc::c_long,
    pub(super) arguments: [u64; 6],
}

/// The filters of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confinement<'d>(&'d [Filter]);

impl<'d> Confinement<'d> {
    pub(super) const fn of(descriptor: &'d ForkDescriptor) -> Self {
        Self(descriptor.filters.as_slice())
    }

    /// Whether there is any.
    pub(super) const fn is_none(self) -> bool {
        self.0.is_empty()
    }

    /// Whether all filters let a call pass.
    pub(super) fn allows(self, call: Call) -> bool {
        let passes = |filter: &Filter| {
            let action = run(&filter.instructions, call).map(|result| result & ACTION);
            action == Some(libc::SECCOMP_RET_ALLOW) || action == Some(libc::SECCOMP_RET_LOG)
        };
        self.0.iter().all(passes)
    }

    /// Installs the filters for all threads.
    pub(super) fn install(self, program: &mut Program) {
        for filter in self.0 {
            let bytes: Vec<u8> = filter.instructions.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let instructions = program.data(&bytes);
            // `struct sock_fprog`
            let list = program.data(&[filter.instructions.len() as u64, instructions].map(u64::to_ne_bytes).concat());
            let flags = filter.flags | FOR_ALL_THREADS;
            let operation = u64::from(libc::SECCOMP_SET_MODE_FILTER);
            program.call("confining itself", SYS_seccomp, &[operation, flags, list]).gives(0);
        }
    }
}

impl Instruction {
    const fn of(word: u64) -> Self {
        Self {
            code: word as u16,
            on_true: (word >> 16) as u8,
            on_false: (word >> 24) as u8,
            constant: (word >> 32) as u32,
        }
    }
}

/// What a filter says of a call. `None`: it is no filter.
fn run(instructions: &[u64], call: Call) -> Option<u32> {
    let data = data(call);
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; 16]);
    let mut at = 0_usize;
    // Jumps only lead forwards.
    loop {
        let Instruction { code, on_true, on_false, constant } = Instruction::of(*instructions.get(at)?);
        at += 1;
        let code = u32::from(code);
        let operand = if code & libc::BPF_X == 0 { constant } else { x };
        let slot = constant as usize;
        match code & 0x07 {
            libc::BPF_LD | libc::BPF_LDX => {
                let value = match code & 0xe0 {
                    libc::BPF_ABS => *data.get(slot / 4)?,
                    libc::BPF_IMM => constant,
                    libc::BPF_MEM => *memory.get(slot)?,
                    libc::BPF_LEN => size_of_val(&data) as u32,
                    _ => return None,
                };
                if code & 0x07 == libc::BPF_LD { a = value } else { x = value }
            }
            libc::BPF_ST => *memory.get_mut(slot)? = a,
            libc::BPF_STX => *memory.get_mut(slot)? = x,
            libc::BPF_ALU => a = calculate(code & 0xf0, a, operand)?,
            libc::BPF_JMP => {
                let holds = match code & 0xf0 {
                    libc::BPF_JA => {
                        at = at.checked_add(slot)?;
                        continue;
                    }
                    libc::BPF_JEQ => a == operand,
                    libc::BPF_JGT => a > operand,
                    libc::BPF_JGE => a >= operand,
                    libc::BPF_JSET => a & operand != 0,
                    _ => return None,
                };
                at += usize::from(if holds { on_true } else { on_false });
            }
            libc::BPF_RET => return Some(if code & 0x18 == libc::BPF_A { a } else { constant }),
            // The last class: copies between the two registers.
            _ if code & 0xf8 == libc::BPF_TXA => a = x,
            _ => x = a,
        }
    }
}

fn calculate(operation: u32, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        libc::BPF_ADD => a.wrapping_add(operand),
        libc::BPF_SUB => a.wrapping_sub(operand),
        libc::BPF_MUL => a.wrapping_mul(operand),
        libc::BPF_DIV => a.checked_div(operand)?,
        libc::BPF_AND => a & operand,
        libc::BPF_OR => a | operand,
        libc::BPF_XOR => a ^ operand,
        libc::BPF_LSH => a.checked_shl(operand)?,
        libc::BPF_RSH => a.checked_shr(operand)?,
        libc::BPF_NEG => a.wrapping_neg(),
        _ => return None,
    })
}

/// `struct seccomp_data`. From where the call is made is not known yet, and no filter should ask.
fn data(call: Call) -> [u32; 16] {
    let mut data = [0; 16];
    (data[0], data[1]) = (call.number as u32, ARCHITECTURE);
    for (argument, half) in call.arguments.iter().zip((4..).step_by(2)) {
        (data[half], data[half + 1]) = (*argument as u32, (*argument >> 32) as u32);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn word(code: u32, on_true: u8, on_false: u8, constant: u32) -> u64 {
        code as u64 | (on_true as u64) << 16 | (on_false as u64) << 24 | (constant as u64) << 32
    }

    #[test]
    fn a_filter_is_understood_as_the_kernel_does() {
        // Denies call 11 when its second argument is at least 4096, and everything of another architecture.
        let filter = [
            word(0x20, 0, 0, 4),
            word(0x15, 1, 0, ARCHITECTURE),
            word(0x06, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            word(0x20, 0, 0, 0),
            word(0x15, 0, 2, 11),
            word(0x20, 0, 0, 24),
            word(0x35, 1, 0, 4096),
            word(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
            word(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | 1),
        ];
        let filters = [Filter { instructions: filter.to_vec(), flags: 0 }];
        let allows = |number, second| {
            let arguments = [0, second, 0, 0, 0, 0];
            Confinement(&filters).allows(Call { number, arguments })
        };
        assert!(allows(12, 8192) && allows(11, 4095));
        assert!(!allows(11, 4096));
    }

    #[test]
    fn what_is_no_filter_allows_nothing() {
        let call = Call { number: 1, arguments: [0; 6] };
        for senseless in [vec![], vec![word(0x20, 0, 0, 400)], vec![word(0x05, 0, 0, u32::MAX)]] {
            let filters = [Filter { instructions: senseless, flags: 0 }];
            assert!(!Confinement(&filters).allows(call));
        }
    }
}
