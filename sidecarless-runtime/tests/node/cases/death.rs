//! What dies is replaced, and everybody concerned learns of it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::transports;
use crate::harness::{Running, chain, eventually, function, is_alive, signal};

pub(super) const CASES: &[(&str, fn())] = &[
    ("a_killed_instance_is_replaced", a_killed_instance_is_replaced),
    ("a_crashing_function_waits_longer_each_time", a_crashing_function_waits_longer_each_time),
    ("a_function_of_another_release_is_refused", a_function_of_another_release_is_refused),
    ("an_instance_that_hangs_is_replaced", an_instance_that_hangs_is_replaced),
    ("a_refused_instance_may_ask_why", a_refused_instance_may_ask_why),
    ("a_killed_gateway_takes_the_epoch_along", a_killed_gateway_takes_the_epoch_along),
    ("what_an_instance_started_ends_with_it", what_an_instance_started_ends_with_it),
    ("what_an_instance_started_ends_with_the_supervisor", what_an_instance_started_ends_with_the_supervisor),
];

fn solo(behaviour: &str, more: &str) -> String {
    function("solo", behaviour, more) + &chain("solo", &["solo"], "")
}

fn a_killed_instance_is_replaced() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("good", ""));
        let old = node.ready_instances("solo").remove(0);
        assert_eq!(node.send("solo"), Ok(old.id));
        signal(old.pid, Signal::KILL);
        let new = eventually("another instance is ready", || {
            node.ready_instances("solo").into_iter().find(|instance| instance.id != old.id)
        });
        assert_eq!(node.send("solo"), Ok(new.id), "{transport}");
        let log = node.gateway_log();
        assert!(log.contains(&format!("instance-gone {}", old.id)), "{log:#?}");
        assert_eq!(node.object("Function", "solo").status.restarts, 1);
        assert!(node.log().contains("signal: 9"), "the log says how it ended");
    }
}

fn a_crashing_function_waits_longer_each_time() {
    let restart = "restart: {initialBackoff: 20ms, maxBackoff: 40ms}";
    let node = Running::start("ring", &(solo("good", "") + &function("bad", "crashing", restart)));
    let restarts = || node.object("Function", "bad").status.restarts;
    eventually("the good function serves all the same", || {
        node.request("GET", "/v1/node", "")?.1.contains("bad").then_some(())
    });
    eventually("messages pass", || {
        // The gateway accepts connections once every function had its chance.
        (node.node().waiting_for.iter().all(|what| what.contains("bad"))).then_some(())
    });
    node.send("solo").expect("a reply");
    let start = Instant::now();
    let before = restarts();
    eventually("it is started again and again", || (restarts() >= before + 5).then_some(()));
    assert!(start.elapsed() >= Duration::from_millis(100), "but not faster than every 40 ms");
    let status = node.object("Function", "bad").status;
    assert!(!status.ready && status.message.contains("exit status: 3"), "{status:?}");
    let waiting_for = node.node().waiting_for;
    assert!(matches!(waiting_for.as_slice(), [what] if what.contains("default/bad")), "{waiting_for:?}");
}

fn a_function_of_another_release_is_refused() {
    let node = Running::start("ring", &solo("aged", ""));
    let message = eventually("it is refused", || {
        let (_, body) = node.request("GET", "/v1/node", "")?;
        body.contains("layout version").then_some(body)
    });
    assert!(message.contains("build it with this release"), "{message}");
}

fn an_instance_that_hangs_is_replaced() {
    let node = Running::ready("ring", &solo("good", ""));
    let old = node.ready_instances("solo").remove(0);
    node.ask_gateway(&format!("hung {}", old.id));
    eventually("another instance is ready", || {
        node.ready_instances("solo").iter().any(|instance| instance.id != old.id).then_some(())
    });
    assert!(!is_alive(old.pid));
    assert!(node.log().contains("hangGrace"), "the log says why");
}

fn a_refused_instance_may_ask_why() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("curious", ""));
        eventually("it is answered", || node.log().contains("told Refusal").then_some(()));
    }
}

fn a_killed_gateway_takes_the_epoch_along() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("good", "replicas: 2"));
        let (old, start) = (node.node(), Instant::now());
        let old_pids = node.pids("solo");
        signal(old.gateway_pid.expect("a gateway"), Signal::KILL);
        eventually("another gateway is ready", || {
            let node = node.node();
            (node.gateway_pid.is_some_and(|pid| Some(pid) != old.gateway_pid) && node.waiting_for.is_empty())
                .then_some(())
        });
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{transport}: back after {took:?}");
        assert!(!old_pids.into_iter().any(is_alive), "nobody who shared memory with the old one is left");
        assert_eq!(node.node().listen, old.listen);
        node.send("solo").expect("a reply");
    }
}

/// A function that leaves a child behind, which holds nothing of the node's.
fn with_a_child(seconds: u32) -> String {
    function("solo", &format!("parent, \"{seconds}\""), "") + &chain("solo", &["solo"], "")
}

fn is_anybody_sleeping(seconds: u32) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut commands = processes.map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default());
    commands.any(|line| line.starts_with("sleep") && line.contains(&seconds.to_string()))
}

fn what_an_instance_started_ends_with_it() {
    let seconds = 1_000_000 + std::process::id();
    let node = Running::ready("ring", &with_a_child(seconds));
    eventually("it has a child", || is_anybody_sleeping(seconds).then_some(()));
    node.apply(&solo("good", "")).expect("applied");
    eventually("its child is gone with it", || (!is_anybody_sleeping(seconds)).then_some(()));
}

fn what_an_instance_started_ends_with_the_supervisor() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: without a process namespace, which only root gets, nobody ends it");
        return;
    }
    let seconds = 2_000_000 + std::process::id();
    let mut node = Running::ready("ring", &with_a_child(seconds));
    eventually("it has a child", || is_anybody_sleeping(seconds).then_some(()));
    signal(node.supervisor.id(), Signal::KILL);
    node.wait();
    eventually("its child is gone with everybody", || (!is_anybody_sleeping(seconds)).then_some(()));
}
