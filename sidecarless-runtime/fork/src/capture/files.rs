//! What a process has open (proc_pid_fd(5), proc_pid_fdinfo(5)).

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::descriptor::{FileIdentity, OpenFile, OpenFileKind, Watched};

/// Everything that a process has open, by descriptor.
pub(super) fn open_files(pid: i32) -> io::Result<Vec<OpenFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let link = fs::read_link(entry.path())?.into_os_string().into_vec();
        let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
        let information = Information::parse(&text);
        // Follows the link to the file itself, whatever its name has become.
        let metadata = fs::metadata(entry.path())?;
        let flags = information.number("flags", 8) as u32;
        let kind = match link.as_slice() {
            b"anon_inode:[eventpoll]" => epoll(&text),
            _ => kind(link, &metadata, &information),
        };
        files.push(OpenFile { fd, flags, kind });
    }
    files.sort_unstable_by_key(|file| file.fd);
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

/// What an epoll watches: `tfd: 5 events: 19 data: 7 …` (proc_pid_fdinfo(5)).
fn epoll(information: &str) -> OpenFileKind {
    let watched = information.lines().filter_map(|line| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let fd = words.next()?.parse().ok()?;
        let mut number = |key| words.next().filter(|word| *word == key).and_then(|_| words.next());
        let events = u32::from_str_radix(number("events:")?, 16).ok()?;
        let data = u64::from_str_radix(number("data:")?, 16).ok()?;
        Some(Watched { fd, events, data })
    });
    OpenFileKind::Epoll { watched: watched.collect() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoll_is_read_with_what_it_watches() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t9\n\
            tfd:        5 events:       19 data:               2a  pos:0 ino:61 sdev:d\n\
            tfd:       12 events: 80000001 data: ffffffffffffffff  pos:0 ino:f sdev:10\n";
        let first = Watched { fd: 5, events: 0x19, data: 0x2a };
        let second = Watched { fd: 12, events: 0x8000_0001, data: u64::MAX };
        assert_eq!(epoll(text), OpenFileKind::Epoll { watched: vec![first, second] });
    }
}
