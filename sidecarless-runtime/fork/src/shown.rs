//! The pages of mapped files that a template's first child has touched are shown in the template, too.
//!
//! A fork leaves a file's pages to be found again by faults, each of which takes as long as a hundred of them do to be
//! copied, unless the mapping has a page of its own. So each mapping in which the child had pages gets one: a copy of
//! the file's, which the children share.

use ramet_sys::pagemap::{PAGE_BYTES, Pagemap};
use ramet_sys::{CallError, ProcessMemory, Range};

use crate::descriptor::{AreaKind, ForkDescriptor};

/// What one fault on a file brings, in Linux's own setting.
const AROUND_BYTES: u64 = 64 << 10;
/// So many faults' worth is shown: it is a beginning.
const CHUNKS_MAX: usize = 512;

/// A template's first child, and where its pages are to be shown.
#[derive(Debug)]
pub(crate) struct Shown {
    child: Pagemap,
    template: ProcessMemory,
    /// Mappings of files.
    mappings: Vec<Range>,
}

impl Shown {
    /// What this child will have touched. Both are opened while it is known who they are.
    ///
    /// # Errors
    /// One of them has ended.
    pub(crate) fn open(child: i32, template: i32, descriptor: &ForkDescriptor) -> Result<Self, CallError> {
        let mut mappings = Vec::new();
        for area in &descriptor.areas {
            if !matches!(area.kind, AreaKind::File { shared: false, .. }) {
                continue;
            }
            let mut rest = area.range();
            for own in area.own_ranges() {
                mappings.push(Range::new(rest.start, own.start));
                rest = Range::new(own.end(), rest.end());
            }
            mappings.push(rest);
        }
        mappings.retain(|mapping| mapping.bytes > 0);
        Ok(Self { child: Pagemap::open(child)?, template: ProcessMemory::open(template)?, mappings })
    }

    /// Shows the template what the child has touched by now.
    ///
    /// # Errors
    /// One of them has ended, or has given up a mapping. That does no harm.
    pub(crate) fn show(&self) -> Result<(), CallError> {
        let found = self.child.file_pages(&self.mappings)?;
        let mut chunks = 0;
        for mapping in &self.mappings {
            let mut first = None;
            for run in found.iter().filter(|run| mapping.contains(run.start)) {
                let start = run.start & !(AROUND_BYTES - 1);
                for chunk in (start..run.end()).step_by(AROUND_BYTES as usize) {
                    if chunks == CHUNKS_MAX {
                        return Ok(());
                    }
                    chunks += 1;
                    self.template.read(chunk.max(run.start), &mut [0])?;
                }
                first = first.or(Some(run.start));
            }
            // What is written is what is there.
            if let Some(page) = first {
                let mut bytes = [0; PAGE_BYTES as usize];
                self.template.read(page, &mut bytes)?;
                self.template.write(page, &bytes[..1])?;
            }
        }
        Ok(())
    }
}
