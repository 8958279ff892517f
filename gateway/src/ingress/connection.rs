//! Listeners and connections of a worker: accept, speak HTTP/1.1, h2c or TLS, and drain.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ramet_control::gateway::{FromGateway, Protocol};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::open::{Connections, Open};
use super::patient_io::PatientIo;
use super::request::Client;
use super::{admin, express, service};
use crate::worker::Worker;

/// How many HTTP/2 streams one connection may have open.
const STREAMS_MAX: u32 = 256;

/// How many resets of its own streams a client may have queued before its connection ends (rapid reset).
const RESETS_MAX: usize = 64;

/// A worker's listeners, and the connections that came of them.
#[derive(Default)]
pub(crate) struct Listening {
    listeners: Vec<(TcpListener, Protocol)>,
    accepting: Vec<AbortHandle>,
    connections: Rc<Connections>,
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
        let room = Arc::new(Semaphore::new(worker.shared.settings.connections_max.min(Semaphore::MAX_PERMITS)));
        for (listener, protocol) in self.listeners.drain(..) {
            // The admin address stays open while the node drains, or nobody could watch it.
            let is_admin = protocol == Protocol::Admin;
            let room = if is_admin { Arc::new(Semaphore::new(64)) } else { Arc::clone(&room) };
            let acceptor =
                Acceptor { worker: Rc::clone(worker), protocol, connections: Rc::clone(&self.connections), room };
            let task = spawn_local(acceptor.accept_always(listener));
            if !is_admin {
                self.accepting.push(task.abort_handle());
            }
        }
        Ok(())
    }

    /// Stops accepting, lets what runs finish, and tells the supervisor.
    pub(crate) fn drain(&mut self, worker: Rc<Worker>, limit: Duration) -> impl Future<Output = ()> + 'static {
        for task in self.accepting.drain(..) {
            task.abort();
        }
        let connections = Rc::clone(&self.connections);
        async move {
            if timeout(limit, connections.drain()).await.is_err() {
                tracing::warn!(?limit, "some connections did not end within the drain timeout");
            }
            if worker.shared.worker_drained() {
                worker.shared.say(&FromGateway::Drained);
            }
        }
    }
}

struct Acceptor {
    worker: Rc<Worker>,
    protocol: Protocol,
    connections: Rc<Connections>,
    room: Arc<Semaphore>,
}

impl Acceptor {
    async fn accept_always(self, listener: TcpListener) {
        loop {
            // Without room the kernel's backlog holds the others.
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = self.connection(stream, peer);
                    spawn_local(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection; trying again");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + 'static {
        let (worker, protocol, open) = (Rc::clone(&self.worker), self.protocol, self.connections.enter());
        async move {
            // Answers are small and must not wait for an acknowledgement.
            let _ = stream.set_nodelay(true);
            let settings = &worker.shared.settings;
            match (protocol, &worker.shared.tls) {
                (Protocol::Http, _) => {
                    let client = Rc::new(Client::new(peer, "http"));
                    if let Some((stream, unread)) = express::serve(&worker, stream, &client, &open).await {
                        by_hyper(&worker, TokioIo::new(stream), unread, client, &open).await;
                    }
                }
                (Protocol::Admin, _) => {
                    // The admin address stays open while the node drains, so its connections are not waited for.
                    drop(open);
                    let io = PatientIo::new(TokioIo::new(stream), settings.body_timeout);
                    admin::serve(&worker, io).await;
                }
                (Protocol::Https, Some(tls)) => {
                    let handshake = timeout(settings.header_timeout, tls.accept(stream)).await;
                    if let Ok(Ok(stream)) = handshake {
                        let client = Rc::new(Client::new(peer, "https"));
                        by_hyper(&worker, TokioIo::new(stream), Bytes::new(), client, &open).await;
                    }
                }
                (Protocol::Https, None) => {}
            }
        }
    }
}

/// Serves a connection with all of HTTP/1.1 and HTTP/2.
async fn by_hyper<I>(worker: &Rc<Worker>, io: I, unread: Bytes, client: Rc<Client>, open: &Open)
where
    I: Read + Write + Unpin + 'static,
{
    let io = PatientIo::with_unread(io, unread, worker.shared.settings.body_timeout);
    let service = service_fn(|request| {
        let (worker, client) = (Rc::clone(worker), Rc::clone(&client));
        async move { Ok::<_, Infallible>(service::answer(worker, client, request).await) }
    });
    let ended = async {
        let notice = open.notice();
        if !open.is_draining() {
            notice.await;
        }
    };
    let mut served = pin!(builder(worker).serve_connection(io, service).into_owned());
    let served = tokio::select! {
        served = &mut served => served,
        () = ended => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// HTTP with every limit set; shared by ingress and admin.
pub(super) fn builder(worker: &Worker) -> auto::Builder<OnThisThread> {
    let settings = &worker.shared.settings;
    let mut builder = auto::Builder::new(OnThisThread);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout.max(settings.idle_timeout))
        .max_buf_size(settings.header_bytes_max.max(8192))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_header_list_size(u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(settings.idle_timeout)
        .keep_alive_timeout(settings.header_timeout);
    builder
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}
