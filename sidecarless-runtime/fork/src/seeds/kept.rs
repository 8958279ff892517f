//! One seed that is kept: who may read it, for how long, and what was learned about it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::{ProcessMemory, Range};
use rustix::event::{EventfdFlags, eventfd};

use super::bonds::Bond;
use super::errands::Errands;
use super::registered::Registered;
use super::{Ending, Granted, Handle, Key, Refusal, SeedError};
use crate::capture::{self, Prepared};
use crate::descriptor::ForkDescriptor;
use crate::lineage::sealed;
use crate::resume::first_pages;
use crate::source::Learned;

/// How many pages are learned of a seed.
pub const LEARNED_PAGES_MAX: usize = 1024;

/// A seed, as those see it who read it. The process itself is its keeper's.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) handle: Handle,
    pub(crate) key: Key,
    /// The process that was prepared.
    pub(super) parent: i32,
    pub(super) name: String,
    /// The process that is the seed.
    pub(super) pid: i32,
    /// The encoded descriptor.
    pub(crate) descriptor: Arc<[u8]>,
    pub(crate) granted: Granted,
    pub(super) prepared: Instant,
    memory: ProcessMemory,
    /// Held by who reads, so that nobody reads what ends meanwhile, nor what may have taken its place.
    life: RwLock<Life>,
    /// Readable once it has ended.
    ended: OwnedFd,
    readers: AtomicU32,
    links: AtomicU32,
    /// When it was read last, in milliseconds after it was prepared.
    last_read_ms: AtomicU64,
    learned: Mutex<Touched>,
    /// How long a lease may be.
    lease_max: Duration,
    /// What holds the seeds that its process descends from.
    bonds: Mutex<Vec<Bond>>,
    /// What its keeper is to do with the process.
    errands: Errands,
    /// What of it is registered with a device, by its keeper and nobody else.
    pub(crate) registered: Mutex<Option<Registered>>,
}

#[derive(Debug)]
struct Life {
    expires: Instant,
    ended: Option<Ending>,
}

/// Pages that were touched first.
#[derive(Debug)]
struct Touched {
    pages: BTreeSet<u64>,
    /// Their bytes, once they were read: a seed's do not change.
    read: Option<Arc<Learned>>,
}

/// The right to read a seed, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Kept>);

/// A link from another host to a seed.
#[derive(Debug)]
pub(crate) struct Link(pub(crate) Arc<Kept>);

impl Life {
    fn check(&self, now: Instant) -> Result<(), Refusal> {
        match self.ended {
            Some(ending) => Err(Refusal::Ended(ending)),
            None if self.expires <= now => Err(Refusal::Ended(Ending::Expired)),
            None => Ok(()),
        }
    }
}

impl Kept {
    pub(super) fn new(parent: i32, prepared: &Prepared, expires: Instant, lease_max: Duration) -> io::Result<Self> {
        let Prepared { seed, descriptor, lineage, .. } = prepared;
        let (handle, key) = (Handle::random()?, Key::random()?);
        let encoded = if lineage.is_empty() {
            descriptor.encode()
        } else {
            ForkDescriptor { ancestors: sealed(lineage, handle, &key), ..descriptor.clone() }.encode()
        };
        Ok(Self {
            handle,
            key,
            parent,
            name: String::from_utf8_lossy(&descriptor.name).into_owned(),
            pid: seed.pid(),
            descriptor: encoded.into(),
            granted: Granted::of(descriptor),
            prepared: Instant::now(),
            memory: ProcessMemory::open(seed.pid()).map_err(io::Error::other)?,
            life: RwLock::new(Life { expires, ended: None }),
            ended: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            readers: AtomicU32::new(0),
            links: AtomicU32::new(0),
            last_read_ms: AtomicU64::new(0),
            learned: Mutex::new(Touched::beginning(descriptor)),
            errands: Errands::new()?,
            lease_max,
            bonds: Mutex::default(),
            registered: Mutex::default(),
        })
    }

    fn life(&self) -> RwLockReadGuard<'_, Life> {
        self.life.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it can be read.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.life().check(Instant::now())
    }

    /// When its lease ends.
    pub(crate) fn expires(&self) -> Instant {
        self.life().expires
    }

    /// Why it has ended, if it has.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.life().ended
    }

    pub(super) fn readers(&self) -> u32 {
        self.readers.load(Ordering::Relaxed)
    }

    /// For how long nobody has read it, or since it was prepared.
    pub(super) fn unread_for(&self) -> Duration {
        self.prepared.elapsed().saturating_sub(Duration::from_millis(self.last_read_ms.load(Ordering::Relaxed)))
    }

    /// Lets the lease end later.
    pub(super) fn renew(&self, expires: Instant) -> Result<Instant, Refusal> {
        let mut life = self.life.write().unwrap_or_else(PoisonError::into_inner);
        life.check(Instant::now())?;
        life.expires = life.expires.max(expires);
        Ok(life.expires)
    }

    /// The same for who reads it, and has children that are read in turn.
    pub(crate) fn extend(&self, lease: Duration) -> Result<(), Refusal> {
        if lease > self.lease_max {
            return Err(Refusal::Lease);
        }
        self.renew(Instant::now() + lease).map(drop)
    }

    fn bonds(&self) -> MutexGuard<'_, Vec<Bond>> {
        self.bonds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds on to the seeds that its process descends from.
    pub(super) fn hold_on(&self, bonds: Vec<Bond>) {
        *self.bonds() = bonds;
    }

    /// Lets their leases last as long as its own is to.
    pub(super) fn renew_ancestors(&self, lease: Duration) -> Result<(), SeedError> {
        self.bonds().iter().try_for_each(|bond| bond.renew(lease))
    }

    /// It has ended, and needs them no more.
    pub(super) fn let_ancestors_go(&self) {
        self.bonds().clear();
    }

    /// Ends it: when this returns, nobody reads it any more but by a device, and nobody at all once its keeper has
    /// ended. False: it had ended before.
    pub(super) fn end(&self, ending: Ending) -> bool {
        self.end_if(ending, || true)
    }

    /// The same, unless somebody may read it.
    pub(super) fn end_if_idle(&self, ending: Ending) -> bool {
        self.end_if(ending, || self.readers() == 0)
    }

    fn end_if(&self, ending: Ending, may: impl Fn() -> bool) -> bool {
        let mut life = self.life.write().unwrap_or_else(PoisonError::into_inner);
        if life.ended.is_some() || !may() {
            return false;
        }
        life.ended = Some(ending);
        // A counter that was never added to takes one.
        let _ = rustix::io::write(&self.ended, &1_u64.to_ne_bytes());
        true
    }

    /// Lets its keeper do something with the process, and waits for it.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn with_process<T: Send + 'static>(
        &self,
        errand: impl FnOnce(&capture::Seed) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.check()?;
        self.errands.send(errand).ok_or_else(|| Refusal::Ended(self.ending().unwrap_or(Ending::Stopped)))
    }

    pub(super) const fn errands(&self) -> &Errands {
        &self.errands
    }

    /// Readable once it has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    fn note_read(&self) {
        let after = self.prepared.elapsed().as_millis();
        self.last_read_ms.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Remembers what was touched first, as far as it is the seed's and there is room.
    pub(crate) fn learn(&self, ranges: &[Range]) -> Result<(), Refusal> {
        self.check()?;
        if !ranges.iter().all(|range| self.granted.allows(*range)) {
            return Err(Refusal::OutOfBounds);
        }
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        for range in ranges {
            for page in (range.start..range.end()).step_by(PAGE_BYTES as usize) {
                if learned.pages.len() == LEARNED_PAGES_MAX {
                    return Ok(());
                }
                if learned.pages.insert(page) {
                    learned.read = None;
                }
            }
        }
        Ok(())
    }
}

impl Touched {
    /// Where every child begins.
    fn beginning(descriptor: &ForkDescriptor) -> Self {
        let first = first_pages(descriptor);
        Self { pages: first.iter().map(|page| page.start).take(LEARNED_PAGES_MAX).collect(), read: None }
    }

    /// Neighbours as one range.
    fn ranges(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for &start in &self.pages {
            match ranges.last_mut() {
                Some(last) if last.end() == start => last.bytes += PAGE_BYTES,
                _ => ranges.push(Range { start, bytes: PAGE_BYTES }),
            }
        }
        ranges
    }
}

impl Reader {
    /// Opens a grant, of which a seed has at most so many.
    pub(crate) fn open(seed: &Arc<Kept>, readers_max: u32) -> Result<Self, Refusal> {
        // Who ends an idle seed holds the lock: it sees this reader, or this reader sees the end.
        let life = seed.life();
        life.check(Instant::now())?;
        add_below(&seed.readers, readers_max)?;
        Ok(Self(Arc::clone(seed)))
    }

    /// Reads ranges one after the other into one buffer of their length.
    pub(crate) fn read(&self, ranges: &[Range], into: &mut [u8]) -> Result<(), Refusal> {
        let seed = &*self.0;
        let life = seed.life();
        life.check(Instant::now())?;
        if !ranges.iter().all(|range| seed.granted.allows(*range)) {
            return Err(Refusal::OutOfBounds);
        }
        seed.memory.read_ranges(ranges, into).map_err(|_| Refusal::Unreadable)?;
        seed.note_read();
        Ok(())
    }

    /// What was learned, with its bytes.
    pub(crate) fn learned(&self) -> Result<Arc<Learned>, Refusal> {
        let mut learned = self.0.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = &learned.read {
            self.0.check()?;
            self.0.note_read();
            return Ok(Arc::clone(read));
        }
        let ranges = learned.ranges();
        let bytes: u64 = ranges.iter().map(|range| range.bytes).sum();
        let mut pages = vec![0; bytes as usize];
        self.read(&ranges, &mut pages)?;
        Ok(Arc::clone(learned.read.insert(Arc::new(Learned { ranges, pages }))))
    }

    pub(crate) fn seed(&self) -> &Kept {
        &self.0
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    /// Counts a link, of which a seed has at most so many.
    pub(crate) fn open(seed: Arc<Kept>, links_max: u32) -> Result<Self, Refusal> {
        seed.check()?;
        add_below(&seed.links, links_max)?;
        Ok(Self(seed))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.links.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add_below(count: &AtomicU32, max: u32) -> Result<(), Refusal> {
    let more = |count| (count < max).then_some(count + 1);
    count.try_update(Ordering::Relaxed, Ordering::Relaxed, more).map(drop).map_err(|_| Refusal::Busy)
}
