//! A function that is slow holds up its own chains, at the gateway, and costs the others nothing.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ramet_tests::{Client, Node, Start, TRANSPORTS, eventually};

/// Two chains begin with the same function; one of them goes on to one that has room for two messages.
const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: front}
spec: {command: ['{actor}', front], concurrency: 2, queue: 8}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: slow}
spec: {command: ['{actor}', slow], concurrency: 1, queue: 1, restart: {initialBackoff: 1ms}}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: fast}
spec: {command: ['{actor}', fast], concurrency: 2}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: slow}
spec: {steps: [{function: front}, {function: slow}], deadline: 20s}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: late}
spec: {steps: [{function: front}, {function: slow}], deadline: 200ms}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: good}
spec: {steps: [{function: front}, {function: fast}], deadline: 20s}
";

/// Many more than all functions of the slow chain have room for together.
const MANY: usize = 24;

/// What became of a request: its status, `retry-after`, and how long it took.
type Ended = (u16, Option<String>, Duration);

/// Sends so many requests at once, each with what the slow function shall do.
fn at_once(address: SocketAddr, count: usize, target: &'static str, order: &'static str) -> Vec<JoinHandle<Ended>> {
    let one = move || {
        let start = Instant::now();
        let mut client = Client::connect(address).expect("connected");
        let answer = client.request("POST", target, &[("x-do-slow", order)], b"x").expect("an answer");
        (answer.status, answer.header("retry-after").map(str::to_owned), start.elapsed())
    };
    (0..count).map(|_| std::thread::spawn(one)).collect()
}

fn held(node: &Node, function: &str) -> f64 {
    node.metric("ramet_function_held", &format!("function=\"default/{function}\""))
}

#[test]
fn a_slow_function_holds_up_its_own_chain_at_the_gateway_and_no_other() {
    for transport in TRANSPORTS {
        let Some(node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        let slow = at_once(node.listen, MANY, "/slow", "pause:4000");
        // All have come: two are out, and the others wait or were refused.
        eventually(&format!("{transport}: two to be at the slow function"), || {
            let others =
                node.metric("ramet_waiting", "default/slow") + node.metric("ramet_answers_total", "code=\"503\"");
            (held(&node, "slow") == 2.0 && others == (MANY - 2) as f64).then_some(())
        });
        assert_eq!(held(&node, "front"), 0.0, "{transport}: nothing waits there for room at the slow one");
        let waiting = node.metric("ramet_function_waiting", "function=\"default/slow\"");
        assert_eq!(waiting, 1.0, "{transport}: it takes one at a time");
        for _ in 0..50 {
            let answer = node.post("/good", b"x");
            assert_eq!((answer.status, answer.text().as_str()), (200, "x+front+fast"), "{transport}");
        }
        let free = node.metric("ramet_slots", "") - node.metric("ramet_free_slots", "");
        assert_eq!((held(&node, "slow"), free), (2.0, 2.0), "{transport}: only what is out has a slot");
        let answers: Vec<_> = slow.into_iter().map(|client| client.join().expect("no panic")).collect();
        let refused = answers.iter().filter(|(status, ..)| *status == 503).count();
        assert!(
            refused > 0 && answers.iter().all(|(status, ..)| matches!(status, 200 | 503)),
            "{transport}: {answers:?}"
        );
        let says_when = |(status, retry, _): &Ended| *status == 200 || retry.as_deref() == Some("1");
        assert!(answers.iter().all(says_when), "{transport}: {answers:?}");
        let took: Duration = answers.iter().map(|(.., took)| *took).sum();
        let told = node.metric("ramet_request_duration_seconds_sum", "default/slow");
        assert!(told > took.as_secs_f64() / 2.0, "{transport}: who waited in vain waited, too: {told} s of {took:?}");
        assert_eq!(node.post("/slow", b"x").text(), "x+front+slow", "{transport}");
        node.wait_all_slots_free();
    }
}

/// Many times what the slow function has room for, so that the smallest error in a count would close it for good.
#[test]
fn room_comes_back_after_deaths_deadlines_and_failures() {
    for transport in TRANSPORTS {
        let Some(node) = Node::start(&Start::new(transport, MANIFEST)) else { continue };
        for round in 0..3 {
            for (target, order) in [
                ("/slow", "exit"),
                ("/slow", "error"),
                ("/slow", "panic"),
                ("/late", "pause:300"),
                ("/late", "pause:300"),
            ] {
                let ended = at_once(node.listen, 3, target, order);
                let statuses: Vec<_> = ended.into_iter().map(|client| client.join().expect("no panic").0).collect();
                assert!(statuses.iter().any(|status| *status >= 500), "{transport}, {target} {order}: {statuses:?}");
            }
            eventually(&format!("{transport}: to serve after round {round}"), || {
                (node.post("/slow", b"x").text() == "x+front+slow").then_some(())
            });
        }
        node.wait_all_slots_free();
        eventually(&format!("{transport}: nothing to be held"), || {
            (held(&node, "slow") + held(&node, "front") == 0.0).then_some(())
        });
    }
}
