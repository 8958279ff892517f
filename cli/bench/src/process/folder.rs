//! The folder of a run's files: gone with the run, or, if that was killed, with the next one.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use rustix::process::geteuid;
use tempfile::TempDir;

/// Behind it comes the number of the process.
const PREFIX: &str = "ramet-bench-";

/// A folder that this process holds.
#[derive(Debug)]
pub(super) struct Folder {
    folder: TempDir,
    /// Locked while this process lives, which those in other namespaces see, too.
    _held: File,
}

impl Folder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let place = std::env::temp_dir();
        remove_abandoned(&place);
        Self::new_in(&place)
    }

    fn new_in(place: &Path) -> anyhow::Result<Self> {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(place).context("cannot make a folder")?;
        let held = File::open(folder.path()).context("cannot open a new folder")?;
        held.try_lock_shared().context("cannot lock a new folder")?;
        Ok(Self { folder, _held: held })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what killed runs of this user have left. What cannot be looked at or removed stays.
fn remove_abandoned(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if is_abandoned(&entry.path()).unwrap_or(false) {
            // It follows no symbolic link.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `path` is a folder of this user that no process holds. Nobody else can put another thing there between the
/// look and the removal: in a shared folder names belong to the owners of what they name (the sticky bit).
fn is_abandoned(path: &Path) -> Option<bool> {
    let name = path.file_name()?.to_str()?;
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let pid: u32 = pid.parse().ok()?;
    let found = fs::symlink_metadata(path).ok()?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || Path::new(&format!("/proc/{pid}")).exists() {
        return Some(false);
    }
    Some(File::open(path).ok()?.try_lock().is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::process::Command;

    use super::*;

    #[test]
    fn only_what_a_killed_run_has_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let make = |name: String| {
            let path = place.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
            path
        };
        let pid = ended.id();
        let abandoned = make(format!("{PREFIX}{pid}-a"));
        let held = make(format!("{PREFIX}{pid}-held"));
        let lock = File::open(&held).unwrap();
        lock.try_lock_shared().unwrap();
        let mut kept = vec![
            held,
            make(format!("{PREFIX}{}-living", std::process::id())),
            make(format!("{PREFIX}nobody-knows")),
            make("other".to_owned()),
        ];
        let link = place.path().join(format!("{PREFIX}{pid}-link"));
        symlink(&kept[3], &link).unwrap();
        kept.push(link);
        // Only root can give a folder away.
        if geteuid().is_root() {
            let foreign = make(format!("{PREFIX}{pid}-foreign"));
            chown(&foreign, Some(65_534), None).unwrap();
            kept.push(foreign);
        }
        let own = Folder::new_in(place.path()).unwrap();
        kept.push(own.path().to_owned());
        remove_abandoned(place.path());
        assert!(!abandoned.exists());
        for path in &kept {
            assert!(path.symlink_metadata().is_ok(), "{}", path.display());
        }
        assert!(kept[3].join("file").exists(), "nothing behind a link is touched");
    }
}
