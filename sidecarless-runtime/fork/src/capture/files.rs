//! What a process has open (proc_pid_fd(5), proc_pid_fdinfo(5)).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::frozen::{EPOLL, Frozen, changes};
use super::{PrepareError, maps};
use crate::carried::STREAMS;
use crate::descriptor::{Expiry, FileIdentity, OpenFile, OpenFileKind, Timer};

const CLOSE_ON_EXEC: u32 = libc::O_CLOEXEC.cast_unsigned();

/// Everything that a process has open, by descriptor.
pub(super) fn open_files(pid: i32, frozen: &Frozen) -> Result<Vec<OpenFile>, PrepareError> {
    let failed = |source| PrepareError::Proc { pid, source };
    let mut files = Vec::new();
    // The numbers of files that there may be several of, by what they are.
    let mut alike: HashMap<(u64, u64, u32), Vec<i32>> = HashMap::new();
    let mut entries = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        entries.push((fd, entry.path()));
    }
    entries.sort_unstable();
    for (fd, path) in entries {
        let link = fs::read_link(&path).map_err(failed)?.into_os_string().into_vec();
        // Follows the link to the file itself, whatever its name has become.
        let metadata = fs::metadata(&path).map_err(failed)?;
        let late = || fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).map_err(failed);
        let text = match frozen.told(fd, metadata.ino()) {
            Some(text) => Cow::Borrowed(text),
            None if changes(&link) => return Err(PrepareError::Changed(pid)),
            None => Cow::Owned(late()?),
        };
        let information = Information::parse(&text);
        let flags = information.number("flags", 8) as u32;
        let kind = match link.as_slice() {
            EPOLL => {
                let watched = frozen.watched(fd).ok_or(PrepareError::Changed(pid))?;
                OpenFileKind::Epoll { watched: watched.to_vec() }
            }
            _ if maps::is_memory(&link) => {
                let piece = frozen.piece_of(metadata.dev(), metadata.ino(), &link).ok_or(PrepareError::Changed(pid))?;
                OpenFileKind::Memory { piece, position: information.number("pos", 10) }
            }
            _ => kind(link, &metadata, &information, frozen),
        };
        // What takes its place is the child's to be given, and what was a duplicate of a stream is one of that.
        let is_given = matches!(kind, OpenFileKind::Terminal | OpenFileKind::Socket | OpenFileKind::Other { .. });
        let may_be_same = |other: i32| !is_given || other < STREAMS && fd >= STREAMS;
        let others = alike.entry((metadata.dev(), metadata.ino(), flags & !CLOSE_ON_EXEC)).or_default();
        let same = others.iter().find(|other| may_be_same(**other) && is_same_file(pid, **other, fd));
        let kind = match same {
            Some(fd) => OpenFileKind::Same { fd: *fd },
            None => {
                others.push(fd);
                kind
            }
        };
        files.push(OpenFile { fd, flags, kind });
    }
    // Where the kernel does not say which file is watched.
    let numbers: Vec<i32> = files.iter().map(|file| file.fd).collect();
    for file in &mut files {
        if let OpenFileKind::Epoll { watched } = &file.kind
            && !watched.iter().all(|watched| numbers.binary_search(&watched.fd).is_ok())
        {
            let name = b"an epoll that watches a file whose descriptor was closed".to_vec();
            file.kind = OpenFileKind::Other { name };
        }
    }
    Ok(files)
}

/// Whether two descriptors have one position. Where the kernel does not say, those that look the same have.
fn is_same_file(pid: i32, one: i32, other: i32) -> bool {
    ramet_sys::thread::is_same_file(pid, one, other).unwrap_or(true)
}

/// What tells a file from others.
pub(crate) fn identity(metadata: &Metadata) -> FileIdentity {
    FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
    }
}

fn kind(link: Vec<u8>, metadata: &Metadata, information: &Information<'_>, frozen: &Frozen) -> OpenFileKind {
    let kind = metadata.file_type();
    if link.starts_with(b"/dev/pts/") || link == b"/dev/tty" {
        OpenFileKind::Terminal
    } else if link.ends_with(b" (deleted)") {
        OpenFileKind::Other { name: link }
    } else if link.starts_with(b"/") && !kind.is_fifo() && !kind.is_socket() {
        let identity = kind.is_file().then(|| identity(metadata));
        OpenFileKind::Path { path: link, identity, position: information.number("pos", 10) }
    } else if link.starts_with(b"pipe:") {
        let reads = information.number("flags", 8) as i32 & libc::O_ACCMODE == libc::O_RDONLY;
        let unread = if reads { frozen.unread(metadata.ino()) } else { Vec::new() };
        OpenFileKind::Pipe { id: metadata.ino(), unread }
    } else if kind.is_socket() {
        OpenFileKind::Socket
    } else if link == b"anon_inode:[eventfd]" {
        let semaphore = information.number("eventfd-semaphore", 10) != 0;
        OpenFileKind::Event { count: information.number("eventfd-count", 16), semaphore }
    } else if link == b"anon_inode:[timerfd]" {
        information.timer().map_or(OpenFileKind::Other { name: link }, OpenFileKind::Timer)
    } else if link == b"anon_inode:[signalfd]" {
        OpenFileKind::Signals { mask: information.number("sigmask", 16) }
    } else {
        OpenFileKind::Other { name: link }
    }
}

/// The lines of a file of `/proc/PID/fdinfo`.
pub(super) struct Information<'t>(HashMap<&'t str, &'t str>);

impl<'t> Information<'t> {
    pub(super) fn parse(text: &'t str) -> Self {
        Self(text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect())
    }

    /// 0 if there is no such line.
    pub(super) fn number(&self, key: &str, radix: u32) -> u64 {
        self.0.get(key).and_then(|value| u64::from_str_radix(value, radix).ok()).unwrap_or(0)
    }

    /// A timer: `it_value: (0, 49406829)`, in seconds and nanoseconds.
    fn timer(&self) -> Option<Timer> {
        let pair = |key: &str| {
            let (seconds, nanoseconds) = self.0.get(key)?.strip_prefix('(')?.strip_suffix(')')?.split_once(", ")?;
            Some([seconds.parse().ok()?, nanoseconds.parse().ok()?])
        };
        let (clock, ticks) = (self.number("clockid", 10) as u32, self.number("ticks", 10));
        let expiry = Expiry { next: pair("it_value")?, interval: pair("it_interval")? };
        Some(Timer { clock, ticks, expiry })
    }
}
