//! I10 and the end of things: drain, death of the gateway, death of the supervisor.

use std::net::TcpStream;
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

/// Clients that send one request after the other, and do not know that the node is to end.
#[test]
fn whoever_is_not_told_that_the_connection_ends_is_answered() {
    const CLIENTS: usize = 16;
    /// One for the express lane, and one for hyper.
    const REQUESTS: [&[u8]; 2] = [
        b"POST /one HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx",
        b"POST /one HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ];
    for transport in TRANSPORTS {
        let Some(mut node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        let address = node.listen;
        let ask_on = |request: &'static [u8]| {
            move || {
                let mut client = Client::connect(address).expect("connected");
                loop {
                    client.send(request).expect("sent");
                    let answer = client.answer(false).expect("an answer");
                    assert_eq!(answer.status, 200);
                    if answer.header("connection") == Some("close") {
                        return;
                    }
                }
            }
        };
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| std::thread::spawn(ask_on(REQUESTS[number % REQUESTS.len()]))).collect();
        eventually("clients to be answered", || {
            (node.metric("ramet_answers_total", "code=\"200\"") > 200.0).then_some(())
        });
        assert!(node.stop().success(), "{}", node.log());
        for client in clients {
            client.join().unwrap_or_else(|_| panic!("{transport}: a request was lost"));
        }
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
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
