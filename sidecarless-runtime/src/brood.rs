//! The instances of one version of a function that are forked: a thread prepares the process that they are copies of
//! and makes them, because both are done by waiting.

mod foreign;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ramet_common::{FunctionId, InstanceId};
use ramet_control::fork::SourceKind;
use ramet_fork::seeds::SeedError;
use ramet_fork::{Child, Family, ForkDescriptor, Given, Habitat, Hosts, Key, Kin, Phases, ResumeError, SeedAt, Terms};
use ramet_manifest::RemoteFork;
use ramet_sys::{End, Limits};

use self::foreign::Unfit;
use crate::event::{Event, Events};
use crate::reach::{Reach, Unreached};

/// How often a lease is renewed until it would have ended.
const RENEWALS: u32 = 3;

/// How many children are made at a time.
const HANDS: usize = 4;

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
        /// Where it has its memory from, if it is a copy itself.
        kin: Option<Kin>,
        /// What it lives in.
        habitat: Habitat,
    },
    /// On another node, and what its copies may use here.
    Elsewhere(RemoteFork, Limits),
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
    #[error(transparent)]
    Unreached(#[from] Unreached),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error("cannot make processes: {0}")]
    Host(#[from] io::Error),
    #[error("the key in {}: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("its handle is none: {0}")]
    Handle(#[from] ramet_fork::seeds::NoHandle),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("its seed is lost")]
    Lost,
    #[error("the thread that makes children has ended")]
    Gone,
}

/// A child that nobody looks after yet: it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Newborn(Option<(Child, Kin)>);

impl Newborn {
    /// The child, for who looks after it now.
    pub(crate) fn adopt(mut self) -> Option<(Child, Kin)> {
        self.0.take()
    }

    /// How long the steps of making it took.
    pub(crate) fn phases(&self) -> Phases {
        self.0.as_ref().map(|(child, _)| child.phases).unwrap_or_default()
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some((child, _)) = self.0.take() {
            let _ = child.pidfd.signal(End::Kill);
            let _ = child.pidfd.wait();
        }
    }
}

/// The node's end of a brood. The seed is given up when it is dropped, unless somebody else reads it; children that
/// live then have what they have.
#[derive(Debug)]
pub(crate) struct Brood {
    number: u64,
    asks: Sender<Ask>,
}

/// What a brood is made of.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) reach: Reach,
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
    family: Arc<Family>,
    /// Of this host: to be given up in the end.
    own: Option<SeedAt>,
    pause: Option<Duration>,
}

impl Rooted {
    fn child(&self, given: &Given, reach: &Reach) -> Result<Newborn, BroodError> {
        // The template may not know yet.
        let is_there = self.own.as_ref().is_none_or(|seed| reach.is_here(seed));
        if !is_there || !self.family.is_fertile() {
            return Err(BroodError::Lost);
        }
        let child = self.family.child(given)?;
        let kin = Kin::of(&self.family, &child);
        Ok(Newborn(Some((child, kin))))
    }
}

impl Worker {
    fn run(self, parent: &Parent, asked: &Receiver<Ask>) {
        let rooted = match self.root(parent) {
            Ok(rooted) => rooted,
            Err(error) => return self.tell(News::Prepared(Err(error))),
        };
        self.tell(News::Prepared(Ok(Seeded { pause: rooted.pause })));
        let mut is_pulled = rooted.own.is_some();
        let mut renewed = Instant::now();
        let lease = self.means.reach.seeds.usual_lease();
        loop {
            // However often children are asked for.
            let until_renewal = (lease / RENEWALS).saturating_sub(renewed.elapsed());
            if until_renewal.is_zero() {
                renewed = Instant::now();
                // One that has ended meanwhile is found out by who wants a child.
                let _ = rooted.own.as_ref().map(|seed| self.means.reach.seeds.renew(seed.handle, lease));
                continue;
            }
            match asked.recv_timeout(until_renewal) {
                Ok(ask) => {
                    let is_born = self.bear(&rooted, std::iter::once(ask).chain(asked.try_iter()).collect());
                    // Instances are not to depend on another node for longer than they must.
                    if is_born && !std::mem::replace(&mut is_pulled, true) {
                        let pulled = rooted.family.pull();
                        let _ = pulled.inspect_err(|why| tracing::warn!("instances go on to need their seed: {why}"));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let Rooted { family, own, .. } = rooted;
        // It reads the seed, too.
        drop(family);
        if let Some(seed) = own {
            self.means.reach.seeds.release(seed.handle);
        }
    }

    /// Makes children, several at a time: most of what it takes is done by the new processes. Whether there is one.
    fn bear(&self, rooted: &Rooted, asks: Vec<Ask>) -> bool {
        let hands = asks.len().min(HANDS);
        let (asks, is_born) = (Mutex::new(asks.into_iter()), AtomicBool::new(false));
        let next = || asks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(Ask::Child(instance, given)) = next() {
                let born = rooted.child(&given, &self.means.reach);
                is_born.fetch_or(born.is_ok(), Ordering::Relaxed);
                self.tell(News::Child(instance, born));
            }
        };
        thread::scope(|scope| {
            for _ in 1..hands {
                // Without another thread it takes longer.
                let _ = thread::Builder::new().name("ramet-birth".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        is_born.into_inner()
    }

    fn root(&self, parent: &Parent) -> Result<Rooted, BroodError> {
        let Reach { seeds, address, .. } = &self.means.reach;
        match parent {
            Parent::Here { pid, kin, habitat } => {
                let (pid, terms) = (pid.cast_signed(), Terms { lease: seeds.usual_lease() });
                let watch = kin.as_ref().map(Kin::watch).transpose()?;
                let held = seeds.prepare_waiting(pid, habitat.clone(), watch, terms)?;
                let seed = SeedAt { address: *address, handle: held.handle, key: held.key.clone() };
                let family = self.family(&seed, Some(SourceKind::Local), |_| Ok(()));
                let family = family.inspect_err(|_| _ = seeds.revoke(held.handle))?;
                Ok(Rooted { family, own: Some(seed), pause: Some(held.pause) })
            }
            Parent::Elsewhere(RemoteFork { address, handle, key_file }, limits) => {
                let seed = SeedAt { address: *address, handle: handle.parse()?, key: read_key(key_file)? };
                let family = self.family(&seed, None, |descriptor| foreign::check(descriptor, limits))?;
                Ok(Rooted { family, own: None, pause: None })
            }
        }
    }

    fn family(
        &self,
        seed: &SeedAt,
        source: Option<SourceKind>,
        check: impl FnOnce(&ForkDescriptor) -> Result<(), Unfit>,
    ) -> Result<Arc<Family>, BroodError> {
        let (descriptor, source) = self.means.reach.reach(seed, source)?;
        check(&descriptor)?;
        Ok(Arc::new(Family::start(self.means.hosts.host()?, descriptor, source)?))
    }

    /// A node that is gone is told nothing; what was made for it ends.
    fn tell(&self, news: News) {
        let _ = self.means.events.blocking_send(Event::Brood(self.function, self.number, news));
    }
}

fn read_key(path: &Path) -> Result<Key, BroodError> {
    let failed = |reason: String| BroodError::Key { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    // The length that a file says it has is not what is read of a device.
    file.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(failed("the file is longer than a key".to_owned()));
    }
    let text = String::from_utf8_lossy(&bytes);
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
