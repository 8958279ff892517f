//! Faults that come one soon after the other: the next is looked for without sleeping, on the core of who touches the
//! pages. To be woken, and to wake somebody elsewhere, takes several times as long as to give a page.
//!
//! It is looked for where the last came from, because to ask who of all children has one takes as long as to hear of
//! it. The others get their turn, too.
//!
//! Where somebody else has a use for the core, whoever gives it away gets it back a turn later, which takes
//! milliseconds; who sleeps and is woken gets it at once. So faults are then waited for asleep.

use std::thread;
use std::time::{Duration, Instant};

use ramet_sys::latency;

use crate::beside::Beside;

/// For so long after a fault the next is expected.
const EXPECTED: Duration = Duration::from_micros(50);
/// With so many in a row it is worth to go where they come from.
const FAULTS_MIN: u32 = 4;
/// After so many more it is looked anew where that is.
const FAULTS_BESIDE: u32 = 256;
/// So often it is looked at one child before it is looked at all.
const LOOKS_MAX: u32 = 16;

/// For so long it is not tried again after somebody else has had the core.
const REST: Duration = Duration::from_millis(20);
/// For so long others are given their way meanwhile.
const NAP: Duration = Duration::from_micros(50);

/// How the faults come.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// How many have come in a row.
    faults: u32,
    until: Option<Instant>,
    /// Whether one came since the clock was looked at.
    is_fresh: bool,
    /// Where the last came from.
    space: u64,
    /// How often it was looked there since it was looked at all.
    looks: u32,
    beside: Option<Beside>,
    /// Somebody else has a use for the core.
    rests_until: Option<Instant>,
}

impl Burst {
    /// Notes a fault of a thread, by the number that it has in its own namespace: where that is not ours the core is
    /// another one's, which is no worse than slower.
    pub(super) fn note(&mut self, space: u64, thread: u32) {
        self.is_fresh = true;
        if self.rests_until.is_some() {
            return;
        }
        self.faults += 1;
        self.space = space;
        if self.faults >= FAULTS_MIN && (self.faults - FAULTS_MIN).is_multiple_of(FAULTS_BESIDE) {
            // It goes back to where it may run before it goes elsewhere.
            self.beside = None;
            self.beside = i32::try_from(thread).ok().and_then(Beside::running);
        }
    }

    /// Whether another is expected at once.
    pub(super) fn goes_on(&mut self) -> bool {
        if std::mem::take(&mut self.is_fresh) {
            let now = Instant::now();
            self.rests_until = self.rests_until.filter(|until| now < *until);
            self.until = self.rests_until.is_none().then_some(now + EXPECTED);
            latency::keep_awake();
            return self.until.is_some();
        }
        let goes_on = self.until.is_some_and(|until| Instant::now() < until);
        if !goes_on && self.until.is_some() {
            *self = Self::default();
        }
        goes_on
    }

    /// Lets others do what the next fault comes from.
    pub(super) fn give_way(&mut self) {
        let begun = Instant::now();
        if self.rests_until.is_some_and(|until| begun < until) {
            // tidy: what is waited for tells nobody when it is over.
            thread::sleep(NAP);
            return;
        }
        rustix::thread::sched_yield();
        if begun.elapsed() > EXPECTED {
            *self = Self { rests_until: Some(Instant::now() + REST), ..Self::default() };
        }
    }

    /// The space to look at without looking at the others. None: it is their turn.
    pub(super) fn closely(&mut self) -> Option<u64> {
        self.looks = (self.looks + 1) % LOOKS_MAX;
        (self.looks > 0 && self.goes_on()).then_some(self.space)
    }
}
