//! What the machine can do at best: a word in shared memory for each process, with room for one message.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use ramet_shm::words::SharedWords;
use rustix::io::Errno;
use rustix::thread::futex;

use super::orders::Part;
use super::{Carrier, END, Token};

/// What who waits does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It looks and looks.
    Spinning,
    /// It sleeps at once.
    Sleeping,
}

pub(super) struct Word {
    words: SharedWords,
    own: usize,
    next: usize,
    waiting: Waiting,
    /// What the own word said last, and the next one. A message is another value: nothing has to be cleared, which
    /// would move the cache line once more.
    seen: u32,
    said: u32,
}

/// The last message of a round.
const LAST: u32 = u32::MAX;

impl Word {
    pub(super) fn new(part: &Part, fds: Vec<OwnedFd>, waiting: Waiting) -> anyhow::Result<Self> {
        let [memory] = <[OwnedFd; 1]>::try_from(fds).ok().context("the memory is needed")?;
        let words = SharedWords::map(memory.as_fd(), part.processes() as usize)?;
        let (own, next) = (part.number as usize, part.next_place() as usize);
        Ok(Self { words, own, next, waiting, seen: 0, said: 0 })
    }

    fn word(&self, number: usize) -> anyhow::Result<&AtomicU32> {
        self.words.word(number).context("there is no such word")
    }
}

impl Carrier for Word {
    fn send(&mut self, tokens: &[Token]) -> anyhow::Result<()> {
        self.said = match tokens {
            [END] => LAST,
            [0] => self.said.wrapping_add(1) % LAST,
            _ => bail!("a word has room for one message"),
        };
        let word = self.word(self.next)?;
        // Pairs with the load in `receive`.
        word.store(self.said, Ordering::Release);
        if self.waiting == Waiting::Sleeping {
            futex::wake(word, futex::Flags::empty(), 1).context("futex(FUTEX_WAKE) failed")?;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<Token>) -> anyhow::Result<()> {
        let word = self.word(self.own)?;
        self.seen = loop {
            // Pairs with the store in `send`.
            let message = word.load(Ordering::Acquire);
            if message != self.seen {
                break message;
            }
            match self.waiting {
                Waiting::Spinning => std::hint::spin_loop(),
                Waiting::Sleeping => match futex::wait(word, futex::Flags::empty(), self.seen, None) {
                    Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(errno) => return Err(errno).context("futex(FUTEX_WAIT) failed"),
                },
            }
        };
        into.push(if self.seen == LAST { END } else { 0 });
        Ok(())
    }
}
