//! Faults that come one soon after the other: the next is looked for without sleeping, on the core of who touches the
//! pages. To be woken, and to wake somebody elsewhere, takes several times as long as to give a page.

use std::time::{Duration, Instant};

use crate::beside::Beside;

/// For so long after a fault the next is expected.
const EXPECTED: Duration = Duration::from_micros(50);
/// With so many in a row it is worth to go where they come from.
const FAULTS_MIN: u32 = 4;
/// After so many more it is looked anew where that is.
const FAULTS_BESIDE: u32 = 256;

/// How the faults come.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// How many have come in a row.
    faults: u32,
    until: Option<Instant>,
    beside: Option<Beside>,
}

impl Burst {
    /// Notes a fault of a thread, by the number that it has in its own namespace: where that is not ours the core is
    /// another one's, which is no worse than slower.
    pub(super) fn note(&mut self, thread: u32) {
        self.faults += 1;
        if self.faults >= FAULTS_MIN && (self.faults - FAULTS_MIN).is_multiple_of(FAULTS_BESIDE) {
            // It goes back to where it may run before it goes elsewhere.
            self.beside = None;
            self.beside = i32::try_from(thread).ok().and_then(Beside::running);
        }
        self.until = Some(Instant::now() + EXPECTED);
    }

    /// Whether another is expected at once.
    pub(super) fn goes_on(&mut self) -> bool {
        let goes_on = self.until.is_some_and(|until| Instant::now() < until);
        if !goes_on && self.until.is_some() {
            *self = Self::default();
        }
        goes_on
    }
}
