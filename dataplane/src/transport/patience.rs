//! How long a waiting reader looks before it sleeps: only as long as looking has paid lately.
//!
//! A message that is found soon saves two wake-ups, which cost about as much as the longest look: so looks pay as long
//! as at least every other one finds something. [`Patience`] has *credit* for a few in vain, which those that find
//! something restore. Without credit it sleeps at once.
//!
//! A sleeper does not learn how soon messages would come if nobody slept: on a way of several sleepers each waits for
//! the wake-ups of all others. So whoever has messages often looks again in a *trial*, and longer than usual, because
//! others must first wake up for the last time. Trials are at the same times for all readers of a host, since one that
//! looks alone would learn nothing. A sixty-fourth of the time is in trials, and a look may last a little longer than
//! the trial: so what a sleeper spends on looks that find nothing is at most two hundredths of a core, nothing while
//! its messages come further apart than a trial's look lasts, and nothing while it has none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;

/// Two wake-ups of a sleeper on another core cost about as much.
const LONGEST: Duration = Duration::from_micros(50);
/// How long a look in a trial lasts at most: as long as it takes to wake five others, one after the other.
const LONGEST_IN_TRIAL: Duration = Duration::from_micros(200);
/// Of each period of the clock that all processes share the beginning is a trial.
const PERIOD_NS: u64 = 1 << 26;
const TRIAL_NS: u64 = PERIOD_NS >> 6;
/// How many looks in vain a reader has credit for at the most.
const CREDIT_MAX: u32 = 16;
/// How often a reader looks between two yields.
pub const LOOKS: u32 = 20;

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

/// Learns from what looks have brought.
///
/// Looking (credit) → sleeping when the credit is used up → looking when a look in a trial finds something soon.
#[derive(Clone, Debug)]
pub struct Patience {
    busy_poll: BusyPoll,
    credit: u32,
    /// How long the last message was waited for.
    last_wait: Duration,
}

/// What a while of looking has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Something is there.
    Found {
        /// When nothing was there, if it took so long that the time was asked for.
        empty_ns: Option<u64>,
    },
    /// Nothing was there all the time.
    InVain {
        /// When the wait began.
        since_ns: u64,
        /// When nothing was there.
        empty_ns: u64,
    },
}

impl Patience {
    /// What a reader of rings is told.
    #[must_use]
    pub const fn of(busy_poll: BusyPoll) -> Self {
        Self { busy_poll, credit: CREDIT_MAX, last_wait: Duration::MAX }
    }

    /// Never looks more than once: for readers that must not use the CPU while they wait.
    #[must_use]
    pub const fn none() -> Self {
        Self::of(BusyPoll::Never)
    }

    /// Looks as long as that pays.
    #[must_use]
    pub const fn adaptive() -> Self {
        Self::of(BusyPoll::Adaptive)
    }

    /// Whether it ever looks; if not, there is no need to measure waits either.
    #[must_use]
    pub fn ever_looks(&self) -> bool {
        self.busy_poll != BusyPoll::Never
    }

    /// Whether it looks for as long as nothing comes.
    #[must_use]
    pub fn never_sleeps(&self) -> bool {
        self.busy_poll == BusyPoll::Always
    }

    /// How long to look in a wait that begins now.
    #[must_use]
    pub fn budget(&self, now_ns: u64) -> Duration {
        // What it waited asleep includes its own wake-up.
        let is_trial = now_ns % PERIOD_NS < TRIAL_NS && self.last_wait <= LONGEST_IN_TRIAL + LONGEST;
        match self.busy_poll {
            BusyPoll::Never => Duration::ZERO,
            BusyPoll::Always => Duration::MAX,
            BusyPoll::Adaptive if is_trial => LONGEST_IN_TRIAL,
            BusyPoll::Adaptive if self.credit > 0 => LONGEST,
            BusyPoll::Adaptive => Duration::ZERO,
        }
    }

    /// Learns that something was there when it had looked so long.
    pub fn found(&mut self, after: Duration) {
        self.last_wait = after;
        if after <= LONGEST {
            self.credit = (self.credit + 1).min(CREDIT_MAX);
        } else {
            self.pay(after);
        }
    }

    /// Learns that nothing was there all the time that it looked.
    pub fn looked_in_vain(&mut self, looked: Duration) {
        self.pay(looked);
    }

    /// Learns how long it had waited when it was woken.
    pub fn slept(&mut self, wait: Duration) {
        self.last_wait = wait;
    }

    /// Who let others run and got the core back late pays for all that time: looking is no way to wait on such a core.
    fn pay(&mut self, looked: Duration) {
        let looks = looked.as_nanos() / LONGEST.as_nanos();
        self.credit = self.credit.saturating_sub(u32::try_from(looks).unwrap_or(u32::MAX).max(1));
    }

    /// Looks until something is there, it is `deadline_ns`, or that pays no more, and lets others run in between. The
    /// time is not asked for before that is worth it, because it costs as much as to look.
    pub fn look(&mut self, deadline_ns: u64, mut is_there: impl FnMut() -> bool) -> Looked {
        if self.ever_looks() && (self.credit > 0 || self.never_sleeps()) && look_a_while(&mut is_there) {
            self.found(Duration::ZERO);
            return Looked::Found { empty_ns: None };
        }
        let since_ns = clock::now_ns();
        let budget_ns = u64::try_from(self.budget(since_ns).as_nanos()).unwrap_or(u64::MAX);
        let until_ns = since_ns.saturating_add(budget_ns).min(deadline_ns);
        let mut now_ns = since_ns;
        while now_ns < until_ns {
            std::thread::yield_now();
            let empty_ns = now_ns;
            let is_found = look_a_while(&mut is_there);
            now_ns = clock::now_ns();
            if is_found {
                self.found(Duration::from_nanos(now_ns - since_ns));
                return Looked::Found { empty_ns: Some(empty_ns) };
            }
        }
        // A look that was cut short by the deadline says nothing.
        if now_ns > since_ns && now_ns - since_ns >= budget_ns {
            self.looked_in_vain(Duration::from_nanos(now_ns - since_ns));
        }
        Looked::InVain { since_ns, empty_ns: now_ns }
    }
}

/// Looks a few times in a row.
fn look_a_while(mut is_there: impl FnMut() -> bool) -> bool {
    (0..LOOKS).any(|_| {
        let is_found = is_there();
        if !is_found {
            std::hint::spin_loop();
        }
        is_found
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    use super::*;

    const WAKE_NS: u64 = 35_000;
    const HOP_NS: u64 = 300;

    /// A reader, and when it began to wait.
    struct Reader {
        patience: Patience,
        since_ns: u64,
        looked_in_vain_ns: u64,
        sleeps: u64,
    }

    impl Reader {
        fn new(patience: Patience) -> Self {
            Self { patience, since_ns: 0, looked_in_vain_ns: 0, sleeps: 0 }
        }

        /// A message comes at a time. Returns when it is taken.
        fn take(&mut self, came_ns: u64) -> u64 {
            let budget = self.patience.budget(self.since_ns);
            let wait = Duration::from_nanos(came_ns.saturating_sub(self.since_ns));
            if wait <= budget {
                self.patience.found(wait);
                return came_ns.max(self.since_ns);
            }
            if !budget.is_zero() {
                self.patience.looked_in_vain(budget);
                self.looked_in_vain_ns += u64::try_from(budget.as_nanos()).expect("short");
            }
            self.sleeps += 1;
            self.patience.slept(wait + Duration::from_nanos(WAKE_NS));
            came_ns + WAKE_NS
        }
    }

    /// As after many waits that were too long.
    fn asleep() -> Patience {
        let mut patience = Patience::adaptive();
        (0..CREDIT_MAX).for_each(|_| patience.looked_in_vain(LONGEST));
        assert_eq!(patience.budget(TRIAL_NS), Duration::ZERO);
        patience
    }

    /// What readers have spent on messages that come at these times.
    fn reads(mut patience: Patience, start_ns: u64, gaps_ns: impl Iterator<Item = u64>) -> (Reader, u64) {
        patience.slept(Duration::MAX);
        let mut reader = Reader { since_ns: start_ns, ..Reader::new(patience) };
        let mut came_ns = start_ns;
        for gap_ns in gaps_ns {
            came_ns += gap_ns;
            reader.since_ns = reader.take(came_ns).max(reader.since_ns);
        }
        (reader, came_ns - start_ns)
    }

    #[test]
    fn readers_that_all_sleep_and_pass_a_message_round_find_back_to_looking() {
        for count in 2..=6 {
            let mut readers: Vec<Reader> = (0..count).map(|_| Reader::new(asleep())).collect();
            let mut now_ns = TRIAL_NS;
            let mut go_round = |until_ns: u64| {
                let before: u64 = readers.iter().map(|reader| reader.sleeps).sum();
                while now_ns < until_ns {
                    for reader in &mut readers {
                        now_ns = reader.take(now_ns + HOP_NS);
                        reader.since_ns = now_ns;
                    }
                }
                readers.iter().map(|reader| reader.sleeps).sum::<u64>() - before
            };
            assert!(go_round(PERIOD_NS) > 1000, "they sleep until the first trial");
            go_round(PERIOD_NS + TRIAL_NS);
            assert_eq!(go_round(4 * PERIOD_NS), 0, "{count} readers sleep although nobody would have to");
        }
    }

    #[test]
    fn a_reader_whose_messages_come_seldom_looks_only_while_it_has_credit() {
        for gap_us in [251, 1000, 30_000, 1_000_000] {
            let gaps_ns = std::iter::repeat_n(gap_us * 1000, 10_000);
            let (reader, _) = reads(Patience::adaptive(), 0, gaps_ns.clone());
            assert_eq!(reader.looked_in_vain_ns, u64::from(CREDIT_MAX) * 50_000, "{gap_us} us apart");
            let (reader, _) = reads(asleep(), 0, gaps_ns);
            assert_eq!((reader.looked_in_vain_ns, reader.sleeps), (0, 10_000), "{gap_us} us apart");
        }
    }

    #[test]
    fn looks_in_vain_cost_two_hundredths_of_a_core_and_what_those_that_found_something_saved() {
        for mean_us in [40, 60, 80, 100, 150, 200, 300, 1000] {
            // Evenly from nothing to twice the mean: which part comes soon enough is known.
            let mut bits = 1u64;
            let gaps_ns = (0..200_000).map(|_| {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (bits >> 33) % (2 * mean_us * 1000)
            });
            let soon = Cell::new(0);
            let counted = gaps_ns.inspect(|gap_ns| soon.set(soon.get() + u64::from(*gap_ns <= 50_000)));
            let (reader, elapsed_ns) = reads(asleep(), 0, counted);
            let saved_ns = 50_000 * soon.get();
            assert!(
                reader.looked_in_vain_ns <= elapsed_ns / 50 + saved_ns,
                "{mean_us} us apart: {} of {elapsed_ns} ns",
                reader.looked_in_vain_ns
            );
        }
        for gap_us in 51..=250 {
            let (reader, elapsed_ns) = reads(asleep(), 0, std::iter::repeat_n(gap_us * 1000, 100_000));
            assert!(reader.looked_in_vain_ns <= elapsed_ns / 50, "{gap_us} us apart: {}", reader.looked_in_vain_ns);
        }
    }

    #[test]
    fn a_look_that_finds_something_in_a_trial_counts_at_once() {
        let mut patience = asleep();
        patience.slept(Duration::from_micros(70));
        assert_eq!(patience.budget(PERIOD_NS), LONGEST_IN_TRIAL);
        patience.found(Duration::from_micros(35));
        assert_eq!(patience.budget(PERIOD_NS + TRIAL_NS), LONGEST);
    }

    #[test]
    fn a_long_pause_costs_a_look_and_a_core_that_others_need_costs_all_credit() {
        let mut patience = Patience::adaptive();
        patience.looked_in_vain(LONGEST);
        patience.slept(Duration::from_secs(3600));
        assert_eq!(patience.budget(TRIAL_NS), LONGEST);
        patience.found(Duration::from_millis(3));
        assert_eq!(patience.budget(TRIAL_NS), Duration::ZERO, "it got the core back after 3 ms");
    }

    #[test]
    fn never_is_never_and_always_is_always() {
        let (mut never, mut always) = (Patience::of(BusyPoll::Never), Patience::of(BusyPoll::Always));
        assert_eq!(always.budget(TRIAL_NS), Duration::MAX, "also at first");
        for _ in 0..64 {
            never.found(Duration::ZERO);
            always.looked_in_vain(Duration::from_secs(3600));
        }
        assert_eq!([0, TRIAL_NS].map(|now_ns| never.budget(now_ns)), [Duration::ZERO; 2]);
        assert_eq!(always.budget(TRIAL_NS), Duration::MAX);
    }

    #[test]
    fn looking_ends_when_something_is_there_or_the_time_is_over_and_not_before() {
        let looks = Cell::new(0);
        let after = |count| {
            looks.set(0);
            move |looks: &Cell<u32>| looks.replace(looks.get() + 1) >= count
        };
        let mut always = Patience::of(BusyPoll::Always);
        for (count, is_timed) in [(0, false), (LOOKS - 1, false), (LOOKS, true), (10 * LOOKS, true)] {
            let is_there = after(count);
            let Looked::Found { empty_ns } = always.look(u64::MAX, || is_there(&looks)) else { panic!("{count}") };
            assert_eq!((looks.get(), empty_ns.is_some()), (count + 1, is_timed));
        }
        let deadline_ns = clock::after(Duration::from_micros(300));
        assert!(
            matches!(always.look(deadline_ns, || false), Looked::InVain { empty_ns, .. } if empty_ns >= deadline_ns)
        );
        let is_there = after(1);
        assert!(matches!(Patience::none().look(u64::MAX, || is_there(&looks)), Looked::InVain { .. }));
        assert_eq!(looks.get(), 0, "it sleeps at once");
    }

    /// Of two on one core neither gets on before it is let run, so who looks must not keep it from that.
    #[test]
    fn who_looks_lets_others_have_the_core_soon() {
        const MESSAGES: u32 = 2000;
        let cores = sched_getaffinity(Pid::from_raw(0)).expect("where this thread may run");
        let first = (0..CpuSet::count()).find(|core| cores.is_set(*core) == Ok(true)).expect("a core");
        let mut one = CpuSet::new();
        one.set(first).expect("it is one");
        let word = AtomicU32::new(0);
        let take_turns = |own: u32| {
            sched_setaffinity(Pid::from_raw(0), &one).expect("this thread may run there");
            let (mut always, looks) = (Patience::of(BusyPoll::Always), Cell::new(0u64));
            for turn in (own..MESSAGES).step_by(2) {
                always.look(u64::MAX, || {
                    looks.set(looks.get() + 1);
                    word.load(Ordering::Acquire) == turn
                });
                word.store(turn + 1, Ordering::Release);
            }
            looks.get() * 2 / u64::from(MESSAGES)
        };
        let looks = std::thread::scope(|scope| {
            [0, 1].map(|own| scope.spawn(move || take_turns(own))).map(|thread| thread.join().expect("it ends"))
        });
        assert!(looks.iter().all(|looks| *looks <= 50 * u64::from(LOOKS)), "{looks:?} looks for each message");
    }
}
