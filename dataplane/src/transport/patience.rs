//! How long a waiting reader looks before it sleeps: only as long as looking has paid lately.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Whether a reader of rings looks at them before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BusyPoll {
    /// It sleeps at once.
    Never,
    /// It looks for as long as that has paid lately.
    Adaptive,
    /// It never sleeps, and lets others run between two looks.
    Always,
}

/// Learns from how long the last waits were.
#[derive(Clone, Debug)]
pub struct Patience {
    longest: Duration,
    typical_ns: u64,
}

impl Patience {
    /// How often a reader looks between two yields.
    pub const LOOKS: u32 = 20;

    /// What a reader of rings is told.
    #[must_use]
    pub fn of(busy_poll: BusyPoll) -> Self {
        match busy_poll {
            BusyPoll::Never => Self::none(),
            BusyPoll::Adaptive => Self::adaptive(),
            BusyPoll::Always => Self { longest: Duration::MAX, typical_ns: 0 },
        }
    }

    /// Never looks more than once: for readers that must not use the CPU while they wait.
    #[must_use]
    pub fn none() -> Self {
        Self { longest: Duration::ZERO, typical_ns: u64::MAX }
    }

    /// Looks for at most 50 µs, which is what two wake-ups of a sleeper on another core cost.
    #[must_use]
    pub fn adaptive() -> Self {
        Self { longest: Duration::from_micros(50), typical_ns: u64::MAX }
    }

    /// Whether it ever pays to look; if not, there is no need to measure waits either.
    #[must_use]
    pub fn is_worth_a_look(&self) -> bool {
        self.longest > Duration::ZERO
    }

    /// Whether it looks for as long as nothing comes.
    #[must_use]
    pub fn never_sleeps(&self) -> bool {
        self.longest == Duration::MAX
    }

    /// Whether to go on looking is pointless here: this thread may run on one core only. Whoever is to send probably
    /// shares that core, and gets on soonest when it is left to them. A system call, so not for the first look.
    #[must_use]
    pub fn is_pointless_here(&self) -> bool {
        !self.never_sleeps() && has_one_core()
    }

    /// How long to look now. Waits that are typically longer than four times the limit are not worth a look.
    #[must_use]
    pub fn budget(&self) -> Duration {
        let worth = u64::try_from(self.longest.as_nanos()).unwrap_or(u64::MAX).saturating_mul(4);
        if self.typical_ns <= worth { self.longest } else { Duration::ZERO }
    }

    /// Learns from a wait: a moving average over about eight of them, which one long wait does not upset.
    pub fn waited(&mut self, wait: Duration) {
        const CAP_NS: u64 = 2_000_000;
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(CAP_NS).min(CAP_NS);
        let typical_ns = self.typical_ns.min(CAP_NS);
        self.typical_ns = typical_ns - typical_ns / 8 + wait_ns / 8;
    }
}

fn has_one_core() -> bool {
    let Ok(cores) = sched_getaffinity(Pid::from_raw(0)) else { return false };
    (0..CpuSet::count()).filter(|core| cores.is_set(*core) == Ok(true)).take(2).count() == 1
}

#[cfg(test)]
mod tests {
    use nix::sched::sched_setaffinity;

    use super::*;

    #[test]
    fn short_waits_earn_patience_and_long_ones_lose_it() {
        let mut patience = Patience::adaptive();
        assert_eq!(patience.budget(), Duration::ZERO, "nothing is known yet");
        for _ in 0..64 {
            patience.waited(Duration::from_micros(20));
        }
        assert_eq!(patience.budget(), Duration::from_micros(50));
        for _ in 0..8 {
            patience.waited(Duration::from_secs(1));
        }
        assert_eq!(patience.budget(), Duration::ZERO);
    }

    #[test]
    fn never_is_never_and_always_is_always() {
        let (mut never, mut always) = (Patience::of(BusyPoll::Never), Patience::of(BusyPoll::Always));
        assert_eq!(always.budget(), Duration::MAX, "also at first");
        for _ in 0..64 {
            never.waited(Duration::ZERO);
            always.waited(Duration::from_secs(3600));
        }
        assert_eq!(never.budget(), Duration::ZERO);
        assert_eq!(always.budget(), Duration::MAX);
    }

    #[test]
    fn on_a_single_core_only_who_never_sleeps_goes_on_looking() {
        let all = sched_getaffinity(Pid::from_raw(0)).expect("where this thread may run");
        let first = (0..CpuSet::count()).find(|core| all.is_set(*core) == Ok(true)).expect("a core");
        let mut one = CpuSet::new();
        one.set(first).expect("it is one");
        sched_setaffinity(Pid::from_raw(0), &one).expect("this thread may run there");
        assert!(Patience::adaptive().is_pointless_here());
        assert!(!Patience::of(BusyPoll::Always).is_pointless_here());
        sched_setaffinity(Pid::from_raw(0), &all).expect("it may run everywhere again");
        let cores = (0..CpuSet::count()).filter(|core| all.is_set(*core) == Ok(true)).count();
        assert_eq!(Patience::adaptive().is_pointless_here(), cores == 1);
    }
}
