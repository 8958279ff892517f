//! How busy a worker is, and what it does about it.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use ramet_control::gateway::FromGateway;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Worker;
use crate::crew::{BUSY, Move, Steering};

/// How often a worker that serves requests looks how busy it is.
const TICK: Duration = Duration::from_millis(100);

/// How often the supervisor hears that there is work.
const WORD_PERIOD: Duration = Duration::from_secs(1);

/// A worker's part in the balance.
#[derive(Debug, Default)]
pub(super) struct Balance {
    is_active: Cell<bool>,
    active: Notify,
    /// What is still to be passed on.
    plan: Cell<Option<Move>>,
    /// The first worker's: where new connections go.
    steering: RefCell<Option<Steering>>,
}

impl Worker {
    /// Notes that there is something to do.
    pub(crate) fn is_at_work(&self) {
        if !self.balance.is_active.replace(true) {
            self.balance.active.notify_one();
        }
    }

    /// Has new connections come to the first worker, which looks from then on whether others are to have some, too.
    pub(crate) fn steer(&self, listener: OwnedFd) {
        if self.place == 0 && !self.shared.crew.is_alone() {
            *self.balance.steering.borrow_mut() = Some(Steering::new(listener));
            self.spread_over(1);
        }
    }

    /// Has new connections go to so many workers.
    fn spread_over(&self, workers: usize) {
        if let Some(Err(error)) = self.balance.steering.borrow().as_ref().map(|steering| steering.spread(workers)) {
            tracing::warn!(%error, workers, "the kernel spreads connections over the gateway's workers as it likes");
        }
    }

    /// Tells the supervisor that there is work, unless it has heard so a moment ago.
    fn say_at_work(&self, said: &mut Option<Instant>) {
        let now = Instant::now();
        if said.is_none_or(|said| now - said >= WORD_PERIOD) {
            *said = Some(now);
            self.shared.say(&FromGateway::AtWork);
        }
    }

    /// Where a connection between two requests should go, if not here.
    pub(crate) fn place_for_old(&self) -> Option<usize> {
        let Move { to, connections } = self.balance.plan.get()?;
        self.balance.plan.set((connections > 1).then(|| Move { to, connections: connections - 1 }));
        Some(to)
    }
}

/// Watches how busy the worker is while it has anything to do.
pub(super) async fn balance_always(worker: Rc<Worker>) {
    let Balance { is_active, active, plan, .. } = &worker.balance;
    let (mut said, mut spread) = (None, 1);
    loop {
        worker.shared.crew.used(worker.place, 0);
        active.notified().await;
        let (mut start, mut used, mut idle) = (Instant::now(), thread_time(), None);
        while is_active.replace(false) {
            sleep(TICK).await;
            worker.say_at_work(&mut said);
            if worker.shared.crew.is_alone() {
                continue;
            }
            let (now, used_now) = (Instant::now(), thread_time());
            let usage = thousandths(used_now.saturating_sub(used), now - start);
            worker.shared.crew.used(worker.place, usage);
            // Only the busy need to know, and they need to have been busy for two ticks to know it.
            let idle_now = if usage >= BUSY { idle_time() } else { None };
            let idled = || match (idle, idle_now) {
                (Some(before), Some(after)) => thousandths(Duration::saturating_sub(after, before), now - start),
                _ => 0,
            };
            if worker.place == 0 {
                let wanted = worker.shared.crew.spread(spread, idled);
                if wanted != spread {
                    spread = wanted;
                    worker.spread_over(spread);
                }
            }
            plan.set(worker.shared.crew.plan(worker.place, worker.connections.count(), idled));
            (start, used, idle) = (now, used_now, idle_now);
        }
        plan.set(None);
        if spread != 1 {
            spread = 1;
            worker.spread_over(spread);
        }
    }
}

fn thousandths(part: Duration, whole: Duration) -> u32 {
    (part.as_nanos() * 1000 / whole.as_nanos().max(1)).try_into().unwrap_or(u32::MAX)
}

/// The processor time of this thread.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// How long the machine's cores were idle, all together (proc_stat(5)). `None`: it does not say.
fn idle_time() -> Option<Duration> {
    /// `USER_HZ`, which is the same on every Linux of today.
    const TICKS_PER_SECOND: u64 = 100;
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut fields = text.lines().next()?.split_ascii_whitespace().skip(4);
    let idle: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(idle * 1000 / TICKS_PER_SECOND))
}
