//! I8: applying a manifest loses no request, and a bad one changes nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ramet_tests::{Client, Node, Start, TRANSPORTS, eventually};

fn manifest(tag: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {{name: first}}
spec: {{command: ['{{actor}}', first], replicas: {replicas}}}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {{name: second}}
spec: {{command: ['{{actor}}', {tag}]}}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {{name: pair}}
spec: {{steps: [{{function: first}}, {{function: second}}]}}
"
    )
}

#[test]
fn functions_and_chains_change_while_requests_run() {
    for transport in TRANSPORTS {
        let start = manifest("v0", 1);
        let Some(node) = Node::start(&Start::new(transport, &start)) else { continue };
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = Client::connect(node.listen).expect("connected");
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client.request("POST", "/pair", &[], b"x").expect("an answer");
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        assert!(answer.text().starts_with("x+first+v"), "{}", answer.text());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for version in 1..6 {
                let before = answered.load(Ordering::Relaxed);
                eventually("requests to run", || (answered.load(Ordering::Relaxed) > before + 50).then_some(()));
                let text = manifest(&format!("v{version}"), 1 + version % 3);
                let file = node.write_manifest("next.yaml", &text);
                let output = node.ramet(&["apply", "-f", &file.display().to_string()]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                // Once `apply` returns, new requests run on the new version.
                assert_eq!(node.post("/pair", b"x").text(), format!("x+first+v{version}"), "{transport}");
            }
            stop.store(true, Ordering::Relaxed);
        });
        node.wait_all_slots_free();
        eventually("old instances to be gone", || (node.instances("actor").len() <= 4).then_some(()));
    }
}

#[test]
fn a_bad_manifest_changes_nothing() {
    let start = manifest("v0", 1);
    let node = Node::start(&Start::new("ring", &start)).expect("ring runs everywhere");
    let before = node.instances("actor");
    let bad = node.write_manifest("bad.yaml", &format!("{}\n---\nkind: Nonsense\nspec: [\n", manifest("v1", 2)));
    let output = node.ramet(&["apply", "-f", &bad.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    let dangling = manifest("v1", 2).replace("function: second", "function: secnod");
    let dangling = node.write_manifest("dangling.yaml", &dangling);
    let output = node.ramet(&["apply", "-f", &dangling.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("dangling.yaml:") && message.contains("second"), "{message}");
    assert_eq!(node.post("/pair", b"x").text(), "x+first+v0");
    assert_eq!(node.instances("actor"), before);
}

#[test]
fn a_function_that_cannot_start_leaves_the_old_one() {
    let start = manifest("v0", 1);
    let node = Node::start(&Start::new("ring", &start)).expect("ring runs everywhere");
    let broken = manifest("v1", 1).replace("'{actor}', v1", "/bin/false");
    let broken = node.write_manifest("broken.yaml", &broken);
    let output = node.ramet(&["apply", "-f", &broken.display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(node.post("/pair", b"x").text(), "x+first+v0");
}

#[test]
fn what_is_deleted_is_gone_and_what_is_used_stays() {
    let start = manifest("v0", 1);
    let node = Node::start(&Start::new("ring", &start)).expect("ring runs everywhere");
    assert_ne!(node.ramet(&["delete", "function", "first"]).status.code(), Some(0), "the chain uses it");
    assert!(node.ramet(&["delete", "chain", "pair"]).status.success());
    assert_eq!(node.post("/pair", b"x").status, 404);
    assert!(node.ramet(&["delete", "function", "first"]).status.success());
    assert_eq!(node.ramet(&["get", "function", "first"]).status.code(), Some(3));
    eventually("its instances to be gone", || node.instances("actor").len().eq(&1).then_some(()));
}
