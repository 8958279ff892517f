//! A single-producer single-consumer queue of packet descriptors between two processes that need not trust each other.
//!
//! Each entry is a cache line: a descriptor, and the *turn* at which it was published. The consumer looks at the turn
//! of the entry that comes next, so a descriptor costs what moving one line from core to core costs. A batch is
//! published by its first turn, which is written last: a producer that dies before has published nothing.
//!
//! Each side keeps its own position in private memory; what the other side writes is checked against what is possible.
//! Entries are atomics, so a peer that writes while we read gives us a wrong descriptor, which the reader checks
//! anyway, and never a data race.
//!
//! Sleeping: the consumer announces that it will wait ([`Consumer::prepare_to_wait`]), looks once more, and waits on
//! its doorbell. The producer publishes, then looks for the announcement. Both put a full fence between, so at least
//! one sees the other.

use std::ops::Deref;
use std::sync::Arc;

use ramet_common::PacketDescriptor;
use zerocopy::transmute;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::segment::{Access, Mapping, SegmentError};

/// How many descriptors a lane holds.
#[cfg(not(loom))]
pub const LANE_ENTRIES: u64 = 256;
/// A model small enough to explore.
#[cfg(loom)]
pub const LANE_ENTRIES: u64 = 2;

const WORDS: usize = 4;

/// A cache line of its own: that of an awake consumer stays in the producer's cache.
#[repr(C, align(64))]
#[derive(Debug)]
struct WaitingLine {
    waiting: AtomicU32,
}

/// A cache line that only the consumer writes.
#[repr(C, align(64))]
#[derive(Debug)]
struct ConsumerLine {
    head: AtomicU64,
}

/// A cache line that only the producer writes.
#[repr(C, align(64))]
#[derive(Debug)]
struct Entry {
    words: [AtomicU64; WORDS],
    /// One more than the place in the queue that was published here last.
    turn: AtomicU64,
}

impl Entry {
    /// Whether what comes at a place is there.
    #[inline]
    fn state(&self, place: u64) -> Result<bool, LaneError> {
        let next = place + 1;
        // SYNC: entries published; pairs with the store of the first `turn` in `push_with`.
        match self.turn.load(Ordering::Acquire) {
            turn if turn == next => Ok(true),
            turn if turn == next.saturating_sub(LANE_ENTRIES) => Ok(false),
            _ => Err(LaneError::Corrupt),
        }
    }
}

/// The memory that both sides map. All atomics, so any bit pattern is valid.
#[repr(C)]
#[derive(Debug)]
pub struct LaneMemory {
    waiting: WaitingLine,
    consumer: ConsumerLine,
    entries: [Entry; LANE_ENTRIES as usize],
}

impl LaneMemory {
    #[inline]
    fn entry(&self, place: u64) -> &Entry {
        &self.entries[(place % LANE_ENTRIES) as usize]
    }
}

/// The bytes of a lane's memfd.
pub const LANE_BYTES: usize = size_of::<LaneMemory>().next_multiple_of(4096);

/// The peer published a position that no honest peer can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// No room for the batch; nothing was published.
    #[error("the lane has no room for this batch")]
    Full,
    /// The far side wrote an impossible position or turn. The lane must be given up.
    #[error("the far side of the lane wrote an impossible position")]
    Corrupt,
}

/// A lane in a sealed memfd.
#[derive(Clone, Debug)]
pub struct SharedLane(Arc<Mapping>);

impl SharedLane {
    /// Maps the lane in `fd`, made by [`crate::segment::create_sealed`] with [`LANE_BYTES`].
    ///
    /// # Errors
    /// A file of another size or without seals, or `mmap`'s error.
    pub fn map(fd: std::os::fd::BorrowedFd<'_>) -> Result<Self, SegmentError> {
        crate::segment::check_sealed(fd, LANE_BYTES)?;
        let mapping = Mapping::new(fd, 0, LANE_BYTES, Access::ReadWrite)?;
        Ok(Self(mapping))
    }
}

impl Deref for SharedLane {
    type Target = LaneMemory;

    #[inline]
    fn deref(&self) -> &LaneMemory {
        let Ok(pointer) = self.0.typed::<LaneMemory>(0) else {
            unreachable!("a lane's mapping is as large as a lane and starts a page")
        };
        // SAFETY: S1, S2, S3, S4: the mapping holds a whole lane, and a lane is made of atomics.
        unsafe { pointer.as_ref() }
    }
}

/// The writing end. One per lane; keep it behind a lock where several threads send.
#[derive(Debug)]
pub struct Producer<M: Deref<Target = LaneMemory>> {
    memory: M,
    tail: u64,
    /// What the reader had taken when that was looked at last.
    seen_head: u64,
}

impl<M: Deref<Target = LaneMemory>> Producer<M> {
    /// The writing end of a lane that nobody has used.
    pub fn new(memory: M) -> Self {
        Self { memory, tail: 0, seen_head: 0 }
    }

    /// Publishes the whole batch or nothing. `Ok(true)`: the reader waits and its doorbell must be rung.
    ///
    /// # Errors
    /// [`LaneError::Full`], or [`LaneError::Corrupt`] from a hostile reader.
    pub fn push(&mut self, batch: &[PacketDescriptor]) -> Result<bool, LaneError> {
        self.push_with(batch, |descriptor| descriptor)
    }

    /// As [`Self::push`], each descriptor as `stamp` makes it.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_with(
        &mut self,
        batch: &[PacketDescriptor],
        stamp: impl Fn(PacketDescriptor) -> PacketDescriptor,
    ) -> Result<bool, LaneError> {
        let count = batch.len() as u64;
        // Looking costs a cache line, so it is looked only where what was seen before is not enough.
        if self.used() + count > LANE_ENTRIES {
            self.look()?;
            if self.used() + count > LANE_ENTRIES {
                return Err(LaneError::Full);
            }
        }
        let memory = &*self.memory;
        for (place, descriptor) in (self.tail..).zip(batch) {
            let (entry, words): (_, [u64; WORDS]) = (memory.entry(place), transmute!(stamp(*descriptor)));
            for (into, word) in entry.words.iter().zip(words) {
                into.store(word, Ordering::Relaxed);
            }
            // Nobody sees it before the first one's.
            if place != self.tail {
                entry.turn.store(place + 1, Ordering::Relaxed);
            }
        }
        if count > 0 {
            // SYNC: entries published; pairs with the load of `turn` in `state`.
            memory.entry(self.tail).turn.store(self.tail + 1, Ordering::Release);
        }
        self.tail += count;
        // SYNC: publish, then look for the announcement; pairs with the fence in `prepare_to_wait`.
        fence(Ordering::SeqCst);
        let waiting = &self.memory.waiting.waiting;
        Ok(waiting.load(Ordering::Relaxed) != 0 && waiting.swap(0, Ordering::Relaxed) != 0)
    }

    /// How many entries are not known to be free.
    const fn used(&self) -> u64 {
        self.tail - self.seen_head
    }

    #[inline]
    fn look(&mut self) -> Result<(), LaneError> {
        // SYNC: entries free again; pairs with the store of `head` in `pop`.
        let head = self.memory.consumer.head.load(Ordering::Acquire);
        if self.tail.checked_sub(head).is_none_or(|used| used > LANE_ENTRIES) {
            return Err(LaneError::Corrupt);
        }
        self.seen_head = head;
        Ok(())
    }
}

/// The reading end. One per lane.
#[derive(Debug)]
pub struct Consumer<M: Deref<Target = LaneMemory>> {
    memory: M,
    head: u64,
}

impl<M: Deref<Target = LaneMemory>> Consumer<M> {
    /// The reading end of a lane that nobody has used.
    pub fn new(memory: M) -> Self {
        Self { memory, head: 0 }
    }

    /// Takes up to `most` descriptors, each copied once, and gives them to `take`. Returns how many.
    ///
    /// # Errors
    /// [`LaneError::Corrupt`] from a hostile writer.
    pub fn pop(&mut self, most: usize, mut take: impl FnMut(PacketDescriptor)) -> Result<usize, LaneError> {
        let (memory, start) = (&*self.memory, self.head);
        let mut head = start;
        while head - start < most as u64 {
            let entry = memory.entry(head);
            match entry.state(head) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if head == start => return Err(error),
                // The next look finds it again.
                Err(_) => break,
            }
            let mut words = [0u64; WORDS];
            for (into, word) in words.iter_mut().zip(&entry.words) {
                *into = word.load(Ordering::Relaxed);
            }
            head += 1;
            take(transmute!(words));
        }
        if head != start {
            self.head = head;
            // SYNC: entries free again; pairs with the load of `head` in `look`.
            memory.consumer.head.store(head, Ordering::Release);
        }
        Ok((head - start) as usize)
    }

    /// Whether there is a descriptor to take.
    ///
    /// # Errors
    /// [`LaneError::Corrupt`] from a hostile writer.
    pub fn is_there(&self) -> Result<bool, LaneError> {
        self.memory.entry(self.head).state(self.head)
    }

    /// Announces that the reader is about to wait. The caller then looks at [`Consumer::is_there`] of every lane
    /// once more and waits only if all are empty.
    pub fn prepare_to_wait(&self) {
        self.memory.waiting.waiting.store(1, Ordering::Relaxed);
        // SYNC: announce, then look; pairs with the fence in `push`.
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back, so that writers ring no bell.
    pub fn awake(&self) {
        self.memory.waiting.waiting.store(0, Ordering::Relaxed);
    }
}

#[cfg(loom)]
impl LaneMemory {
    fn on_heap() -> Arc<Self> {
        let entry = || Entry { words: std::array::from_fn(|_| AtomicU64::new(0)), turn: AtomicU64::new(0) };
        Arc::new(Self {
            waiting: WaitingLine { waiting: AtomicU32::new(0) },
            consumer: ConsumerLine { head: AtomicU64::new(0) },
            entries: std::array::from_fn(|_| entry()),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::segment::create_sealed;
    use ramet_common::{FunctionId, Generation, Kind, RequestId, SlotIndex};
    use std::os::fd::AsFd;

    fn lane() -> (Producer<SharedLane>, Consumer<SharedLane>, SharedLane) {
        let fd = create_sealed("lane", LANE_BYTES).expect("memfd");
        let map = || SharedLane::map(fd.as_fd()).expect("map");
        (Producer::new(map()), Consumer::new(map()), map())
    }

    fn numbered(number: u64) -> PacketDescriptor {
        PacketDescriptor::new(Kind::Request, FunctionId(1), SlotIndex(0), Generation(0), RequestId(number))
    }

    #[test]
    fn descriptors_arrive_once_and_in_order() {
        let (mut producer, mut consumer, _) = lane();
        let mut expected = 0;
        for round in 0..1000u64 {
            let batch: Vec<_> = (0..round % 7).map(|i| numbered(expected + i)).collect();
            producer.push(&batch).expect("room");
            let mut seen = Vec::new();
            consumer.pop(64, |descriptor| seen.push(descriptor.request.0)).expect("honest");
            assert_eq!(seen, (expected..expected + round % 7).collect::<Vec<_>>());
            expected += round % 7;
        }
    }

    #[test]
    fn a_batch_that_does_not_fit_publishes_nothing() {
        let (mut producer, mut consumer, _) = lane();
        for number in 0..LANE_ENTRIES - 1 {
            producer.push(&[numbered(number)]).expect("room");
        }
        assert_eq!(producer.push(&[numbered(0), numbered(1)]), Err(LaneError::Full));
        assert_eq!(consumer.pop(1, |_| {}), Ok(1));
        assert_eq!(producer.push(&[numbered(0), numbered(1)]), Ok(false));
        let mut count = 0;
        consumer.pop(usize::MAX, |_| count += 1).expect("honest");
        assert_eq!(count, LANE_ENTRIES);
    }

    #[test]
    fn the_bell_is_wanted_only_after_an_announcement_and_only_once() {
        let (mut producer, consumer, _) = lane();
        assert_eq!(producer.push(&[numbered(0)]), Ok(false));
        consumer.prepare_to_wait();
        assert_eq!(producer.push(&[numbered(1)]), Ok(true));
        assert_eq!(producer.push(&[numbered(2)]), Ok(false));
    }

    /// A producer that died before it had written the first turn of its batch.
    #[test]
    fn a_batch_without_its_first_turn_is_not_there() {
        let (mut producer, mut consumer, raw) = lane();
        producer.push(&[numbered(1), numbered(2), numbered(3)]).expect("room");
        raw.entry(0).turn.store(0, Ordering::Relaxed);
        assert_eq!(consumer.pop(64, |_| {}), Ok(0));
        raw.entry(0).turn.store(1, Ordering::Relaxed);
        assert_eq!(consumer.pop(64, |_| {}), Ok(3));
    }

    #[test]
    fn impossible_positions_are_noticed_by_both_sides() {
        for lap in 0..2 {
            let (mut producer, mut consumer, raw) = lane();
            for number in 0..lap * LANE_ENTRIES {
                producer.push(&[numbered(number)]).expect("room");
                assert_eq!(consumer.pop(1, |_| {}), Ok(1));
            }
            let place = lap * LANE_ENTRIES;
            for turn in [place + 2, place + 1 + LANE_ENTRIES, u64::MAX, place.wrapping_sub(LANE_ENTRIES)] {
                raw.entry(place).turn.store(turn, Ordering::Relaxed);
                assert_eq!(consumer.pop(64, |_| {}), Err(LaneError::Corrupt), "{turn}");
            }
            raw.consumer.head.store(place + 1, Ordering::Relaxed);
            assert_eq!(producer.look(), Err(LaneError::Corrupt));
            raw.consumer.head.store(place.wrapping_sub(LANE_ENTRIES + 1), Ordering::Relaxed);
            assert_eq!(producer.look(), Err(LaneError::Corrupt));
        }
    }

    /// What was taken before an entry with an impossible turn has been taken.
    #[test]
    fn what_is_whole_before_a_corrupt_entry_is_taken() {
        let (mut producer, mut consumer, raw) = lane();
        producer.push(&[numbered(1), numbered(2)]).expect("room");
        raw.entry(1).turn.store(77, Ordering::Relaxed);
        assert_eq!(consumer.pop(64, |descriptor| assert_eq!(descriptor, numbered(1))), Ok(1));
        assert_eq!(consumer.pop(64, |_| {}), Err(LaneError::Corrupt));
    }
}

/// Model-checked with `RUSTFLAGS="--cfg loom" cargo test -p ramet-shm --release loom_`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;
    use ramet_common::{FunctionId, Generation, Kind, RequestId, SlotIndex};

    fn numbered(number: u64) -> PacketDescriptor {
        PacketDescriptor::new(Kind::Request, FunctionId(1), SlotIndex(0), Generation(0), RequestId(number))
    }

    #[test]
    fn loom_entries_are_whole_when_their_position_is_seen() {
        loom::model(|| {
            let memory = LaneMemory::on_heap();
            let (mut producer, mut consumer) = (Producer::new(memory.clone()), Consumer::new(memory));
            let writer = thread::spawn(move || {
                for number in 1..=3 {
                    while producer.push(&[numbered(number)]) == Err(LaneError::Full) {
                        thread::yield_now();
                    }
                }
            });
            let reader = thread::spawn(move || {
                let mut expected = 1;
                while expected <= 3 {
                    let taken = consumer.pop(1, |descriptor| assert_eq!(descriptor, numbered(expected)));
                    match taken {
                        Ok(0) => thread::yield_now(),
                        Ok(_) => expected += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            writer.join().expect("writer");
            reader.join().expect("reader");
        });
    }

    #[test]
    fn loom_no_wake_is_lost() {
        loom::model(|| {
            let memory = LaneMemory::on_heap();
            let (mut producer, consumer) = (Producer::new(memory.clone()), Consumer::new(memory));
            let writer = thread::spawn(move || producer.push(&[numbered(1)]).expect("room"));
            let reader = thread::spawn(move || {
                consumer.prepare_to_wait();
                consumer.is_there().expect("honest")
            });
            let rang = writer.join().expect("writer");
            let saw = reader.join().expect("reader");
            assert!(rang || saw, "the reader would sleep on a message");
        });
    }
}
