//! I1 and I2: under load and random kills every request gets one answer, and every slot comes back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use ramet_tests::{Client, Node, Start, TRANSPORTS, eventually};

/// Over all transports together.
const REQUESTS: u64 = 100_000;
const CLIENTS: u64 = 16;

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', chaos-a], replicas: 2, restart: {initialBackoff: 10ms, maxBackoff: 20ms}}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: b}
spec: {command: ['{actor}', chaos-b], replicas: 2, calls: [c], restart: {initialBackoff: 10ms, maxBackoff: 20ms}}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: c}
spec: {command: ['{actor}', chaos-c], replicas: 2, restart: {initialBackoff: 10ms, maxBackoff: 20ms}}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: plain}
spec: {steps: [{function: a}, {function: b}, {function: c}], deadline: 5s}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: fan}
spec:
  steps: [{function: a}, {name: both, parallel: [{function: b}, {function: c}]}, {name: join, function: a}]
  deadline: 5s
";

#[test]
fn random_kills_lose_no_request_and_no_slot() {
    let mut transports = Vec::new();
    for transport in TRANSPORTS {
        if let Some(node) = Node::start(&Start::new(transport, MANIFEST)) {
            transports.push((transport, node));
        }
    }
    let each = REQUESTS / transports.len() as u64;
    for (transport, node) in transports {
        let answers = storm(&node, each);
        let total: u64 = answers.values().sum();
        eprintln!("{transport}: {answers:?}");
        assert_eq!(total, each / CLIENTS * CLIENTS, "{transport}: as many answers as requests");
        assert!(answers.keys().all(|status| matches!(status, 200 | 500 | 502 | 503 | 504)), "{transport}: {answers:?}");
        assert!(answers[&200] > total / 2, "{transport}: {answers:?}");
        eventually("all instances to be back", || (node.post("/plain", b"x").status == 200).then_some(()));
        node.wait_all_slots_free();
    }
}

/// Sends `requests` from many connections while instances are killed at random; answers by status.
fn storm(node: &Node, requests: u64) -> BTreeMap<u16, u64> {
    let answers = Mutex::new(BTreeMap::new());
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (answers, sent) = (&answers, &sent);
                scope.spawn(move || {
                    let mut client = Client::connect(node.listen).expect("connected");
                    for turn in 0..requests / CLIENTS {
                        let answer = one(&mut client, number + turn * CLIENTS);
                        *answers.lock().expect("unpoisoned").entry(answer).or_default() += 1;
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| kill_at_random(node, &sent, &over));
        for client in clients {
            client.join().expect("a client");
        }
        over.store(true, Ordering::Relaxed);
    });
    answers.into_inner().expect("unpoisoned")
}

/// One request: most plain, some larger, some with a call, some in parallel.
fn one(client: &mut Client, number: u64) -> u16 {
    let body = vec![b'x'; if number.is_multiple_of(50) { 100_000 } else { 100 }];
    let (target, headers): (_, &[(&str, &str)]) = match number % 10 {
        0 => ("/fan", &[("x-do", "echo")]),
        1 => ("/plain", &[("x-do-chaos-b", "call:c")]),
        _ => ("/plain", &[]),
    };
    client.request("POST", target, headers, &body).expect("exactly one answer").status
}

/// Kills an instance every few hundred requests.
fn kill_at_random(node: &Node, sent: &AtomicU64, over: &AtomicBool) {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = 200;
    while !over.load(Ordering::Relaxed) {
        if sent.load(Ordering::Relaxed) < next {
            std::thread::yield_now();
            continue;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        next = sent.load(Ordering::Relaxed) + 200 + random % 400;
        let instances = node.instances("chaos-");
        if !instances.is_empty() {
            let victim = instances[(random >> 8) as usize % instances.len()];
            // It may have died by itself meanwhile.
            let _ = kill(victim, Signal::SIGKILL);
        }
    }
}
