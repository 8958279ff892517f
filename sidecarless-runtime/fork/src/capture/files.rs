//! What a process has open (proc_pid_fd(5), proc_pid_fdinfo(5)).

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::descriptor::{FileIdentity, OpenFile, OpenFileKind};

/// Everything that a process has open, by descriptor.
pub(super) fn open_files(pid: i32) -> io::Result<Vec<OpenFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let link = fs::read_link(entry.path())?.into_os_string().into_vec();
        let information = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
        let information = Information::parse(&information);
        // Follows the link to the file itself, whatever its name has become.
        let metadata = fs::metadata(entry.path())?;
        let flags = information.number("flags", 8) as u32;
        files.push(OpenFile { fd, flags, kind: kind(link, &metadata, &information) });
    }
    files.sort_unstable_by_key(|file| file.fd);
    Ok(files)
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

fn kind(link: Vec<u8>, metadata: &Metadata, information: &Information<'_>) -> OpenFileKind {
    let kind = metadata.file_type();
    if link.starts_with(b"/dev/pts/") || link == b"/dev/tty" {
        OpenFileKind::Terminal
    } else if link.starts_with(b"/memfd:") || link.ends_with(b" (deleted)") {
        OpenFileKind::Other { name: link }
    } else if link.starts_with(b"/") && !kind.is_fifo() && !kind.is_socket() {
        let identity = kind.is_file().then(|| identity(metadata));
        OpenFileKind::Path { path: link, identity, position: information.number("pos", 10) }
    } else if link.starts_with(b"pipe:") {
        OpenFileKind::Pipe { id: metadata.ino() }
    } else if kind.is_socket() {
        OpenFileKind::Socket
    } else if link == b"anon_inode:[eventfd]" {
        let semaphore = information.number("eventfd-semaphore", 10) != 0;
        OpenFileKind::Event { count: information.number("eventfd-count", 16), semaphore }
    } else {
        OpenFileKind::Other { name: link }
    }
}

/// The lines of a file of `/proc/PID/fdinfo`.
struct Information<'t>(HashMap<&'t str, &'t str>);

impl<'t> Information<'t> {
    fn parse(text: &'t str) -> Self {
        Self(text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect())
    }

    /// 0 if there is no such line.
    fn number(&self, key: &str, radix: u32) -> u64 {
        self.0.get(key).and_then(|value| u64::from_str_radix(value, radix).ok()).unwrap_or(0)
    }
}
