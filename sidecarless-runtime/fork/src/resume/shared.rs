//! Shared memory: each child has pieces of its own, with what they held when the process was forked.
//!
//! It comes whole and before the child begins. Nobody is told of a fault when such memory is read through a file, or
//! learns that a part of it was given up, so what came late could be wrong.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};

use crate::descriptor::{ForkDescriptor, SharedMemory};
use crate::source::{self, PageSource, SourceError};

/// How long the kernel lets a name be.
const NAME_BYTES_MAX: usize = 249;

/// What all pieces hold.
#[derive(Debug, Default)]
pub(super) struct Contents(Vec<Vec<u8>>);

impl Contents {
    /// Reads it from the seed.
    pub(super) fn read(descriptor: &ForkDescriptor, source: &mut dyn PageSource) -> Result<Self, SourceError> {
        let read = |piece: &SharedMemory| {
            let range = Range { start: piece.frozen_at, bytes: piece.content_bytes() };
            let mut content = vec![0; range.bytes as usize];
            if range.bytes > 0 {
                source::read(source, &[range], &mut content)?;
            }
            Ok(content)
        };
        Ok(Self(descriptor.shared.iter().map(read).collect::<Result<_, SourceError>>()?))
    }

    /// Makes the pieces of a child.
    pub(super) fn pieces(&self, descriptor: &ForkDescriptor) -> io::Result<Vec<OwnedFd>> {
        descriptor.shared.iter().zip(&self.0).map(|(piece, content)| make(piece, content)).collect()
    }
}

fn make(piece: &SharedMemory, mut content: &[u8]) -> io::Result<OwnedFd> {
    let name = piece.name.strip_prefix(b"/memfd:").unwrap_or(&piece.name);
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    flags.set(MemfdFlags::NOEXEC_SEAL, SealFlags::from_bits_retain(piece.seals).contains(SealFlags::EXEC));
    let made = File::from(memfd_create(&name[..name.len().min(NAME_BYTES_MAX)], flags)?);
    made.set_len(piece.bytes)?;
    for run in &piece.content {
        let start = u64::from(run.first) * PAGE_BYTES;
        let bytes = u64::from(run.pages) * PAGE_BYTES;
        let (these, rest) = content.split_at(bytes as usize);
        content = rest;
        // The last page may be one in part.
        let within = piece.bytes.saturating_sub(start).min(bytes);
        made.write_all_at(&these[..within as usize], start)?;
    }
    if !seals_in_child(piece) {
        fcntl_add_seals(&made, SealFlags::from_bits_retain(piece.seals))?;
        // Only what cannot come to be written through it may be mapped of a file that is sealed like this.
        return reopen(&made, OFlags::RDONLY);
    }
    Ok(made.into())
}

/// Whether the seals come after the mappings: none of those could be made any more.
pub(super) const fn seals_in_child(piece: &SharedMemory) -> bool {
    piece.seals & libc::F_SEAL_WRITE as u32 == 0
}

/// Opens a piece once more, with a position of its own.
pub(super) fn reopen(piece: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", piece.as_fd().as_raw_fd());
    Ok(open(path, flags | OFlags::CLOEXEC, Mode::empty())?)
}
