//! A seed on this host.

use std::os::fd::BorrowedFd;

use ramet_sys::{ProcessMemory, Range};

use super::{Learned, PageSource, SourceError, check_size};
use crate::seeds::Reader;

/// Reads the memory of a seed on this host.
#[derive(Debug)]
pub struct LocalSource {
    memory: Memory,
    /// The reads that were begun: the token, and where among `ranges` its own end.
    begun: Vec<(u64, usize)>,
    ranges: Vec<Range>,
    pages: Vec<u8>,
    learned: Learned,
}

#[derive(Debug)]
enum Memory {
    /// The caller's own seed.
    Own(ProcessMemory),
    /// A seed that is kept for others, too.
    Granted(Reader),
}

impl LocalSource {
    /// The memory of the process that is the seed. It must stay one for as long as this lives.
    ///
    /// # Errors
    /// Without the right to read it.
    pub fn open(seed: i32) -> Result<Self, SourceError> {
        Ok(Self::new(Memory::Own(ProcessMemory::open(seed)?), Learned::default()))
    }

    pub(crate) const fn granted(reader: Reader, learned: Learned) -> Self {
        Self::new(Memory::Granted(reader), learned)
    }

    const fn new(memory: Memory, learned: Learned) -> Self {
        Self { memory, begun: Vec::new(), ranges: Vec::new(), pages: Vec::new(), learned }
    }
}

impl Memory {
    fn read(&self, ranges: &[Range], into: &mut [u8]) -> Result<(), SourceError> {
        match self {
            Self::Own(memory) => Ok(memory.read_ranges(ranges, into)?),
            Self::Granted(reader) => Ok(reader.read(ranges, into)?),
        }
    }
}

impl PageSource for LocalSource {
    fn at_once(&mut self, range: Range) -> Result<Option<&[u8]>, SourceError> {
        let bytes = check_size(&[range], 0)? as usize;
        self.pages.resize(bytes.max(self.pages.len()), 0);
        let pages = &mut self.pages[..bytes];
        self.memory.read(&[range], pages)?;
        Ok(Some(pages))
    }

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
            self.memory.read(ranges, pages)?;
            each(token, pages);
            start = end;
        }
        self.ranges.clear();
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn take_learned(&mut self) -> Result<Learned, SourceError> {
        Ok(std::mem::take(&mut self.learned))
    }

    fn teach(&mut self, ranges: &[Range]) -> Result<(), SourceError> {
        match &self.memory {
            Memory::Own(_) => Ok(()),
            Memory::Granted(reader) => Ok(reader.seed().learn(ranges)?),
        }
    }
}
