//! What is refused: by one sentence, with the documented exit code, and with nothing left behind.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use ramet_tests::node::program;

use super::keeper::{Keeper, Seed, code, done, err};
use super::target::Target;
use super::{can_fork, family_of};

/// Runs as nobody.
const NOBODY: u32 = 65_534;

/// What is wrong with a resume: how it is asked for, its exit code and a part of what it says.
fn wrong_resumes(seed: &Seed) -> Vec<(Seed, Vec<&'static str>, i32, &'static str)> {
    let other = |change: fn(&mut Seed)| {
        let mut seed = seed.clone();
        change(&mut seed);
        seed
    };
    let digit = |text: &mut String| {
        let other = if text.ends_with('0') { "1" } else { "0" };
        text.replace_range(31.., other);
    };
    let (mut key, mut handle) = (seed.clone(), seed.clone());
    digit(&mut key.key);
    digit(&mut handle.handle);
    vec![
        (key.clone(), vec!["--source", "local"], 3, "there is no such seed, or its key is another"),
        (key, vec!["--source", "tcp"], 3, "there is no such seed, or its key is another"),
        (handle.clone(), vec!["--source", "local"], 3, "there is no such seed, or its key is another"),
        (handle, vec!["--source", "tcp"], 3, "there is no such seed, or its key is another"),
        (other(|seed| seed.address = "127.0.0.1:1".to_owned()), vec!["--source", "tcp"], 1, "cannot reach"),
    ]
}

#[test]
fn who_does_not_know_the_key_has_no_children() {
    if !can_fork() {
        return;
    }
    let mut target = Target::python();
    let keeper = Keeper::start();
    let answer = target.ask();
    let seed = Seed::prepare(&keeper, target.pid());
    // A family that somebody reached who knows the key is not for who does not.
    let mut child = keeper.resume(&seed, &["--source", "tcp", "-o", "json", "--wait"]);
    child.rows();
    assert_eq!(child.ask(), answer);
    let before = family_of(target.marker());
    for (wrong, options, exit, part) in wrong_resumes(&seed) {
        let output = keeper.resume_fails(&wrong, &options);
        assert_eq!(code(&output), exit, "{}", err(&output));
        assert!(err(&output).contains(part), "{}", err(&output));
    }
    assert_eq!(family_of(target.marker()), before, "nothing is left behind");
    assert_eq!(child.ask(), answer, "who has the key is not disturbed");
}

#[test]
fn a_key_need_not_be_an_argument() {
    if !can_fork() {
        return;
    }
    let target = Target::python();
    let keeper = Keeper::start();
    let seed = Seed::prepare(&keeper, target.pid());
    let file = keeper.folder().join("key");
    std::fs::write(&file, format!("{}\n", seed.key)).expect("written");
    let command = |options: &[&str]| {
        let mut command = keeper.command(&["resume", &seed.address, "--handle", &seed.handle]);
        command.args(options);
        command
    };
    let file = file.display().to_string();
    for options in [["--key-file", file.as_str()], ["--key", seed.key.as_str()]] {
        // An option is meant for this command, and the variable for any.
        let mut command = command(&options);
        done(&command.env("RAMET_FORK_KEY", "none").stdin(Stdio::null()).output().expect("ramet runs"));
    }
    let variable = command(&[]).env("RAMET_FORK_KEY", "none").stdin(Stdio::null()).output().expect("ramet runs");
    assert_eq!(code(&variable), 2, "{}", err(&variable));
    assert!(err(&variable).contains("RAMET_FORK_KEY: a key has 32 hexadecimal digits"), "{}", err(&variable));
    // Without an end. Whoever reads on is ended before all of the machine's memory is gone.
    let mut endless = Command::new("sh");
    endless.args(["-c", "ulimit -v 8000000; exec \"$@\"", "sh"]).arg(program("ramet"));
    endless.args(command(&["--key-file", "/dev/zero"]).get_args()).stdin(Stdio::null());
    let endless = endless.output().expect("ramet runs");
    assert_eq!(code(&endless), 2, "{}", err(&endless));
    assert!(err(&endless).contains("/dev/zero: a key has 32 hexadecimal digits"), "{}", err(&endless));
    let mut piped = command(&["--key-file", "-"]);
    let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("ramet starts");
    piped.stdin.take().expect("input").write_all(seed.key.as_bytes()).expect("written");
    assert!(piped.wait().expect("waited").success());

    for (options, part) in [
        (vec![], "RAMET_FORK_KEY"),
        (vec!["--key-file", "/nowhere"], "/nowhere"),
        (vec!["--key-file", file.as_str(), "--key", seed.key.as_str()], "cannot be used with"),
        (vec!["--key", "1234"], "32 hexadecimal digits"),
        (vec!["--key", seed.key.as_str(), "-n", "0"], "--children"),
        (vec!["--key", seed.key.as_str(), "-n", "10001"], "--children"),
        (vec!["--key", seed.key.as_str(), "--source", "magic"], "--source"),
    ] {
        let output = command(&options).stdin(Stdio::null()).output().expect("ramet runs");
        assert_eq!(code(&output), 2, "{}", err(&output));
        assert!(err(&output).contains(part), "{}", err(&output));
    }
}

#[test]
fn what_cannot_be_prepared_is_named() {
    if !can_fork() {
        return;
    }
    let target = Target::python();
    let keeper = Keeper::start_with(&["--memory", "4MiB", "--seeds", "2"]);
    let nothing = "00000000000000000000000000000000";
    let own = keeper.pid().to_string();
    for (arguments, exit, part) in [
        (vec!["prepare", "999999999"], 3, "there is no process 999999999"),
        (vec!["prepare", "python3"], 2, "instance/"),
        (vec!["prepare", "1", "--lease", "0s"], 2, "a lease is longer than nothing"),
        (vec!["prepare", "1", "--lease", "25h"], 2, "raise `fork.lease_max`"),
        (vec!["prepare", own.as_str()], 1, "it is the one that prepares"),
        (vec!["resume", "localhost:7", "--handle", nothing], 2, "an IP address and a port, such as"),
        (vec!["resume", "127.0.0.1", "--handle", nothing], 2, "an IP address and a port, such as"),
        (vec!["renew", "00000000000000000000000000000000", "--lease", "1m"], 3, "there is no seed 00000000"),
        (vec!["revoke", "00000000000000000000000000000000"], 3, "there is no seed 00000000"),
        (vec!["revoke"], 2, "--all"),
        (vec!["revoke", "zero"], 2, "32 hexadecimal digits"),
    ] {
        let output = keeper.ramet(&arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(part), "{arguments:?}: {}", err(&output));
    }
    let large = keeper.ramet(&["prepare", &target.pid().to_string()]);
    assert_eq!(code(&large), 1);
    assert!(err(&large).contains("all seeds together may to 4194304; raise `fork.memory`"), "{}", err(&large));
    assert_eq!(family_of(target.marker()), [target.pid()], "it was given up again");

    let small = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
    let mut small = small.expect("a process");
    let seed = Seed::prepare(&keeper, small.id().cast_signed());
    let of_seed = keeper.ramet(&["prepare", &keeper.list()[0]["pid"].to_string()]);
    assert_eq!(code(&of_seed), 1, "{}", err(&of_seed));
    assert!(err(&of_seed).contains(&format!("is the seed {} itself", seed.handle)), "{}", err(&of_seed));
    let elsewhere = Keeper::start();
    let not_there = elsewhere.resume_fails(&seed, &["--source", "local"]);
    assert!(err(&not_there).contains("another keeper's"), "{}", err(&not_there));
    small.kill().and_then(|()| small.wait()).expect("ended");
}

/// Nobody could end what nobody was told of.
#[test]
fn an_answer_that_cannot_be_written_leaves_no_secret() {
    if !can_fork() {
        return;
    }
    let target = Target::python();
    let keeper = Keeper::start();
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("a full device");
    let mut prepare = keeper.command(&["prepare", &target.pid().to_string()]);
    let untold = prepare.stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).output().expect("ramet runs");
    assert!(code(&untold) == 1 && err(&untold).contains("No space left"), "{}", err(&untold));
    assert_eq!(keeper.list(), serde_json::json!([]), "it was given up");

    let seed = Seed::prepare(&keeper, target.pid());
    let mut resume = keeper.resume_command(&seed, &["-n", "2"]);
    let untold = resume.stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).output().expect("ramet runs");
    assert_eq!(code(&untold), 1, "{}", err(&untold));
    assert!(err(&untold).contains("the children go on, as processes "), "{}", err(&untold));
}

#[test]
fn nobody_keeps_seeds() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("s").display().to_string();
    let none = Command::new(program("ramet")).args(["fork", "list", "--socket", &socket]).output().expect("ramet runs");
    assert_eq!(code(&none), 4);
    assert!(err(&none).contains("`ramet fork serve`") && err(&none).contains("`ramet up`"), "{}", err(&none));
}

#[test]
fn a_stranger_to_the_keeper_has_what_is_its_own() {
    if !can_fork() {
        return;
    }
    let keeper = Keeper::start();
    let target = Target::python();
    let roots = Seed::prepare(&keeper, target.pid());
    // Whoever runs it may let others in; and theirs must be a program that they can execute.
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    };
    open(keeper.folder());
    open(&keeper.socket());
    let ramet = keeper.folder().join("ramet");
    std::fs::copy(program("ramet"), &ramet).expect("copied");
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new(&ramet);
        command.arg("fork").args(arguments).arg("--socket").arg(keeper.folder().join("s"));
        command.stdin(Stdio::null()).uid(NOBODY).gid(NOBODY).output().expect("ramet runs")
    };
    let refused = |arguments: &[&str], exit: i32, part: &str| {
        let output = nobody(arguments);
        assert_eq!(code(&output), exit, "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(part), "{arguments:?}: {}", err(&output));
    };
    refused(&["prepare", &target.pid().to_string()], 1, "user 65534 may not fork process");
    refused(&["prepare", "1"], 1, "user 65534 may not fork process 1");
    refused(&["revoke", &roots.handle], 3, "there is no seed");
    refused(&["renew", &roots.handle, "--lease", "1m"], 3, "there is no seed");
    refused(
        &["resume", &roots.address, "--handle", &roots.handle, "--key", &roots.key],
        1,
        "user 65534 may not make children",
    );
    assert_eq!(done(&nobody(&["list", "-o", "json"])).trim(), "[]", "what is another's is not shown");

    let mut own = Command::new("cat").stdin(Stdio::piped()).uid(NOBODY).gid(NOBODY).spawn().expect("cat");
    let prepared = done(&nobody(&["prepare", &own.id().to_string(), "-o", "json"]));
    let prepared: serde_json::Value = serde_json::from_str(&prepared).expect("a seed");
    let handle = prepared["handle"].as_str().expect("text");
    assert!(done(&nobody(&["list"])).contains(handle));
    assert_eq!(done(&nobody(&["revoke", "--all"])), "1 seed revoked\n", "its own");
    assert_eq!(keeper.list()[0]["handle"], roots.handle, "root's is untouched");
    let _ = own.kill();
    let _ = own.wait();
}
