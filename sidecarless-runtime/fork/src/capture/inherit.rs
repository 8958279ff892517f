//! What a copy of a child lacks because the child had not touched it: it is named, with the ancestor that has it.

use std::collections::BTreeSet;

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;

use super::maps::{self, Flag};
use super::{PAGES_ELSEWHERE, PrepareError, Seed, status};
use crate::descriptor::{Area, AreaKind, Inherited, MappedFile};
use crate::lineage::{ANCESTORS_MAX, SeedAt, split};
use crate::missing::{Missing, Origin};

/// What is known of a copy of a child.
#[derive(Debug)]
pub(crate) struct Lacking {
    /// What was missing when it was made. None: nobody has seen that.
    pub(crate) missing: Option<Missing>,
    /// The seeds that it comes from, the nearest first.
    pub(crate) lineage: Vec<SeedAt>,
}

/// What ancestors have, and which.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    pub(super) inherited: Vec<Inherited>,
    pub(super) lineage: Vec<SeedAt>,
}

impl Seed {
    /// Finds the pages that ancestors have. Memory over a file that was mapped becomes the file's changed pages again.
    pub(super) fn inherit(
        &self,
        areas: &mut Vec<Area>,
        files: &mut Vec<MappedFile>,
        lacking: &Lacking,
    ) -> Result<Inheritance, PrepareError> {
        let unfit = |reason: &'static str| PrepareError::unfit(self.pid(), reason);
        let failed = |source| PrepareError::Proc { pid: self.pid(), source };
        let registered = maps::flagged(&status::read(self.pid(), "smaps").map_err(failed)?, Flag::Registered);
        if registered.is_empty() {
            return Ok(Inheritance::default());
        }
        let missing = lacking.missing.as_ref().ok_or_else(|| unfit(PAGES_ELSEWHERE))?;
        let mut found = Vec::new();
        for mapping in registered {
            let at = areas.partition_point(|area| area.range().end() <= mapping.start);
            let is_memory = |area: &&Area| matches!(area.kind, AreaKind::Private | AreaKind::Stack);
            let area = areas.get(at).filter(is_memory).filter(|area| area.range() == mapping);
            let area = area.ok_or_else(|| unfit("it shares memory that it has not touched"))?;
            for hole in holes(area) {
                found.extend(missing.pieces(hole).into_iter().filter_map(|(range, origin)| match origin {
                    Origin::Seed(from) => Some((range, from)),
                    // What was given up is the file's again, and what was never there is zeros.
                    Origin::File(..) | Origin::Zeros => None,
                }));
            }
            let parts = parted(area, missing, files);
            areas.splice(at..=at, parts);
        }
        let used: BTreeSet<usize> = found.iter().map(|(_, from)| split(*from).0).collect();
        if used.len() > ANCESTORS_MAX {
            return Err(unfit("its memory is in more than 15 seeds; pull all of it to its host first"));
        }
        let used: Vec<usize> = used.into_iter().collect();
        let lineage: Option<_> = used.iter().map(|generation| lacking.lineage.get(*generation).cloned()).collect();
        let lineage =
            lineage.ok_or_else(|| unfit("nobody else can reach the seed that has what it has not touched"))?;
        let inherited = found.into_iter().map(|(range, from)| {
            let (generation, from) = split(from);
            let ancestor = used.partition_point(|used| *used < generation) as u8;
            Inherited { start: range.start, pages: (range.bytes / PAGE_BYTES) as u32, ancestor, from }
        });
        Ok(Inheritance { inherited: inherited.collect(), lineage })
    }
}

/// Where an area has no pages of its own.
fn holes(area: &Area) -> Vec<Range> {
    let mut holes = Vec::new();
    let mut at = area.start;
    for own in area.own_ranges() {
        holes.push(Range::new(at, own.start));
        at = own.end();
    }
    holes.push(Range::new(at, area.range().end()));
    holes.retain(|hole| hole.bytes > 0);
    holes
}

/// An area of memory as what it is: in part memory, in part changed pages of files.
fn parted(area: &Area, missing: &Missing, files: &mut Vec<MappedFile>) -> Vec<Area> {
    let mut parts: Vec<(Range, AreaKind)> = Vec::new();
    let mut at = area.start;
    for (range, origin) in missing.pieces(area.range()) {
        let beneath = missing.beneath();
        let place = match origin {
            Origin::Seed(from) => beneath.file(from),
            Origin::File(file, offset) => Some((file, offset)),
            Origin::Zeros => None,
        };
        let place = place.and_then(|(file, offset)| Some((beneath.mapped(file)?, offset)));
        let Some((mapped, offset)) = place else { continue };
        let file = files.iter().position(|file| file == mapped).unwrap_or_else(|| {
            files.push(mapped.clone());
            files.len() - 1
        });
        if at < range.start {
            parts.push((Range::new(at, range.start), area.kind.clone()));
        }
        at = range.end();
        let kind = AreaKind::File { file: file as u32, offset, shared: false };
        match parts.last_mut() {
            Some((last, before)) if last.end() == range.start && goes_on(before, last.bytes, &kind) => {
                last.bytes += range.bytes;
            }
            _ => parts.push((range, kind)),
        }
    }
    if at < area.range().end() {
        parts.push((Range::new(at, area.range().end()), area.kind.clone()));
    }
    let mut areas: Vec<Area> = parts.into_iter().map(|(range, kind)| part(area, range, kind)).collect();
    areas.retain(|area| area.bytes > 0);
    areas
}

/// Whether a file's mapping goes on after so many bytes.
fn goes_on(before: &AreaKind, bytes: u64, after: &AreaKind) -> bool {
    match (before, after) {
        (AreaKind::File { file, offset, .. }, AreaKind::File { file: next, offset: at, .. }) => {
            file == next && offset + bytes == *at
        }
        _ => false,
    }
}

/// A part of an area, with its pages.
fn part(area: &Area, range: Range, kind: AreaKind) -> Area {
    let own = area.own_ranges().filter_map(|own| {
        let within = Range::new(own.start.max(range.start), own.end().min(range.end()));
        let first = (within.start.saturating_sub(range.start) / PAGE_BYTES) as u32;
        let pages = (within.bytes / PAGE_BYTES) as u32;
        (pages > 0).then_some(crate::descriptor::PageRun { first, pages })
    });
    Area { start: range.start, bytes: range.bytes, protection: area.protection, kind, own: own.collect() }
}
