//! I10 and the end of things: drain, death of the gateway, death of the supervisor.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Who did not ask for the connection's end may have sent more, and would not see its answer if that was left unread.
#[test]
fn an_answer_with_which_the_node_ends_a_connection_is_not_reset() {
    for transport in TRANSPORTS {
        let Some(mut node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        let mut client = node.client();
        let client = std::thread::spawn(move || {
            let request = b"POST /one HTTP/1.1\r\nhost: h\r\nx-do: pause:400\r\ncontent-length: 1\r\n\r\nx";
            client.send(&[&request[..], &[b'-'; 64 << 10]].concat()).expect("sent");
            let answer = client.answer(false).expect("an answer");
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
            client.end().expect("ended");
            client.end_of_stream()
        });
        eventually("the request to run", || (node.metric("ramet_in_flight", "default/one") >= 1.0).then_some(()));
        assert!(node.stop().success(), "{}", node.log());
        client.join().expect("client").unwrap_or_else(|error| panic!("{transport}: {error}"));
    }
}

/// As many connections as there may be are open at once, whichever worker has them, and the next one waits.
#[test]
fn all_connections_that_there_may_be_are_served_and_no_more() {
    const MOST: usize = 16;
    let start = Start::new("ring", MANIFEST)
        .with("RAMET_GATEWAY__WORKERS", "2")
        .with("RAMET_GATEWAY__MAX_CONNECTIONS", MOST.to_string());
    let node = Node::start(&start).expect("it runs everywhere");
    let ask = |client: &mut Client| client.request("POST", "/one", &[], b"x").expect("an answer").text();
    let mut clients: Vec<_> = (0..MOST).map(|_| node.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(ask(client), "x+a"));
    let mut next = node.client();
    let request = b"POST /one HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\ny";
    next.send(request).expect("sent");
    // What has room is served meanwhile.
    clients.iter_mut().for_each(|client| assert_eq!(ask(client), "x+a"));
    let unread = || next.queued_at_far_side().expect("the table of connections").map(|queued| queued.unread);
    assert_eq!(unread(), Some(request.len() as u64), "the next one waits");
    clients.pop();
    assert_eq!(next.answer(false).expect("an answer").text(), "y+a");
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
        let answered = Arc::new(AtomicUsize::new(0));
        let ask_on = |request: &'static [u8]| {
            let answered = Arc::clone(&answered);
            move || {
                let mut client = Client::connect(address).expect("connected");
                for before in 0.. {
                    client.send(request).expect("sent");
                    let answer = client.answer(false).expect("an answer");
                    assert_eq!(answer.status, 200);
                    answered.fetch_add(usize::from(before == 0), Ordering::Relaxed);
                    if answer.header("connection") == Some("close") {
                        return;
                    }
                }
            }
        };
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| std::thread::spawn(ask_on(REQUESTS[number % REQUESTS.len()]))).collect();
        // Who has not been accepted when the node is told to end may find nobody.
        eventually("every client to be answered", || (answered.load(Ordering::Relaxed) == CLIENTS).then_some(()));
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
