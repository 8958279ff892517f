//! Many requests at once, with calls, bodies of all sizes and errors: each gets one outcome, and no slot is lost.

#[path = "node/node.rs"]
mod node;

use std::collections::HashMap;

use node::{Node, Sent, Started, function};
use ramet_common::descriptor::FLAG_LENT;
use ramet_common::{Kind, RequestId};
use ramet_dataplane::SlotRef;
use ramet_sdk::{Call, Context, Error, Request, Response, Result, serve_on};

/// How many requests are out at once.
const WINDOW: usize = 12;
const REQUESTS: usize = 1500;

/// Calls the other function for two of three requests.
fn caller(request: Request, context: &Context) -> Result<Response> {
    let number: usize = request.query_value("n").unwrap_or_default().parse()?;
    match number % 30 {
        7 => return Err(Error::new("as planned")),
        9 => return Ok(Response::stream(move |_| Err(Error::new("never runs to its end"))).forward_to("nowhere")),
        _ => {}
    }
    if number.is_multiple_of(3) {
        return Ok(Response::ok(request.into_body()));
    }
    let call = Call::post(request.target()).body(request.share_body());
    let reply = context.call("other", call)?;
    Ok(Response::ok(reply.into_body()))
}

/// Answers with up to 20 kB.
fn callee(request: Request, context: &Context) -> Result<Response> {
    let number: usize = request.query_value("n").unwrap_or_default().parse()?;
    let mut writer = context.body(number * 37 % 20_000)?;
    for slice in writer.slices_mut() {
        slice.fill(number as u8);
    }
    Ok(Response::ok(writer))
}

/// What the gateway has given out for whom: released with them.
#[derive(Default)]
struct Books {
    open: HashMap<RequestId, (Sent, usize)>,
    lent: HashMap<RequestId, Vec<SlotRef>>,
}

impl Books {
    fn settle(&mut self, node: &Node, request: RequestId, head: ramet_common::SlotIndex) {
        for slot in self.lent.remove(&request).unwrap_or_default() {
            node.slots.release(slot.slot);
        }
        node.slots.release(head);
    }

    /// Takes one descriptor; true if it ends a request.
    fn take(&mut self, node: &mut Node, functions: &[&Started]) -> bool {
        let descriptor = node.next();
        let request = descriptor.request;
        match descriptor.kind() {
            Some(Kind::Want) => {
                let granted = node.grant(&descriptor, functions);
                if ramet_common::descriptor::want_parts(descriptor.aux).0 != ramet_common::descriptor::WANT_HEAD {
                    self.lent.entry(request).or_default().extend(granted);
                }
                false
            }
            Some(Kind::Return) if descriptor.flags & FLAG_LENT != 0 => {
                if let Some(lent) = self.lent.get_mut(&request) {
                    lent.retain(|lent| lent.slot != descriptor.slot);
                    node.slots.release(descriptor.slot);
                }
                false
            }
            Some(Kind::Return) => {
                self.settle(node, request, descriptor.slot);
                false
            }
            Some(kind) => {
                let (sent, number) = self.open.remove(&request).expect("one outcome per request");
                if kind == Kind::Reply {
                    let outcome = node.open(sent, descriptor);
                    let expected = if number % 3 == 0 { 50 } else { number * 37 % 20_000 };
                    assert_eq!(outcome.body.len(), expected, "{number}");
                    assert!(outcome.body.iter().all(|&byte| byte == number as u8));
                } else {
                    assert_eq!((kind, [7, 9].contains(&(number % 30))), (Kind::Failed, true));
                }
                self.settle(node, request, descriptor.slot);
                true
            }
            None => panic!("garbage"),
        }
    }
}

on_every_transport! {
    fn each_gets_one_outcome_and_every_slot_comes_back(mut node: Node) {
        node.chain(&[5]);
        let free = node.slots.free();
        let mut one = node.start(function(5).concurrency(4).calls("other", 6), |control| serve_on(control, caller));
        let mut other = node.start(function(6).concurrency(3), |control| serve_on(control, callee));
        node.link(&mut one, &mut other, 1000);
        node.link(&mut other, &mut one, 1000);
        let mut books = Books::default();
        let mut number = 0;
        while number < REQUESTS || !books.open.is_empty() {
            while number < REQUESTS && books.open.len() < WINDOW {
                let sent = node.request(5, &format!("/?n={number}"), &[], &[number as u8; 50]);
                books.open.insert(sent.id, (sent, number));
                number += 1;
            }
            books.take(&mut node, &[&one, &other]);
        }
        // The last granted heads may still be on their way back.
        while node.slots.free() != free {
            books.take(&mut node, &[&one, &other]);
        }
        assert!(one.end().is_ok() && other.end().is_ok());
    }
}
