//! One function asks another in the middle of a request.

#[path = "node/node.rs"]
mod node;

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use node::{Node, PATIENCE, Place, Started, function};
use ramet_common::descriptor::{Failure, WANT_HEAD, want_parts};
use ramet_common::{FunctionId, InstanceId, Kind, PacketDescriptor};
use ramet_dataplane::SlotRef;
use ramet_dataplane::message::FLAG_SHARED;
use ramet_sdk::{Call, CallError, Context, Request, Response, Result, serve_on};

/// Plays the gateway until the request is back; everything else that comes is given what it wants. Returns the slots
/// that came back alone, too.
fn conduct(node: &mut Node, sent: node::Sent, functions: &[&Started]) -> (node::Outcome, Vec<PacketDescriptor>) {
    let mut returned = Vec::new();
    loop {
        let descriptor = node.next();
        match descriptor.kind() {
            Some(Kind::Want) => drop(node.grant(&descriptor, functions)),
            Some(Kind::Return) => returned.push(descriptor),
            _ => return (node.open(sent, descriptor), returned),
        }
    }
}

/// Two linked functions, of which 5 calls 6 as `other`.
fn pair(
    node: &mut Node,
    caller: impl Fn(Request, &Context) -> Result<Response> + Send + Sync + 'static,
    callee: impl Fn(Request, &Context) -> Result<Response> + Send + Sync + 'static,
) -> (Started, Started) {
    node.chain(&[5]);
    let mut one = node.start(function(5).calls("default/other", 6), move |control| serve_on(control, caller));
    let mut other = node.start(function(6).calls("default/other", 6), move |control| serve_on(control, callee));
    node.link(&mut one, &mut other, 10);
    node.link(&mut other, &mut one, 10);
    (one, other)
}

fn shout(request: Request, _: &Context) -> Result<Response> {
    let text = request.body().to_contiguous().to_ascii_uppercase();
    Ok(Response::ok(text).status(201).header("x-path", request.path()))
}

on_every_transport! {
    fn an_answer_comes_back_to_the_caller(mut node: Node) {
        let (one, other) = pair(&mut node, |request, context| {
            let call = Call::post("/shout").header("x-from", context.function_name()).body(request.share_body());
            let reply = context.call("other", call)?;
            assert_eq!((reply.status(), reply.header("x-path")), (201, Some("/shout")));
            let mut text = request.body().to_contiguous().into_owned();
            text.extend_from_slice(&reply.body().to_contiguous());
            Ok(Response::ok(text))
        }, shout);
        for _ in 0..3 {
            let sent = node.request(5, "/", &[], b"hello");
            let want = node.next();
            assert_eq!((want.kind(), want.slot), (Some(Kind::Want), sent.head.slot));
            assert_eq!(want_parts(want.aux), (WANT_HEAD, 0));
            let granted = node.grant(&want, &[&one, &other]);
            let (outcome, mut returned) = conduct(&mut node, sent, &[&one, &other]);
            assert_eq!(outcome.body, b"helloHELLO");
            if returned.is_empty() {
                returned.push(node.next());
            }
            assert_eq!((returned[0].kind(), returned[0].slot), (Some(Kind::Return), granted[0].slot));
            assert_eq!(node.slots.ledger().read(granted[0].slot).expect("slot").owner, InstanceId::NONE);
        }
    }

    fn a_body_in_slots_of_its_own_is_not_copied(mut node: Node) {
        let (one, other) = pair(&mut node, |request, context| {
            let reply = context.call("other", Call::post("/").body(request.share_body()))?;
            // Big enough to have slots of its own in the callee, and copied here because they end with the call.
            assert_eq!(reply.body().len(), 20_000);
            Ok(Response::ok(reply.into_body()))
        }, |request, _| {
            assert_eq!(request.body().chunks().map(<[u8]>::len).collect::<Vec<_>>(), [9000, 1000]);
            let sum: u8 = request.body().chunks().flatten().fold(0, |sum, byte| sum ^ byte);
            Ok(Response::ok(vec![sum; 20_000]))
        });
        let body: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        let (sent, _) = node.write("/", &[], &body, Place::Parts { bytes: 9000 });
        node.dispatch(5, sent);
        let (outcome, _) = conduct(&mut node, sent, &[&one, &other]);
        assert_eq!(outcome.body, vec![body.iter().fold(0, |sum, byte| sum ^ byte); 20_000]);
    }

    fn a_big_body_is_written_into_lent_slots(mut node: Node) {
        let (one, other) = pair(&mut node, |_, context| {
            let mut writer = context.body(200_000)?;
            writer.as_mut_slice().expect("one slot").fill(b'a');
            let written = context.call("other", Call::post("/").body(writer))?;
            let owned = context.call("other", Call::post("/").body(vec![b'b'; 200_000]))?;
            let (first, second) = (written.body().slice().cut(0, 2), owned.body().slice().cut(9, 2));
            Ok(Response::ok([first.to_contiguous(), second.to_contiguous()].concat()))
        }, shout);
        let sent = node.request(5, "/", &[], b"");
        let (outcome, _) = conduct(&mut node, sent, &[&one, &other]);
        assert_eq!(outcome.body, b"AABB");
    }

    fn a_callee_that_died_is_reported(mut node: Node) {
        let (begun, has_begun) = sync_channel(1);
        let (one, other) = pair(&mut node, |_, context| {
            let error = context.call("other", Call::get("/")).expect_err("it died");
            assert_eq!(error, CallError::Died("other".to_owned()));
            Ok(Response::ok("alone"))
        }, move |_, _| {
            begun.send(())?;
            loop {
                std::thread::park();
            }
        });
        let sent = node.request(5, "/", &[], b"");
        let want = node.next();
        node.grant(&want, &[&one, &other]);
        has_begun.recv_timeout(PATIENCE).expect("called");
        node.sorry(&one, want.request, Failure::Died);
        let (outcome, _) = conduct(&mut node, sent, &[&one]);
        assert_eq!(outcome.body, b"alone");
    }

    fn a_callee_that_fails_is_an_error_and_an_error_status_is_none(mut node: Node) {
        let (one, other) = pair(&mut node, |request, context| {
            Ok(match context.call("other", Call::get(request.target())) {
                Ok(reply) => Response::text(format!("status {}", reply.status())),
                Err(CallError::Failed { failure, .. }) => Response::text(format!("{failure:?}")),
                Err(other) => Response::text(other.to_string()),
            })
        }, |request, _| match request.path() {
            "/panic" => panic!("planted"),
            "/error" => Err(ramet_sdk::Error::new("planted")),
            "/forward" => Ok(Response::ok("x").forward_to("nowhere")),
            _ => Ok(Response::sentence(404, "no such thing")),
        });
        let cases =
            [("/panic", "Panicked"), ("/error", "FunctionError"), ("/forward", "FunctionError"), ("/x", "status 404")];
        for (path, expected) in cases {
            let sent = node.request(5, path, &[], b"");
            let (outcome, _) = conduct(&mut node, sent, &[&one, &other]);
            assert_eq!(String::from_utf8_lossy(&outcome.body), expected);
        }
    }

    fn a_call_ends_with_its_deadline_and_its_late_answer_is_given_back(mut node: Node) {
        let (go, wait) = sync_channel::<()>(1);
        let wait = std::sync::Mutex::new(wait);
        let (one, other) = pair(&mut node, |_, context| {
            let start = Instant::now();
            let error = context.call("other", Call::get("/").timeout(Duration::from_millis(50))).expect_err("late");
            assert_eq!(error, CallError::DeadlineExceeded("other".to_owned()));
            assert!(start.elapsed() >= Duration::from_millis(50));
            Ok(Response::ok("could not wait"))
        }, move |_, _| {
            wait.lock().expect("lock").recv()?;
            Ok(Response::ok("late"))
        });
        let sent = node.request(5, "/", &[], b"");
        let want = node.next();
        let granted = node.grant(&want, &[&one, &other]);
        assert_eq!(node.outcome(sent).body, b"could not wait");
        go.send(()).expect("waits");
        let back = node.next();
        assert_eq!((back.kind(), back.slot, back.peer), (Some(Kind::Return), granted[0].slot, one.id));
    }

    fn the_requests_own_deadline_bounds_its_calls(mut node: Node) {
        let (_one, _other) = pair(&mut node, |_, context| {
            let error = context.call("other", Call::get("/").timeout(Duration::from_secs(60))).expect_err("no head");
            assert_eq!(error, CallError::DeadlineExceeded("other".to_owned()));
            Ok(Response::ok("in vain"))
        }, shout);
        node.deadline = Duration::from_millis(50);
        let sent = node.request(5, "/", &[], b"");
        assert_eq!(node.next().kind(), Some(Kind::Want), "which is never answered");
        assert_eq!(node.outcome(sent).body, b"in vain");
    }

    fn a_cancelled_request_stops_waiting_for_its_call(mut node: Node) {
        let (one, _other) = pair(&mut node, |_, context| {
            assert_eq!(context.call("other", Call::get("/")).expect_err("cancelled"), CallError::Cancelled);
            Ok(Response::ok("nobody reads this"))
        }, shout);
        let sent = node.request(5, "/", &[], b"");
        let want = node.next();
        node.cancel(&one, sent);
        let back = node.next();
        assert_eq!((back.kind(), back.slot), (Some(Kind::Failed), sent.head.slot));
        let late = node.grant(&want, &[&one]);
        let back = node.next();
        assert_eq!((back.kind(), back.slot), (Some(Kind::Return), late[0].slot), "a grant that comes late");
    }

    fn only_what_the_manifest_lists_can_be_called(mut node: Node) {
        let (_one, _other) = pair(&mut node, |_, context| {
            let error = context.call("stranger", Call::get("/")).expect_err("not callable");
            assert!(error.to_string().contains("stranger") && error.to_string().contains("default/other"), "{error}");
            Ok(Response::ok("no"))
        }, shout);
        let sent = node.request(5, "/", &[], b"");
        assert_eq!(node.outcome(sent).body, b"no");
    }

    fn a_function_that_waits_serves_nobody_but_receives_for_all(mut node: Node) {
        // Two threads, both in a call: one receives for both.
        node.chain(&[5]);
        let mut one = node.start(function(5).concurrency(2).calls("default/other", 6), |control| {
            serve_on(control, |request: Request, context: &Context| {
                let reply = context.call("other", Call::post("/").body(request.share_body()))?;
                Ok(Response::ok(reply.body().to_contiguous().into_owned()))
            })
        });
        let together = std::sync::Arc::new(std::sync::Barrier::new(2));
        let mut other = node.start(function(6).concurrency(2), move |control| {
            serve_on(control, move |request: Request, context: &Context| {
                together.wait();
                shout(request, context)
            })
        });
        node.link(&mut one, &mut other, 10);
        node.link(&mut other, &mut one, 10);
        for _ in 0..20 {
            let sent = [node.request(5, "/", &[], b"a"), node.request(5, "/", &[], b"b")];
            let mut answers = Vec::new();
            while answers.len() < 2 {
                let descriptor = node.next();
                match descriptor.kind() {
                    Some(Kind::Want) => drop(node.grant(&descriptor, &[&one, &other])),
                    Some(Kind::Return) => node.slots.release(descriptor.slot),
                    _ => {
                        let one = sent.iter().find(|sent| sent.id == descriptor.request).expect("known");
                        answers.push(node.open(*one, descriptor).body);
                        node.slots.release(one.head.slot);
                    }
                }
            }
            answers.sort();
            assert_eq!(answers, [b"A", b"B"]);
        }
    }

    fn a_call_message_says_who_waits(mut node: Node) {
        node.chain(&[5]);
        let one = node.start(function(5).calls("other", 9), |control| {
            serve_on(control, |request: Request, context: &Context| {
                let error = context.call("other", Call::post("/x?y=1").header("X-A", 1u16).body(request.share_body()));
                assert_eq!(error.expect_err("nobody there"), CallError::Unreachable("other".to_owned()));
                Ok(Response::ok("alone"))
            })
        });
        if node.transport == ramet_dataplane::TransportKind::SkMsg {
            // The test's switch takes a send to nobody for a broken test.
            return;
        }
        let (sent, envelope) = node.write("/", &[], &[1; 5000], Place::Parts { bytes: 5000 });
        node.dispatch(5, sent);
        let want = node.next();
        let granted = node.grant(&want, &[&one])[0];
        let back = node.next();
        assert_eq!((back.kind(), back.slot), (Some(Kind::Return), granted.slot));
        let slot = node.pool.slot(granted.slot).expect("slot");
        let SlotRef { generation, .. } = granted;
        let call = ramet_dataplane::message::Message::read(&slot, generation, node.pool.layout()).expect("readable");
        assert_eq!((call.block.method(), call.block.target()), ("POST", "/x?y=1"));
        assert_eq!(call.block.header("x-a"), Some(&b"1"[..]));
        let says = call.envelope;
        assert_eq!((says.reply_function, says.reply_instance), (FunctionId(5), one.id));
        assert_eq!((says.gateway, says.route.0, says.flags), (envelope.gateway, 0, FLAG_SHARED));
        assert_eq!((says.request, says.deadline_ns), (want.request, envelope.deadline_ns));
        assert_eq!(says.trace_id, envelope.trace_id);
        assert_eq!(node.outcome(sent).body, b"alone");
    }
}
