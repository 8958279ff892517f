//! What a function answers, and where the answer goes.

use std::borrow::Cow;
use std::fmt;

use crate::body::Body;
use crate::error::Result;
use crate::headers::{HeaderValue, Headers};
use crate::stream::{Source, StreamWriter};

/// An answer: to the next step of the chain if there is one, else to whoever asked.
#[must_use = "a response does nothing until the handler returns it"]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Body,
    pub(crate) source: Option<Source>,
    pub(crate) onward: Onward,
}

/// What the function itself decided about where its answer goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Onward {
    /// Nothing: the chain decides.
    #[default]
    Chain,
    /// Back to whoever asked, now.
    Reply,
    /// To the step of this name.
    Step(Cow<'static, str>),
}

impl Response {
    /// An answer of that status (200 to 599) without a body.
    pub fn new(status: u16) -> Self {
        let headers = Headers::default();
        Self { status, headers, body: Body::empty(), source: None, onward: Onward::Chain }
    }

    /// A 200 with a body: bytes, text, a [`Body`] or a [`crate::BodyWriter`].
    pub fn ok(body: impl Into<Body>) -> Self {
        Self::new(200).body(body)
    }

    /// A 200 with plain text.
    pub fn text(text: impl Into<String>) -> Self {
        let headers = Headers::static_value("content-type", "text/plain; charset=utf-8");
        Self { headers, ..Self::ok(text.into()) }
    }

    /// An answer of that status (most often 400 or more) with one sentence as plain text.
    pub fn sentence(status: u16, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self { status, ..Self::text(text) }
    }

    /// A 200 whose body is written while it is already on its way.
    ///
    /// `source` runs after the handler has returned, on the same thread. What it writes goes out whenever 16 KiB are
    /// full and at each flush; it waits while the client reads too slowly. An `Err` or a panic makes the body break off
    /// visibly. Where the answer does not go straight to the client (to a next step, a caller, or under the gateway's
    /// supervision), the whole body is collected first.
    pub fn stream(source: impl FnOnce(&mut StreamWriter) -> Result<()> + 'static) -> Self {
        Self { source: Some(Source::Blocking(Box::new(source))), ..Self::new(200) }
    }

    /// The same with another status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with one more header. An impossible name or value makes the handler fail.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<HeaderValue>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// The same with this body.
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// Answers whoever asked now, whatever steps would follow.
    pub fn reply(mut self) -> Self {
        self.onward = Onward::Reply;
        self
    }

    /// Goes on with the step of that name (`reply` for none), which the chain's manifest must list among this step's
    /// `choices`; anything else makes the handler fail.
    pub fn forward_to(mut self, step: impl Into<Cow<'static, str>>) -> Self {
        self.onward = Onward::Step(step.into());
        self
    }
}

impl<T: Into<Body>> From<T> for Response {
    /// A 200 with that body.
    fn from(body: T) -> Self {
        Self::ok(body)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("onward", &self.onward)
            .field("body", &self.body)
            .field("streams", &self.source.is_some())
            .finish_non_exhaustive()
    }
}
