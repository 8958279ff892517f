//! The kernel's one ledger, shared out among domains in whole pages, so that each can be mapped alone.

use std::collections::BTreeMap;

/// A page holds this many words.
const PAGE_SLOTS: u32 = 512;

/// Which ranges of the ledger are taken.
#[derive(Debug)]
pub(crate) struct LedgerSpace {
    slots: u32,
    /// Start and end of each taken range.
    taken: BTreeMap<u32, u32>,
}

impl LedgerSpace {
    pub(crate) fn new(slots: u32) -> Self {
        Self { slots, taken: BTreeMap::new() }
    }

    /// Takes the first gap that holds `slots`, and returns its start.
    pub(crate) fn take(&mut self, slots: u32) -> Option<u32> {
        let wanted = slots.max(1).checked_next_multiple_of(PAGE_SLOTS)?;
        let mut start = 0;
        for (&taken, &end) in &self.taken {
            if taken - start >= wanted {
                break;
            }
            start = end;
        }
        let end = start.checked_add(wanted).filter(|end| *end <= self.slots)?;
        self.taken.insert(start, end);
        Some(start)
    }

    pub(crate) fn free(&mut self, start: u32) {
        self.taken.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_pages_and_come_back() {
        let mut space = LedgerSpace::new(2048);
        assert_eq!(space.take(1), Some(0));
        assert_eq!(space.take(513), Some(512));
        assert_eq!(space.take(512), Some(1536));
        assert_eq!(space.take(1), None);
        space.free(512);
        assert_eq!(space.take(512), Some(512));
        assert_eq!(space.take(513), None);
        assert_eq!(space.take(512), Some(1024));
        assert_eq!(space.take(u32::MAX), None);
    }
}
