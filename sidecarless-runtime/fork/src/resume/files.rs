//! The files of a process, opened again.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, SeekFrom, seek};
use rustix::pipe::{PipeFlags, pipe_with};

use super::ResumeError;
use crate::capture::identity;
use crate::descriptor::{FileIdentity, ForkDescriptor, OpenFile, OpenFileKind};

/// Opens the files that areas map, if they are the same here.
pub(super) fn mapped(descriptor: &ForkDescriptor) -> Result<Vec<File>, ResumeError> {
    let open = |mapped: &crate::descriptor::MappedFile| {
        let path = PathBuf::from(OsString::from_vec(mapped.path.clone()));
        let different = |reason: String| ResumeError::File { path: path.clone(), reason };
        let file = File::open(&path).map_err(|error| different(error.to_string()))?;
        if identity(&file.metadata()?) != mapped.identity {
            return Err(different("its number, length or time of change differs".to_owned()));
        }
        Ok(file)
    };
    descriptor.mapped_files.iter().map(open).collect()
}

/// Whether a child has the file, too.
pub(super) const fn is_carried(file: &OpenFile) -> bool {
    !matches!(file.kind, OpenFileKind::Socket)
}

/// What a child has in place of the terminal or the pipes that the forked process had as its standard streams.
#[derive(Debug)]
pub struct Streams(pub [OwnedFd; 3]);

impl Streams {
    /// Those of this process.
    ///
    /// # Errors
    /// The operating system's: there are too many open files.
    pub fn own() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self([input, output, io::stderr().as_fd().try_clone_to_owned()?]))
    }
}

/// Opens again what a child has open, in the order of the descriptor.
pub(super) fn open(descriptor: &ForkDescriptor, streams: &Streams) -> Result<Vec<OwnedFd>, ResumeError> {
    let mut pipes = HashMap::new();
    let carried = descriptor.files.iter().filter(|file| is_carried(file));
    carried.map(|file| open_one(file, streams, &mut pipes)).collect()
}

fn open_one(
    file: &OpenFile,
    Streams(streams): &Streams,
    pipes: &mut HashMap<u64, (OwnedFd, OwnedFd)>,
) -> Result<OwnedFd, ResumeError> {
    let flags = OFlags::from_bits_retain(file.flags);
    let stream = usize::try_from(file.fd).ok().and_then(|fd| streams.get(fd));
    let opened = match &file.kind {
        OpenFileKind::Terminal | OpenFileKind::Pipe { .. } if let Some(stream) = stream => stream.try_clone()?,
        OpenFileKind::Path { path, identity, position } => open_path(file, path, *identity, *position)?,
        // An end whose other end is in another process finds that closed.
        OpenFileKind::Pipe { id } => {
            let pipe_flags = if flags.contains(OFlags::NONBLOCK) { PipeFlags::NONBLOCK } else { PipeFlags::empty() };
            let (read, write) = match pipes.get(id) {
                Some(ends) => ends,
                None => {
                    pipes.entry(*id).or_insert(pipe_with(pipe_flags | PipeFlags::CLOEXEC).map_err(io::Error::from)?)
                }
            };
            if flags.contains(OFlags::WRONLY) { write.try_clone()? } else { read.try_clone()? }
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
        OpenFileKind::Terminal => return Err(cannot_carry(file, b"a terminal")),
        OpenFileKind::Socket => return Err(cannot_carry(file, b"a socket")),
        OpenFileKind::Other { name } => return Err(cannot_carry(file, name)),
    };
    Ok(opened)
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
        let is_written = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        let is_same = if is_written { (now.device, now.inode) == (then.device, then.inode) } else { now == then };
        if !is_same {
            return Err(different("it was replaced or changed".to_owned()));
        }
        seek(&opened, SeekFrom::Start(position)).map_err(io::Error::from)?;
    }
    Ok(opened)
}

fn cannot_carry(file: &OpenFile, name: &[u8]) -> ResumeError {
    ResumeError::Open { fd: file.fd, name: String::from_utf8_lossy(name).into_owned() }
}
