//! Requests that nobody waits for any more: they leave no trace in what the node believes of its instances.

use ramet_tests::{Client, Node, Start, TRANSPORTS, eventually};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], concurrency: 1, queue: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}], deadline: 100ms}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: patient}
spec: {steps: [{function: a}], deadline: 5s}
";

/// Many times what the instance can hold, so that the smallest error in its count would close it for good.
#[test]
fn an_instance_is_as_free_after_cancelled_requests_as_before() {
    for transport in TRANSPORTS {
        let Some(node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        for round in 0..5 {
            let address = node.listen;
            let late: Vec<_> = (0..5)
                .map(|_| {
                    std::thread::spawn(move || {
                        let mut client = Client::connect(address).expect("connected");
                        client.request("POST", "/one", &[("x-do", "pause:200")], b"x").expect("an answer").status
                    })
                })
                .collect();
            let statuses: Vec<_> = late.into_iter().map(|client| client.join().expect("no panic")).collect();
            assert!(statuses.contains(&504), "{transport}, round {round}: {statuses:?}");
            // The instance is still busy for a moment with the first of them.
            eventually(&format!("{transport} to serve after round {round}"), || {
                (node.post("/patient", b"x").text() == "x+a").then_some(())
            });
        }
        node.wait_all_slots_free();
        eventually(&format!("{transport} to count nothing as held"), || {
            (node.metric("ramet_function_held", "default/a") == 0.0).then_some(())
        });
    }
}
