//! Changes happen whole or not at all, and lose nothing.

use ramet_control::admin::Action;

use super::transports;
use crate::harness::{Running, chain, eventually, function, is_alive};

pub(super) const CASES: &[(&str, fn())] = &[
    ("a_new_version_replaces_the_old_one", a_new_version_replaces_the_old_one),
    ("no_message_is_lost_during_a_change", no_message_is_lost_during_a_change),
    ("a_version_that_crashes_changes_nothing", a_version_that_crashes_changes_nothing),
    ("wrong_manifests_change_nothing", wrong_manifests_change_nothing),
    ("replicas_come_and_go", replicas_come_and_go),
    ("a_slow_replica_finishes_what_it_has", a_slow_replica_finishes_what_it_has),
    ("objects_are_deleted_when_nothing_needs_them", objects_are_deleted_when_nothing_needs_them),
    ("a_chain_of_its_own_has_its_own_instances", a_chain_of_its_own_has_its_own_instances),
    ("a_longer_chain_keeps_its_functions", a_longer_chain_keeps_its_functions),
    ("an_instance_that_will_not_end_is_killed", an_instance_that_will_not_end_is_killed),
    ("a_thousand_chains_are_no_more_than_a_message", a_thousand_chains_are_no_more_than_a_message),
];

fn solo(behaviour: &str, more: &str) -> String {
    function("solo", behaviour, more) + &chain("solo", &["solo"], "")
}

fn a_new_version_replaces_the_old_one() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("good", ""));
        let old = node.ready_instances("solo").remove(0);
        let applied = node.apply(&solo("good", "queue: 7")).expect("applied");
        let actions: Vec<_> = applied.changes.iter().map(|change| (change.kind.as_str(), change.action)).collect();
        assert_eq!(actions, [("Function", Action::Changed), ("Chain", Action::Unchanged)]);
        let replied = node.send("solo").expect("a reply");
        assert_ne!(replied, old.id, "{transport}: requests go to the new one from now on");
        eventually("the old one ends", || (!is_alive(old.pid)).then_some(()));
        eventually("the node knows", || (node.instances().len() == 1).then_some(()));
        let log = node.gateway_log();
        let chains: Vec<_> = log.iter().filter(|line| line.starts_with("chains")).collect();
        assert_eq!(chains.len(), 2, "{chains:?}");
        assert_ne!(chains[0], chains[1], "a route of its own");
        assert_eq!(node.apply(&solo("good", "queue: 7")).expect("applied").changes[0].action, Action::Unchanged);
        assert_eq!(node.send("solo"), Ok(replied), "the same again changes nothing");
    }
}

fn no_message_is_lost_during_a_change() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("good", "replicas: 2"));
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for queue in 10..14 {
                    node.apply(&solo("good", &format!("queue: {queue}, replicas: {}", 1 + queue % 3)))
                        .expect("applied");
                }
            });
            while !changes.is_finished() {
                node.send("solo").unwrap_or_else(|error| panic!("{transport}: {error}"));
            }
        });
    }
}

fn a_version_that_crashes_changes_nothing() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("good", ""));
        let old = node.ready_instances("solo").remove(0);
        let problem = node.apply(&solo("crashing", "")).expect_err("it crashes");
        assert_eq!(problem.status, 409);
        for part in ["default/solo", "exit status: 3", "and it shows", "still runs"] {
            assert!(problem.detail.contains(part), "{part}: {}", problem.detail);
        }
        assert_eq!(node.send("solo"), Ok(old.id));
        eventually("the new one is gone", || (node.instances().len() == 1).then_some(()));
        let manifest = node.object("Function", "solo").manifest.to_string();
        assert!(manifest.contains("good") && !manifest.contains("crashing"), "{manifest}");
        assert!(node.node().waiting_for.is_empty());
    }
}

fn wrong_manifests_change_nothing() {
    let node = Running::ready("ring", &solo("good", ""));
    let old = node.pids("solo");
    let problem = node.apply(&(solo("good", "replicas: 0") + &chain("c", &["nobody"], ""))).expect_err("wrong");
    assert_eq!((problem.status, problem.errors.len()), (422, 2), "{problem:?}");
    assert!(problem.errors.iter().all(|error| error.starts_with("test.yaml:")), "{problem:?}");
    assert_eq!(node.pids("solo"), old);
    let (status, _) = node.request("POST", "/v1/apply", "no JSON").expect("an answer");
    assert_eq!(status, 400);
}

fn replicas_come_and_go() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("good", ""));
        let first = node.pids("solo");
        node.apply(&solo("good", "replicas: 3")).expect("applied");
        eventually("three are ready", || (node.pids("solo").len() == 3).then_some(()));
        assert!(node.pids("solo").contains(&first[0]), "{transport}: it was not replaced");
        let status = node.object("Function", "solo").status;
        assert_eq!((status.ready_instances, status.wanted_instances), (3, 3));
        node.apply(&solo("good", "replicas: 1")).expect("applied");
        eventually("one is left", || (node.instances().len() == 1).then_some(()));
        assert_eq!(node.pids("solo"), first);
        node.send("solo").expect("a reply");
        assert_eq!(node.object("Function", "solo").status.restarts, 0, "an end that was asked for is no failure");
    }
}

fn a_slow_replica_finishes_what_it_has() {
    for transport in transports() {
        let node = Running::ready(transport, &solo("slow", "replicas: 2"));
        std::thread::scope(|scope| {
            // One after the other: each goes to the replica that has less to do, and takes half a second.
            let replies = scope.spawn(|| (0..4).map(|_| node.send("solo")).collect::<Vec<_>>());
            node.apply(&solo("slow", "replicas: 1")).expect("applied");
            for reply in replies.join().expect("no panic") {
                reply.unwrap_or_else(|error| panic!("{transport}: {error}"));
            }
        });
        eventually("one is left", || (node.instances().len() == 1).then_some(()));
    }
}

fn objects_are_deleted_when_nothing_needs_them() {
    for transport in transports() {
        let node = Running::ready(transport, &(solo("good", "") + &function("other", "good", "")));
        let problem = node.delete("Function", "solo").expect_err("the chain uses it");
        assert_eq!(problem.status, 409, "{}", problem.detail);
        assert_eq!(node.delete("Function", "nobody").expect_err("missing").status, 404);
        assert_eq!(node.delete("Chain", "solo").expect("deleted").changes[0].action, Action::Deleted);
        assert_eq!(node.delete("Function", "solo").expect("deleted").changes[0].action, Action::Deleted);
        eventually("its instance ends", || (node.instances().len() == 1).then_some(()));
        node.delete("Function", "other").expect("deleted");
        eventually("nothing runs", || node.instances().is_empty().then_some(()));
        eventually("the domain is gone", || {
            node.gateway_log().iter().any(|line| line.starts_with("domain-gone")).then_some(())
        });
        node.apply(&solo("good", "")).expect("applied");
        node.send("solo").expect("a new domain works like the first");
    }
}

fn a_chain_of_its_own_has_its_own_instances() {
    for transport in transports() {
        let manifests = solo("good", "") + &chain("own", &["solo"], "isolation: chain");
        let node = Running::ready(transport, &manifests);
        assert_eq!(node.ready_instances("solo").len(), 2);
        assert_ne!(node.send("solo").expect("a reply"), node.send("own").expect("a reply"), "{transport}");
        let log = node.gateway_log();
        assert!(
            log.contains(&"domain default".to_owned()) && log.contains(&"domain default/own".to_owned()),
            "{log:#?}"
        );
    }
}

fn a_longer_chain_keeps_its_functions() {
    for transport in transports() {
        let two = solo("good", "") + &function("second", "good", "");
        let node = Running::ready(transport, &two);
        let before = (node.pids("solo"), node.pids("second"));
        let longer = chain("solo", &["solo", "second"], "");
        assert_eq!(node.apply(&longer).expect("applied").changes[0].action, Action::Changed);
        assert_eq!((node.pids("solo"), node.pids("second")), before);
        node.send("solo").expect("a reply");
        let told = |word: &str| {
            eventually("instances are told", || node.log().contains(&format!("told {word}")).then_some(()))
        };
        told("Routes");
        if transport != "skmsg" {
            told("Link");
        }
    }
}

fn an_instance_that_will_not_end_is_killed() {
    let node = Running::ready("ring", &solo("stubborn", "shutdownGrace: 50ms"));
    let old = node.pids("solo")[0];
    node.apply(&solo("good", "")).expect("applied");
    eventually("the old one ends", || (!is_alive(old)).then_some(()));
    eventually("the log says why", || node.log().contains("within its shutdownGrace").then_some(()));
    node.send("solo").expect("a reply");
}

/// Far more than a packet of the control socket holds.
fn a_thousand_chains_are_no_more_than_a_message() {
    const CHAINS: usize = 1000;
    let node = Running::ready("ring", &solo("good", ""));
    let name = |number: usize| format!("a-chain-with-quite-a-long-name-{number}");
    let path = "/a-rather-long-segment".repeat(6);
    let chains: Vec<_> = (0..CHAINS)
        .map(|number| chain(&name(number), &["solo"], &format!("route: [{{path: {path}/{number}}}]")))
        .collect();
    assert_eq!(node.apply(&chains.concat()).expect("applied").changes.len(), CHAINS);
    let told = node.gateway_log().into_iter().rfind(|line| line.starts_with("chains")).expect("told");
    assert_eq!(told.split(' ').count(), 1 + 1 + CHAINS, "the word, the first chain and the new ones");
    assert_eq!(node.send(&name(CHAINS - 1)), Ok(node.ready_instances("solo").remove(0).id));
}
