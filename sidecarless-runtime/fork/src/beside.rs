//! The core on which a process or a thread ran last.
//!
//! What a fork will touch is best looked at from there: what another core has looked at comes from there first. And who
//! wakes somebody there need not wake a core.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// This thread runs where another does, until this is dropped.
#[derive(Debug)]
pub(crate) struct Beside {
    before: CpuSet,
}

impl Beside {
    /// Goes where a process or thread of this number was last. None: this thread may not run there, or nobody knows
    /// where that is. It is no worse than slower.
    pub(crate) fn running(pid: i32) -> Option<Self> {
        let (_, core) = ramet_sys::thread::name_and_core(pid)?;
        let before = sched_getaffinity(None).ok()?;
        let mut there = CpuSet::new();
        there.set(core);
        sched_setaffinity(None, &there).ok()?;
        Some(Self { before })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It has run there before.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back() {
        let before = sched_getaffinity(None).expect("where this thread may run");
        drop(Beside::running(std::process::id().cast_signed()));
        assert_eq!(sched_getaffinity(None).expect("where it may run now"), before);
    }
}
