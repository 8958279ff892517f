//! The timers of a process that send it signals (getitimer(2), timer_create(2), proc_pid_timers(5)). A fork has none of
//! them, so they are read while the process is stopped.

use libc::{SYS_getitimer, SYS_timer_gettime};
use ramet_sys::ProcessMemory;

use super::PrepareError;
use super::inject::Injection;
use crate::descriptor::{Expiry, MadeTimer, Spent, Thread, TimerClock, Timers};

/// `struct itimerval`, `struct itimerspec`: how often, and when next.
const ANSWER_BYTES: usize = 32;
const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

/// What the kernel lists of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    number: u32,
    signal: u32,
    value: u64,
    notification: u32,
    /// For which thread its signals are, in our numbers.
    thread: Option<i32>,
    clock: i32,
}

/// The timers of a process that was stopped.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// `ITIMER_REAL` and the two that follow.
    intervals: [Expiry; 3],
    made: Vec<(Listed, Expiry)>,
}

/// Has a thread of a process that was stopped ask for how long its timers will still run. The answers go to `room`,
/// where nobody can see them before it is as it was.
pub(super) fn ask(
    injection: &Injection<'_>,
    memory: &ProcessMemory,
    room: u64,
    listed: Vec<Listed>,
) -> Result<Asked, PrepareError> {
    let mut before = [0; ANSWER_BYTES];
    memory.read(room, &mut before)?;
    let asked = ask_each(listed, |number, timer, nanoseconds| {
        if injection.call(number, [timer, room, 0, 0, 0, 0])? != 0 {
            return Ok(Expiry::default());
        }
        let mut answer = [0; ANSWER_BYTES];
        memory.read(room, &mut answer)?;
        let word = |at: usize| answer[at * 8..at * 8 + 8].try_into().map_or(0, u64::from_ne_bytes);
        let time = |at: usize| [word(at), word(at + 1) * nanoseconds];
        Ok(Expiry { interval: time(0), next: time(2) })
    });
    memory.write(room, &before)?;
    asked
}

/// `expiry` makes a call about a timer, whose answer has a unit of so many nanoseconds.
fn ask_each(
    listed: Vec<Listed>,
    mut expiry: impl FnMut(libc::c_long, u64, u64) -> Result<Expiry, PrepareError>,
) -> Result<Asked, PrepareError> {
    let mut asked = Asked::default();
    for (timer, interval) in (0..).zip(&mut asked.intervals) {
        *interval = expiry(SYS_getitimer, timer, NANOSECONDS_PER_MICROSECOND)?;
    }
    for timer in listed {
        asked.made.push((timer, expiry(SYS_timer_gettime, timer.number.into(), 1)?));
    }
    Ok(asked)
}

/// Reads `/proc/PID/timers`. `None`: a timer is not understood.
pub(super) fn parse(text: &str) -> Option<Vec<Listed>> {
    let mut lines = text.lines();
    let mut timers = Vec::new();
    while let Some(first) = lines.next() {
        let mut value = |key| lines.next()?.strip_prefix(key)?.strip_prefix(": ");
        let number = first.strip_prefix("ID: ")?.parse().ok()?;
        let (signal, data) = value("signal")?.split_once('/')?;
        let (notification, whom) = value("notify")?.split_once('/')?;
        let notification = match notification {
            "signal" => libc::SIGEV_SIGNAL,
            "none" => libc::SIGEV_NONE,
            "thread" => libc::SIGEV_THREAD,
            _ => return None,
        };
        let thread = whom.strip_prefix("tid.").map(str::parse).transpose().ok()?;
        timers.push(Listed {
            number,
            signal: signal.parse().ok()?,
            value: u64::from_str_radix(data, 16).ok()?,
            notification: notification.cast_unsigned(),
            thread,
            clock: value("ClockID")?.parse().ok()?,
        });
    }
    timers.sort_unstable_by_key(|timer| timer.number);
    Some(timers)
}

impl Asked {
    /// Describes them. `ours` are the numbers of the threads here, in their order.
    pub(super) fn describe(self, pid: i32, ours: &[i32], threads: &[Thread]) -> Result<Timers, PrepareError> {
        let describe = |(listed, expiry): (Listed, Expiry)| {
            let Listed { number, signal, value, thread, .. } = listed;
            let index = |tid: i32| ours.iter().position(|known| *known == tid).map(|index| index as u32);
            // Nobody hears of a timer whose thread has ended.
            let (thread, notification) = match thread.map(index) {
                Some(None) => (None, libc::SIGEV_NONE.cast_unsigned()),
                thread => (thread.flatten(), listed.notification),
            };
            let clock = clock(listed.clock, thread, threads);
            let clock =
                clock.ok_or_else(|| PrepareError::unfit(pid, "it has a timer by a clock that is not its own"))?;
            Ok(MadeTimer { number, clock, notification, thread, signal, value, expiry })
        };
        let made = self.made.into_iter().map(describe).collect::<Result<_, PrepareError>>()?;
        Ok(Timers { intervals: self.intervals, made })
    }
}

/// What a clock's number means (the kernel's linux/posix-timers.h). Whose time it is is not always told: it is that of
/// the thread that made the timer, which makes such timers for itself.
fn clock(number: i32, thread: Option<u32>, threads: &[Thread]) -> Option<TimerClock> {
    const OF_A_THREAD: i32 = 4;
    let spent = match number & 3 {
        0 => Spent::Ticks,
        1 => Spent::OwnTicks,
        _ => Spent::Exactly,
    };
    match number {
        libc::CLOCK_PROCESS_CPUTIME_ID => Some(TimerClock::Process(Spent::Exactly)),
        libc::CLOCK_THREAD_CPUTIME_ID => Some(TimerClock::Thread(thread.unwrap_or(0), Spent::Exactly)),
        0.. => Some(TimerClock::Machine(number.cast_unsigned())),
        _ if number & 3 == 3 => None,
        _ if number & OF_A_THREAD == 0 => {
            let is_own = matches!(!(number >> 3), 0) || !(number >> 3) == threads[0].tid;
            is_own.then_some(TimerClock::Process(spent))
        }
        _ => {
            let index = match !(number >> 3) {
                0 => thread.unwrap_or(0),
                tid => threads.iter().position(|known| known.tid == tid)? as u32,
            };
            Some(TimerClock::Thread(index, spent))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_read_as_the_kernel_lists_them() {
        let text = "ID: 7\nsignal: 10/00007f0012345678\nnotify: thread/tid.123\nClockID: 1\n\
            ID: 2\nsignal: 0/0000000000000000\nnotify: none/pid.122\nClockID: -6\n";
        let timers = parse(text).expect("two timers");
        let first = Listed { number: 2, signal: 0, value: 0, notification: 1, thread: None, clock: -6 };
        assert_eq!(timers[0], first);
        let thread = Some(123);
        assert_eq!(
            timers[1],
            Listed { number: 7, signal: 10, value: 0x7f00_1234_5678, notification: 2, thread, clock: 1 }
        );
        assert_eq!(parse(""), Some(Vec::new()));
        assert_eq!(parse("ID: 1\nsignal: 10"), None);
    }
}
