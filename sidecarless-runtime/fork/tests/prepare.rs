//! A process that is prepared is described as it is and goes on as it was.

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "programs/hoard.rs"]
mod hoard;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ramet_fork::descriptor::{Area, AreaKind, OpenFileKind};
use ramet_fork::{ForkDescriptor, prepare};

/// A process that says its line back.
struct Target(Child);

impl Target {
    fn start() -> Self {
        Self::of(Path::new("cat"))
    }

    fn of(program: &Path) -> Self {
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut target = Self(child.expect("cat"));
        target.answers();
        target
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn answers(&mut self) {
        let input = self.0.stdin.as_mut().expect("its input");
        input.write_all(b"still here\n").expect("a line");
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().expect("its output")).read_line(&mut line).expect("an answer");
        assert_eq!(line, "still here\n");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn describes_a_process_that_goes_on() {
    let mut target = Target::start();
    let prepared = prepare(target.pid()).expect("prepared");
    target.answers();
    let descriptor = &prepared.descriptor;
    assert_eq!(descriptor.name, b"cat");
    assert_eq!(descriptor.threads.len(), 1);
    assert!(matches!(descriptor.files[0].kind, OpenFileKind::Pipe { .. }), "{:?}", descriptor.files[0]);
    let mapped = |area: &Area| matches!(area.kind, AreaKind::File { .. });
    assert!(descriptor.areas.iter().any(mapped), "libc is a file");
    assert!(descriptor.areas.iter().any(|area| area.kind == AreaKind::Stack && !area.own.is_empty()));
    // The stack's own page can be read from the seed.
    let stack = descriptor.areas.iter().find(|area| area.kind == AreaKind::Stack).expect("a stack");
    let page = stack.own_ranges().last().expect("a page");
    let mut bytes = vec![0; page.bytes as usize];
    prepared.seed.memory().read_ranges(&[page], &mut bytes).expect("read");
    assert!(bytes.iter().any(|byte| *byte != 0));

    let bytes = descriptor.encode();
    assert_eq!(ForkDescriptor::decode(&bytes).as_ref().expect("decoded"), descriptor);
    let seed = prepared.seed.pid();
    drop(prepared);
    target.answers();
    assert!(!Path::new(&format!("/proc/{seed}")).exists(), "the seed ended");
}

/// Neither the process nor its parent is told of a child that it does not know, and none is left in the table.
#[test]
fn a_seed_is_nobodys_child_to_wait_for() {
    const PARENT: &str = "
import os, subprocess, sys
child = subprocess.Popen(['cat'])
print(child.pid, file=sys.stderr, flush=True)
print(os.waitpid(-1, 0)[0], file=sys.stderr, flush=True)
";
    let mut command = Command::new("python3");
    command.args(["-c", PARENT]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parent = Target(command.spawn().expect("python3"));
    let mut told = BufReader::new(parent.0.stderr.take().expect("its errors")).lines().map_while(Result::ok);
    let pid: i32 = told.next().and_then(|line| line.parse().ok()).expect("the number of its child");
    for _ in 0..3 {
        parent.answers();
        let prepared = prepare(pid).expect("prepared");
        parent.answers();
        let seed = prepared.seed.pid();
        let status = fs::read_to_string(format!("/proc/{seed}/status")).expect("it is there");
        assert!(status.contains(&format!("PPid:\t{pid}\n")), "{status}");
        drop(prepared);
        assert!(!Path::new(&format!("/proc/{seed}")).exists(), "it is not there any more");
    }
    drop(parent.0.stdin.take());
    assert_eq!(told.next(), Some(pid.to_string()), "who ended first of those that its parent knows");
}

#[test]
fn a_process_that_somebody_else_prepares_is_prepared_a_moment_later() {
    let mut target = Target::start();
    let pid = target.pid();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| drop(prepare(pid).expect("prepared"))));
        }
    });
    target.answers();
}

/// A program that was updated while it ran cannot be mapped again; its code must not come as zeros.
#[test]
fn a_file_that_is_gone_is_read_from_the_seed() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("cat");
    // By another process: a test beside this one may fork while a file is open to be written, and then it is busy.
    assert!(Command::new("cp").arg("/bin/cat").arg(&program).status().expect("cp").success());
    let content = fs::read(&program).expect("its content");
    let target = Target::of(&program);
    fs::remove_file(&program).expect("removed");
    let prepared = prepare(target.pid()).expect("prepared");
    let is_code = |area: &&Area| area.protection & 4 != 0 && area.kind == AreaKind::Private;
    let code = prepared.descriptor.areas.iter().find(is_code).expect("its code");
    let pages: u64 = code.own_ranges().map(|range| range.bytes).sum();
    assert_eq!(pages, code.bytes, "all of it is the seed's");
    let mut bytes = vec![0; code.bytes as usize];
    let ranges: Vec<_> = code.own_ranges().collect();
    prepared.seed.memory().read_ranges(&ranges, &mut bytes).expect("read");
    let start = content.windows(64).position(|part| part == &bytes[..64]).expect("a part of the file");
    let length = bytes.len().min(content.len() - start);
    assert!(bytes[..length] == content[start..start + length], "what the file has");
}

/// The seed shares its memory with the process. Who reads it must not make it have a copy.
#[test]
fn a_seed_that_is_read_shares_its_memory_as_before() {
    const BYTES: u64 = 16 << 20;
    let hoard = hoard::Hoard::start(BYTES);
    let prepared = prepare(hoard.pid()).expect("prepared");
    let private_kib = || {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", prepared.seed.pid())).expect("its memory");
        let lines = text.lines().filter(|line| line.starts_with("Private_"));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>()
    };
    let before = private_kib();
    let mut bytes = vec![0; BYTES as usize];
    prepared.seed.memory().read_ranges(&[hoard.data], &mut bytes).expect("read");
    assert!(hoard.is_right(hoard.data.start, &bytes), "what it has");
    let more = private_kib().saturating_sub(before);
    assert!(more < BYTES >> 14, "{more} KiB were copied");
}

#[test]
fn one_that_is_stopped_goes_on_first() {
    let mut target = Target::start();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &target.pid().to_string()]).status();
        assert!(sent.expect("kill").success());
    };
    let state = || {
        let status = fs::read_to_string(format!("/proc/{}/status", target.pid())).expect("its status");
        status.lines().find_map(|line| line.strip_prefix("State:\t")).expect("its state").to_owned()
    };
    signal("-STOP");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !state().starts_with('T') {
        assert!(Instant::now() < deadline, "{}", state());
    }
    let error = prepare(target.pid()).map(drop).expect_err("it is stopped").to_string();
    assert!(error.contains("is stopped") && error.contains(&format!("kill -CONT {}", target.pid())), "{error}");
    assert!(state().starts_with('T'), "it stays as it is: {}", state());
    signal("-CONT");
    prepare(target.pid()).expect("prepared");
    target.answers();
}

/// A process that has ended is there until its parent takes note, and one without its first thread for as long as the
/// others like.
#[test]
fn one_that_has_ended_is_told_from_one_that_has_lost_its_first_thread() {
    const ENDS_FIRST: &str = "import ctypes, threading
threading.Thread(target=threading.Event().wait).start()
ctypes.CDLL(None).syscall(60, 0)
";
    let python = Command::new("python3").args(["-c", ENDS_FIRST]).stdin(Stdio::null()).spawn().expect("python3");
    let ended = Command::new("true").stdin(Stdio::null()).spawn().expect("true");
    for (process, why) in [(ended, "has ended and only waits"), (python, "its first thread has ended")] {
        let process = Target(process);
        let deadline = Instant::now() + Duration::from_secs(60);
        let is_there = |state: &str| {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("its status");
            status.lines().any(|line| line.starts_with("State:") && line.contains(state))
        };
        while !is_there("zombie") {
            assert!(Instant::now() < deadline, "it does not end");
        }
        let error = prepare(process.pid()).map(drop).expect_err("it has ended").to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn says_why_not() {
    let error = prepare(i32::MAX).expect_err("no such process").to_string();
    assert!(error.contains("there is no process"), "{error}");
}

/// The second process of a machine is a thread of its kernel; a container may have another, or none.
#[test]
fn a_thread_of_the_kernel_is_none_at_once() {
    if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        let error = prepare(2).map(drop).expect_err("it has no memory").to_string();
        assert!(error.contains("a thread of the kernel"), "{error}");
    } else {
        eprintln!("skipped: no thread of the kernel is seen here");
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    let target = Target::start();
    let bytes = prepare(target.pid()).expect("prepared").descriptor.encode();
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        assert!(ForkDescriptor::decode(&damaged).is_err(), "byte {place}");
    }
    for length in 0..bytes.len() {
        assert!(ForkDescriptor::decode(&bytes[..length]).is_err(), "length {length}");
    }
}
