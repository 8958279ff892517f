//! Numbers of processes: one in each PID namespace that a process is in (pid_namespaces(7)), its own and ours.

use std::fs;
use std::io;

use super::status;

/// A process of which a copy is to be made, and whose child that is.
pub(super) struct Parentage {
    pid: i32,
    /// Whose child the copy is. A child of ours has siblings, which we take away when they end. Of any other process it
    /// is a child that nobody is told of.
    parent: i32,
    /// Whether it is numbered otherwise there than here.
    is_nested: bool,
}

impl Parentage {
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        /// The first process of a namespace has no siblings.
        const FIRST: i32 = 1;
        let status = status::of_thread(pid, pid)?;
        let is_ours = status.parent == std::process::id().cast_signed() && status.number != FIRST;
        let parent = if is_ours { status.parent } else { pid };
        Ok(Self { pid, parent, is_nested: status.number != pid })
    }

    /// How clone(2) makes the copy that child. Without a signal for its end it is of a kind for which only who asks for
    /// that kind waits (`__WALL`, `__WCLONE`).
    pub(super) const fn flags(&self) -> libc::c_int {
        if self.parent == self.pid { 0 } else { libc::CLONE_PARENT | libc::SIGCHLD }
    }

    /// Our number of the copy, from the number that the process knows it by.
    pub(super) fn copy(&self, number: i32) -> io::Result<i32> {
        if !self.is_nested {
            return Ok(number);
        }
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", self.pid))?;
        let is_it = |candidate: &i32| {
            status::of_thread(*candidate, *candidate).is_ok_and(|own| own.number == number)
                && fs::read_link(format!("/proc/{candidate}/ns/pid")).is_ok_and(|theirs| theirs == namespace)
        };
        // The newest are the last.
        let found = children(self.parent)?.into_iter().rev().find(is_it);
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the copy is not where it should be"))
    }
}

fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended since it was listed.
        let text = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
    children.sort_unstable();
    Ok(children)
}
