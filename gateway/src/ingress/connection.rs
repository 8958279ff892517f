//! Listeners and connections of a worker: accept, speak HTTP/1.1, h2c or TLS, and drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode, Version};
use ramet_control::gateway::{FromGateway, Protocol};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::express::{self, Left};
use super::open::{Connections, Open};
use super::request::Client;
use super::{admin, full, service};
use crate::crew::Moved;
use crate::worker::Worker;

/// How many connections to the admin address a worker serves at once.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// A worker's listeners.
#[derive(Default)]
pub(crate) struct Listening {
    listeners: Vec<(TcpListener, Protocol)>,
    accepting: Vec<JoinHandle<()>>,
}

impl Listening {
    /// Takes a listener over; it accepts once [`Listening::serve`] is called.
    pub(crate) fn add(&mut self, listener: std::net::TcpListener, protocol: Protocol) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.listeners.push((TcpListener::from_std(listener)?, protocol));
        Ok(())
    }

    /// Starts to accept.
    pub(crate) fn serve(&mut self, worker: &Rc<Worker>) -> io::Result<()> {
        for (listener, protocol) in self.listeners.drain(..) {
            let worker = Rc::clone(worker);
            if protocol == Protocol::Admin {
                // The admin address stays open while the node drains, or nobody could watch it.
                let connections = Connections::new(ADMIN_CONNECTIONS_MAX);
                spawn_local(async move { accept_always(&worker, &connections, &listener, protocol).await });
            } else {
                self.accepting.push(spawn_local(accept_until_drained(worker, listener, protocol)));
            }
        }
        Ok(())
    }

    /// Stops accepting, lets what runs finish, and tells the supervisor.
    pub(crate) fn drain(&mut self, worker: Rc<Worker>, limit: Duration) -> impl Future<Output = ()> + 'static {
        let accepting = std::mem::take(&mut self.accepting);
        async move {
            worker.connections.drain();
            let ended = async {
                for accepting in accepting {
                    // Whatever became of it, it accepts no more.
                    let _ = accepting.await;
                }
                worker.connections.all_closed().await;
            };
            if timeout(limit, ended).await.is_err() {
                tracing::warn!(?limit, "some connections did not end within the drain timeout");
            }
            if worker.shared.worker_drained() {
                worker.shared.say(&FromGateway::Drained);
            }
        }
    }
}

/// Accepts until the worker drains, and then those who wait already: to them the connection is open.
async fn accept_until_drained(worker: Rc<Worker>, listener: TcpListener, protocol: Protocol) {
    let connections = &worker.connections;
    tokio::select! {
        () = accept_always(&worker, connections, &listener, protocol) => {}
        () = connections.drains() => {}
    }
    while let Some(Some(room)) = connections.room().now_or_never()
        && let Some(Ok((stream, peer))) = listener.accept().now_or_never()
    {
        serve(&worker, connections, stream, peer, protocol, room);
    }
}

async fn accept_always(worker: &Rc<Worker>, connections: &Rc<Connections>, listener: &TcpListener, protocol: Protocol) {
    loop {
        // Without room the kernel's backlog holds the others.
        let Some(room) = connections.room().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => serve(worker, connections, stream, peer, protocol, room),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection; trying again");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves a connection that was accepted.
fn serve(
    worker: &Rc<Worker>,
    connections: &Rc<Connections>,
    stream: TcpStream,
    peer: SocketAddr,
    protocol: Protocol,
    room: OwnedSemaphorePermit,
) {
    let (worker, open) = (Rc::clone(worker), connections.enter());
    spawn_local(async move {
        match protocol {
            // One that drains may have drained before what it is passed arrives.
            Protocol::Http => match worker.place_for_new().filter(|_| !open.is_draining()) {
                Some(place) => pass_on(&worker, stream, peer, place, open).await,
                None => plain(worker, stream, peer, open).await,
            },
            Protocol::Https => encrypted(&worker, stream, peer, &open).await,
            Protocol::Admin => admin::serve(&worker, stream).await,
        }
        drop(room);
    });
}

/// Goes on with a connection that another worker has passed on.
pub(crate) fn take_over(worker: &Rc<Worker>, moved: Moved) {
    let Moved { stream, peer, arrived } = moved;
    let (worker, open) = (Rc::clone(worker), worker.connections.enter());
    // Whoever had it has ended if it does not hear this.
    let _ = arrived.send(());
    match TcpStream::from_std(stream) {
        Ok(stream) => {
            spawn_local(async move {
                let Some(_room) = worker.connections.room().await else { return };
                plain(worker, stream, peer, open).await;
            });
        }
        Err(error) => tracing::warn!(%error, "a connection is lost on its way to another worker"),
    }
}

/// Passes a connection on to another worker; it counts as open here until it does there.
async fn pass_on(worker: &Worker, stream: TcpStream, peer: SocketAddr, place: usize, open: Open) {
    let (arrived, has_arrived) = oneshot::channel();
    match stream.into_std() {
        Ok(stream) => worker.shared.crew.pass_on(place, Moved { stream, peer, arrived }),
        Err(error) => tracing::warn!(%error, "a connection is lost on its way to another worker"),
    }
    let _ = has_arrived.await;
    drop(open);
}

async fn plain(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, open: Open) {
    // Answers are small and must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let client = Client::new(peer, "http");
    match express::serve(&worker, stream, &client, &open).await {
        Left::Closed => {}
        Left::ForHyper(stream, unread) => Box::pin(in_full(&worker, stream, unread, &client, &open)).await,
        Left::ForWorker(stream, place) => pass_on(&worker, stream, peer, place, open).await,
    }
}

async fn encrypted(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, open: &Open) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = &worker.shared.tls else { return };
    if let Ok(Ok(stream)) = timeout(worker.shared.settings.header_timeout, tls.accept(stream)).await {
        let client = Client::new(peer, "https");
        Box::pin(in_full(worker, stream, BytesMut::new(), &client, open)).await;
    }
}

async fn in_full<I>(worker: &Rc<Worker>, io: I, unread: BytesMut, client: &Client, open: &Open)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let streams = Rc::<full::Streams>::default();
    let answer = |request: Request<_>| {
        worker.is_at_work();
        let is_http1 = request.version() < Version::HTTP_2;
        let (answer, connections) = (service::answer(worker, client, streams.begin(), request), open.connections());
        async move {
            let mut answer = answer.await;
            // Over HTTP/2 the connection itself says so, and an upgrade is no answer.
            if is_http1 && connections.is_draining() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    };
    full::serve(worker, io, unread, &streams, answer, open.drains()).await;
}
