//! What an epoll watches (proc_pid_fdinfo(5)), and by which descriptors the process still knows that.
//!
//! The kernel lists each file with the number that it had when it was added. By now that may be closed, or another
//! file's, while the file itself is open under another number, or only in another process.

use std::collections::HashMap;
use std::fs;

use ramet_sys::thread::{EpollSlot, is_watched};

use crate::descriptor::Watched;

/// What an epoll of a stopped process watches, from what the kernel tells of it. What the process has no descriptor of
/// is left out: a copy has nothing that could happen to it.
pub(super) fn known(pid: i32, epoll: i32, information: &str) -> Vec<Watched> {
    let mut times: HashMap<i32, u32> = HashMap::new();
    let find = |watched: Watched| {
        let nth = times.entry(watched.fd).or_default();
        let slot = EpollSlot { epoll: epoll.cast_unsigned(), number: watched.fd.cast_unsigned(), nth: *nth };
        *nth += 1;
        match is_watched(pid, slot, watched.fd) {
            Ok(true) => Some(watched),
            Err(error) if error.source.raw_os_error() != Some(libc::EBADF) => Some(watched),
            _ => {
                let is_it = |fd: &i32| is_watched(pid, slot, *fd).unwrap_or(false);
                numbers(pid).into_iter().find(is_it).map(|fd| Watched { fd, ..watched })
            }
        }
    };
    listed(information).filter_map(find).collect()
}

/// `tfd: 5 events: 19 data: 7 …`, in the kernel's order.
fn listed(information: &str) -> impl Iterator<Item = Watched> {
    information.lines().filter_map(|line| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let fd = words.next()?.parse().ok()?;
        let mut number = |key| words.next().filter(|word| *word == key).and_then(|_| words.next());
        let events = u32::from_str_radix(number("events:")?, 16).ok()?;
        let data = u64::from_str_radix(number("data:")?, 16).ok()?;
        Some(Watched { fd, events, data })
    })
}

/// What a process has open, ascending.
fn numbers(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut numbers: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
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
        assert_eq!(listed(text).collect::<Vec<_>>(), [first, second]);
    }
}
