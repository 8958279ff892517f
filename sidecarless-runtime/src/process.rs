//! A child of the supervisor with its control socket: what it says and how it ends become events.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use std::{io, process::ExitStatus};

use ramet_control::socket::{ControlError, ControlSocket};
use ramet_fork::Habitat;
use ramet_sys::{Captured, End, Pidfd, Program, Sandbox, SandboxReport, SpawnError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::error::SendError;

use crate::conversation::Conversation;
use crate::event::{Event, Events, Word};

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// What the supervisor needs besides.
    #[error("cannot watch a new process: {0}; is the supervisor's limit of open files reached?")]
    Watch(#[from] io::Error),
}

/// What a child finds as its standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// Its end of the conversation.
    Conversation,
    /// Nothing: it is a program that knows of no supervisor.
    Nothing,
}

/// A child that has been started.
#[derive(Debug)]
pub(crate) struct Started<M> {
    pub(crate) process: Process<M>,
    pub(crate) captured: Option<Captured>,
    /// Sockets of its own network, if it has one.
    pub(crate) sockets: Vec<OwnedFd>,
}

/// A child that runs. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process<M> {
    pub(crate) pid: u32,
    pub(crate) conversation: Conversation<M>,
    pub(crate) report: SandboxReport,
    pidfd: Arc<Pidfd>,
    /// What it lives in, where it was forked or is to be.
    pub(crate) habitat: Habitat,
    /// The far end of a conversation that the child knows nothing of: closed, it would look as if the child were gone.
    _far_end: Option<OwnedFd>,
}

impl<M: Serialize> Process<M> {
    /// Starts a child. `program` is given its standard input.
    ///
    /// In a habitat it can be forked, which may have to outlive it.
    pub(crate) fn start<F>(
        program: impl FnOnce(OwnedFd) -> Program,
        stdin: Stdin,
        sandbox: &Sandbox,
        habitat: Habitat,
        events: Events,
        event: impl Fn(Word<F>) -> Event + Send + Sync + 'static,
    ) -> Result<Started<M>, StartError>
    where
        F: DeserializeOwned + Send + 'static,
    {
        let (ours, theirs) = ControlSocket::pair()?;
        let (stdin, far_end) = match stdin {
            Stdin::Conversation => (theirs.into_fd(), None),
            Stdin::Nothing => (File::open("/dev/null")?.into(), Some(theirs.into_fd())),
        };
        let program = program(stdin);
        let child = match habitat.first() {
            Some(first) => ramet_sys::spawn_beside(first, program, sandbox)?,
            None => ramet_sys::spawn(program, sandbox)?,
        };
        let process = Self {
            pid: child.pid,
            conversation: Conversation::new(ours),
            report: child.report,
            pidfd: Arc::new(child.pidfd),
            habitat,
            _far_end: far_end,
        };
        process.watch(events, event)?;
        Ok(Started { process, captured: child.captured, sockets: child.sockets })
    }

    /// Looks after a child that was forked, and that `control` leads to.
    pub(crate) fn adopt<F>(
        child: ramet_fork::Child,
        control: ControlSocket,
        events: Events,
        event: impl Fn(Word<F>) -> Event + Send + Sync + 'static,
    ) -> io::Result<Self>
    where
        F: DeserializeOwned + Send + 'static,
    {
        let pid = child.pid.cast_unsigned();
        let (pidfd, habitat) = child.into_parts();
        let process = Self {
            pid,
            conversation: Conversation::new(control),
            report: SandboxReport::default(),
            pidfd: Arc::new(pidfd),
            habitat,
            _far_end: None,
        };
        process.watch(events, event)?;
        Ok(process)
    }

    /// Makes events of what it says and of its end.
    fn watch<F>(&self, events: Events, event: impl Fn(Word<F>) -> Event + Send + Sync + 'static) -> io::Result<()>
    where
        F: DeserializeOwned + Send + 'static,
    {
        let ours = self.conversation.as_fd().try_clone_to_owned()?;
        // A child says little, and may be hostile.
        let ears = ControlSocket::from_fd(ours).refusing_long();
        let pidfd = Arc::clone(&self.pidfd);
        let watch = Watch { ears: watched(ears.as_fd())?, end: watched(pidfd.as_fd())?, socket: ears, pidfd };
        tokio::spawn(watch.run(events, event));
        Ok(())
    }
}

impl<M> Process<M> {
    /// Asks the child to end, in two ways: it reads an end of file, and it gets `SIGTERM`, which a program without a
    /// handler for it does not notice where it is the first of its process namespace.
    pub(crate) fn ask_to_end(&self)
    where
        M: Serialize,
    {
        self.conversation.close();
        self.signal(End::Ask);
    }

    /// Makes the child end; [`Word::Ended`] follows when it has.
    pub(crate) fn kill(&self) {
        self.signal(End::Kill);
    }

    fn signal(&self, how: End) {
        if let Err(error) = self.pidfd.signal(how) {
            tracing::error!(pid = self.pid, %error, "cannot signal a child");
        }
    }
}

impl<M> Drop for Process<M> {
    fn drop(&mut self) {
        // One that has ended is not there to be signalled any more, and its descriptor names nobody else.
        self.kill();
    }
}

/// How long a process may take to end once its control socket is closed.
const CLOSING: Duration = Duration::from_millis(100);

/// Why nothing more is heard, if it is not the child's end; or the node is gone.
type Heard = Result<Option<ControlError>, SendError<Event>>;

/// Waits for what a child says and for its end.
struct Watch {
    ears: AsyncFd<OwnedFd>,
    end: AsyncFd<OwnedFd>,
    socket: ControlSocket,
    pidfd: Arc<Pidfd>,
}

impl Watch {
    async fn run<F: DeserializeOwned>(self, events: Events, event: impl Fn(Word<F>) -> Event) {
        let listened = tokio::select! {
            biased;
            listened = self.listen(&events, &event) => listened,
            _ = self.end.readable() => self.hear_the_last(&events, &event).await,
        };
        let listened = match listened {
            // A process that ends closes its socket a moment before. That is no news of its own.
            Ok(Some(ControlError::Closed)) if self.ends_within(CLOSING).await => Ok(()),
            Ok(Some(error)) => events.send(event(Word::Silent(error))).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if listened.is_ok() {
            let _ = self.end.readable().await;
            let status = self.pidfd.wait().unwrap_or_else(|error| {
                tracing::error!(%error, "cannot reap a child");
                ExitStatus::default()
            });
            let _ = events.send(event(Word::Ended(status))).await;
        }
    }

    /// Passes on what the child says, until it cannot be understood or closes its end.
    async fn listen<F: DeserializeOwned>(&self, events: &Events, event: &impl Fn(Word<F>) -> Event) -> Heard {
        loop {
            let Ok(mut ready) = self.ears.readable().await else { return Ok(None) };
            match self.socket.try_receive() {
                Ok(Some((message, _))) => events.send(event(Word::Said(message))).await?,
                Ok(None) => ready.clear_ready(),
                Err(error) => return Ok(Some(error)),
            }
        }
    }

    async fn ends_within(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.end.readable()).await.is_ok()
    }

    /// Passes on what the child said before it ended.
    async fn hear_the_last<F: DeserializeOwned>(&self, events: &Events, event: &impl Fn(Word<F>) -> Event) -> Heard {
        loop {
            match self.socket.try_receive() {
                Ok(Some((message, _))) => events.send(event(Word::Said(message))).await?,
                Ok(None) | Err(ControlError::Closed) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            }
        }
    }
}

/// A descriptor of our own to wait on.
fn watched(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.try_clone_to_owned()?;
    #[allow(deprecated, reason = "its successor is unsafe because a type may change its descriptor; an OwnedFd cannot")]
    AsyncFd::with_interest(fd, Interest::READABLE)
}
