//! Where the pages of a seed come from.
//!
//! A source is pipelined: many reads may be under way, and their answers come in any order, so that a slow one keeps
//! nobody else waiting. A read that fails ends the source: the seed is lost for who reads it, and pages that were not
//! read are never taken to be something else.

pub mod rdma;
pub mod tcp;

mod local;

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ramet_sys::{CallError, Range};
use rustix::event::{PollFd, PollFlags, poll};

pub use self::local::LocalSource;
pub use self::rdma::RdmaSource;
pub use self::tcp::TcpSource;
use crate::lineage::SeedAt;
use crate::seeds::Refusal;
use crate::wire::WireError;

/// The most bytes that one read may bring.
pub const READ_BYTES_MAX: u64 = 1 << 20;
/// The most ranges that one read may have.
pub const READ_RANGES_MAX: usize = 1024;
/// The most reads that may be under way.
pub const READS_MAX: usize = 64;

/// Why pages are not to be had. A source that has failed once is not asked again.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The seed is gone, or its memory is not what was prepared.
    #[error("the seed's memory cannot be read any more: {0}")]
    Gone(#[from] CallError),
    /// The seed may not be read.
    #[error("the seed is not to be read: {0}")]
    Refused(#[from] Refusal),
    /// The caller asked for more than it may.
    #[error("a read of {bytes} bytes in {ranges} ranges with {reads} others is more than a source takes; split it")]
    TooMuch {
        /// How many bytes.
        bytes: u64,
        /// In how many ranges.
        ranges: usize,
        /// How many reads are under way.
        reads: usize,
    },
    /// The connection to the seed's host has ended.
    #[error("the link to the seed's host is lost: {0}")]
    Link(io::Error),
    /// The seed's host does not answer.
    #[error("the seed's host has not answered for {0:?}")]
    Silent(Duration),
    /// What came is not what the seed's host has sent, or makes no sense.
    #[error("what the seed's host says is of no use: {0}")]
    Wire(#[from] WireError),
    /// Waiting for answers failed.
    #[error("cannot wait for pages: {0}")]
    Wait(io::Error),
}

/// Pages that are worth having before they are touched: earlier children touched them first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Where they are.
    pub ranges: Vec<Range>,
    /// The bytes of all ranges, one after the other.
    pub pages: Vec<u8>,
}

/// The memory of a seed, as it was when it was prepared.
pub trait PageSource: Send {
    /// The bytes of whole pages, of as many as lie together, from the beginning of a range on. None: they have to be
    /// asked for.
    ///
    /// # Errors
    /// The seed is lost.
    fn at_once(&mut self, range: Range) -> Result<Option<&[u8]>, SourceError> {
        let _ = range;
        Ok(None)
    }

    /// Begins a read of whole pages at the seed's addresses. Its answer comes from [`answers`](Self::answers), under
    /// the token, which no other read that is under way may have.
    ///
    /// # Errors
    /// The seed is lost; or the read is larger than [`READ_BYTES_MAX`] and [`READ_RANGES_MAX`] allow, or
    /// [`READS_MAX`] are under way.
    fn begin(&mut self, token: u64, ranges: &[Range]) -> Result<(), SourceError>;

    /// Hands over the answers that are there, without waiting: the token, and the bytes of all ranges of that read
    /// one after the other.
    ///
    /// # Errors
    /// The seed is lost. Reads that were not handed over will not be.
    fn answers(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError>;

    /// Readable when answers may be there, or the source has failed. None: answers are there as soon as begun.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// The pages that come with the descriptor, for which it waits. They are given once.
    ///
    /// # Errors
    /// The seed is lost.
    fn take_learned(&mut self) -> Result<Learned, SourceError>;

    /// Tells the seed's host what a child touched first, for the next one's sake.
    ///
    /// # Errors
    /// The seed is lost.
    fn teach(&mut self, ranges: &[Range]) -> Result<(), SourceError>;

    /// Says that nothing will be read any more. From now on [`answers`](Self::answers) tells of the seed's end alone,
    /// by an error. False: nobody would tell of that.
    ///
    /// # Errors
    /// The seed has ended.
    fn let_go(&mut self) -> Result<bool, SourceError> {
        Ok(false)
    }

    /// Until when the seed would have been kept, as far as that is known, if nobody is there any more to say so.
    fn lease_ends(&self) -> Option<Instant> {
        None
    }

    /// The seeds that it reads, the nearest first, where others can read them, too. None: that is not known.
    fn lineage(&self) -> Vec<SeedAt> {
        Vec::new()
    }
}

/// Refuses what no source takes.
pub(crate) fn check_size(ranges: &[Range], reads: usize) -> Result<u64, SourceError> {
    let bytes = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.bytes));
    if bytes > READ_BYTES_MAX || ranges.len() > READ_RANGES_MAX || reads >= READS_MAX {
        return Err(SourceError::TooMuch { bytes, ranges: ranges.len(), reads });
    }
    Ok(bytes)
}

/// Reads ranges one after the other into one buffer of their length, however large, and waits for it. Nobody else may
/// have reads under way.
///
/// # Errors
/// The seed is lost: not one byte of the buffer may be used.
///
/// # Panics
/// If the buffer has another length than the ranges have together.
pub fn read(source: &mut dyn PageSource, ranges: &[Range], into: &mut [u8]) -> Result<(), SourceError> {
    let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
    assert_eq!(bytes, into.len() as u64, "the buffer has the length of what is to be read");
    let mut rest = Pieces { ranges, taken: 0 };
    let mut piece = Vec::new();
    let (mut begun, mut token) = (0, 0);
    // Where the bytes of the reads that are under way go.
    let mut places: HashMap<u64, usize> = HashMap::new();
    loop {
        while places.len() < READS_MAX && rest.next_into(&mut piece) {
            source.begin(token, &piece)?;
            places.insert(token, begun);
            begun += piece.iter().map(|range| range.bytes as usize).sum::<usize>();
            token += 1;
        }
        if places.is_empty() {
            return Ok(());
        }
        if let Some(ready) = source.readiness() {
            wait_for(ready)?;
        }
        source.answers(&mut |token, pages| {
            if let Some(at) = places.remove(&token) {
                into[at..at + pages.len()].copy_from_slice(pages);
            }
        })?;
    }
}

fn wait_for(ready: BorrowedFd<'_>) -> Result<(), SourceError> {
    match poll(&mut [PollFd::from_borrowed_fd(ready, PollFlags::IN)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(SourceError::Wait(error.into())),
    }
}

/// Ranges cut into parts that one read takes.
struct Pieces<'r> {
    ranges: &'r [Range],
    /// How much of the first range was given already.
    taken: u64,
}

impl Pieces<'_> {
    fn next_into(&mut self, piece: &mut Vec<Range>) -> bool {
        piece.clear();
        let mut room = READ_BYTES_MAX;
        while let Some((first, rest)) = self.ranges.split_first() {
            if room == 0 || piece.len() == READ_RANGES_MAX {
                break;
            }
            let bytes = (first.bytes - self.taken).min(room);
            piece.push(Range { start: first.start + self.taken, bytes });
            room -= bytes;
            self.taken += bytes;
            if self.taken == first.bytes {
                (self.ranges, self.taken) = (rest, 0);
            }
        }
        !piece.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use ramet_sys::pagemap::PAGE_BYTES;

    use super::*;

    #[test]
    fn pieces_are_all_of_it_in_order_and_none_is_too_large() {
        let mut ranges = vec![Range { start: PAGE_BYTES, bytes: 3 * READ_BYTES_MAX + PAGE_BYTES }];
        ranges.extend((0..5000).map(|page| Range { start: (1 << 30) + page * 2 * PAGE_BYTES, bytes: PAGE_BYTES }));
        let mut pieces = Pieces { ranges: &ranges, taken: 0 };
        let (mut piece, mut all) = (Vec::new(), Vec::<Range>::new());
        while pieces.next_into(&mut piece) {
            check_size(&piece, 0).expect("a size that a source takes");
            for part in &piece {
                match all.last_mut() {
                    Some(last) if last.end() == part.start => last.bytes += part.bytes,
                    _ => all.push(*part),
                }
            }
        }
        assert_eq!(all, ranges);
    }
}
