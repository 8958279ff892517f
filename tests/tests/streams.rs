//! Streamed answers: a client that reads slowly slows its own function down, and nobody else.

use ramet_tests::{Node, Start, TRANSPORTS, eventually};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a], concurrency: 4}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}], deadline: 20s}
";

/// What the gateway lets wait for a client before it lends no more.
const UNWRITTEN_MAX: f64 = 16.0;

const SLOTS_16KI: u32 = 64;

fn node(transport: &str) -> Option<Node> {
    node_of(transport, MANIFEST)
}

fn node_of(transport: &str, manifest: &str) -> Option<Node> {
    let start = Start::new(transport, manifest)
        .with("RAMET_POOL__4Ki", "64")
        .with("RAMET_POOL__16Ki", SLOTS_16KI.to_string())
        .with("RAMET_POOL__64Ki", "8")
        .with("RAMET_POOL__256Ki", "0")
        .with("RAMET_POOL__1Mi", "0");
    Node::start(&start)
}

#[test]
fn a_client_that_does_not_read_fills_no_pool() {
    // More than the kernel keeps for a connection.
    const LINES: usize = 1_200_000;
    for transport in TRANSPORTS {
        let Some(node) = node(transport) else { continue };
        let mut slow = node.client();
        let order = format!("GET /one HTTP/1.1\r\nhost: h\r\nx-do: stream:{LINES}\r\n\r\n");
        slow.send(order.as_bytes()).expect("sent");
        eventually("the stream waits for its client", || {
            let free = node.metric("ramet_free_slots", "bytes=\"16384\"");
            (free <= f64::from(SLOTS_16KI) - UNWRITTEN_MAX).then_some(())
        });
        for _ in 0..100 {
            let answer = node.request("GET", "/one", &[("x-do", "big:60000")], b"");
            assert_eq!((answer.status, answer.body.len()), (200, 60_000), "{transport}: {}", answer.text());
        }
        let answer = slow.answer(false).expect("the whole answer");
        let expected: String = (0..LINES).map(|line| format!("line {line}\n")).collect();
        assert!(answer.body == expected.as_bytes(), "{transport}: {} bytes came", answer.body.len());
        node.wait_all_slots_free();
    }
}

#[test]
fn a_client_that_leaves_ends_its_stream() {
    for transport in TRANSPORTS {
        let Some(node) = node(transport) else { continue };
        for _ in 0..8 {
            let mut leaving = node.client();
            leaving.send(b"GET /one HTTP/1.1\r\nhost: h\r\nx-do: stream:100000000\r\n\r\n").expect("sent");
            eventually("the stream has begun", || {
                (node.metric("ramet_in_flight", "chain=\"default/one\"") > 0.0).then_some(())
            });
            drop(leaving);
            eventually("the stream has ended", || {
                (node.metric("ramet_in_flight", "chain=\"default/one\"") == 0.0).then_some(())
            });
        }
        assert_eq!(node.post("/one", b"x").text(), "x+a", "no thread of the function is lost");
        node.wait_all_slots_free();
    }
}

/// Whoever is to end may still be given what it waits for: its streams go on to their end.
#[test]
fn an_instance_that_is_too_many_finishes_its_streams() {
    const LINES: usize = 800_000;
    for transport in TRANSPORTS {
        let replicated = |replicas: u32| {
            MANIFEST.replace("concurrency: 4", &format!("concurrency: 1, replicas: {replicas}, shutdownGrace: 30s"))
        };
        let Some(node) = node_of(transport, &replicated(3)) else { continue };
        let order = format!("GET /one HTTP/1.1\r\nhost: h\r\nx-do: stream:{LINES}\r\n\r\n");
        let mut clients = [node.client(), node.client(), node.client()];
        for (client, streams) in clients.iter_mut().zip(1..) {
            client.send(order.as_bytes()).expect("sent");
            eventually(&format!("{transport}: {streams} streams wait for their clients"), || {
                let free = node.metric("ramet_free_slots", "bytes=\"16384\"");
                (free <= f64::from(SLOTS_16KI) - f64::from(streams) * UNWRITTEN_MAX).then_some(())
            });
        }
        let file = node.write_manifest("fewer.yaml", &replicated(1)).display().to_string();
        assert!(node.ramet(&["apply", "-f", &file]).status.success(), "{transport}");
        let expected: String = (0..LINES).map(|line| format!("line {line}\n")).collect();
        for client in &mut clients {
            let answer = client.answer(false).expect("the whole answer");
            assert!(answer.body == expected.as_bytes(), "{transport}: {} bytes came", answer.body.len());
        }
    }
}
