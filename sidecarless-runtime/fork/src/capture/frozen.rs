//! What the process and others go on changing when it runs on, although its copy has it too: shared memory, and the
//! state of open files. It is looked at while the process is stopped.
//!
//! What there is to look at is found out before the stop. Where the process has come to have more since, it is done
//! once more, and then all within the stop.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::files::Information;
use super::maps::Flag;
use super::pieces::Piece;
use super::timers::{self, Listed};
use super::{PrepareError, Unforked, maps, pieces, status, watched};
use crate::descriptor::Watched;
use crate::validate::PIPES_BYTES_MAX;

/// What the link to an epoll says.
pub(super) const EPOLL: &[u8] = b"anon_inode:[eventpoll]";

/// What has to be looked at during the stop.
#[derive(Debug)]
pub(super) struct Watch {
    /// By descriptor, what the kernel tells of it.
    told: Vec<(i32, File)>,
    /// Those of them that watch others.
    epolls: Vec<i32>,
    /// The reading ends of pipes that are the process's alone.
    pipes: Vec<(i32, u64)>,
    /// What lists the timers that send signals, where the kernel has that.
    timers: Option<File>,
    /// What tells how many pages are mapped.
    size: File,
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
    /// By the descriptors of epolls.
    watched: HashMap<i32, Vec<Watched>>,
    /// By the numbers of pipes.
    unread: HashMap<u64, Vec<u8>>,
    pub(super) timers: Vec<Listed>,
    pub(super) pieces: Vec<Piece>,
    /// What the copy has and other forks have not.
    pub(super) left_out: Vec<Range>,
    /// What no fork can have.
    pub(super) refused: Vec<Range>,
    /// What the copy does not have either.
    hidden: Vec<Range>,
    /// How many pages are mapped.
    mapped_pages: u64,
}

impl Watch {
    /// Finds it out by the text of `/proc/PID/smaps` and the list of open files.
    pub(super) fn begin(pid: i32, mappings: &[u8], unforked: Unforked) -> io::Result<Self> {
        let marked = maps::flagged(mappings, Flag::LeftOut);
        let (left_out, hidden) = match unforked {
            Unforked::Carried => (marked, Vec::new()),
            Unforked::LeftOut => (Vec::new(), marked),
        };
        let timers = File::open(format!("/proc/{pid}/timers")).ok();
        let size = File::open(format!("/proc/{pid}/statm"))?;
        let (told, epolls, pipes) = (Vec::new(), Vec::new(), Vec::new());
        let mut watch = Self { told, epolls, pipes, timers, size, has_memory: false, left_out, hidden };
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
            if link == EPOLL {
                watch.epolls.push(fd);
            }
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
        watch.has_memory |= lines.iter().any(|line| line.is_memory() && !watch.is_hidden(line));
        Ok(watch)
    }

    /// Looks at it all. The process is stopped.
    pub(super) fn freeze(&self, pid: i32) -> Result<Frozen, PrepareError> {
        let mut frozen = Frozen::default();
        for (fd, file) in &self.told {
            // What has been closed since the copy does not have either.
            if let Ok(text) = record(file) {
                if self.epolls.contains(fd) {
                    frozen.watched.insert(*fd, watched::known(pid, *fd, &text));
                }
                frozen.told.insert(*fd, text);
            }
        }
        let failed = |source| PrepareError::Proc { pid, source };
        let mut left = PIPES_BYTES_MAX;
        for (fd, id) in &self.pipes {
            let unread = unread(pid, *fd, *id, &mut left).map_err(failed)?;
            let too_much = || PrepareError::unfit(pid, "more waits in its pipes than 1 MiB");
            frozen.unread.insert(*id, unread.ok_or_else(too_much)?);
        }
        if let Some(file) = &self.timers {
            let text = all_of(file).map_err(failed)?;
            let strange = || PrepareError::unfit(pid, "it has a timer of a kind that is not known");
            frozen.timers = timers::parse(&text).ok_or_else(strange)?;
        }
        if self.has_memory {
            frozen.pieces = pieces::all(pid, |line| self.is_hidden(line))?;
        }
        frozen.hidden.clone_from(&self.hidden);
        frozen.mapped_pages = record(&self.size).and_then(|text| mapped_pages(&text)).map_err(failed)?;
        Ok(frozen)
    }

    fn is_hidden(&self, line: &maps::Line) -> bool {
        self.hidden.iter().any(|hidden| hidden.contains(line.range.start))
    }
}

/// What a file of the kernel's has to say, without asking first how much that is: the process waits.
fn all_of(file: &File) -> io::Result<String> {
    read_until(file, |count| count == 0)
}

/// The same of a file with one record, which comes whole: where less comes than there is room for, that was all.
fn record(file: &File) -> io::Result<String> {
    read_until(file, |count| count < PAGE_BYTES as usize)
}

fn read_until(mut file: &File, is_last: impl Fn(usize) -> bool) -> io::Result<String> {
    let (mut text, mut part) = (Vec::new(), [0; PAGE_BYTES as usize]);
    loop {
        let count = file.read(&mut part)?;
        text.extend_from_slice(&part[..count]);
        if is_last(count) {
            return String::from_utf8(text).map_err(io::Error::other);
        }
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

    /// Whether a copy has all that it should: more may have come since it was found out what forks do not have.
    pub(super) fn is_all_in(&self, copy: i32) -> io::Result<bool> {
        let lacking: u64 = self.hidden.iter().chain(&self.refused).map(|range| range.bytes / PAGE_BYTES).sum();
        let text = fs::read_to_string(format!("/proc/{copy}/statm"))?;
        Ok(mapped_pages(&text)? + lacking == self.mapped_pages)
    }

    /// What an epoll watches.
    pub(super) fn watched(&self, epoll: i32) -> Option<&[Watched]> {
        self.watched.get(&epoll).map(Vec::as_slice)
    }

    /// What waits in a pipe.
    pub(super) fn unread(&self, id: u64) -> Vec<u8> {
        self.unread.get(&id).cloned().unwrap_or_default()
    }

    /// Which piece an area maps.
    pub(super) fn piece(&self, line: &maps::Line) -> Option<u32> {
        self.piece_of(line.device, line.inode, &line.name)
    }

    /// Which piece has these numbers, and a name of that kind.
    pub(super) fn piece_of(&self, device: u64, inode: u64, name: &[u8]) -> Option<u32> {
        let at = self.pieces.iter().position(|piece| piece.is(device, inode, name))?;
        u32::try_from(at).ok()
    }
}

/// How many pages a process has mapped, from the text of `/proc/PID/statm`.
fn mapped_pages(text: &str) -> io::Result<u64> {
    let number = text.split(' ').next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
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
