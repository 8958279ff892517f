//! HTTP/1.1 on one connection that starts in the gateway's express lane: pieces, pipelines, changes of lane, ends.

use nix::sys::signal::{Signal, kill};
use ramet_tests::{Client, Node, Start, eventually};

use crate::{MANIFEST, node, pattern, started, wait_none_running, wait_running};

const PLAIN: &[u8] = b"POST /pair HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nplain";
const CHUNKED: &[u8] = b"POST /pair HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n\
    3\r\nchu\r\n4;x=y\r\nnked\r\n0\r\nx-trailer: 1\r\n\r\n";
const AGAIN: &[u8] = b"POST /pair HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nagain";
const LANES: [Lane; 2] = [Lane::Express, Lane::Hyper];

/// Who reads a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Express,
    Hyper,
}

#[test]
fn a_connection_may_change_its_lane() {
    let node = node();
    let mut client = node.client();
    for (request, expected) in
        [(PLAIN, "plain+a+b"), (PLAIN, "plain+a+b"), (CHUNKED, "chunked+a+b"), (AGAIN, "again+a+b")]
    {
        client.send(request).expect("sent");
        assert_answered(&mut client, expected);
    }
    // All of them in one write, so that hyper begins with what was read for the express lane.
    for order in [[PLAIN, CHUNKED, AGAIN], [CHUNKED, PLAIN, AGAIN], [PLAIN, AGAIN, CHUNKED]] {
        let mut client = node.client();
        client.send(&order.concat()).expect("sent");
        for request in order {
            let expected = match request {
                PLAIN => "plain+a+b",
                CHUNKED => "chunked+a+b",
                _ => "again+a+b",
            };
            assert_answered(&mut client, expected);
        }
        client.send(PLAIN).expect("sent");
        assert_answered(&mut client, "plain+a+b");
    }
    node.wait_all_slots_free();
}

#[test]
fn a_long_chunked_body_arrives_byte_for_byte() {
    let node = node();
    let body = pattern(3 << 20);
    let mut bytes = b"POST /pair HTTP/1.1\r\nhost: h\r\nx-do: echo\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for (count, chunk) in body.chunks(7919).enumerate() {
        bytes.extend(format!("{:X}{}\r\n", chunk.len(), if count % 2 == 0 { "" } else { ";a=b" }).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    let mut client = node.client();
    client.send(&bytes).expect("sent");
    let answer = client.answer(false).expect("an answer");
    assert!(answer.body == body, "{}: {} bytes came back", answer.status, answer.body.len());
    node.wait_all_slots_free();
}

#[test]
fn a_body_may_come_in_pieces() {
    let node = node();
    let mut client = node.client();
    for (bytes, pieces) in [(3000, 30), (30_000, 100), (3 << 20, 20)] {
        let body = pattern(bytes);
        let head = format!("POST /pair HTTP/1.1\r\nhost: h\r\nx-do: echo\r\ncontent-length: {bytes}\r\n\r\n");
        send_and_wait_read(&mut client, head.as_bytes());
        for piece in body.chunks(bytes.div_ceil(pieces)) {
            send_and_wait_read(&mut client, piece);
        }
        let answer = client.answer(false).expect("an answer");
        assert!(answer.body == body, "{}: {} bytes came back", answer.status, answer.body.len());
    }
    node.wait_all_slots_free();
}

#[test]
fn a_head_may_be_split_anywhere() {
    let node = node();
    for at in 1..PLAIN.len() {
        let mut client = node.client();
        send_and_wait_read(&mut client, &PLAIN[..at]);
        client.send(&PLAIN[at..]).expect("sent");
        assert_answered(&mut client, "plain+a+b");
        client.send(AGAIN).expect("sent");
        assert_answered(&mut client, "again+a+b");
    }
    node.wait_all_slots_free();
}

#[test]
fn a_burst_in_one_write_is_answered_in_order() {
    const REQUESTS: usize = 200;
    let node = node();
    // The longer ones do not fit one read, so that a head or a body is cut at any place.
    for bytes in [1, 100, 700] {
        let body = |number: usize| format!("{number:03}{}", "x".repeat(bytes + number % 7));
        let burst: Vec<u8> = (0..REQUESTS)
            .flat_map(|number| {
                let body = body(number);
                format!("POST /pair HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
            })
            .collect();
        let mut client = node.client();
        client.send(&burst).expect("sent");
        for number in 0..REQUESTS {
            assert_answered(&mut client, &format!("{}+a+b", body(number)));
        }
    }
    node.wait_all_slots_free();
}

#[test]
fn who_leaves_while_the_function_works_gives_the_slots_back() {
    let node = node();
    // Only a gateway that notices ends the request: the chain has a minute, and the function no end.
    let endless = b"POST /one HTTP/1.1\r\nhost: h\r\nx-do: hang\r\ncontent-length: 1\r\n\r\nx";
    for lane in LANES {
        let mut client = on_lane(&node, lane);
        client.send(endless).expect("sent");
        wait_running(&node, 1.0);
        drop(client);
        wait_none_running(&node);
        assert_eq!(node.post("/pair", b"x").text(), "x+a+b");
    }
    kill(node.instances("actor a")[0], Signal::SIGKILL).expect("killed");
    node.wait_all_slots_free();
}

/// The event loop has not been told of such a connection when its request sets out.
#[test]
fn who_leaves_is_missed_though_the_request_was_there_before_the_connection_was_accepted() {
    let node = started(&Start::new("ring", MANIFEST).with("RAMET_GATEWAY__MAX_CONNECTIONS", "1"));
    for _ in 0..5 {
        let mut first = node.client();
        assert_eq!(first.request("POST", "/one", &[], b"x").expect("an answer").text(), "x+a");
        let mut second = node.client();
        let endless = b"POST /one HTTP/1.1\r\nhost: h\r\nx-do: hang\r\ncontent-length: 1\r\n\r\nx";
        second.send(endless).expect("sent");
        eventually("the request to be there", || {
            let queued = second.queued_at_far_side().expect("the table of connections");
            queued.is_some_and(|queued| queued.unread == endless.len() as u64).then_some(())
        });
        drop(first);
        wait_running(&node, 1.0);
        drop(second);
        wait_none_running(&node);
    }
    kill(node.instances("actor a")[0], Signal::SIGKILL).expect("killed");
    node.wait_all_slots_free();
}

#[test]
fn who_leaves_with_requests_in_the_pipeline_gives_the_slots_back() {
    let node = node();
    for _ in 0..10 {
        let mut client = node.client();
        let slow = b"POST /one HTTP/1.1\r\nhost: h\r\nx-do: pause:100\r\ncontent-length: 1\r\n\r\nx";
        client.send(&[&slow[..], PLAIN, PLAIN, CHUNKED, AGAIN].concat()).expect("sent");
        wait_running(&node, 1.0);
        drop(client);
        wait_none_running(&node);
    }
    assert_eq!(node.post("/pair", b"x").text(), "x+a+b");
    node.wait_all_slots_free();
}

#[test]
fn close_closes() {
    let node = node();
    let last = b"POST /pair HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    for lane in LANES {
        let mut client = on_lane(&node, lane);
        client.send(last).expect("sent");
        let answer = client.answer(false).expect("an answer");
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("x+a+b", Some("close")));
        assert_eq!(client.rest().expect("the end"), b"");
    }
}

/// A connection that is closed on unread bytes is reset, and a client that sees the reset may not see the answer.
#[test]
fn a_last_answer_is_not_reset_whatever_else_the_client_sends() {
    let node = node();
    // More than is read with the head.
    let more = [b'-'; 64 << 10];
    for what in ["pause:0", "pause:100", "status:404"] {
        let mut client = node.client();
        let head = format!("POST /one HTTP/1.1\r\nhost: h\r\nx-do: {what}\r\nconnection: close\r\n");
        client.send(&[head.as_bytes(), b"content-length: 1\r\n\r\nx", &more].concat()).expect("sent");
        client.answer(false).expect("an answer");
        client.end().expect("ended");
        client.end_of_stream().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    node.wait_all_slots_free();
}

#[test]
fn no_content_and_not_modified_have_neither_body_nor_length() {
    let node = node();
    for lane in LANES {
        for status in [204, 304] {
            let mut client = on_lane(&node, lane);
            let bare = format!("GET /one HTTP/1.1\r\nhost: h\r\nx-do: status:{status}\r\n\r\n");
            client.send(&[bare.as_bytes(), PLAIN].concat()).expect("sent");
            let answer = client.answer(false).expect("an answer");
            assert_eq!(answer.status, status);
            assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (None, None), "{status}");
            // What follows the head is the next answer, so there was no body.
            assert_answered(&mut client, "plain+a+b");
        }
    }
    node.wait_all_slots_free();
}

#[test]
fn a_large_answer_read_slowly_arrives_whole() {
    let node = node();
    for lane in LANES {
        let mut client = on_lane(&node, lane);
        client.send(b"GET /one HTTP/1.1\r\nhost: h\r\nx-do: big:12000000\r\n\r\n").expect("sent");
        eventually("the gateway to wait for the client", || {
            let queued = client.queued_at_far_side().expect("the table of connections");
            queued.is_some_and(|queued| queued.unsent > 0).then_some(())
        });
        assert_eq!(node.post("/pair", b"x").text(), "x+a+b", "others are served meanwhile");
        let answer = client.answer(false).expect("the whole answer");
        assert!(answer.body == pattern(12_000_000), "{}: {} bytes came", answer.status, answer.body.len());
        client.send(PLAIN).expect("sent");
        assert_answered(&mut client, "plain+a+b");
    }
    node.wait_all_slots_free();
}

#[test]
fn a_streamed_answer_is_chunked_and_the_connection_goes_on() {
    let node = node();
    let mut client = node.client();
    for lines in [0, 1, 1000, 20_000] {
        let answer = client.request("GET", "/one", &[("x-do", &format!("stream:{lines}"))], b"").expect("an answer");
        let framing = (answer.header("transfer-encoding"), answer.header("content-length"));
        assert_eq!(framing, (Some("chunked"), None), "{lines} lines");
        let expected: String = (0..lines).map(|line| format!("line {line}\n")).collect();
        assert!(answer.text() == expected, "{lines} lines: {} bytes came", answer.body.len());
    }
    node.wait_all_slots_free();
}

#[test]
fn an_answer_whose_function_dies_breaks_off_without_the_last_chunk() {
    let node = node();
    for lane in LANES {
        let mut client = on_lane(&node, lane);
        let before = node.instances("actor a");
        client.send(b"GET /one HTTP/1.1\r\nhost: h\r\nx-do: stall:10\r\n\r\n").expect("sent");
        let begun = client.until(b"line 9\n").expect("the beginning");
        assert!(begun.starts_with(b"HTTP/1.1 200 OK\r\n"), "{:?}", String::from_utf8_lossy(&begun));
        kill(before[0], Signal::SIGKILL).expect("killed");
        let rest = client.rest().expect("an end");
        assert!(
            !rest.ends_with(b"0\r\n\r\n"),
            "the client takes it for the whole: {:?}",
            String::from_utf8_lossy(&rest)
        );
        eventually("the function to be back", || (node.post("/pair", b"x").text() == "x+a+b").then_some(()));
    }
    node.wait_all_slots_free();
}

#[test]
fn an_old_client_gets_no_chunks() {
    let node = node();
    let old = |order: &str| {
        let mut client = node.client();
        client.send(format!("GET /one HTTP/1.0\r\nx-do: {order}\r\n\r\n").as_bytes()).expect("sent");
        let bytes = client.rest().expect("the end");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let plain = old("big:3");
    assert!(plain.starts_with("HTTP/1.0 200") && plain.ends_with("\r\n\r\n\0\u{1}\u{2}"), "{plain:?}");
    let streamed = old("stream:3").to_ascii_lowercase();
    assert!(streamed.ends_with("\r\n\r\nline 0\nline 1\nline 2\n"), "{streamed:?}");
    assert!(!streamed.contains("transfer-encoding"), "{streamed:?}");
    node.wait_all_slots_free();
}

fn on_lane(node: &Node, lane: Lane) -> Client {
    let mut client = node.client();
    if lane == Lane::Hyper {
        // A method that the express lane does not know; from here on the connection is hyper's.
        assert_eq!(client.request("HEAD", "/one", &[], b"").expect("an answer").status, 200);
    }
    client
}

fn assert_answered(client: &mut Client, expected: &str) {
    let answer = client.answer(false).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, expected));
}

/// Sends, and waits until the gateway has read it all, so that what follows comes in another read.
fn send_and_wait_read(client: &mut Client, bytes: &[u8]) {
    client.send(bytes).expect("sent");
    eventually("the gateway to read", || {
        let queued = client.queued_at_far_side().expect("the table of connections");
        queued.is_some_and(|queued| queued.unread == 0).then_some(())
    });
}
