//! `ramet up`: puts a node together, runs it until it is told to end, and leaves nothing behind.

use std::os::unix::net::UnixListener as StdUnixListener;
use std::time::Duration;

use ramet_dataplane::TransportKind;
use ramet_manifest::settings::BusyPoll;
use ramet_manifest::{Desired, Errors, NodeSettings, Source};
use ramet_sys::latency;
use rustix::net::SocketType;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin;
use crate::event::{self, Event, Events};
use crate::keeper::{Keeper, KeeperError, KeeperSettings};
use crate::listeners::{ListenError, Listeners};
use crate::logs::Logs;
use crate::node::{EpochError, Node, Parts};
use crate::placement::{self, PlacementError};
use crate::shortcut::{Shortcut, ShortcutError};
use crate::socket_file::{SocketError, SocketFile};
use crate::threads;
use crate::transport::{self, Findings, TransportError};

/// How long the last answers on the admin socket may take to be read.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Why a node did not start, or ended by itself. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The manifests are wrong; nothing was started.
    #[error(transparent)]
    Manifests(#[from] Errors),
    /// The transport that was asked for does not work.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The short-cut that was asked for does not work.
    #[error(transparent)]
    Shortcut(#[from] ShortcutError),
    /// The cores that were asked for are not the node's.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The admin socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Seeds of forks cannot be kept.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The gateway cannot be started.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The supervisor's own event loop cannot be made.
    #[error("cannot start the supervisor's event loop: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Runs a node with `settings` and the objects in `sources`, until SIGTERM or SIGINT.
///
/// Every child dies with the thread that calls this: call it from the main thread.
///
/// # Errors
/// [`UpError`]. When the manifests are wrong, nothing was started.
pub fn up(settings: NodeSettings, sources: Vec<Source>) -> Result<(), UpError> {
    let desired = Desired::default().apply(&sources)?;
    raise_open_files();
    if let Some(own) = threads::numbers(&threads::own_cores()?) {
        placement::check(&settings.placement, &own)?;
    }
    if settings.keep_awake && !latency::may_keep_awake() {
        tracing::warn!(
            "keep_awake = true does nothing here: /dev/cpu_dma_latency cannot be written to, which takes root"
        );
    }
    let (socket, listener) = SocketFile::bind(&settings.socket, SocketType::STREAM)?;
    let keeper = Keeper::start(&KeeperSettings::of(&settings))?;
    let listeners = Listeners::bind(settings.listen, settings.gateway.workers, settings.admin)?;
    let choice = Findings::gather(settings.transport).choose(settings.transport)?;
    if choice.kind == TransportKind::Ring && settings.busy_poll == BusyPoll::Always {
        let (readers, cores) = (ring_readers(&settings, &desired), threads::own_cores()?.count() as u32);
        if readers > cores {
            tracing::warn!(
                readers,
                cores,
                "busy_poll = \"always\" keeps a core for each reader of rings, and there are more readers than cores: \
                 they wait for each other's turns; \"adaptive\" is faster here"
            );
        }
    }
    let shortcut = Shortcut::new(settings.shortcut)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let plane = transport::open(&choice)?;
        let (events, inbox) = event::queue();
        let logs = Logs::start();
        keeper.serve_node(&events);
        forward_signals(&events)?;
        let admin = Admin::serve(listener.into(), &events, &logs)?;
        let means = keeper.means(&events);
        let parts = Parts { settings, desired, choice, plane, shortcut, listeners, logs, events, inbox, means };
        let ended = Node::new(parts).run().await;
        admin.finish().await;
        Ok(ended?)
    });
    drop(keeper);
    drop(socket);
    // Tasks that read from children or serve the admin socket have nothing left to do.
    runtime.shutdown_background();
    outcome
}

/// How many threads read rings at least: the gateway's, and one of each instance that links the SDK.
fn ring_readers(settings: &NodeSettings, desired: &Desired) -> u32 {
    let linked = desired.functions().filter(|function| function.spec.http.is_none());
    settings.gateway.workers + linked.map(|function| function.spec.replicas.min).sum::<u32>()
}

/// A node with many instances has many pipes and sockets. Children get limits of their own.
pub(crate) fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn forward_signals(events: &Events) -> std::io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let events = events.clone();
        tokio::spawn(
            async move { while signals.recv().await.is_some() && events.send(Event::Signal).await.is_ok() {} },
        );
    }
    Ok(())
}

/// The task that serves the admin socket.
struct Admin {
    task: JoinHandle<()>,
    ending: oneshot::Sender<()>,
}

impl Admin {
    fn serve(listener: StdUnixListener, events: &Events, logs: &Logs) -> std::io::Result<Self> {
        let listener = UnixListener::from_std(listener)?;
        let router = admin::router(events.clone(), logs.clone());
        let (ending, ended) = oneshot::channel();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async {
            // An error means that the node is gone, which is an end too.
            let _ = ended.await;
        });
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the admin socket is no longer served");
            }
        });
        Ok(Self { task, ending })
    }

    /// Lets answers that are on their way arrive. Somebody who asked and does not read would be waited for for ever.
    async fn finish(self) {
        let _ = self.ending.send(());
        let _ = tokio::time::timeout(LAST_ANSWERS, self.task).await;
    }
}
