//! A process namespace for a child: the kernel puts the *next* child of a thread into it, so the parent has to ask.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space, move_into_thread_name_spaces,
    unshare_unsafe,
};

/// While this lives, children of this thread are in another namespace than it.
#[derive(Debug)]
pub(crate) struct ProcessNamespace {
    own: OwnedFd,
}

impl ProcessNamespace {
    /// Makes a namespace, whose first process the next child is. The calling process itself stays in its own.
    pub(crate) fn for_next_child() -> Result<Self, Errno> {
        let own = own()?;
        // SAFETY: C4: only the namespace of future children changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
        Ok(Self { own })
    }

    /// The namespace of a process, by its descriptor.
    pub(crate) fn of(process: BorrowedFd<'_>) -> Result<Self, Errno> {
        let own = own()?;
        move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)?;
        Ok(Self { own })
    }
}

fn own() -> Result<OwnedFd, Errno> {
    open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

impl Drop for ProcessNamespace {
    fn drop(&mut self) {
        // Without the way back every further child would be put into that namespace too, which ends with its first.
        // Entering one's own namespace needs the privilege that making one needed, so it cannot fail.
        let back = move_into_link_name_space(self.own.as_fd(), Some(LinkNameSpaceType::ProcessID));
        debug_assert!(back.is_ok(), "the way back into the own process namespace is closed: {back:?}");
    }
}
