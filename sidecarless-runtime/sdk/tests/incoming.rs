//! Bodies that come in pieces: each is asked for, read in place and given back, and one that breaks off is never whole.

#[path = "node/node.rs"]
mod node;

use std::io::Read;
use std::sync::mpsc::channel;

use node::{Node, Place, Sent, Started, function};
use ramet_common::descriptor::{FLAG_BROKEN, FLAG_LENT, FLAG_MORE, FLAG_PIECE, Failure, WANT_PIECE, want_parts};
use ramet_common::{InstanceId, Kind, PacketDescriptor};
use ramet_dataplane::SlotRef;
use ramet_dataplane::message::{self, BodyPlace, Envelope, FLAG_STREAMED};
use ramet_sdk::{BodyError, Context, Request, Response, Result, StreamedRequest, serve_on, serve_streamed_on};

/// What a gateway has to give of a body.
#[derive(Clone, Copy, Debug)]
enum Rest {
    Whole,
    Broken,
}

/// A request whose body is still to come.
fn begin(node: &mut Node) -> Sent {
    let (sent, envelope) = node.write("/", &[("x-request", "1")], b"", Place::Inline);
    let slot = node.pool.slot(sent.head.slot).expect("in the pool");
    message::rewrite_envelope(&slot, &Envelope { flags: FLAG_STREAMED, ..envelope }).expect("fits");
    node.dispatch(5, sent);
    sent
}

/// Plays the gateway that has these pieces, until the head is back. Also the slots that were not.
fn conduct(node: &mut Node, to: &Started, pieces: &[&[u8]], rest: Rest) -> (PacketDescriptor, Vec<SlotRef>) {
    let (mut left, mut lent) = (pieces.iter(), Vec::new());
    loop {
        let descriptor = node.next();
        match (descriptor.kind(), want_parts(descriptor.aux).0) {
            (Some(Kind::Want), WANT_PIECE) => {
                let lend = match left.next() {
                    Some(bytes) => {
                        let slot = node.slots.allocate(0).expect("free");
                        node.pool.slot(slot.slot).expect("in the pool").copy_in(0, bytes).expect("fits");
                        lent.push(slot);
                        PacketDescriptor::new(Kind::Lend, to.function, slot.slot, slot.generation, descriptor.request)
                            .with_aux(bytes.len() as u32)
                            .with_flags(FLAG_PIECE | FLAG_MORE)
                    }
                    None => {
                        let broken = if matches!(rest, Rest::Broken) { FLAG_BROKEN } else { 0 };
                        let PacketDescriptor { slot, generation, request, .. } = descriptor;
                        PacketDescriptor::new(Kind::Lend, to.function, slot, generation, request)
                            .with_flags(FLAG_PIECE | broken)
                    }
                };
                node.send(&[lend.to_instance(to.id)]);
            }
            (Some(Kind::Want), _) => drop(node.grant(&descriptor, &[to])),
            (Some(Kind::Return), _) => {
                assert_eq!(descriptor.flags, FLAG_LENT);
                lent.retain(|slot| slot.slot != descriptor.slot);
            }
            _ => return (descriptor, lent),
        }
    }
}

fn upper(request: StreamedRequest, _: &Context) -> Result<Response> {
    let (mut body, mut answer) = (request.into_body(), Vec::new());
    while let Some(piece) = body.next_piece()? {
        answer.extend(piece.to_ascii_uppercase());
    }
    assert!(body.next_piece()?.is_none(), "it stays at its end");
    Ok(Response::ok(answer))
}

on_every_transport! {
    fn pieces_are_read_one_by_one_and_given_back(mut node: Node) {
        node.chain(&[5]);
        let started = node.start(function(5), |control| serve_streamed_on(control, upper));
        let sent = begin(&mut node);
        let (descriptor, kept) = conduct(&mut node, &started, &[b"one", b"two", b"three"], Rest::Whole);
        assert_eq!((node.open(sent, descriptor).body, kept.len()), (b"ONETWOTHREE".to_vec(), 0));
        let sent = node.request(5, "/", &[], b"here");
        assert_eq!(node.outcome(sent).body, b"HERE", "a body that is there is read in the same way");
    }

    fn a_body_that_breaks_off_is_an_error_and_stays_one(mut node: Node) {
        node.chain(&[5]);
        let (say, said) = channel();
        let started = node.start(function(5), move |control| {
            serve_streamed_on(control, move |request: StreamedRequest, _: &Context| {
                let (mut body, mut text) = (request.into_body(), String::new());
                let first = body.read_to_string(&mut text).expect_err("it breaks off");
                assert!(first.get_ref().is_some_and(|error| error.is::<BodyError>()), "{first:?}");
                say.send((text, body.next_piece().err())).expect("heard");
                Err(first.into())
            })
        });
        let sent = begin(&mut node);
        let (descriptor, _) = conduct(&mut node, &started, &[b"one", b"two"], Rest::Broken);
        assert_eq!((descriptor.kind(), descriptor.request), (Some(Kind::Failed), sent.id));
        assert_eq!(Failure::from_u32(descriptor.aux), Failure::FunctionError);
        assert_eq!(said.recv().expect("said"), ("onetwo".to_owned(), Some(BodyError::BrokenOff)));
    }

    fn who_wants_whole_bodies_gets_them_where_they_are(mut node: Node) {
        node.chain(&[5]);
        let started = node.start(function(5), |control| {
            serve_on(control, |request: Request, _: &Context| Ok(Response::ok(request.into_body())))
        });
        let sent = begin(&mut node);
        let (descriptor, kept) = conduct(&mut node, &started, &[b"one", b"two"], Rest::Whole);
        let outcome = node.open(sent, descriptor);
        assert_eq!(outcome.body, b"onetwo");
        let BodyPlace::Parts(parts) = &outcome.message.body else { panic!("{:?}", outcome.message.body) };
        let named: Vec<_> = parts.iter().map(|part| SlotRef { slot: part.slot, generation: part.generation }).collect();
        assert_eq!(named, kept, "the answer is in the slots that the body came in");
        assert_eq!(outcome.message.envelope.flags & FLAG_STREAMED, 0);

        begin(&mut node);
        let (descriptor, _) = conduct(&mut node, &started, &[b"one"], Rest::Broken);
        assert_eq!(descriptor.kind(), Some(Kind::Failed), "half a body is none");
        // More than a table has room for.
        let sent = begin(&mut node);
        let many: Vec<_> = (0..40).flat_map(|_| [&b"0123"[..], b"4567"]).collect();
        let (descriptor, _) = conduct(&mut node, &started, &many, Rest::Whole);
        assert_eq!(node.open(sent, descriptor).body, b"01234567".repeat(40));
    }

    fn a_streamed_answer_may_read_on(mut node: Node) {
        node.chain(&[5]);
        let started = node.start(function(5), |control| {
            serve_streamed_on(control, |request: StreamedRequest, _: &Context| {
                let mut body = request.into_body();
                Ok(Response::stream(move |out| {
                    std::io::copy(&mut body, out)?;
                    Ok(())
                }))
            })
        });
        let sent = begin(&mut node);
        let first = node.next();
        assert_eq!((first.kind(), first.flags, first.request), (Some(Kind::Reply), FLAG_MORE, sent.id));
        let (chunk, _) = conduct(&mut node, &started, &[b"one", b"two"], Rest::Whole);
        assert_eq!((chunk.kind(), chunk.aux, chunk.flags), (Some(Kind::Chunk), 6, 0));
    }

    fn who_answers_early_gives_the_rest_up(mut node: Node) {
        node.chain(&[5]);
        let started = node.start(function(5), |control| {
            serve_streamed_on(control, |request: StreamedRequest, _: &Context| {
                let first = request.into_body().next_piece()?.map(|piece| piece.to_vec());
                Ok(Response::ok(first.unwrap_or_default()))
            })
        });
        let sent = begin(&mut node);
        let (descriptor, kept) = conduct(&mut node, &started, &[b"one", b"two"], Rest::Whole);
        assert_eq!((node.open(sent, descriptor).body, kept.len()), (b"one".to_vec(), 0));
        assert_eq!(node.slots.ledger().read(sent.head.slot).expect("a slot").owner, InstanceId::NONE);
    }
}

#[cfg(feature = "async")]
mod asynchronous {
    use super::*;
    use ramet_sdk::{AsyncContext, serve_async_on, serve_async_streamed_on};

    #[test]
    fn handlers_that_are_futures_read_them_too() {
        for transport in [ramet_dataplane::TransportKind::Ring, ramet_dataplane::TransportKind::Socket] {
            let mut node = Node::new(transport);
            node.chain(&[5]);
            let started = node.start(function(5), |control| {
                serve_async_streamed_on(control, |request: StreamedRequest, _: AsyncContext| async move {
                    let mut body = request.into_body();
                    Ok(Response::stream_async(async move |out| {
                        while let Some(piece) = body.next_piece_async().await? {
                            out.write_all(&piece).await?;
                        }
                        Ok(())
                    }))
                })
            });
            let sent = begin(&mut node);
            let first = node.next();
            assert_eq!((first.kind(), first.flags, first.request), (Some(Kind::Reply), FLAG_MORE, sent.id));
            let (chunk, _) = conduct(&mut node, &started, &[b"one", b"two"], Rest::Whole);
            assert_eq!((chunk.kind(), chunk.aux, chunk.flags), (Some(Kind::Chunk), 6, 0));
        }
    }

    #[test]
    fn and_those_that_want_whole_bodies_get_them() {
        let mut node = Node::new(ramet_dataplane::TransportKind::Ring);
        node.chain(&[5]);
        let started = node.start(function(5), |control| {
            serve_async_on(
                control,
                |request: Request, _: AsyncContext| async move { Ok(Response::ok(request.into_body())) },
            )
        });
        let sent = begin(&mut node);
        let (descriptor, _) = conduct(&mut node, &started, &[b"one", b"two"], Rest::Whole);
        assert_eq!(node.open(sent, descriptor).body, b"onetwo");
        begin(&mut node);
        let (descriptor, _) = conduct(&mut node, &started, &[b"one"], Rest::Broken);
        assert_eq!(descriptor.kind(), Some(Kind::Failed));
    }
}
