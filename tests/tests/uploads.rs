//! Bodies that are given to a function while their client still sends them.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use nix::sys::signal::{Signal, kill};
use ramet_tests::{Node, Start, TRANSPORTS, eventually};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a, --streamed], requestBody: streamed, concurrency: 4, hangGrace: 500ms}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: plain}
spec: {command: ['{actor}', plain], requestBody: streamed, concurrency: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: b}
spec: {command: ['{actor}', b], concurrency: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}], deadline: 20s, maxBody: 16Mi}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: pair}
spec: {steps: [{function: a}, {function: b}], deadline: 20s, maxBody: 16Mi}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: plain}
spec: {steps: [{function: plain}, {function: b}], deadline: 20s, maxBody: 16Mi}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: again}
spec: {steps: [{function: a, retries: 1}], deadline: 20s, maxBody: 16Mi}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: small}
spec: {steps: [{function: a}], deadline: 20s, maxBody: 64Ki}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: stuck}
spec: {steps: [{function: a}], deadline: 3s, maxBody: 16Mi}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: hasty}
spec: {steps: [{function: a}], deadline: 1s, maxBody: 16Mi}
";

fn nodes() -> impl Iterator<Item = Node> {
    TRANSPORTS.iter().filter_map(|transport| Node::start(&Start::new(transport, MANIFEST)))
}

/// As many bytes as that, with a pattern that shows every byte that is missing, doubled or moved.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// What the actor says of a body that it has read.
fn sum(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} {sum:016x}", bytes.len())
}

fn begin(path: &str, order: &str, length: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: h\r\nx-do: {order}\r\n{length}\r\n\r\n")
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::new();
    write!(chunk, "{:x}\r\n", bytes.len()).expect("memory");
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

#[test]
fn a_piece_reaches_the_function_and_its_answer_the_client_before_there_is_a_next_one() {
    for node in nodes() {
        let mut client = node.client();
        client.send(begin("/one", "relay", "transfer-encoding: chunked").as_bytes()).expect("sent");
        for piece in ["one", "two", "three"] {
            client.send(&chunk(piece.as_bytes())).expect("sent");
            client.until(piece.as_bytes()).expect("it comes back at once");
        }
        client.send(b"0\r\n\r\n").expect("sent");
        client.until(b"0\r\n\r\n").expect("the end");
        assert_eq!(client.request("POST", "/one", &[], b"x").expect("an answer").text(), "x+a", "and so it goes on");
        node.wait_all_slots_free();
    }
}

#[test]
fn a_body_of_known_length_is_begun_too() {
    for node in nodes() {
        let (body, mut client) = (pattern(300_000), node.client());
        client.send(begin("/one", "sum", "content-length: 300000").as_bytes()).expect("sent");
        client.send(&body[..100_000]).expect("sent");
        eventually("the function to have what was sent", || node.log().contains("has 100000").then_some(()));
        client.send(&body[100_000..]).expect("sent");
        assert_eq!(client.answer(false).expect("an answer").text(), sum(&body));
        node.wait_all_slots_free();
    }
}

#[test]
fn large_and_small_bodies_are_the_same_bytes_however_they_are_read() {
    for node in nodes() {
        for bytes in [0, 1, 16 << 10, (16 << 10) + 1, 700_000, 9 << 20] {
            let body = pattern(bytes);
            let answer = node.request("POST", "/one", &[("x-do", "sum")], &body);
            assert_eq!((answer.status, answer.text()), (200, sum(&body)), "{bytes}");
            for path in ["/one", "/pair", "/plain"] {
                let answer = node.request("POST", path, &[("x-do", "echo")], &body);
                assert_eq!((answer.status, answer.body.len()), (200, bytes), "{path}");
                assert!(answer.body == body, "{path}: {bytes} bytes are the same");
            }
        }
        let answer = node.request("POST", "/pair", &[], &pattern(100_000));
        assert!(answer.body.ends_with(b"+a+b"), "{} bytes", answer.body.len());
        node.wait_all_slots_free();
    }
}

#[test]
fn a_step_that_may_be_tried_again_is_given_the_body_when_it_is_whole() {
    for node in nodes() {
        let (body, mut client) = (pattern(300_000), node.client());
        client.send(begin("/again", "sum", "content-length: 300000").as_bytes()).expect("sent");
        client.send(&body).expect("sent");
        assert_eq!(client.answer(false).expect("an answer").text(), sum(&body));
        node.wait_all_slots_free();
    }
}

#[test]
fn a_function_that_does_not_read_lets_its_client_wait_and_fills_no_pool() {
    for node in nodes() {
        let mut client = TcpStream::connect(node.listen).expect("the gateway accepts");
        let free =
            || node.metric("ramet_free_slots", "bytes=\"65536\"") + node.metric("ramet_free_slots", "bytes=\"16384\"");
        let before = free();
        client.write_all(begin("/stuck", "wait", "content-length: 16000000").as_bytes()).expect("sent");
        let mut sender = client.try_clone().expect("the same connection");
        // It ends with the connection.
        let sending = std::thread::spawn(move || sender.write_all(&pattern(16_000_000)).is_err());
        eventually("the function to have a piece", || node.log().contains("waits").then_some(()));
        let mut unmoved = (before, 0);
        eventually("nothing to move", || {
            let now = free();
            unmoved = if now == unmoved.0 { (now, unmoved.1 + 1) } else { (now, 0) };
            (unmoved.1 > 20).then_some(())
        });
        assert!(before - free() < 16.0, "{} slots are taken", before - free());
        assert_eq!(node.request("POST", "/one", &[("x-do", "sum")], &pattern(100_000)).status, 200, "others go on");
        client.shutdown(Shutdown::Both).expect("gone");
        assert!(sending.join().expect("no panic"), "the gateway did not take all of it");
        node.wait_all_slots_free();
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_is_a_body_that_breaks_off() {
    for node in nodes() {
        for (length, sent) in
            [("content-length: 300000", pattern(100_000)), ("transfer-encoding: chunked", chunk(b"one"))]
        {
            let mut client = node.client();
            client.send(begin("/one", "sum", length).as_bytes()).expect("sent");
            client.send(&sent).expect("sent");
            let bytes = if sent.len() == 100_000 { 100_000 } else { 3 };
            eventually("the function to begin", || node.log().contains(&format!("has {bytes}")).then_some(()));
            drop(client);
            // That the request is cancelled may be heard first.
            eventually("the function to hear of it", || {
                let heard = [": the request's body broke off", ": the request was cancelled"];
                heard.iter().any(|heard| node.log().contains(&format!("after {bytes}{heard}"))).then_some(())
            });
            node.wait_all_slots_free();
        }
    }
}

#[test]
fn a_body_that_is_too_long_or_too_slow_or_framed_wrongly_is_its_clients_problem() {
    for transport in TRANSPORTS {
        let start = Start::new(transport, MANIFEST).with("RAMET_GATEWAY__BODY_TIMEOUT", "300ms");
        let Some(node) = Node::start(&start) else { continue };
        let asked = |path, pieces: &[&[u8]]| {
            let mut client = node.client();
            client.send(begin(path, "sum", "transfer-encoding: chunked").as_bytes()).expect("sent");
            for piece in pieces {
                client.send(piece).expect("sent");
            }
            client.answer(false).expect("an answer").status
        };
        let part = chunk(&pattern(40_000));
        assert_eq!(asked("/small", &[&part, &part]), 413, "{transport}");
        assert_eq!(asked("/one", &[&part]), 408, "{transport}");
        assert_eq!(asked("/one", &[&part, b"no number\r\n"]), 400, "{transport}");
        let mut client = node.client();
        client.send(begin("/small", "sum", "content-length: 70000").as_bytes()).expect("sent");
        assert_eq!(client.answer(false).expect("an answer").status, 413);
        assert_eq!(node.request("POST", "/small", &[("x-do", "sum")], &pattern(60_000)).status, 200, "{transport}");
        node.wait_all_slots_free();
    }
}

#[test]
fn a_function_may_answer_without_having_read_all() {
    for node in nodes() {
        for (order, text) in [("early", "early"), ("first", "one")] {
            let mut client = node.client();
            client.send(begin("/one", order, "transfer-encoding: chunked").as_bytes()).expect("sent");
            client.send(&chunk(b"one")).expect("sent");
            assert_eq!(client.answer(false).expect("an answer").text(), text);
        }
        node.wait_all_slots_free();
    }
}

#[test]
fn the_deadline_ends_a_request_whose_body_takes_too_long() {
    for node in nodes() {
        let mut client = node.client();
        client.send(begin("/hasty", "sum", "transfer-encoding: chunked").as_bytes()).expect("sent");
        client.send(&chunk(b"one")).expect("sent");
        assert_eq!(client.answer(false).expect("an answer").status, 504);
        assert_eq!(node.request("POST", "/one", &[], b"x").text(), "x+a");
        node.wait_all_slots_free();
    }
}

#[test]
fn a_function_that_dies_in_the_middle_is_a_502_and_loses_no_slot() {
    for node in nodes() {
        let mut client = node.client();
        client.send(begin("/one", "quit", "transfer-encoding: chunked").as_bytes()).expect("sent");
        client.send(&chunk(b"one")).expect("sent");
        assert_eq!(client.answer(false).expect("an answer").status, 502);
        let mut client = node.client();
        client.send(begin("/plain", "sum", "content-length: 300000").as_bytes()).expect("sent");
        client.send(&pattern(100_000)).expect("sent");
        eventually("it to run", || (node.metric("ramet_in_flight", "chain=\"default/plain\"") == 1.0).then_some(()));
        kill(node.instances("actor plain")[0], Signal::SIGKILL).expect("killed");
        let answer = client.answer(false).expect("an answer");
        assert_eq!(answer.status, 502, "{}", answer.text());
        node.wait_all_slots_free();
        eventually("it to serve again", || (node.request("POST", "/one", &[], b"x").status == 200).then_some(()));
    }
}

#[test]
fn a_node_that_ends_finishes_bodies_that_are_coming() {
    for mut node in nodes() {
        let mut client = node.client();
        client.send(begin("/one", "sum", "transfer-encoding: chunked").as_bytes()).expect("sent");
        client.send(&chunk(b"one")).expect("sent");
        eventually("the function to begin", || node.log().contains("has 3").then_some(()));
        let rest = std::thread::spawn(move || {
            client.send(&chunk(b"two")).expect("sent");
            client.send(b"0\r\n\r\n").expect("sent");
            client.answer(false).expect("an answer").text()
        });
        assert!(node.stop().success(), "{}", node.log());
        assert_eq!(rest.join().expect("no panic"), sum(b"onetwo"));
    }
}
