//! The address space that a process is in: by execve(2) it may come to be in another one at any moment when it runs.

use std::io;

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::ptrace::SYSCALL_INSTRUCTION;
use ramet_sys::{ProcessMemory, Range};

use super::{PrepareError, proc_failed, status, vdso};

/// `AT_RANDOM` of getauxval(3): where the kernel has put bytes that are others in each address space.
const RANDOM: u64 = 25;
const RANDOM_BYTES: usize = 16;

/// What was found in an address space while the process may have been running.
#[derive(Debug)]
pub(super) struct Space {
    /// Opened when the process was in it.
    pub(super) memory: ProcessMemory,
    /// Where there is an instruction `syscall`.
    pub(super) instruction: u64,
    /// Where the random bytes are, and which.
    random_at: u64,
    random: [u8; RANDOM_BYTES],
}

impl Space {
    /// Looks for the one that a process is in.
    pub(super) fn find(pid: i32) -> Result<Self, PrepareError> {
        let auxiliary = auxiliary(pid)?;
        let no_vdso = || PrepareError::unfit(pid, "it has no vdso: it is no ordinary 64-bit process");
        let vdso_start = value(&auxiliary, vdso::SYSINFO).ok_or_else(no_vdso)?;
        let random_at = value(&auxiliary, RANDOM).unwrap_or(vdso_start);
        let memory = ProcessMemory::open(pid)?;
        let mut vdso_page = vec![0; PAGE_BYTES as usize];
        let (mut random, mut opened) = ([0; RANDOM_BYTES], [0; RANDOM_BYTES]);
        let random_bytes = Range { start: random_at, bytes: RANDOM_BYTES as u64 };
        let read = memory.read(vdso_start, &mut vdso_page).and_then(|()| memory.read(random_at, &mut random));
        if let Err(error) = read {
            // What was told of one address space was looked for in another.
            let is_same = self::auxiliary(pid)? == auxiliary;
            return Err(if is_same { error.into() } else { PrepareError::Executing(pid) });
        }
        // What was opened may be the one before.
        if memory.read_ranges(&[random_bytes], &mut opened).is_err() || opened != random {
            return Err(PrepareError::Executing(pid));
        }
        let offset = vdso::syscall_offset(&vdso_page);
        let offset = offset.ok_or_else(|| PrepareError::unfit(pid, "its vdso makes no system call"))?;
        Ok(Self { memory, instruction: vdso_start + offset, random_at, random })
    }

    /// Whether the process, which has stopped, is in this address space: then it stays there.
    pub(super) fn expect(&self, pid: i32) -> Result<(), PrepareError> {
        let random = Range { start: self.random_at, bytes: RANDOM_BYTES as u64 };
        let instruction = Range { start: self.instruction, bytes: SYSCALL_INSTRUCTION.len() as u64 };
        let mut found = [0; RANDOM_BYTES + SYSCALL_INSTRUCTION.len()];
        // A process may not let itself read all of that.
        let is_read = self.memory.read_now([random, instruction], &mut found)
            || ProcessMemory::open(pid)?.read_ranges(&[random, instruction], &mut found).is_ok();
        let is_same = found[..RANDOM_BYTES] == self.random && found[RANDOM_BYTES..] == SYSCALL_INSTRUCTION;
        if is_read && is_same { Ok(()) } else { Err(PrepareError::Executing(pid)) }
    }
}

/// The auxiliary vector. While a program is being executed the new address space has none yet.
fn auxiliary(pid: i32) -> Result<Vec<u64>, PrepareError> {
    let no_memory = || PrepareError::unfit(pid, "it has no memory: it has ended, or is a thread of the kernel");
    let bytes = status::read(pid, "auxv").map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => PrepareError::not_allowed(pid, "open(/proc/PID/auxv)", source),
        _ if source.raw_os_error() == Some(libc::ESRCH) && status::is_kernels(pid) => no_memory(),
        _ => proc_failed(pid)(source),
    })?;
    let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    match words.first() {
        None => Err(no_memory()),
        Some(0) => Err(PrepareError::Executing(pid)),
        Some(_) => Ok(words),
    }
}

fn value(auxiliary: &[u64], kind: u64) -> Option<u64> {
    auxiliary.as_chunks().0.iter().find(|[of, _]| *of == kind).map(|[_, value]| *value)
}
