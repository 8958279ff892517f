//! A seed on this host.

use ramet_sys::{ProcessMemory, Range};

use super::{PageSource, SourceError};

/// Reads the memory of a seed on this host.
#[derive(Debug)]
pub struct LocalSource {
    memory: ProcessMemory,
}

impl LocalSource {
    /// The memory of the process that is the seed. It must stay one for as long as this lives.
    ///
    /// # Errors
    /// Without the right to read it.
    pub fn open(seed: i32) -> Result<Self, SourceError> {
        Ok(Self { memory: ProcessMemory::open(seed)? })
    }
}

impl PageSource for LocalSource {
    fn read(&mut self, ranges: &[Range], into: &mut [u8]) -> Result<(), SourceError> {
        Ok(self.memory.read_ranges(ranges, into)?)
    }
}
