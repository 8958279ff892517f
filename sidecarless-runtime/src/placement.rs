//! Whether instances run on the core of the gateway's thread that serves them: a pure function of what was seen.
//!
//! To wake a sleeper on another core costs its waker several times what it costs on the same one, and the sleeper waits
//! longer. So instances are together with the gateway's thread for as long as its core has room for all of them, or no
//! other core is idle, and have all cores otherwise. One that works long between two sleeps gains nothing and keeps the
//! others waiting, so it has all cores always.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ramet_common::InstanceId;
use ramet_manifest::{Cores, Placement};

/// Up to this share of a core, in thousandths, it is tried whether gateway and instances have room on one. Apart they
/// use up to two and a half times as much as together, because they wake each other's cores.
const ROOM: u128 = 1500;
/// From this share on they have not.
const FULL: u128 = 920;
/// From this share of the time on that the gateway's thread waits for its core, somebody else needs that core, too.
const DELAYED: u128 = 300;
/// From this much of a core on, a core is idle.
const IDLE_MIN: u128 = 500;
/// What is work for longer than this between two sleeps is long: about ten times what a wake-up costs.
const LONG: Duration = Duration::from_micros(200);
/// How long an instance must have done nothing long.
const SHORT_FOR: Duration = Duration::from_secs(3);
/// How long there must have been room.
const ROOM_FOR: Duration = Duration::from_millis(300);
/// How many looks in a row must have found it better to part.
const FULL_LOOKS: u32 = 2;
/// The pause after they parted; twice as long each time that being together did not last.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Being together lasted when it was this long.
const LASTING: Duration = Duration::from_secs(10);

/// Without requests for so long, all have all cores again: what a function does by itself needs no gateway.
const QUIET: Duration = Duration::from_secs(10);
/// The time between two looks while there are requests.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// What the looks may cost: one part in so many of a core.
const COST_SHARE: u32 = 1000;

/// The setting names cores that the node may not use.
#[derive(Debug, thiserror::Error)]
#[error("`placement` is \"pinned:{wanted}\", but the node may use the cores {own} only")]
pub struct PlacementError {
    wanted: Cores,
    own: Cores,
}

/// Whether a node that may use these cores can do what the setting says.
pub(crate) fn check(setting: &Placement, own: &Cores) -> Result<(), PlacementError> {
    match setting {
        Placement::Pinned(wanted) if wanted.iter().any(|core| !own.iter().any(|own| own == core)) => {
            Err(PlacementError { wanted: wanted.clone(), own: own.clone() })
        }
        _ => Ok(()),
    }
}

/// What threads have done since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    /// How long they ran.
    pub(crate) ran: Duration,
    /// How long they waited for a core.
    pub(crate) delayed: Duration,
    /// How often they went to sleep.
    pub(crate) sleeps: u64,
}

/// What a look shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) now: Instant,
    /// How long ago the last look was.
    pub(crate) period: Duration,
    /// All of the gateway's threads.
    pub(crate) gateway: Spent,
    /// The busiest of them.
    pub(crate) worker: Spent,
    /// Where that one ran last.
    pub(crate) core: usize,
    /// How long the cores that the node may use were idle, all together.
    pub(crate) idle: Duration,
    /// The instances that were seen before.
    pub(crate) instances: BTreeMap<InstanceId, Spent>,
}

/// Where instances are, and what was seen lately.
///
/// Apart → Together when there has been room for a while and no pause is on → Apart when there is none, or without
/// requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathering {
    together: Option<Together>,
    room_since: Option<Instant>,
    full_looks: u32,
    pause: Duration,
    paused_until: Option<Instant>,
    /// When instances were last seen to do something long.
    long: BTreeMap<InstanceId, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Together {
    core: usize,
    since: Instant,
}

impl Gathering {
    /// Takes in a look.
    pub(crate) fn look(&mut self, seen: &Seen) {
        self.look_for_long_work(seen);
        let short = seen.instances.iter().filter(|(id, _)| !self.long.contains_key(id));
        let ran: Duration = seen.gateway.ran + short.map(|(_, spent)| spent.ran).sum::<Duration>();
        let used = thousandths(ran, seen.period);
        let is_delayed = thousandths(seen.worker.delayed, seen.period) >= DELAYED;
        // Where no core is idle it is no better anywhere.
        let is_one_idle = thousandths(seen.idle, seen.period) >= IDLE_MIN;
        match self.together {
            None if used <= ROOM && !(is_delayed && is_one_idle) => self.has_room(seen),
            None => self.room_since = None,
            Some(together) if is_one_idle && (is_delayed || used >= FULL) => self.is_full(seen.now, together),
            Some(_) => self.full_looks = 0,
        }
    }

    fn look_for_long_work(&mut self, seen: &Seen) {
        self.long.retain(|id, last| seen.instances.contains_key(id) && seen.now - *last < SHORT_FOR);
        for (id, spent) in &seen.instances {
            let of_one = spent.ran.as_nanos() / u128::from(spent.sleeps.max(1));
            if of_one > LONG.as_nanos() {
                self.long.insert(*id, seen.now);
            }
        }
    }

    fn has_room(&mut self, seen: &Seen) {
        let since = *self.room_since.get_or_insert(seen.now);
        let is_paused = self.paused_until.is_some_and(|until| seen.now < until);
        if !is_paused && seen.now - since >= ROOM_FOR {
            self.together = Some(Together { core: seen.core, since: seen.now });
            self.full_looks = 0;
        }
    }

    fn is_full(&mut self, now: Instant, together: Together) {
        self.full_looks += 1;
        if self.full_looks < FULL_LOOKS {
            return;
        }
        let lasted = now - together.since >= LASTING;
        self.pause = if lasted { PAUSE } else { (self.pause * 2).clamp(PAUSE, PAUSE_MAX) };
        self.paused_until = Some(now + self.pause);
        self.part();
    }

    /// There are no requests any more.
    pub(crate) fn part(&mut self) {
        self.together = None;
        self.room_since = None;
    }

    /// The core on which the gateway's busiest thread is to stay, if any.
    pub(crate) fn core(&self) -> Option<usize> {
        self.together.map(|together| together.core)
    }

    /// Whether an instance that was looked at is to be there, too.
    pub(crate) fn is_together(&self, id: InstanceId) -> bool {
        self.together.is_some() && !self.long.contains_key(&id)
    }
}

/// When to look next, if requests were last heard of so long ago and a look took so long. `None`: when there are some
/// again.
pub(crate) fn next_look(quiet: Duration, took: Duration) -> Option<Duration> {
    (quiet < QUIET).then(|| TICK.max(quiet / 2).max(took * COST_SHARE))
}

fn thousandths(part: Duration, whole: Duration) -> u128 {
    part.as_nanos() * 1000 / whole.as_nanos().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InstanceId = InstanceId::new(1, 1);
    const B: InstanceId = InstanceId::new(2, 1);

    fn ran(thousandths: u32, sleeps: u64) -> Spent {
        Spent { ran: TICK * thousandths / 1000, delayed: Duration::ZERO, sleeps }
    }

    /// A gathering that is looked at once a tick.
    struct Watched {
        gathering: Gathering,
        now: Instant,
    }

    impl Watched {
        fn new() -> Self {
            Self { gathering: Gathering::default(), now: Instant::now() }
        }

        fn look(&mut self, change: impl Fn(&mut Seen)) {
            self.now += TICK;
            let mut seen = Seen {
                now: self.now,
                period: TICK,
                gateway: ran(100, 1000),
                worker: ran(100, 1000),
                core: 3,
                idle: TICK,
                instances: BTreeMap::from([(A, ran(50, 1000)), (B, ran(50, 1000))]),
            };
            change(&mut seen);
            self.gathering.look(&seen);
        }

        /// Looks until they are together, and says how long it took.
        fn until_together(&mut self) -> Duration {
            let before = self.now;
            while self.gathering.core().is_none() {
                self.look(|_| {});
                assert!(self.now - before <= 2 * PAUSE_MAX, "they stay apart");
            }
            self.now - before
        }

        /// Looks until they have parted.
        fn until_apart(&mut self, change: impl Fn(&mut Seen)) {
            for _ in 0..FULL_LOOKS {
                assert_eq!(self.gathering.core(), Some(3), "one look is not enough");
                self.look(&change);
            }
            assert_eq!(self.gathering.core(), None);
        }
    }

    fn full(seen: &mut Seen) {
        seen.gateway = ran(900, 1000);
    }

    #[test]
    fn they_are_together_while_one_core_has_room_for_all() {
        let mut watched = Watched::new();
        assert!(watched.until_together() >= ROOM_FOR);
        assert_eq!(watched.gathering.core(), Some(3), "where the gateway's thread is");
        assert!(watched.gathering.is_together(A) && watched.gathering.is_together(B));
        watched.look(|seen| seen.gateway = ran(780, 1000));
        assert!(watched.gathering.is_together(A), "it is not full yet");
        watched.until_apart(|seen| {
            seen.gateway = ran(400, 1000);
            seen.instances = BTreeMap::from([(A, ran(300, 9000)), (B, ran(300, 9000))]);
        });
        assert!(!watched.gathering.is_together(A));
        let mut busy = Watched::new();
        for _ in 0..100 {
            busy.look(|seen| seen.gateway = ran(1600, 1000));
        }
        assert_eq!(busy.gathering.core(), None, "one core can never do so much");
    }

    #[test]
    fn what_works_long_is_elsewhere_and_takes_no_room() {
        let mut watched = Watched::new();
        watched.until_together();
        let slow = |seen: &mut Seen| {
            // 5 ms each time.
            seen.instances.insert(B, ran(1000, 20));
        };
        watched.look(slow);
        assert!(watched.gathering.is_together(A) && !watched.gathering.is_together(B));
        for _ in 0..10 {
            watched.look(slow);
        }
        assert!(watched.gathering.is_together(A), "it has parted for what is elsewhere");
        let since = watched.now;
        while !watched.gathering.is_together(B) {
            watched.look(|_| {});
        }
        assert!(watched.now - since >= SHORT_FOR);
    }

    #[test]
    fn what_never_sleeps_works_long() {
        let mut watched = Watched::new();
        watched.until_together();
        watched.look(|seen| seen.instances.extend([(A, ran(200, 0))]));
        assert!(!watched.gathering.is_together(A));
        watched.look(|seen| seen.instances.extend([(B, ran(0, 0))]));
        assert!(watched.gathering.is_together(B), "what does nothing does nothing long");
    }

    #[test]
    fn they_part_where_somebody_else_needs_the_core_if_another_is_idle() {
        let mut watched = Watched::new();
        watched.until_together();
        let delayed = |seen: &mut Seen| seen.worker.delayed = TICK / 2;
        for _ in 0..10 {
            watched.look(|seen| {
                delayed(seen);
                seen.idle = TICK / 10;
            });
        }
        assert_eq!(watched.gathering.core(), Some(3), "it is no better anywhere");
        watched.until_apart(delayed);
    }

    #[test]
    fn they_stay_together_on_a_full_core_while_no_other_is_idle() {
        let mut watched = Watched::new();
        let busy = |seen: &mut Seen| {
            seen.gateway = ran(1000, 1000);
            seen.idle = TICK / 10;
        };
        for _ in 0..10 {
            watched.look(busy);
        }
        assert_eq!(watched.gathering.core(), Some(3), "they came together, and remained");
        watched.until_apart(full);
    }

    #[test]
    fn what_does_not_last_is_tried_ever_less_often() {
        let mut watched = Watched::new();
        watched.until_together();
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            watched.until_apart(full);
            let apart = watched.until_together();
            assert!(apart >= (last * 3 / 2).min(PAUSE_MAX), "{apart:?} after {last:?}");
            last = apart;
        }
        let together = watched.now;
        while watched.now - together < LASTING {
            watched.look(|_| {});
        }
        watched.until_apart(full);
        assert!(watched.until_together() <= PAUSE + TICK, "what lasted was no mistake");
    }

    #[test]
    fn without_requests_there_is_an_end_to_looking() {
        let at = Duration::from_secs;
        assert_eq!(next_look(at(0), Duration::ZERO), Some(TICK));
        assert_eq!(next_look(at(4), Duration::ZERO), Some(at(2)));
        assert_eq!(next_look(at(0), Duration::from_millis(5)), Some(at(5)), "what costs more is done less");
        assert_eq!(next_look(QUIET, Duration::ZERO), None);
    }
}
