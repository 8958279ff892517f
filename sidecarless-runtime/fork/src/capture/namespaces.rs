//! What a process sees of its host (namespaces(7)).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::PrepareError;
use crate::descriptor::Namespaces;

/// Which namespaces a process has that are not this one's.
pub(super) fn of(pid: i32) -> Result<Namespaces, PrepareError> {
    let failed = |source| PrepareError::Proc { pid, source };
    let is_own = |kind: &str| -> Result<bool, PrepareError> {
        let [theirs, ours] = [format!("/proc/{pid}/ns/{kind}"), format!("/proc/self/ns/{kind}")].map(fs::read_link);
        Ok(theirs.map_err(failed)? != ours.map_err(failed)?)
    };
    if is_own("user")? {
        return Err(PrepareError::unfit(pid, "it has a user namespace of its own, which no other process can have"));
    }
    let namespaces = Namespaces {
        network: is_own("net")?,
        ipc: is_own("ipc")?,
        name: is_own("uts")?,
        control_groups: is_own("cgroup")?,
        mounts: is_own("mnt")?,
        processes: is_own("pid")?,
    };
    if fs::read_link(format!("/proc/{pid}/root")).map_err(failed)? != Path::new("/") {
        return Err(PrepareError::unfit(pid, "its root directory is another one"));
    }
    if namespaces.mounts
        && let Some(place) = strange_mount(pid, namespaces.processes).map_err(failed)?
    {
        let reason = format!("it has a mount of its own at {place}, which no other process can have");
        return Err(PrepareError::unfit(pid, reason));
    }
    Ok(namespaces)
}

/// Checks that a copy of a process would live where it lives: it is made as a child of it.
pub(super) fn are_its_copys(pid: i32) -> Result<(), PrepareError> {
    let link = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    for (kind, what) in [("time", "a time namespace"), ("pid", "a PID namespace")] {
        let childrens = || link(&format!("{kind}_for_children"));
        // A kernel may have no such namespaces, and the process may have ended since.
        let Ok(own) = link(kind) else { continue };
        // Nothing is told of a PID namespace that has no process yet; nor of a thread that ends, but whose number
        // another one takes then, and that is told.
        let has_none = |error: io::Error| kind == "pid" && error.kind() == io::ErrorKind::NotFound;
        let is_untold = || childrens().is_err_and(has_none);
        let is_other = match childrens() {
            Ok(childrens) => own != childrens,
            Err(_) => link("uts").is_ok() && is_untold(),
        };
        if is_other {
            let reason = format!("it has made {what} that it is not in, and its copy would be");
            return Err(PrepareError::unfit(pid, reason));
        }
    }
    Ok(())
}

/// Where a process has something mounted that is not mounted here. A `/proc` of its own processes is no stranger.
fn strange_mount(pid: i32, has_processes: bool) -> io::Result<Option<String>> {
    let ours = fs::read_to_string("/proc/self/mountinfo")?;
    let ours: HashSet<Mount<'_>> = ours.lines().filter_map(Mount::parse).collect();
    let theirs = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let is_known = |mount: &Mount<'_>| {
        let is_own_processes = has_processes && mount.filesystem == "proc" && mount.place == "/proc";
        is_own_processes || ours.contains(mount)
    };
    Ok(theirs.lines().filter_map(Mount::parse).find(|mount| !is_known(mount)).map(|mount| mount.place.to_owned()))
}

/// A line of `/proc/PID/mountinfo`, as far as it says what is where.
#[derive(PartialEq, Eq, Hash)]
struct Mount<'t> {
    device: &'t str,
    root: &'t str,
    place: &'t str,
    filesystem: &'t str,
}

impl<'t> Mount<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let (own, rest) = line.split_once(" - ")?;
        let mut fields = own.split(' ').skip(2);
        let (device, root, place) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { device, root, place, filesystem: rest.split(' ').next()? })
    }
}
