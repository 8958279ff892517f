//! Instances that are forked: they come fast, are themselves, and are not there where that is not possible.

use std::collections::BTreeSet;

use ramet_tests::{Node, Start, TRANSPORTS, eventually};

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
