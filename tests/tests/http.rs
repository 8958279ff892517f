//! HTTP at the gateway: what is malformed is refused, what is odd but right is served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ramet_tests::{Node, Start};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], concurrency: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}], maxBody: 64Ki}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: narrow}
spec: {steps: [{function: a}], maxInFlight: 1, route: [{path: /narrow, methods: [POST, PUT]}]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: hosted}
spec: {steps: [{function: a}], route: [{host: '*.example.org', path: /}]}
";

fn node() -> Node {
    Node::start(&Start::new("ring", MANIFEST)).expect("ring runs everywhere")
}

/// Sends raw bytes and reads until the gateway closes or is silent.
fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.listen).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
    // A gateway that has refused already may not read the rest.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn every_problem_is_a_small_json_document() {
    let node = node();
    let missing = node.post("/nowhere", b"x");
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/problem+json")));
    let body: serde_json::Value = serde_json::from_slice(&missing.body).expect("JSON");
    assert_eq!((body["status"].as_u64(), body["type"].as_str()), (Some(404), Some("about:blank")));
    let wrong = node.request("GET", "/narrow", &[], b"");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST, PUT")));
    assert_eq!(node.request("GET", "/x", &[("host", "a.example.org")], b"").status, 400, "two hosts");
    assert_eq!(node.post("/one", &vec![0; 65_537]).status, 413);
    assert_eq!(node.post("/one", &vec![0; 65_536]).status, 200);
    node.wait_all_slots_free();
}

#[test]
fn hosts_choose_chains() {
    let node = node();
    let get =
        |host: &str| raw(&node, format!("GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes());
    assert!(get("deep.example.org:80").starts_with("HTTP/1.1 200"), "{}", get("deep.example.org"));
    assert!(get("example.org").starts_with("HTTP/1.1 404"));
}

#[test]
fn what_is_malformed_is_refused_and_the_connection_closed() {
    let node = node();
    for bad in [
        &b"GARBAGE\r\n\r\n"[..],
        b"GET /one HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /one HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /one HTTP/1.1\r\n\r\n",
        b"GET /one HTTP/9.9\r\nhost: a\r\n\r\n",
    ] {
        let answer = raw(&node, bad);
        assert!(answer.starts_with("HTTP/1.1 400"), "{:?} was answered {answer:?}", String::from_utf8_lossy(bad));
        assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "one answer, then the end: {answer:?}");
    }
    node.wait_all_slots_free();
}

#[test]
fn head_expect_chunked_and_pipelining_are_served() {
    let node = node();
    let mut client = node.client();
    let head = client.request("HEAD", "/one", &[("x-do", "big:5000")], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("5000"), 0));

    client
        .send(
            b"POST /one HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        )
        .expect("sent");
    assert_eq!(client.answer(false).expect("an answer").text(), "abcde+a");

    client.send(b"POST /one HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").expect("sent");
    assert_eq!(client.answer(false).expect("an answer").status, 100);
    client.send(b"abc").expect("sent");
    assert_eq!(client.answer(false).expect("an answer").text(), "abc+a");

    client
        .send(b"POST /one HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 99999\r\n\r\n")
        .expect("sent");
    assert_eq!(client.answer(false).expect("an answer").status, 413, "refused before the body is sent");

    let mut client = node.client();
    let one = b"POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n";
    let pipeline: Vec<u8> = (b'0'..=b'9').flat_map(|digit| one.iter().copied().chain([digit])).collect();
    client.send(&pipeline).expect("sent");
    for digit in '0'..='9' {
        assert_eq!(client.answer(false).expect("an answer").text(), format!("{digit}+a"));
    }
}

#[test]
fn a_chain_runs_no_more_requests_than_it_may() {
    let node = node();
    let address = node.listen;
    let slow = std::thread::spawn(move || {
        let mut client = ramet_tests::Client::connect(address).expect("connected");
        client.request("POST", "/narrow", &[("x-do", "pause:500")], b"x").expect("an answer").status
    });
    ramet_tests::eventually("the first to run", || {
        (node.metric("ramet_in_flight", "default/narrow") > 0.0).then_some(())
    });
    let second = node.post("/narrow", b"x");
    assert_eq!((second.status, second.header("retry-after")), (429, Some("1")));
    assert_eq!(slow.join().expect("client"), 200);
}

#[test]
fn slow_clients_are_cut_off_and_cost_nobody_else() {
    let start = Start::new("ring", MANIFEST)
        .with("RAMET_GATEWAY__HEADER_TIMEOUT", "300ms")
        .with("RAMET_GATEWAY__IDLE_TIMEOUT", "300ms")
        .with("RAMET_GATEWAY__BODY_TIMEOUT", "300ms");
    let node = Node::start(&start).expect("ring runs everywhere");
    let mut slow_head = node.client();
    slow_head.send(b"POST /one HTTP/1.1\r\nhost:").expect("sent");
    let mut slow_body = node.client();
    slow_body.send(b"POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc").expect("sent");
    for _ in 0..10 {
        assert_eq!(node.post("/one", b"x").text(), "x+a");
    }
    assert_eq!(slow_body.answer(false).expect("an answer").status, 408);
    assert!(slow_head.is_closed() || slow_head.answer(false).is_ok_and(|answer| answer.status >= 400));
    node.wait_all_slots_free();
}

#[test]
fn five_clients_that_reset_hurt_nobody() {
    let node = node();
    for _ in 0..5 {
        let mut client = node.client();
        client.send(b"POST /one HTTP/1.1\r\nhost: a\r\nx-do: big:3000000\r\ncontent-length: 0\r\n\r\n").expect("sent");
        // Dropped with an answer under way: the kernel resets the connection.
        drop(client);
    }
    for _ in 0..10 {
        assert_eq!(node.post("/one", b"x").text(), "x+a");
    }
    node.wait_all_slots_free();
}
