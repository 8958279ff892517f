//! What a call says, written down step by step.

use std::borrow::Cow;
use std::time::Duration;

use crate::body::Body;
use crate::headers::{HeaderValue, Headers};

/// A call to another function, for [`crate::Context::call`].
#[derive(Debug)]
#[must_use = "a call does nothing until it is passed to `Context::call`"]
pub struct Call {
    pub(super) method: Cow<'static, str>,
    pub(super) target: String,
    pub(super) headers: Headers,
    pub(super) body: Body,
    pub(super) timeout: Option<Duration>,
}

impl Call {
    /// A call with that method, path and query.
    pub fn new(method: impl Into<Cow<'static, str>>, target: impl Into<String>) -> Self {
        let headers = Headers::default();
        Self { method: method.into(), target: target.into(), headers, body: Body::empty(), timeout: None }
    }

    /// `GET`.
    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// `POST`.
    pub fn post(target: impl Into<String>) -> Self {
        Self::new("POST", target)
    }

    /// The same with one more header.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<HeaderValue>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// The same with this body. The request's own body ([`crate::Request::share_body`]) is not copied if it has slots
    /// of its own.
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// The same, waiting no longer than this for the answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}
