//! The seeds of this host: prepared processes that wait to be read, each for as long as its lease.
//!
//! Everything about them is bounded: how many there are, the memory that they hold on to, their leases and their
//! readers. A seed ends when its lease does, when it is revoked, when its process is killed, and when it is idle and
//! its memory is needed for another; from that moment on no byte of it is read.

mod bonds;
mod errands;
mod granted;
mod keeper;
mod kept;
mod refusal;
mod registered;
mod secret;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::capture::{PrepareError, Unforked};
use crate::resume::{Habitat, Watch};
use crate::source::LocalSource;

use self::keeper::Parent;

pub use self::granted::Granted;
pub use self::kept::LEARNED_PAGES_MAX;
pub(crate) use self::kept::{Kept, Link, Reader};
pub use self::refusal::{Ending, Refusal};
pub(crate) use self::registered::{Offer, PIN_BYTES, RegisterError, Registered, large_parts};
pub(crate) use self::secret::random;
pub use self::secret::{Handle, KEY_BYTES, Key, NoHandle};

/// For how long a seed is kept where nobody says for how long.
const LEASE: Duration = Duration::from_secs(600);
/// Of how many seeds it is remembered why they ended.
const ENDINGS_MAX: usize = 256;

/// How much a host keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many seeds.
    pub seeds_max: usize,
    /// How many bytes all of them together may hold on to.
    pub bytes_max: u64,
    /// How many readers one may have.
    pub readers_max: u32,
    /// How long a lease may be.
    pub lease_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seeds_max: 64, bytes_max: 16 << 30, readers_max: 4096, lease_max: Duration::from_secs(24 * 3600) }
    }
}

/// On what terms a seed is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For how long, unless it is renewed.
    pub lease: Duration,
}

/// A seed that is kept now: how to read it, and what it took to prepare it.
#[derive(Debug)]
pub struct Held {
    /// Its name.
    pub handle: Handle,
    /// Who knows this may read it.
    pub key: Key,
    /// When its lease ends.
    pub expires: SystemTime,
    /// For how long the process was stopped.
    pub pause: Duration,
    /// How long it took in all.
    pub prepare: Duration,
    /// How long its descriptor is.
    pub descriptor_bytes: usize,
    /// How many bytes of memory it may come to hold on to.
    pub own_bytes: u64,
}

/// A seed as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedStatus {
    /// Its name.
    pub handle: Handle,
    /// The process that was prepared.
    pub parent: i32,
    /// Its name (`comm`).
    pub name: String,
    /// The process that is the seed.
    pub seed: i32,
    /// Since when there is a seed.
    pub age: Duration,
    /// For how long there will be one.
    pub lease_left: Duration,
    /// The memory that it may come to hold on to.
    pub own_bytes: u64,
    /// How many grants are open.
    pub readers: u32,
    /// For how long nobody has read it.
    pub unread_for: Duration,
}

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The process was not prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// There are too many that are in use.
    #[error("there are {0} seeds, all in use, and there may be no more; revoke one, or raise `fork.seeds`")]
    TooMany(usize),
    /// The process is a seed.
    #[error("process {pid} is the seed {handle} itself, which never runs; `ramet fork resume` makes children of it")]
    IsSeed {
        /// The process.
        pid: i32,
        /// The seed.
        handle: Handle,
    },
    /// It is larger than all seeds together may be.
    #[error(
        "the seed would hold on to {needed} bytes, and all seeds together may to {limit}; raise `fork.memory` \
         (`--memory` of `ramet fork serve`)"
    )]
    TooLarge {
        /// What it would hold on to.
        needed: u64,
        /// What all may.
        limit: u64,
    },
    /// It is too large beside those that are being read.
    #[error(
        "the seed would hold on to {needed} bytes; of the {limit} that all seeds together may, those that are being \
         read have {busy}; revoke one of them, or raise `fork.memory` (`--memory` of `ramet fork serve`)"
    )]
    NoRoom {
        /// What it would hold on to.
        needed: u64,
        /// What seeds hold on to that are being read.
        busy: u64,
        /// What all may.
        limit: u64,
    },
    /// The lease is none.
    #[error("a lease is longer than nothing, such as 10m")]
    NoLease,
    /// The lease is too long.
    #[error(
        "a lease may last {limit:?} at most, and one of {asked:?} was asked for; ask for a shorter one (`--lease`), or \
         raise `fork.lease_max`"
    )]
    LeaseTooLong {
        /// What was asked for.
        asked: Duration,
        /// The longest.
        limit: Duration,
    },
    /// There is no such seed.
    #[error("there is no seed {0}; it may have expired")]
    Unknown(Handle),
    /// It has ended.
    #[error("seed {0}: {1}")]
    Ended(Handle, Refusal),
    /// A seed that the process descends from is not to be had for as long.
    #[error("cannot hold on to seed {0}, which has pages that the process has not touched: {1}")]
    Ancestor(Handle, String),
    /// The host's own means failed.
    #[error("cannot keep a seed: {0}")]
    Host(io::Error),
}

/// Keeps seeds. All of them end when it is dropped.
#[derive(Debug)]
pub struct Seeds {
    registry: Arc<Registry>,
}

/// What keepers and readers share.
#[derive(Debug)]
pub(crate) struct Registry {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    seeds: HashMap<Handle, (Arc<Kept>, JoinHandle<()>)>,
    /// How many are being prepared.
    preparing: usize,
    /// Those that have ended last.
    ended: VecDeque<(Handle, Key, Ending)>,
}

/// What is known of a name.
pub(crate) enum Found {
    Kept(Arc<Kept>),
    Ended(Key, Ending),
    Nothing,
}

impl Seeds {
    /// Keeps seeds within limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { registry: Arc::new(Registry { limits, table: Mutex::default() }) }
    }

    /// Forks a process from outside and keeps the copy.
    ///
    /// # Errors
    /// Why not; the process runs on as before.
    pub fn prepare(&self, pid: i32, terms: Terms) -> Result<Held, SeedError> {
        let (unforked, habitat) = (Unforked::Carried, Habitat::default());
        self.prepare_as(Parent { pid, watch: None, unforked, habitat }, terms)
    }

    /// The same with a child that is watched: what it has not touched comes from the seeds that it descends from, whose
    /// leases are made to last as long.
    ///
    /// # Errors
    /// Why not; the process runs on as before.
    pub fn prepare_child(&self, watch: Watch, terms: Terms) -> Result<Held, SeedError> {
        let (pid, habitat) = (watch.pid(), watch.habitat().clone());
        self.prepare_as(Parent { pid, watch: Some(watch), unforked: Unforked::Carried, habitat }, terms)
    }

    /// The same with a process that waits to be forked, be it a child or not: what it has marked for that is left out
    /// (`MADV_DONTFORK`). What it lives in is kept as long as the seed.
    ///
    /// # Errors
    /// Why not; the process runs on as before.
    pub fn prepare_waiting(
        &self,
        pid: i32,
        habitat: Habitat,
        watch: Option<Watch>,
        terms: Terms,
    ) -> Result<Held, SeedError> {
        self.prepare_as(Parent { pid, watch, unforked: Unforked::LeftOut, habitat }, terms)
    }

    fn prepare_as(&self, parent: Parent, terms: Terms) -> Result<Held, SeedError> {
        self.check_lease(terms.lease)?;
        if let Some(seed) = self.list().into_iter().find(|seed| seed.seed == parent.pid) {
            return Err(SeedError::IsSeed { pid: parent.pid, handle: seed.handle });
        }
        let place = Place::take(&self.registry)?;
        let begun = keeper::start(Arc::downgrade(&self.registry), parent, terms.lease)?;
        let seed = Arc::clone(&begun.seed);
        let held = Held {
            handle: seed.handle,
            key: seed.key.clone(),
            expires: wall_clock(seed.expires()),
            pause: begun.pause,
            prepare: begun.prepare,
            descriptor_bytes: seed.descriptor.len(),
            own_bytes: seed.granted.bytes(),
        };
        if let Err((error, keeper)) = place.fill(begun.seed, begun.keeper) {
            seed.end(Ending::Evicted);
            let _ = keeper.join();
            return Err(error);
        }
        Ok(held)
    }

    /// All seeds, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<SeedStatus> {
        let table = self.registry.table();
        let mut seeds: Vec<SeedStatus> = table.seeds.values().map(|(seed, _)| status(seed)).collect();
        seeds.sort_by_key(|seed| std::cmp::Reverse(seed.age));
        seeds
    }

    /// Ends a seed: when this returns, it is not read any more and holds on to nothing.
    ///
    /// # Errors
    /// There is none.
    pub fn revoke(&self, handle: Handle) -> Result<(), SeedError> {
        let (seed, keeper) = self.registry.table().seeds.remove(&handle).ok_or(SeedError::Unknown(handle))?;
        seed.end(Ending::Revoked);
        self.registry.table().remember(&seed);
        let _ = keeper.join();
        Ok(())
    }

    /// Ends a seed, unless somebody reads it: then it is left to its lease.
    pub fn release(&self, handle: Handle) {
        if let Found::Kept(seed) = self.find(handle)
            && seed.end_if_idle(Ending::Revoked)
        {
            // It may have gone by itself by now.
            let _ = self.revoke(handle);
        }
    }

    /// Lets a seed's lease last so long from now, if that is longer than it would. When it ends then.
    ///
    /// # Errors
    /// There is none.
    pub fn renew(&self, handle: Handle, lease: Duration) -> Result<SystemTime, SeedError> {
        self.check_lease(lease)?;
        let Found::Kept(seed) = self.find(handle) else { return Err(SeedError::Unknown(handle)) };
        seed.renew_ancestors(lease)?;
        let expires = seed.renew(Instant::now() + lease).map_err(|refusal| SeedError::Ended(handle, refusal))?;
        Ok(wall_clock(expires))
    }

    /// Opens a seed for this host's own children: its encoded descriptor, and its pages.
    ///
    /// # Errors
    /// Why not.
    pub fn open_local(&self, handle: Handle, key: &Key) -> Result<(Arc<[u8]>, LocalSource), Refusal> {
        let seed = self.verify(handle, key)?;
        let reader = self.open_reader(&seed)?;
        let learned = reader.learned()?;
        Ok((Arc::clone(&seed.descriptor), LocalSource::granted(reader, learned.as_ref().clone())))
    }

    /// Whether somebody with this key may read the seed now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, handle: Handle, key: &Key) -> Result<(), Refusal> {
        self.verify(handle, key)?.check()
    }

    fn verify(&self, handle: Handle, key: &Key) -> Result<Arc<Kept>, Refusal> {
        self.registry.verify(handle, key)
    }

    pub(crate) fn open_reader(&self, seed: &Arc<Kept>) -> Result<Reader, Refusal> {
        Reader::open(seed, self.registry.limits.readers_max)
    }

    pub(crate) fn find(&self, handle: Handle) -> Found {
        self.registry.find(handle)
    }

    /// For how long a seed is kept where nobody says for how long.
    #[must_use]
    pub fn usual_lease(&self) -> Duration {
        LEASE.min(self.registry.limits.lease_max)
    }

    fn check_lease(&self, asked: Duration) -> Result<(), SeedError> {
        let limit = self.registry.limits.lease_max;
        match asked {
            Duration::ZERO => Err(SeedError::NoLease),
            asked if asked > limit => Err(SeedError::LeaseTooLong { asked, limit }),
            _ => Ok(()),
        }
    }
}

impl Drop for Seeds {
    fn drop(&mut self) {
        let seeds = std::mem::take(&mut self.registry.table().seeds);
        for (seed, _) in seeds.values() {
            seed.end(Ending::Stopped);
        }
        for (_, keeper) in seeds.into_values() {
            let _ = keeper.join();
        }
    }
}

impl Registry {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, handle: Handle) -> Found {
        let table = self.table();
        if let Some((seed, _)) = table.seeds.get(&handle) {
            return Found::Kept(Arc::clone(seed));
        }
        let ended = table.ended.iter().find(|(ended, ..)| *ended == handle);
        ended.map_or(Found::Nothing, |(_, key, ending)| Found::Ended(key.clone(), *ending))
    }

    fn verify(&self, handle: Handle, key: &Key) -> Result<Arc<Kept>, Refusal> {
        match self.find(handle) {
            Found::Kept(seed) if seed.key.is(key) => Ok(seed),
            Found::Ended(theirs, ending) if theirs.is(key) => Err(Refusal::Ended(ending)),
            _ => Err(Refusal::Stranger),
        }
    }

    /// A keeper's seed has ended by itself.
    fn forget(&self, seed: &Kept, ending: Ending) {
        let mut table = self.table();
        if table.seeds.remove(&seed.handle).is_some() {
            tracing::info!(handle = %seed.handle, %ending, "a seed has ended");
            table.remember(seed);
        }
    }
}

impl Table {
    fn remember(&mut self, seed: &Kept) {
        if self.ended.len() == ENDINGS_MAX {
            self.ended.pop_front();
        }
        let ending = seed.ending().unwrap_or(Ending::Stopped);
        self.ended.push_back((seed.handle, seed.key.clone(), ending));
    }

    fn bytes(&self) -> u64 {
        self.seeds.values().map(|(seed, _)| seed.granted.bytes()).sum()
    }

    fn busy(&self) -> impl Iterator<Item = &Kept> {
        self.seeds.values().map(|(seed, _)| &**seed).filter(|seed| seed.readers() > 0)
    }

    /// Ends the seed that nobody reads and nobody has read for the longest time. `None`: all are in use.
    fn evict_one(&mut self) -> Option<JoinHandle<()>> {
        let mut idle: Vec<_> = self.seeds.values().map(|(seed, _)| Arc::clone(seed)).collect();
        idle.retain(|seed| seed.readers() == 0);
        idle.sort_by_key(|seed| std::cmp::Reverse(seed.unread_for()));
        // One that has got a reader since is none.
        let seed = idle.into_iter().find(|seed| seed.end_if_idle(Ending::Evicted) || seed.ending().is_some())?;
        tracing::info!(handle = %seed.handle, "an idle seed makes room for another");
        self.remember(&seed);
        self.seeds.remove(&seed.handle).map(|(_, keeper)| keeper)
    }
}

/// Room for one more seed.
struct Place {
    registry: Arc<Registry>,
}

impl Place {
    fn take(registry: &Arc<Registry>) -> Result<Self, SeedError> {
        let mut evicted = Vec::new();
        let mut table = registry.table();
        while table.seeds.len() + table.preparing >= registry.limits.seeds_max {
            evicted.push(table.evict_one().ok_or(SeedError::TooMany(registry.limits.seeds_max))?);
        }
        table.preparing += 1;
        drop(table);
        join_all(evicted);
        Ok(Self { registry: Arc::clone(registry) })
    }

    /// Puts a seed into it, if its memory has room. Otherwise its keeper is given back.
    fn fill(self, seed: Arc<Kept>, keeper: JoinHandle<()>) -> Result<(), (SeedError, JoinHandle<()>)> {
        let limit = self.registry.limits.bytes_max;
        let needed = seed.granted.bytes();
        let mut evicted = Vec::new();
        let mut table = self.registry.table();
        let busy: u64 = table.busy().map(|seed| seed.granted.bytes()).sum();
        let no_room = |busy| SeedError::NoRoom { needed, busy, limit };
        // None is given up in vain.
        if needed > limit {
            return Err((SeedError::TooLarge { needed, limit }, keeper));
        }
        if busy.saturating_add(needed) > limit {
            return Err((no_room(busy), keeper));
        }
        while table.bytes().saturating_add(needed) > limit {
            match table.evict_one() {
                Some(gone) => evicted.push(gone),
                None => return Err((no_room(table.bytes()), keeper)),
            }
        }
        // It may have ended already, and then its keeper will not come by again.
        if let Err(refusal) = seed.check() {
            return Err((SeedError::Ended(seed.handle, refusal), keeper));
        }
        table.seeds.insert(seed.handle, (seed, keeper));
        drop(table);
        join_all(evicted);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.table().preparing -= 1;
    }
}

fn join_all(keepers: Vec<JoinHandle<()>>) {
    for keeper in keepers {
        let _ = keeper.join();
    }
}

fn status(seed: &Kept) -> SeedStatus {
    SeedStatus {
        handle: seed.handle,
        parent: seed.parent,
        name: seed.name.clone(),
        seed: seed.pid,
        age: seed.prepared.elapsed(),
        lease_left: seed.expires().saturating_duration_since(Instant::now()),
        own_bytes: seed.granted.bytes(),
        readers: seed.readers(),
        unread_for: seed.unread_for(),
    }
}

/// An instant as people tell time.
fn wall_clock(at: Instant) -> SystemTime {
    SystemTime::now() + at.saturating_duration_since(Instant::now())
}
