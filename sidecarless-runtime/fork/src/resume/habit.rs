//! What every child of a template writes to soon.
//!
//! A fork leaves pages shared, and each is copied by a fault when it is first written to: most of what a child does
//! until its first answer. Which pages these are is seen at an earlier child, and the next one gets its copies while it
//! waits to be asked for. That takes no more memory than the child would, and makes no difference to what it reads. It
//! takes longer than the faults would, so it is only done while nobody waits for a child.

use ramet_sys::pagemap::{PAGE_BYTES, Pagemap};
use ramet_sys::{CallError, Range};

use crate::descriptor::ForkDescriptor;

/// So often it is looked at the most what the child has written to. Later it writes what its own work brings.
const LOOKS_MAX: u32 = 8;
/// A child that writes to more is not like another one.
const PAGES_MAX: usize = 1024;

/// What one child has written to of what its template has.
#[derive(Debug)]
pub(super) struct Habit {
    child: Pagemap,
    template: Pagemap,
    /// The pages that are the seed's.
    own: Vec<Range>,
    looks: u32,
    pages: Vec<u64>,
}

impl Habit {
    /// Opens both while it is known who they are.
    pub(super) fn of(child: i32, template: i32, descriptor: &ForkDescriptor) -> Result<Self, CallError> {
        let own = descriptor.areas.iter().flat_map(|area| area.own_ranges().collect::<Vec<_>>()).collect();
        let (child, template) = (Pagemap::open(child)?, Pagemap::open(template)?);
        Ok(Self { child, template, own, looks: 0, pages: Vec::new() })
    }

    /// Whether it was seen what the child has written to.
    pub(super) const fn is_known(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Which pages these are, as far as it is known.
    pub(super) fn pages(&mut self) -> Result<Vec<u64>, CallError> {
        if self.looks < LOOKS_MAX {
            let before = self.pages.len();
            self.look()?;
            let has_settled = !self.pages.is_empty() && self.pages.len() == before;
            self.looks = if has_settled { LOOKS_MAX } else { self.looks + 1 };
        }
        Ok(self.pages.clone())
    }

    fn look(&mut self) -> Result<(), CallError> {
        let there = self.template.own(&self.own)?.pages;
        let written = self.child.unshared_pages(&there)?;
        // One that has ended has no pages.
        if !written.is_empty() {
            let starts = |run: Range| (run.start..run.end()).step_by(PAGE_BYTES as usize);
            self.pages = written.into_iter().flat_map(starts).take(PAGES_MAX).collect();
        }
        Ok(())
    }
}
