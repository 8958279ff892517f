//! Whether the object is newer than everything that it is made of.

use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

/// Everything that goes into the object, relative to the workspace. This tool's flags do, too.
const INPUTS: [&str; 5] =
    ["ebpf/programs", "ebpf/common", "xtask/src/build_ebpf.rs", "xtask/src/build_ebpf", "Cargo.toml"];

/// Whether `object` exists and is newer than all inputs.
pub(super) fn are_older_than(root: &Path, object: &Path) -> Result<bool> {
    let built = match fs::metadata(object).and_then(|metadata| metadata.modified()) {
        Ok(time) => time,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", object.display())),
    };
    for input in INPUTS {
        if newest(&root.join(input))? >= built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When the file, or the newest file below the folder, was changed.
fn newest(path: &Path) -> Result<SystemTime> {
    let context = || format!("cannot look at {}", path.display());
    let metadata = fs::symlink_metadata(path).with_context(context)?;
    // A folder's own time says that a file in it was added or removed.
    let mut newest = metadata.modified().with_context(context)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).with_context(context)? {
            let entry = entry.with_context(context)?;
            if entry.file_name() != "target" {
                newest = newest.max(self::newest(&entry.path())?);
            }
        }
    }
    Ok(newest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs::File;
    use std::path::PathBuf;
    use std::time::Duration;

    /// A workspace with one file of every input, all of one hour ago.
    fn workspace(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("ramet-xtask-{}-{name}", std::process::id()));
        for file in [
            "ebpf/programs/src/main.rs",
            "ebpf/common/src/lib.rs",
            "xtask/src/build_ebpf.rs",
            "xtask/src/build_ebpf/clean.rs",
            "Cargo.toml",
            "ebpf/programs/target/huge",
        ] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            age(&path, 3600);
        }
        for folder in ["ebpf/programs", "ebpf/programs/src", "ebpf/common", "ebpf/common/src", "xtask/src/build_ebpf"] {
            age(&root.join(folder), 3600);
        }
        fs::write(root.join("object"), "").unwrap();
        age(&root.join("object"), 1800);
        root
    }

    fn age(path: &Path, seconds: u64) {
        File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn an_object_newer_than_its_sources_is_kept() {
        let root = workspace("kept");
        assert!(are_older_than(&root, &root.join("object")).unwrap());
        // Build output is no input.
        age(&root.join("ebpf/programs/target/huge"), 0);
        assert!(are_older_than(&root, &root.join("object")).unwrap());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn any_changed_input_makes_it_stale() {
        let root = workspace("stale");
        for file in
            ["ebpf/programs/src/main.rs", "ebpf/common/src/lib.rs", "xtask/src/build_ebpf/clean.rs", "Cargo.toml"]
        {
            age(&root.join(file), 0);
            assert!(!are_older_than(&root, &root.join("object")).unwrap(), "{file}");
            age(&root.join(file), 3600);
        }
        assert!(!are_older_than(&root, &root.join("no object")).unwrap());
        fs::remove_dir_all(root).unwrap();
    }
}
