//! `ramet fork` as people use it: processes are forked between keepers that share nothing but a TCP connection.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ramet_tests::node::{family, skipped};
use ramet_tests::{Node, Start, eventually};

#[path = "fork/keeper.rs"]
mod keeper;
#[path = "fork/pair.rs"]
mod pair;
#[path = "fork/refused.rs"]
mod refused;
#[path = "fork/target.rs"]
mod target;

use keeper::{Keeper, Seed, code, done, err, keys};
use target::Target;

/// Whether processes can be forked here, which takes a privileged user.
fn can_fork() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        assert!(std::env::var_os("CI").is_none(), "CI must run the fork's tests as root");
        skipped("only root can give forked processes their memory as they touch it");
    }
    is_root
}

/// What a row of a resume has.
const CHILD: [&str; 5] = ["pid", "first", "open_us", "fork_us", "start_us"];
const FIRST: [&str; 6] = ["connect_us", "plan_us", "copy_us", "map_us", "register_us", "push_us"];

/// Forks the target to another keeper and has it answer there.
fn goes_on_elsewhere(mut target: Target, source: &str) {
    let (here, there) = (Keeper::start(), Keeper::start());
    let before = target.ask();
    let seed = Seed::prepare(&here, target.pid());
    for is_first in [true, false] {
        let mut child = there.resume(&seed, &["--source", source, "-o", "json", "--wait"]);
        let rows = child.rows();
        assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
        assert_eq!(keys(&rows[0]), keys(&CHILD));
        assert_eq!(rows[0]["first"].is_object(), is_first, "{rows}");
        if is_first {
            assert_eq!(keys(&rows[0]["first"]), keys(&FIRST));
        }
        assert_eq!(child.ask(), before, "the child has the data");
        assert_eq!(child.ask(), before, "and goes on");
        assert_eq!(target.ask(), before, "and so does the forked process");
        let (status, error) = child.close();
        assert_eq!((status.code(), error.as_str()), (Some(0), ""), "it has ended as the program does");
    }
}

#[test]
fn a_python_process_goes_on_elsewhere() {
    if can_fork() {
        goes_on_elsewhere(Target::python(), "tcp");
    }
}

#[test]
fn a_program_with_threads_goes_on_elsewhere() {
    if can_fork() {
        goes_on_elsewhere(Target::threads(), "tcp");
    }
}

/// Where there is no RDMA device `--source rdma` is refused, and any source is TCP. Where there is one, in a guest, it
/// is used.
#[test]
fn a_process_goes_on_elsewhere_by_rdma() {
    if !can_fork() {
        return;
    }
    let devices = std::fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
    if devices > 0 {
        goes_on_elsewhere(Target::python(), "rdma");
        return;
    }
    skipped("RDMA: this machine has no device; a guest of `cargo xtask vm` has one");
    let target = Target::python();
    let (here, there) = (Keeper::start(), Keeper::start());
    let seed = Seed::prepare(&here, target.pid());
    let refused = there.resume_fails(&seed, &["--source", "rdma"]);
    assert_eq!(code(&refused), 1);
    assert!(err(&refused).contains("no RDMA device") || err(&refused).contains("no libibverbs"), "{}", err(&refused));
    done(&there.resume_command(&seed, &[]).stdin(Stdio::null()).output().expect("ramet runs"));
}

/// A child is forked on twice, each time to another host. What the last one has not been given by then comes from all
/// three hosts before it.
#[test]
fn a_child_is_forked_on_from_host_to_host() {
    if !can_fork() {
        return;
    }
    for mut target in [Target::python(), Target::threads()] {
        let keepers = [(); 4].map(|()| Keeper::start());
        let before = target.ask();
        let mut seed = Seed::prepare(&keepers[0], target.pid());
        let mut between = Vec::new();
        for keeper in &keepers[1..3] {
            let mut child = keeper.resume(&seed, &["--source", "tcp", "-o", "json", "--wait"]);
            let rows = child.rows();
            let pid = rows[0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("its number");
            // Another keeper does not know what it lacks.
            let stranger = keepers[0].ramet(&["prepare", &pid.to_string()]);
            assert_eq!(code(&stranger), 1, "{}", err(&stranger));
            assert!(err(&stranger).contains("userfaultfd"), "{}", err(&stranger));
            seed = Seed::prepare(keeper, pid);
            between.push(child);
        }
        let mut last = keepers[3].resume(&seed, &["--source", "tcp", "-o", "json", "--wait"]);
        last.rows();
        assert_eq!(last.ask(), before, "it has the data");
        for mut child in between {
            assert_eq!(child.ask(), before, "and so have those between, one after the other of which ends");
        }
        // A seed in the middle is of no use without the first one.
        done(&keepers[0].ramet(&["revoke", "--all"]));
        let refused = keepers[1].resume_fails(&seed, &["--source", "tcp"]);
        assert!(err(&refused).contains("it was revoked"), "{}", err(&refused));
    }
}

/// Children of which all has come do not need their seed.
#[test]
fn children_that_were_pulled_outlive_their_seed() {
    if !can_fork() {
        return;
    }
    let mut target = Target::python();
    let (here, there) = (Keeper::start(), Keeper::start());
    let before = target.ask();
    for (keeper, source) in [(&there, "tcp"), (&here, "local")] {
        let seed = Seed::prepare(&here, target.pid());
        let mut child = keeper.resume(&seed, &["--source", source, "--pull", "-o", "json", "--wait"]);
        child.rows();
        eventually("all pages to have come", || {
            here.list()[0]["readers"].as_u64().is_some_and(|readers| readers == 0).then_some(())
        });
        done(&here.ramet(&["revoke", &seed.handle]));
        assert_eq!(child.ask(), before, "{source}");
        let refusal = eventually("another host to hear that it has no further children", || {
            let mut resume = keeper.resume_command(&seed, &["--source", source]);
            let output = resume.stdin(Stdio::null()).output().expect("ramet runs");
            (!output.status.success()).then(|| err(&output))
        });
        assert!(refusal.contains("it was revoked"), "{source}: {refusal}");
    }
}

#[test]
fn a_hundred_children_answer() {
    if !can_fork() {
        return;
    }
    const CHILDREN: usize = 100;
    let mut target = Target::python();
    let (here, there) = (Keeper::start(), Keeper::start());
    let answer = target.ask();
    let seed = Seed::prepare(&here, target.pid());
    let mut children = there.resume(&seed, &["-n", "100", "-o", "json", "--wait"]);
    let rows = children.rows();
    let rows = rows.as_array().expect("rows");
    let pids: std::collections::BTreeSet<_> = rows.iter().filter_map(|row| row["pid"].as_i64()).collect();
    assert_eq!((rows.len(), pids.len()), (CHILDREN, CHILDREN));
    assert_eq!(rows.iter().filter(|row| row["first"].is_object()).count(), 1, "the others come of a template");
    // Each takes one question, and waits for the next: who is quick may have several.
    for _ in 0..CHILDREN {
        assert_eq!(children.ask(), answer);
    }
    let (status, error) = children.close();
    assert_eq!((status.code(), error.as_str()), (Some(0), ""));
}

#[test]
fn seeds_are_prepared_listed_renewed_and_revoked() {
    if !can_fork() {
        return;
    }
    let target = Target::python();
    let keeper = Keeper::start();
    let seed = Seed::prepare(&keeper, target.pid());
    let wanted = ["address", "handle", "key", "expires", "pause_us", "prepare_us", "descriptor_bytes"];
    assert_eq!(keys(&seed.printed), keys(&wanted));
    assert!(seed.printed["descriptor_bytes"].as_u64().is_some_and(|bytes| (1000..1 << 20).contains(&bytes)));
    let other = Seed::prepare(&keeper, target.pid());

    let listed = keeper.list();
    let wanted =
        ["handle", "parent", "name", "pid", "age_seconds", "lease_left_seconds", "expires", "bytes", "readers"];
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(keys(&listed[0]), keys(&wanted));
    assert_eq!(listed[0]["handle"], seed.handle, "the oldest first");
    assert_eq!((listed[0]["parent"].as_i64(), &listed[0]["name"]), (Some(target.pid().into()), &"python3".into()));
    assert!(listed[0]["lease_left_seconds"].as_u64().is_some_and(|left| (590..=600).contains(&left)), "{listed}");

    let renewed = done(&keeper.ramet(&["renew", &seed.handle, "--lease", "2h"]));
    assert!(renewed.contains(&format!("seed {} is kept until 20", seed.handle)), "{renewed}");
    assert!(keeper.list()[0]["lease_left_seconds"].as_u64().is_some_and(|left| left > 7100));

    // One that lasts longer stays as it is, and that is said. What ends a moment later may end in the next second.
    eventually("its true end to be told", || {
        let renewed = done(&keeper.ramet(&["renew", &seed.handle, "--lease", "10s"]));
        let expires = keeper.list()[0]["expires"].as_str().expect("text").to_owned();
        (renewed == format!("seed {} is kept until {expires}\n", seed.handle)).then_some(())
    });

    let renewed = done(&keeper.ramet(&["renew", &seed.handle, "--lease", "10s", "-o", "json"]));
    let renewed: serde_json::Value = serde_json::from_str(&renewed).expect("an answer");
    assert_eq!(keys(&renewed), keys(&["handle", "expires"]));
    assert_eq!(renewed["handle"], seed.handle);

    let revoked = done(&keeper.ramet(&["revoke", &seed.handle]));
    assert_eq!(revoked, format!("seed {} revoked\n", seed.handle));
    let gone = keeper.resume_fails(&seed, &[]);
    assert_eq!(code(&gone), 3);
    assert!(err(&gone).contains("it was revoked"), "{}", err(&gone));
    assert_eq!(code(&keeper.ramet(&["revoke", &seed.handle])), 3, "it is no more");
    assert_eq!(done(&keeper.ramet(&["revoke", "--all"])), "1 seed revoked\n");
    assert_eq!(done(&keeper.ramet(&["revoke", "--all", "-o", "yaml"])), "revoked: 0\n");
    assert_eq!(keeper.list().as_array().map(Vec::len), Some(0));
    assert!(err(&keeper.resume_fails(&other, &[])).contains("it was revoked"));
    eventually("the seeds' processes to end", || (family_of(target.marker()) == [target.pid()]).then_some(()));
}

/// The processes whose command line has a word.
fn family_of(marker: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has_it = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(marker)
    };
    pids.filter(has_it).collect()
}

#[test]
fn nothing_outlives_a_killed_keeper() {
    if !can_fork() {
        return;
    }
    for mut target in [Target::python(), Target::threads()] {
        let mut keeper = Keeper::start();
        let before = target.ask();
        let seed = Seed::prepare(&keeper, target.pid());
        let mut children = keeper.resume(&seed, &["-n", "3", "-o", "json", "--wait"]);
        assert_eq!(children.rows().as_array().map(Vec::len), Some(3));
        assert_eq!(children.ask(), before);
        // The zygote, the guard, the template, the children, and where threads have numbers the first of each
        // namespace; of the seed it is the tracer alone.
        let of_keeper: Vec<Pid> = family(keeper.pid().as_raw().cast_unsigned()).into_iter().map(|one| one.0).collect();
        assert!(of_keeper.len() >= 7, "{of_keeper:?}");
        let of_target = family_of(target.marker());
        assert!(of_target.len() >= 6, "target, seed, template and children: {of_target:?} of {of_keeper:?}");
        kill(keeper.pid(), Signal::SIGKILL).expect("killed");
        keeper.wait();
        eventually("every process to end", || {
            let is_alive = |pid: &&Pid| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.is_empty() && !stat.contains(") Z ")
            };
            let alive = of_keeper.iter().filter(is_alive).count();
            (alive == 0 && family_of(target.marker()) == [target.pid()]).then_some(())
        });
        assert_eq!(target.ask(), before, "the forked process goes on");
        let (status, error) = children.close();
        assert_eq!(status.code(), Some(1));
        assert!(error.contains("is gone"), "{error}");
        // Another keeper can take its place, and the socket's name.
        keeper.start_again();
        Seed::prepare(&keeper, target.pid());
    }
}

#[test]
fn who_waits_hears_of_ends_and_ends_children() {
    if !can_fork() {
        return;
    }
    let target = Target::python();
    let keeper = Keeper::start();
    let seed = Seed::prepare(&keeper, target.pid());
    let start = || {
        let mut children = keeper.resume(&seed, &["-n", "2", "-o", "json", "--wait"]);
        let rows = children.rows();
        let pids: Vec<i32> = [0, 1].iter().filter_map(|at| rows[*at]["pid"].as_i64()?.try_into().ok()).collect();
        (children, pids)
    };
    let has_ended = |pids: &[i32]| pids.iter().all(|pid| !family_of(target.marker()).contains(pid)).then_some(());

    let (children, pids) = start();
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).expect("killed");
    let (status, error) = children.close();
    assert_eq!(status.code(), Some(1));
    assert_eq!(error, format!("ramet: child {} was ended by SIGKILL\n", pids[0]));

    let (children, pids) = start();
    kill(children.pid(), Signal::SIGINT).expect("interrupted");
    let (status, error) = children.wait();
    assert_eq!(status.code(), Some(1));
    assert!(pids.iter().all(|pid| error.contains(&format!("child {pid} was ended by SIGTERM"))), "{error}");
    has_ended(&pids).expect("it has waited for their ends");

    let (children, pids) = start();
    kill(children.pid(), Signal::SIGKILL).expect("killed");
    children.wait();
    eventually("the children to end with their command", || has_ended(&pids));

    // Without --wait they are the keeper's.
    let mut command = keeper.resume_command(&seed, &["-o", "json"]);
    let output = command.stdin(Stdio::piped()).output().expect("ramet runs");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("rows");
    let pid = i32::try_from(rows[0]["pid"].as_i64().expect("a number")).expect("a number of a process");
    assert_eq!(code(&output), 0);
    eventually("its standard input is at its end, so the child ends", || has_ended(&[pid]));
}

/// A host has children of many seeds.
#[test]
fn a_log_says_which_seed_was_lost() {
    if !can_fork() {
        return;
    }
    let target = Target::python();
    let (here, there) = (Keeper::start(), Keeper::start());
    let seed = Seed::prepare(&here, target.pid());
    let mut child = there.resume(&seed, &["--source", "tcp", "-o", "json", "--wait"]);
    child.rows();
    done(&here.ramet(&["revoke", &seed.handle]));
    assert_eq!(child.ask_for(b'?'), None, "it does not have its data");
    let log = there.log();
    let line = log.lines().find(|line| line.contains("the seed is lost")).expect("it is told");
    assert!(line.contains(&seed.handle) && line.contains(&seed.address), "{line}");
    assert!(!log.contains('\u{1b}'), "a file has no colours: {log}");
}

#[test]
fn a_lease_that_ends_takes_the_seed_away() {
    if !can_fork() {
        return;
    }
    let target = Target::python();
    let (here, there) = (Keeper::start(), Keeper::start());
    let seed = Seed::prepare_for(&here, target.pid(), "300ms");
    eventually("the lease to end", || (here.list().as_array().map(Vec::len) == Some(0)).then_some(()));
    for keeper in [&here, &there] {
        let late = keeper.resume_fails(&seed, &[]);
        assert_eq!(code(&late), 3);
        assert!(err(&late).contains("its lease has expired"), "{}", err(&late));
    }
    assert_eq!(family_of(target.marker()), [target.pid()]);
}

#[test]
fn a_killed_zygote_is_replaced() {
    if !can_fork() {
        return;
    }
    let mut target = Target::threads();
    let keeper = Keeper::start();
    let answer = target.ask();
    let seed = Seed::prepare(&keeper, target.pid());
    for _ in 0..2 {
        let mut child = keeper.resume(&seed, &["-o", "json", "--wait"]);
        assert!(child.rows()[0]["first"].is_object());
        assert_eq!(child.ask(), answer);
        let all = family(keeper.pid().as_raw().cast_unsigned());
        for (pid, _) in all.iter().filter(|(_, line)| line.trim_end().ends_with(" zygote")) {
            kill(*pid, Signal::SIGKILL).expect("killed");
        }
        child.close();
    }
}

/// A function that is forked, where a lease is shorter than who asks for none of his own would have.
#[test]
fn where_leases_are_short_there_are_seeds_and_copies_too() {
    const FORKED: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', forked], start: fork, replicas: 3}
";
    if !can_fork() {
        return;
    }
    let start = Start::new("ring", FORKED).with("RAMET_FORK__LEASE_MAX", "2s");
    let node = Node::start(&start).expect("ring runs everywhere");
    eventually("copies", || (node.metric("ramet_instance_starts_total", "kind=\"fork\"") >= 2.0).then_some(()));
    let (target, keeper) = (Target::python(), Keeper::of_node(node.socket()));
    done(&keeper.ramet(&["prepare", &target.pid().to_string()]));
    let seeds = || keeper.list().as_array().cloned().expect("seeds");
    let is_of_target = |seed: &serde_json::Value| seed["parent"].as_i64() == Some(target.pid().into());
    assert!(seeds().iter().any(|seed| is_of_target(seed) && seed["lease_left_seconds"].as_u64() <= Some(2)));
    // The function's own is renewed, and nobody renews the other.
    eventually("a lease to end", || (!seeds().iter().any(is_of_target)).then_some(()));
    let age = || seeds().first().map(|seed| seed["age_seconds"].as_u64().expect("a number"));
    eventually("a renewed one not to", || (age().expect("the function's own") >= 4).then_some(()));
    let long = keeper.ramet(&["prepare", &target.pid().to_string(), "--lease", "3s"]);
    assert_eq!(code(&long), 2);
    assert!(err(&long).contains("2s at most") && err(&long).contains("`fork.lease_max`"), "{}", err(&long));
}

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], concurrency: 8}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}]}
";

#[test]
fn a_node_keeps_seeds_too() {
    if !can_fork() {
        return;
    }
    let node = Node::start(&Start::new("ring", MANIFEST)).expect("ring runs everywhere");
    let mut target = Target::python();
    let (keeper, there) = (Keeper::of_node(node.socket()), Keeper::start());
    let answer = target.ask();
    let seed = Seed::prepare(&keeper, target.pid());
    for at in [&keeper, &there] {
        let mut child = at.resume(&seed, &["-o", "json", "--wait"]);
        child.rows();
        assert_eq!(child.ask(), answer);
        assert_eq!(child.close().0.code(), Some(0));
    }
    let nobody = keeper.ramet(&["prepare", "instance/4711"]);
    assert_eq!(code(&nobody), 3, "{}", err(&nobody));
    let taken = keeper.serve_again(Duration::from_secs(10));
    assert_eq!(code(&taken), 1);
    assert!(err(&taken).contains("another node is running"), "{}", err(&taken));
}
