//! The instances of one version of a function that are forked: a thread prepares the process that they are copies of
//! and makes them, because both are done by waiting.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use ramet_common::{FunctionId, InstanceId};
use ramet_fork::seeds::{Refusal, SeedError};
use ramet_fork::source::tcp::ConnectError;
use ramet_fork::{
    Child, Family, ForkDescriptor, Given, Habitat, Handle, Hosts, Key, Phases, ResumeError, SeedAt, Seeds, Terms,
    lineage,
};
use ramet_manifest::RemoteFork;
use ramet_sys::End;

use crate::event::{Event, Events};

/// For how long a seed is kept without being asked for. It is renewed long before.
const LEASE: Duration = Duration::from_secs(600);
/// How often its lease is renewed.
const RENEWAL: Duration = Duration::from_secs(200);

/// The longest key file: the digits of a key and the end of the line.
const KEY_FILE_BYTES_MAX: u64 = 64;

/// What is asked of a brood's thread.
#[derive(Debug)]
enum Ask {
    /// A child, to be known by this id.
    Child(InstanceId, Given),
}

/// Where a brood's parent is.
#[derive(Debug)]
pub(crate) enum Parent {
    /// A frozen instance of this node.
    Here {
        /// Its process.
        pid: u32,
        /// What it lives in, and its seed for longer.
        _habitat: Option<Arc<Habitat>>,
    },
    /// On another node.
    Elsewhere(RemoteFork),
}

/// What a brood tells the node.
#[derive(Debug)]
pub(crate) enum News {
    /// Children can be asked for, or why not. The parent is needed no more.
    Prepared(Result<Seeded, BroodError>),
    /// A child that was asked for.
    Child(InstanceId, Result<Newborn, BroodError>),
}

/// What it took to have a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeded {
    /// For how long the parent was stopped, where it is of this host.
    pub(crate) pause: Option<Duration>,
}

/// Why there is no seed, or no child.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BroodError {
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error("its seed cannot be read: {0}")]
    Refused(#[from] Refusal),
    #[error("its seed makes no sense: {0}")]
    Descriptor(#[from] ramet_fork::descriptor::DecodeError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error("cannot make processes: {0}")]
    Host(#[from] io::Error),
    #[error("the key in {}: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("its handle is none: {0}")]
    Handle(#[from] ramet_fork::seeds::NoHandle),
    #[error(
        "its seed was not prepared between two requests of an instance: {0}; prepare it there by `ramet fork prepare \
         instance/ID`"
    )]
    Busy(&'static str),
    #[error("its seed is lost")]
    Lost,
    #[error("the thread that makes children has ended")]
    Gone,
}

/// A child that nobody looks after yet: it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Newborn(Option<Child>);

impl Newborn {
    /// The child, for who looks after it now.
    pub(crate) fn adopt(mut self) -> Option<Child> {
        self.0.take()
    }

    /// How long the steps of making it took.
    pub(crate) fn phases(&self) -> Phases {
        self.0.as_ref().map(|child| child.phases).unwrap_or_default()
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            let _ = child.pidfd.signal(End::Kill);
            let _ = child.pidfd.wait();
        }
    }
}

/// The node's end of a brood. The seed is given up when it is dropped; children that live then have what they have.
#[derive(Debug)]
pub(crate) struct Brood {
    number: u64,
    asks: Sender<Ask>,
}

/// What a brood is made of.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) seeds: Arc<Seeds>,
    pub(crate) events: Events,
}

impl Brood {
    /// Begins to prepare the parent; [`News::Prepared`] of this number follows.
    pub(crate) fn start(means: &Means, function: FunctionId, number: u64, parent: Parent) -> io::Result<Self> {
        let (asks, asked) = channel();
        let means = means.clone();
        let work = move || Worker { means, function, number }.run(&parent, &asked);
        thread::Builder::new().name("ramet-brood".to_owned()).spawn(work)?;
        Ok(Self { number, asks })
    }

    /// Which brood it is: news of others are old.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Asks for a child; [`News::Child`] follows, unless this is an error.
    pub(crate) fn ask(&self, instance: InstanceId, given: Given) -> Result<(), BroodError> {
        self.asks.send(Ask::Child(instance, given)).map_err(|_| BroodError::Gone)
    }
}

struct Worker {
    means: Means,
    function: FunctionId,
    number: u64,
}

/// A seed that is read, and how long its process was stopped for it.
struct Rooted {
    family: Family,
    /// Of this host: to be given up in the end.
    handle: Option<Handle>,
    pause: Option<Duration>,
}

impl Rooted {
    fn child(&self, given: &Given) -> Result<Newborn, BroodError> {
        if !self.family.is_fertile() {
            return Err(BroodError::Lost);
        }
        Ok(Newborn(Some(self.family.child(given)?)))
    }
}

impl Worker {
    fn run(self, parent: &Parent, asked: &Receiver<Ask>) {
        let rooted = match self.root(parent) {
            Ok(rooted) => rooted,
            Err(error) => return self.tell(News::Prepared(Err(error))),
        };
        self.tell(News::Prepared(Ok(Seeded { pause: rooted.pause })));
        let mut is_pulled = rooted.handle.is_some();
        loop {
            match asked.recv_timeout(RENEWAL) {
                Ok(Ask::Child(instance, given)) => {
                    let born = rooted.child(&given);
                    let is_born = born.is_ok();
                    self.tell(News::Child(instance, born));
                    // Instances are not to depend on another node for longer than they must.
                    if is_born && !std::mem::replace(&mut is_pulled, true) {
                        let pulled = rooted.family.pull();
                        let _ = pulled.inspect_err(|why| tracing::warn!("instances go on to need their seed: {why}"));
                    }
                }
                // One that has ended meanwhile is found out by who wants a child.
                Err(RecvTimeoutError::Timeout) => {
                    let _ = rooted.handle.map(|handle| self.means.seeds.renew(handle, LEASE));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(handle) = rooted.handle {
            let _ = self.means.seeds.revoke(handle);
        }
    }

    fn root(&self, parent: &Parent) -> Result<Rooted, BroodError> {
        let host = self.means.hosts.host()?;
        match parent {
            Parent::Here { pid, .. } => {
                let held = self.means.seeds.prepare(pid.cast_signed(), Terms { lease: LEASE })?;
                let family = self.means.seeds.open_local(held.handle, &held.key).map_err(BroodError::from);
                let family = family.and_then(|(descriptor, source)| {
                    Ok(Family::start(host, ForkDescriptor::decode(&descriptor)?, Box::new(source))?)
                });
                let family = family.inspect_err(|_| _ = self.means.seeds.revoke(held.handle))?;
                Ok(Rooted { family, handle: Some(held.handle), pause: Some(held.pause) })
            }
            Parent::Elsewhere(RemoteFork { address, handle, key_file }) => {
                let seed = SeedAt { address: *address, handle: handle.parse()?, key: read_key(key_file)? };
                let (descriptor, source) = lineage::connect(&seed)?;
                check_foreign(&descriptor).map_err(BroodError::Busy)?;
                Ok(Rooted { family: Family::start(host, descriptor, Box::new(source))?, handle: None, pause: None })
            }
        }
    }

    /// A node that is gone is told nothing; what was made for it ends.
    fn tell(&self, news: News) {
        let _ = self.means.events.blocking_send(Event::Brood(self.function, self.number, news));
    }
}

/// Whether a process of another node can be what an instance of this one begins as: it waits to be told who it is, and
/// is confined as instances are.
fn check_foreign(descriptor: &ForkDescriptor) -> Result<(), &'static str> {
    if descriptor.threads.len() != 1 {
        return Err("it has threads that serve");
    }
    if descriptor.filters.is_empty() || !descriptor.credentials.no_new_privileges {
        return Err("it is not confined as instances are");
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<Key, BroodError> {
    let failed = |reason: String| BroodError::Key { path: path.to_owned(), reason };
    let length = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > KEY_FILE_BYTES_MAX {
        return Err(failed("the file is longer than a key".to_owned()));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let digits = text.trim();
    let byte = |at: usize| digits.get(at * 2..at * 2 + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    let mut key = [0; ramet_fork::seeds::KEY_BYTES];
    for (at, into) in key.iter_mut().enumerate() {
        *into = byte(at).ok_or_else(|| failed("it is not 32 hexadecimal digits".to_owned()))?;
    }
    if digits.len() != key.len() * 2 {
        return Err(failed("it is not 32 hexadecimal digits".to_owned()));
    }
    Ok(Key::from_bytes(key))
}
