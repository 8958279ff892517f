//! What a member of the data plane counts of its own messages, in memory that only it and the supervisor map: so a
//! function can spoil no figures but its own.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ramet_common::FunctionId;
use ramet_common::map::{EdgeCount, FUNCTIONS_MAX, FunctionFlow};

use crate::segment::{Access, Mapping, SegmentError, check_sealed, create_sealed};

/// How often figures that are being counted are read again for two equal looks.
const LOOKS_MAX: usize = 16;

/// A number of messages and the sum of when: a cache line, because who receives and who sends may be two threads.
#[repr(C, align(64))]
#[derive(Debug)]
struct Sum {
    messages: AtomicU64,
    times_ns: AtomicU64,
}

/// What was sent to one function.
#[repr(C)]
#[derive(Debug)]
struct Sent {
    descriptors: AtomicU64,
    batches: AtomicU64,
}

/// All atomics, so any bit pattern is valid. Only the pages of functions that something is sent to become memory.
#[repr(C)]
#[derive(Debug)]
struct MeterMemory {
    arrived: Sum,
    left: Sum,
    sent: [Sent; FUNCTIONS_MAX as usize],
}

/// The bytes of a meter's memfd.
pub const METER_BYTES: usize = size_of::<MeterMemory>().next_multiple_of(4096);

/// A meter as its member has it, until [`Self::split`]. A copy of the process counts nothing in it.
///
/// Each half is written by one thread at a time, so that to count is to load and to store: an addition that other
/// threads could make at the same time costs many times as much, and each hop has several.
#[derive(Debug)]
pub struct Meter(Arc<Mapping>);

/// What came to the member.
#[derive(Debug)]
pub struct MeterIn(Arc<Mapping>);

/// What the member sent and has done with.
#[derive(Debug)]
pub struct MeterOut(Arc<Mapping>);

impl Meter {
    /// Makes the memory of a new meter.
    ///
    /// # Errors
    /// The failing system call.
    pub fn create() -> Result<OwnedFd, SegmentError> {
        create_sealed("ramet-meter", METER_BYTES)
    }

    /// Maps a meter to count in.
    ///
    /// # Errors
    /// A file of another size or without seals, or `mmap`'s error.
    pub fn map(fd: BorrowedFd<'_>) -> Result<Self, SegmentError> {
        check_sealed(fd, METER_BYTES)?;
        Ok(Self(Mapping::new(fd, 0, METER_BYTES, Access::ReadWrite)?))
    }

    /// Its halves, for who receives and for who sends.
    #[must_use]
    pub fn split(self) -> (MeterIn, MeterOut) {
        (MeterIn(Arc::clone(&self.0)), MeterOut(self.0))
    }
}

impl MeterIn {
    /// Books messages that came, and the sum of when they were sent.
    #[inline]
    pub fn count_arrivals(&mut self, messages: u64, times_ns: u64) {
        if let Some(memory) = memory(&self.0) {
            memory.arrived.add(messages, times_ns);
        }
    }
}

impl MeterOut {
    /// Books messages that were answered, passed on or given up at `now_ns`.
    #[inline]
    pub fn count_departures(&mut self, messages: u64, now_ns: u64) {
        if let Some(memory) = memory(&self.0) {
            memory.left.add(messages, now_ns.wrapping_mul(messages));
        }
    }

    /// Books one send of so many descriptors.
    #[inline]
    pub fn count_sent(&mut self, to: FunctionId, descriptors: u64) {
        if let Some(sent) = memory(&self.0).and_then(|memory| memory.sent.get(to.0 as usize)) {
            add(&sent.descriptors, descriptors);
            add(&sent.batches, 1);
        }
    }
}

#[inline]
fn memory(mapping: &Mapping) -> Option<&MeterMemory> {
    let pointer = mapping.typed::<MeterMemory>(0).ok()?;
    // SAFETY: S1, S2, S3, S4: the mapping holds a whole meter, and a meter is made of atomics.
    Some(unsafe { pointer.as_ref() })
}

/// Adds to a number that nobody else writes.
#[inline]
fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// A meter as the supervisor has it.
#[derive(Debug)]
pub struct MeterReader(Arc<Mapping>);

impl MeterReader {
    /// Maps a meter to read.
    ///
    /// # Errors
    /// As [`Meter::map`].
    pub fn map(fd: BorrowedFd<'_>) -> Result<Self, SegmentError> {
        check_sealed(fd, METER_BYTES)?;
        Ok(Self(Mapping::new(fd, 0, METER_BYTES, Access::ReadOnly)?))
    }

    /// What came to the member and what it has done with.
    #[must_use]
    pub fn flow(&self) -> FunctionFlow {
        let Some(memory) = self.memory() else { return FunctionFlow::default() };
        let look = || FunctionFlow {
            arrived: memory.arrived.messages.load(Ordering::Relaxed),
            left: memory.left.messages.load(Ordering::Relaxed),
            arrived_ns: memory.arrived.times_ns.load(Ordering::Relaxed),
            left_ns: memory.left.times_ns.load(Ordering::Relaxed),
        };
        // A number without its time would be off by the age of the host. A member that never rests is believed at last.
        let mut flow = look();
        for _ in 0..LOOKS_MAX {
            let again = look();
            if again == flow {
                break;
            }
            flow = again;
        }
        flow
    }

    /// What the member has sent to a function.
    #[must_use]
    pub fn sent(&self, to: FunctionId) -> EdgeCount {
        let sent = self.memory().and_then(|memory| memory.sent.get(to.0 as usize));
        sent.map_or_else(EdgeCount::default, |sent| EdgeCount {
            descriptors: sent.descriptors.load(Ordering::Relaxed),
            batches: sent.batches.load(Ordering::Relaxed),
        })
    }

    fn memory(&self) -> Option<&MeterMemory> {
        let pointer = self.0.typed_to_read::<MeterMemory>(0).ok()?;
        // SAFETY: S1, S2, S3, S4: the mapping holds a whole meter, and its atomics are only loaded.
        Some(unsafe { pointer.as_ref() })
    }
}

impl Sum {
    #[inline]
    fn add(&self, messages: u64, times_ns: u64) {
        add(&self.messages, messages);
        add(&self.times_ns, times_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_reader_sees_what_was_counted_and_nothing_of_functions_that_cannot_be() {
        let fd = Meter::create().expect("memfd");
        let (meter, reader) = (Meter::map(fd.as_fd()).expect("map"), MeterReader::map(fd.as_fd()).expect("map"));
        let (mut received, mut sent) = meter.split();
        received.count_arrivals(2, 250);
        sent.count_departures(1, 400);
        sent.count_sent(FunctionId(7), 3);
        sent.count_sent(FunctionId(7), 1);
        sent.count_sent(FunctionId(FUNCTIONS_MAX), 1);
        let flow = reader.flow();
        assert_eq!((flow.held(), flow.spent_ns(1000)), (1, 400 + 1000 - 250));
        assert_eq!(reader.sent(FunctionId(7)), EdgeCount { descriptors: 4, batches: 2 });
        for other in [6, 8, FUNCTIONS_MAX, u32::MAX] {
            assert_eq!(reader.sent(FunctionId(other)), EdgeCount::default());
        }
    }
}
