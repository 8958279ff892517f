//! Clients that stop half-way, in each protocol: they are cut off, and cost nobody else anything meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ramet_tests::eventually;
use tokio::time::timeout;

use crate::speaker::{Speaker, Unfinished, nothing, runtime};
use crate::tls::Secured;
use crate::{impatient, started};

/// How long a client waits to be cut off by a node that is impatient after 300 ms.
const CUT_OFF: Duration = Duration::from_secs(5);

/// A client may stop at every beginning of HTTP/2's preface, and the first of them is also one of `POST`.
#[test]
fn who_stops_in_the_preface_of_http2_is_cut_off() {
    let node = started(&impatient());
    let begun = ["P", "PRI * HTTP/2.0\r\n\r\nSM", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
    let mut stalled = begun.map(|begun| {
        let mut stream = connected(node.listen);
        stream.write_all(begun.as_bytes()).expect("sent");
        stream
    });
    assert_eq!(node.post("/one", b"x").text(), "x+a", "others are served");
    let cut_off = stalled.each_mut().map(is_cut_off);
    assert_eq!(cut_off, [true; 3], "for what is kept open the gateway waits for ever, after {begun:?}");
}

#[test]
fn who_stops_in_the_handshake_delays_nobody_and_is_cut_off() {
    let secured = Secured::start(&impatient());
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01];
    let mut stalled: Vec<_> = (0..50).map(|_| connected(secured.node.listen)).collect();
    for (count, stream) in stalled.iter_mut().enumerate() {
        stream.write_all(&hello[..count % hello.len()]).expect("sent");
    }
    for _ in 0..10 {
        assert_eq!(secured.post("/pair", "x").text(), "x+a+b");
    }
    assert!(stalled.iter_mut().all(is_cut_off));
}

#[test]
fn who_says_nothing_after_the_handshake_is_cut_off() {
    let secured = Secured::start(&impatient());
    let agreed = [&[][..], &["http/1.1"], &["h2"]];
    let mut silent = agreed.map(|alpn| secured.handshake_by_hand(alpn));
    assert_eq!(secured.post("/pair", "x").text(), "x+a+b", "others are served");
    let cut_off = silent.each_mut().map(is_cut_off);
    assert_eq!(cut_off, [true; 3], "for what is kept open the gateway waits for ever, after {agreed:?}");
}

/// HTTP/2 has a window for each stream, so a connection that reads may still leave one answer where it is.
#[test]
fn a_stream_that_is_not_read_gives_its_slots_back() {
    let node = started(&impatient());
    let runtime = runtime();
    let (mut speaker, unread) = runtime.block_on(async {
        let mut speaker = Speaker::h2c(node.listen).await;
        // More than the client's window of 2 MiB.
        let request = speaker.request("GET", "/one", &[("x-do", "big:8000000")], nothing());
        let unread = speaker.begin(request).await.expect("an answer");
        (speaker, unread)
    });
    assert_eq!(unread.status(), 200);
    let answer = runtime.block_on(speaker.ask("POST", "/one", &[], "x"));
    assert_eq!(answer.text(), "x+a", "other streams go on");
    node.wait_all_slots_free();
}

#[test]
fn a_kept_alive_connection_is_closed_when_it_idles() {
    let node = started(&impatient());
    let mut stream = connected(node.listen);
    stream.write_all(b"GET /one HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
    assert!(is_cut_off(&mut stream), "express");
    let mut stream = connected(node.listen);
    stream.write_all(b"HEAD /one HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
    assert!(is_cut_off(&mut stream), "hyper");
}

/// A client that answers pings is alive, and idle all the same.
#[test]
fn an_idle_http2_connection_is_closed() {
    let node = started(&impatient());
    let runtime = runtime();
    let mut speaker = runtime.block_on(Speaker::h2c(node.listen));
    assert_eq!(runtime.block_on(speaker.ask("POST", "/one", &[], "x")).text(), "x+a");
    let Speaker::Http2(sender) = speaker else { panic!("it speaks HTTP/2") };
    eventually("the idle connection to be closed", || sender.is_closed().then_some(()));
}

#[test]
fn a_body_that_stops_is_answered_408_and_other_streams_go_on() {
    let node = started(&impatient());
    runtime().block_on(async {
        let mut speaker = Speaker::h2c(node.listen).await;
        let request = speaker.request("POST", "/one", &[], Unfinished::after(b"not all"));
        let answer = timeout(CUT_OFF, speaker.begin(request)).await.expect("in time").expect("an answer");
        assert_eq!(answer.status(), 408);
        assert_eq!(speaker.ask("POST", "/one", &[], "x").await.text(), "x+a");
    });
    node.wait_all_slots_free();
}

fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the gateway accepts");
    stream.set_read_timeout(Some(CUT_OFF)).expect("a time limit");
    stream
}

/// Whether the gateway ends the connection, whatever it says before.
fn is_cut_off(stream: &mut impl Read) -> bool {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}
