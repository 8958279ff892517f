//! The children of a host, of whatever seeds. Each is looked after until it ends; a seed's template is kept for the
//! next child until nobody has asked for one for a while.

mod hosts;
mod vigil;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ramet_sys::End;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::cache::PullError;
use crate::descriptor::ForkDescriptor;
use crate::resume::{Child, Family, Given, Kin, Phases, ResumeError, Watch};
use crate::source::PageSource;

pub use self::hosts::Hosts;
pub use self::vigil::{Ended, Vigil};

/// For how long a template is kept that nobody asks for.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked for templates that nobody asks for.
const SWEEP: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// What the reaper is told by.
const END: u64 = u64::MAX;

/// How many children a host has at most, and of how many seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Children at a time.
    pub children_max: usize,
    /// Seeds whose children there are, or were a short while ago.
    pub seeds_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { children_max: 10_000, seeds_max: 64 }
    }
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum NurseryError {
    /// There are as many as there may be.
    #[error("this host has {0} forked children and may not have more; end some")]
    TooManyChildren(usize),
    /// There are children of as many seeds as there may be.
    #[error("this host has children of {0} seeds and may not have those of more; end all of one")]
    TooManySeeds(usize),
    /// It was not made.
    #[error(transparent)]
    Resume(#[from] ResumeError),
}

/// A child that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Born {
    /// Its number.
    pub pid: i32,
    /// How long the steps took.
    pub phases: Phases,
    /// How long it took to reach the seed, if nobody had.
    pub reached: Option<Duration>,
}

/// Looks after children, whose seeds are told apart by `K`. They end with it.
#[derive(Debug)]
pub struct Nursery<K> {
    hosts: Arc<Hosts>,
    ward: Arc<Ward<K>>,
    reaper: Option<JoinHandle<()>>,
}

/// What the reaper knows, too.
#[derive(Debug)]
struct Ward<K> {
    epoll: OwnedFd,
    end: OwnedFd,
    rooms: Mutex<Rooms<K>>,
    bounds: Bounds,
}

#[derive(Debug)]
struct Rooms<K> {
    families: HashMap<K, Arc<Slot>>,
    children: HashMap<u64, Resident>,
    child_next: u64,
    /// Children that are being made.
    expected: usize,
}

/// A child that is looked after.
#[derive(Debug)]
struct Resident {
    child: Child,
    family: Arc<Family>,
    vigil: Option<Arc<Vigil>>,
    /// Its seed's family is wanted for as long as there are children.
    _slot: Arc<Slot>,
}

/// A seed's family, once it was reached.
#[derive(Debug, Default)]
struct Slot(Mutex<Option<(Arc<Family>, Instant)>>);

impl<K: Clone + Eq + Hash + Send + 'static> Nursery<K> {
    /// Begins to look after children of hosts.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(hosts: Arc<Hosts>, bounds: Bounds) -> io::Result<Self> {
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &end, epoll::EventData::new_u64(END), epoll::EventFlags::IN)?;
        let rooms = Rooms { families: HashMap::new(), children: HashMap::new(), child_next: 0, expected: 0 };
        let ward = Arc::new(Ward { epoll, end, rooms: Mutex::new(rooms), bounds });
        let theirs = Arc::clone(&ward);
        let reap = move || {
            if let Err(error) = theirs.reap() {
                tracing::error!(%error, "children that end are not reaped any more");
            }
        };
        let reaper = thread::Builder::new().name("ramet-reaper".to_owned()).spawn(reap)?;
        Ok(Self { hosts, ward, reaper: Some(reaper) })
    }

    /// Makes a child of a seed, which `reach` opens if nobody has. Its end is told to `vigil`.
    ///
    /// # Errors
    /// Why not. No process is left behind.
    pub fn child<E: From<NurseryError>>(
        &self,
        seed: &K,
        given: &Given,
        vigil: Option<&Arc<Vigil>>,
        reach: impl FnOnce() -> Result<(ForkDescriptor, Box<dyn PageSource>), E>,
    ) -> Result<Born, E> {
        let expected = Expected::register(&self.ward, seed)?;
        let (family, reached) = self.family(&expected.slot, reach)?;
        let child = family.child(given).map_err(NurseryError::from)?;
        let born = Born { pid: child.pid, phases: child.phases, reached };
        let arrived = expected.arrive(child, family, vigil.cloned());
        arrived.map_err(|error| NurseryError::from(ResumeError::from(error)))?;
        Ok(born)
    }

    /// The family of a seed, and how long it took to reach it, if nobody had.
    fn family<E: From<NurseryError>>(
        &self,
        slot: &Slot,
        reach: impl FnOnce() -> Result<(ForkDescriptor, Box<dyn PageSource>), E>,
    ) -> Result<(Arc<Family>, Option<Duration>), E> {
        // Only who wants a child of the same seed waits.
        let mut slot = slot.lock();
        if let Some((family, _)) = slot.take_if(|(family, _)| !family.is_fertile()) {
            tracing::info!("a seed was lost, or its children's host; it is reached anew");
            drop(family);
        }
        if let Some((family, used)) = &mut *slot {
            *used = Instant::now();
            return Ok((Arc::clone(family), None));
        }
        let start = Instant::now();
        let (descriptor, source) = reach()?;
        let host = self.hosts.host().map_err(|error| NurseryError::from(ResumeError::from(error)))?;
        let family = Arc::new(Family::start(host, descriptor, source).map_err(NurseryError::from)?);
        *slot = Some((Arc::clone(&family), Instant::now()));
        Ok((family, Some(start.elapsed())))
    }

    /// Makes those of these children that have not ended end.
    pub fn end(&self, pids: &HashSet<i32>, how: End) {
        let rooms = self.ward.rooms();
        for Resident { child, .. } in rooms.children.values().filter(|one| pids.contains(&one.child.pid)) {
            // Until it is taken away its descriptor names nobody else.
            if let Err(error) = child.pidfd.signal(how) {
                tracing::error!(pid = child.pid, %error, "a child cannot be signalled");
            }
        }
    }

    /// Has all pages of a seed come in the background, so that its children need it no more.
    ///
    /// # Errors
    /// It is too large for that, or has no children here.
    pub fn pull(&self, seed: &K) -> Result<(), PullError> {
        let slot = self.ward.rooms().families.get(seed).cloned().ok_or(PullError::Ended)?;
        let known = slot.lock();
        known.as_ref().ok_or(PullError::Ended)?.0.pull()
    }

    /// Watches a child so that it can be forked on. None: there is no such child.
    ///
    /// # Errors
    /// Nobody gives it pages any more.
    pub fn watch(&self, pid: i32) -> io::Result<Option<Watch>> {
        let rooms = self.ward.rooms();
        let child = rooms.children.values().find(|one| one.child.pid == pid);
        child.map(|Resident { child, family, .. }| Kin::of(family, child).watch()).transpose()
    }

    /// How many children there are.
    #[must_use]
    pub fn children(&self) -> usize {
        self.ward.rooms().children.len()
    }
}

impl<K> Drop for Nursery<K> {
    fn drop(&mut self) {
        // A counter that was never added to takes one.
        let _ = rustix::io::write(&self.ward.end, &1_u64.to_ne_bytes());
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
        let mut rooms = self.ward.rooms();
        // They need their pages until they have ended.
        for Resident { child, .. } in rooms.children.values() {
            let _ = child.pidfd.signal(End::Kill);
        }
        for Resident { child, .. } in rooms.children.values() {
            let _ = child.pidfd.wait();
        }
        rooms.children.clear();
        rooms.families.clear();
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<(Arc<Family>, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has asked for it for a while, or it is of no use any more.
    fn is_stale(&self) -> bool {
        match self.0.try_lock() {
            Ok(known) => known.as_ref().is_none_or(|(family, used)| family.is_lost() || used.elapsed() > IDLE_MAX),
            // Somebody asks just now.
            Err(_) => false,
        }
    }
}

/// Room for a child that is being made.
struct Expected<'w, K> {
    ward: &'w Ward<K>,
    slot: Arc<Slot>,
}

impl<'w, K: Clone + Eq + Hash> Expected<'w, K> {
    fn register(ward: &'w Ward<K>, seed: &K) -> Result<Self, NurseryError> {
        let mut rooms = ward.rooms();
        let Bounds { children_max, seeds_max } = ward.bounds;
        if rooms.children.len() + rooms.expected >= children_max {
            return Err(NurseryError::TooManyChildren(children_max));
        }
        let known = rooms.families.get(seed).cloned();
        let slot = match known {
            Some(slot) => slot,
            None => {
                if rooms.families.len() >= seeds_max {
                    drop(rooms.sweep());
                }
                if rooms.families.len() >= seeds_max {
                    return Err(NurseryError::TooManySeeds(seeds_max));
                }
                Arc::clone(rooms.families.entry(seed.clone()).or_default())
            }
        };
        rooms.expected += 1;
        Ok(Self { ward, slot })
    }
}

impl<K> Expected<'_, K> {
    fn arrive(self, child: Child, family: Arc<Family>, vigil: Option<Arc<Vigil>>) -> io::Result<()> {
        let mut rooms = self.ward.rooms();
        let id = rooms.child_next;
        rooms.child_next += 1;
        let added = epoll::add(&self.ward.epoll, &child.pidfd, epoll::EventData::new_u64(id), epoll::EventFlags::IN);
        if let Err(errno) = added {
            let _ = child.pidfd.signal(End::Kill);
            let _ = child.pidfd.wait();
            return Err(errno.into());
        }
        rooms.children.insert(id, Resident { child, family, vigil, _slot: Arc::clone(&self.slot) });
        Ok(())
    }
}

impl<K> Drop for Expected<'_, K> {
    fn drop(&mut self) {
        self.ward.rooms().expected -= 1;
    }
}

impl<K> Rooms<K> {
    /// Takes out the families that nobody asks for and that have no children.
    fn sweep(&mut self) -> Vec<Arc<Slot>> {
        // The map has one, each child has one, and so has who is making a child.
        let stale = |slot: &Arc<Slot>| Arc::strong_count(slot) == 1 && slot.is_stale();
        self.families.extract_if(|_, slot| stale(slot)).map(|(_, slot)| slot).collect()
    }
}

impl<K> Ward<K> {
    fn rooms(&self) -> MutexGuard<'_, Rooms<K>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away children that have ended, until it is told to stop.
    fn reap(&self) -> io::Result<()> {
        let mut ready = [const { std::mem::MaybeUninit::uninit() }; 64];
        loop {
            let (events, _) = match epoll::wait(&self.epoll, &mut ready, Some(&SWEEP)) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            for event in events.iter() {
                match event.data.u64() {
                    END => return Ok(()),
                    id => self.bury(id),
                }
            }
            // A family's end takes its time, and nobody else should wait for it.
            let stale = self.rooms().sweep();
            drop(stale);
        }
    }

    fn bury(&self, id: u64) {
        let Some(Resident { child, family, vigil, .. }) = self.rooms().children.remove(&id) else { return };
        let pid = child.pid;
        let status = match child.pidfd.wait() {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(pid, %error, "a child that has ended cannot be reaped");
                ExitStatus::default()
            }
        };
        let is_seed_lost = family.is_lost() && status.signal() == Some(rustix::process::Signal::BUS.as_raw());
        if is_seed_lost {
            tracing::warn!(pid, "a child has ended by SIGBUS: its seed was lost before it had all of its memory");
        } else {
            tracing::debug!(pid, %status, "a child has ended");
        }
        if let Some(vigil) = vigil {
            vigil.hear(Ended { pid, status, is_seed_lost });
        }
    }
}
