//! The control group that the short-cut's first program is attached to: this process's own in the unified hierarchy, so
//! that it runs for the processes that this one starts, and on a well-kept host for nobody else.

use crate::LoaderError;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Opens it, wherever it is mounted. Where it is not mounted at all it is for a moment, for this process alone.
pub(crate) fn own() -> Result<OwnedFd, LoaderError> {
    let missing = |reason: String| LoaderError::NoControlGroup { reason };
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| missing(error.to_string()))?;
    let group = unified(&groups).ok_or_else(|| missing("this kernel has no unified hierarchy".to_owned()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| missing(error.to_string()))?;
    match mounted(&mounts) {
        Some((mount, root)) => {
            let inside = Path::new(group).strip_prefix(&root).or_else(|_| Path::new(group).strip_prefix("/"));
            let path = mount.join(inside.unwrap_or(Path::new("")));
            let opened = File::open(&path).map_err(|error| missing(format!("cannot open {}: {error}", path.display())));
            Ok(opened?.into())
        }
        None => detached(group.trim_start_matches('/')).map_err(|error| missing(format!("cannot mount it: {error}"))),
    }
}

/// This process's group in the unified hierarchy (cgroups(7)).
fn unified(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where the hierarchy is mounted, and which of its groups is there (proc_pid_mountinfo(5)).
fn mounted(mounts: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        (after.split(' ').next() == Some("cgroup2")).then(|| (mount.into(), root.into()))
    })
}

fn detached(group: &str) -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&filesystem)?;
    let mount = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let path = if group.is_empty() { "." } else { group };
    openat(&mount, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_beside_older_ones() {
        let groups = "9:name=systemd:/\n4:memory:/a/b\n0::/user.slice/x\n";
        assert_eq!(unified(groups), Some("/user.slice/x"));
        assert_eq!(unified("4:memory:/\n"), None);
        let mounts = "31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
                      32 25 0:28 /outer /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(mounts), Some(("/sys/fs/cgroup/unified".into(), "/outer".into())));
        assert_eq!(mounted(""), None);
    }
}
