//! The files of a process, opened again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use ramet_sys::{Limits, User, events};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{Mode, OFlags, SeekFrom, fcntl_setfl, seek};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::time::{Itimerspec, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};

use super::ResumeError;
use super::shared::reopen;
use crate::capture::identity;
use crate::carried;
use crate::descriptor::{Expiry, FileIdentity, ForkDescriptor, OpenFile, OpenFileKind, Timer};

/// What cannot be carried is found out before.
const NO_FILE: ResumeError = ResumeError::Unfit("one of its open files is none");

/// What a child is given by its host in place of what it cannot have from the forked process.
#[derive(Debug)]
pub struct Given {
    /// In place of a terminal, a pipe or a socket that the forked process had as a standard stream.
    pub streams: [OwnedFd; 3],
    /// Who it is to be: without other groups and without capabilities. `None`: who the forked process was.
    pub user: Option<User>,
    /// What it may use: within these, as much as a program that the host executes. `None`: what the forked process
    /// might, as far as the host may give it.
    pub limits: Option<Limits>,
}

impl Given {
    /// The streams of this process.
    ///
    /// # Errors
    /// The operating system's: there are too many open files.
    pub fn own() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        let streams = [input, output, io::stderr().as_fd().try_clone_to_owned()?];
        Ok(Self { streams, user: None, limits: None })
    }
}

/// Opens again what a child has open, in the order of the descriptor.
pub(super) fn open(
    descriptor: &ForkDescriptor,
    given: &Given,
    pieces: &[OwnedFd],
) -> Result<Vec<OwnedFd>, ResumeError> {
    let mut pipes = HashMap::new();
    let mut opened: Vec<OwnedFd> = Vec::with_capacity(descriptor.files.len());
    for (at, file) in descriptor.files.iter().enumerate() {
        let one = match file.kind {
            OpenFileKind::Same { fd } => {
                let first = descriptor.files[..at].binary_search_by_key(&fd, |file| file.fd);
                let first = first.ok().and_then(|first| opened.get(first));
                first.ok_or(NO_FILE)?.try_clone()?
            }
            _ => open_one(file, given, &mut pipes, pieces)?,
        };
        opened.push(one);
    }
    Ok(opened)
}

fn open_one(
    file: &OpenFile,
    given: &Given,
    pipes: &mut HashMap<u64, (OwnedFd, OwnedFd)>,
    pieces: &[OwnedFd],
) -> Result<OwnedFd, ResumeError> {
    let flags = OFlags::from_bits_retain(file.flags);
    let stream = usize::try_from(file.fd).ok().and_then(|fd| given.streams.get(fd));
    let opened = match &file.kind {
        OpenFileKind::Terminal | OpenFileKind::Pipe { .. } | OpenFileKind::Socket if let Some(stream) = stream => {
            stream.try_clone()?
        }
        OpenFileKind::Path { path, identity, position } => open_path(file, path, *identity, *position)?,
        // An end whose other end is in another process finds that closed.
        OpenFileKind::Pipe { id, unread } => {
            let (read, write) = match pipes.get(id) {
                Some(ends) => ends,
                None => pipes.entry(*id).or_insert(pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?),
            };
            fill(write, unread)?;
            let end = if flags.contains(OFlags::WRONLY) { write } else { read };
            fcntl_setfl(end, flags & OFlags::NONBLOCK).map_err(io::Error::from)?;
            end.try_clone()?
        }
        OpenFileKind::Timer(timer) => open_timer(*timer)?,
        OpenFileKind::Signals { mask } => events::signals(*mask)?,
        OpenFileKind::Memory { piece, position } => {
            let piece = pieces.get(*piece as usize).ok_or(NO_FILE)?;
            // What is opened is a link to it.
            let made = OFlags::CREATE | OFlags::TRUNC | OFlags::EXCL | OFlags::NOFOLLOW;
            let opened = reopen(piece, flags - made)?;
            go_to(&opened, flags, *position)?;
            opened
        }
        OpenFileKind::Event { count, semaphore } => {
            let mut event_flags = EventfdFlags::CLOEXEC;
            event_flags.set(EventfdFlags::SEMAPHORE, *semaphore);
            event_flags.set(EventfdFlags::NONBLOCK, flags.contains(OFlags::NONBLOCK));
            let counter = eventfd(0, event_flags).map_err(io::Error::from)?;
            if *count > 0 {
                rustix::io::write(&counter, &count.to_ne_bytes()).map_err(io::Error::from)?;
            }
            counter
        }
        // What it watches is known once that has its numbers.
        OpenFileKind::Epoll { .. } => epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?,
        OpenFileKind::Socket => dead_socket(flags)?,
        OpenFileKind::Same { .. } | OpenFileKind::Terminal | OpenFileKind::Other { .. } => return Err(NO_FILE),
    };
    if matches!(file.kind, OpenFileKind::Signals { .. } | OpenFileKind::Timer(_) | OpenFileKind::Epoll { .. }) {
        fcntl_setfl(&opened, flags & OFlags::NONBLOCK).map_err(io::Error::from)?;
    }
    Ok(opened)
}

/// Has bytes wait in a pipe.
fn fill(write: &OwnedFd, unread: &[u8]) -> io::Result<()> {
    if unread.is_empty() {
        return Ok(());
    }
    if unread.len() > fcntl_getpipe_size(write)? {
        fcntl_setpipe_size(write, unread.len())?;
    }
    // They have room, so this waits for nobody.
    File::from(write.try_clone()?).write_all(unread)
}

fn open_timer(timer: Timer) -> Result<OwnedFd, ResumeError> {
    let clock = carried::clock(timer).ok_or(NO_FILE)?;
    let opened = timerfd_create(clock, TimerfdFlags::CLOEXEC).map_err(io::Error::from)?;
    let time = |[seconds, nanoseconds]: [u64; 2]| Timespec {
        tv_sec: seconds.cast_signed(),
        tv_nsec: nanoseconds.cast_signed(),
    };
    let Expiry { next, interval } = timer.expiry;
    let at = Itimerspec { it_interval: time(interval), it_value: time(next) };
    timerfd_settime(&opened, TimerfdTimerFlags::empty(), &at).map_err(io::Error::from)?;
    // A timer that rings again and again goes on when that it has rung is read.
    let goes_on = next == [0, 0] && interval != [0, 0];
    if timer.ticks > 0 && (goes_on || events::set_ticks(&opened, timer.ticks).is_err()) {
        // That it has expired, if not how often, can be had from every kernel.
        let at = Itimerspec { it_value: Timespec { tv_sec: 0, tv_nsec: 1 }, ..at };
        timerfd_settime(&opened, TimerfdTimerFlags::empty(), &at).map_err(io::Error::from)?;
    }
    Ok(opened)
}

/// A socket whose other end has closed: reading from it comes to the end, writing to it fails.
fn dead_socket(flags: OFlags) -> io::Result<OwnedFd> {
    let (socket, _) = UnixStream::pair()?;
    socket.set_nonblocking(flags.contains(OFlags::NONBLOCK))?;
    Ok(socket.into())
}

fn open_path(
    file: &OpenFile,
    path: &[u8],
    identity_then: Option<FileIdentity>,
    position: u64,
) -> Result<OwnedFd, ResumeError> {
    let path = OsStr::from_bytes(path);
    let different = |reason: String| ResumeError::File { path: path.into(), reason };
    let made = OFlags::CREATE | OFlags::TRUNC | OFlags::EXCL;
    let flags = (OFlags::from_bits_retain(file.flags) - made) | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| different(error.to_string()))?;
    if let Some(then) = identity_then {
        // What is read must be what was read; what is written to may have grown since.
        let now = identity(&File::from(opened.try_clone()?).metadata()?);
        let is_read = !flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::PATH);
        let is_same = if is_read { now == then } else { (now.device, now.inode) == (then.device, then.inode) };
        if !is_same {
            return Err(different("it was replaced or changed".to_owned()));
        }
        go_to(&opened, flags, position)?;
    }
    Ok(opened)
}

/// Has the next read or write begin at a position, if there may be any.
fn go_to(file: &OwnedFd, flags: OFlags, position: u64) -> io::Result<()> {
    if !flags.contains(OFlags::PATH) {
        seek(file, SeekFrom::Start(position))?;
    }
    Ok(())
}
