//! What the program does before its first request: it needs a supervisor, and says so.

use std::process::{Command, Stdio};

use ramet_control::instance::FromInstance;
use ramet_control::socket::ControlSocket;

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
