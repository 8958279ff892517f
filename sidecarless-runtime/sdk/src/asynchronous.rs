//! Handlers that are futures: the same façade on a current-thread tokio runtime.

mod event_loop;

use std::future::{Future, poll_fn};
use std::io;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;

use ramet_control::socket::ControlSocket;

use crate::ExitCode;
use crate::call::{self, Call, CallError, Reply};
use crate::context::Context;
use crate::crew::{Crew, spawn};
use crate::error::Result;
use crate::inbox::Seat;
use crate::incoming::{BodyPiece, BodyStream, StreamedRequest};
use crate::instance::Instance;
use crate::lending::{self, BodyError};
use crate::request::Request;
use crate::response::Response;
use crate::serve::{Home, ServeError, live, run};
use crate::stream::{Source, StreamWriter};
use crate::writer::BodyWriter;

/// As [`crate::serve()`], for handlers that are futures. One thread runs them all: as many at once as the manifest's
/// `concurrency` says. The runtime has tokio's timers and sockets enabled. Where the manifest says that instances are
/// forked, the runtime ends before each fork and begins anew after it: tasks that outlive their request end with it.
pub fn serve_async<H, F>(handler: H) -> ExitCode
where
    H: Fn(Request, AsyncContext) -> F + Send + 'static,
    F: Future<Output = Result<Response>> + 'static,
{
    run(|control| live(control, &mut Loop::new(OfWhole(handler)), Home::Own))
}

/// As [`crate::serve_streamed`], for handlers that are futures.
pub fn serve_async_streamed<H, F>(handler: H) -> ExitCode
where
    H: Fn(StreamedRequest, AsyncContext) -> F + Send + 'static,
    F: Future<Output = Result<Response>> + 'static,
{
    run(|control| live(control, &mut Loop::new(OfStreamed(handler)), Home::Own))
}

/// As [`serve_async`], with another way to the supervisor: for tests and for programs that embed a function.
///
/// # Errors
/// [`ServeError`]. A supervisor that is gone is none.
pub fn serve_async_on<H, F>(control: ControlSocket, handler: H) -> Result<(), ServeError>
where
    H: Fn(Request, AsyncContext) -> F + Send + 'static,
    F: Future<Output = Result<Response>> + 'static,
{
    live(control, &mut Loop::new(OfWhole(handler)), Home::Shared)
}

/// As [`serve_async_streamed`], with another way to the supervisor: for tests and for programs that embed a function.
///
/// # Errors
/// [`ServeError`]. A supervisor that is gone is none.
pub fn serve_async_streamed_on<H, F>(control: ControlSocket, handler: H) -> Result<(), ServeError>
where
    H: Fn(StreamedRequest, AsyncContext) -> F + Send + 'static,
    F: Future<Output = Result<Response>> + 'static,
{
    live(control, &mut Loop::new(OfStreamed(handler)), Home::Shared)
}

/// A handler, whatever it wants of requests.
pub(crate) trait Handler: Send + 'static {
    /// Its answer to one.
    async fn answer(&self, request: StreamedRequest, context: AsyncContext) -> Result<Response>;
}

struct OfWhole<H>(H);

struct OfStreamed<H>(H);

impl<H, F> Handler for OfWhole<H>
where
    H: Fn(Request, AsyncContext) -> F + Send + 'static,
    F: Future<Output = Result<Response>> + 'static,
{
    async fn answer(&self, request: StreamedRequest, context: AsyncContext) -> Result<Response> {
        (self.0)(request.whole_async().await?, context).await
    }
}

impl<H, F> Handler for OfStreamed<H>
where
    H: Fn(StreamedRequest, AsyncContext) -> F + Send + 'static,
    F: Future<Output = Result<Response>> + 'static,
{
    async fn answer(&self, request: StreamedRequest, context: AsyncContext) -> Result<Response> {
        (self.0)(request, context).await
    }
}

impl StreamedRequest {
    /// As [`StreamedRequest::whole`].
    ///
    /// # Errors
    /// [`BodyError`]: the body broke off, or memory or time is used up.
    pub async fn whole_async(self) -> Result<Request, BodyError> {
        self.gathered().await
    }
}

impl BodyStream {
    /// As [`BodyStream::next_piece`].
    ///
    /// # Errors
    /// [`BodyError`]: the body broke off, or time is used up.
    pub async fn next_piece_async(&mut self) -> Result<Option<BodyPiece>, BodyError> {
        self.advance().await
    }
}

/// One thread for all seats. It has the handler and gives it back when it ends.
struct Loop<H> {
    handler: Option<H>,
    running: Option<JoinHandle<Option<H>>>,
}

impl<H> Loop<H> {
    fn new(handler: H) -> Self {
        Self { handler: Some(handler), running: None }
    }
}

impl<H: Handler> Crew for Loop<H> {
    fn seats(&self, _instance: &Instance) -> Vec<Seat> {
        vec![Seat(0)]
    }

    fn start(&mut self, instance: &Arc<Instance>, seats: &[Seat]) -> io::Result<()> {
        if seats.is_empty() {
            return Ok(());
        }
        let handler = self.handler.take().ok_or_else(|| io::Error::other("the handler is still in use"))?;
        let instance = Arc::clone(instance);
        self.running = Some(spawn("serve-async".to_owned(), move || event_loop::run(&instance, handler))?);
        Ok(())
    }

    fn part(&mut self, seats: &[Seat]) -> io::Result<()> {
        if !seats.is_empty()
            && let Some(thread) = self.running.take()
        {
            self.handler = thread.join().map_err(|_| io::Error::other("the event loop has panicked"))?;
        }
        Ok(())
    }
}

/// The circumstances of one request, for a handler that is a future.
#[derive(Debug)]
pub struct AsyncContext(Context);

impl AsyncContext {
    pub(crate) fn new(context: Context) -> Self {
        Self(context)
    }

    /// As [`Context::body`].
    ///
    /// # Errors
    /// [`BodyError`]: memory or time is used up.
    pub async fn body(&self, bytes: usize) -> Result<BodyWriter, BodyError> {
        lending::body_writer(&self.0.service, bytes).await
    }

    /// As [`Context::call`]. Several calls may be on their way at once.
    ///
    /// # Errors
    /// [`CallError`]. An answer with a status of 400 or more is none.
    pub async fn call(&self, function: &str, call: Call) -> Result<Reply, CallError> {
        call::call(&self.0.service, function, call).await
    }
}

impl Deref for AsyncContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

/// A boxed future that borrows its writer.
type Written<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// What writes a streamed body, as a future.
pub(crate) type AsyncSource = Box<dyn for<'a> FnOnce(&'a mut AsyncStreamWriter) -> Written<'a>>;

impl Response {
    /// As [`Response::stream`], for a source that is a future.
    pub fn stream_async(source: impl AsyncFnOnce(&mut AsyncStreamWriter) -> Result<()> + 'static) -> Self {
        let source: AsyncSource = Box::new(move |writer| Box::pin(source(writer)));
        Self { source: Some(Source::Async(source)), ..Self::new(200) }
    }
}

/// Writes a streamed body, waiting without blocking.
#[derive(Debug)]
pub struct AsyncStreamWriter(StreamWriter);

impl AsyncStreamWriter {
    /// Writes all bytes. They go out when 16 KiB have gathered and at each [`AsyncStreamWriter::flush`].
    ///
    /// # Errors
    /// [`BodyError`]: the client has gone, or memory is used up.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.0.put(rest).await?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Sends what has gathered.
    ///
    /// # Errors
    /// [`BodyError`]: the client has gone.
    pub async fn flush(&mut self) -> Result<(), BodyError> {
        self.0.push().await
    }
}

/// Runs a source to its end or its panic.
pub(crate) async fn write(
    source: AsyncSource,
    writer: StreamWriter,
) -> (StreamWriter, std::thread::Result<Result<()>>) {
    let mut writer = AsyncStreamWriter(writer);
    let written = guarded(source(&mut writer)).await;
    (writer.0, written)
}

/// Runs a future to its end or its panic.
async fn guarded<F: Future>(future: F) -> std::thread::Result<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
