//! A node starts, carries messages, rests, and ends without a trace.

use std::collections::HashSet;

use rustix::process::Signal;

use super::transports;
use crate::harness::{Running, chain, eventually, function, is_alive, signal};

pub(super) const CASES: &[(&str, fn())] = &[
    ("messages_reach_functions_and_come_back", messages_reach_functions_and_come_back),
    ("the_gateway_is_told_things_in_order", the_gateway_is_told_things_in_order),
    ("an_idle_node_does_nothing", an_idle_node_does_nothing),
    ("a_node_ends_without_a_trace", a_node_ends_without_a_trace),
    ("a_second_signal_ends_at_once", a_second_signal_ends_at_once),
    ("nothing_outlives_a_killed_supervisor", nothing_outlives_a_killed_supervisor),
    ("wrong_manifests_start_nothing", wrong_manifests_start_nothing),
    ("one_node_per_socket", one_node_per_socket),
    ("functions_are_somebody_else", functions_are_somebody_else),
];

fn pair() -> String {
    function("front", "good", "replicas: 2") + &function("back", "good", "") + &chain("pair", &["front", "back"], "")
}

fn messages_reach_functions_and_come_back() {
    for transport in transports() {
        let node = Running::ready(transport, &pair());
        assert_eq!(node.node().transport, transport);
        let ready: HashSet<_> = node.ready_instances("front").into_iter().map(|instance| instance.id).collect();
        let replied: HashSet<_> = (0..20).map(|_| node.send("pair").expect("a reply")).collect();
        assert_eq!(ready.len(), 2, "{transport}");
        assert_eq!(replied, ready, "{transport}: both replicas take messages");
    }
}

fn the_gateway_is_told_things_in_order() {
    let node = Running::ready("ring", &pair());
    let log = node.gateway_log();
    let place = |what: &str| {
        let found = log.iter().position(|line| line.starts_with(what));
        found.unwrap_or_else(|| panic!("{what} was not said: {log:#?}"))
    };
    let order = ["settings", "worker 0", "worker 1", "listener 0 Http", "domain default", "instance", "link", "serve"];
    assert!(order.is_sorted_by_key(|what| place(what)), "{log:#?}");
    assert!(place("chains default/pair@") < place("serve"));
    // The two workers, three instances, both ways.
    assert_eq!(log.iter().filter(|line| line.starts_with("link")).count(), 12);
}

fn an_idle_node_does_nothing() {
    for transport in transports() {
        let node = Running::ready(transport, &pair());
        let pid = node.supervisor.id();
        let switches = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|count| count.trim().parse::<u64>().ok()).expect("a count")
        };
        // What is still being done when the node is ready may end first.
        let quiet = eventually("a second without a wake-up", || {
            let before = switches();
            // tidy: a second is what is measured
            std::thread::sleep(std::time::Duration::from_secs(1));
            (switches() == before).then_some(true)
        });
        assert!(quiet);
    }
}

fn a_node_ends_without_a_trace() {
    for transport in transports() {
        let mut node = Running::ready(transport, &pair());
        let children = node.children();
        assert_eq!(children.len(), 4);
        let status = node.stop();
        assert!(status.success(), "{status}");
        assert!(!children.into_iter().any(is_alive));
        assert!(!node.socket().exists());
        assert!(node.log().contains("told Stop"), "instances are asked to finish first");
    }
}

fn a_second_signal_ends_at_once() {
    let manifests = function("stubborn", "stubborn", "shutdownGrace: 1h") + &chain("c", &["stubborn"], "");
    let mut node = Running::ready("ring", &manifests);
    let children = node.children();
    signal(node.supervisor.id(), Signal::INT);
    eventually("the instance drains", || {
        node.instances().iter().all(|instance| instance.state == "draining").then_some(())
    });
    assert!(node.stop().success());
    assert!(!children.into_iter().any(is_alive));
}

fn nothing_outlives_a_killed_supervisor() {
    for transport in transports() {
        let mut node = Running::ready(transport, &pair());
        let children = node.children();
        signal(node.supervisor.id(), Signal::KILL);
        node.wait();
        eventually("all children end", || (!children.iter().copied().any(is_alive)).then_some(()));
    }
}

fn wrong_manifests_start_nothing() {
    let mut node = Running::start("ring", &chain("c", &["nobody"], ""));
    assert_eq!(node.wait().code(), Some(2));
    assert!(node.log().contains("nobody"), "{}", node.log());
    assert!(!node.socket().exists());
}

fn one_node_per_socket() {
    let node = Running::ready("ring", &pair());
    let (status, error) = node.start_twin();
    assert_eq!(status.code(), Some(1));
    assert!(error.contains("another node is running"), "{error}");
    node.wait_ready();
}

fn functions_are_somebody_else() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can start functions as other users");
        return;
    }
    let node = Running::ready("ring", &pair());
    let uid = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user");
        line.split_whitespace().next().and_then(|uid| uid.parse::<u32>().ok()).expect("a number")
    };
    let uids: HashSet<_> = node.children().into_iter().map(uid).collect();
    assert_eq!(uids.len(), 4, "each child has its own");
    assert!(!uids.contains(&0));
}
