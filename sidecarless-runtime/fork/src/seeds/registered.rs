//! A seed's memory, registered with a device so that readers read it by themselves.
//!
//! The seed registers it, in a domain that is the seed's alone and belongs to us. Where the device pages on demand all
//! of it is registered at once: nothing is pinned, and pages go on being shared with the process that was prepared.
//! Elsewhere registering copies what it pins, so that it is done in small pieces and only where somebody reads.
//!
//! When this is dropped nobody reads any more: whoever does gets an error, and no byte.

use std::collections::HashMap;
use std::os::fd::AsFd;

use libc::{SYS_close, SYS_ioctl};
use ramet_rdma::registration::{REQUEST, REQUEST_BYTES};
use ramet_rdma::{Device, Domain, Paging, Region, Registration, VerbsError, canary};
use ramet_sys::Range;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::Granted;
use crate::capture::{PrepareError, Seed, Visit};
use crate::descriptor::{AreaKind, ForkDescriptor};

/// What is smaller is read over the connection: registering it would take longer.
const REGION_BYTES_MIN: u64 = 64 << 10;
/// How many regions a seed has at most; the largest are chosen.
const REGIONS_MAX: usize = 512;
/// How much is pinned at a time.
pub(crate) const PIN_BYTES: u64 = 256 << 10;
/// How much of a seed is pinned at most: so much more memory does it come to use.
const PINNED_BYTES_MAX: u64 = 256 << 20;

/// Why memory is not registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("the seed cannot register its memory: {0}")]
    Seed(#[from] PrepareError),
    #[error("the device cannot take a seed's memory: {0}")]
    Verbs(#[from] VerbsError),
    #[error("the seed is registered with the RDMA device {0} already")]
    OtherDevice(String),
}

/// What a reader may read by itself.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) domain: Domain,
    /// What is tried first.
    pub(crate) canary: Region,
    /// What is registered.
    pub(crate) regions: Vec<Region>,
    /// What can be [pinned](Registered::pin), piece by piece.
    pub(crate) pinnable: Vec<Range>,
}

/// What of a seed is registered.
#[derive(Debug)]
pub(crate) struct Registered {
    domain: Domain,
    /// What is large enough, ascending.
    large: Vec<Range>,
    canaries: Vec<(Paging, Registration)>,
    on_demand: Option<Vec<Registration>>,
    /// By where a piece begins. None: it cannot be.
    pinned: HashMap<u64, Option<Registration>>,
    pinned_bytes: u64,
}

impl Registered {
    /// Nothing yet of a seed with these large parts.
    pub(crate) fn new(device: &Device, large: Vec<Range>) -> Result<Self, RegisterError> {
        let domain = Domain::new(device)?;
        let (canaries, pinned) = (Vec::new(), HashMap::new());
        Ok(Self { domain, large, canaries, on_demand: None, pinned, pinned_bytes: 0 })
    }

    /// Registers what is registered at once.
    pub(crate) fn offer(&mut self, device: &Device, seed: &Seed, paging: Paging) -> Result<Offer, RegisterError> {
        if self.domain.device().name() != device.name() {
            return Err(RegisterError::OtherDevice(self.domain.device().name().to_owned()));
        }
        let canary = match self.canaries.iter().find(|(of, _)| *of == paging) {
            Some((_, canary)) => canary.region(),
            None => {
                let canary = canary::register(&self.domain, paging)?;
                let region = canary.region();
                self.canaries.push((paging, canary));
                region
            }
        };
        let (regions, pinnable) = match paging {
            Paging::OnDemand => (self.page_on_demand(seed)?, Vec::new()),
            Paging::Pinned => {
                let pinned = self.pinned.values().flatten().map(Registration::region);
                (pinned.collect(), self.large.clone())
            }
        };
        Ok(Offer { domain: self.domain.clone(), canary, regions, pinnable })
    }

    fn page_on_demand(&mut self, seed: &Seed) -> Result<Vec<Region>, RegisterError> {
        let registered = match &self.on_demand {
            Some(registered) => registered,
            None => {
                let registered = register(&self.domain, seed, Paging::OnDemand, &self.large)?;
                self.on_demand.insert(registered)
            }
        };
        Ok(registered.iter().map(Registration::region).collect())
    }

    /// Pins the piece that begins at an address, as far as it is the seed's own. None: it cannot be pinned.
    pub(crate) fn pin(&mut self, seed: &Seed, granted: &Granted, start: u64) -> Option<Region> {
        if let Some(known) = self.pinned.get(&start) {
            return known.as_ref().map(Registration::region);
        }
        let piece = hull(granted.runs(), piece_at(&self.large, start)?)?;
        let pinned = if self.pinned_bytes + piece.bytes > PINNED_BYTES_MAX {
            None
        } else {
            raise_limit(seed);
            match register(&self.domain, seed, Paging::Pinned, &[piece]) {
                Ok(mut registered) => registered.pop(),
                Err(error) => {
                    tracing::warn!(%error, "memory of a seed is read over its connection");
                    None
                }
            }
        };
        self.pinned_bytes += pinned.as_ref().map_or(0, |pinned| pinned.region().bytes);
        let region = pinned.as_ref().map(Registration::region);
        self.pinned.insert(start, pinned);
        region
    }
}

/// The piece that begins there, if one does.
fn piece_at(parts: &[Range], start: u64) -> Option<Range> {
    let at = parts.partition_point(|part| part.end() <= start);
    let part = parts.get(at).filter(|part| part.contains(start))?;
    let is_piece = (start - part.start).is_multiple_of(PIN_BYTES);
    is_piece.then_some(Range { start, bytes: PIN_BYTES.min(part.end() - start) })
}

/// From the first to the last byte of a range that is in one of some ascending runs.
fn hull(runs: &[Range], range: Range) -> Option<Range> {
    let first = runs.partition_point(|run| run.end() <= range.start);
    let after = runs.partition_point(|run| run.start < range.end());
    let [first, .., last] = runs.get(first..after)? else {
        return runs.get(first..after)?.first().map(|run| clip(*run, range));
    };
    Some(clip(Range::new(first.start, last.end()), range))
}

fn clip(run: Range, range: Range) -> Range {
    Range::new(run.start.max(range.start), run.end().min(range.end()))
}

/// The parts of a seed that are worth it: from the first to the last own page of an area of memory, and runs of own
/// pages where a file is mapped, whose others are the file's.
pub(crate) fn large_parts(descriptor: &ForkDescriptor) -> Vec<Range> {
    let mut parts = Vec::new();
    for area in &descriptor.areas {
        match area.kind {
            AreaKind::File { .. } => parts.extend(area.own_ranges()),
            _ => {
                let mut own = area.own_ranges();
                if let Some(first) = own.next() {
                    let last = own.last().unwrap_or(first);
                    parts.push(Range::new(first.start, last.end()));
                }
            }
        }
    }
    parts.retain(|part| part.bytes >= REGION_BYTES_MIN);
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    parts.truncate(REGIONS_MAX);
    parts.sort_by_key(|part| part.start);
    parts
}

/// Lets the seed register its memory: one call for each part.
fn register(domain: &Domain, seed: &Seed, paging: Paging, parts: &[Range]) -> Result<Vec<Registration>, RegisterError> {
    let visit = seed.visit()?;
    let control = visit.give(domain.device().control().as_fd())?;
    let mut registered = Vec::with_capacity(parts.len());
    let outcome = parts.iter().try_for_each(|part| {
        registered.push(register_one(&visit, domain, control, paging, *part)?);
        Ok(())
    });
    // The seed keeps nothing of the device's.
    visit.call("close", SYS_close, [control, 0, 0, 0, 0, 0])?;
    outcome.map(|()| registered)
}

fn register_one(
    visit: &Visit<'_>,
    domain: &Domain,
    control: u64,
    paging: Paging,
    part: Range,
) -> Result<Registration, RegisterError> {
    let mut request = Registration::request(domain, paging, part.start, part.bytes, visit.page());
    visit.put(0, &request)?;
    visit.call("ioctl(RDMA_VERBS_IOCTL)", SYS_ioctl, [control, REQUEST, visit.page(), 0, 0, 0])?;
    let answer: &mut [u8; REQUEST_BYTES] = &mut request;
    visit.get(0, answer)?;
    Ok(Registration::answered(domain, part.start, part.bytes, answer))
}

/// What is pinned counts against a limit of the process that does it, which was not made for this.
fn raise_limit(seed: &Seed) {
    let unlimited = Rlimit { current: None, maximum: None };
    // Without the right to, the limit is as it was, and what is above it is read over the connection.
    let _ = prlimit(Pid::from_raw(seed.pid()), Resource::Memlock, unlimited);
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1 << 20;

    #[test]
    fn pieces_begin_where_parts_are_cut_and_nowhere_else() {
        let parts = [Range { start: START, bytes: 3 * PIN_BYTES + 4096 }, Range { start: 8 * START, bytes: PIN_BYTES }];
        for piece in 0..4 {
            let start = START + piece * PIN_BYTES;
            let bytes = if piece == 3 { 4096 } else { PIN_BYTES };
            assert_eq!(piece_at(&parts, start), Some(Range { start, bytes }), "piece {piece}");
            assert_eq!(piece_at(&parts, start + 4096), None);
        }
        assert_eq!(piece_at(&parts, 8 * START), Some(parts[1]));
        for nowhere in [0, START - PIN_BYTES, START + 4 * PIN_BYTES, 8 * START + PIN_BYTES, u64::MAX] {
            assert_eq!(piece_at(&parts, nowhere), None, "{nowhere:#x}");
        }
    }

    #[test]
    fn of_a_piece_what_is_its_own_is_pinned() {
        let runs = [(2, 1), (5, 3), (100, 1)].map(|(page, pages)| Range { start: page << 12, bytes: pages << 12 });
        let within = |page: u64, pages: u64| hull(&runs, Range { start: page << 12, bytes: pages << 12 });
        assert_eq!(within(0, 64), Some(Range { start: 2 << 12, bytes: 6 << 12 }));
        assert_eq!(within(6, 64), Some(Range { start: 6 << 12, bytes: 2 << 12 }));
        assert_eq!(within(0, 6), Some(Range { start: 2 << 12, bytes: 4 << 12 }));
        assert_eq!(within(8, 92), None);
        assert_eq!(within(0, 2), None);
    }
}
