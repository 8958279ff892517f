//! Forks of two builds: the other one is put where it would be kept if it had been compiled.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::{Process, descendants, ended, runs, wait_until};

/// Whether forks can be measured here.
fn can_fork() -> anyhow::Result<bool> {
    let (is_ci, is_root) = (std::env::var_os("CI").is_some(), rustix::process::geteuid().is_root());
    let has_numpy = |python: &&str| {
        let status = Command::new(python).args(["-c", "import numpy"]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let has_numpy = ["/usr/bin/python3", "python3", "python"].iter().any(has_numpy);
    let git = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(SOURCE).stderr(Stdio::null()).output();
    let lacks = if !is_root {
        "only root can give forked processes their memory as they touch it"
    } else if !has_numpy {
        "there is no Python with numpy"
    } else if !git.is_ok_and(|output| output.status.success()) {
        "this is not in a git repository"
    } else {
        return Ok(true);
    };
    anyhow::ensure!(!is_ci || is_root, "CI must run the benchmark of forks as root");
    eprintln!("skipped: {lacks}");
    Ok(false)
}

/// Where git is asked which revision there is.
const SOURCE: &str = env!("CARGO_MANIFEST_DIR");
const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// A run of `fork` whose base is kept in `cache` already, as if it had been compiled: `put` makes its program.
fn fork_with_base(
    cache: &Path,
    put: impl FnOnce(&Path) -> std::io::Result<()>,
    arguments: &[&str],
) -> anyhow::Result<Command> {
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(SOURCE).output()?;
    let commit = String::from_utf8(commit.stdout)?;
    let programs = cache.join("ramet/bench/builds").join(commit.trim()).join(PROFILE);
    fs::create_dir_all(&programs)?;
    put(&programs.join("ramet"))?;
    fs::write(programs.join("echo"), "")?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["fork", "--base=HEAD", "--systems=ramet-local,ramet-tcp,os-fork"]);
    command.args(["--memory=1MiB", "--children=3", "--crowds=1"]).args(arguments);
    command.env("XDG_CACHE_HOME", cache).env("RUST_BACKTRACE", "0").current_dir(SOURCE);
    Ok(command)
}

fn put_this(program: &Path) -> std::io::Result<()> {
    fs::copy(std::env::current_exe()?, program).map(drop)
}

pub(super) fn forks_of_two_builds_are_measured_beside_each_other() -> anyhow::Result<()> {
    if !can_fork()? {
        return Ok(());
    }
    let cache = tempfile::tempdir()?;
    let output = fork_with_base(cache.path(), put_this, &["--rounds=2"])?.output()?;
    let text = String::from_utf8(output.stderr)?;
    anyhow::ensure!(output.status.success(), "{text}");
    let (_, differences) = text.split_once("Differences between the builds").context("no differences")?;
    for measure in ["pause", "prepare", "first answer ever", "cold answer", "template answer", "fault"] {
        for system in ["ramet-local", "ramet-tcp"] {
            let is_line = |line: &&str| line.trim_start().starts_with(measure) && line.contains(&format!("{system}@"));
            let line = differences.lines().find(is_line).with_context(|| format!("no {measure} of {system}"))?;
            anyhow::ensure!(line.trim_end().ends_with("too few rounds"), "{line}");
        }
    }
    anyhow::ensure!(!text.contains("os-fork@"), "{text}");
    Ok(())
}

/// Host, zygote, seeds and page server are processes of the base's program, and a killed run leaves none of them.
pub(super) fn all_that_forks_is_of_the_measured_build() -> anyhow::Result<()> {
    if !can_fork()? {
        return Ok(());
    }
    let cache = tempfile::tempdir()?;
    let mut child = fork_with_base(cache.path(), put_this, &["--rounds=1000"])?
        .env("TMPDIR", cache.path())
        .stderr(Stdio::null())
        .spawn()?;
    let started = |program: &Path| -> Vec<Process> {
        let is_its = |process: &Process| {
            fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|file| file.starts_with(program))
        };
        descendants(child.id()).into_iter().filter(is_its).collect()
    };
    let own = std::env::current_exe()?;
    let is_complete = |program: &Path| {
        let started = started(program);
        let has = |role: &str| started.iter().any(|process| process.command.contains(role));
        ["bench-peer fork-sides", "bench-peer zygote", "bench-peer seed-keeper"].iter().all(|role| has(role))
    };
    let complete = wait_until(|| is_complete(cache.path()) && is_complete(&own));
    let all = descendants(child.id());
    child.kill()?;
    ended(&mut child)?;
    anyhow::ensure!(complete, "not all is of the build that is measured: {all:?}");
    let gone = wait_until(|| !all.iter().any(runs));
    anyhow::ensure!(gone, "still running: {:?}", all.iter().filter(|process| runs(process)).collect::<Vec<_>>());
    Ok(())
}

pub(super) fn a_build_that_knows_no_orders_is_told_of_at_once() -> anyhow::Result<()> {
    if !can_fork()? {
        return Ok(());
    }
    let older = "#!/bin/sh\necho \"error: unrecognized subcommand\" >&2\nexit 2\n";
    let other = "#!/bin/sh\necho '{\"Ready\":{\"version\":99}}' >&0\n";
    for (program, why) in [(older, "not made by a process that can be told"), (other, "version: 99")] {
        let put = |file: &Path| {
            fs::write(file, program)?;
            fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        };
        let cache = tempfile::tempdir()?;
        let output = fork_with_base(cache.path(), put, &["--rounds=1000"])?.output()?;
        let text = String::from_utf8(output.stderr)?;
        anyhow::ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
        anyhow::ensure!(text.contains(why) && text.contains("HEAD"), "{text}");
        anyhow::ensure!(text.trim().lines().count() == 1, "{text}");
    }
    Ok(())
}
