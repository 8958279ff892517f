//! Where the pages of a seed come from.

mod local;

use ramet_sys::{CallError, Range};

pub use self::local::LocalSource;

/// Why pages are not to be had. A source that has failed once is not asked again.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The seed is gone, or its memory is not what was prepared.
    #[error("the seed's memory cannot be read any more: {0}")]
    Gone(#[from] CallError),
}

/// The memory of a seed, as it was when it was prepared.
pub trait PageSource: Send {
    /// Reads whole pages at the seed's addresses, one range after the other, into one buffer of their length.
    ///
    /// # Errors
    /// The pages are lost: not one byte of the buffer may be used.
    fn read(&mut self, ranges: &[Range], into: &mut [u8]) -> Result<(), SourceError>;
}
