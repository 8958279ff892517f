//! What a function author links: requests in place, answers in place, calls to other functions.
//!
//! A function is a plain program. `ramet up` starts it; [`serve()`] runs its handler for each request:
//!
//! ```no_run
//! use ramet_sdk::{Context, ExitCode, Request, Response, Result};
//!
//! fn handle(request: Request, _context: &Context) -> Result<Response> {
//!     let name = request.query_value("name").unwrap_or("world".into());
//!     Ok(Response::text(format!("Hello, {name}!\n")))
//! }
//!
//! fn main() -> ExitCode {
//!     ramet_sdk::serve(handle)
//! }
//! ```
//!
//! **Bodies are not copied.** [`Request::body`] reads the bytes where the gateway, or the function before, wrote them.
//! [`Request::into_body`] puts them into the response without touching them. [`Context::body`] reserves shared memory
//! to write a new body in place.
//!
//! **A body may still be coming.** A function whose manifest says `requestBody: streamed` and that is its chain's first
//! is asked as soon as a request's head is there. [`serve()`] waits for the body all the same; [`serve_streamed`] does
//! not, and its handler reads the body while the client sends it.
//!
//! **Where a response goes.** To the next step of the chain if there is one, else to the client. A function before the
//! last answers the client early with [`Response::reply`], and picks among several next steps with
//! [`Response::forward_to`]. A status of 400 or more replies at once wherever in the chain it happens, unless
//! `forward_to` says otherwise. To the next step go the request line, the request's headers with the response's laid
//! over them, and the response's body; to the client go only the response's own status, headers and body.
//!
//! **Failures.** An `Err` is logged on standard error and answered 500 by the gateway; a panic likewise. Neither ends
//! the instance, and neither shows the client anything of the error.
//!
//! **Blocking is fine.** A function serves as many requests at once as its manifest's `concurrency` says, each on a
//! thread of its own. With the cargo feature `async`, `serve_async` runs them as futures on one thread instead.
//!
//! **An instance may be a copy of another one,** memory and all, where the manifest says so. What must not be the same
//! in two processes is made anew in a hook: [`after_fork`].
//!
//! Reading order of the façade: [`serve()`], [`after_fork`], [`Request`], [`StreamedRequest`], [`Body`], [`Response`],
//! [`Context`], [`Call`]. Of the inside: `join` and `control` talk to the supervisor, `crew` is who serves and
//! `rebirth` what copies do first, `inbox` decides which thread receives and which one works, `service` is one message
//! in this function's hands, `outcome` sends it on, `outbox` and `delivery` get it there.
#![forbid(unsafe_code)]

mod serve;

mod request;

mod incoming;

mod body;

mod headers;
mod response;

mod context;

mod call;

mod writer;

mod stream;

mod error;

#[cfg(feature = "async")]
mod asynchronous;

mod control;
mod crew;
mod join;
mod rebirth;

mod instance;

mod inbox;
mod wait;

mod worker;

mod service;

mod lending;
mod outcome;

mod delivery;
mod outbox;

pub use body::{Body, BodyReader, BodySlice, Chunks};
pub use call::{Call, CallError, Reply};
pub use context::Context;
pub use error::{Error, Result};
pub use headers::HeaderValue;
pub use incoming::{BodyPiece, BodyStream, StreamedRequest};
pub use join::JoinError;
pub use lending::BodyError;
pub use rebirth::{Rebirth, after_fork};
pub use request::{Branch, Request};
pub use response::Response;
pub use serve::{ServeError, serve, serve_on, serve_streamed, serve_streamed_on};
pub use stream::StreamWriter;
pub use writer::BodyWriter;

#[cfg(feature = "async")]
pub use asynchronous::{
    AsyncContext, AsyncStreamWriter, serve_async, serve_async_on, serve_async_streamed, serve_async_streamed_on,
};

pub use ramet_common::InstanceId;
pub use std::process::ExitCode;
