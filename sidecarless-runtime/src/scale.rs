//! How many instances a function needs: a pure function of what was seen, and when.
//!
//! More at once, as soon as instances hold more messages than they serve at a time; fewer only after fewer have been
//! enough for a while, and no more than half at a time.

use std::time::Instant;

use ramet_manifest::Replicas;

/// How many times as many instances there may be a moment later.
const GROWTH_MAX: u32 = 4;

/// How many instances are wanted, and what was seen lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scale {
    /// None: as few as there may be.
    wanted: Option<u32>,
    /// Since when fewer have been enough, and how many were at most.
    quiet: Option<(Instant, u32)>,
}

/// What a look at a function's instances shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// The messages that its instances hold, in service and waiting.
    pub(crate) held: u32,
    /// How many messages an instance serves at a time.
    pub(crate) concurrency: u32,
}

impl Scale {
    /// How many instances there are to be.
    pub(crate) fn wanted(&self, limits: &Replicas) -> u32 {
        self.wanted.unwrap_or(limits.min).clamp(limits.min, limits.max)
    }

    /// Takes in a look. True: another number is wanted now.
    pub(crate) fn look(&mut self, now: Instant, load: Load, limits: &Replicas) -> bool {
        let wanted = self.wanted(limits);
        let needed = load.held.div_ceil(load.concurrency.max(1)).clamp(limits.min, limits.max);
        if needed >= wanted {
            self.quiet = None;
            self.wanted = Some(needed.min(wanted.saturating_mul(GROWTH_MAX)));
            return needed > wanted;
        }
        let (since, most) = self.quiet.unwrap_or((now, needed));
        let most = most.max(needed);
        if now.saturating_duration_since(since) < limits.idle {
            self.quiet = Some((since, most));
            return false;
        }
        self.quiet = Some((now, needed));
        self.wanted = Some(most.max(wanted / 2).max(limits.min));
        true
    }

    /// Whether nothing is held and nothing is to become less, so that there is little to see.
    pub(crate) fn is_at_rest(&self, load: Load, limits: &Replicas) -> bool {
        load.held == 0 && self.wanted(limits) == limits.min
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const IDLE: Duration = Duration::from_secs(10);
    const LIMITS: Replicas = Replicas { min: 1, max: 8, idle: IDLE };

    fn load(held: u32) -> Load {
        Load { held, concurrency: 2 }
    }

    #[test]
    fn work_that_waits_makes_more_at_once_and_never_more_than_allowed() {
        let (mut scale, now) = (Scale::default(), Instant::now());
        assert!(!scale.look(now, load(2), &LIMITS), "one instance serves two");
        assert_eq!(scale.wanted(&LIMITS), 1);
        assert!(scale.look(now, load(3), &LIMITS));
        assert_eq!(scale.wanted(&LIMITS), 2);
        assert!(scale.look(now, load(1000), &LIMITS));
        assert_eq!(scale.wanted(&LIMITS), 8);
        assert!(!scale.look(now, load(1000), &LIMITS));
        let mut scale = Scale::default();
        let many = Replicas { max: 64, ..LIMITS };
        assert!(scale.look(now, load(1000), &many));
        assert_eq!(scale.wanted(&many), GROWTH_MAX, "not all from the first look");
        assert!(scale.look(now, load(1000), &many));
        assert_eq!(scale.wanted(&many), GROWTH_MAX * GROWTH_MAX);
    }

    #[test]
    fn fewer_must_be_enough_for_a_while_and_half_is_the_least() {
        let (mut scale, start) = (Scale::default(), Instant::now());
        scale.look(start, load(16), &LIMITS);
        scale.look(start, load(16), &LIMITS);
        assert_eq!(scale.wanted(&LIMITS), 8);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!scale.look(at(1), load(0), &LIMITS));
        assert!(!scale.look(at(10), load(10), &LIMITS), "a peak within the while counts");
        assert!(scale.look(at(11), load(0), &LIMITS));
        assert_eq!(scale.wanted(&LIMITS), 5);
        assert!(!scale.look(at(20), load(0), &LIMITS));
        assert!(scale.look(at(21), load(0), &LIMITS));
        assert_eq!(scale.wanted(&LIMITS), 2);
        assert!(!scale.look(at(22), load(4), &LIMITS), "all are needed again");
        assert!(!scale.look(at(31), load(0), &LIMITS), "so the while begins anew");
        assert!(!scale.look(at(40), load(0), &LIMITS));
        assert!(scale.look(at(41), load(0), &LIMITS));
        assert_eq!(scale.wanted(&LIMITS), 1);
        assert!(!scale.look(at(99), load(0), &LIMITS));
        assert!(scale.is_at_rest(load(0), &LIMITS) && !scale.is_at_rest(load(1), &LIMITS));
    }

    #[test]
    fn other_limits_hold_at_once() {
        let (mut scale, now) = (Scale::default(), Instant::now());
        scale.look(now, load(16), &LIMITS);
        assert_eq!(scale.wanted(&Replicas::fixed(3)), 3);
        assert_eq!(scale.wanted(&Replicas { min: 6, ..LIMITS }), 6);
    }
}
