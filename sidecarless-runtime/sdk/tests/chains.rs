//! Several functions: who gets the message next, and what it then says.

#[path = "node/node.rs"]
mod node;

use std::time::Duration;

use node::{Node, Place, function};
use ramet_common::descriptor::Failure;
use ramet_common::{FunctionId, Kind};
use ramet_control::instance::ToInstance;
use ramet_dataplane::message::{BodyPlace, FLAG_SHARED, FLAG_SUPERVISED};
use ramet_dataplane::route::{Next, Target};
use ramet_sdk::{Context, Request, Response, Result, serve_on};

/// Says in a header that it was here, and passes the body on.
fn pass(request: Request, context: &Context) -> Result<Response> {
    let way = format!("{}>{}", request.header("x-way").unwrap_or_default(), context.function_name());
    Ok(Response::ok(request.into_body()).header("x-way", way))
}

fn idle(_: Request, _: &Context) -> Result<Response> {
    Ok(Response::ok("the last step"))
}

on_every_transport! {
    fn a_plain_step_sends_straight_to_the_next(mut node: Node) {
        node.chain(&[5, 6]);
        let mut first = node.start(function(5), |control| serve_on(control, pass));
        let mut second = node.start(function(6), |control| serve_on(control, |request: Request, context: &Context| {
            assert_eq!((request.method(), request.path()), ("POST", "/pass"));
            assert_eq!(request.header("x-kept"), Some("1"));
            assert_eq!(request.header("x-way"), Some(">default/function-5"), "laid over, not added");
            assert_eq!(request.headers().filter(|(name, _)| *name == "x-way").count(), 1);
            let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            assert_eq!(context.traceparent().as_deref(), Some(trace));
            assert!(context.remaining() > Duration::from_secs(1));
            pass(request, context)
        }));
        node.link(&mut first, &mut second, 10);
        for place in [Place::Inline, Place::Parts { bytes: 3000 }] {
            let (sent, envelope) = node.write("/pass", &[("x-kept", "1"), ("x-way", "")], &[3; 3100], place);
            node.dispatch(5, sent);
            let outcome = node.outcome(sent);
            assert_eq!(outcome.descriptor.kind(), Some(Kind::Reply), "the gateway sees it once");
            assert_eq!(outcome.descriptor.peer, second.id);
            assert_eq!(outcome.message.envelope.step, 1);
            assert_eq!(outcome.message.envelope.tail_bytes, envelope.tail_bytes);
            assert_eq!(outcome.body, [3; 3100]);
            let way = outcome.message.block.header("x-way").map(String::from_utf8_lossy);
            assert_eq!(way.as_deref(), Some(">default/function-5>default/function-6"));
        }
    }

    fn nothing_but_the_step_changes_when_nothing_has_to(mut node: Node) {
        node.chain(&[5, 6]);
        let mut first = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| Ok(Response::ok(request.into_body())))
        });
        let mut second = node.start(function(6), |control| {
            serve_on(control, |request: Request, _: &Context| {
                assert_eq!(request.header("content-length"), Some("5"));
                Ok(Response::ok(request.into_body()))
            })
        });
        node.link(&mut first, &mut second, 10);
        let sent = node.request(5, "/", &[("content-length", "5")], b"hello");
        assert_eq!(node.outcome(sent).body, b"hello");
    }

    fn headers_about_a_body_do_not_outlive_it(mut node: Node) {
        node.chain(&[5, 6]);
        let mut first = node.start(function(5), |control| {
            serve_on(control, |_: Request, _: &Context| Ok(Response::ok("another body")))
        });
        let mut second = node.start(function(6), |control| {
            serve_on(control, |request: Request, _: &Context| {
                assert_eq!((request.header("content-length"), request.branches().len()), (None, 0));
                assert_eq!(request.header("x-kept"), Some("1"));
                Ok(Response::ok(request.into_body()))
            })
        });
        node.link(&mut first, &mut second, 10);
        let headers = [("content-length", "1"), ("ramet-branch", "a;status=200;bytes=1"), ("x-kept", "1")];
        let sent = node.request(5, "/", &headers, b"x");
        assert_eq!(node.outcome(sent).body, b"another body");
    }

    fn an_early_reply_and_an_error_status_skip_the_rest(mut node: Node) {
        node.chain(&[5, 6]);
        let mut first = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| Ok(match request.path() {
                "/early" => Response::text("early").reply(),
                _ => Response::sentence(415, "no picture"),
            }))
        });
        let mut second = node.start(function(6), |control| serve_on(control, idle));
        node.link(&mut first, &mut second, 10);
        for (path, status, body) in [("/early", 200, &b"early"[..]), ("/bad", 415, b"no picture\n")] {
            let sent = node.request(5, path, &[("x-request", "1")], b"x");
            let outcome = node.outcome(sent);
            assert_eq!((outcome.descriptor.kind(), outcome.descriptor.peer), (Some(Kind::Reply), first.id));
            assert_eq!((outcome.message.envelope.status, &*outcome.body), (status, body));
            assert_eq!(outcome.message.block.header("x-request"), None);
        }
    }

    fn a_function_chooses_among_what_the_chain_offers(mut node: Node) {
        node.chain(&[5, 6, 7]);
        node.routes[0].steps[0].next =
            Next::Choice { choices: vec![Target::Step(2), Target::Reply], otherwise: Target::Step(1) };
        let mut chooser = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| {
                let choice = request.path()[1..].to_owned();
                let response = Response::ok(request.into_body());
                Ok(if choice.is_empty() { response } else { response.forward_to(choice) })
            })
        });
        let say = |text: &'static str| move |_: Request, _: &Context| Ok(Response::ok(text).reply());
        let mut second = node.start(function(6), move |control| serve_on(control, say("otherwise")));
        let mut third = node.start(function(7), move |control| serve_on(control, say("chosen")));
        node.link(&mut chooser, &mut second, 10);
        node.link(&mut chooser, &mut third, 10);
        for (path, answer) in [("/step-2", &b"chosen"[..]), ("/", b"otherwise"), ("/reply", b"x")] {
            let sent = node.request(5, path, &[], b"x");
            assert_eq!(node.outcome(sent).body, answer, "{path}");
        }
        let sent = node.request(5, "/step-1", &[], b"x");
        assert_eq!(node.failure(sent), Failure::FunctionError, "a step that is there but not offered");
    }

    fn what_the_gateway_supervises_comes_back_to_it(mut node: Node) {
        node.chain(&[5, 6, 7]);
        node.routes[0].steps[1].retries = 1;
        let _first = node.start(function(5), |control| serve_on(control, pass));
        let _second = node.start(function(6), |control| serve_on(control, pass));
        let sent = node.request(5, "/", &[("x-kept", "1")], b"x");
        let outcome = node.outcome(sent);
        assert_eq!((outcome.descriptor.kind(), outcome.message.envelope.next_step), (Some(Kind::Forward), 1));
        assert_eq!(outcome.message.block.header("x-kept"), Some(&b"1"[..]), "the request goes along");
        assert_eq!(outcome.message.block.method(), "POST");

        let (sent, mut envelope) = node.write("/", &[], b"x", Place::Parts { bytes: 1 });
        (envelope.step, envelope.flags) = (1, FLAG_SUPERVISED | FLAG_SHARED);
        let slot = node.pool.slot(sent.head.slot).expect("slot");
        ramet_dataplane::message::rewrite_envelope(&slot, &envelope).expect("written");
        node.dispatch(6, sent);
        let outcome = node.outcome(sent);
        assert_eq!((outcome.descriptor.kind(), outcome.message.envelope.next_step), (Some(Kind::Forward), 2));
        assert_eq!(outcome.message.envelope.status, 200, "a joining gateway wants to know");
        assert_eq!(outcome.message.envelope.flags, FLAG_SHARED, "the body is still somebody else's too");
    }

    fn supervision_wins_over_a_route_that_does_not_know_of_it(mut node: Node) {
        node.chain(&[5, 6]);
        let mut first = node.start(function(5), |control| serve_on(control, pass));
        let mut second = node.start(function(6), |control| serve_on(control, idle));
        node.link(&mut first, &mut second, 10);
        let (sent, mut envelope) = node.write("/", &[], b"x", Place::Inline);
        envelope.flags = FLAG_SUPERVISED;
        let slot = node.pool.slot(sent.head.slot).expect("slot");
        ramet_dataplane::message::rewrite_envelope(&slot, &envelope).expect("written");
        node.dispatch(5, sent);
        assert_eq!(node.outcome(sent).descriptor.kind(), Some(Kind::Forward));
    }

    fn branches_are_told_apart(mut node: Node) {
        node.chain(&[5]);
        let _join = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| {
                let mut text = String::new();
                for branch in request.branches() {
                    let body = branch.body.to_contiguous();
                    text += &format!("{} {} {};", branch.name, branch.status, String::from_utf8_lossy(&body));
                }
                assert!(request.branch("right").is_some_and(|branch| branch.body.as_contiguous().is_some()));
                Ok(Response::text(text))
            })
        });
        let headers = [
            ("ramet-branch", "left;status=200;bytes=5"),
            ("ramet-branch", "right;status=404;bytes=3"),
            ("ramet-branch", "none;status=204;bytes=0"),
            ("ramet-branch", "liar;status=200;bytes=999"),
        ];
        // Parts of four bytes: the left branch is in two slots, the right one in the second of them.
        let (sent, _) = node.write("/", &headers, b"left!abcrest", Place::Parts { bytes: 4 });
        node.dispatch(5, sent);
        assert_eq!(node.outcome(sent).body, b"left 200 left!;right 404 abc;none 204 ;liar 200 rest;");
    }

    fn a_body_that_the_headers_grow_into_moves_out(mut node: Node) {
        node.chain(&[5]);
        let grows = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| {
                let long = "v".repeat(3000);
                Ok(Response::ok(request.into_body()).header("x-long", long))
            })
        });
        let sent = node.request(5, "/", &[], &[8; 3000]);
        let want = node.next();
        node.grant(&want, &[&grows]);
        let outcome = node.outcome(sent);
        assert_eq!(outcome.body, [8; 3000]);
        assert_eq!(outcome.message.block.header("x-long").map(<[u8]>::len), Some(3000));
        assert!(matches!(outcome.message.body, BodyPlace::Parts(_)));
    }

    fn a_chain_version_that_is_new_or_gone_is_noticed(mut node: Node) {
        node.chain(&[5]);
        let route = node.routes.remove(0);
        let mut echo = node.start(function(5), |control| serve_on(control, pass));
        let sent = node.request(5, "/", &[], b"");
        assert_eq!(node.failure(sent), Failure::BadMessage, "not known yet");
        echo.tell(ToInstance::Routes { added: vec![route.clone()], retired: vec![] });
        let sent = node.request(5, "/", &[], b"");
        assert_eq!(node.outcome(sent).descriptor.kind(), Some(Kind::Reply));
        echo.tell(ToInstance::Routes { added: vec![], retired: vec![route.id] });
        let sent = node.request(5, "/", &[], b"");
        assert_eq!(node.failure(sent), Failure::BadMessage, "gone");
    }
}

mod refusals {
    use super::*;
    use ramet_dataplane::TransportKind;

    #[test]
    fn a_next_function_without_room_fails_the_request_at_its_deadline() {
        let mut node = Node::new(TransportKind::Ring);
        node.chain(&[5, 6]);
        let mut first = node.start(function(5), |control| serve_on(control, pass));
        let (begun, has_begun) = std::sync::mpsc::sync_channel(4);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let mut second = node.start(function(6), move |control| {
            serve_on(control, move |_: Request, _: &Context| {
                begun.send(())?;
                wait.lock().expect("lock").recv()?;
                Ok(Response::ok("done"))
            })
        });
        node.link(&mut first, &mut second, 1);
        let served = node.request(5, "/", &[], b"");
        has_begun.recv_timeout(node::PATIENCE).expect("begun");
        node.deadline = Duration::from_millis(1500);
        let start = std::time::Instant::now();
        let refused = node.request(5, "/", &[], b"");
        assert_eq!(node.failure(refused), Failure::Full);
        assert!(start.elapsed() >= node.deadline, "it tries until then");
        go.send(()).expect("waits");
        assert_eq!(node.outcome(served).body, b"done");
        let served = node.request(5, "/", &[], b"");
        go.send(()).expect("waits");
        assert_eq!(node.outcome(served).body, b"done", "there is room again");
    }

    #[test]
    fn a_load_is_taken_back_while_the_leader_waits() {
        // With two threads, one serves while the other one waits in the kernel. The sender must learn that the first is
        // done, or it would count to the capacity and never send again.
        let mut node = Node::new(TransportKind::Ring);
        node.chain(&[5, 6]);
        let mut first = node.start(function(5), |control| serve_on(control, pass));
        let mut second = node.start(function(6).concurrency(2), |control| serve_on(control, idle));
        node.link(&mut first, &mut second, 1);
        for _ in 0..50 {
            let sent = node.request(5, "/", &[], b"");
            assert_eq!(node.outcome(sent).body, b"the last step");
        }
    }

    #[test]
    fn a_next_function_that_has_left_fails_the_request() {
        for transport in [TransportKind::Ring, TransportKind::Socket] {
            let mut node = Node::new(transport);
            node.chain(&[5, 6]);
            let mut first = node.start(function(5), |control| serve_on(control, pass));
            let mut second = node.start(function(6), |control| serve_on(control, idle));
            let sent = node.request(5, "/", &[], b"");
            let back = node.next();
            assert_eq!((back.kind(), back.slot), (Some(Kind::Failed), sent.head.slot), "there never was an edge");
            node.link(&mut first, &mut second, 10);
            first.tell(ToInstance::Unlink { peer: second.id });
            let sent = node.request(5, "/", &[], b"");
            assert_eq!(node.failure(sent), Failure::Unreachable);
            let mut third = node.start(function(6), |control| serve_on(control, idle));
            let sent = node.request(5, "/", &[], b"");
            node.link(&mut first, &mut third, 10);
            assert_eq!(node.outcome(sent).body, b"the last step", "it waits for a successor");
            assert_eq!(third.function, FunctionId(6));
        }
    }
}
