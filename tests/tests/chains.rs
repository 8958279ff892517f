//! What a chain does with a request, whatever carries the descriptors.

use std::time::Duration;

use ramet_tests::{Node, Start, TRANSPORTS, eventually};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], calls: [d], concurrency: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: b}
spec: {command: ['{actor}', b], replicas: 2}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: c}
spec: {command: ['{actor}', c]}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: d}
spec: {command: ['{actor}', d]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: three}
spec:
  steps: [{function: a}, {function: b}, {function: c}]
  deadline: 2s
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: kinds}
spec:
  steps:
    - function: a
      next: {byHeader: x-kind, cases: {big: c, done: reply}, otherwise: b}
    - function: b
      next: reply
    - function: c
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: choice}
spec:
  steps:
    - function: a
      next: {choices: [b, c], otherwise: reply}
    - function: b
      next: reply
    - function: c
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: fan}
spec:
  steps:
    - function: a
    - name: both
      parallel: [{name: left, function: b}, {name: right, function: c}]
    - function: d
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: careful}
spec:
  steps:
    - function: a
    - {function: b, timeout: 300ms, retries: 3}
    - function: c
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: single}
spec:
  steps: [{function: a}]
  maxBody: 4Mi
  deadline: 2s
";

fn on_every_transport(test: impl Fn(&Node)) {
    for transport in TRANSPORTS {
        if let Some(mut node) = Node::start(&Start::new(transport, MANIFEST)) {
            test(&node);
            node.wait_all_slots_free();
            assert!(node.stop().success(), "{}", node.log());
        }
    }
}

#[test]
fn a_request_runs_through_its_steps_in_order() {
    on_every_transport(|node| {
        for _ in 0..20 {
            let answer = node.post("/three", b"x");
            assert_eq!((answer.status, answer.text().as_str()), (200, "x+a+b+c"));
        }
    });
}

#[test]
fn functions_see_the_request_and_set_the_answer() {
    on_every_transport(|node| {
        let headers = [("x-do", "headers"), ("x-mine", "1"), ("connection", "keep-alive")];
        let answer = node.request("PUT", "/single/deep?q=1", &headers, b"");
        let text = answer.text();
        assert!(text.starts_with("PUT /single/deep?q=1\n"), "{text}");
        assert!(text.contains("host: test\n") && text.contains("x-mine: 1\n"), "{text}");
        assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");
        assert!(!text.contains("connection:"), "hop-by-hop headers are the gateway's: {text}");
        assert_eq!(answer.header("x-set"), Some("by the function"));
        assert_eq!(node.request("GET", "/single", &[("x-do", "status:418")], b"").status, 418);
    });
}

#[test]
fn headers_and_functions_choose_the_next_step() {
    on_every_transport(|node| {
        let kind = |kind: &str| node.request("POST", "/kinds", &[("x-do-a", kind)], b"x").text();
        assert_eq!(kind("kind:big"), "x+c");
        assert_eq!(kind("kind:done"), "x");
        assert_eq!(kind("kind:else"), "x+b");
        let choice = |choice: &str| node.request("POST", "/choice", &[("x-do-a", choice)], b"x");
        assert_eq!(choice("to:b").text(), "x+b");
        assert_eq!(choice("to:c").text(), "x+c");
        assert_eq!(choice("echo").text(), "x");
        assert_eq!(choice("to:nowhere").status, 500);
        assert_eq!(node.request("POST", "/three", &[("x-do-b", "reply")], b"x").text(), "early");
    });
}

#[test]
fn branches_run_side_by_side_and_join() {
    on_every_transport(|node| {
        let answer = node.request("POST", "/fan", &[("x-do-d", "join")], b"x");
        assert_eq!(answer.text(), "left=200:x+a+b;right=200:x+a+c;", "{}", answer.status);
        let answer = node.request("POST", "/fan", &[("x-do-d", "join"), ("x-do-c", "panic")], b"x");
        assert_eq!(answer.status, 500, "a branch that fails fails the request");
    });
}

#[test]
fn a_failed_attempt_is_made_again_with_the_same_input() {
    on_every_transport(|node| {
        assert_eq!(node.post("/careful", b"x").text(), "x+a+b+c");
        // Both instances of b exit, one attempt each; their successors answer.
        let before = node.metric("ramet_answers_total", "default/careful");
        let answer = node.request("POST", "/careful", &[("x-do-b", "error")], b"x");
        assert_eq!(answer.status, 500);
        assert!(node.metric("ramet_answers_total", "default/careful") > before);
        assert_eq!(node.request("POST", "/careful", &[("x-do-b", "pause:2000")], b"x").status, 504);
        eventually("b to answer again", || (node.post("/careful", b"x").text() == "x+a+b+c").then_some(()));
    });
}

#[test]
fn a_function_calls_another_and_waits() {
    on_every_transport(|node| {
        assert_eq!(node.request("POST", "/single", &[("x-do", "call:d")], b"x").text(), "200:x+d");
        assert_eq!(node.request("POST", "/single", &[("x-do", "call:c")], b"x").status, 500, "not among its calls");
    });
}

#[test]
fn failures_are_answered_for_that_request_only() {
    on_every_transport(|node| {
        let single = |order: &str| node.request("POST", "/single", &[("x-do", order)], b"x").status;
        assert_eq!(single("panic"), 500);
        assert_eq!(single("error"), 500);
        assert_eq!(single("echo"), 200, "the instance lives");
        assert_eq!(single("exit"), 502);
        eventually("a successor", || (single("echo") == 200).then_some(()));
        assert_eq!(single("pause:3000"), 504);
        assert_eq!(single("echo"), 200, "other threads of the instance go on");
    });
}

#[test]
fn bodies_of_every_size_come_back_unchanged() {
    on_every_transport(|node| {
        let mut client = node.client();
        for bytes in [0, 1, 100, 3000, 4000, 4096, 16_000, 65_536, 262_144, 1_000_000, 1 << 20, (4 << 20) - 1, 4 << 20]
        {
            let body: Vec<u8> = (0..bytes).map(|i| (i % 253) as u8).collect();
            let answer = client.request("POST", "/single", &[("x-do", "echo")], &body).expect("an answer");
            assert_eq!(answer.status, 200, "{bytes}: {}", answer.text());
            assert!(answer.body == body, "{bytes} bytes came back changed");
        }
        let answer =
            client.request("POST", "/single", &[("x-do", "echo")], &vec![0; (4 << 20) + 1]).expect("an answer");
        assert_eq!(answer.status, 413);
    });
}

#[test]
fn answers_are_written_in_place_and_streamed() {
    on_every_transport(|node| {
        for bytes in [0usize, 10, 5000, 300_000, 5_000_000] {
            let answer = node.request("GET", "/single", &[("x-do", &format!("big:{bytes}"))], b"");
            assert_eq!((answer.status, answer.body.len()), (200, bytes));
            assert!(answer.body.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
        }
        let answer = node.request("GET", "/single", &[("x-do", "stream:500")], b"");
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        let expected: String = (0..500).map(|line| format!("line {line}\n")).collect();
        assert_eq!(answer.text(), expected);
    });
}

#[test]
fn what_functions_print_is_kept() {
    on_every_transport(|node| {
        assert_eq!(node.request("POST", "/single", &[("x-do", "log:hello log")], b"x").status, 200);
        eventually("the log line", || {
            let output = node.ramet(&["logs", "a", "-o", "json"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (text.contains("\"hello log\"") && text.contains("err hello log")).then_some(())
        });
    });
}

#[test]
fn an_unanswered_request_holds_up_nobody_else() {
    let manifest = MANIFEST.replace("concurrency: 4", "concurrency: 1, hangGrace: 500ms");
    for transport in TRANSPORTS {
        let Some(node) = Node::start(&Start::new(transport, &manifest)) else { continue };
        let address = node.listen;
        let hanging = std::thread::spawn(move || {
            let mut client = ramet_tests::Client::connect(address).expect("connected");
            client.request("POST", "/single", &[("x-do", "hang")], b"x").expect("an answer").status
        });
        for _ in 0..20 {
            let answer = node.request("POST", "/kinds", &[("x-do-a", "kind:done")], b"x");
            // The one instance of a is taken: its requests wait, time out, or end with it; everybody else's go on.
            assert!(matches!(answer.status, 200 | 502 | 504), "{}", answer.status);
            if hanging.is_finished() {
                break;
            }
        }
        assert_eq!(hanging.join().expect("client"), 504);
        eventually("the hung instance to be replaced", || (node.post("/three", b"x").status == 200).then_some(()));
        node.wait_all_slots_free();
    }
}

/// The plainest guarantee of a deadline: the answer comes near it, not after the function's own time.
#[test]
fn deadlines_are_kept() {
    on_every_transport(|node| {
        let start = std::time::Instant::now();
        assert_eq!(node.request("POST", "/three", &[("x-do-b", "pause:9000")], b"x").status, 504);
        assert!(start.elapsed() < Duration::from_secs(8), "answered after {:?}", start.elapsed());
    });
}
