//! The threads of a process and of its descendants: what they have done, and on which cores they may run.
//!
//! What is read of them is open to everybody (proc_pid_task(5), proc_pid_schedstat(5)). Threads begin and end while
//! they are read, so one that is gone is no error. Its number may have come to mean another thread before its cores
//! are set; that would take numbers coming round within microseconds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use ramet_manifest::Cores;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::placement::Spent;

/// How many threads of an instance are looked at. One with more is left to the kernel.
const THREADS_MAX: usize = 256;

/// How often threads are looked for that were begun by one that had not been moved yet.
const MOVES_MAX: u32 = 8;

/// What each thread has done since it began.
pub(crate) type Threads = BTreeMap<i32, Spent>;

/// The threads of a process and of its descendants. `before` is what the last look showed.
///
/// # Errors
/// There are more than can be looked at, or none.
pub(crate) fn of_process(pid: u32, before: &Threads) -> io::Result<Threads> {
    let mut threads = Threads::new();
    let mut processes = vec![pid];
    while let Some(process) = processes.pop() {
        let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for tid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            if threads.len() == THREADS_MAX {
                return Err(io::Error::other(format!("it has more than {THREADS_MAX} threads")));
            }
            let folder = format!("/proc/{process}/task/{tid}");
            if let Some(spent) = spent(&folder, before.get(&tid)) {
                threads.insert(tid, spent);
            }
            let children = fs::read_to_string(format!("{folder}/children")).unwrap_or_default();
            processes.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    if threads.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(threads) }
}

/// Times from `schedstat`. How often it went to sleep costs more to read, and has not changed where it did not run.
fn spent(folder: &str, before: Option<&Spent>) -> Option<Spent> {
    let text = fs::read_to_string(format!("{folder}/schedstat")).ok()?;
    let mut times = text.split_ascii_whitespace().map_while(|time| time.parse().ok().map(Duration::from_nanos));
    let (ran, delayed) = (times.next()?, times.next()?);
    let known = before.filter(|before| before.ran == ran).map(|before| before.sleeps);
    let sleeps = known.or_else(|| sleeps(&fs::read_to_string(format!("{folder}/status")).ok()?))?;
    Some(Spent { ran, delayed, sleeps })
}

fn sleeps(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

/// What a thread has done between two looks.
pub(crate) fn since(before: Option<&Spent>, now: &Spent) -> Spent {
    let before = before.copied().unwrap_or_default();
    Spent {
        ran: now.ran.saturating_sub(before.ran),
        delayed: now.delayed.saturating_sub(before.delayed),
        sleeps: now.sleeps.saturating_sub(before.sleeps),
    }
}

/// What all of them have done between two looks.
pub(crate) fn all_since(before: &Threads, now: &Threads) -> Spent {
    now.iter().map(|(tid, now)| since(before.get(tid), now)).fold(Spent::default(), |all, one| Spent {
        ran: all.ran + one.ran,
        delayed: all.delayed + one.delayed,
        sleeps: all.sleeps + one.sleeps,
    })
}

/// How long these cores have been idle, all together (proc_stat(5)). Zero: it does not say.
pub(crate) fn idle(cores: &CpuSet) -> Duration {
    /// `USER_HZ`, which is the same on every Linux of today.
    const TICKS_PER_SECOND: u64 = 100;
    let of_core = |line: &str| {
        let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
        let core = fields.next()?.parse().ok()?;
        (core < CpuSet::MAX_CPU && cores.is_set(core)).then(|| fields.nth(3)?.parse::<u64>().ok())?
    };
    let ticks: u64 = fs::read_to_string("/proc/stat").unwrap_or_default().lines().filter_map(of_core).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// The cores that this thread may run on: all that the node may use.
pub(crate) fn own_cores() -> io::Result<CpuSet> {
    Ok(sched_getaffinity(None)?)
}

pub(crate) fn set_of(cores: impl IntoIterator<Item = usize>) -> CpuSet {
    let mut set = CpuSet::new();
    cores.into_iter().filter(|core| *core < CpuSet::MAX_CPU).for_each(|core| set.set(core));
    set
}

pub(crate) fn numbers(set: &CpuSet) -> Option<Cores> {
    Cores::of((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)))
}

/// Why threads were not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmoved {
    /// One of them was told by somebody else where to run.
    Told,
    /// The kernel does not allow it.
    Refused(Errno),
}

/// Has all threads run on `cores`, but none if one of them runs on others than `ours`. What its author says between the
/// look and the move is lost, and what they say that is the same as ours is taken for ours.
///
/// # Errors
/// [`Unmoved`]. If it was refused, some may have been moved.
pub(crate) fn move_to<'t>(
    tids: impl Iterator<Item = &'t i32> + Clone,
    ours: &[CpuSet],
    cores: &CpuSet,
) -> Result<(), Unmoved> {
    let found = || tids.clone().filter_map(|tid| Pid::from_raw(*tid)).map(|tid| (tid, sched_getaffinity(Some(tid))));
    if found().any(|(_, at)| at.is_ok_and(|at| !ours.contains(&at))) {
        return Err(Unmoved::Told);
    }
    for (tid, _) in found().filter(|(_, at)| at.is_ok_and(|at| at != *cores)) {
        match sched_setaffinity(Some(tid), cores) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(Unmoved::Refused(errno)),
        }
    }
    Ok(())
}

/// Has the threads that run on `from` run on `to`.
pub(crate) fn give_back(tids: impl Iterator<Item = i32>, from: &CpuSet, to: &CpuSet) {
    for tid in tids.filter_map(Pid::from_raw) {
        if sched_getaffinity(Some(tid)).is_ok_and(|at| at == *from) {
            // One that has ended meanwhile needs no cores.
            let _ = sched_setaffinity(Some(tid), to);
        }
    }
}

/// The same for a process and its descendants, for the last time: also for threads that are begun meanwhile.
pub(crate) fn give_all_back(pid: u32, from: &CpuSet, to: &CpuSet) {
    let mut seen = Threads::new();
    for _ in 0..MOVES_MAX {
        let Ok(now) = of_process(pid, &seen) else { return };
        if now.keys().all(|tid| seen.contains_key(tid)) {
            return;
        }
        give_back(now.keys().copied(), from, to);
        seen = now;
    }
}

/// Has this thread run on other cores until it is dropped: a process that it starts begins there.
#[derive(Debug)]
pub(crate) struct Visit {
    home: CpuSet,
}

impl Visit {
    pub(crate) fn to(cores: &CpuSet) -> io::Result<Self> {
        let home = own_cores()?;
        sched_setaffinity(None, cores)?;
        Ok(Self { home })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // It has run there before.
        let _ = sched_setaffinity(None, &self.home);
    }
}
