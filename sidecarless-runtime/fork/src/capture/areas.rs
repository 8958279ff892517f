//! What a seed has mapped, and which pages of it are its own.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ramet_sys::Range;
use ramet_sys::pagemap::{Own, PAGE_BYTES, Pagemap};

use super::frozen::Frozen;
use super::maps::Flag;
use super::pieces::{Piece, SHARED_BYTES_MAX};
use super::{PrepareError, Seed, identity, maps, status};
use crate::descriptor::{Area, AreaKind, MappedFile, PageRun};

/// What a seed has mapped.
pub(super) struct Mapped {
    pub(super) areas: Vec<Area>,
    pub(super) files: Vec<MappedFile>,
    /// Pages that nobody may touch.
    pub(super) guards: Vec<Range>,
}

impl Seed {
    pub(super) fn areas(&self, lines: &[maps::Line], frozen: &Frozen) -> Result<Mapped, PrepareError> {
        let unfit = |reason: &'static str| PrepareError::unfit(self.pid(), reason);
        let mut areas = Vec::with_capacity(lines.len());
        // Those of a file that cannot be mapped again.
        let mut nameless = Vec::new();
        // Those that are a process's own view of memory that others may write to.
        let mut private = Vec::new();
        let mut mapped = MappedFiles { pid: self.pid(), files: Vec::new(), indices: HashMap::new() };
        for line in lines {
            let kind = match line.name.as_slice() {
                b"[vsyscall]" => continue,
                b"[vdso]" => AreaKind::Vdso,
                name if name.starts_with(b"[vvar") => AreaKind::Vvar,
                b"[stack]" => AreaKind::Stack,
                // A piece of System V's memory may have the number 0, too.
                _ if line.inode == 0 && !line.is_memory() => AreaKind::Private,
                name if name.starts_with(b"anon_inode:") => {
                    let what = String::from_utf8_lossy(name);
                    return Err(PrepareError::unfit(self.pid(), format!("it has memory of {what} mapped")));
                }
                _ if line.is_memory() => {
                    let piece = frozen.piece(line).ok_or(PrepareError::Changed(self.pid()))?;
                    if !line.shared {
                        private.push((areas.len(), piece, line.offset));
                    }
                    let offset = line.offset;
                    if line.shared { AreaKind::SharedMemory { piece, offset } } else { AreaKind::Private }
                }
                _ if line.name.ends_with(b" (deleted)") && line.shared => {
                    return Err(unfit("it shares a file that was deleted since"));
                }
                _ => match mapped.kind(line) {
                    Some(kind) => kind,
                    None if line.shared => return Err(unfit("it shares a file that is not where it was")),
                    None => AreaKind::Private,
                },
            };
            let Range { start, bytes } = line.range;
            if line.inode != 0 && kind == AreaKind::Private && !line.is_memory() {
                nameless.push(areas.len());
            }
            areas.push(Area { start, bytes, protection: line.protection, kind, own: Vec::new() });
        }
        let guards = self.find_own_pages(&mut areas)?;
        for (index, piece, offset) in private {
            self.freeze_private(&mut areas[index], &frozen.pieces[piece as usize], offset)?;
        }
        for index in nameless {
            let pages = self.readable_pages(areas[index].range()) as u32;
            areas[index].own = if pages == 0 { Vec::new() } else { vec![PageRun { first: 0, pages }] };
        }
        self.find_wiped(&mut areas)?;
        Ok(Mapped { areas, files: mapped.files, guards })
    }

    /// Gives a private mapping of memory pages of its own where it has none: what is beneath may change.
    fn freeze_private(&self, area: &mut Area, piece: &Piece, offset: u64) -> Result<(), PrepareError> {
        let end = piece.bytes.next_multiple_of(PAGE_BYTES).saturating_sub(offset).min(area.bytes);
        let pages = (end / PAGE_BYTES) as u32;
        if end > SHARED_BYTES_MAX {
            return Err(piece.too_much(self.pid()));
        }
        let mut own = vec![false; pages as usize];
        for run in &area.own {
            own[run.first as usize..].iter_mut().take(run.pages as usize).for_each(|page| *page = true);
        }
        for (page, _) in (0..).zip(own).filter(|(_, is_own)| !is_own) {
            let at = page * PAGE_BYTES;
            self.memory().write(area.start + at, &piece.page(offset + at))?;
        }
        area.own = if pages == 0 { Vec::new() } else { vec![PageRun { first: 0, pages }] };
        Ok(())
    }

    /// How many pages of a mapped file there are: it may be shorter than what is mapped of it.
    fn readable_pages(&self, range: Range) -> u64 {
        let is_readable = |page: u64| self.memory().read(range.start + page * PAGE_BYTES, &mut [0]).is_ok();
        let (mut readable, mut beyond) = (0, range.bytes / PAGE_BYTES);
        while readable < beyond {
            let middle = readable.midpoint(beyond);
            if is_readable(middle) { readable = middle + 1 } else { beyond = middle }
        }
        readable
    }

    /// Finds the areas that forks wipe. This one was wiped, too, so they have no pages; where there are no such areas
    /// the kernel need not be asked, which takes long.
    fn find_wiped(&self, areas: &mut [Area]) -> Result<(), PrepareError> {
        let failed = |source| PrepareError::Proc { pid: self.pid(), source };
        let may_be_wiped = |area: &Area| area.kind == AreaKind::Private && area.own.is_empty() && area.protection != 0;
        if !areas.iter().any(may_be_wiped) {
            return Ok(());
        }
        let wiped = maps::flagged(&status::read(self.pid(), "smaps").map_err(failed)?, Flag::Wiped);
        let is_wiped = |area: &Area| wiped.iter().any(|mapping| mapping.start == area.start);
        for area in areas.iter_mut().filter(|area| may_be_wiped(area) && is_wiped(area)) {
            area.kind = AreaKind::Wiped;
        }
        Ok(())
    }

    /// Finds the pages that are its own, and gives those that are guards.
    fn find_own_pages(&self, areas: &mut [Area]) -> Result<Vec<Range>, PrepareError> {
        let has_own = |area: &&Area| match area.kind {
            AreaKind::Private | AreaKind::Stack => true,
            AreaKind::File { shared, .. } => !shared,
            AreaKind::Wiped | AreaKind::SharedMemory { .. } => false,
            AreaKind::Frozen | AreaKind::Vdso | AreaKind::Vvar => false,
        };
        let ranges: Vec<Range> = areas.iter().filter(has_own).map(Area::range).collect();
        let Own { pages, guards } = Pagemap::open(self.pid())?.own(&merged(&ranges))?;
        let mut areas = areas.iter_mut().peekable();
        for run in pages {
            // A run may go on into the next area.
            let mut start = run.start;
            while start < run.end() {
                let Some(area) = areas.peek_mut() else { return Ok(guards) };
                let range = area.range();
                if range.end() <= start {
                    areas.next();
                    continue;
                }
                let from = start.max(range.start);
                let to = run.end().min(range.end());
                if from < to {
                    let first = ((from - range.start) / PAGE_BYTES) as u32;
                    area.own.push(PageRun { first, pages: ((to - from) / PAGE_BYTES) as u32 });
                }
                start = to.max(start + PAGE_BYTES);
            }
        }
        Ok(guards)
    }
}

/// The files that areas map, each once.
struct MappedFiles {
    pid: i32,
    files: Vec<MappedFile>,
    /// By device, number and name: where file systems are stacked, two files may share the first two.
    indices: HashMap<(u64, u64, Vec<u8>), Option<u32>>,
}

impl MappedFiles {
    /// The file, if it can be mapped again.
    fn kind(&mut self, line: &maps::Line) -> Option<AreaKind> {
        let key = (line.device, line.inode, line.name.clone());
        let index = match self.indices.get(&key) {
            Some(index) => *index,
            None => {
                let index = self.find(line);
                self.indices.insert(key, index);
                index
            }
        };
        Some(AreaKind::File { file: index?, offset: line.offset, shared: line.shared })
    }

    fn find(&mut self, line: &maps::Line) -> Option<u32> {
        let inside = OsStr::from_bytes(line.name.strip_prefix(b"/")?);
        let process = Path::new("/proc").join(self.pid.to_string());
        let identity = identity(&fs::metadata(process.join("root").join(inside)).ok()?);
        let found = (identity.device, identity.inode);
        if found != (line.device, line.inode) {
            // On overlayfs the list of areas has the numbers of a file system below; the area's own link has those
            // that everybody sees. It takes privilege to follow.
            let Range { start, .. } = line.range;
            let link = process.join("map_files").join(format!("{start:x}-{:x}", line.range.end()));
            let mapped = fs::metadata(link).ok()?;
            if found != (mapped.dev(), mapped.ino()) {
                return None;
            }
        }
        self.files.push(MappedFile { path: line.name.clone(), identity });
        u32::try_from(self.files.len() - 1).ok()
    }
}

/// Neighbouring ranges as one.
fn merged(ranges: &[Range]) -> Vec<Range> {
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end() == range.start => last.bytes += range.bytes,
            _ => merged.push(*range),
        }
    }
    merged
}
