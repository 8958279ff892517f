//! Shared memory: what is in it when a process is forked, and where a seed keeps that.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::{ProcessMemory, Range};
use rustix::fs::{SeekFrom, seek};

use super::frozen::Frozen;
use super::{PrepareError, Seed, maps, status};
use crate::descriptor::{Area, AreaKind, PageRun, SharedMemory};

pub(super) use crate::validate::SHARED_BYTES_MAX;

/// A piece of shared memory.
#[derive(Debug)]
pub(super) struct Piece {
    device: u64,
    inode: u64,
    name: Vec<u8>,
    pub(super) bytes: u64,
    seals: u32,
    runs: Vec<PageRun>,
    /// The pages of all runs.
    content: Vec<u8>,
}

impl Piece {
    /// Whether it has these numbers. System V's memory is numbered for itself, on the device of memory files.
    pub(super) fn is(&self, device: u64, inode: u64, name: &[u8]) -> bool {
        let is_system_v = |name: &[u8]| name.starts_with(b"/SYSV");
        (self.device, self.inode, is_system_v(&self.name)) == (device, inode, is_system_v(name))
    }

    /// A page of it. Beyond its end, and where nothing was ever written, there are zeros.
    pub(super) fn page(&self, offset: u64) -> Vec<u8> {
        let page = offset / PAGE_BYTES;
        let mut before = 0;
        for run in &self.runs {
            let (first, pages) = (u64::from(run.first), u64::from(run.pages));
            if (first..first + pages).contains(&page) {
                let at = ((before + page - first) * PAGE_BYTES) as usize;
                return self.content[at..at + PAGE_BYTES as usize].to_vec();
            }
            before += pages;
        }
        vec![0; PAGE_BYTES as usize]
    }

    pub(super) fn too_much(&self, pid: i32) -> PrepareError {
        let name = String::from_utf8_lossy(&self.name);
        let most = SHARED_BYTES_MAX >> 20;
        PrepareError::unfit(pid, format!("it shares more memory than the {most} MiB that a fork copies ({name})"))
    }

    /// Reads all of it that there is.
    fn fill(&mut self, file: &File, left: &mut u64) -> io::Result<bool> {
        self.bytes = file.metadata()?.size();
        // Whether it can be sealed at all depends on how it was made.
        self.seals = rustix::fs::fcntl_get_seals(file).map_or(libc::F_SEAL_SEAL as u32, |seals| seals.bits());
        let mut at = 0;
        loop {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data & !(PAGE_BYTES - 1),
                Err(rustix::io::Errno::NXIO) => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            let end = seek(file, SeekFrom::Hole(data))?;
            let bytes = (end - data).next_multiple_of(PAGE_BYTES);
            let Some(rest) = left.checked_sub(bytes) else { return Ok(false) };
            *left = rest;
            let start = self.content.len();
            self.content.resize(start + bytes as usize, 0);
            file.read_exact_at(&mut self.content[start..start + (end - data) as usize], data)?;
            self.runs.push(PageRun { first: (data / PAGE_BYTES) as u32, pages: (bytes / PAGE_BYTES) as u32 });
            at = data + bytes;
        }
    }

    /// Reads what is mapped of it where it cannot be opened: that takes privilege.
    fn fill_mapped(&mut self, memory: &ProcessMemory, lines: &[&maps::Line], left: &mut u64) -> bool {
        self.seals = libc::F_SEAL_SEAL as u32;
        let mut pages: Vec<(u64, u64)> = Vec::new();
        for line in lines {
            let Range { start, bytes } = line.range;
            let Some(rest) = left.checked_sub(bytes) else { return false };
            *left = rest;
            pages.extend(
                (0..bytes / PAGE_BYTES).map(|page| (line.offset / PAGE_BYTES + page, start + page * PAGE_BYTES)),
            );
        }
        pages.sort_unstable();
        pages.dedup_by_key(|(page, _)| *page);
        for (page, address) in pages {
            let mut bytes = [0; PAGE_BYTES as usize];
            // Beyond its end there is nothing.
            if memory.read(address, &mut bytes).is_err() {
                continue;
            }
            self.bytes = (page + 1) * PAGE_BYTES;
            self.content.extend(bytes);
            match self.runs.last_mut() {
                Some(run) if u64::from(run.first + run.pages) == page => run.pages += 1,
                _ => self.runs.push(PageRun { first: page as u32, pages: 1 }),
            }
        }
        true
    }
}

impl Seed {
    /// Keeps the content of shared memory where the process does not change it: in memory of the seed's own.
    pub(super) fn keep(&self, frozen: Frozen, areas: &mut Vec<Area>) -> Result<Vec<SharedMemory>, PrepareError> {
        let bytes: u64 = frozen.pieces.iter().map(|piece| piece.content.len() as u64).sum();
        let mut at = 0;
        if bytes > 0 {
            let visit = self.visit()?;
            let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
            let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u64;
            at = visit.call("mmap", libc::SYS_mmap, [0, bytes, protection, flags, u64::MAX, 0])?;
            let own = vec![PageRun { first: 0, pages: (bytes / PAGE_BYTES) as u32 }];
            let (protection, kind) = (libc::PROT_READ as u32, AreaKind::Frozen);
            let area = Area { start: at, bytes, protection, kind, own };
            areas.insert(areas.partition_point(|area| area.start < at), area);
        }
        let mut kept = Vec::with_capacity(frozen.pieces.len());
        for piece in frozen.pieces {
            self.memory().write(at, &piece.content)?;
            let Piece { name, bytes, seals, runs, content, .. } = piece;
            kept.push(SharedMemory { name, bytes, seals, content: runs, frozen_at: at });
            at += content.len() as u64;
        }
        Ok(kept)
    }
}

/// All shared memory of a stopped process, but for what is only mapped where the copy has
/// nothing.
pub(super) fn all(pid: i32, is_hidden: impl Fn(&maps::Line) -> bool) -> Result<Vec<Piece>, PrepareError> {
    let failed = |source| PrepareError::Proc { pid, source };
    let mut left = SHARED_BYTES_MAX;
    let mut pieces: Vec<Piece> = Vec::new();
    let new = |device, inode, name: &[u8]| Piece {
        device,
        inode,
        name: name.to_vec(),
        bytes: 0,
        seals: 0,
        runs: Vec::new(),
        content: Vec::new(),
    };
    let is_known =
        |pieces: &[Piece], device, inode, name: &[u8]| pieces.iter().any(|piece| piece.is(device, inode, name));
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Ok(link) = fs::read_link(&path) else { continue };
        let link = link.into_os_string().into_vec();
        let metadata = if maps::is_memory(&link) { fs::metadata(&path).map_err(failed)? } else { continue };
        if is_known(&pieces, metadata.dev(), metadata.ino(), &link) {
            continue;
        }
        let mut piece = new(metadata.dev(), metadata.ino(), &link);
        let file = File::open(&path).map_err(failed)?;
        if !piece.fill(&file, &mut left).map_err(failed)? {
            return Err(piece.too_much(pid));
        }
        pieces.push(piece);
    }
    let lines = maps::parse(&status::read(pid, "maps").map_err(failed)?).unwrap_or_default();
    for line in lines.iter().filter(|line| line.is_memory() && !is_hidden(line)) {
        if is_known(&pieces, line.device, line.inode, &line.name) {
            continue;
        }
        let mut piece = new(line.device, line.inode, &line.name);
        let Range { start, .. } = line.range;
        let fits = match File::open(format!("/proc/{pid}/map_files/{start:x}-{:x}", line.range.end())) {
            Ok(file) => piece.fill(&file, &mut left).map_err(failed)?,
            Err(_) => {
                let same = lines.iter().filter(|other| piece.is(other.device, other.inode, &other.name));
                piece.fill_mapped(&ProcessMemory::open(pid)?, &same.collect::<Vec<_>>(), &mut left)
            }
        };
        if !fits {
            return Err(piece.too_much(pid));
        }
        pieces.push(piece);
    }
    Ok(pieces)
}
