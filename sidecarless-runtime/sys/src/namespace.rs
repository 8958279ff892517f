//! A process namespace for a child: the kernel puts the *next* child of a thread into it, so the parent has to ask.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// While this lives, a child of this thread becomes the first process of a new namespace.
#[derive(Debug)]
pub(crate) struct ProcessNamespace {
    own: OwnedFd,
}

impl ProcessNamespace {
    /// Makes the namespace. The calling process itself stays in its own.
    pub(crate) fn for_next_child() -> Result<Self, Errno> {
        let own = open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: C4: only the namespace of future children changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
        Ok(Self { own })
    }
}

impl Drop for ProcessNamespace {
    fn drop(&mut self) {
        // Without the way back every further child would be put into that namespace too, which ends with its first.
        // Entering one's own namespace needs the privilege that making one needed, so it cannot fail.
        let back = move_into_link_name_space(self.own.as_fd(), Some(LinkNameSpaceType::ProcessID));
        debug_assert!(back.is_ok(), "the way back into the own process namespace is closed: {back:?}");
    }
}
