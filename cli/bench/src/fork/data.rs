//! What the measured process holds in memory: numbers that can be told without having them, so that every answer is
//! checked.

use std::ops::Range;

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
    fn stretches_differ_and_are_within_the_data() {
        let mut stretches = Stretches::of(4096);
        let (first, second) = (stretches.next(), stretches.next());
        assert_ne!(first, second);
        assert!((0..100).all(|_| stretches.next().end <= 4096));
    }
}
