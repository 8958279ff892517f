//! What of a seed's memory may be read: the pages that its descriptor says come from it, and no others.

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;

use crate::descriptor::ForkDescriptor;
use crate::lineage::from_ancestor;

/// The ranges of a seed that may be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Ascending, with something that may not be read between each two.
    runs: Vec<Range>,
}

impl Granted {
    /// What a descriptor names: own pages of areas.
    #[must_use]
    pub fn of(descriptor: &ForkDescriptor) -> Self {
        let mut granted = Self::default();
        for area in &descriptor.areas {
            area.own_ranges().for_each(|range| granted.push(range));
        }
        granted
    }

    /// The same, and the pages of ancestors, at their addresses for all seeds.
    pub(crate) fn with_ancestors(descriptor: &ForkDescriptor) -> Self {
        let mut all = Self::of(descriptor);
        let mut inherited: Vec<_> = descriptor.inherited.iter().map(|run| (from_ancestor(run), run)).collect();
        inherited.sort_unstable_by_key(|(from, _)| *from);
        for (from, run) in inherited {
            // The same page may be named twice by who made the descriptor up.
            let start = all.runs.last().map_or(from, |last| from.max(last.end()));
            let range = Range::new(start, from + run.range().bytes);
            if range.bytes > 0 {
                all.push(range);
            }
        }
        all
    }

    #[cfg(test)]
    pub(crate) fn of_range(range: Range) -> Self {
        Self { runs: vec![range] }
    }

    fn push(&mut self, range: Range) {
        match self.runs.last_mut() {
            Some(last) if last.end() == range.start => last.bytes += range.bytes,
            _ => self.runs.push(range),
        }
    }

    /// Whether a range is whole pages, at least one, and all of it may be read. The range may be any.
    #[must_use]
    pub fn allows(&self, range: Range) -> bool {
        let Range { start, bytes } = range;
        let Some(end) = start.checked_add(bytes) else { return false };
        if bytes == 0 || start % PAGE_BYTES != 0 || bytes % PAGE_BYTES != 0 {
            return false;
        }
        let after = self.runs.partition_point(|run| run.start <= start);
        after.checked_sub(1).is_some_and(|at| end <= self.runs[at].end())
    }

    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn runs(&self) -> &[Range] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn pages(first: u64, count: u64) -> Range {
        Range { start: first * PAGE_BYTES, bytes: count * PAGE_BYTES }
    }

    #[test]
    fn exactly_what_is_granted_may_be_read() {
        let mut granted = Granted::default();
        for range in [pages(16, 2), pages(18, 1), pages(20, 4), pages(30, 1)] {
            granted.push(range);
        }
        assert_eq!(granted.runs(), [pages(16, 3), pages(20, 4), pages(30, 1)]);
        let is_granted = |page: u64| matches!(page, 16..=18 | 20..=23 | 30);
        for first in 0..40 {
            for count in 0..40 {
                let all = count > 0 && (first..first + count).all(is_granted);
                assert_eq!(granted.allows(pages(first, count)), all, "{count} pages from {first}");
            }
        }
    }

    #[test]
    fn nothing_else_may_be_read_however_it_is_asked_for() {
        let mut granted = Granted::default();
        granted.push(pages(16, 3));
        for (start, bytes) in [
            (17 * PAGE_BYTES + 1, PAGE_BYTES),
            (17 * PAGE_BYTES, PAGE_BYTES - 1),
            (17 * PAGE_BYTES, u64::MAX),
            (17 * PAGE_BYTES, u64::MAX - 17 * PAGE_BYTES + 1),
            (u64::MAX, 1),
            (u64::MAX - PAGE_BYTES + 1, PAGE_BYTES),
            (17 * PAGE_BYTES, 0),
        ] {
            assert!(!granted.allows(Range { start, bytes }), "{bytes} bytes from {start:#x}");
        }
        assert!(!Granted::default().allows(pages(16, 1)));
    }
}
