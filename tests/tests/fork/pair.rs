//! Two guests, each with an RDMA device: a process is forked from the one to the other as people would do it, and what
//! its children get to see when the other one's seed, its keeper or its device is gone.
//!
//! Both run this program. They tell each other what to do by files in the folder that both have.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ramet_tests::eventually;
use ramet_tests::guest::bytes_by_rdma;
use ramet_tests::node::skipped;
use serde_json::Value;

use super::keeper::{Children, Keeper, Seed, code, done, err};
use super::target::{BLOCKS, DATA_BYTES, Target};

/// The other guest may have a lot to do before.
const PATIENCE: Duration = Duration::from_secs(120);

/// A seed for each thing that happens to seeds.
const SEEDS: [&str; 4] = ["pulled", "revoked", "killed", "orphaned"];

/// Whether this is the guest with this part of two.
fn is_guest(role: &str) -> bool {
    let is_one_of_two = std::env::var("XTASK_VM_PEER").is_ok_and(|peer| peer != "none");
    let is_it = is_one_of_two && std::env::var("XTASK_VM_ROLE").as_deref() == Ok(role);
    if !is_it {
        skipped("this takes two guests: cargo xtask test --guests only -- 'two guests'");
    }
    is_it
}

/// A file in the folder that both guests have.
fn shared(name: &str) -> PathBuf {
    PathBuf::from(std::env::var("XTASK_VM_OUT").expect("a guest's folder")).join(name)
}

/// Tells the other guest something; it never reads half of it.
fn say(name: &str, text: &str) {
    let new = shared(&format!("{name}.new"));
    fs::write(&new, text).and_then(|()| fs::rename(&new, shared(name))).expect("said");
}

/// Waits until the other guest has said it.
fn hear(name: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(text) = fs::read_to_string(shared(name)) {
            return text;
        }
        assert!(Instant::now() < deadline, "waited in vain for the other guest to say: {name}");
        // tidy: the other guest is waited for, with a deadline
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Has the other guest do something.
fn ask_for(deed: &str) {
    say(deed, "");
    hear(&format!("{deed}, done"));
}

/// Does something when the other guest says so.
fn when_asked_for(deed: &str, act: impl FnOnce()) {
    hear(deed);
    act();
    say(&format!("{deed}, done"), "");
}

/// Prepares the process and lets the other guest have what it takes to make children of it.
fn offer(keeper: &Keeper, pid: i32, name: &str) -> Seed {
    let seed = Seed::prepare(keeper, pid);
    fs::write(shared(&format!("key of {name}")), format!("{}\n", seed.key)).expect("a key file");
    say(name, &seed.printed.to_string());
    seed
}

/// A seed of the other guest's.
struct Offered {
    address: String,
    handle: String,
    key_file: PathBuf,
}

impl Offered {
    fn take(name: &str) -> Self {
        let printed: Value = serde_json::from_str(&hear(name)).expect("a seed");
        let text = |field: &str| printed[field].as_str().expect("text").to_owned();
        Self { address: text("address"), handle: text("handle"), key_file: shared(&format!("key of {name}")) }
    }

    fn resume(&self, keeper: &Keeper, options: &[&str]) -> Command {
        let mut command = keeper.command(&["resume", &self.address, "--handle", &self.handle]);
        command.arg("--key-file").arg(&self.key_file).args(options);
        command
    }

    /// A child that can be spoken to, and its number.
    fn child(&self, keeper: &Keeper, options: &[&str]) -> (Children, i64) {
        let mut child = keeper.children(self.resume(keeper, &[&["-o", "json", "--wait"], options].concat()));
        let rows = child.rows();
        (child, rows[0]["pid"].as_i64().expect("its number"))
    }

    /// Why there is no child.
    fn refusal(&self, keeper: &Keeper, options: &[&str]) -> (i32, String) {
        let output = self.resume(keeper, options).stdin(Stdio::null()).output().expect("ramet runs");
        assert_ne!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(err(&output).lines().count(), 1, "one clear error: {}", err(&output));
        (code(&output), err(&output))
    }
}

/// How long this guest runs, in seconds.
fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").expect("how long it runs");
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).expect("seconds")
}

/// How much longer a process takes its machine to run, in seconds.
fn further(pid: i64) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/timens_offsets")).expect("its time namespace");
    let line = text.lines().find_map(|line| line.strip_prefix("boottime")).expect("a clock");
    let numbers: Vec<f64> = line.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    numbers[0] + numbers[1] / 1e9
}

/// The one guest: what is forked is here, and what happens to seeds happens here.
#[test]
fn seeds_are_kept_for_another_guest() {
    if !is_guest("peer") {
        return;
    }
    let mut python = Target::numpy();
    let mut keeper = Keeper::start();
    let seeds = SEEDS.map(|name| offer(&keeper, python.pid(), name));
    let all = std::iter::once(b'?').chain(BLOCKS);
    let answers: String = all.map(|what| python.ask_for(what)).collect();
    say("answers", &answers);
    say("uptime", &uptime().to_string());

    when_asked_for("wait until nobody reads the pulled one", || {
        eventually("all pages to have gone over", || {
            let listed = keeper.list();
            let mut all = listed.as_array().expect("seeds").iter();
            all.any(|seed| seed["handle"] == seeds[0].handle.as_str() && seed["readers"] == 0).then_some(())
        });
    });
    when_asked_for("revoke it", || {
        let revoked = done(&keeper.ramet(&["revoke", &seeds[1].handle]));
        assert_eq!(revoked, format!("seed {} revoked\n", seeds[1].handle));
    });
    when_asked_for("kill the seed", || {
        let listed = keeper.list();
        let mut all = listed.as_array().expect("seeds").iter();
        let pid = all.find(|seed| seed["handle"] == seeds[2].handle.as_str()).and_then(|seed| seed["pid"].as_i64());
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).expect("the seed's process");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    });
    when_asked_for("kill the keeper", || {
        kill(keeper.pid(), Signal::SIGKILL).expect("killed");
        keeper.wait();
    });
    when_asked_for("go on without a device", || {
        let device = std::env::var("XTASK_VM_DEVICE").expect("a guest's device");
        let removed = Command::new("rdma").args(["link", "delete", &device]).status().expect("rdma runs");
        assert!(removed.success(), "{removed}");
        keeper.start_again();
        offer(&keeper, python.pid(), "plain");
    });
    assert_eq!(python.ask_for(b'?'), answers.split_inclusive('\n').next().expect("the first"), "it goes on");
    hear("the end");
}

/// The other guest: its children have the first one's memory, or end.
#[test]
fn a_process_goes_on_in_another_guest_or_ends_and_never_reads_anything_else() {
    if !is_guest("command") {
        return;
    }
    let keeper = Keeper::start();
    let pulled = Offered::take("pulled");
    let answers = hear("answers");
    let mut answers = answers.split_inclusive('\n');
    let (whole, blocks): (&str, Vec<&str>) = (answers.next().expect("one"), answers.collect());
    assert_eq!(blocks.len(), BLOCKS.len());

    let before = bytes_by_rdma();
    let (mut independent, pid) = pulled.child(&keeper, &["--source", "rdma", "--pull"]);
    assert_eq!(independent.ask(), whole, "the child has the data");
    // Its clocks go on from when it was prepared, which was at most so long before.
    let (then, now): (f64, f64) = (hear("uptime").parse().expect("seconds"), uptime() + further(pid));
    assert!(further(pid).abs() > 0.0, "both guests were not started in one nanosecond");
    assert!((then - PATIENCE.as_secs_f64()..then + PATIENCE.as_secs_f64()).contains(&now), "{then} s, then {now} s");
    ask_for("wait until nobody reads the pulled one");
    let bytes = bytes_by_rdma() - before;
    assert!(bytes >= DATA_BYTES, "{bytes} bytes came by RDMA");

    for (name, deed, refused) in [
        ("revoked", "revoke it", "it was revoked"),
        ("killed", "kill the seed", "its process was killed"),
        ("orphaned", "kill the keeper", "cannot reach a page server"),
    ] {
        let offered = Offered::take(name);
        let (mut child, pid) = offered.child(&keeper, &["--source", "rdma"]);
        assert_eq!(child.ask_for(BLOCKS.start).as_deref(), Some(blocks[0]), "{name}");
        ask_for(deed);
        let mut rest = BLOCKS.zip(&blocks).skip(1);
        let ended = rest.find(|(what, right)| match child.ask_for(*what) {
            Some(answer) => {
                assert_eq!(answer, **right, "{name}: right bytes or none");
                false
            }
            None => true,
        });
        assert!(ended.is_some(), "{name}: it has all of its memory, so this shows nothing");
        let (status, error) = child.wait();
        let lost = "was ended by SIGBUS: its seed was lost before it had all of its memory";
        assert_eq!((status.code(), error), (Some(1), format!("ramet: child {pid} {lost}\n")), "{name}");
        let (_, why) = offered.refusal(&keeper, &["--source", "rdma"]);
        assert!(why.contains(refused), "{name}: {why}");
    }
    let log = keeper.log();
    let said = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(said("the seed is lost: a child that touches a page it does not have gets SIGBUS"), 3, "{log}");
    assert_eq!(said("a child has ended by SIGBUS: its seed was lost before it had all of its memory"), 3, "{log}");
    assert_eq!(independent.ask(), whole, "who has all needs nobody");

    ask_for("go on without a device");
    let plain = Offered::take("plain");
    let (status, why) = plain.refusal(&keeper, &["--source", "rdma"]);
    assert_eq!(status, 1);
    assert!(why.contains("the seed's host cannot let it be read by RDMA: no RDMA device"), "{why}");
    assert!(why.contains("use --source tcp"), "{why}");
    let (mut child, _) = plain.child(&keeper, &[]);
    assert_eq!(child.ask(), whole);
    assert!(keeper.log().contains("a seed of another host is read over TCP"), "{}", keeper.log());
    say("the end", "");
}
