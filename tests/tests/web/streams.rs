//! Bodies pass through while they come, as fast as whoever receives them reads.

use ramet_tests::eventually;

use super::support::{node, web};

#[test]
fn an_event_reaches_the_client_before_there_is_a_next_one() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 4")) else { return };
    let mut client = node.client();
    client.send(b"GET /web/events HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
    let first = client.until(b"data: first\n\n").expect("the first event");
    assert!(String::from_utf8_lossy(&first).contains("text/event-stream"));
    assert_eq!(node.request("GET", "/web/goon", &[], b"").text(), "gone on");
    client.until(b"data: last\n\n").expect("the last event");
    client.until(b"0\r\n\r\n").expect("the end");
}

#[test]
fn a_piece_of_a_body_reaches_the_function_before_there_is_a_next_one() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 4")) else { return };
    let mut client = node.client();
    client.send(b"POST /web/echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").expect("sent");
    for piece in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).expect("sent");
        client.until(piece.as_bytes()).expect("it comes back at once");
    }
    client.send(b"0\r\n\r\n").expect("sent");
    client.until(b"0\r\n\r\n").expect("the end");
    assert_eq!(client.request("POST", "/web/upper", &[], b"x").expect("an answer").text(), "X");
}

#[test]
fn a_client_that_does_not_read_stops_the_function_and_one_that_leaves_ends_it() {
    let Some(node) = node("ring", &web("http: {}, concurrency: 4")) else { return };
    let mut slow = node.client();
    slow.send(b"GET /web/endless HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
    slow.until(b"xxxx").expect("it has begun");
    let written = || node.request("GET", "/web/written", &[], b"").text().parse::<i64>().expect("a number");
    // Buffers fill, and then nothing moves.
    let mut before = -1;
    eventually("the function to stop", || {
        let now = written();
        let stands = now == before && now > 0;
        before = now;
        stands.then_some(())
    });
    assert!(before < 64 << 20, "{before} bytes are somewhere between");
    drop(slow);
    eventually("the function to notice", || (written() == -1).then_some(()));
}
