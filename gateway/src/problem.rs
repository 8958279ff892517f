//! Every answer that is the gateway's own: a status and a small JSON body after RFC 9457.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::ingress::AnswerBody;

/// Why a request is answered by the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// An HTTP/1.1 request without a host, or with two.
    BadHost,
    /// A part of HTTP that the gateway does not have.
    NotImplemented(&'static str),
    /// No chain matches.
    NoChain,
    /// A chain matches, but with these methods only.
    MethodNotAllowed(Vec<String>),
    /// The body is longer than this many bytes.
    BodyTooLarge(u64),
    /// The request head does not fit a head block.
    HeadTooLarge,
    /// The client sent its body too slowly.
    BodyTimeout,
    /// The client broke off its body, or framed it wrongly.
    BadBody,
    /// As many requests of the chain run as may.
    TooManyRequests,
    /// The pool has no free slot.
    PoolExhausted,
    /// No instance of a function takes requests.
    NoInstance,
    /// Every instance's queue is full.
    Overloaded,
    /// A function instance died with the request.
    FunctionDied,
    /// An instance that serves HTTP by itself closed the connection, at such a time.
    HungUp(&'static str),
    /// A function returned an error, or panicked.
    FunctionFailed(&'static str),
    /// A function answered with something that is no answer.
    BadAnswer(&'static str),
    /// The chain's deadline has passed.
    DeadlineExceeded(Duration),
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::NoChain => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BadBody | Self::BadHost => StatusCode::BAD_REQUEST,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::PoolExhausted | Self::NoInstance | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::FunctionFailed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::FunctionDied | Self::HungUp(_) | Self::BadAnswer(_) => StatusCode::BAD_GATEWAY,
            Self::DeadlineExceeded(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::BadHost => "a request names exactly one host, as a name or address with or without a port".into(),
            Self::NotImplemented(what) => format!("this gateway does not take {what}").into(),
            Self::NoChain => "no chain is routed at this host and path".into(),
            Self::MethodNotAllowed(allowed) => format!("this path takes {}", allowed.join(", ")).into(),
            Self::BodyTooLarge(limit) => {
                format!("the body is longer than the {limit} bytes that this chain accepts").into()
            }
            Self::HeadTooLarge => "request line and headers do not fit".into(),
            Self::BodyTimeout => "the body came too slowly".into(),
            Self::BadBody => "the body broke off or was framed wrongly".into(),
            Self::TooManyRequests => "as many requests of this chain run as it allows; try again later".into(),
            Self::PoolExhausted => "the memory for requests is used up at the moment; try again later".into(),
            Self::NoInstance => "no instance of a function is ready at the moment; try again later".into(),
            Self::Overloaded => "every instance of a function is busy; try again later".into(),
            Self::FunctionDied => "the function instance that had the request died".into(),
            Self::HungUp(when) => format!("a function closed the connection {when}; it may have died").into(),
            Self::FunctionFailed(what) => format!("a function {what}").into(),
            Self::BadAnswer(what) => format!("a function's answer was unusable: {what}").into(),
            Self::DeadlineExceeded(limit) => format!("the chain did not answer within {limit:?}").into(),
        }
    }

    /// Whether what follows on the connection can still be understood.
    fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::BodyTooLarge(_) | Self::BodyTimeout | Self::BadBody | Self::BadHost | Self::NotImplemented(_)
        )
    }

    /// The body, in JSON.
    pub(crate) fn body(&self) -> Vec<u8> {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let body = Body { r#type: "about:blank", title, status: status.as_u16(), detail: &self.detail() };
        // Strings and a number always serialise.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The headers, but for those of the connection and the length.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, Cow<'static, str>)> {
        let may_come_again = matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        let allowed = match self {
            Self::MethodNotAllowed(allowed) => Some((ALLOW, Cow::Owned(allowed.join(", ")))),
            _ => None,
        };
        let retry = may_come_again.then_some((RETRY_AFTER, Cow::Borrowed("1")));
        [Some((CONTENT_TYPE, Cow::Borrowed("application/problem+json"))), retry, allowed].into_iter().flatten()
    }

    /// The answer, where hyper writes it.
    pub(crate) fn response(&self) -> Response<AnswerBody> {
        let mut response = Response::new(AnswerBody::full(Bytes::from(self.body())));
        *response.status_mut() = self.status();
        for (name, value) in self.headers() {
            if let Ok(value) = HeaderValue::try_from(&*value) {
                response.headers_mut().insert(name, value);
            }
        }
        if self.breaks_connection() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
