//! The core on which a process or a thread ran last.
//!
//! What a fork will touch is best looked at from there: what another core has looked at comes from there first. And who
//! wakes somebody there need not wake a core.

use std::fs;

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
        let core = last_core(&fs::read(format!("/proc/{pid}/stat")).ok()?)?;
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

/// From the text of `/proc/PID/stat`: the 39th field, of which the second may have any character in it.
fn last_core(text: &[u8]) -> Option<usize> {
    const FIELDS_AFTER_NAME: usize = 36;
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&text[name_end + 1..]).ok()?;
    let core = rest.split_ascii_whitespace().nth(FIELDS_AFTER_NAME)?.parse().ok()?;
    (core < CpuSet::MAX_CPU).then_some(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_core_and_comes_back() {
        let text =
            b"7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 \
                     34 35 1 41 42\n";
        assert_eq!(last_core(text), Some(1));
        assert_eq!(last_core(b"7 (a"), None);

        let before = sched_getaffinity(None).expect("where this thread may run");
        drop(Beside::running(std::process::id().cast_signed()));
        assert_eq!(sched_getaffinity(None).expect("where it may run now"), before);
    }
}
