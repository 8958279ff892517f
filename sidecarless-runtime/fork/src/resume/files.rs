//! The files of a process, opened again.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
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

/// Opens again what the process had open. `None`: it is not open in the child.
pub(super) fn open(descriptor: &ForkDescriptor) -> Result<Vec<(RawFd, Option<OwnedFd>)>, ResumeError> {
    let mut pipes = HashMap::new();
    let mut open = Vec::with_capacity(descriptor.files.len());
    for file in &descriptor.files {
        open.push((file.fd, open_one(file, &mut pipes)?));
    }
    Ok(open)
}

fn open_one(file: &OpenFile, pipes: &mut HashMap<u64, (OwnedFd, OwnedFd)>) -> Result<Option<OwnedFd>, ResumeError> {
    let flags = OFlags::from_bits_retain(file.flags);
    let opened = match &file.kind {
        // The standard streams are those of whoever resumes.
        OpenFileKind::Terminal | OpenFileKind::Pipe { .. } if file.fd <= 2 => match file.fd {
            0 => io::stdin().as_fd().try_clone_to_owned()?,
            1 => io::stdout().as_fd().try_clone_to_owned()?,
            _ => io::stderr().as_fd().try_clone_to_owned()?,
        },
        OpenFileKind::Socket => return Ok(None),
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
        OpenFileKind::Other { name } => return Err(cannot_carry(file, name)),
    };
    Ok(Some(opened))
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
