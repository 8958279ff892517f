//! How long this function's handlers take, which decides whether waking another thread is worth its price.

use std::time::Duration;

/// What waking a sleeping thread on another core costs, both ends together.
const WAKE_COST: Duration = Duration::from_micros(50);

/// A handler that may take longer than this gets no finished outcome to hold.
const SHORT: Duration = Duration::from_micros(20);

/// A moving average and a slowly forgotten maximum of handler times.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    typical_ns: u64,
    longest_ns: u64,
}

impl Pace {
    /// Nothing is known, so handlers are taken to be long: threads are woken, outcomes are not held.
    pub(super) fn unknown() -> Self {
        Self { typical_ns: 1_000_000, longest_ns: 1_000_000 }
    }

    /// Learns from one handler: the average over about eight of them, the maximum over about sixty.
    pub(super) fn took(&mut self, time: Duration) {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.typical_ns = self.typical_ns - self.typical_ns / 8 + time_ns / 8;
        self.longest_ns = time_ns.max(self.longest_ns - self.longest_ns / 64);
    }

    /// Whether `messages` of them take so long that another thread had better help.
    pub(super) fn is_worth_waking(&self, messages: usize) -> bool {
        let work_ns = self.typical_ns.saturating_mul(messages as u64);
        work_ns > u64::try_from(WAKE_COST.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether all recent handlers were so short that a finished outcome may wait for the next one.
    pub(super) fn is_short(&self) -> bool {
        self.longest_ns < u64::try_from(SHORT.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_handlers_run_where_they_are_and_one_long_one_is_remembered() {
        let mut pace = Pace::unknown();
        assert!(pace.is_worth_waking(1) && !pace.is_short());
        for _ in 0..400 {
            pace.took(Duration::from_micros(2));
        }
        assert!(!pace.is_worth_waking(1) && !pace.is_worth_waking(10) && pace.is_worth_waking(60));
        assert!(pace.is_short());
        pace.took(Duration::from_millis(1));
        for _ in 0..100 {
            pace.took(Duration::from_micros(2));
        }
        assert!(!pace.is_short(), "one in a hundred is too many to hold outcomes");
        assert!(!pace.is_worth_waking(1), "but most messages are short");
    }
}
