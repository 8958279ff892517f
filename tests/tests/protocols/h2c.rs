//! HTTP/2 with prior knowledge, on the listener that also takes HTTP/1.1.

use http_body_util::BodyExt;
use nix::sys::signal::{Signal, kill};
use ramet_tests::wait::PATIENCE;
use ramet_tests::{Answer, Node, eventually};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::speaker::{Fed, Speaker, Unfinished, nothing, runtime};
use crate::{node, pattern, wait_none_running, wait_running};

#[test]
fn a_post_goes_through_the_chain() {
    let node = node();
    runtime().block_on(async {
        let mut speaker = Speaker::h2c(node.listen).await;
        for turn in 0..10 {
            let answer = speaker.ask("POST", "/pair", &[], format!("{turn}")).await;
            assert_eq!((answer.status, answer.text()), (200, format!("{turn}+a+b")));
        }
        let described = speaker.ask("GET", "/one/x?y=z", &[("x-do", "headers"), ("x-seen", "1")], "").await.text();
        assert!(described.starts_with("GET /one/x?y=z\n"), "{described}");
        for line in ["x-seen: 1", "host: localhost", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"] {
            assert_eq!(described.lines().filter(|seen| *seen == line).count(), 1, "{line} in:\n{described}");
        }
    });
    node.wait_all_slots_free();
}

#[test]
fn a_hundred_streams_at_once_are_all_answered_right() {
    const STREAMS: usize = 100;
    let node = node();
    let runtime = runtime();
    let speaker = runtime.block_on(Speaker::h2c(node.listen));
    let streams: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let mut speaker = speaker.beside();
            runtime.spawn(async move {
                let body = format!("{stream}:").repeat(1 + stream * 20);
                let answer = speaker.ask("POST", "/pair", &[("x-do-a", "pause:1000")], body.clone()).await;
                assert_eq!((answer.status, answer.text()), (200, format!("{body}+b")));
            })
        })
        .collect();
    wait_running(&node, STREAMS as f64);
    for stream in streams {
        runtime.block_on(stream).expect("a right answer");
    }
    node.wait_all_slots_free();
}

#[test]
fn streams_that_the_gateway_answers_by_itself_and_streams_that_wait_for_a_function_get_their_own_answers() {
    const STREAMS: usize = 200;
    let node = node();
    let runtime = runtime();
    let speaker = runtime.block_on(Speaker::h2c(node.listen));
    let streams: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let mut speaker = speaker.beside();
            runtime.spawn(async move {
                let is_routed = stream % 3 == 0;
                let path = if is_routed { "/one" } else { "/nowhere" };
                let answer = speaker.ask("POST", path, &[], stream.to_string()).await;
                let expected = if is_routed { (200, format!("{stream}+a")) } else { (404, answer.text()) };
                assert_eq!((answer.status, answer.text()), expected);
                assert_eq!(answer.text().contains("no chain is routed"), !is_routed, "{}", answer.text());
            })
        })
        .collect();
    for stream in streams {
        runtime.block_on(stream).expect("a right answer");
    }
    node.wait_all_slots_free();
}

#[test]
fn head_has_a_length_and_no_body() {
    let node = node();
    let head = runtime()
        .block_on(async { Speaker::h2c(node.listen).await.ask("HEAD", "/one", &[("x-do", "big:5000")], "").await });
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("5000"), 0));
    node.wait_all_slots_free();
}

#[test]
fn what_has_no_body_over_http_has_none_here() {
    let node = node();
    runtime().block_on(async {
        let mut speaker = Speaker::h2c(node.listen).await;
        for status in [204, 304] {
            let answer = speaker.ask("GET", "/one", &[("x-do", &format!("status:{status}"))], "").await;
            assert_eq!((answer.status, answer.header("content-length"), answer.text().as_str()), (status, None, ""));
        }
    });
    node.wait_all_slots_free();
}

#[test]
fn problems_are_json_and_end_only_their_own_stream() {
    let node = node();
    let is_problem = |answer: &Answer, status: u16| {
        assert_eq!((answer.status, answer.header("content-type")), (status, Some("application/problem+json")));
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!((body["status"].as_u64(), body["type"].as_str()), (Some(status.into()), Some("about:blank")));
        assert_eq!(answer.header("connection"), None, "HTTP/2 forbids it");
    };
    runtime().block_on(async {
        let mut speaker = Speaker::h2c(node.listen).await;
        is_problem(&speaker.ask("POST", "/nowhere", &[], "x").await, 404);
        let wrong = speaker.ask("GET", "/small", &[], "").await;
        is_problem(&wrong, 405);
        assert_eq!(wrong.header("allow"), Some("POST, PUT"));
        is_problem(&speaker.ask("POST", "/small", &[], vec![0; 65_537]).await, 413);
        is_problem(&speaker.ask("POST", "/one", &[("x-do", "panic")], "x").await, 500);
        assert_eq!(speaker.ask("POST", "/small", &[], vec![0; 65_536]).await.status, 200);
    });
    node.wait_all_slots_free();
}

#[test]
fn three_mebibytes_go_in_and_out_byte_for_byte() {
    let node = node();
    let body = pattern(3 << 20);
    let answer = runtime().block_on(async {
        Speaker::h2c(node.listen).await.ask("POST", "/pair", &[("x-do", "echo")], body.clone()).await
    });
    assert_eq!((answer.status, answer.body.len()), (200, body.len()));
    assert!(answer.body == body, "the bytes are the same");
    node.wait_all_slots_free();
}

#[test]
fn a_piece_of_a_body_comes_back_before_there_is_a_next_one() {
    let node = node();
    runtime().block_on(async {
        let mut speaker = Speaker::h2c(node.listen).await;
        let (sender, body) = Fed::channel();
        let request = speaker.request("POST", "/early", &[("x-do", "relay")], body);
        let mut answer = timeout(PATIENCE, speaker.begin(request)).await.expect("in time").expect("a head").into_body();
        for piece in ["one", "two", "three"] {
            sender.send(piece.into()).await.expect("taken");
            let frame = timeout(PATIENCE, answer.frame()).await.expect("in time").expect("a piece").expect("a piece");
            assert_eq!(frame.into_data().expect("bytes"), piece);
        }
        drop(sender);
        let rest = timeout(PATIENCE, answer.collect()).await.expect("in time").expect("it is whole").to_bytes();
        assert!(rest.is_empty(), "{rest:?}");
        let body = pattern(3 << 20);
        let answer = speaker.ask("POST", "/early", &[("x-do", "relay")], body.clone()).await;
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
    });
    node.wait_all_slots_free();
}

#[test]
fn a_stream_that_is_reset_in_the_middle_of_its_body_is_no_whole_body() {
    let node = node();
    let runtime = runtime();
    let mut speaker = runtime.block_on(Speaker::h2c(node.listen));
    let (sender, body) = Fed::channel();
    let request = speaker.request("POST", "/early", &[("x-do", "sum")], body);
    let mut beside = speaker.beside();
    let asking = runtime.spawn(async move { beside.begin(request).await.map(drop) });
    runtime.block_on(sender.send("one".into())).expect("taken");
    eventually("the function to begin", || node.log().contains("has 3").then_some(()));
    asking.abort();
    assert!(runtime.block_on(asking).expect_err("it is not answered").is_cancelled());
    eventually("the function to hear of it", || node.log().contains("after 3: ").then_some(()));
    assert_eq!(runtime.block_on(speaker.ask("POST", "/early", &[], "x")).text(), "x+early");
    node.wait_all_slots_free();
}

#[test]
fn a_client_that_resets_its_streams_costs_nobody() {
    let node = node();
    let runtime = runtime();
    let mut speaker = runtime.block_on(Speaker::h2c(node.listen));
    let mut bystander = runtime.block_on(Speaker::h2c(node.listen));
    for round in 0..10 {
        reset_some(&runtime, &speaker, &node);
        let answer = runtime.block_on(speaker.ask("POST", "/pair", &[], "x"));
        assert_eq!(answer.text(), "x+a+b", "round {round}: the same connection goes on");
        let answer = runtime.block_on(bystander.ask("POST", "/pair", &[], "y"));
        assert_eq!(answer.text(), "y+a+b", "round {round}: another connection never notices");
    }
    kill(node.instances("actor a")[0], Signal::SIGKILL).expect("killed");
    node.wait_all_slots_free();
}

/// Resets a stream that waits for its function, one that is still sent, and one that is being answered.
fn reset_some(runtime: &Runtime, speaker: &Speaker, node: &Node) {
    let begun = |headers: &[(&str, &str)], body| {
        let mut speaker = speaker.beside();
        let request = speaker.request("POST", "/one", headers, body);
        runtime.spawn(async move { speaker.begin(request).await.map(drop) })
    };
    wait_none_running(node);
    // Only a gateway that is told of the reset ends it: the chain has a minute, and the function no end.
    let waiting = begun(&[("x-do", "hang")], nothing());
    let sending = begun(&[], Unfinished::after(b"not all"));
    wait_running(node, 2.0);
    for task in [waiting, sending] {
        task.abort();
        assert!(runtime.block_on(task).expect_err("it is not answered").is_cancelled());
    }
    wait_none_running(node);
    runtime.block_on(async {
        let mut speaker = speaker.beside();
        let request = speaker.request("POST", "/one", &[("x-do", "big:3000000")], nothing());
        let mut answer = speaker.begin(request).await.expect("an answer").into_body();
        assert!(answer.frame().await.is_some_and(|frame| frame.is_ok()), "it begins");
    });
}

#[test]
fn a_streamed_answer_is_whole_and_one_whose_function_dies_breaks_off() {
    let node = node();
    let runtime = runtime();
    let mut speaker = runtime.block_on(Speaker::h2c(node.listen));
    let whole = runtime.block_on(speaker.ask("GET", "/one", &[("x-do", "stream:1000")], ""));
    let expected: String = (0..1000).map(|line| format!("line {line}\n")).collect();
    assert_eq!((whole.status, whole.header("content-length")), (200, None));
    assert!(whole.text() == expected, "{} bytes came", whole.body.len());

    let mut body = runtime.block_on(async {
        let request = speaker.request("GET", "/one", &[("x-do", "stall:10")], nothing());
        let mut body = speaker.begin(request).await.expect("a head").into_body();
        let first = body.frame().await.expect("a piece").expect("a piece").into_data().expect("bytes");
        assert!(first.starts_with(b"line 0\n"), "{first:?}");
        body
    });
    kill(node.instances("actor a")[0], Signal::SIGKILL).expect("killed");
    let rest = runtime.block_on(async { timeout(PATIENCE, (&mut body).collect()).await.expect("an end in time") });
    assert!(rest.is_err(), "the client must not take it for the whole: {:?}", rest.map(|rest| rest.to_bytes()));
    eventually("the same connection to serve again", || {
        let answer = runtime.block_on(speaker.ask("POST", "/pair", &[], "x"));
        (answer.text() == "x+a+b").then_some(())
    });
    node.wait_all_slots_free();
}

#[test]
fn accepted_streams_are_finished_before_the_node_ends() {
    let mut node = node();
    let runtime = runtime();
    let speaker = runtime.block_on(Speaker::h2c(node.listen));
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let mut speaker = speaker.beside();
            runtime.spawn(async move { speaker.ask("POST", "/one", &[("x-do", "pause:400")], "x").await })
        })
        .collect();
    wait_running(&node, 4.0);
    assert!(node.stop().success(), "{}", node.log());
    for stream in streams {
        let answer = runtime.block_on(stream).expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "x"));
    }
}
