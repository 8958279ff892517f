//! Numbers of processes: one in each PID namespace that a process is in (pid_namespaces(7)), its own and ours.

use std::fs;
use std::io;

use super::status;

/// A process from which another one is to be made.
pub(super) struct Parentage {
    pid: i32,
    /// Whose children its siblings are.
    parent: i32,
    /// Whether it is numbered otherwise there than here.
    is_nested: bool,
}

impl Parentage {
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let status = status::of_thread(pid, pid)?;
        Ok(Self { pid, parent: status.parent, is_nested: status.number != pid })
    }

    /// Our number of a new sibling of the process, from the number that the process knows it by.
    pub(super) fn sibling(&self, number: i32) -> io::Result<i32> {
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
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the copy is no child of the process's parent"))
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
