//! The express lane against hyper: the same request gets the same answer, and its function sees the same.

use std::collections::BTreeMap;

use ramet_tests::{Answer, Client, Node};

use crate::{node, pattern};

/// A request, and whether the connection goes on after its answer.
type Question<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8]);

/// Everything of an answer that must be the same: all but the time.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    status: u16,
    headers: Vec<(String, String)>,
    has_date: bool,
    body: Vec<u8>,
    stays_open: bool,
}

#[test]
fn answers_are_the_same() {
    let node = node();
    let body = pattern(100_000);
    let questions: [Question<'_>; 22] = [
        ("POST", "/pair", &[], b"x"),
        ("PUT", "/pair", &[("content-type", "text/plain")], b"x"),
        ("GET", "/pair", &[], b""),
        ("POST", "/pair", &[], b""),
        ("POST", "/pair", &[], &body),
        ("POST", "/pair", &[("connection", "close")], b"x"),
        ("POST", "/pair", &[("connection", "keep-alive")], b"x"),
        ("GET", "/one", &[("x-do", "big:0")], b""),
        ("GET", "/one", &[("x-do", "big:5000")], b""),
        ("GET", "/one", &[("x-do", "big:3000000")], b""),
        ("GET", "/one", &[("x-do", "stream:100")], b""),
        ("GET", "/one", &[("x-do", "stream:0")], b""),
        ("GET", "/one", &[("x-do", "status:204")], b""),
        ("GET", "/one", &[("x-do", "status:304")], b""),
        ("GET", "/one", &[("x-do", "status:299")], b""),
        ("GET", "/one", &[("x-do", "status:503")], b""),
        ("POST", "/one", &[("x-do", "error")], b"x"),
        ("POST", "/one", &[("x-do", "panic")], b"x"),
        ("POST", "/nowhere", &[], b"x"),
        ("GET", "/small", &[], b""),
        ("POST", "/small", &[], &body),
        ("POST", "/nowhere", &[], &body),
    ];
    for (method, target, headers, body) in questions {
        let [express, hyper] = on_both_lanes(&node, method, target, headers, body);
        assert_eq!(express.body.len(), hyper.body.len(), "{method} {target} {headers:?}");
        assert!(express == hyper, "{method} {target} {headers:?}:\n{:?}\n{:?}", shown(&express), shown(&hyper));
        assert!(express.has_date, "RFC 9110, 6.6.1");
    }
    node.wait_all_slots_free();
}

#[test]
fn functions_see_the_same() {
    let node = node();
    let long = "v".repeat(3000);
    let questions: [Question<'_>; 9] = [
        ("GET", "/one", &[], b""),
        ("POST", "/one/more?a=b%20c&d=e&f", &[("Content-Type", "text/plain")], b"body"),
        ("DELETE", "/one//x/../y;z=1", &[("accept", "a"), ("accept", "b"), ("Accept", "c")], b""),
        ("GET", "/one?%zz", &[("x-empty", ""), ("x-padded", "  a  b \t")], b""),
        ("GET", "/one", &[("cookie", "a=b"), ("cookie", "c=d"), ("x-odd", "caf\u{e9}")], b""),
        ("GET", "/one", &[("te", "trailers"), ("trailer", "x"), ("keep-alive", "1"), ("proxy-connection", "x")], b""),
        ("GET", "/one", &[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https"), ("via", "1.1 a")], b""),
        ("POST", "/one", &[("x-long", &long), ("connection", "keep-alive")], b"1"),
        ("PATCH", "/one", &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")], b"1"),
    ];
    for (method, target, headers, body) in questions {
        let headers: Vec<_> = headers.iter().copied().chain([("x-do", "headers")]).collect();
        let [express, hyper] = on_both_lanes(&node, method, target, &headers, body);
        assert_eq!((express.status, hyper.status), (200, 200), "{method} {target} {headers:?}");
        assert_eq!(seen(&express.body), seen(&hyper.body), "{method} {target} {headers:?}");
    }
    node.wait_all_slots_free();
}

/// What a function has seen: the request line, and the values of each header in their order.
fn seen(body: &[u8]) -> (String, BTreeMap<String, Vec<String>>) {
    let text = String::from_utf8_lossy(body);
    let (line, headers) = text.split_once('\n').expect("a request line");
    let mut values = BTreeMap::<_, Vec<_>>::new();
    for header in headers.lines() {
        let (name, value) = header.split_once(": ").expect("a header");
        values.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    (line.to_owned(), values)
}

/// Asks twice: on a new connection, and on one that a HEAD request has made hyper's for good.
fn on_both_lanes(node: &Node, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> [Facts; 2] {
    let express = node.client();
    let mut hyper = node.client();
    assert_eq!(hyper.request("HEAD", "/one", &[], b"").expect("an answer").status, 200);
    [express, hyper].map(|mut client| {
        let answer = client.request(method, target, headers, body).unwrap_or_else(|error| {
            panic!("{method} {target} {headers:?}: {error}");
        });
        facts(answer, &mut client)
    })
}

fn facts(answer: Answer, client: &mut Client) -> Facts {
    let next = client.request("POST", "/one", &[], b"next");
    let stays_open = next.is_ok_and(|next| next.text() == "next+a");
    let (date, mut headers): (Vec<_>, Vec<_>) = answer.headers.into_iter().partition(|(name, _)| name == "date");
    headers.sort();
    Facts { status: answer.status, headers, has_date: date.len() == 1, body: answer.body, stays_open }
}

/// Without the body, of which only the length is of interest to a reader.
fn shown(facts: &Facts) -> (u16, &[(String, String)], usize, bool) {
    (facts.status, &facts.headers, facts.body.len(), facts.stays_open)
}
