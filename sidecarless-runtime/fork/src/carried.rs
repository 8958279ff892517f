//! What of a process no fork carries, as far as its descriptor alone says so. It is the same on every host, so it is
//! refused where the process is prepared; and where it is resumed, too, because a descriptor may be anybody's.

use rustix::time::TimerfdClockId;

use crate::descriptor::{ForkDescriptor, OpenFile, OpenFileKind, Timer};

/// How many of the first descriptors are standard streams, which a child is given if they cannot be carried.
pub(crate) const STREAMS: i32 = 3;
/// `SECCOMP_RET_ACTION_FULL`.
const ACTION: u32 = 0xffff_0000;

/// What cannot be carried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uncarried {
    /// An open file.
    #[error("the process has {name} open as descriptor {fd}, which a fork cannot carry; close it before the fork")]
    Open {
        /// Its descriptor.
        fd: i32,
        /// What it is.
        name: String,
    },
    /// One of its filters asks another process.
    #[error("another process decides on its system calls (SECCOMP_RET_USER_NOTIF), which a fork cannot carry")]
    Asks,
}

/// Whether all can be carried.
pub(crate) fn check(descriptor: &ForkDescriptor) -> Result<(), Uncarried> {
    if let Some((fd, name)) = descriptor.files.iter().find_map(|file| Some((file.fd, name(file)?))) {
        return Err(Uncarried::Open { fd, name: String::from_utf8_lossy(name).into_owned() });
    }
    let mut instructions = descriptor.filters.iter().flat_map(|filter| &filter.instructions);
    if instructions.any(|instruction| asks(*instruction)) { Err(Uncarried::Asks) } else { Ok(()) }
}

/// What an open file is, if it cannot be carried.
fn name(file: &OpenFile) -> Option<&[u8]> {
    match &file.kind {
        OpenFileKind::Other { name } => Some(name),
        OpenFileKind::Terminal if !(0..STREAMS).contains(&file.fd) => Some(b"a terminal"),
        OpenFileKind::Timer(timer) if clock(*timer).is_none() => Some(b"a timer that wakes the machine"),
        _ => None,
    }
}

/// What a timer goes by, if a child may go by it, too.
pub(crate) const fn clock(timer: Timer) -> Option<TimerfdClockId> {
    match timer.clock.cast_signed() {
        libc::CLOCK_REALTIME => Some(TimerfdClockId::Realtime),
        libc::CLOCK_MONOTONIC => Some(TimerfdClockId::Monotonic),
        libc::CLOCK_BOOTTIME => Some(TimerfdClockId::Boottime),
        _ => None,
    }
}

/// Whether an instruction of a filter (`struct sock_filter`) asks another process.
const fn asks(instruction: u64) -> bool {
    let (code, constant) = (instruction as u16, (instruction >> 32) as u32);
    code as u32 == libc::BPF_RET | libc::BPF_K && constant & ACTION == libc::SECCOMP_RET_USER_NOTIF
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::Expiry;

    #[test]
    fn files_are_told_apart_by_what_they_are_and_where() {
        let timer = |clock: i32| {
            let expiry = Expiry { next: [0, 0], interval: [0, 0] };
            OpenFileKind::Timer(Timer { clock: clock.cast_unsigned(), ticks: 0, expiry })
        };
        let other = OpenFileKind::Other { name: b"anon_inode:inotify".to_vec() };
        for (fd, kind, refused) in [
            (0, OpenFileKind::Terminal, None),
            (3, OpenFileKind::Terminal, Some(b"a terminal".as_slice())),
            (0, other.clone(), Some(b"anon_inode:inotify")),
            (7, other, Some(b"anon_inode:inotify")),
            (7, OpenFileKind::Socket, None),
            (7, timer(libc::CLOCK_MONOTONIC), None),
            (7, timer(libc::CLOCK_BOOTTIME_ALARM), Some(b"a timer that wakes the machine")),
        ] {
            let file = OpenFile { fd, flags: 0, kind };
            assert_eq!(name(&file), refused, "{file:?}");
        }
    }

    #[test]
    fn a_filter_asks_by_what_it_gives() {
        let gives = |what: u32| u64::from(what) << 32 | u64::from(libc::BPF_RET | libc::BPF_K);
        assert!(asks(gives(libc::SECCOMP_RET_USER_NOTIF)) && asks(gives(libc::SECCOMP_RET_USER_NOTIF | 7)));
        assert!(!asks(gives(libc::SECCOMP_RET_ALLOW)) && !asks(gives(libc::SECCOMP_RET_ERRNO)));
        // The same number, loaded into a register.
        assert!(!asks(u64::from(libc::SECCOMP_RET_USER_NOTIF) << 32));
    }
}
