//! Functions that break every rule they can: only their own requests fail, and nothing is lost.

use ramet_tests::{Node, Start, TRANSPORTS, eventually};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: hostile, namespace: evil}
spec: {command: ['{hostile}'], hangGrace: 300ms}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: greedy, namespace: evil}
spec: {command: ['{hostile}'], requestBody: streamed, hangGrace: 300ms}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: greedy, namespace: evil}
spec: {steps: [{function: greedy}], deadline: 700ms}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: neighbour, namespace: evil}
spec: {command: ['{actor}', neighbour]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: hostile, namespace: evil}
spec: {steps: [{function: hostile}], deadline: 700ms}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: patient, namespace: evil}
spec: {steps: [{function: hostile}], deadline: 25s}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: neighbour, namespace: evil}
spec: {steps: [{function: neighbour}], deadline: 2s}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: good}
spec: {command: ['{actor}', good]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: good}
spec: {steps: [{function: good}]}
";

const RULES: [&[u8]; 10] = [
    b"random descriptors",
    b"other requests",
    b"other functions",
    b"foreign parts",
    b"torn message",
    b"bad header",
    b"twice",
    b"greed",
    b"wrong worker",
    b"silence",
];

/// I3, I4, I7: a function of another domain never notices, and the gateway lives.
#[test]
fn garbage_hurts_only_who_sends_it() {
    for transport in TRANSPORTS {
        let Some(node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        assert_eq!(node.post("/hostile", b"be good").status, 200, "{transport}");
        let gateway = node.instances("gateway");
        assert_eq!(gateway.len(), 1);
        for rule in RULES {
            let name = String::from_utf8_lossy(rule).into_owned();
            let answer = node.post("/hostile", rule);
            assert!(matches!(answer.status, 200 | 500 | 502 | 503 | 504), "{transport}, {name}: {}", answer.status);
            assert!(answer.header("set-cookie").is_none(), "{transport}: a header was smuggled into the answer");
            for _ in 0..5 {
                let answer = node.post("/good", b"x");
                assert_eq!((answer.status, answer.text().as_str()), (200, "x+good"), "{transport}, after {name}");
            }
        }
        for rule in ["pieces", "random descriptors", "twice"] {
            let answer = node.request("POST", "/greedy", &[("x-rule", rule)], &[7; 300_000]);
            assert!(matches!(answer.status, 200 | 500 | 502 | 503 | 504), "{transport}, {rule}: {}", answer.status);
            assert_eq!(node.post("/good", b"x").text(), "x+good", "{transport}, after {rule}");
        }
        assert_eq!(node.instances("gateway"), gateway, "{transport}: the gateway lives");
        eventually("the hostile function's own domain to serve again", || {
            (node.post("/neighbour", b"x").text() == "x+neighbour").then_some(())
        });
        node.wait_all_slots_free();
    }
}

/// I1: a head that is given to another gateway worker than the one that waits for it fails its request at once.
#[test]
fn a_head_that_goes_to_the_wrong_worker_is_found() {
    for transport in TRANSPORTS {
        let two = Start::new(transport, MANIFEST).with("RAMET_GATEWAY__WORKERS", "2");
        let Some(node) = Node::start(&two) else { continue };
        let before = node.instances("hostile");
        for _ in 0..20 {
            assert_eq!(node.post("/hostile", b"wrong worker").status, 502, "{transport}");
        }
        node.wait_all_slots_free();
        assert_eq!(node.instances("hostile"), before, "{transport}: nobody had to be replaced for it");
    }
}

/// I1, I2: who dies between the two steps of a send, handing over and telling, has handed over to somebody who knows
/// nothing of it. In S mode the kernel does both or neither.
#[test]
fn what_was_handed_over_and_never_told_of_comes_back() {
    for transport in ["ring", "socket"] {
        let node = Node::start(&Start::new(transport, MANIFEST)).expect("it runs everywhere");
        for rule in ["half a reply", "half a return"] {
            let answer = eventually("the hostile function to be there again", || {
                let answer = node.post("/patient", rule.as_bytes());
                (answer.status != 503).then_some(answer)
            });
            assert_eq!(answer.status, 502, "{transport}, {rule}: long before the deadline");
            node.wait_all_slots_free();
        }
    }
}

/// I4: in S mode the kernel counts what it refuses, by reason.
#[test]
fn refusals_are_counted_by_reason() {
    let Some(node) = Node::start(&Start::new("skmsg", MANIFEST)) else { return };
    let _ = node.post("/hostile", b"other functions");
    let _ = node.post("/hostile", b"random descriptors");
    for reason in ["edge_denied", "malformed", "not_owner"] {
        eventually(&format!("a refusal for {reason}"), || {
            (node.metric("ramet_sproxy_refusals_total", reason) > 0.0).then_some(())
        });
    }
}
