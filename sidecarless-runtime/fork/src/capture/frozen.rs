//! What the process and others go on changing when it runs on, although its copy has it too: shared memory, and the
//! state of open files. It is looked at while the process is stopped.
//!
//! What there is to look at is found out before the stop. Where the process has come to have more since, it is done
//! once more, and then all within the stop.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::{ProcessMemory, Range};
use rustix::fs::{SeekFrom, seek};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::files::Information;
use super::maps::Flag;
use super::{PrepareError, Seed, Unforked, maps, status};
use crate::descriptor::{Area, AreaKind, PageRun, SharedMemory};
use crate::validate::PIPES_BYTES_MAX;

pub(super) use crate::validate::SHARED_BYTES_MAX;

/// What has to be looked at during the stop.
#[derive(Debug)]
pub(super) struct Watch {
    /// By descriptor, what the kernel tells of it.
    told: Vec<(i32, File)>,
    /// The reading ends of pipes that are the process's alone.
    pipes: Vec<(i32, u64)>,
    /// Whether there is memory that others may change.
    has_memory: bool,
    /// What the process's own forks do not have, and the copy has.
    pub(super) left_out: Vec<Range>,
    /// What neither has.
    hidden: Vec<Range>,
}

/// What was seen during the stop.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    told: HashMap<i32, String>,
    /// By the numbers of pipes.
    unread: HashMap<u64, Vec<u8>>,
    pub(super) pieces: Vec<Piece>,
    /// What the copy has and other forks have not.
    pub(super) left_out: Vec<Range>,
    /// What no fork can have.
    pub(super) refused: Vec<Range>,
    /// Where there is something that may be missing in the copy.
    mapped: Vec<Range>,
}

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

impl Watch {
    /// Finds it out by the text of `/proc/PID/smaps` and the list of open files.
    pub(super) fn begin(pid: i32, mappings: &[u8], unforked: Unforked) -> io::Result<Self> {
        let marked = maps::flagged(mappings, Flag::LeftOut);
        let (left_out, hidden) = match unforked {
            Unforked::Carried => (marked, Vec::new()),
            Unforked::LeftOut => (Vec::new(), marked),
        };
        let mut watch = Self { told: Vec::new(), pipes: Vec::new(), has_memory: false, left_out, hidden };
        // For each pipe, an end to read from and whether there is one to write to.
        let mut ends: HashMap<u64, (Option<i32>, bool)> = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may have been closed since.
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let link = link.into_os_string().into_vec();
            if !changes(&link) {
                continue;
            }
            let Ok(file) = File::open(format!("/proc/{pid}/fdinfo/{fd}")) else { continue };
            watch.has_memory |= maps::is_memory(&link);
            if let Some(id) = pipe(&link) {
                let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
                let (reads, is_written) = ends.entry(id).or_default();
                match Information::parse(&text).number("flags", 8) as i32 & libc::O_ACCMODE {
                    libc::O_RDONLY => *reads = Some(fd),
                    _ => *is_written = true,
                }
            }
            watch.told.push((fd, file));
        }
        let both = ends.into_iter().filter(|(_, (_, is_written))| *is_written);
        watch.pipes = both.filter_map(|(id, (reads, _))| Some((reads?, id))).collect();
        let lines = maps::parse(&status::read(pid, "maps")?).unwrap_or_default();
        watch.has_memory |= lines.iter().any(|line| line.is_memory() && !is_hidden(&watch.hidden, line));
        Ok(watch)
    }

    /// Looks at it all. The process is stopped.
    pub(super) fn freeze(&self, pid: i32) -> Result<Frozen, PrepareError> {
        let mut frozen = Frozen::default();
        for (fd, file) in &self.told {
            let mut text = String::new();
            // What has been closed since the copy does not have either.
            if (&*file).read_to_string(&mut text).is_ok() {
                frozen.told.insert(*fd, text);
            }
        }
        let mut left = PIPES_BYTES_MAX;
        for (fd, id) in &self.pipes {
            let failed = |source| PrepareError::Proc { pid, source };
            let unread = unread(pid, *fd, *id, &mut left).map_err(failed)?;
            let too_much = || PrepareError::unfit(pid, "more waits in its pipes than 1 MiB");
            frozen.unread.insert(*id, unread.ok_or_else(too_much)?);
        }
        if self.has_memory {
            frozen.pieces = pieces(pid, &self.hidden)?;
        }
        if !self.left_out.is_empty() {
            // More may have come since, and that the copy would not have.
            let lines = status::read(pid, "maps").map_err(|source| PrepareError::Proc { pid, source })?;
            let lines = maps::parse(&lines).unwrap_or_default();
            frozen.mapped = lines.iter().filter(|line| !line.is_kernels()).map(|line| line.range).collect();
        }
        Ok(frozen)
    }
}

/// Whether the kernel tells something of an open file that may change while others have it open, too.
pub(super) fn changes(link: &[u8]) -> bool {
    !link.starts_with(b"socket:") && (!link.starts_with(b"/dev/") || link.starts_with(b"/dev/shm/"))
}

impl Frozen {
    /// What the kernel told of an open file, if it is still the one with that number.
    pub(super) fn told(&self, fd: i32, inode: u64) -> Option<&str> {
        let text = self.told.get(&fd)?;
        let told = Information::parse(text).number("ino", 10);
        // Kernels before 5.14 do not tell the number.
        (told == 0 || told == inode).then_some(text)
    }

    /// Whether a copy with these mappings has all that it should.
    pub(super) fn has_all(&self, lines: &[maps::Line]) -> bool {
        let is_there = |range: &Range| {
            let mut at = range.start;
            for line in lines.iter().filter(|line| line.range.end() > range.start) {
                if line.range.start > at {
                    break;
                }
                at = line.range.end();
            }
            at >= range.end()
        };
        let is_ours = |range: &&Range| !self.refused.iter().any(|refused| refused.contains(range.start));
        self.mapped.iter().filter(is_ours).all(is_there)
    }

    /// What waits in a pipe.
    pub(super) fn unread(&self, id: u64) -> Vec<u8> {
        self.unread.get(&id).cloned().unwrap_or_default()
    }

    /// Which piece an area maps.
    pub(super) fn piece(&self, line: &maps::Line) -> Option<u32> {
        self.piece_of(line.device, line.inode)
    }

    /// Which piece has these numbers.
    pub(super) fn piece_of(&self, device: u64, inode: u64) -> Option<u32> {
        let at = self.pieces.iter().position(|piece| (piece.device, piece.inode) == (device, inode))?;
        u32::try_from(at).ok()
    }
}

impl Piece {
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

fn is_hidden(hidden: &[Range], line: &maps::Line) -> bool {
    hidden.iter().any(|range| range.contains(line.range.start))
}

/// All shared memory of a stopped process, but for what is only mapped where the copy has nothing.
fn pieces(pid: i32, hidden: &[Range]) -> Result<Vec<Piece>, PrepareError> {
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
    let is_known = |pieces: &[Piece], device, inode| {
        pieces.iter().any(|piece: &Piece| (piece.device, piece.inode) == (device, inode))
    };
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Ok(link) = fs::read_link(&path) else { continue };
        let link = link.into_os_string().into_vec();
        let metadata = if maps::is_memory(&link) { fs::metadata(&path).map_err(failed)? } else { continue };
        if is_known(&pieces, metadata.dev(), metadata.ino()) {
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
    for line in lines.iter().filter(|line| line.is_memory() && !is_hidden(hidden, line)) {
        if is_known(&pieces, line.device, line.inode) {
            continue;
        }
        let mut piece = new(line.device, line.inode, &line.name);
        let Range { start, .. } = line.range;
        let fits = match File::open(format!("/proc/{pid}/map_files/{start:x}-{:x}", line.range.end())) {
            Ok(file) => piece.fill(&file, &mut left).map_err(failed)?,
            Err(_) => {
                let same = lines.iter().filter(|other| (other.device, other.inode) == (line.device, line.inode));
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

/// The number of a pipe, by the link to it.
fn pipe(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"pipe:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// What waits in a pipe, which goes on waiting there. `None`: more than there is room for.
fn unread(pid: i32, fd: i32, id: u64, left: &mut usize) -> io::Result<Option<Vec<u8>>> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let theirs = match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(theirs) if theirs.metadata()?.ino() == id => theirs,
        // Another file has the number by now, which will be noticed.
        _ => return Ok(Some(Vec::new())),
    };
    let waiting = rustix::io::ioctl_fionread(&theirs)? as usize;
    if waiting == 0 {
        return Ok(Some(Vec::new()));
    }
    let Some(rest) = left.checked_sub(waiting) else { return Ok(None) };
    *left = rest;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // As many parts as theirs has fit into one that is as large.
    rustix::pipe::fcntl_setpipe_size(&write, rustix::pipe::fcntl_getpipe_size(&theirs)?)?;
    let copied = rustix::pipe::tee(&theirs, &write, waiting, SpliceFlags::NONBLOCK)?;
    let mut bytes = vec![0; copied];
    File::from(read).read_exact(&mut bytes)?;
    if copied == waiting { Ok(Some(bytes)) } else { Err(io::Error::other("a pipe tells its content in part only")) }
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
