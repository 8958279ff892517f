//! Listeners and connections of a worker: accept, speak HTTP/1.1, h2c or TLS, and drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode, Version};
use ramet_control::gateway::{FromGateway, Protocol};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::express::{self, Left};
use super::open::{Connections, Open, Room};
use super::request::Client;
use super::socket::{Listener, Socket};
use super::{admin, full, service};
use crate::crew::Moved;
use crate::worker::Worker;

/// How many connections to the admin address a worker serves at once.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// A worker's listeners.
#[derive(Default)]
pub(crate) struct Listening {
    listeners: Vec<(Listener, Protocol)>,
    accepting: Vec<JoinHandle<()>>,
}

impl Listening {
    /// Takes a listener over; it accepts once [`Listening::serve`] is called.
    pub(crate) fn add(&mut self, listener: std::net::TcpListener, protocol: Protocol) -> io::Result<()> {
        self.listeners.push((Listener::new(listener)?, protocol));
        Ok(())
    }

    /// Starts to accept.
    pub(crate) fn serve(&mut self, worker: &Rc<Worker>) -> io::Result<()> {
        for (listener, protocol) in self.listeners.drain(..) {
            let worker = Rc::clone(worker);
            if protocol != Protocol::Admin {
                worker.steer(listener.try_clone()?);
            }
            if protocol == Protocol::Admin {
                // The admin address stays open while the node drains, or nobody could watch it.
                let connections = Connections::new(Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)));
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
async fn accept_until_drained(worker: Rc<Worker>, listener: Listener, protocol: Protocol) {
    let connections = &worker.connections;
    tokio::select! {
        () = accept_always(&worker, connections, &listener, protocol) => {}
        () = connections.drains() => {}
    }
    while let Some(Some(room)) = connections.room().now_or_never()
        && let Some((socket, peer)) = listener.accept_now()
    {
        serve(&worker, connections, socket, peer, protocol, room);
    }
}

async fn accept_always(worker: &Rc<Worker>, connections: &Rc<Connections>, listener: &Listener, protocol: Protocol) {
    loop {
        // Room is for connections, not for whoever waits for some. Without room the kernel's backlog holds the others.
        let waiting = listener.waiting().await;
        let Some(room) = connections.room().await else { return };
        match waiting.and_then(|mut waiting| waiting.accept()) {
            Ok(None) => {}
            Ok(Some((socket, peer))) => serve(worker, connections, socket, peer, protocol, room),
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
    socket: Socket,
    peer: SocketAddr,
    protocol: Protocol,
    room: Room,
) {
    let (worker, open) = (Rc::clone(worker), connections.enter());
    // On the heap at once: tokio moves a task's future about, also when it is over.
    spawn_local(Box::pin(async move {
        match protocol {
            Protocol::Http => plain(worker, socket, peer, open, room).await,
            Protocol::Https => encrypted(&worker, socket, peer, &open, room).await,
            Protocol::Admin => administrative(&worker, socket, room).await,
        }
    }));
}

/// Goes on with a connection that another worker has passed on.
pub(crate) fn take_over(worker: &Rc<Worker>, moved: Moved) {
    let Moved { stream, peer, room, arrived } = moved;
    let (worker, open) = (Rc::clone(worker), worker.connections.enter());
    // Whoever had it has ended if it does not hear this.
    let _ = arrived.send(());
    spawn_local(Box::pin(plain(worker, Socket::new(stream), peer, open, room)));
}

/// Passes a connection on to another worker; it counts as open here until it does there.
async fn pass_on(worker: &Worker, socket: Socket, peer: SocketAddr, place: usize, open: Open, room: Room) {
    let (arrived, has_arrived) = oneshot::channel();
    match socket.into_unwatched() {
        Ok(stream) => worker.shared.crew.pass_on(place, Moved { stream, peer, room, arrived }),
        Err(error) => tracing::warn!(%error, "a connection is lost on its way to another worker"),
    }
    let _ = has_arrived.await;
    drop(open);
}

async fn plain(worker: Rc<Worker>, socket: Socket, peer: SocketAddr, open: Open, room: Room) {
    let client = Client::new(peer, "http");
    match express::serve(&worker, socket, &client, &open).await {
        Left::Closed => {}
        Left::ForHyper(socket, unread) => {
            let Some(stream) = watched(socket) else { return };
            Box::pin(in_full(&worker, stream, unread, &client, &open)).await;
        }
        Left::ForWorker(socket, place) => Box::pin(pass_on(&worker, socket, peer, place, open, room)).await,
    }
}

async fn administrative(worker: &Rc<Worker>, socket: Socket, _room: Room) {
    if let Some(stream) = watched(socket) {
        admin::serve(worker, stream).await;
    }
}

fn watched(socket: Socket) -> Option<TcpStream> {
    let stream = socket.into_watched();
    stream.inspect_err(|error| tracing::warn!(%error, "a connection is lost: it cannot be watched")).ok()
}

async fn encrypted(worker: &Rc<Worker>, socket: Socket, peer: SocketAddr, open: &Open, _room: Room) {
    let (Some(tls), Some(stream)) = (&worker.shared.tls, watched(socket)) else { return };
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
