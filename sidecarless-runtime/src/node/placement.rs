//! Which cores instances run on: those that the setting names; or, while there are requests, those that the rule in
//! `placement` gives them, and that they are kept awake, if that is wanted. A node without requests looks at nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ramet_common::InstanceId;
use ramet_dataplane::TransportKind;
use ramet_manifest::{self as manifest, settings};
use ramet_sys::latency;
use rustix::thread::CpuSet;

use super::Node;
use crate::placement::{Gathering, Seen, next_look};
use crate::threads::{self, Threads, Unmoved};
use crate::timers::Timer;

/// How the gateway's threads that serve requests are called.
const WORKER_NAME: &str = "gateway-";

/// For how long it is true that the gateway has requests when it has said so: it says so once a second.
const AT_WORK_LASTS: Duration = Duration::from_millis(1200);

/// What is known of where threads are.
#[derive(Debug, Default)]
pub(super) struct Placing {
    gathering: Gathering,
    /// When the gateway last said that there are requests. None: nobody looks.
    at_work: Option<Instant>,
    last: Option<Last>,
    gateway: Placed,
    /// The thread of it that is busiest.
    worker: Option<i32>,
    instances: BTreeMap<InstanceId, Placed>,
    /// Why it is no use to look.
    given_up: Option<Unmoved>,
}

/// The machine at the last look.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    idle: Duration,
}

/// A process whose threads are looked at.
#[derive(Debug, Default)]
struct Placed {
    pid: u32,
    threads: Threads,
    /// Where its threads were sent.
    sent: Option<CpuSet>,
    /// Whether somebody else has said where they run.
    is_told: bool,
}

impl Placed {
    /// Sends all threads to these cores.
    fn send<'t>(&mut self, tids: impl Iterator<Item = &'t i32> + Clone, to: CpuSet, all: &CpuSet) -> Option<Unmoved> {
        let before = self.sent.replace(to);
        let unmoved = threads::move_to(tids, &[*all, before.unwrap_or(*all)], &to).err()?;
        // Who was told to be where the others are sent was not sent there.
        let moved = Some(to).filter(|_| unmoved != Unmoved::Told);
        for from in [moved, before].into_iter().flatten() {
            self.sent = Some(from);
            self.free(all);
        }
        self.sent = None;
        self.is_told = unmoved == Unmoved::Told;
        Some(unmoved)
    }

    /// Lets all threads that were sent somewhere run on all cores.
    fn free(&mut self, all: &CpuSet) {
        if let Some(sent) = self.sent.take() {
            threads::give_all_back(self.pid, &sent, all);
        }
    }
}

impl Node {
    /// The cores that the setting names.
    pub(super) fn fixed_cores(&self) -> Option<CpuSet> {
        match &self.settings.placement {
            manifest::Placement::Pinned(cores) => Some(threads::set_of(cores.iter())),
            manifest::Placement::Adaptive | manifest::Placement::Spread => None,
        }
    }

    /// Has a process that was forked run on the cores that the setting names. One that is executed begins there.
    pub(super) fn pin(&self, pid: u32) {
        let (Some(cores), Ok(all)) = (self.fixed_cores(), threads::own_cores()) else { return };
        let threads = threads::of_process(pid, &Threads::new()).unwrap_or_default();
        if let Err(unmoved) = threads::move_to(threads.keys(), &[all], &cores) {
            tracing::warn!(pid, ?unmoved, "a process cannot be sent to the cores that `placement` names");
        }
    }

    /// Whether instances are sent where it pays. Readers of rings that look at them before they sleep are soonest on
    /// cores of their own.
    fn is_adaptive(&self) -> bool {
        let looks = self.plane.kind() == TransportKind::Ring && self.settings.busy_poll != settings::BusyPoll::Never;
        self.settings.placement == manifest::Placement::Adaptive && self.placing.given_up.is_none() && !looks
    }

    /// Keeps the machine's cores awake until the gateway would say again that there are requests, if that is wanted.
    pub(super) fn keep_awake(&self) {
        if self.settings.keep_awake {
            latency::keep_awake_for(AT_WORK_LASTS);
        }
    }

    /// The gateway has requests.
    pub(super) fn hear_at_work(&mut self) {
        if self.is_adaptive() && self.placing.at_work.replace(Instant::now()).is_none() {
            self.place();
        }
    }

    /// Looks at all threads once, and sends them where they are to be.
    pub(super) fn place(&mut self) {
        let (Some(at_work), Ok(all)) = (self.placing.at_work, threads::own_cores()) else { return };
        let now = Instant::now();
        if all.count() > 1
            && let Some(seen) = self.see(now, &all)
        {
            self.placing.gathering.look(&seen);
            self.placing.send_all(&all);
        }
        let quiet = now.saturating_duration_since(at_work);
        match next_look(quiet, now.elapsed()).filter(|_| self.placing.given_up.is_none()) {
            Some(wait) => self.timers.set(now + wait, Timer::Place),
            None => self.placing.rest(&all),
        }
    }

    /// What all threads have done since the last look. None: there was none, or there is no gateway.
    fn see(&mut self, now: Instant, all: &CpuSet) -> Option<Seen> {
        let placing = &mut self.placing;
        placing.instances.retain(|id, _| self.instances.contains_key(id));
        let mut instances = BTreeMap::new();
        for (id, instance) in &self.instances {
            let placed = placing.instances.entry(*id).or_default();
            if placed.is_told {
                continue;
            }
            placed.pid = instance.process.pid;
            let threads = threads::of_process(placed.pid, &placed.threads).unwrap_or_default();
            let before = std::mem::replace(&mut placed.threads, threads);
            if !before.is_empty() && !placed.threads.is_empty() {
                instances.insert(*id, threads::all_since(&before, &placed.threads));
            }
        }
        let gateway = &mut placing.gateway;
        gateway.pid = self.gateway.as_ref()?.process.pid;
        let threads = threads::of_process(gateway.pid, &gateway.threads).ok()?;
        let before = std::mem::replace(&mut gateway.threads, threads);
        let spent = gateway.threads.iter().map(|(tid, now)| (*tid, threads::since(before.get(tid), now)));
        let (tid, worker) = spent.max_by_key(|(_, spent)| spent.ran)?;
        let (name, core) = ramet_sys::thread::name_and_core(tid)?;
        let idle = threads::idle(all);
        let last = placing.last.replace(Last { at: now, idle })?;
        placing.worker = Some(tid).filter(|_| name.starts_with(WORKER_NAME) && all.is_set(core));
        placing.worker?;
        Some(Seen {
            now,
            period: now.saturating_duration_since(last.at),
            gateway: threads::all_since(&before, &gateway.threads),
            worker,
            core,
            idle: idle.saturating_sub(last.idle),
            instances,
        })
    }
}

impl Placing {
    /// Sends every thread where it is to be.
    fn send_all(&mut self, all: &CpuSet) {
        let was_together = self.gateway.sent.is_some();
        let Some(core) = self.gathering.core() else {
            if was_together {
                self.free_all(all);
                tracing::debug!("instances have all cores");
            }
            return;
        };
        let home = threads::set_of([core]);
        if !was_together {
            let refused = self.gateway.send(self.worker.iter(), home, all);
            if refused.is_some() {
                self.given_up = refused;
                tracing::warn!(?refused, "the gateway's thread cannot be kept on a core, so instances have all cores");
                return;
            }
        }
        let mut near = 0;
        for (id, placed) in self.instances.iter_mut().filter(|(_, placed)| !placed.is_told) {
            if !self.gathering.is_together(*id) || placed.threads.is_empty() {
                placed.free(all);
                continue;
            }
            let tids: Vec<i32> = placed.threads.keys().copied().collect();
            match placed.send(tids.iter(), home, all) {
                None => near += 1,
                Some(Unmoved::Told) => tracing::debug!(instance = %id, "it runs where its author says"),
                Some(unmoved) => self.given_up = Some(unmoved),
            }
        }
        if !was_together {
            tracing::debug!(core, instances = near, "instances run beside the gateway");
        }
        if let Some(unmoved) = self.given_up {
            tracing::warn!(?unmoved, "instances cannot be sent to a core: the supervisor needs CAP_SYS_NICE for that");
        }
    }

    fn free_all(&mut self, all: &CpuSet) {
        self.gateway.free(all);
        self.instances.values_mut().for_each(|placed| placed.free(all));
    }

    /// Nobody looks any more.
    fn rest(&mut self, all: &CpuSet) {
        self.gathering.part();
        self.free_all(all);
        self.at_work = None;
        self.last = None;
        self.gateway.threads.clear();
        self.instances.values_mut().for_each(|placed| placed.threads.clear());
    }
}
