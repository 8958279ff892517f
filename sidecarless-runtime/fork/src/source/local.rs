//! A seed on this host.

use std::os::fd::BorrowedFd;

use ramet_sys::{ProcessMemory, Range};

use super::{Learned, PageSource, SourceError, check_size};

/// Reads the memory of a seed on this host.
#[derive(Debug)]
pub struct LocalSource {
    memory: ProcessMemory,
    /// The reads that were begun: the token, and where among `ranges` its own end.
    begun: Vec<(u64, usize)>,
    ranges: Vec<Range>,
    pages: Vec<u8>,
}

impl LocalSource {
    /// The memory of the process that is the seed. It must stay one for as long as this lives.
    ///
    /// # Errors
    /// Without the right to read it.
    pub fn open(seed: i32) -> Result<Self, SourceError> {
        let memory = ProcessMemory::open(seed)?;
        Ok(Self { memory, begun: Vec::new(), ranges: Vec::new(), pages: Vec::new() })
    }
}

impl PageSource for LocalSource {
    fn begin(&mut self, token: u64, ranges: &[Range]) -> Result<(), SourceError> {
        check_size(ranges, self.begun.len())?;
        self.ranges.extend(ranges);
        self.begun.push((token, self.ranges.len()));
        Ok(())
    }

    fn answers(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
        let mut start = 0;
        for (token, end) in self.begun.drain(..) {
            let ranges = &self.ranges[start..end];
            let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
            self.pages.resize((bytes as usize).max(self.pages.len()), 0);
            let pages = &mut self.pages[..bytes as usize];
            self.memory.read_ranges(ranges, pages)?;
            each(token, pages);
            start = end;
        }
        self.ranges.clear();
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn take_learned(&mut self) -> Learned {
        Learned::default()
    }

    fn teach(&mut self, _: &[Range]) -> Result<(), SourceError> {
        Ok(())
    }
}
