//! All of HTTP/1.1 and HTTP/2, by hyper, with every limit set.

mod gathering;
mod streams;

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use bytes::BytesMut;
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout_at};

use self::gathering::{Flushing, Gathering};
use self::streams::Verdict;
pub(super) use self::streams::{Stream, Streams};
use super::answer::AnswerBody;
use super::open::LAST_REQUEST;
use super::patient_io::PatientIo;
use crate::worker::Worker;

/// What a client that speaks HTTP/2 says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many HTTP/2 streams one connection may have open.
const STREAMS_MAX: u32 = 256;

/// How many resets of its own streams a client may have queued before its connection ends (rapid reset).
const RESETS_MAX: usize = 64;

/// Serves a connection, of which `unread` has been read, until it ends by itself or after `ends` has completed.
pub(super) async fn serve<I, F>(
    worker: &Worker,
    mut io: I,
    mut unread: BytesMut,
    streams: &Streams,
    answer: impl Fn(Request<Incoming>) -> F,
    ends: impl Future<Output = ()>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<AnswerBody>> + 'static,
{
    let settings = &worker.shared.settings;
    let patience = settings.header_timeout.max(settings.idle_timeout);
    let ends = pin!(ends);
    let Some(is_http2) = speaks_http2(&mut io, &mut unread, Instant::now() + patience).await else { return };
    let io = PatientIo::with_unread(TokioIo::new(io), unread.freeze(), settings.body_timeout);
    let service = service_fn(|request| answer(request).map(Ok::<_, Infallible>));
    if is_http2 {
        let mut builder = http2::Builder::new(OnThisThread);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_header_list_size(u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(settings.idle_timeout)
            .keep_alive_timeout(settings.header_timeout);
        let served = pin!(Gathering::new(io).flushing(|io| builder.serve_connection(io, service)));
        let end = |mut served: Pin<&mut Flushing<_, _>>| {
            http2::Connection::graceful_shutdown(Pin::new(served.connection()));
        };
        let watch = || streams.watch(settings.idle_timeout, settings.body_timeout);
        until_ended(served, end, ends, watch).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .max_buf_size(settings.header_bytes_max.max(8192))
            .keep_alive(true);
        let served = pin!(builder.serve_connection(io, service).with_upgrades());
        // Until then each answer says that it is the last.
        let ends = pin!(async {
            ends.await;
            sleep(LAST_REQUEST).await;
        });
        until_ended(served, http1::UpgradeableConnection::graceful_shutdown, ends, std::future::pending).await;
    }
}

/// Reads until it is clear which version the client speaks. `None`: it says nothing, or no more.
async fn speaks_http2(io: &mut (impl AsyncRead + Unpin), unread: &mut BytesMut, until: Instant) -> Option<bool> {
    loop {
        if unread.starts_with(PREFACE) {
            return Some(true);
        }
        if !PREFACE.starts_with(unread) {
            return Some(false);
        }
        match timeout_at(until, io.read_buf(unread)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) | Err(_) => return None,
        }
    }
}

/// Drives a connection. `end` lets what runs on it finish.
async fn until_ended<C, E, W>(
    mut served: Pin<&mut C>,
    end: impl Fn(Pin<&mut C>),
    mut ends: Pin<&mut impl Future<Output = ()>>,
    watch: impl Fn() -> W,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
    W: Future<Output = Verdict>,
{
    let mut is_ending = false;
    loop {
        tokio::select! {
            result = &mut served => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return;
            }
            () = &mut ends, if !is_ending => {
                is_ending = true;
                end(served.as_mut());
            }
            verdict = watch() => match verdict {
                Verdict::Idle if !is_ending => {
                    is_ending = true;
                    end(served.as_mut());
                }
                Verdict::Idle => return,
                Verdict::Stalled => {
                    tracing::debug!("a connection ended: the client left an answer unread for too long");
                    return;
                }
            }
        }
    }
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        let mut task = Box::pin(task);
        // What can be answered at once costs no task, and one that waits registers itself when it runs for the first
        // time.
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            spawn_local(task);
        }
    }
}
