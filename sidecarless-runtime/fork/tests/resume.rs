//! A process that was forked goes on where the other one was.

use std::fmt::Display;
use std::fs::{self, DirEntry};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::{Duration, Instant};

use std::sync::Arc;

use ramet_fork::descriptor::{OpenFile, OpenFileKind};
use ramet_fork::{Family, Given, Host, LocalSource, PrepareError, Prepared, prepare};
use ramet_sys::End;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A process that counts: it writes how far it has come, and the sum of its data, to a file with its number. A child
/// that begins in between writes the other's file once, and one of them finds it renamed already.
const COUNTER: &str = r"
import os, sys, time
folder, data, n = sys.argv[1], bytearray(os.urandom(1 << 20) * 4), 0
while True:
    n += 1
    name = f'{folder}/{os.getpid()}'
    with open(name + '.new', 'w') as file:
        file.write(f'{n} {hash(bytes(data))}')
    try:
        os.rename(name + '.new', name)
    except FileNotFoundError:
        pass
    time.sleep(0.002)
";

struct Target {
    process: Process,
    folder: tempfile::TempDir,
}

impl Target {
    fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = command.arg(folder.path()).stdin(Stdio::null()).spawn().expect("a target");
        let target = Self { process, folder };
        target.count_of(target.pid(), 3);
        target
    }

    fn python() -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", COUNTER]);
        Self::start(command)
    }

    /// A program of the tests in C.
    fn c(name: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name).with_extension("c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-pthread", "-o"]).arg(&program).arg(source).arg("-lm");
        assert!(compiler.status().expect("a C compiler").success());
        Self::start(Command::new(program))
    }

    fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Forks it at a moment at which it has none of the test's files open: those have other names a little later.
    fn prepare(&self) -> Prepared {
        wait_until("the target to have nothing open", || {
            let prepared = match prepare(self.pid()) {
                // Another has taken the place of one.
                Err(PrepareError::Uncarried(_)) => return None,
                prepared => prepared.expect("prepared"),
            };
            let folder = self.folder.path().as_os_str().as_bytes();
            let is_open = |file: &OpenFile| match &file.kind {
                OpenFileKind::Path { path, .. } => path.starts_with(folder),
                _ => false,
            };
            (!prepared.descriptor.files.iter().any(is_open)).then_some(prepared)
        })
    }

    fn file(&self, pid: i32) -> PathBuf {
        self.folder.path().join(pid.to_string())
    }

    /// What a process of the test has written, once it has.
    fn said(&self, name: &str) -> (u64, String) {
        let file = self.folder.path().join(name);
        wait_until(&format!("{name} to be written"), || read(&file))
    }

    /// Waits until a process has counted so far; its count and its sum.
    fn count_of(&self, pid: i32, at_least: u64) -> (u64, String) {
        let file = self.file(pid);
        let counted = try_until(|| read(&file).filter(|(count, _)| *count >= at_least));
        counted.unwrap_or_else(|| {
            let found = read(&file);
            panic!("process {pid} does not count to {at_least} but to {found:?}; {}; {}", state(pid), state("self"))
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_until<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    try_until(attempt).unwrap_or_else(|| panic!("waited in vain for {what}"))
}

fn try_until<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        if let Some(found) = attempt() {
            return Some(found);
        }
        // tidy: another process is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// What the threads of a process do, as far as the kernel says.
fn state(pid: impl Display) -> String {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return format!("{pid} is no more") };
    let say = |thread: DirEntry| {
        let read = |what: &str| fs::read_to_string(thread.path().join(what)).unwrap_or_default();
        let status = read("status");
        let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        format!("{} {} in {} ({})", of("Name:"), of("State:"), read("wchan"), read("syscall").trim())
    };
    let threads: Vec<String> = threads.flatten().map(say).collect();
    format!("{pid}: {}", threads.join(", "))
}

fn read(file: &Path) -> Option<(u64, String)> {
    let text = fs::read_to_string(file).ok()?;
    let (count, sum) = text.split_once(' ')?;
    Some((count.parse().ok()?, sum.to_owned()))
}

fn host() -> Host {
    Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host")
}

/// Forks the target and sees both count on over the same data.
fn goes_on_in_its_child(target: &Target) {
    let prepared = target.prepare();
    let (count, sum) = target.count_of(target.pid(), 1);
    let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
    let family = Family::start(Arc::new(host()), prepared.descriptor, Box::new(source)).expect("a pager");
    let given = Given::own().expect("streams");
    for is_first in [true, false] {
        let child = family.child(&given).expect("resumed");
        assert_eq!(child.phases.template.is_some(), is_first, "the second one is a fork of the first one's template");
        eprintln!("pause {:?}, {:?}", prepared.pause, child.phases);
        let (_, childs_sum) = target.count_of(child.pid, count + 10);
        assert_eq!(childs_sum, sum);
        target.count_of(target.pid(), count + 10);
        child.pidfd.signal(End::Kill).expect("killed");
        child.pidfd.wait().expect("reaped");
    }
}

/// Its heap is memory that its own forks do not have; its threads, its timers and its pool all go on.
#[test]
fn a_node_process_goes_on_in_its_child() {
    let Ok(found) = Command::new("node").arg("--version").output() else {
        assert!(std::env::var_os("CI").is_none(), "there is no node here; on Debian: apt-get install nodejs");
        eprintln!("skipped: there is no node here");
        return;
    };
    assert!(found.status.success());
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/counts.js"));
    let target = Target::start(command);
    for _ in 0..5 {
        goes_on_in_its_child(&target);
    }
}

/// 128 MiB of live data, whose sum the child says, too.
#[test]
fn numpy_goes_on_in_its_child() {
    const NUMPY: &str = r"
import os, sys, time, numpy
folder, n = sys.argv[1], 0
data = numpy.arange(16 << 20, dtype=numpy.float64) * 1.5 + os.getpid()
while True:
    n += 1
    name = folder + '/' + os.readlink('/proc/self')
    with open(name + '.new', 'w') as file:
        file.write(f'{n} {float(data.sum())}')
    try:
        os.rename(name + '.new', name)
    except FileNotFoundError:
        pass
    time.sleep(0.002)
";
    let has_numpy = |python: &&&str| {
        let imported = Command::new(python).args(["-c", "import numpy"]).stderr(Stdio::null()).status();
        imported.is_ok_and(|status| status.success())
    };
    let Some(python) = ["/usr/bin/python3", "python3"].iter().find(has_numpy) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "no python3 here has numpy; on Debian: apt-get install python3-numpy"
        );
        eprintln!("skipped: no python3 here has numpy");
        return;
    };
    let mut command = Command::new(python);
    command.args(["-c", NUMPY]);
    goes_on_in_its_child(&Target::start(command));
}

#[test]
fn a_python_process_goes_on_in_its_child() {
    goes_on_in_its_child(&Target::python());
}

/// What it executes, where it runs, and what is written about it.
#[test]
fn a_child_is_to_others_what_its_parent_was() {
    let target = Target::python();
    let process = |pid: i32, file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
    let cores = |pid: i32| sched_getaffinity(Pid::from_raw(pid)).expect("its cores");
    let all = cores(target.pid());
    let last = (0..CpuSet::MAX_CPU).rfind(|core| all.is_set(*core)).expect("a core");
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(Pid::from_raw(target.pid()), &one).expect("its core");
    for (file, text) in [("oom_score_adj", "300"), ("coredump_filter", "0x7")] {
        fs::write(process(target.pid(), file), text).expect("written");
    }
    let look = |pid: i32| {
        let texts =
            ["oom_score_adj", "coredump_filter"].map(|file| fs::read_to_string(process(pid, file)).expect(file));
        (fs::read_link(process(pid, "exe")).expect("what it executes"), cores(pid), texts)
    };
    let prepared = target.prepare();
    let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
    let family = Family::start(Arc::new(host()), prepared.descriptor, Box::new(source)).expect("a pager");
    let given = Given::own().expect("streams");
    for _ in 0..2 {
        let child = family.child(&given).expect("resumed");
        target.count_of(child.pid, 3);
        let (mut there, here) = (look(target.pid()), look(child.pid));
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root says what a process executes");
            there.0.clone_from(&here.0);
        }
        assert_eq!(here, there);
        child.pidfd.signal(End::Kill).expect("killed");
        child.pidfd.wait().expect("reaped");
    }
}

/// Many times, because only sometimes a thread is just then where it is hard.
#[test]
fn threads_go_on_with_their_locks_and_numbers() {
    let target = Target::c("threads");
    for _ in 0..20 {
        goes_on_in_its_child(&target);
    }
}

/// In registers of every length, while it sleeps and while it computes.
#[test]
fn vectors_come_with_their_threads() {
    let target = Target::c("vectors");
    let (_, wrong) = target.count_of(target.pid(), 3);
    assert_eq!(wrong, "0", "the kernel loses none");
    for _ in 0..8 {
        goes_on_in_its_child(&target);
    }
}

/// Below a stack pointer there may be what is somebody else's, or nothing at all.
#[test]
fn nothing_is_written_below_a_small_stack_and_it_needs_no_room() {
    let target = Target::c("small_stacks");
    let (_, changed) = target.count_of(target.pid(), 1);
    assert_eq!(changed, "0", "it does not do so itself");
    for _ in 0..6 {
        goes_on_in_its_child(&target);
    }
}

/// A child's own child is in no namespace of ours and outlives the host. What it does not have it does not get.
#[test]
fn a_killed_host_turns_no_missing_page_into_zeros() {
    let target = Target::c("guarded");
    let mut host = Command::new(env!("CARGO_BIN_EXE_ramet-fork-host"))
        .args([env!("CARGO_BIN_EXE_ramet-fork-zygote"), &target.pid().to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a host");
    let (grandchild, _) = target.said("grandchild");
    host.kill().expect("killed");
    host.wait().expect("reaped");
    fs::write(target.folder.path().join("go"), "").expect("a file");
    let status = PathBuf::from(format!("/proc/{grandchild}"));
    wait_until("the child's child to end", || (!status.exists()).then_some(()));
    let verdict = read(&target.folder.path().join("verdict"));
    assert_eq!(verdict, None, "it ended at the first page that it did not have");
}
