//! What two hosts must have in common for a process of one to go on at the other.

use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::fs;
use std::sync::OnceLock;

use ramet_sys::pagemap::PAGE_BYTES;
use serde::{Deserialize, Serialize};

/// Where in the extended state it says which parts of it are there (`XSTATE_BV`).
const PARTS: usize = 512;
/// What every extended state has: floating point, SSE, and what parts there are.
const LEAST_BYTES: usize = 576;
/// AMX's tiles: the kernel has room for them only in threads that have used them.
pub(crate) const TILES: u32 = 18;

/// What of a machine a process may have come to rely on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Which run of which machine: on the same one, files with the same number are the same.
    pub boot: String,
    /// What the processor can do (CPUID leaves 1, 7 and 0xd), which libraries look up once and then take for granted.
    pub features: Vec<u32>,
    /// The length of the extended state.
    pub extended_state_bytes: u32,
    /// How long a page is.
    pub page_bytes: u64,
    /// The checksum of the kernel's vdso, into which the process may be calling, and its length.
    pub vdso: (u32, u64),
    /// The length of its data.
    pub vvar_bytes: u64,
}

/// How a machine differs from the one that a process comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// A processor lacks something.
    #[error(
        "this processor lacks features that the forked process may be using; fork it on a host with the same \
         processor, or start it there with GLIBC_TUNABLES=glibc.cpu.hwcaps set to what both have"
    )]
    Processor,
    /// The extended states have different lengths.
    #[error("this processor saves {here} bytes of extended state, the forked process's saved {there}")]
    ExtendedState {
        /// Here.
        here: u32,
        /// There.
        there: u32,
    },
    /// Memory is in pages of different lengths.
    #[error(
        "memory is in pages of {here} bytes here, the forked process's was in pages of {there}; both must be alike"
    )]
    PageSize {
        /// Here.
        here: u64,
        /// There.
        there: u64,
    },
    /// The kernels' vdsos differ.
    #[error("this kernel's vdso is not the forked process's, which may be calling it; both hosts must run one kernel")]
    Vdso,
}

impl Machine {
    /// This machine; the vdso is looked at by the caller.
    #[must_use]
    pub fn this(vdso: &[u8], vvar_bytes: u64) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let CpuidResult { ecx, edx, .. } = __cpuid_count(1, 0);
        let seven = __cpuid_count(7, 0);
        let state = __cpuid_count(0xd, 0);
        // Of leaf 1's ecx, bit 27 says what the kernel has turned on, and is the same for all.
        let features = vec![ecx, edx, seven.ebx, seven.ecx, seven.edx, state.eax];
        let vdso = (crc32fast::hash(vdso), vdso.len() as u64);
        let (boot, extended_state_bytes) = (boot.trim().to_owned(), state.ebx);
        Self { boot, features, extended_state_bytes, page_bytes: PAGE_BYTES, vdso, vvar_bytes }
    }

    /// Whether a process of `origin` can go on here.
    ///
    /// # Errors
    /// Why not.
    pub fn can_take(&self, origin: &Self) -> Result<(), MachineError> {
        let lacks = |(here, there): (&u32, &u32)| there & !here != 0;
        if self.features.len() != origin.features.len() || self.features.iter().zip(&origin.features).any(lacks) {
            return Err(MachineError::Processor);
        }
        let (here, there) = (self.extended_state_bytes, origin.extended_state_bytes);
        if here != there {
            return Err(MachineError::ExtendedState { here, there });
        }
        let (here, there) = (self.page_bytes, origin.page_bytes);
        if here != there {
            return Err(MachineError::PageSize { here, there });
        }
        if self.vdso != origin.vdso || self.vvar_bytes != origin.vvar_bytes {
            return Err(MachineError::Vdso);
        }
        Ok(())
    }
}

/// Cuts off of an extended state what nothing is in. The kernel takes no state that is longer than what a thread has
/// room for, and a new one has none for tiles; of one that is longer it takes floating point and SSE alone.
///
/// # Errors
/// There is something in tiles.
pub(crate) fn trim(state: &mut Vec<u8>) -> Result<(), TilesInUse> {
    let parts = state.get(PARTS..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let has = |part: u32| parts >> part & 1 == 1;
    if has(TILES) {
        return Err(TilesInUse);
    }
    let end = ends().iter().zip(FIRST_PART..).filter(|(_, part)| has(*part)).map(|(end, _)| *end).max();
    state.truncate(end.unwrap_or(0).max(LEAST_BYTES));
    Ok(())
}

/// A thread has numbers in AMX's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TilesInUse;

/// The first part that is not in every state.
const FIRST_PART: u32 = 2;

/// Where each part ends. To ask the processor takes long where it is a virtual one.
fn ends() -> &'static [usize] {
    static ENDS: OnceLock<Vec<usize>> = OnceLock::new();
    ENDS.get_or_init(|| {
        let end = |part: u32| {
            let CpuidResult { eax: bytes, ebx: start, .. } = __cpuid_count(0xd, part);
            (start + bytes) as usize
        };
        (FIRST_PART..u64::BITS).map(end).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_as_long_as_what_it_has() {
        let state = |parts: u64| {
            let mut state = vec![0; 1 << 14];
            state[PARTS..PARTS + 8].copy_from_slice(&parts.to_le_bytes());
            state
        };
        let trimmed = |parts: u64| {
            let mut state = state(parts);
            trim(&mut state).map(|()| state.len())
        };
        assert_eq!(trimmed(0), Ok(LEAST_BYTES));
        assert_eq!(trimmed(0b11), Ok(LEAST_BYTES));
        // AVX comes right after, on every processor that has it.
        let avx = if std::is_x86_feature_detected!("avx") { LEAST_BYTES + 256 } else { LEAST_BYTES };
        assert_eq!(trimmed(0b111), Ok(avx));
        assert_eq!(trimmed(1 << TILES), Err(TilesInUse));
    }
}
