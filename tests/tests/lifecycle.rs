//! I10 and the end of things: drain, death of the gateway, death of the supervisor.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use ramet_tests::{Client, Node, Start, TRANSPORTS, eventually};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], concurrency: 8}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}]}
";

#[test]
fn accepted_requests_are_finished_before_the_node_ends() {
    for transport in TRANSPORTS {
        let Some(mut node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        let address = node.listen;
        let clients: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut client = Client::connect(address).expect("connected");
                    client.request("POST", "/one", &[("x-do", "pause:400")], b"x").expect("an answer").status
                })
            })
            .collect();
        eventually("the requests to run", || (node.metric("ramet_in_flight", "default/one") >= 4.0).then_some(()));
        assert!(node.stop().success(), "{}", node.log());
        for client in clients {
            assert_eq!(client.join().expect("client"), 200, "{transport}");
        }
    }
}

#[test]
fn nothing_outlives_the_supervisor() {
    for transport in TRANSPORTS {
        let Some(node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        let family = node.processes();
        assert!(family.len() >= 3, "{family:?}");
        kill(node.pid(), Signal::SIGKILL).expect("killed");
        // A dead process that nobody has waited for yet counts as gone.
        eventually("every process to end", || {
            let alive = family.iter().filter(|(pid, _)| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.is_empty() && !stat.contains(") Z ")
            });
            (alive.count() == 0).then_some(())
        });
    }
}

#[test]
fn a_new_gateway_takes_over() {
    for transport in TRANSPORTS {
        let Some(node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        let gateway = node.instances("gateway")[0];
        kill(gateway, Signal::SIGKILL).expect("killed");
        let start = Instant::now();
        eventually("the next gateway to answer", || {
            let mut client = Client::connect(node.listen).ok()?;
            let answer = client.request("POST", "/one", &[], b"x").ok()?;
            (answer.text() == "x+a").then_some(())
        });
        eprintln!("{transport}: back after {:?}", start.elapsed());
        node.wait_all_slots_free();
    }
}

#[test]
fn a_second_node_on_the_same_socket_is_told_so() {
    let node = Node::start(&Start::new("ring", MANIFEST)).expect("ring runs everywhere");
    let output = node.ramet(&["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--transport", "ring"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("ramet.sock"), "{message}");
    assert_eq!(node.post("/one", b"x").status, 200, "the first goes on");
}
