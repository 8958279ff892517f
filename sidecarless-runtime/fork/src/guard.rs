//! The guard: a process that holds the faults of all children, so that the end of their host does not turn what they
//! miss into zeros, which is what the kernel does when nobody has a userfaultfd any more.
//!
//! While the host lives it only holds. When the host has ended, children are killed by the kernel; their own children,
//! and whoever is quicker than the kernel, get `SIGBUS` from a page that they do not have. It ends with the last of
//! them.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::userfault::{Event, Userfault};
use ramet_sys::{CallError, Range};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::validate::{ADDRESS_END, ADDRESS_START};
use crate::zygote;

/// So many are held before it is looked for the first time which of them have ended.
const SWEEP_MIN: usize = 64;
/// How often it is looked whether the last have ended.
const LAST_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Gives the guard faults to hold.
pub(crate) fn hold(guard: impl AsFd, userfault: &Userfault) -> io::Result<()> {
    zygote::send(guard, &[0], &[userfault])
}

/// Runs the guard; returns when the host and all that was held have ended.
pub(crate) fn run(host: &OwnedFd) -> io::Result<()> {
    let mut held = Vec::new();
    let mut sweep_at = SWEEP_MIN;
    while let Some(userfault) = receive(host)? {
        held.extend(userfault);
        if held.len() >= sweep_at {
            held.retain(|userfault: &Userfault| !userfault.has_ended());
            sweep_at = (held.len() * 2).max(SWEEP_MIN);
        }
    }
    // What the host had heard of and not answered is heard of again.
    for userfault in &held {
        let _ = userfault.wake(Range::new(ADDRESS_START, ADDRESS_END));
    }
    loop {
        held.retain(|userfault| !userfault.has_ended());
        if held.is_empty() {
            return Ok(());
        }
        let mut ready: Vec<_> = held.iter().map(|userfault| PollFd::new(userfault, PollFlags::IN)).collect();
        match poll(&mut ready, Some(&LAST_LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut more = Vec::new();
        for userfault in &held {
            // One that cannot be answered waits, which is as good.
            let _ = refuse(userfault, &mut more);
        }
        held.append(&mut more);
    }
}

/// Lets who waits for a page have `SIGBUS`.
fn refuse(userfault: &Userfault, more: &mut Vec<Userfault>) -> Result<(), CallError> {
    let mut events = Vec::new();
    userfault.events(&mut events)?;
    for event in events {
        match event {
            Event::Fault { address, .. } => {
                let page = Range { start: address & !(PAGE_BYTES - 1), bytes: PAGE_BYTES };
                userfault.poison(page)?;
            }
            Event::Forked(child) => more.push(child),
            Event::Moved { .. } | Event::Removed(_) | Event::Unmapped(_) => {}
        }
    }
    Ok(())
}

/// `None`: the host has ended.
fn receive(host: &OwnedFd) -> io::Result<Option<Option<Userfault>>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut byte)];
    if recvmsg(host, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes == 0 {
        return Ok(None);
    }
    let fds = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(Some(fds.map(Userfault::adopt)))
}
