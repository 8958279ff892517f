//! What the program does before its first request: it needs a supervisor, says so, and keeps its memory to itself.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ramet_control::instance::FromInstance;
use ramet_control::socket::ControlSocket;
use ramet_sys::{Limits, Network, Output, Program, Sandbox, User, spawn};

/// Somebody who is neither root nor anybody else.
const USER: u32 = 345_678;

#[test]
fn started_by_hand_it_says_how_it_is_started() {
    let output = Command::new(env!("CARGO_BIN_EXE_echo")).stdin(Stdio::null()).output().expect("runs");
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("`ramet up`") && said.lines().count() == 1, "{said}");
}

#[test]
fn it_introduces_itself_and_ends_with_its_supervisor() {
    let (supervisor, instance) = ControlSocket::pair().expect("pair");
    let stdin = Stdio::from(instance.into_fd());
    let mut child = Command::new(env!("CARGO_BIN_EXE_echo")).stdin(stdin).spawn().expect("runs");
    let (hello, _) = supervisor.receive::<FromInstance>().expect("a first word");
    assert!(matches!(hello, FromInstance::Hello { sdk, .. } if sdk.starts_with("ramet-sdk ")));
    drop(supervisor);
    assert!(child.wait().expect("ends").success());
}

#[test]
fn a_process_of_the_same_user_cannot_read_its_memory() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must be root");
        eprintln!("skipped: only root can start two processes as another user");
        return;
    }
    let (supervisor, instance) = ControlSocket::pair().expect("pair");
    let user = Some(User { uid: USER, gid: USER });
    let sandbox = Sandbox { user, network: Network::None, limits: Limits::default() };
    let child = spawn(program(instance), &sandbox).expect("starts");
    supervisor.receive::<FromInstance>().expect("a first word");
    // What is refused here must be allowed with an ordinary process, or this test says nothing.
    let mut other = as_user("read line").stdin(Stdio::piped()).spawn().expect("a process");
    let readable = opens_memory(other.id());
    drop(other.stdin.take());
    other.wait().expect("reaped");
    assert!(readable.is_ok(), "an ordinary process of the user: {readable:?}");
    let error = opens_memory(child.pid).expect_err("the function's memory was opened");
    assert!(error.contains("ermission denied"), "{error}");
    drop(supervisor);
    assert!(child.pidfd.wait().expect("ends").success());
}

fn program(instance: ControlSocket) -> Program {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_echo"));
    Program {
        arguments: vec![path.clone().into()],
        path,
        environment: Vec::new(),
        folder: PathBuf::from("/"),
        stdin: instance.into_fd(),
        output: Output::Inherited,
    }
}

/// Whether a process of the user can open the memory of a process; if not, what its shell says.
fn opens_memory(pid: u32) -> Result<(), String> {
    let output = as_user(&format!("exec 3</proc/{pid}/mem")).output().expect("a shell");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn as_user(script: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).env_clear().current_dir("/").uid(USER).gid(USER);
    shell
}
