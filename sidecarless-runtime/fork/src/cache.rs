//! What has come once from a seed on another host is kept here for all children of the seed on this one.
//!
//! A page is asked for once, however many children wait for it, and is given to the next from memory. When all pages
//! were *pulled*, the seed is not needed any more: its end is no loss, but it is still heard of, because who has been
//! revoked is to have no further children. A seed on this host is read where it is, so
//! nothing of it is kept until it is pulled.

mod pages;

use std::collections::{HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;

use self::pages::{Page, Pages};
use crate::seeds::{Ending, Granted, Refusal};
use crate::source::{Learned, PageSource, READS_MAX, SourceError};

/// How many bytes are kept of a seed. What came first goes first.
pub const CACHE_BYTES_MAX: u64 = 1 << 30;
/// How many reads may be under way for children, beside those of a pull.
pub(crate) const READS_FOR_CHILDREN_MAX: usize = READS_MAX - PULL_READS_MAX;

/// How many reads of a pull are under way, and how long one is: a child that waits for a page does not wait for long
/// behind them.
const PULL_READS_MAX: usize = 2;
const PULL_READ_BYTES: u64 = 128 << 10;

/// Why a seed's memory is not pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// It is too large.
    #[error("the seed has {bytes} bytes, and a host keeps at most {CACHE_BYTES_MAX} of one; its children need it on")]
    TooLarge {
        /// How many bytes.
        bytes: u64,
    },
    /// Nobody serves the children any more.
    #[error("the family's pager has ended")]
    Ended,
}

/// What is asked of the source.
struct Fetch {
    ranges: Vec<Range>,
    /// The reads that wait for it. Of a pull: none.
    readers: Vec<u64>,
    is_pull: bool,
}

/// What was asked of us.
struct Read {
    ranges: Vec<Range>,
    /// How many fetches it waits for.
    waits: usize,
}

/// The pages of a seed.
pub(crate) struct Cache {
    /// None: all pages are here, and nobody tells of the seed's end any more.
    source: Option<Box<dyn PageSource>>,
    /// Whether pages are kept.
    keeps: bool,
    pages: Pages,
    /// What has come otherwise and is to be kept when all is.
    given: Vec<Arc<Learned>>,
    /// By their numbers.
    fetches: [Option<Fetch>; READS_MAX],
    reads: HashMap<u64, Read>,
    /// Reads that wait for nothing.
    ready: VecDeque<u64>,
    /// Where among the seed's pages a pull goes on.
    pull_at: Option<usize>,
    is_independent: Arc<AtomicBool>,
    barren_from: Arc<OnceLock<Instant>>,
    buffer: Vec<u8>,
}

impl Cache {
    /// One of a seed of which this is granted.
    pub(crate) fn new(source: Box<dyn PageSource>, granted: Granted) -> Self {
        let keeps = source.readiness().is_some();
        Self {
            source: Some(source),
            keeps,
            pages: Pages::new(granted, CACHE_BYTES_MAX),
            given: Vec::new(),
            fetches: [const { None }; READS_MAX],
            reads: HashMap::new(),
            ready: VecDeque::new(),
            pull_at: None,
            is_independent: Arc::default(),
            barren_from: Arc::default(),
            buffer: Vec::new(),
        }
    }

    /// Comes to say that the seed is not needed any more.
    pub(crate) fn is_independent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_independent)
    }

    /// Comes to say from when on a seed has no further children that is not needed any more: who has all of its pages
    /// keeps them.
    pub(crate) fn barren_from(&self) -> Arc<OnceLock<Instant>> {
        Arc::clone(&self.barren_from)
    }

    /// Takes pages that have come already. They are kept once all are: until then who has them needs them no more.
    pub(crate) fn take_over(&mut self, learned: Arc<Learned>) {
        self.given.push(learned);
    }

    /// Begins to read all that is not here.
    pub(crate) fn pull(&mut self) -> Result<(), PullError> {
        let bytes = self.pages.bytes();
        if bytes > self.pages.bytes_max() {
            return Err(PullError::TooLarge { bytes });
        }
        self.keeps = true;
        for learned in self.given.drain(..) {
            self.pages.keep_all(&learned.ranges, &learned.pages);
        }
        self.pull_at.get_or_insert(0);
        Ok(())
    }

    /// Whether [`answers`](Self::answers) has something to do that nothing will tell of.
    pub(crate) fn is_due(&self) -> bool {
        !self.ready.is_empty() || (self.is_near() && !self.reads.is_empty())
    }

    /// Whether there is a pull that goes on only if it is given turns.
    pub(crate) fn wants_turns(&self) -> bool {
        self.is_near() && self.pull_at.is_some()
    }

    /// Lets the seed go, which is lost. Nothing is to be had any more.
    pub(crate) fn give_up(&mut self) {
        self.source = None;
        self.pull_at = None;
        self.pages.clear();
        self.fetches = [const { None }; READS_MAX];
        self.reads.clear();
        self.ready.clear();
    }

    fn is_near(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.readiness().is_none())
    }

    /// See [`PageSource::readiness`].
    pub(crate) fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().and_then(|source| source.readiness())
    }

    /// See [`PageSource::teach`].
    pub(crate) fn teach(&mut self, ranges: &[Range]) -> Result<(), SourceError> {
        let taught = self.source.as_mut().map_or(Ok(()), |source| source.teach(ranges));
        self.unless_independent(taught)
    }

    /// Whether a page is had without waiting.
    pub(crate) fn is_here(&self, page: u64) -> bool {
        self.is_near() || self.pages.is_here(Range { start: page, bytes: PAGE_BYTES })
    }

    /// See [`PageSource::at_once`].
    pub(crate) fn at_once(&mut self, range: Range) -> Result<Option<&[u8]>, SourceError> {
        let kept = self.pages.beginning(range);
        match &mut self.source {
            Some(source) if kept.is_none() => source.at_once(range),
            _ => Ok(kept),
        }
    }

    /// See [`PageSource::begin`].
    pub(crate) fn begin(&mut self, token: u64, ranges: &[Range]) -> Result<(), SourceError> {
        let mut waited: Vec<u32> = Vec::new();
        let missing = if self.keeps { self.missing_of(ranges, &mut waited) } else { ranges.to_vec() };
        let mut waits = waited.len();
        for fetch in waited {
            if let Some(fetch) = &mut self.fetches[fetch as usize] {
                fetch.readers.push(token);
            }
        }
        if !missing.is_empty() {
            self.fetch(missing, vec![token], false)?;
            waits += 1;
        }
        if waits == 0 {
            self.ready.push_back(token);
        }
        self.reads.insert(token, Read { ranges: ranges.to_vec(), waits });
        Ok(())
    }

    /// See [`PageSource::answers`].
    pub(crate) fn answers(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
        self.serve(each)?;
        if let Some(mut source) = self.source.take() {
            let outcome = source.answers(&mut |fetch, bytes| self.take(fetch, bytes, each));
            self.source = Some(source);
            self.unless_independent(outcome)?;
        }
        self.serve(each)?;
        self.pull_on()
    }

    /// What a source says that is not needed any more is no loss, but the end of its seed.
    fn unless_independent(&mut self, outcome: Result<(), SourceError>) -> Result<(), SourceError> {
        let Err(error) = outcome else { return Ok(()) };
        if !self.is_independent.load(Ordering::Relaxed) {
            return Err(error);
        }
        let ends = match error {
            // Somebody wants it so.
            SourceError::Refused(Refusal::Ended(Ending::Revoked | Ending::Expired)) => None,
            _ => self.source.take().and_then(|source| source.lease_ends()),
        };
        let ends = ends.unwrap_or_else(Instant::now);
        let left = ends.saturating_duration_since(Instant::now());
        tracing::info!(%error, ?left, "a seed of which all pages are here has ended; how long it may have children");
        self.source = None;
        let _ = self.barren_from.set(ends);
        Ok(())
    }

    /// Which pages of the ranges nobody has asked for yet, and which fetches bring others. What is not the seed's is
    /// for the source to refuse.
    fn missing_of(&self, ranges: &[Range], waited: &mut Vec<u32>) -> Vec<Range> {
        let mut missing: Vec<Range> = Vec::new();
        for page in pages_of(ranges) {
            match self.pages.get(page) {
                Page::Zeros | Page::Kept(_) => {}
                Page::Coming(fetch) if waited.contains(&fetch) => {}
                Page::Coming(fetch) => waited.push(fetch),
                Page::Nowhere => match missing.last_mut() {
                    Some(last) if last.end() == page.start => last.bytes += PAGE_BYTES,
                    _ => missing.push(page),
                },
            }
        }
        missing
    }

    fn fetch(&mut self, ranges: Vec<Range>, readers: Vec<u64>, is_pull: bool) -> Result<(), SourceError> {
        // All that may be read is here, so this may not.
        let source = self.source.as_mut().filter(|_| !self.is_independent.load(Ordering::Relaxed));
        let source = source.ok_or(SourceError::Refused(Refusal::OutOfBounds))?;
        let Some(number) = self.fetches.iter().position(Option::is_none) else {
            let bytes = ranges.iter().map(|range| range.bytes).sum();
            return Err(SourceError::TooMuch { bytes, ranges: ranges.len(), reads: READS_MAX });
        };
        source.begin(number as u64, &ranges)?;
        if self.keeps {
            ranges.iter().for_each(|range| self.pages.note_coming(*range, number as u32));
        }
        self.fetches[number] = Some(Fetch { ranges, readers, is_pull });
        Ok(())
    }

    /// Takes what a fetch has brought, and gives it to who waits for nothing else.
    fn take(&mut self, number: u64, bytes: &[u8], each: &mut dyn FnMut(u64, &[u8])) {
        let Some(fetch) = self.fetches.get_mut(number as usize).and_then(Option::take) else { return };
        if self.keeps {
            self.pages.keep_all(&fetch.ranges, bytes);
        }
        for token in fetch.readers {
            let Some(read) = self.reads.get_mut(&token) else { continue };
            read.waits -= 1;
            if read.waits > 0 {
                continue;
            }
            if read.ranges == fetch.ranges {
                self.reads.remove(&token);
                each(token, bytes);
            } else {
                self.ready.push_back(token);
            }
        }
    }

    /// Gives the reads whose pages are here. One whose pages have gone again meanwhile begins anew.
    fn serve(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
        for _ in 0..self.ready.len() {
            let Some(token) = self.ready.pop_front() else { break };
            let Some(read) = self.reads.remove(&token) else { continue };
            if self.gather(&read.ranges) {
                each(token, &self.buffer);
            } else {
                self.begin(token, &read.ranges)?;
            }
        }
        Ok(())
    }

    fn gather(&mut self, ranges: &[Range]) -> bool {
        self.buffer.clear();
        for range in ranges {
            let mut rest = *range;
            while rest.bytes > 0 {
                let Some(bytes) = self.pages.beginning(rest) else { return false };
                self.buffer.extend_from_slice(bytes);
                rest = Range::new(rest.start + bytes.len() as u64, rest.end());
            }
        }
        true
    }

    /// Asks for more of what a pull is to bring, and lets the seed go when all of it is here.
    fn pull_on(&mut self) -> Result<(), SourceError> {
        let is_pull = |fetch: &&Fetch| fetch.is_pull;
        while let Some(at) = self.pull_at
            && self.source.is_some()
            && self.fetches.iter().flatten().filter(is_pull).count() < PULL_READS_MAX
        {
            let (missing, next) = self.pages.nowhere_from(at, PULL_READ_BYTES);
            if missing.is_empty() {
                if self.pages.coming() == 0 {
                    tracing::info!(bytes = self.pages.bytes(), "all pages of a seed are here; it is not needed more");
                    self.pull_at = None;
                    self.is_independent.store(true, Ordering::Relaxed);
                    let is_told = self.source.as_mut().map_or(Ok(false), |source| source.let_go());
                    if matches!(is_told, Ok(false)) {
                        self.source = None;
                    }
                    return self.unless_independent(is_told.map(drop));
                }
                return Ok(());
            }
            self.pull_at = Some(next);
            self.fetch(missing, Vec::new(), true)?;
        }
        Ok(())
    }
}

fn pages_of(ranges: &[Range]) -> impl Iterator<Item = Range> {
    let starts = ranges.iter().flat_map(|range| (range.start..range.end()).step_by(PAGE_BYTES as usize));
    starts.map(|start| Range { start, bytes: PAGE_BYTES })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use ramet_sys::ProcessMemory;

    use super::*;
    use crate::source::LocalSource;

    /// A source that seems to be far away: its answers come when they are let.
    struct Far {
        source: LocalSource,
        pages: Arc<AtomicU64>,
        always: std::os::fd::OwnedFd,
    }

    impl PageSource for Far {
        fn begin(&mut self, token: u64, ranges: &[Range]) -> Result<(), SourceError> {
            let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
            self.pages.fetch_add(bytes / PAGE_BYTES, Ordering::Relaxed);
            self.source.begin(token, ranges)
        }

        fn answers(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
            self.source.answers(each)
        }

        fn readiness(&self) -> Option<BorrowedFd<'_>> {
            Some(std::os::fd::AsFd::as_fd(&self.always))
        }

        fn take_learned(&mut self) -> Result<Learned, SourceError> {
            Ok(Learned::default())
        }

        fn teach(&mut self, _: &[Range]) -> Result<(), SourceError> {
            Ok(())
        }
    }

    /// Pages of this process, every third of them zeros, read as if they were far away.
    struct Memory {
        bytes: Vec<u8>,
        start: u64,
        pages: u64,
        asked: Arc<AtomicU64>,
    }

    impl Memory {
        fn of(pages: u64) -> Self {
            let mut bytes = vec![0; ((pages + 1) * PAGE_BYTES) as usize];
            let start = (bytes.as_ptr().addr() as u64).next_multiple_of(PAGE_BYTES);
            let first = (start - bytes.as_ptr().addr() as u64) as usize;
            for (index, page) in bytes[first..].chunks_exact_mut(PAGE_BYTES as usize).enumerate() {
                page.fill(if index % 3 == 0 { 0 } else { index as u8 });
            }
            Self { bytes, start, pages, asked: Arc::default() }
        }

        fn cache(&self) -> Cache {
            let this = std::process::id().cast_signed();
            assert!(ProcessMemory::open(this).is_ok());
            let always = rustix::event::eventfd(1, rustix::event::EventfdFlags::CLOEXEC).expect("a counter");
            let source = LocalSource::open(this).expect("this process");
            let far = Far { source, pages: Arc::clone(&self.asked), always };
            Cache::new(Box::new(far), Granted::of_range(self.range(0, self.pages)))
        }

        const fn range(&self, first: u64, count: u64) -> Range {
            Range { start: self.start + first * PAGE_BYTES, bytes: count * PAGE_BYTES }
        }

        fn content(&self, ranges: &[Range]) -> Vec<u8> {
            let at = |range: &Range| (range.start - self.bytes.as_ptr().addr() as u64) as usize;
            ranges.iter().flat_map(|range| &self.bytes[at(range)..][..range.bytes as usize]).copied().collect()
        }

        fn asked(&self) -> u64 {
            self.asked.load(Ordering::Relaxed)
        }
    }

    fn answers(cache: &mut Cache, count: usize) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        while all.len() < count {
            cache.answers(&mut |token, bytes| all.push((token, bytes.to_vec()))).expect("answers");
        }
        assert_eq!(all.len(), count);
        all.sort();
        all
    }

    #[test]
    fn a_page_is_asked_for_once() {
        let memory = Memory::of(64);
        let mut cache = memory.cache();
        let reads = [
            vec![memory.range(3, 4)],
            vec![memory.range(3, 4)],
            vec![memory.range(5, 8), memory.range(0, 1)],
            vec![memory.range(0, 1)],
            vec![memory.range(1, 1), memory.range(20, 1), memory.range(12, 1)],
        ];
        for (token, ranges) in (0..).zip(&reads) {
            cache.begin(token, ranges).expect("begun");
        }
        for (token, bytes) in answers(&mut cache, reads.len()) {
            assert!(bytes == memory.content(&reads[token as usize]), "read {token}");
        }
        assert_eq!(memory.asked(), 13);
        // And what is here is not asked for at all.
        cache.begin(7, &[memory.range(3, 10), memory.range(0, 2)]).expect("begun");
        assert!(cache.is_due());
        let all = answers(&mut cache, 1);
        assert!(all[0].1 == memory.content(&[memory.range(3, 10), memory.range(0, 2)]));
        assert_eq!(memory.asked(), 13);
    }

    #[test]
    fn what_came_first_goes_first_and_comes_again() {
        let memory = Memory::of(64);
        let mut cache = memory.cache();
        cache.pages = Pages::new(Granted::of_range(memory.range(0, 64)), 16 * PAGE_BYTES);
        for token in 0..4 {
            for part in 0..8 {
                let range = memory.range(part * 8, 8);
                cache.begin(token * 8 + part, &[range]).expect("begun");
                assert!(answers(&mut cache, 1)[0].1 == memory.content(&[range]));
                assert!(cache.pages.kept() <= 16);
            }
        }
        // Pages of zeros take no room: they stay.
        assert_eq!(memory.asked(), 64 + 3 * 42);
        // A read whose first part goes while it waits for its second.
        let parts = [memory.range(40, 8), memory.range(0, 4)];
        cache.begin(100, &parts).expect("begun");
        assert!(answers(&mut cache, 1)[0].1 == memory.content(&parts));
        // Each two that come again take the room of the next two.
        assert_eq!(memory.asked(), 64 + 3 * 42 + 2 + 6);
    }

    #[test]
    fn what_was_pulled_needs_no_seed() {
        let memory = Memory::of(500);
        let mut cache = memory.cache();
        let independent = cache.is_independent();
        cache.begin(1, &[memory.range(40, 3)]).expect("begun");
        cache.pull().expect("it fits");
        let mut all = Vec::new();
        while !independent.load(Ordering::Relaxed) {
            cache.answers(&mut |token, bytes| all.push((token, bytes.to_vec()))).expect("answers");
        }
        assert!(all == [(1, memory.content(&[memory.range(40, 3)]))]);
        assert!(cache.source.is_none());
        assert_eq!(memory.asked(), 500, "each once");
        for first in (0..500).step_by(25) {
            cache.begin(first, &[memory.range(first, 25)]).expect("begun");
            assert!(answers(&mut cache, 1)[0].1 == memory.content(&[memory.range(first, 25)]));
        }
        assert_eq!(memory.asked(), 500);
        assert!(cache.begin(9, &[memory.range(600, 1)]).is_err(), "what is not the seed's is nobody's");
    }

    #[test]
    fn what_is_too_large_is_not_pulled() {
        let memory = Memory::of(500);
        let mut cache = memory.cache();
        cache.pages = Pages::new(Granted::of_range(memory.range(0, 500)), 499 * PAGE_BYTES);
        assert_eq!(cache.pull(), Err(PullError::TooLarge { bytes: 500 * PAGE_BYTES }));
    }
}
