//! Instances that are copies of another node's, and what happens where there is nothing to copy.

use std::collections::BTreeSet;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ramet_tests::{Node, Start, TRANSPORTS, eventually};

use super::{can_fork, identity, instances, manifest, message, wait_for_ready};

/// What the other node has of the copy's parent.
#[derive(Debug)]
struct Seed {
    address: String,
    handle: String,
    key: String,
}

/// Prepares the one instance of a node whose origin is `exec`, as soon as that can be done.
fn prepare(node: &Node) -> Seed {
    let target = format!("instance/{}", parent_of(node));
    let printed = eventually("the instance to be prepared", || {
        let prepared = node.ramet(&["fork", "prepare", &target, "-o", "json"]);
        let error = String::from_utf8_lossy(&prepared.stderr).into_owned();
        assert!(prepared.status.success() || error.contains("try again"), "{error}");
        prepared.status.success().then_some(prepared.stdout)
    });
    let printed: serde_json::Value = serde_json::from_slice(&printed).expect("a seed");
    let text = |field: &str| printed[field].as_str().expect("text").to_owned();
    Seed { address: text("address"), handle: text("handle"), key: text("key") }
}

fn parent_of(node: &Node) -> u64 {
    let all = instances(node);
    let parent = all.iter().find(|instance| instance["origin"] == "exec").expect("a parent");
    parent["id"].as_u64().expect("a number")
}

/// A function of copies of another node's instance, and the folder that its key is in.
fn of_seed(seed: &Seed, more: &str) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    std::fs::write(&key, format!("{}\n", seed.key)).expect("written");
    let start = format!(
        "start: {{remote-fork: {{address: '{}', handle: '{}', keyFile: '{}'}}}}",
        seed.address,
        seed.handle,
        key.display()
    );
    (manifest("", more).replace("start: fork", &start), folder)
}

#[test]
fn instances_are_copies_of_another_nodes_and_need_it_no_more_when_they_have_its_memory() {
    if !can_fork() {
        return;
    }
    for transport in TRANSPORTS {
        let Some(mut origin) = Node::start(&Start::new(transport, &manifest("", ""))) else { continue };
        let state: Vec<u8> = (0..300_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let keep = |node: &Node, what: &[u8]| node.request("POST", "/one", &[("x-do", "keep")], what).status;
        let kept = |node: &Node| node.request("POST", "/one", &[("x-do", "kept")], b"").body;
        assert_eq!(keep(&origin, &state), 200);
        let seed = prepare(&origin);
        assert_eq!(keep(&origin, b"something else"), 200, "the parent goes on");

        let (manifest, _folder) = of_seed(&seed, ", replicas: 3");
        let node = Node::start(&Start::new(transport, &manifest)).expect("as the other");
        wait_for_ready(&node, 3.0);
        assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"remote-fork\""), 3.0, "{}", node.log());
        assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"exec\""), 0.0, "{}", node.log());
        assert!(instances(&node).iter().all(|instance| instance["origin"] == "remote-fork"));
        assert!(kept(&node) == state, "{transport}: what the parent had when it was prepared");
        assert_eq!(message(&node), "");
        eventually("the memory to have come", || {
            let seeds: serde_json::Value =
                serde_json::from_slice(&origin.ramet(&["fork", "list", "-o", "json"]).stdout).expect("seeds");
            let seed = seeds.as_array()?.iter().find(|one| one["handle"] == seed.handle.as_str())?.clone();
            (seed["readers"] == 0).then_some(())
        });
        assert!(kept(&origin) == b"something else");
        origin.stop();
        let victim = instances(&node)[0]["pid"].as_i64().expect("a number");
        kill(Pid::from_raw(victim as i32), Signal::SIGKILL).expect("killed");
        eventually("another copy", || {
            (node.metric("ramet_instance_starts_total", "kind=\"remote-fork\"") == 4.0).then_some(())
        });
        let mut tokens = BTreeSet::new();
        eventually("each to have answered", || {
            assert!(kept(&node) == state, "{transport}: right bytes without the other node");
            tokens.insert(identity(&node).2);
            (tokens.len() == 3).then_some(())
        });
        node.wait_all_slots_free();
    }
}

#[test]
fn where_instances_cannot_be_forked_they_execute_the_command_and_the_node_says_why() {
    let nobody = Seed { address: "127.0.0.1:1".to_owned(), handle: "0".repeat(32), key: "0".repeat(32) };
    let (remote, _folder) = of_seed(&nobody, ", replicas: 3");
    let barren = manifest(", --barren", ", replicas: 3");
    for (manifest, why) in [(remote, "cannot reach a page server at 127.0.0.1:1"), (barren, "cannot be forked")] {
        let node = Node::start(&Start::new("ring", &manifest)).expect("ring runs everywhere");
        wait_for_ready(&node, 3.0);
        assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"exec\""), 3.0, "{}", node.log());
        assert!(message(&node).contains(why), "{}", message(&node));
        let said = node.log().matches("its instances cannot be forked, so they execute the command").count();
        assert_eq!(said, 1, "{}", node.log());
        assert_eq!(node.post("/one", b"x").status, 200);
    }
}

#[test]
fn what_is_no_frozen_instance_is_no_parent() {
    if !can_fork() {
        return;
    }
    let origin = Node::start(&Start::new("ring", &manifest("", ", replicas: 2"))).expect("ring runs everywhere");
    wait_for_ready(&origin, 2.0);
    let refused = |target: &str| {
        let output = origin.ramet(&["fork", "prepare", target, "-o", "json"]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, why) = refused("instance/4711");
    assert!(code == Some(3) && why.contains("there is no instance 4711"), "{code:?} {why}");
    let copy = instances(&origin).into_iter().find(|one| one["origin"] == "fork").expect("a copy");
    let (code, why) = refused(&format!("instance/{}", copy["id"]));
    assert!(code == Some(1) && why.contains("is a copy itself"), "{code:?} {why}");

    // The process as it is in the middle of its work is no parent: its threads serve.
    let pid = instances(&origin).into_iter().find(|one| one["origin"] == "exec").expect("a parent")["pid"].to_string();
    let printed = origin.ramet(&["fork", "prepare", &pid, "-o", "json"]);
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("a seed");
    let text = |field: &str| printed[field].as_str().expect("text").to_owned();
    let seed = Seed { address: text("address"), handle: text("handle"), key: text("key") };
    let (manifest, _folder) = of_seed(&seed, "");
    let node = Node::start(&Start::new("ring", &manifest)).expect("ring runs everywhere");
    assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"exec\""), 1.0);
    assert!(message(&node).contains("was not prepared between two requests"), "{}", message(&node));
}
