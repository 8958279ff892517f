//! A process's clocks, and the timers that send it signals.

use serde::{Deserialize, Serialize};

/// A time in seconds and nanoseconds.
pub type Time = [u64; 2];

/// Clocks that count from the machine's start: `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields have the names of the clocks")]
pub struct Clocks {
    pub monotonic_ns: i64,
    pub boottime_ns: i64,
}

/// The timers of a process that are no open files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// Those of setitimer(2): by real time, by its own time, by its own and the kernel's for it.
    pub intervals: [Expiry; 3],
    /// Those of timer_create(2), by their numbers.
    pub made: Vec<MadeTimer>,
}

/// When a timer expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// How long after the fork. Zeros: never.
    pub next: Time,
    /// How often after that. Zeros: never.
    pub interval: Time,
}

/// A timer that was made (timer_create(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeTimer {
    /// Its number, by which the process knows it.
    pub number: u32,
    /// By what it goes.
    pub clock: TimerClock,
    /// `SIGEV_…`, without the thread.
    pub notification: u32,
    /// The thread that its signals are for: index into `threads`. None: any.
    pub thread: Option<u32>,
    /// Which signal it sends.
    pub signal: u32,
    /// What it says with it.
    pub value: u64,
    /// When.
    pub expiry: Expiry,
}

/// What a timer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimerClock {
    /// One of the machine's: `CLOCK_…`
    Machine(u32),
    /// The time that the process has run.
    Process(Spent),
    /// The time that one thread has: index into `threads`.
    Thread(u32, Spent),
}

/// What time counts as spent by a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spent {
    /// Its own and the kernel's for it, as counted by ticks.
    Ticks,
    /// Its own, as counted by ticks.
    OwnTicks,
    /// Both, exactly: what clock_gettime(2) calls CPU time.
    Exactly,
}
