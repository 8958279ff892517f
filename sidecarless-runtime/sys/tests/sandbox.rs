//! What a child finds in its sandbox, and that it cannot outlive its supervisor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ramet_sys::{
    Captured, Child, End, Limits, Network, Outcome, Output, Part, Program, Sandbox, SpawnError, User, probe, spawn,
};
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};

const INMATE: &str = env!("CARGO_BIN_EXE_ramet-sys-inmate");
const EPERM: &str = "1";
const ENOSYS: &str = "38";

fn null() -> OwnedFd {
    File::open("/dev/null").expect("/dev/null").into()
}

fn program(path: impl Into<PathBuf>, task: &str) -> Program {
    let path = path.into();
    Program {
        arguments: vec![path.clone().into(), task.into()],
        path,
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        folder: PathBuf::from("/"),
        stdin: null(),
        output: Output::Captured,
    }
}

fn sandbox() -> Sandbox {
    let user = geteuid().is_root().then_some(User { uid: 234_567, gid: 234_568 });
    Sandbox { user, network: Network::None, limits: Limits::default() }
}

fn output(child: Child) -> HashMap<String, String> {
    let Captured { mut stdout, mut stderr } = child.captured.expect("captured");
    let mut text = String::new();
    stdout.read_to_string(&mut text).expect("text");
    let mut errors = String::new();
    stderr.read_to_string(&mut errors).expect("text");
    let status = child.pidfd.wait().expect("reaped");
    assert!(status.success(), "{status}: {errors}");
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn run(task: &str, sandbox: &Sandbox) -> HashMap<String, String> {
    output(spawn(program(INMATE, task), sandbox).expect("spawned"))
}

fn own_namespace(name: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace").display().to_string()
}

#[test]
fn a_child_is_somebody_else_and_can_nothing() {
    let facts = run("facts", &sandbox());
    assert_eq!(facts["nonewprivs"], "1");
    assert_eq!(facts["seccomp"], "2", "a filter is in force");
    assert_eq!(facts["capeff"], "0000000000000000");
    assert_eq!(facts["capprm"], "0000000000000000");
    assert_eq!(facts["capinh"], "0000000000000000");
    assert_eq!(facts["session"], "true");
    assert_eq!(facts["umask"], if geteuid().is_root() { "0007" } else { "0077" });
    if geteuid().is_root() {
        assert_eq!(facts["uid"], "234567 234567 234567 234567");
        assert_eq!(facts["gid"], "234568 234568 234568 234568");
        assert_eq!(facts["groups"], "");
        assert_eq!(facts["capbnd"], "0000000000000000");
    }
}

#[test]
fn the_report_tells_the_truth_about_namespaces() {
    let child = spawn(program(INMATE, "facts"), &sandbox()).expect("spawned");
    let report = child.report.clone();
    let facts = output(child);
    for (part, name) in [
        (Part::MountNamespace, "mnt"),
        (Part::IpcNamespace, "ipc"),
        (Part::NetworkNamespace, "net"),
        (Part::ProcessNamespace, "pid"),
        (Part::UserNamespace, "user"),
    ] {
        let differs = facts[&format!("ns_{name}")] != own_namespace(name);
        assert_eq!(differs, report.outcome(part) == Outcome::Applied, "{part}: {:?}", report.outcome(part));
    }
}

#[test]
fn the_gateway_keeps_the_hosts_network() {
    let facts = run("facts", &Sandbox { network: Network::Host, ..sandbox() });
    assert_eq!(facts["ns_net"], own_namespace("net"));
}

/// What a listener in a child's own network says to a socket that the child has handed out.
fn ask(socket: &OwnedFd) -> String {
    let address = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 4242);
    rustix::net::connect(socket, &address).expect("connected");
    let mut said = String::new();
    File::from(socket.try_clone().expect("dup")).read_to_string(&mut said).expect("text");
    said
}

#[test]
fn a_network_of_its_own_is_reached_by_its_sockets_and_by_nothing_else() {
    let sandbox = Sandbox { network: Network::Own { sockets: 40 }, ..sandbox() };
    let mut child = spawn(program(INMATE, "listen"), &sandbox).expect("spawned");
    assert_eq!(child.report.outcome(Part::NetworkNamespace), Outcome::Applied);
    assert_eq!(child.sockets.len(), 40, "more than fit one message");
    let Captured { stdout, .. } = child.captured.take().expect("captured");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line, "listens\n");
    assert!(std::net::TcpStream::connect("127.0.0.1:4242").is_err(), "it is another network than ours");
    assert_eq!((ask(&child.sockets[0]), ask(&child.sockets[39])), ("inside".to_owned(), "inside".to_owned()));
    // A socket can be used again and again, which is why they need not be many.
    for _ in 0..3 {
        rustix::net::connect_unspec(&child.sockets[0]).expect("disconnected");
        let _ = rustix::net::sockopt::socket_error(&child.sockets[0]);
        assert_eq!(ask(&child.sockets[0]), "inside");
    }
    child.pidfd.signal(End::Kill).expect("killed");
    child.pidfd.wait().expect("reaped");
}

#[test]
fn denied_calls_fail_and_ordinary_ones_work() {
    let calls = run("calls", &sandbox());
    for name in [
        "bpf",
        "ptrace",
        "unshare",
        "setns",
        "mount",
        "userfaultfd",
        "io_uring_setup",
        "perf_event_open",
        "keyctl",
        "init_module",
        "process_vm_readv",
        "settimeofday",
        "clone_newuser",
    ] {
        assert_eq!(calls[name], EPERM, "{name}");
    }
    assert_eq!(calls["clone3"], ENOSYS);
    assert_eq!(calls["x32_getpid"], ENOSYS);
    assert_eq!(calls["getppid"], "0");
    assert_eq!(calls["thread"], "true");
    assert_eq!(calls["subprocess"], "true");
}

#[test]
fn nothing_is_inherited() {
    let leak = File::open("/dev/null").expect("/dev/null");
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("not closed on exec");
    let facts = run("facts", &sandbox());
    assert_eq!(facts["inherited"], "0");
    assert_eq!(facts["variables"], "PATH:/usr/bin:/bin");
    assert_eq!(facts["folder"], "/");
}

#[test]
fn limits_are_what_was_asked_for() {
    let limits = Limits { memory_bytes: Some(64 << 20), open_files: Some(77), processes: Some(33) };
    let sandbox = Sandbox { limits, ..sandbox() };
    let child = spawn(program(INMATE, "facts"), &sandbox).expect("spawned");
    let counted = child.report.outcome(Part::ProcessLimit) == Outcome::Applied;
    let facts = output(child);
    assert_eq!(facts["limit_core"], "0");
    assert_eq!(facts["limit_files"], "77");
    assert_eq!(facts["limit_data"], (64 << 20).to_string());
    assert_eq!(facts["limit_processes"] == "33", counted);
    assert_eq!(run("allocate", &sandbox)["allocated"], "false");
    assert_eq!(run("allocate", &self::sandbox())["allocated"], "true");
}

#[test]
fn a_program_runs_although_its_user_cannot_enter_its_folder() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can start a child as another user");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).expect("private");
    let copy = folder.path().join("inmate");
    std::fs::copy(INMATE, &copy).expect("copied");
    let facts = output(spawn(program(&copy, "facts"), &sandbox()).expect("spawned"));
    assert_eq!(facts["uid"], "234567 234567 234567 234567");
    assert_eq!(facts["inherited"], "0");
    let script = folder.path().join("script");
    File::create(&script).and_then(|mut file| file.write_all(b"#!/bin/sh\necho said=$1\n")).expect("written");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("executable");
    assert_eq!(output(spawn(program(&script, "hello"), &sandbox()).expect("spawned"))["said"], "hello");
}

#[test]
fn failures_say_what_failed() {
    let missing = spawn(program("/nowhere/at/all", "facts"), &sandbox()).expect_err("no such file");
    assert!(matches!(missing, SpawnError::Program { .. }), "{missing}");
    let folder = spawn(program("/dev", "facts"), &sandbox()).expect_err("a folder");
    assert!(matches!(folder, SpawnError::Execute { .. }), "{folder}");
    let nowhere = Program { folder: PathBuf::from("/nowhere"), ..program(INMATE, "facts") };
    assert!(matches!(spawn(nowhere, &sandbox()), Err(SpawnError::System { .. })));
    if !geteuid().is_root() {
        let stranger = Sandbox { user: Some(User { uid: 1, gid: 1 }), ..sandbox() };
        assert!(matches!(probe(&stranger), Err(SpawnError::Sandbox { part: Part::User, .. })));
    }
}

#[test]
fn a_user_with_too_many_processes_is_said_to_have_them() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can start a child as another user");
        return;
    }
    let user = Some(User { uid: 234_569, gid: 234_569 });
    let limits = Limits { processes: Some(1), ..Limits::default() };
    let crowded = Sandbox { user, limits, ..sandbox() };
    // The kernel looks before it counts the new one.
    let those: Vec<_> = (0..2).map(|_| spawn(program("/bin/sleep", "60"), &crowded).expect("room")).collect();
    let text = spawn(program("/bin/sleep", "60"), &crowded).expect_err("no room").to_string();
    assert!(text.ends_with("; its user has as many processes already as one may have"), "{text}");
    for child in those {
        child.pidfd.signal(End::Kill).expect("still there");
        child.pidfd.wait().expect("reaped");
    }
}

#[test]
fn a_probe_reports_without_running_anything() {
    let report = probe(&sandbox()).expect("a report");
    assert_eq!(report.outcome(Part::Seccomp), Outcome::Applied);
    assert_eq!(report.outcome(Part::NoNewPrivileges), Outcome::Applied);
}

#[test]
fn a_pidfd_tells_and_makes_an_end() {
    let (stdin, _writer) = std::io::pipe().expect("pipe");
    let mut child = spawn(Program { stdin: stdin.into(), ..program(INMATE, "wait") }, &sandbox()).expect("spawned");
    assert!(!child.pidfd.has_ended().expect("no error"));
    let mut word = [0; 4];
    let captured = child.captured.as_mut().expect("captured");
    captured.stdout.read_exact(&mut word).expect("it runs");
    child.pidfd.signal(End::Kill).expect("signalled");
    let mut ready = [rustix::event::PollFd::from_borrowed_fd(child.pidfd.as_fd(), rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ready, Some(&timeout)).expect("poll"), 1);
    assert_eq!(child.pidfd.wait().expect("reaped").to_string(), "signal: 9 (SIGKILL)");
    child.pidfd.signal(End::Ask).expect("no error when it is gone");
    assert!(child.pidfd.wait().is_err(), "reaped once");
}

#[test]
fn a_child_dies_with_its_supervisor() {
    let mut supervisor = Command::new(INMATE)
        .arg("supervise")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a supervisor");
    let mut line = String::new();
    let stdout = supervisor.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let pid = line.trim().strip_prefix("pid=").and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw).expect("a pid");
    test_kill_process(pid).expect("the child lives");
    let supervisor_pid = Pid::from_child(&supervisor);
    kill_process(supervisor_pid, Signal::KILL).expect("killed");
    supervisor.wait().expect("reaped");
    wait_until_dead(pid);
}

#[test]
fn what_a_child_leaves_behind_is_killed() {
    // A number that no other process sleeps for.
    let seconds = (1_000_000 + u64::from(std::process::id())).to_string();
    let script = format!("sleep {seconds} >/dev/null 2>&1 & echo left=$!");
    let shell = Program { arguments: vec!["sh".into(), "-c".into(), script.into()], ..program("/bin/sh", "") };
    assert!(output(spawn(shell, &sandbox()).expect("spawned")).contains_key("left"));
    let sleeps = || {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let command =
            |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        processes.map(command).any(|line| line.starts_with("sleep") && line.contains(&seconds))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while sleeps() {
        assert!(Instant::now() < deadline, "a grandchild outlived its parent");
        std::thread::yield_now();
    }
}

fn wait_until_dead(pid: Pid) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} outlived its parent");
        std::thread::yield_now();
    }
}

/// Whether the process runs; a zombie that nobody has reaped yet does not.
fn alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z')
}
