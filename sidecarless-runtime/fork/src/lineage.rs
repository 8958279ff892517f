//! A child that was forked on has pages in several seeds: in its own what it had touched, and in those of the processes
//! before it what it had not. Here they are read as if they were one.
//!
//! A page has one address for that: the bits that no address of a process has say how many forks ago its seed was made.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use hmac::{Hmac, KeyInit, Mac};
use ramet_sys::Range;
use rustix::event::{EventfdFlags, epoll, eventfd};
use sha2::Sha256;

use crate::descriptor::{Ancestor, ForkDescriptor, Inherited};
use crate::seeds::{Handle, KEY_BYTES, Key};
use crate::source::tcp::{self, ConnectError};
use crate::source::{Learned, PageSource, SourceError, check_size};

/// In how many seeds before its own a process may have pages.
pub const ANCESTORS_MAX: usize = 15;
/// Addresses of processes have fewer bits (x86-64, four levels of page tables).
const ADDRESS_BITS: u32 = 48;

/// A seed, and what it takes to read it.
#[derive(Clone, Debug)]
pub struct SeedAt {
    /// Where its host's page server is.
    pub address: SocketAddr,
    /// Its name.
    pub handle: Handle,
    /// The right to read it.
    pub key: Key,
}

/// The address for all seeds of what is at an address of one. Generation 0 is the nearest.
pub(crate) const fn joint(generation: usize, address: u64) -> u64 {
    address | (generation as u64) << ADDRESS_BITS
}

/// The address for all seeds of pages that an ancestor of the process has.
pub(crate) const fn from_ancestor(run: &Inherited) -> u64 {
    joint(run.ancestor as usize + 1, run.from)
}

/// The other way round.
pub(crate) const fn split(joint: u64) -> (usize, u64) {
    ((joint >> ADDRESS_BITS) as usize, joint & ((1 << ADDRESS_BITS) - 1))
}

/// What a descriptor says of seeds, for those who have the key of its own seed. A key never travels as it is.
pub(crate) fn sealed(lineage: &[SeedAt], handle: Handle, key: &Key) -> Vec<Ancestor> {
    let seal = |(place, seed): (usize, &SeedAt)| Ancestor {
        address: seed.address,
        handle: seed.handle.to_bytes(),
        sealed_key: masked(*seed.key.reveal(), handle, key, place),
    };
    lineage.iter().enumerate().map(seal).collect()
}

/// The seeds in which pages are that the one with this name and key has not, the nearest first.
#[must_use]
pub fn ancestors(descriptor: &ForkDescriptor, handle: Handle, key: &Key) -> Vec<SeedAt> {
    let open = |(place, ancestor): (usize, &Ancestor)| SeedAt {
        address: ancestor.address,
        handle: Handle::from_bytes(ancestor.handle),
        key: Key::from_bytes(masked(ancestor.sealed_key, handle, key, place)),
    };
    descriptor.ancestors.iter().enumerate().map(open).collect()
}

/// Opens a seed of another host, and all that it descends from.
///
/// # Errors
/// Why not.
pub fn connect(seed: &SeedAt) -> Result<(ForkDescriptor, Lineage), ConnectError> {
    let (descriptor, source) = tcp::connect(seed.address, seed.handle, &seed.key)?;
    let mut others: Vec<(SeedAt, Box<dyn PageSource>)> = Vec::new();
    for ancestor in ancestors(&descriptor, seed.handle, &seed.key) {
        let (_, source) = tcp::connect(ancestor.address, ancestor.handle, &ancestor.key)?;
        others.push((ancestor, Box::new(source)));
    }
    let lineage = Lineage::new(seed.clone(), Box::new(source), others);
    Ok((
        descriptor,
        lineage.map_err(|source| ConnectError::Link { address: seed.address, source: io::Error::other(source) })?,
    ))
}

/// What only who has the key can undo. No two seeds have the same name, so no mask is used twice.
fn masked(mut bytes: [u8; KEY_BYTES], handle: Handle, key: &Key, place: usize) -> [u8; KEY_BYTES] {
    // A key that is shorter than a block is the block that begins with it (RFC 2104).
    let mut block = [0; 64];
    block[..KEY_BYTES].copy_from_slice(key.reveal());
    let mut mac = Hmac::<Sha256>::new(&block.into());
    zeroize::Zeroize::zeroize(&mut block);
    for part in [&b"ramet ancestor"[..], &handle.to_bytes(), &[place as u8]] {
        mac.update(part);
    }
    for (byte, mask) in bytes.iter_mut().zip(mac.finalize().into_bytes()) {
        *byte ^= mask;
    }
    bytes
}

/// Reads several seeds as one.
pub struct Lineage {
    seeds: Vec<SeedAt>,
    sources: Vec<Box<dyn PageSource>>,
    ways: Option<Ways>,
    reads: HashMap<u64, Read>,
    parts: HashMap<u64, Part>,
    part_next: u64,
    /// What near sources have answered already.
    due: VecDeque<(u64, Vec<u8>)>,
}

/// How it is known that answers are there, where there are several sources.
struct Ways {
    epoll: OwnedFd,
    /// Readable when something is due.
    due: OwnedFd,
}

/// A read of several seeds.
struct Read {
    bytes: Vec<u8>,
    waits: usize,
}

/// What one source brings of a read.
struct Part {
    read: u64,
    /// How many bytes go where. None: it is all of the read.
    places: Option<Vec<(usize, usize)>>,
}

impl Lineage {
    /// Reads a seed and its ancestors, as the descriptor of the first names them.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new(
        own: SeedAt,
        source: Box<dyn PageSource>,
        ancestors: Vec<(SeedAt, Box<dyn PageSource>)>,
    ) -> Result<Self, SourceError> {
        let (mut seeds, mut sources) = (vec![own], vec![source]);
        for (seed, mut source) in ancestors {
            // Theirs is what children of other processes touch.
            drop(source.take_learned()?);
            seeds.push(seed);
            sources.push(source);
        }
        let is_far = sources.iter().any(|source| source.readiness().is_some());
        let ways =
            if sources.len() > 1 && is_far { Some(Ways::to(&sources).map_err(SourceError::Wait)?) } else { None };
        let (reads, parts) = (HashMap::new(), HashMap::new());
        Ok(Self { seeds, sources, ways, reads, parts, part_next: 0, due: VecDeque::new() })
    }

    /// Takes what near sources have, so that it is handed over with the others'.
    fn begin_part(&mut self, source: usize, part: Part, ranges: &[Range]) -> Result<(), SourceError> {
        let token = self.part_next;
        self.part_next += 1;
        let Some(of) = self.sources.get_mut(source) else {
            return Err(SourceError::Refused(crate::seeds::Refusal::OutOfBounds));
        };
        of.begin(token, ranges)?;
        self.parts.insert(token, part);
        if of.readiness().is_none()
            && let Some(ways) = &self.ways
        {
            let due = &mut self.due;
            of.answers(&mut |token, bytes| due.push_back((token, bytes.to_vec())))?;
            // A counter that is read before it could be full takes one.
            let _ = rustix::io::write(&ways.due, &1_u64.to_ne_bytes());
        }
        Ok(())
    }
}

impl Ways {
    fn to(sources: &[Box<dyn PageSource>]) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let due = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let ends = sources.iter().filter_map(|source| source.readiness()).chain([due.as_fd()]);
        for end in ends {
            epoll::add(&epoll, end, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Self { epoll, due })
    }
}

impl PageSource for Lineage {
    fn at_once(&mut self, range: Range) -> Result<Option<&[u8]>, SourceError> {
        let (generation, start) = split(range.start);
        match self.sources.get_mut(generation) {
            Some(source) => source.at_once(Range { start, bytes: range.bytes }),
            None => Err(SourceError::Refused(crate::seeds::Refusal::OutOfBounds)),
        }
    }

    fn begin(&mut self, token: u64, ranges: &[Range]) -> Result<(), SourceError> {
        if let [only] = &mut *self.sources {
            return only.begin(token, ranges);
        }
        let bytes = check_size(ranges, self.reads.len())?;
        let first = ranges.first().map_or(0, |range| split(range.start).0);
        let is_one = ranges.iter().all(|range| split(range.start).0 == first);
        self.reads.insert(token, Read { bytes: Vec::new(), waits: 0 });
        let mut waits = 0;
        for source in 0..self.sources.len() {
            let (mut theirs, mut places, mut at) = (Vec::new(), Vec::new(), 0);
            for range in ranges {
                let (generation, start) = split(range.start);
                if generation == source {
                    theirs.push(Range { start, bytes: range.bytes });
                    places.push((at, range.bytes as usize));
                }
                at += range.bytes as usize;
            }
            if !theirs.is_empty() {
                waits += 1;
                let places = if is_one { None } else { Some(places) };
                self.begin_part(source, Part { read: token, places }, &theirs)?;
            }
        }
        if ranges.iter().any(|range| split(range.start).0 >= self.sources.len()) {
            return Err(SourceError::Refused(crate::seeds::Refusal::OutOfBounds));
        }
        if let Some(read) = self.reads.get_mut(&token) {
            read.waits = waits;
            if !is_one {
                read.bytes = vec![0; bytes as usize];
            }
        }
        Ok(())
    }

    fn answers(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
        if let [only] = &mut *self.sources {
            return only.answers(each);
        }
        if let Some(ways) = &self.ways {
            let _ = rustix::io::read(&ways.due, &mut [0; 8]);
        }
        let Self { sources, reads, parts, due, .. } = self;
        let mut take = |token: u64, bytes: &[u8]| {
            let Some(part) = parts.remove(&token) else { return };
            let Some(places) = part.places else {
                reads.remove(&part.read);
                return each(part.read, bytes);
            };
            let Some(read) = reads.get_mut(&part.read) else { return };
            let mut rest = bytes;
            for (at, count) in places {
                let (these, others) = rest.split_at(count);
                read.bytes[at..at + count].copy_from_slice(these);
                rest = others;
            }
            read.waits -= 1;
            if read.waits == 0
                && let Some(read) = reads.remove(&part.read)
            {
                each(part.read, &read.bytes);
            }
        };
        for (token, bytes) in due.drain(..) {
            take(token, &bytes);
        }
        sources.iter_mut().try_for_each(|source| source.answers(&mut take))
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        match &*self.sources {
            [only] => only.readiness(),
            _ => self.ways.as_ref().map(|ways| ways.epoll.as_fd()),
        }
    }

    fn take_learned(&mut self) -> Result<Learned, SourceError> {
        self.sources.first_mut().map_or_else(|| Ok(Learned::default()), |source| source.take_learned())
    }

    fn teach(&mut self, ranges: &[Range]) -> Result<(), SourceError> {
        // What is touched first is told to the host of the seed whose children touch it.
        let own: Vec<Range> = ranges.iter().copied().filter(|range| split(range.start).0 == 0).collect();
        match self.sources.first_mut() {
            Some(source) if !own.is_empty() => source.teach(&own),
            _ => Ok(()),
        }
    }

    fn let_go(&mut self) -> Result<bool, SourceError> {
        let mut is_told = false;
        for source in &mut *self.sources {
            is_told |= source.let_go()?;
        }
        Ok(is_told)
    }

    fn lease_ends(&self) -> Option<Instant> {
        self.sources.iter().filter_map(|source| source.lease_ends()).min()
    }

    fn lineage(&self) -> Vec<SeedAt> {
        self.seeds.clone()
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Lineage").field("seeds", &self.seeds).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::LocalSource;

    #[test]
    fn a_key_is_had_by_who_has_the_others_key_and_nobody_else() {
        let (own, key) = (Handle::from_bytes([1; 16]), Key::from_bytes([2; KEY_BYTES]));
        let seed = |byte| SeedAt {
            address: ([127, 0, 0, 1], 7).into(),
            handle: Handle::from_bytes([byte; 16]),
            key: Key::from_bytes([9; KEY_BYTES]),
        };
        let names = sealed(&[seed(5), seed(6)], own, &key);
        assert!(names[0].sealed_key != names[1].sealed_key && names[0].sealed_key != [9; KEY_BYTES]);
        let opened = |key: &Key, handle| masked(names[1].sealed_key, handle, key, 1);
        assert_eq!(opened(&key, own), [9; KEY_BYTES]);
        assert_ne!(opened(&Key::from_bytes([3; KEY_BYTES]), own), [9; KEY_BYTES]);
        assert_ne!(opened(&key, Handle::from_bytes([3; 16])), [9; KEY_BYTES]);
    }

    /// A read may ask for pages of several seeds; each gets its own bytes.
    #[test]
    fn each_page_is_read_from_its_own_seed() {
        let page = ramet_sys::pagemap::PAGE_BYTES;
        let memory: Vec<u8> = (0..8 * page).map(|at| (at / page + at % 251) as u8).collect();
        let base = memory.as_ptr().addr() as u64;
        let start = base.next_multiple_of(page);
        let this = std::process::id().cast_signed();
        let source = || Box::new(LocalSource::open(this).expect("this process")) as Box<dyn PageSource>;
        let seed = || SeedAt {
            address: ([127, 0, 0, 1], 7).into(),
            handle: Handle::from_bytes([1; 16]),
            key: Key::from_bytes([2; KEY_BYTES]),
        };
        let mut lineage = Lineage::new(seed(), source(), vec![(seed(), source())]).expect("a lineage");
        let parts = [(1, 3, 2), (0, 1, 1), (1, 0, 1), (0, 5, 2)];
        let range = |(generation, first, pages): (usize, u64, u64)| Range {
            start: joint(generation, start + first * page),
            bytes: pages * page,
        };
        let ranges = parts.map(range);
        lineage.begin(7, &ranges).expect("begun");
        let mut all = Vec::new();
        lineage.answers(&mut |token, bytes| all.push((token, bytes.to_vec()))).expect("answers");
        let at = |range: &Range| (split(range.start).1 - base) as usize;
        let right: Vec<u8> =
            ranges.iter().flat_map(|range| &memory[at(range)..][..range.bytes as usize]).copied().collect();
        assert!(all == [(7, right)]);
        assert!(lineage.begin(8, &[range((2, 0, 1))]).is_err(), "there are two seeds");
    }
}
