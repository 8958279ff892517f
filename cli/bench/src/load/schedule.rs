//! When requests are due in an open loop: at fixed times, whether or not the ones before are answered.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;
use tokio::sync::Semaphore;

/// Requests that are due at a fixed rate. Whichever connection is free takes the next one; if none is, it waits, and
/// that time is part of its latency.
#[derive(Debug)]
pub(super) struct Schedule {
    per_s: u32,
    start: OnceLock<Instant>,
    /// As many permits as requests that are due and not taken.
    due: Semaphore,
    taken: AtomicU64,
}

impl Schedule {
    pub(super) fn new(per_s: u32) -> Self {
        Self { per_s, start: OnceLock::new(), due: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// Lets requests become due from now on, until what it returns is dropped.
    pub(super) fn keep(schedule: &Arc<Self>) -> Keeper {
        let is_over = Arc::new(AtomicBool::new(false));
        let (schedule, over) = (Arc::clone(schedule), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || schedule.release(&over));
        Keeper { is_over, thread: Some(thread) }
    }

    /// Waits for a request that is due, and says since when. Nothing: the round is over.
    pub(super) async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(*self.start.get()? + self.offset(number))
    }

    /// No further request is due.
    pub(super) fn end(&self) {
        self.due.close();
    }

    /// When the request with this number is due, from the start.
    fn offset(&self, number: u64) -> Duration {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_s);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// On a thread of its own, because the runtime's timers know milliseconds only.
    fn release(&self, is_over: &AtomicBool) {
        // Where it cannot be set, requests are released some 50 µs late at the most, which counts as latency.
        let _ = set_current_timer_slack(NonZero::new(1));
        let start = *self.start.get_or_init(Instant::now);
        let mut released = 0_u64;
        while !is_over.load(Ordering::Relaxed) {
            let elapsed = start.elapsed();
            let mut owed = 0;
            while self.offset(released + owed) <= elapsed {
                owed += 1;
            }
            self.due.add_permits(owed as usize);
            released += owed;
            std::thread::park_timeout(self.offset(released).saturating_sub(start.elapsed()));
        }
    }
}

/// Keeps a schedule.
#[derive(Debug)]
pub(super) struct Keeper {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_due_at_even_times_however_late_they_are_taken() {
        let schedule = Arc::new(Schedule::new(10_000));
        let keeper = Schedule::keep(&schedule);
        let first = schedule.next().await.unwrap();
        // tidy: all this time nobody is free, which is what is tested
        tokio::time::sleep(Duration::from_millis(20)).await;
        for number in 1..100 {
            assert_eq!(schedule.next().await.unwrap(), first + number * Duration::from_micros(100));
        }
        drop(keeper);
        schedule.end();
        assert_eq!(schedule.next().await, None);
    }

    #[tokio::test]
    async fn no_request_is_taken_before_it_is_due() {
        let schedule = Arc::new(Schedule::new(1000));
        let _keeper = Schedule::keep(&schedule);
        for _ in 0..20 {
            assert!(schedule.next().await.unwrap() <= Instant::now());
        }
    }
}
