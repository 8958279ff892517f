//! One function and the gateway: bodies in place, failures, cancellation, the end.

#[path = "node/node.rs"]
mod node;

use std::io::Write;
use std::sync::mpsc::channel;

use node::{Node, Place, function};
use ramet_common::Kind;
use ramet_common::descriptor::{FLAG_LENT, FLAG_MORE, Failure, want_parts};
use ramet_dataplane::message::{BodyPlace, Envelope, Message};
use ramet_sdk::{Body, Context, Error, Request, Response, Result, serve_on};

fn echo(request: Request, _context: &Context) -> Result<Response> {
    Ok(Response::ok(request.into_body()).header("x-seen", "yes"))
}

/// Where the body of the message in a head slot is.
fn place(node: &Node, sent: node::Sent) -> BodyPlace {
    let slot = node.pool.slot(sent.head.slot).expect("in the pool");
    Message::read(&slot, sent.head.generation, node.pool.layout()).expect("readable").body
}

on_every_transport! {
    fn echo_leaves_the_body_where_it_is(mut node: Node) {
        node.chain(&[5]);
        let _echo = node.start(function(5), |control| serve_on(control, echo));
        for place_of_body in [Place::Inline, Place::Parts { bytes: 3000 }] {
            let body: Vec<u8> = (0..3500u32).map(|i| i as u8).collect();
            let (sent, _) = node.write("/echo", &[("x-request", "1")], &body, place_of_body);
            let before = place(&node, sent);
            node.dispatch(5, sent);
            let outcome = node.outcome(sent);
            assert_eq!(outcome.descriptor.kind(), Some(Kind::Reply), "no Want came before it");
            assert_eq!(outcome.message.body, before, "same slots, same offsets");
            assert_eq!(outcome.body, body);
            assert_eq!(outcome.message.envelope.status, 200);
            assert_eq!(outcome.message.block.header("x-seen"), Some(&b"yes"[..]));
            assert_eq!(outcome.message.block.header("x-request"), None, "a reply has only its own headers");
            assert_eq!(outcome.message.block.method(), "");
        }
    }

    fn a_small_answer_goes_into_the_head_slot(mut node: Node) {
        node.chain(&[5]);
        let _hello = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| {
                Ok(Response::text(format!("{} {}", request.method(), request.query_value("name").unwrap_or_default())))
            })
        });
        let sent = node.request(5, "/hello?name=a+b", &[], b"");
        let outcome = node.outcome(sent);
        assert_eq!(outcome.body, b"POST a b");
        assert!(matches!(outcome.message.body, BodyPlace::Inline { .. }));
    }

    fn a_bigger_answer_goes_into_lent_slots(mut node: Node) {
        node.chain(&[5]);
        let big = node.start(function(5), |control| {
            serve_on(control, |request: Request, context: &Context| {
                let bytes: usize = request.query_value("bytes").unwrap_or_default().parse()?;
                match request.path() {
                    "/owned" => return Ok(Response::ok(vec![7; bytes])),
                    "/slice" => {
                        let mut writer = context.body(bytes)?;
                        writer.as_mut_slice().ok_or_else(|| Error::new("not one slot"))?.fill(7);
                        return Ok(writer.into());
                    }
                    _ => {}
                }
                let mut writer = context.body(bytes)?;
                for _ in 0..bytes / 1000 {
                    writer.write_all(&[7; 1000])?;
                }
                Ok(writer.into())
            })
        });
        let cases = [
            ("/owned", 20_000, 2, 1, 20_000),
            ("/slice", 60_000, 2, 1, 60_000),
            ("/write", 2_500_000, 4, 3, 2_500_000),
            ("/write", 2_500_999, 4, 3, 2_500_000),
            ("/owned", 1 << 20, 4, 1, 1 << 20),
        ];
        for (path, bytes, class, count, expected) in cases {
            let sent = node.request(5, &format!("{path}?bytes={bytes}"), &[], b"");
            let want = node.next();
            assert_eq!((want.kind(), want.slot, want.request), (Some(Kind::Want), sent.head.slot, sent.id));
            assert_eq!(want_parts(want.aux), (class, count), "{path} {bytes}");
            let lent = node.grant(&want, &[&big]);
            let outcome = node.outcome(sent);
            assert_eq!(outcome.descriptor.kind(), Some(Kind::Reply));
            assert_eq!(outcome.body.len(), expected);
            assert!(outcome.body.iter().all(|&byte| byte == 7));
            let BodyPlace::Parts(parts) = outcome.message.body else { panic!("in parts") };
            assert!(parts.iter().all(|part| lent.iter().any(|lent| lent.slot == part.slot)));
            lent.iter().for_each(|lent| node.slots.release(lent.slot));
        }
    }

    fn slots_that_were_not_needed_go_back(mut node: Node) {
        node.chain(&[5]);
        let wasteful = node.start(function(5), |control| {
            serve_on(control, |_: Request, context: &Context| {
                let mut writer = context.body(2_000_000)?;
                writer.write_all(b"short after all")?;
                drop(context.body(100_000)?);
                Ok(writer.into())
            })
        });
        let sent = node.request(5, "/", &[], b"");
        let wants = [node.next()];
        let mut lent = node.grant(&wants[0], &[&wasteful]);
        let want = node.next();
        lent.extend(node.grant(&want, &[&wasteful]));
        let mut back = Vec::new();
        let mut outcome = None;
        while back.len() < 2 || outcome.is_none() {
            let descriptor = node.next();
            match descriptor.kind() {
                Some(Kind::Return) => {
                    assert_eq!(descriptor.flags, FLAG_LENT);
                    back.push(descriptor.slot);
                }
                _ => outcome = Some(node.open(sent, descriptor)),
            }
        }
        assert_eq!(outcome.expect("answered").body, b"short after all");
        assert_eq!(back.iter().filter(|slot| lent.iter().any(|lent| lent.slot == **slot)).count(), 2);
        assert!(!back.contains(&lent[0].slot), "the one in use stays");
    }

    fn memory_that_is_used_up_is_an_error_that_the_gateway_can_tell(mut node: Node) {
        node.chain(&[5]);
        let big = node.start(function(5), |control| {
            serve_on(control, |_: Request, _: &Context| Ok(Response::ok(vec![1; 20_000])))
        });
        let sent = node.request(5, "/", &[], b"");
        let want = node.next();
        node.sorry(&big, want.request, Failure::Exhausted);
        assert_eq!(node.failure(sent), Failure::Exhausted);
    }

    fn a_streamed_answer_goes_out_while_it_is_written(mut node: Node) {
        node.chain(&[5]);
        let (go, wait) = channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let wait = std::sync::Arc::new(wait);
        let streams = node.start(function(5), move |control| {
            serve_on(control, move |request: Request, _: &Context| {
                let (body, wait) = (request.into_body(), std::sync::Arc::clone(&wait));
                Ok(Response::stream(move |writer| {
                    for chunk in body.chunks() {
                        writer.write_all(chunk)?;
                    }
                    writer.flush()?;
                    wait.lock().expect("lock").recv()?;
                    writer.write_all(&[9; 40_000])?;
                    Ok(())
                })
                .header("x-live", "1"))
            })
        });
        let sent = node.request(5, "/", &[], b"first");
        let outcome = node.outcome(sent);
        assert_eq!((outcome.descriptor.kind(), outcome.descriptor.flags), (Some(Kind::Reply), FLAG_MORE));
        assert_eq!(outcome.message.block.header("x-live"), Some(&b"1"[..]));
        let mut body = Vec::new();
        let mut chunks = Vec::new();
        loop {
            let descriptor = node.next();
            match descriptor.kind() {
                Some(Kind::Want) => {
                    assert!(want_parts(descriptor.aux).1 <= 16);
                    node.grant(&descriptor, &[&streams]);
                }
                Some(Kind::Return) => assert_eq!(descriptor.flags, FLAG_LENT),
                Some(Kind::Chunk) => {
                    assert_eq!(descriptor.request, sent.id);
                    let slot = node.pool.slot(descriptor.slot).expect("in the pool");
                    body.extend_from_slice(slot.slice(0, descriptor.aux as usize).expect("in the slot"));
                    chunks.push(descriptor.aux);
                    if chunks.len() == 1 {
                        assert_eq!(body, b"first", "it is here while the function still runs");
                        go.send(()).expect("it waits");
                    }
                    if descriptor.flags & FLAG_MORE == 0 {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(body.len(), 40_005);
        assert_eq!(chunks, [5, 16_384, 16_384, 40_000 - 2 * 16_384]);
    }

    fn a_stream_that_fails_breaks_off_visibly(mut node: Node) {
        node.chain(&[5]);
        let _streams = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| {
                let panics = request.path() == "/panic";
                Ok(Response::stream(move |_| if panics { panic!("planted") } else { Err(Error::new("planted")) }))
            })
        });
        for path in ["/error", "/panic"] {
            let sent = node.request(5, path, &[], b"");
            assert_eq!(node.outcome(sent).descriptor.flags, FLAG_MORE);
            let last = node.next();
            let broken = ramet_common::descriptor::FLAG_BROKEN;
            assert_eq!((last.kind(), last.flags, last.aux), (Some(Kind::Chunk), broken, 0));
        }
    }

    fn a_panic_and_an_error_fail_their_request_only(mut node: Node) {
        node.chain(&[5]);
        let _flaky = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| match request.path() {
                "/panic" => panic!("planted"),
                "/error" => Err(Error::new("planted")),
                "/header" => Ok(Response::new(200).header("x", "a\r\nb")),
                "/status" => Ok(Response::new(99)),
                _ => Ok(Response::ok("fine")),
            })
        });
        for (path, failure) in [
            ("/panic", Failure::Panicked),
            ("/error", Failure::FunctionError),
            ("/header", Failure::FunctionError),
            ("/status", Failure::FunctionError),
        ] {
            let sent = node.request(5, path, &[], b"");
            assert_eq!(node.failure(sent), failure, "{path}");
            let sent = node.request(5, "/", &[], b"");
            assert_eq!(node.outcome(sent).body, b"fine");
        }
    }

    fn a_malformed_message_is_refused_and_the_instance_lives(mut node: Node) {
        node.chain(&[5]);
        let _echo = node.start(function(5), |control| serve_on(control, echo));
        let block_bytes = std::mem::offset_of!(Envelope, block_bytes);
        for (offset, garbage) in [(0, &[0xff; 200][..]), (0, &[0; 200]), (block_bytes, &[0xff; 4])] {
            let (sent, _) = node.write("/", &[], b"body", Place::Inline);
            node.pool.slot(sent.head.slot).expect("slot").copy_in(offset, garbage).expect("fits");
            node.dispatch(5, sent);
            assert_eq!(node.failure(sent), Failure::BadMessage);
            let sent = node.request(5, "/", &[], b"good");
            assert_eq!(node.outcome(sent).body, b"good");
        }
    }

    fn a_body_that_outlives_its_handler_keeps_its_slots(mut node: Node) {
        thread_local! {
            static STASH: std::cell::RefCell<Vec<Body>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        node.chain(&[5]);
        let _hoarder = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| {
                if request.path() == "/release" {
                    STASH.with_borrow_mut(Vec::clear);
                    return Ok(Response::ok("released"));
                }
                STASH.with_borrow_mut(|stash| stash.push(request.into_body()));
                Ok(Response::ok("taken"))
            })
        });
        let kept = node.request(5, "/keep", &[], b"kept");
        let release = node.request(5, "/release", &[], b"");
        let (one, other) = (node.next(), node.next());
        let (failed, fine) = if one.request == kept.id { (one, other) } else { (other, one) };
        let error = Failure::FunctionError as u32;
        assert_eq!((failed.kind(), failed.request, failed.aux), (Some(Kind::Failed), kept.id, error));
        assert_eq!(node.open(release, fine).body, b"released");
    }
}
