//! What a process and its descendants use of the machine, from `/proc`: proc_pid_stat(5), proc_pid_status(5),
//! proc_pid_smaps(5) and `schedstat`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long the kernel may take to end what was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
const POLL_PAUSE: Duration = Duration::from_millis(2);

/// Processes, as found at one moment. A number that was given to another process since is not mistaken for the first.
#[derive(Clone, Debug)]
pub(crate) struct ProcessTree {
    members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    pid: i32,
    start_ticks: u64,
    /// What it was started as.
    name: String,
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

/// What processes of one name have used, together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Used {
    pub(crate) processes: u32,
    /// User and system time of the threads that live. Where the kernel keeps no better account, in steps of a clock
    /// tick for each process (10 ms).
    pub(crate) cpu: Duration,
    /// How often a thread has slept: as often it was woken.
    pub(crate) wakeups: u64,
    /// Memory, shared pages counted in part (PSS). Nothing where it may not be read.
    pub(crate) memory_kib: Option<u64>,
}

/// The same by name.
pub(crate) type Usage = BTreeMap<String, Used>;

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
            let name = name(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
            members.push(Member { pid, start_ticks: stat.start_ticks, name });
            open.extend(children.get(&pid).into_iter().flatten());
        }
        Ok(Self { members })
    }

    /// How many processes there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// What all have used by now, but for their memory. An error if one has ended.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let mut usage = Usage::new();
        for member in &self.members {
            let ticks = match read_stat(member.pid) {
                Ok(stat) if stat.start_ticks == member.start_ticks && stat.state != 'Z' => stat.cpu_ticks,
                _ => bail!("process {} ({}) has ended", member.pid, member.name),
            };
            let used = usage.entry(member.name.clone()).or_default();
            used.processes += 1;
            let in_ticks = || Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
            used.cpu += running(member.pid).unwrap_or_else(in_ticks);
            used.wakeups += sleeps(member.pid);
        }
        Ok(usage)
    }

    /// Adds what they have of memory now: it takes the kernel a walk through their pages. What shared memory of theirs
    /// nobody has mapped is the first one's.
    pub(crate) fn add_memory(&self, usage: &mut Usage) {
        let mut add = |member: &Member, kib: u64| {
            if let Some(used) = usage.get_mut(&member.name) {
                used.memory_kib = Some(used.memory_kib.unwrap_or_default() + kib);
            }
        };
        let (mut shared, mut mapped_kib) = (HashMap::new(), 0);
        for member in &self.members {
            let Some(memory) = Memory::of(member.pid) else { continue };
            add(member, memory.kib);
            mapped_kib += memory.shared_kib;
            shared.extend(memory_files(member.pid));
        }
        if let Some(first) = self.members.first() {
            add(first, shared.values().sum::<u64>().saturating_sub(mapped_kib));
        }
    }

    /// The time of each thread, much finer than that of [`Self::usage`]; threads that end take theirs with them.
    pub(crate) fn thread_times(&self) -> anyhow::Result<ThreadTimes> {
        let mut times = ThreadTimes::default();
        for member in &self.members {
            let folder = format!("/proc/{}/task", member.pid);
            for entry in fs::read_dir(&folder).with_context(|| format!("process {} has ended", member.pid))? {
                let entry = entry?;
                let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
                times.0.insert((member.pid, thread), running_ns(&text).context("schedstat has another form")?);
            }
        }
        Ok(times)
    }

    /// Kills those that still run, and waits until they do not.
    pub(crate) fn kill_survivors(&self) {
        let survivors = || self.members.iter().filter(|member| member.runs());
        for member in survivors() {
            if let Some(pid) = Pid::from_raw(member.pid) {
                // It may have ended by itself just now.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let deadline = Instant::now() + KILL_PATIENCE;
        while survivors().next().is_some() && Instant::now() < deadline {
            std::thread::sleep(POLL_PAUSE);
        }
    }
}

impl Member {
    /// Whether it is there, and no other has its number. What only waits for its parent to look does not run.
    fn runs(&self) -> bool {
        read_stat(self.pid).is_ok_and(|stat| stat.start_ticks == self.start_ticks && stat.state != 'Z')
    }
}

impl Used {
    /// What was used since `before`; memory is as it is now.
    pub(crate) fn since(&self, before: Option<&Self>) -> Self {
        let before = before.copied().unwrap_or_default();
        let (cpu, wakeups) = (self.cpu.saturating_sub(before.cpu), self.wakeups.saturating_sub(before.wakeups));
        Self { cpu, wakeups, ..*self }
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

/// What a process is, from its command line: the program, and the first word if the program is many things. Processes
/// that write a title over their arguments end its first part with a colon.
fn name(command: &[u8]) -> String {
    let mut words = command.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let first = words.next().unwrap_or_default();
    let program = Path::new(first.split(": ").next().unwrap_or_default()).file_name();
    let program = program.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut words = words.filter(|word| !word.starts_with('-'));
    match (program.as_str(), words.next()) {
        ("exe" | "ramet", Some(word)) if word == crate::PEER_COMMAND => words.next().unwrap_or(word).into_owned(),
        ("exe" | "ramet", Some(word)) => format!("ramet {word}"),
        _ => program,
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

/// What the threads that live now have used of the processor, if the kernel keeps account of that.
fn running(pid: i32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    // One that has ended meanwhile has nothing to read any more.
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    let all: Option<Vec<u64>> = texts.map(|text| running_ns(&text)).collect();
    all.filter(|all| !all.is_empty()).map(|all| Duration::from_nanos(all.iter().sum()))
}

/// The first number of a `schedstat`.
fn running_ns(schedstat: &str) -> Option<u64> {
    schedstat.split(' ').next()?.parse().ok()
}

/// How often the threads that live now have given up their core because there was nothing to do.
fn sleeps(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| number_after(&thread.path().join("status"), "voluntary_ctxt_switches:")).sum()
}

/// What a process has of memory, shared pages counted in part.
struct Memory {
    kib: u64,
    /// Of shared memory.
    shared_kib: u64,
}

impl Memory {
    fn of(pid: i32) -> Option<Self> {
        let file = format!("/proc/{pid}/smaps_rollup");
        let number = |label| number_after(Path::new(&file), label);
        Some(Self { kib: number("Pss:")?, shared_kib: number("Pss_Shmem:")? })
    }
}

/// The memory files that a process has open, by device and number, and their KiB: mapped by somebody or not.
fn memory_files(pid: i32) -> HashMap<(u64, u64), u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let of_file = |file: fs::DirEntry| {
        let link = fs::read_link(file.path()).ok()?;
        let found = link.to_string_lossy().starts_with("/memfd:").then(|| fs::metadata(file.path()).ok())??;
        Some(((found.dev(), found.ino()), found.blocks() / 2))
    };
    files.filter_map(of_file).collect()
}

/// The number on the line that begins so.
fn number_after(file: &Path, label: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_nothing() {
        let text = "42 (a) S 1 (b) R 7 42 42 0 -1 4194304 1 2 3 4 500 60 7 8 20 0 1 0 9000 1 2 3\n";
        assert_eq!(parse_stat(text), Some(Stat { state: 'R', parent: 7, cpu_ticks: 560, start_ticks: 9000 }));
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (cut) R 1"), None);
    }

    #[test]
    fn processes_are_called_by_what_they_do() {
        for (command, expected) in [
            ("/proc/self/exe\0bench-peer\0http-hop\0--listen=1.2.3.4:5\0", "http-hop"),
            ("/a/ramet\0--socket=x\0gateway\0", "ramet gateway"),
            ("nginx: worker process\0", "nginx"),
            ("nginx: master process /usr/sbin/nginx -p x\0\0\0", "nginx"),
            ("/a b/echo\0", "echo"),
            ("", ""),
        ] {
            assert_eq!(name(command.as_bytes()), expected, "{command:?}");
        }
    }

    #[test]
    fn shared_memory_counts_where_nobody_has_mapped_it() {
        const BYTES: usize = 8 << 20;
        let tree = ProcessTree::of(&[rustix::process::getpid()]).expect("it runs");
        let kib = || {
            let mut usage = tree.usage().expect("it runs");
            tree.add_memory(&mut usage);
            usage.values().filter_map(|used| used.memory_kib).sum::<u64>()
        };
        let before = kib();
        let memory = rustix::fs::memfd_create("pool", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        fs::File::from(memory.try_clone().expect("dup")).write_all(&vec![1; BYTES]).expect("written");
        let after = kib();
        assert!(after >= before + (BYTES as u64 / 1024) * 3 / 4, "{before} and {after} KiB");
        drop(memory);
    }

    #[test]
    fn the_tree_of_this_process_uses_time_and_memory_and_sleeps() {
        let this = rustix::process::getpid();
        let tree = ProcessTree::of(&[this]).expect("it runs");
        let total = |usage: &Usage| usage.values().fold(Duration::ZERO, |sum, used| sum + used.cpu);
        let (before, threads_before) = (tree.usage().expect("it runs"), tree.thread_times().expect("it runs"));
        let tick = Duration::from_millis(10);
        let mut after = before.clone();
        while total(&after) < total(&before) + 3 * tick {
            std::thread::yield_now();
            // A thread that sleeps until another has run.
            std::thread::scope(|scope| drop(scope.spawn(|| tree.len())));
            after = tree.usage().expect("it runs");
        }
        let used = tree.thread_times().expect("it runs").since(&threads_before);
        assert!(used >= tick, "{used:?}");
        tree.add_memory(&mut after);
        let (name, used) = after.iter().next().expect("this process");
        let since = used.since(before.get(name));
        assert!(since.cpu >= 2 * tick && since.wakeups > 0 && since.processes > 0, "{since:?}");
        assert!(since.memory_kib.is_some_and(|kib| kib > 100), "{since:?}");
    }
}
