//! The gateway's ways in: HTTP/1.1 by its own parser and by hyper, HTTP/2 and TLS. All answer the same.

use ramet_tests::{Node, Start, eventually};

#[path = "protocols/express.rs"]
mod express;
#[path = "protocols/h2c.rs"]
mod h2c;
#[path = "protocols/lanes.rs"]
mod lanes;
#[path = "protocols/rules.rs"]
mod rules;
#[path = "protocols/speaker.rs"]
mod speaker;
#[path = "protocols/stalls.rs"]
mod stalls;
#[path = "protocols/tls.rs"]
mod tls;

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], concurrency: 50, queue: 256, resources: {processes: 128}}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: b}
spec: {command: ['{actor}', b], concurrency: 4, queue: 256}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: early}
spec: {command: ['{actor}', early, --streamed], requestBody: streamed, concurrency: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: early}
spec: {steps: [{function: early}], maxBody: 16Mi, deadline: 60s}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}], maxBody: 16Mi, deadline: 60s}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: pair}
spec: {steps: [{function: a}, {function: b}], maxBody: 16Mi, deadline: 60s}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: small}
spec: {steps: [{function: a}], maxBody: 64Ki, route: [{path: /small, methods: [POST, PUT]}]}
";

fn node() -> Node {
    started(&Start::new("ring", MANIFEST))
}

/// The transport is no matter here, and this one runs everywhere.
fn started(start: &Start<'_>) -> Node {
    Node::start(start).expect("ring runs everywhere")
}

/// A node that soon loses patience with whoever stalls.
fn impatient<'a>() -> Start<'a> {
    Start::new("ring", MANIFEST)
        .with("RAMET_GATEWAY__HEADER_TIMEOUT", "300ms")
        .with("RAMET_GATEWAY__IDLE_TIMEOUT", "300ms")
        .with("RAMET_GATEWAY__BODY_TIMEOUT", "300ms")
}

/// As many bytes as that, with a pattern that shows every byte that is missing, doubled or moved.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// Waits until that many requests run.
fn wait_running(node: &Node, requests: f64) {
    eventually("the requests to run", || (node.metric("ramet_in_flight", "") >= requests).then_some(()));
}

/// Waits until no request runs.
fn wait_none_running(node: &Node) {
    eventually("no request to run", || (node.metric("ramet_in_flight", "") == 0.0).then_some(()));
}
