//! When requests are begun, given up and finished, and when the instance is.

#[path = "node/node.rs"]
mod node;

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use node::{Node, PATIENCE, Place, function};
use ramet_common::descriptor::Failure;
use ramet_common::{Kind, SlotIndex};
use ramet_control::instance::{FromInstance, ToInstance};
use ramet_sdk::{Context, Request, Response, serve_on};

on_every_transport! {
    fn a_cancelled_request_is_given_back(mut node: Node) {
        node.chain(&[5]);
        let (begun, has_begun) = sync_channel(8);
        let slow = node.start(function(5), move |control| {
            serve_on(control, move |request: Request, context: &Context| {
                begun.send(request.path().to_owned())?;
                while !context.is_cancelled() {
                    std::thread::yield_now();
                }
                Ok(Response::ok("nobody reads this"))
            })
        });
        let first = node.request(5, "/first", &[], b"");
        assert_eq!(has_begun.recv_timeout(PATIENCE).expect("begun"), "/first");
        // Both are in the queue before the function looks, so the second must never begin.
        let second = node.request(5, "/second", &[], b"");
        node.cancel(&slow, second);
        node.cancel(&slow, first);
        let mut returned: Vec<SlotIndex> = Vec::new();
        for _ in 0..2 {
            let back = node.next();
            assert_eq!((back.kind(), back.flags), (Some(Kind::Failed), 0));
            returned.push(back.slot);
        }
        returned.sort_unstable();
        let mut expected = [first.head.slot, second.head.slot];
        expected.sort_unstable();
        assert_eq!(returned, expected);
        assert!(has_begun.try_recv().is_err(), "the second was taken from the queue");
    }

    fn an_unexpectedly_slow_handler_holds_up_nobody(mut node: Node) {
        node.chain(&[5]);
        let (begun, has_begun) = sync_channel(1);
        let (go, wait) = sync_channel::<()>(1);
        let wait = std::sync::Mutex::new(wait);
        let _mostly_quick = node.start(function(5).concurrency(2), move |control| {
            serve_on(control, move |request: Request, _: &Context| {
                if request.path() == "/slow" {
                    begun.send(())?;
                    wait.lock().expect("lock").recv()?;
                }
                Ok(Response::ok(request.into_body()))
            })
        });
        // So many quick ones that waking the second thread for the next one seems a waste.
        for _ in 0..500 {
            let sent = node.request(5, "/", &[], b"");
            node.outcome(sent);
            node.slots.release(sent.head.slot);
        }
        let slow = node.request(5, "/slow", &[], b"slow");
        has_begun.recv_timeout(PATIENCE).expect("begun");
        let quick = node.request(5, "/", &[], b"quick");
        assert_eq!(node.outcome(quick).body, b"quick");
        go.send(()).expect("waits");
        assert_eq!(node.outcome(slow).body, b"slow");
    }

    fn a_finished_outcome_does_not_wait_for_a_slow_successor(mut node: Node) {
        node.chain(&[5]);
        let (go, wait) = sync_channel::<()>(1);
        let wait = std::sync::Mutex::new(wait);
        let _mostly_quick = node.start(function(5), move |control| {
            serve_on(control, move |request: Request, _: &Context| {
                if request.path() == "/slow" {
                    wait.lock().expect("lock").recv()?;
                }
                Ok(Response::ok(request.into_body()))
            })
        });
        for _ in 0..500 {
            let sent = node.request(5, "/", &[], b"");
            node.outcome(sent);
            node.slots.release(sent.head.slot);
        }
        let (quick, _) = node.write("/", &[], b"quick", Place::Inline);
        let (slow, _) = node.write("/slow", &[], b"slow", Place::Inline);
        node.dispatch_all(5, &[quick, slow]);
        assert_eq!(node.outcome(quick).body, b"quick");
        go.send(()).expect("waits");
        assert_eq!(node.outcome(slow).body, b"slow");
    }

    fn after_stop_it_says_when_nothing_is_left(mut node: Node) {
        node.chain(&[5]);
        let (begun, has_begun) = sync_channel(1);
        let (go, wait) = sync_channel::<()>(1);
        let wait = std::sync::Mutex::new(wait);
        let mut slow = node.start(function(5), move |control| {
            serve_on(control, move |_: Request, _: &Context| {
                begun.send(())?;
                wait.lock().expect("lock").recv()?;
                Ok(Response::ok("done"))
            })
        });
        let sent = node.request(5, "/", &[], b"");
        has_begun.recv_timeout(PATIENCE).expect("begun");
        slow.tell(ToInstance::Stop);
        for _ in 0..5 {
            // Each makes the instance look again; it must not find itself idle. `tell` would hear `Drained` instead.
            slow.tell(ToInstance::Routes { added: vec![], retired: vec![] });
        }
        let queued = node.request(5, "/", &[], b"");
        go.send(()).expect("waits");
        assert_eq!(node.outcome(sent).body, b"done");
        has_begun.recv_timeout(PATIENCE).expect("the queued one is served too");
        assert!(matches!(slow.control.try_receive::<FromInstance>(), Ok(None)), "not before all is done");
        go.send(()).expect("waits");
        assert_eq!(node.outcome(queued).body, b"done");
        assert_eq!(slow.hear(), FromInstance::Drained);
        let late = node.request(5, "/", &[], b"");
        go.send(()).expect("waits");
        assert_eq!(node.outcome(late).body, b"done");
        assert_eq!(slow.hear(), FromInstance::Drained, "once more after a late one");
        assert!(slow.end().is_ok(), "end of file is a normal end");
    }

    fn a_function_within_another_process_is_not_frozen(mut node: Node) {
        node.chain(&[5]);
        let mut echo = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| Ok(Response::ok(request.into_body())))
        });
        echo.tell(ToInstance::Freeze { patience: PATIENCE });
        let FromInstance::Unfrozen { why } = echo.hear() else { panic!("it must not freeze") };
        assert!(why.contains("not alone in its process"), "{why}");
        let sent = node.request(5, "/", &[], b"goes on");
        assert_eq!(node.outcome(sent).body, b"goes on");
    }

    fn several_requests_are_served_at_once(mut node: Node) {
        node.chain(&[5]);
        let (begun, has_begun) = sync_channel(8);
        let together = std::sync::Arc::new(std::sync::Barrier::new(3));
        let _slow = node.start(function(5).concurrency(3), move |control| {
            serve_on(control, move |request: Request, _: &Context| {
                begun.send(())?;
                together.wait();
                Ok(Response::ok(request.into_body()))
            })
        });
        for round in 0..3u8 {
            let sent: Vec<_> = (0..3).map(|_| node.request(5, "/", &[], &[round; 10])).collect();
            for _ in 0..3 {
                has_begun.recv_timeout(PATIENCE).expect("all three run at once");
            }
            for _ in 0..3 {
                let descriptor = node.next();
                let one = sent.iter().find(|sent| sent.id == descriptor.request).expect("known");
                assert_eq!(node.open(*one, descriptor).body, [round; 10]);
            }
        }
    }

    fn a_request_that_nobody_waits_for_is_not_begun(mut node: Node) {
        node.chain(&[5]);
        let _never = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| {
                assert_ne!(request.path(), "/late");
                Ok(Response::ok("fine"))
            })
        });
        node.deadline = Duration::ZERO;
        let sent = node.request(5, "/late", &[], b"");
        assert_eq!(node.failure(sent), Failure::DeadlineExceeded);
    }
}

#[test]
fn a_supervisor_of_another_kind_is_an_error() {
    let (one, other) = ramet_control::socket::ControlSocket::pair().expect("pair");
    let serving = std::thread::spawn(move || serve_on(other, |_: Request, _: &Context| Ok(Response::new(200))));
    let stop = ramet_control::Numbered { sequence: 1, message: ToInstance::Stop };
    one.send(&stop, &[]).expect("sent");
    let error = serving.join().expect("no panic").expect_err("it needs a place");
    assert!(error.to_string().contains("first message"), "{error}");
}
