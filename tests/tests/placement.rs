//! On which cores instances run: beside the gateway while its core has room, where their author or the setting says
//! otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use ramet_tests::node::{program, skipped};
use ramet_tests::{Node, Start, eventually};
use serde_json::Value;

/// `c` runs where its author says, and `d` is forked where that can be.
const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a]}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: b}
spec: {command: ['{actor}', b]}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: c}
spec: {command: ['{actor}', c, '--on-core', '{core}']}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: d}
spec: {command: ['{actor}', d], start: fork, replicas: 2}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: chain}
spec: {steps: [{function: a}, {function: b}, {function: c}, {function: d}]}
";

/// What a node without a spinning reader does the same in.
const TRANSPORTS: [&str; 2] = ["skmsg", "socket"];

#[test]
fn instances_run_beside_the_gateway_while_its_core_has_room() {
    let Some(all) = several_cores() else { return };
    for transport in TRANSPORTS {
        let Some(node) = node(transport, "adaptive", &all) else { continue };
        let Some(apart) = self::node(transport, "spread", &all) else { continue };
        let told = cores(&node, "c");
        assert_eq!(told, [BTreeSet::from([first(&all)])], "where its author says");
        let ask =
            |node: &Node, order| assert_eq!(node.request("POST", "/chain", &[("x-do-b", order)], b"x").status, 200);
        let beside = |word| cores(&node, word).iter().all(|of_thread| Some(of_thread) == worker(&node).as_ref());

        eventually("all instances to run beside the gateway", || {
            ask(&node, "tag");
            ask(&apart, "tag");
            let is_pinned = worker(&node).is_some_and(|worker| worker.len() == 1);
            (is_pinned && ["a", "b", "d"].into_iter().all(beside)).then_some(())
        });
        for word in ["a", "b", "d"] {
            assert_eq!(cores(&apart, word), std::slice::from_ref(&all), "{word} of a node that spreads");
        }
        assert_eq!(worker(&apart), Some(all.clone()));

        eventually("an instance that burns its core to have all", || {
            ask(&node, "burn:20");
            (cores(&node, "b") == [all.clone()]).then_some(())
        });
        eventually("all to have all cores when there are no requests", || {
            let are_free = ["a", "b", "d"].into_iter().all(|word| cores(&node, word) == [all.clone()]);
            (are_free && worker(&node).as_ref() == Some(&all)).then_some(())
        });
        assert_eq!(cores(&node, "c"), told, "neither way");
    }
}

#[test]
fn instances_run_on_the_cores_that_the_setting_names() {
    let Some(all) = several_cores() else { return };
    let one = BTreeSet::from([first(&all)]);
    let Some(node) = node("socket", &format!("pinned:{}", first(&all)), &all) else { return };
    for word in ["a", "b", "d", "c"] {
        assert_eq!(cores(&node, word), std::slice::from_ref(&one), "{word}");
    }
    assert_eq!(node.post("/chain", b"x").text(), "x+a+b+c+d");
    assert_eq!(cores(&node, "a"), [one], "after a request, too");
    assert_eq!(worker(&node), Some(all), "the gateway is no instance");
}

#[test]
fn a_node_starts_on_no_core_that_it_may_not_use() {
    let Some(all) = several_cores() else { return };
    let (core, other) = (first(&all), all.last().expect("another"));
    let up = Command::new("taskset")
        .args(["-c", &core.to_string()])
        .arg(program("ramet"))
        .args(["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--socket"])
        .arg(tempfile::tempdir().expect("a folder").path().join("ramet.sock"))
        .env("RAMET_PLACEMENT", format!("pinned:{other}"))
        .output()
        .expect("taskset runs");
    assert!(!up.status.success());
    let said = String::from_utf8_lossy(&up.stderr);
    let expected = format!("`placement` is \"pinned:{other}\", but the node may use the cores {core} only");
    assert!(said.contains(&expected), "{said}");
}

fn node(transport: &str, placement: &str, all: &BTreeSet<usize>) -> Option<Node> {
    let manifest = MANIFEST.replace("{core}", &first(all).to_string());
    let start = Start::new(transport, &manifest).with("RAMET_PLACEMENT", placement).with("RAMET_LOG__LEVEL", "debug");
    Node::start(&start)
}

/// The cores that this test may use, if there is any choice.
fn several_cores() -> Option<BTreeSet<usize>> {
    let cores = affinity(Pid::from_raw(0)).expect("where this thread may run");
    if cores.len() < 2 {
        skipped("a placement: there is one core only");
        return None;
    }
    Some(cores)
}

fn first(cores: &BTreeSet<usize>) -> usize {
    *cores.first().expect("a core")
}

/// `None`: the thread is gone.
fn affinity(thread: Pid) -> Option<BTreeSet<usize>> {
    let cores = sched_getaffinity(thread).ok()?;
    Some((0..CpuSet::count()).filter(|core| cores.is_set(*core) == Ok(true)).collect())
}

/// The different sets of cores that threads of a function's instances may run on.
fn cores(node: &Node, function: &str) -> Vec<BTreeSet<usize>> {
    let listed = node.ramet(&["get", "instances", function, "-o", "json"]);
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).expect("a list of instances");
    let pids = listed.iter().filter_map(|instance| i32::try_from(instance["pid"].as_u64()?).ok());
    let sets: BTreeSet<_> = pids.map(Pid::from_raw).flat_map(threads).filter_map(affinity).collect();
    assert!(!sets.is_empty(), "nothing is {function}:\n{}", node.log());
    sets.into_iter().collect()
}

/// The cores that the gateway's first thread may run on.
fn worker(node: &Node) -> Option<BTreeSet<usize>> {
    let is_first =
        |thread: &Pid| fs::read_to_string(format!("/proc/{thread}/comm")).is_ok_and(|name| name.trim() == "gateway-0");
    node.instances("gateway").into_iter().flat_map(threads).find(is_first).and_then(affinity)
}

fn threads(process: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let number = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(number).map(Pid::from_raw).collect()
}
