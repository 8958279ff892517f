//! The one clock that processes of a node share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, the same in every process of this host.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
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
