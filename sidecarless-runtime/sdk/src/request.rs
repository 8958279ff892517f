//! What a function is asked: read in place, or turned into the answer.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use crate::body::{Body, BodySlice, Content};
use crate::service::Service;

/// The header by which the gateway says where in a joined body each branch's answer is.
pub(crate) const BRANCH_HEADER: &str = "ramet-branch";

/// A request, a call from another function, or the joined answers of a parallel step.
pub struct Request {
    service: Rc<Service>,
    body: Body,
}

impl Request {
    pub(crate) fn new(service: Rc<Service>, body: Body) -> Self {
        Self { service, body }
    }

    /// The method, in upper case.
    #[must_use]
    pub fn method(&self) -> &str {
        self.service.block.method()
    }

    /// Path and query, as the client sent them.
    #[must_use]
    pub fn target(&self) -> &str {
        self.service.block.target()
    }

    /// The path, still percent-encoded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target().split_once('?').map_or(self.target(), |(path, _)| path)
    }

    /// What follows the question mark, still percent-encoded.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// The first value of a query parameter, decoded. A parameter without `=` has an empty value.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<Cow<'_, str>> {
        let pairs = self.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .map(|(key, value)| (percent_decoded(key), value))
            .find_map(|(key, value)| (key == name).then(|| percent_decoded(value)))
    }

    /// The headers in their order: lower-case names, raw values.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.service.block.headers()
    }

    /// The first header of that lower-case name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.service.block.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The body, in place.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The body, to put into the [`crate::Response`] or a [`crate::Call`] without a copy.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Another handle on the body's bytes: for a call that shall get them while this function goes on reading them.
    #[must_use]
    pub fn share_body(&self) -> Body {
        match &self.body.0 {
            Content::Held(held) => Body(Content::Held(held.clone())),
            Content::Owned(_) | Content::Written(_) => Body::empty(),
        }
    }

    /// The answers of a parallel step's branches, in the order of the manifest, each with its part of the body. Empty
    /// if this function does not follow a parallel step.
    #[must_use]
    pub fn branches(&self) -> Vec<Branch<'_>> {
        let mut start = 0u64;
        let headers = self.headers().filter(|(name, _)| *name == BRANCH_HEADER);
        headers
            .filter_map(|(_, value)| {
                let (name, status, bytes) = parse_branch(value)?;
                let body = self.body.slice().cut(start, bytes);
                start = start.saturating_add(bytes);
                Some(Branch { name, status, body })
            })
            .collect()
    }

    /// The answer of the branch of that name.
    #[must_use]
    pub fn branch(&self, name: &str) -> Option<Branch<'_>> {
        self.branches().into_iter().find(|branch| branch.name == name)
    }
}

impl fmt::Debug for Request {
    /// Without the headers' values and the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method())
            .field("target", &self.target())
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// What one branch of a parallel step answered.
#[derive(Clone, Copy, Debug)]
pub struct Branch<'a> {
    /// The branch's name in the manifest.
    pub name: &'a str,
    /// Its status.
    pub status: u16,
    /// Its body, in place.
    pub body: BodySlice<'a>,
}

/// `<name>;status=<u16>;bytes=<u64>`.
fn parse_branch(value: &[u8]) -> Option<(&str, u16, u64)> {
    let (rest, bytes) = std::str::from_utf8(value).ok()?.rsplit_once(";bytes=")?;
    let (name, status) = rest.rsplit_once(";status=")?;
    Some((name, status.parse().ok()?, bytes.parse().ok()?))
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%41` is `A`. What is malformed stays as it is.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let escape = after.split_at_checked(2).filter(|_| *byte == b'%').and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            Some((u8::from_str_radix(digits, 16).ok()?, after))
        });
        let (byte, after) = escape.unwrap_or((if *byte == b'+' { b' ' } else { *byte }, after));
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_garbage_is_left_alone() {
        assert_eq!(percent_decoded("a+b%20c"), "a b c");
        assert_eq!(percent_decoded("%C3%BC"), "ü");
        assert_eq!(percent_decoded("%+1%zz%4"), "% 1%zz%4");
        assert_eq!(percent_decoded("%ff"), "\u{fffd}");
    }

    #[test]
    fn a_branch_header_is_read_or_skipped() {
        assert_eq!(parse_branch(b"left;status=200;bytes=12"), Some(("left", 200, 12)));
        assert_eq!(parse_branch(b"a;status=1;b;status=404;bytes=0"), Some(("a;status=1;b", 404, 0)));
        for garbage in
            [&b"left"[..], b"left;bytes=1;status=200", b"left;status=70000;bytes=1", b"\xff;status=1;bytes=1"]
        {
            assert_eq!(parse_branch(garbage), None);
        }
    }
}
