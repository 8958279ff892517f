//! The one clock that processes of a node share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

const NANOSECONDS: u64 = 1_000_000_000;

/// Nanoseconds of `CLOCK_MONOTONIC`, the same in every process of this host.
#[must_use]
pub fn now_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    // Neither is below zero, and a host is not up for five hundred years.
    now.tv_sec().cast_unsigned().wrapping_mul(NANOSECONDS).wrapping_add(now.tv_nsec().cast_unsigned())
}

/// How long it is until `deadline_ns`; zero when it has passed.
#[must_use]
pub fn until(deadline_ns: u64) -> Duration {
    Duration::from_nanos(deadline_ns.saturating_sub(now_ns()))
}

/// When `time` from now will be.
#[must_use]
pub fn after(time: Duration) -> u64 {
    now_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
