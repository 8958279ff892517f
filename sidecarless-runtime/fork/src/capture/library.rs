//! What a C library keeps in its memory and the kernel does not tell.

use ramet_sys::ProcessMemory;

use super::Seed;
use crate::descriptor::{Area, AreaKind, GeneralRegisters, SignalAction, Thread};

/// Where glibc keeps a thread's number: at one place in its thread structure, which the registers point to.
pub(super) fn number_place(memory: &ProcessMemory, registers: &GeneralRegisters) -> Option<(u64, i32)> {
    /// Of `struct pthread` on x86-64, since 2.4.
    const SELF_OFFSET: u64 = 0x10;
    const TID_OFFSET: u64 = 0x2d0;
    let base = registers.fs_base;
    let mut between = [0; (TID_OFFSET + 4 - SELF_OFFSET) as usize];
    let is_read = base != 0 && memory.read(base.wrapping_add(SELF_OFFSET), &mut between).is_ok();
    let (this, tid) = (between.first_chunk()?, between.last_chunk()?);
    (is_read && u64::from_ne_bytes(*this) == base).then(|| (base + TID_OFFSET, i32::from_ne_bytes(*tid)))
}

impl Seed {
    /// Where each thread's number is cleared when it ends.
    pub(super) fn find_tid_addresses(&self, threads: &mut [Thread]) {
        for thread in threads {
            if let Some((address, tid)) = number_place(self.memory(), &thread.registers)
                && tid == thread.tid
            {
                (thread.tid_address, thread.tid_is_there) = (address, true);
            }
        }
    }

    /// Where the process itself would end the handling of a signal.
    pub(super) fn find_signal_return(&self, signals: &[SignalAction], areas: &[Area]) -> u64 {
        /// `mov rax, 15` and `syscall`, as glibc and musl write it.
        const SIGNAL_RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
        /// No C library's code is longer.
        const CODE_BYTES_MAX: u64 = 4 << 20;
        let is_one = |at: u64| {
            let mut bytes = [0; SIGNAL_RETURN.len()];
            self.memory().read(at, &mut bytes).is_ok() && bytes == SIGNAL_RETURN
        };
        if let Some(action) = signals.iter().find(|action| is_one(action.restorer)) {
            return action.restorer;
        }
        let is_code = |area: &&Area| {
            let protection = (libc::PROT_READ | libc::PROT_EXEC).cast_unsigned();
            area.protection == protection && matches!(area.kind, AreaKind::File { .. }) && area.bytes <= CODE_BYTES_MAX
        };
        for area in areas.iter().filter(is_code) {
            let mut code = vec![0; area.bytes as usize];
            if self.memory().read(area.start, &mut code).is_ok()
                && let Some(at) = code.windows(SIGNAL_RETURN.len()).position(|bytes| bytes == SIGNAL_RETURN)
            {
                return area.start + at as u64;
            }
        }
        0
    }
}
