//! Instances come by fork when requests wait and go when they are needed no more, and no request is lost by either.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ramet_tests::{Node, Start, TRANSPORTS, eventually};

use super::{can_fork, manifest, wait_for_ready};

const CLIENTS: u64 = 16;
const REQUESTS_EACH: u64 = 40;

/// Sends requests that take a while from many connections at once; how many there were.
fn burst(node: &Node) -> u64 {
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = node.client();
                for turn in 0..REQUESTS_EACH {
                    let body = turn.to_le_bytes();
                    let answer = client.request("POST", "/one", &[("x-do", "pause:10")], &body).expect("an answer");
                    assert_eq!((answer.status, answer.body.as_slice()), (200, &body[..]), "{}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    answered.into_inner()
}

#[test]
fn a_burst_is_met_by_forks_that_go_again_and_loses_no_request() {
    if !can_fork() {
        return;
    }
    for transport in TRANSPORTS {
        let manifest = manifest("", ", concurrency: 1, queue: 64, replicas: {min: 1, max: 8, idle: 200ms}");
        let Some(node) = Node::start(&Start::new(transport, &manifest)) else { continue };
        wait_for_ready(&node, 1.0);
        for round in 1..=2 {
            let before = node.metric("ramet_instance_starts_total", "kind=\"fork\"");
            assert_eq!(burst(&node), CLIENTS * REQUESTS_EACH);
            let forked = node.metric("ramet_instance_starts_total", "kind=\"fork\"") - before;
            eprintln!("{transport}, burst {round}: {forked} instances were forked for it");
            assert!(forked >= 3.0, "{transport}: {forked} were forked\n{}", node.log());
            // Requests go on to come while instances go.
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut client = node.client();
                    while !is_over.load(Ordering::Relaxed) {
                        let answer = client.request("POST", "/one", &[("x-do", "pause:1")], b"x").expect("an answer");
                        assert_eq!(answer.status, 200, "{}", answer.text());
                    }
                });
                wait_for_ready(&node, 1.0);
                is_over.store(true, Ordering::Relaxed);
            });
        }
        assert_eq!(node.metric("ramet_instance_starts_total", "kind=\"exec\""), 1.0, "{transport}");
        assert_eq!(node.metric("ramet_instance_restarts_total", ""), 0.0, "none died: {}", node.log());
        eventually("those that were not needed to be gone", || {
            (node.metric("ramet_instances", "state=\"draining\"") == 0.0).then_some(())
        });
        node.wait_all_slots_free();
    }
}
