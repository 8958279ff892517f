//! Instances that are forked: they come fast, are themselves, and are not there where that is not possible.

use std::collections::BTreeSet;

use ramet_tests::node::skipped;
use ramet_tests::{Node, Start, TRANSPORTS, eventually};

#[path = "start/bursts.rs"]
mod bursts;
#[path = "start/copies.rs"]
mod copies;
#[path = "start/remote.rs"]
mod remote;

fn manifest(arguments: &str, more: &str) -> String {
    format!(
        "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {{name: a}}
spec: {{command: ['{{actor}}', forked{arguments}], start: fork{more}}}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {{name: one}}
spec: {{steps: [{{function: a}}]}}
"
    )
}

/// Instance, forks, token and sum, as the actor says them.
fn identity(node: &Node) -> (String, u32, String, String) {
    let answer = node.request("POST", "/one", &[("x-do", "identity")], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let words: Vec<&str> = text.split(' ').collect();
    let [instance, forks, token, sum] = words[..] else { panic!("{text}") };
    (instance.to_owned(), forks.parse().expect("a number"), token.to_owned(), sum.to_owned())
}

#[test]
fn further_instances_are_copies_with_identities_of_their_own() {
    if !can_fork() {
        return;
    }
    for transport in TRANSPORTS {
        let manifest = manifest("", ", replicas: 6");
        let Some(node) = Node::start(&Start::new(transport, &manifest)) else { continue };
        eventually("all to be ready", || (node.metric("ramet_instances", "state=\"ready\"") >= 6.0).then_some(()));
        assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"exec\""), 1.0, "{}", node.log());
        assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"fork\""), 5.0, "{}", node.log());
        let (mut instances, mut tokens, mut sums) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        eventually("each to have answered", || {
            let (instance, forks, token, sum) = identity(&node);
            assert!(forks <= 1, "{forks}");
            instances.insert(instance);
            tokens.insert(token);
            sums.insert(sum);
            (instances.len() == 6).then_some(())
        });
        assert_eq!((tokens.len(), sums.len()), (6, 1), "{transport}: of one memory, and six of themselves");
        node.wait_all_slots_free();
    }
}

fn instances(node: &Node) -> Vec<serde_json::Value> {
    let listed = node.ramet(&["get", "instances", "-o", "json"]);
    serde_json::from_slice(&listed.stdout).expect("instances")
}

/// What a function's status says.
fn message(node: &Node) -> String {
    let listed = node.ramet(&["get", "functions", "-o", "json"]);
    let functions: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("functions");
    functions[0]["status"]["message"].as_str().expect("a sentence").to_owned()
}

fn wait_for_ready(node: &Node, count: f64) {
    eventually("all to be ready", || (node.metric("ramet_instances", "state=\"ready\"") == count).then_some(()));
}

/// Whether processes can be forked here, which takes a privileged user.
fn can_fork() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        assert!(std::env::var_os("CI").is_none(), "CI must run the fork's tests as root");
        skipped("only root can give forked processes their memory as they touch it");
    }
    is_root
}
