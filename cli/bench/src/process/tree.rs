//! What a process and its descendants have used of the processor, from `/proc` (proc_pid_stat(5), proc_pid_schedstat).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Processes, as found at one moment. A number that was given to another process since is not mistaken for the first.
#[derive(Clone, Debug)]
pub(crate) struct ProcessTree {
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    pid: i32,
    start_ticks: u64,
}

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    cpu_ticks: u64,
    start_ticks: u64,
}

/// Processor time of single threads, by process and thread, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct ThreadTimes(HashMap<(i32, i32), u64>);

impl ProcessTree {
    /// `roots` and all their descendants.
    pub(crate) fn of(roots: &[Pid]) -> anyhow::Result<Self> {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        let mut stats = HashMap::new();
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Whatever ends meanwhile is not part of the picture.
            let Ok(stat) = read_stat(pid) else { continue };
            children.entry(stat.parent).or_default().push(pid);
            stats.insert(pid, stat);
        }
        let mut members = Vec::new();
        let mut open: Vec<i32> = roots.iter().map(|root| root.as_raw_pid()).collect();
        while let Some(pid) = open.pop() {
            let Some(stat) = stats.get(&pid) else { bail!("process {pid} has ended") };
            members.push(Member { pid, start_ticks: stat.start_ticks });
            open.extend(children.get(&pid).into_iter().flatten());
        }
        Ok(Self { members })
    }

    /// How many processes there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// User and system time of all, in steps of a clock tick each (10 ms). An error if one has ended.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut ticks = 0;
        for member in &self.members {
            match read_stat(member.pid) {
                Ok(stat) if stat.start_ticks == member.start_ticks && stat.state != 'Z' => ticks += stat.cpu_ticks,
                _ => bail!("process {} has ended", member.pid),
            }
        }
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// The time of each thread, much finer than [`Self::cpu_time`]; threads that end take theirs with them.
    pub(crate) fn thread_times(&self) -> anyhow::Result<ThreadTimes> {
        let mut times = ThreadTimes::default();
        for member in &self.members {
            let folder = format!("/proc/{}/task", member.pid);
            for entry in fs::read_dir(&folder).with_context(|| format!("process {} has ended", member.pid))? {
                let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                let Ok(text) = fs::read_to_string(format!("{folder}/{thread}/schedstat")) else { continue };
                let running = text.split(' ').next().and_then(|field| field.parse().ok());
                times.0.insert((member.pid, thread), running.context("schedstat has another form")?);
            }
        }
        Ok(times)
    }

    /// Kills those that still run.
    pub(crate) fn kill_survivors(&self) {
        for member in &self.members {
            let same = read_stat(member.pid).is_ok_and(|stat| stat.start_ticks == member.start_ticks);
            if let (true, Some(pid)) = (same, Pid::from_raw(member.pid)) {
                // It may have ended by itself just now.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl ThreadTimes {
    /// What the threads used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = self
            .0
            .iter()
            .map(|(thread, &now_ns)| now_ns.saturating_sub(before.0.get(thread).copied().unwrap_or_default()));
        Duration::from_nanos(used.sum())
    }
}

fn read_stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other("stat has another form"))
}

/// The name is in parentheses and may itself have spaces and parentheses: the fields begin after the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<_> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    // The manual counts from 1, and the first field here is its third.
    let number = |manual: usize| fields.get(manual - 3)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: number(14)? + number(15)?,
        start_ticks: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let text = "42 (a) S 1 (b) R 7 42 42 0 -1 4194304 1 2 3 4 500 60 7 8 20 0 1 0 9000 1 2 3\n";
        assert_eq!(parse_stat(text), Some(Stat { state: 'R', parent: 7, cpu_ticks: 560, start_ticks: 9000 }));
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (cut) R 1"), None);
    }

    #[test]
    fn the_tree_of_this_process_uses_time() {
        let this = rustix::process::getpid();
        let tree = ProcessTree::of(&[this]).expect("it runs");
        let (before, threads_before) = (tree.cpu_time().expect("it runs"), tree.thread_times().expect("it runs"));
        let tick = Duration::from_millis(10);
        while tree.cpu_time().expect("it runs") < before + 3 * tick {}
        let used = tree.thread_times().expect("it runs").since(&threads_before);
        assert!(used >= 2 * tick, "{used:?}");
    }
}
