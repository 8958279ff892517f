//! What the measured process holds in memory: numbers that can be told without having them, so that every answer is
//! checked.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The words of a process that has `bytes` of data.
pub(super) const fn words(bytes: u64) -> u64 {
    bytes / 8
}

/// 2⁶⁴ divided by the golden ratio: no two pages are alike, and none is zeros.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The process, for a Python that has numpy. It reads a request from its standard input and writes the answer, a
/// number and the end of a line, to its standard output. It ends with its input.
pub(super) const PROGRAM: &str = r"
import os, sys, time
import numpy
words = int(sys.argv[1])
data = numpy.arange(words, dtype=numpy.uint64)
data *= numpy.uint64(0x9e3779b97f4a7c15)

def answer(start, end):
    os.write(1, b'%d\n' % data[int(start):int(end)].sum())

def touch(first, count, places):
    places = (first + numpy.arange(count) * 3571) % places * 2048
    start = time.perf_counter_ns()
    total = data[places].sum()
    took = time.perf_counter_ns() - start
    os.write(1, b'%d %d\n' % (total, took))

def fork(work):
    start = time.perf_counter_ns()
    child = os.fork()
    took = time.perf_counter_ns() - start
    if child == 0:
        work()
        os._exit(0)
    os.waitpid(child, 0)
    return took

while True:
    request = os.read(0, 256).split()
    if not request:
        break
    if request[0] == b'sum':
        answer(request[1], request[2])
    elif request[0] == b'touch':
        touch(*map(int, request[1:]))
    elif request[0] == b'fork':
        os.write(1, b'%d\n' % fork(lambda: None))
    elif request[0] == b'fork-sum':
        fork(lambda: answer(request[1], request[2]))
";

/// What the sum of these words is, modulo 2⁶⁴.
pub(super) fn sum(words: &Range<u64>) -> u64 {
    let Range { start, end } = *words;
    let count = end - start;
    let pairs = u128::from(count) * u128::from(count.saturating_sub(1)) / 2;
    let indices = u128::from(start) * u128::from(count) + pairs;
    (indices as u64).wrapping_mul(FACTOR)
}

/// Stretches of data, each somewhere else, so that no answer is one that a page learned from another request gives.
#[derive(Debug)]
pub(super) struct Stretches {
    words: u64,
    state: u64,
}

impl Stretches {
    /// As many words as a page has.
    const WORDS: u64 = 512;

    pub(super) const fn of(words: u64) -> Self {
        Self { words, state: 0 }
    }

    /// SplitMix64 (Steele, Lea and Flood, OOPSLA'14).
    pub(super) const fn next(&mut self) -> Range<u64> {
        self.state = self.state.wrapping_add(FACTOR);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let start = (mixed ^ (mixed >> 31)) % (self.words - Self::WORDS);
        start..start + Self::WORDS
    }
}

/// The size of a page.
pub(super) const PAGE_BYTES: u64 = 4096;

/// Words in pages far from each other, in no order, so that each costs a fault of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Walk {
    first: u64,
    count: u64,
    /// Among so many places: a power of two.
    places: u64,
}

impl Walk {
    const COUNT_MAX: u64 = 2000;
    /// Odd, so that no place comes twice.
    const STEP: u64 = 3571;
    /// From one place to the next: some pages.
    const PLACE_WORDS: u64 = 2048;

    pub(super) fn of(words: u64, first: u64) -> Self {
        let places = 1 << (words / Self::PLACE_WORDS).max(1).ilog2();
        Self { first: first % places, count: places.min(Self::COUNT_MAX), places }
    }

    /// The same way, but a few steps of it.
    pub(super) fn begin(words: u64, first: u64) -> Self {
        let walk = Self::of(words, first);
        Self { count: walk.count.min(8), ..walk }
    }

    pub(super) const fn count(&self) -> u32 {
        self.count as u32
    }

    pub(super) fn words(&self) -> impl Iterator<Item = u64> {
        let Self { first, count, places } = *self;
        (0..count).map(move |step| (first + step * Self::STEP) % places * Self::PLACE_WORDS)
    }

    /// The word after the last that there may be.
    pub(super) const fn end(&self) -> u64 {
        self.places * Self::PLACE_WORDS
    }

    /// What the sum of the words is.
    pub(super) fn sum(&self) -> u64 {
        self.words().fold(0, |sum, word| sum.wrapping_add(word.wrapping_mul(FACTOR)))
    }
}

impl std::fmt::Display for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "touch {} {} {}", self.first, self.count, self.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_words() {
        for words in [0..0, 0..1, 7..8, 3..1000, 16_777_000..16_777_216] {
            let added = words.clone().fold(0_u64, |sum, word: u64| sum.wrapping_add(word.wrapping_mul(FACTOR)));
            assert_eq!(sum(&words), added, "{words:?}");
        }
    }

    #[test]
    fn a_walk_visits_each_place_once() {
        let walk = Walk::of(words(128 << 20), 77);
        let mut visited: Vec<u64> = walk.words().collect();
        visited.sort_unstable();
        visited.dedup();
        assert_eq!(visited.len() as u64, Walk::COUNT_MAX);
        assert!(visited.iter().all(|word| *word < walk.end() && walk.end() <= words(128 << 20)));
    }

    #[test]
    fn stretches_differ_and_are_within_the_data() {
        let mut stretches = Stretches::of(4096);
        let (first, second) = (stretches.next(), stretches.next());
        assert_ne!(first, second);
        assert!((0..100).all(|_| stretches.next().end <= 4096));
    }
}
