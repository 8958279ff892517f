//! The async variant serves like the blocking one.

#![cfg(feature = "async")]

#[path = "node/node.rs"]
mod node;

use std::io::Write;
use std::time::Duration;

use node::{Node, Started, function};
use ramet_common::Kind;
use ramet_common::descriptor::{FLAG_MORE, Failure};
use ramet_control::instance::{FromInstance, ToInstance};
use ramet_sdk::{AsyncContext, Call, CallError, Error, Request, Response, Result, serve_async_on, serve_on};

/// Plays the gateway until that many requests are back.
fn conduct(node: &mut Node, sent: &[node::Sent], functions: &[&Started]) -> Vec<node::Outcome> {
    let mut outcomes = Vec::new();
    while outcomes.len() < sent.len() {
        let descriptor = node.next();
        match descriptor.kind() {
            Some(Kind::Want) => drop(node.grant(&descriptor, functions)),
            Some(Kind::Return) => {}
            _ => {
                let sent = sent.iter().find(|sent| sent.id == descriptor.request).expect("known");
                outcomes.push(node.open(*sent, descriptor));
            }
        }
    }
    outcomes
}

async fn echo(request: Request, _: AsyncContext) -> Result<Response> {
    Ok(Response::ok(request.into_body()))
}

on_every_transport! {
    fn it_echoes_in_place_many_times(mut node: Node) {
        node.chain(&[5]);
        let _echo = node.start(function(5).concurrency(8), |control| serve_async_on(control, echo));
        for round in 0..20u8 {
            let sent: Vec<_> = (0..8).map(|_| node.request(5, "/", &[], &[round; 100])).collect();
            for outcome in conduct(&mut node, &sent, &[]) {
                assert_eq!((outcome.descriptor.kind(), outcome.body), (Some(Kind::Reply), vec![round; 100]));
            }
            sent.iter().for_each(|sent| node.slots.release(sent.head.slot));
        }
    }

    fn requests_overlap_up_to_the_concurrency(mut node: Node) {
        node.chain(&[5]);
        let _meeting = node.start(function(5).concurrency(3), |control| {
            let barrier = std::sync::Arc::new(std::sync::Mutex::new((0, Vec::<std::task::Waker>::new())));
            serve_async_on(control, move |_: Request, _: AsyncContext| {
                let barrier = std::sync::Arc::clone(&barrier);
                barrier.lock().expect("lock").0 += 1;
                async move {
                    // Three have to be here at once; a fourth must not be.
                    std::future::poll_fn(move |context| {
                        let mut barrier = barrier.lock().expect("lock");
                        assert!(barrier.0 <= 3);
                        if barrier.0 == 3 {
                            barrier.1.drain(..).for_each(std::task::Waker::wake);
                            return std::task::Poll::Ready(());
                        }
                        barrier.1.push(context.waker().clone());
                        std::task::Poll::Pending
                    })
                    .await;
                    Ok(Response::ok("met"))
                }
            })
        });
        let sent: Vec<_> = (0..3).map(|_| node.request(5, "/", &[], b"")).collect();
        assert!(conduct(&mut node, &sent, &[]).iter().all(|outcome| outcome.body == b"met"));
    }

    fn calls_are_awaited_side_by_side(mut node: Node) {
        node.chain(&[5]);
        let mut one = node.start(function(5).calls("other", 6), |control| {
            serve_async_on(control, |_: Request, context: AsyncContext| async move {
                let (left, right) = tokio::join!(
                    context.call("other", Call::post("/").body("left")),
                    context.call("other", Call::post("/").body("right")),
                );
                let (left, right) = (left?, right?);
                let mut body = context.body(20_000).await?;
                body.write_all(&left.body().to_contiguous())?;
                body.write_all(&right.body().to_contiguous())?;
                Ok(Response::ok(body))
            })
        });
        let together = std::sync::Arc::new(std::sync::Barrier::new(2));
        let mut other = node.start(function(6).concurrency(2), move |control| {
            serve_on(control, move |request, _| {
                together.wait();
                Ok(Response::ok(request.body().to_contiguous().to_ascii_uppercase()))
            })
        });
        node.link(&mut one, &mut other, 10);
        node.link(&mut other, &mut one, 10);
        for _ in 0..5 {
            let sent = node.request(5, "/", &[], b"");
            assert_eq!(conduct(&mut node, &[sent], &[&one, &other])[0].body, b"LEFTRIGHT");
        }
    }

    fn waits_end_with_their_deadline(mut node: Node) {
        node.chain(&[5]);
        let _one = node.start(function(5).calls("other", 6), |control| {
            serve_async_on(control, |_: Request, context: AsyncContext| async move {
                let call = Call::get("/").timeout(Duration::from_millis(30));
                let error = context.call("other", call).await.expect_err("nobody grants");
                assert_eq!(error, CallError::DeadlineExceeded("other".to_owned()));
                assert!(context.remaining() > Duration::ZERO);
                Ok(Response::ok("in vain"))
            })
        });
        let sent = node.request(5, "/", &[], b"");
        assert_eq!(node.next().kind(), Some(Kind::Want));
        assert_eq!(node.outcome(sent).body, b"in vain");
    }

    fn panics_and_errors_fail_their_request_only(mut node: Node) {
        node.chain(&[5]);
        let _flaky = node.start(function(5), |control| {
            serve_async_on(control, |request: Request, _: AsyncContext| async move {
                tokio::task::yield_now().await;
                match request.path() {
                    "/panic" => panic!("planted"),
                    "/error" => Err(Error::new("planted")),
                    _ => Ok(Response::ok("fine")),
                }
            })
        });
        for (path, failure) in [("/panic", Failure::Panicked), ("/error", Failure::FunctionError)] {
            let sent = node.request(5, path, &[], b"");
            assert_eq!(node.failure(sent), failure);
            let sent = node.request(5, "/", &[], b"");
            assert_eq!(node.outcome(sent).body, b"fine");
        }
    }

    fn both_kinds_of_streams_go_out(mut node: Node) {
        node.chain(&[5]);
        let streams = node.start(function(5).concurrency(2), |control| {
            serve_async_on(control, |request: Request, _: AsyncContext| async move {
                if request.path() == "/blocking" {
                    return Ok(Response::stream(|writer| Ok(writer.write_all(&[7; 50_000])?)));
                }
                Ok(Response::stream_async(async |writer| {
                    for _ in 0..50 {
                        writer.write_all(&[7; 1000]).await?;
                        tokio::task::yield_now().await;
                    }
                    writer.flush().await?;
                    Ok(())
                }))
            })
        });
        for path in ["/async", "/blocking"] {
            let sent = node.request(5, path, &[], b"");
            assert_eq!(node.outcome(sent).descriptor.flags, FLAG_MORE);
            let mut bytes = 0;
            loop {
                let descriptor = node.next();
                match descriptor.kind() {
                    Some(Kind::Want) => drop(node.grant(&descriptor, &[&streams])),
                    Some(Kind::Chunk) => {
                        bytes += descriptor.aux;
                        if descriptor.flags == 0 {
                            break;
                        }
                    }
                    other => assert_eq!(other, Some(Kind::Return)),
                }
            }
            assert_eq!(bytes, 50_000, "{path}");
        }
    }

    fn cancellation_ends_waits_and_stop_drains(mut node: Node) {
        node.chain(&[5]);
        let mut one = node.start(function(5).calls("other", 6), |control| {
            serve_async_on(control, |_: Request, context: AsyncContext| async move {
                let error = context.call("other", Call::get("/")).await.expect_err("cancelled");
                assert_eq!(error, CallError::Cancelled);
                assert!(context.is_cancelled());
                Ok(Response::ok("nobody reads this"))
            })
        });
        let sent = node.request(5, "/", &[], b"");
        assert_eq!(node.next().kind(), Some(Kind::Want));
        one.tell(ToInstance::Stop);
        node.cancel(&one, sent);
        let back = node.next();
        assert_eq!((back.kind(), back.slot), (Some(Kind::Failed), sent.head.slot));
        assert_eq!(one.hear(), FromInstance::Drained);
        assert!(one.end().is_ok());
    }
}
