//! Instances that are copies of another node's, and what happens where there is nothing to copy.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ramet_tests::guest::bytes_by_rdma;
use ramet_tests::node::skipped;
use ramet_tests::{Node, Start, TRANSPORTS, eventually};

use super::copies::{confinement, scale_to};
use super::{can_fork, identity, instances, manifest, message, wait_for_ready};

/// What the other node has of the copy's parent.
#[derive(Debug)]
struct Seed {
    address: String,
    handle: String,
    key: String,
}

/// Prepares the one instance of a node whose origin is `exec`.
fn prepare(node: &Node) -> Seed {
    prepare_one(node, "exec")
}

/// Prepares an instance of a node, as soon as that can be done.
fn prepare_one(node: &Node, origin: &str) -> Seed {
    let target = format!("instance/{}", id_of(node, origin));
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

/// The id of an instance of an origin.
fn id_of(node: &Node, origin: &str) -> u64 {
    let all = instances(node);
    let one = all.iter().find(|instance| instance["origin"] == origin).expect("one of this origin");
    one["id"].as_u64().expect("a number")
}

fn keep(node: &Node, what: &[u8]) {
    assert_eq!(node.request("POST", "/one", &[("x-do", "keep")], what).status, 200);
}

fn kept(node: &Node) -> Vec<u8> {
    node.request("POST", "/one", &[("x-do", "kept")], b"").body
}

/// Megabytes that are nowhere the same.
fn state() -> Vec<u8> {
    (0..300_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
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
        let state = state();
        keep(&origin, &state);
        let seed = prepare(&origin);
        // The parent goes on.
        keep(&origin, b"something else");
        // Nobody would tell a process that is no instance who it is.
        let resume = ["fork", "resume", &seed.address, "--handle", &seed.handle, "--key", &seed.key];
        let refused = origin.ramet(&resume);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && why.contains("start: {remote-fork"), "{refused:?}");

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

/// Whoever executes its command because nobody could be forked just then can be forked itself.
#[test]
fn one_that_executed_its_command_meanwhile_is_a_parent() {
    if !can_fork() {
        return;
    }
    let node = Node::start(&Start::new("ring", &manifest("", ", replicas: 1"))).expect("ring runs everywhere");
    let id = id_of(&node, "exec");
    prepare(&node);
    // What it has in service does not end, so it does not freeze.
    let mut client = TcpStream::connect(node.listen).expect("the gateway accepts");
    client.write_all(b"POST /one HTTP/1.1\r\nhost: h\r\nx-do: hang\r\ncontent-length: 1\r\n\r\nx").expect("sent");
    eventually("the function to have the request", || node.log().contains("hangs").then_some(()));
    assert!(node.ramet(&["fork", "revoke", "--all"]).status.success());
    scale_to(&node, "", 2);
    let other = instances(&node).iter().find_map(|one| one["id"].as_u64().filter(|other| *other != id));
    let other = format!("instance/{}", other.expect("another one"));
    let prepared = node.ramet(&["fork", "prepare", &other, "-o", "json"]);
    assert!(prepared.status.success(), "{}\n{}", String::from_utf8_lossy(&prepared.stderr), node.log());
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

    // Nor is one in the middle of its work: it has to be asked for as what it is.
    for instance in instances(&origin) {
        let (code, why) = refused(&instance["pid"].to_string());
        assert!(code == Some(1) && why.contains(&format!("prepare `instance/{}`", instance["id"])), "{code:?} {why}");
    }

    let mut other = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("a process");
    let printed = origin.ramet(&["fork", "prepare", &other.id().to_string(), "-o", "json"]);
    other.kill().and_then(|()| other.wait()).expect("ended");
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("a seed");
    let text = |field: &str| printed[field].as_str().expect("text").to_owned();
    let seed = Seed { address: text("address"), handle: text("handle"), key: text("key") };
    let (manifest, _folder) = of_seed(&seed, "");
    let node = Node::start(&Start::new("ring", &manifest)).expect("ring runs everywhere");
    assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"exec\""), 1.0);
    assert!(message(&node).contains("was not prepared between two requests"), "{}", message(&node));
}

#[test]
fn a_copys_memory_comes_by_rdma_where_both_nodes_have_a_device() {
    let Ok(address) = std::env::var("XTASK_VM_ADDRESS") else {
        return skipped("RDMA: this machine has no device; a guest of `cargo xtask vm` has one");
    };
    // A device is reached by the address of its network.
    let listen = format!("{address}:0");
    let parents = manifest("", "");
    let start = Start::new("ring", &parents).with("RAMET_FORK__LISTEN", listen);
    let origin = Node::start(&start).expect("ring runs everywhere");
    let state = state();
    keep(&origin, &state);
    let seed = prepare(&origin);
    keep(&origin, b"something else");
    let before = bytes_by_rdma();
    let (manifest, _folder) = of_seed(&seed, "");
    let node = Node::start(&Start::new("ring", &manifest)).expect("ring runs everywhere");
    assert_eq!(
        (message(&node).as_str(), &instances(&node)[0]["origin"]),
        ("", &"remote-fork".into()),
        "{}",
        node.log()
    );
    assert!(kept(&node) == state);
    let bytes = bytes_by_rdma() - before;
    assert!(bytes >= state.len() as u64, "{bytes} bytes came by RDMA\n{}", node.log());
}

/// What is in a copy's memory may still be in that of its parent, or of the parent's parent.
#[test]
fn a_copy_can_be_copied_on_to_the_next_node() {
    if !can_fork() {
        return;
    }
    for transport in TRANSPORTS {
        let Some(first) = Node::start(&Start::new(transport, &manifest("", ""))) else { continue };
        // The seed is there: who takes the parent's place is a copy.
        eventually("a seed", || first.log().contains("its further instances are forked").then_some(()));
        let parent = instances(&first)[0]["pid"].as_i64().expect("a number");
        kill(Pid::from_raw(parent as i32), Signal::SIGKILL).expect("killed");
        eventually("a copy in its place", || {
            let all = instances(&first);
            (all.len() == 1 && all[0]["origin"] == "fork" && all[0]["state"] == "ready").then_some(())
        });
        let state = state();
        keep(&first, &state);
        let mut seed = prepare_one(&first, "fork");
        keep(&first, b"something else");
        assert!(kept(&first) == b"something else");
        let mut tokens = BTreeSet::from([identity(&first).2]);
        // The seed is not the instance's: it stays when that one is gone.
        let copy = instances(&first)[0].clone();
        kill(Pid::from_raw(copy["pid"].as_i64().expect("a number") as i32), Signal::SIGKILL).expect("killed");
        eventually("another copy", || {
            let all = instances(&first);
            (all.len() == 1 && all[0]["pid"] != copy["pid"] && all[0]["state"] == "ready").then_some(())
        });
        let mut nodes = vec![first];
        for hop in 1..=2 {
            let (manifest, _folder) = of_seed(&seed, "");
            let node = Node::start(&Start::new(transport, &manifest)).expect("as the first");
            assert_eq!(message(&node), "", "{transport}, hop {hop}: {}", node.log());
            assert_eq!(instances(&node)[0]["origin"], "remote-fork");
            tokens.insert(identity(&node).2);
            if hop == 1 {
                seed = prepare_one(&node, "remote-fork");
            }
            assert!(kept(&node) == state, "{transport}, hop {hop}");
            nodes.push(node);
        }
        assert_eq!(tokens.len(), 3, "each is somebody else");
        for node in &nodes {
            node.wait_all_slots_free();
        }
    }
}

#[test]
fn a_copy_may_use_what_its_own_manifest_says() {
    if !can_fork() {
        return;
    }
    let generous = manifest("", ", resources: {memory: 2Gi, openFiles: 99, processes: 44}");
    let origin = Node::start(&Start::new("ring", &generous)).expect("ring runs everywhere");
    let seed = prepare(&origin);
    // One may use less than the parent, the other more of some; each beside an instance that executes the command.
    for own in ["{memory: 512Mi, openFiles: 77, processes: 33}", "{memory: 3Gi, openFiles: 2000, processes: 500}"] {
        let (copies, _folder) = of_seed(&seed, &format!(", resources: {own}"));
        let beside = manifest("", &format!(", resources: {own}")).replace("start: fork, ", "");
        let beside = beside
            .replace("name: a}", "name: b}")
            .replace("name: one}", "name: two}")
            .replace("function: a}", "function: b}");
        let node = Node::start(&Start::new("ring", &format!("{copies}---{beside}"))).expect("ring runs everywhere");
        wait_for_ready(&node, 2.0);
        let all = instances(&node);
        let pid = |origin: &str| all.iter().find(|one| one["origin"] == origin).and_then(|one| one["pid"].as_u64());
        let (copy, executed) = (pid("remote-fork").expect("a copy"), pid("exec").expect("one beside it"));
        assert_eq!(confinement(copy), confinement(executed), "{own}");
    }
    // What is there already is more than may be.
    keep(&origin, &vec![7; 64 << 20]);
    let seed = prepare(&origin);
    let (manifest, _folder) = of_seed(&seed, ", resources: {memory: 48Mi}");
    let node = Node::start(&Start::new("ring", &manifest)).expect("ring runs everywhere");
    assert_eq!(instances(&node)[0]["origin"], "exec");
    assert!(message(&node).contains("and its instances may have 48Mi here"), "{}", message(&node));
}
