//! Which kernel modules a guest needs to reach its root and its network, and in which order they can be loaded.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What has to be there before the guest has a root from which modprobe can load more.
const NEEDED: [&str; 9] =
    ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "virtio_net", "veth", "rdma_rxe", "rdma_ucm"];
/// What some kernels have as a module and others have not at all: soft-RoCE asks for it by another name.
const WHERE_IT_EXISTS: [&str; 1] = ["crc32_generic"];

/// The files of all modules under `root`, each after those that it needs.
pub(super) fn in_order(root: &Path, release: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in WHERE_IT_EXISTS {
        if let Ok(listing) = show_depends(root, release, name) {
            add(&mut files, &listing)?;
        }
    }
    for name in NEEDED {
        add(&mut files, &show_depends(root, release, name)?)?;
    }
    Ok(files)
}

fn show_depends(root: &Path, release: &str, name: &str) -> Result<String> {
    let mut command = Command::new("modprobe");
    command.arg("--dirname").arg(root).args(["--set-version", release, "--show-depends", name]).stdin(Stdio::null());
    let output = command.output().context("cannot run modprobe")?;
    ensure!(
        output.status.success(),
        "the kernel {release} has no module {name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Adds what `modprobe --show-depends` lists and is not there yet.
fn add(files: &mut Vec<PathBuf>, listing: &str) -> Result<()> {
    for line in listing.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(' ') {
            Some(("insmod", rest)) => {
                // What follows the file are the module's parameters; module files have no spaces in their names, but
                // the folders above them may.
                let end = [".ko ", ".ko.xz "].iter().find_map(|end| rest.find(end).map(|at| at + end.len() - 1));
                let file = PathBuf::from(rest[..end.unwrap_or(rest.len())].trim_end());
                if !files.contains(&file) {
                    files.push(file);
                }
            }
            Some(("builtin", _)) => {}
            _ => bail!("modprobe lists something that is no module: {line}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_is_loaded_once_after_what_it_needs() {
        let mut files = Vec::new();
        add(&mut files, "insmod /m/netfs.ko.xz \ninsmod /m/9pnet.ko.xz \n").expect("a listing");
        add(&mut files, "builtin virtio_pci\n\ninsmod /m/9pnet.ko.xz \ninsmod /a b/9p.ko cache=1 x=2\n")
            .expect("a listing");
        let names: Vec<_> = files.iter().map(|file| file.to_str().expect("UTF-8")).collect();
        assert_eq!(names, ["/m/netfs.ko.xz", "/m/9pnet.ko.xz", "/a b/9p.ko"]);
    }

    #[test]
    fn a_listing_that_is_none_is_refused() {
        assert!(add(&mut Vec::new(), "install /bin/false\n").is_err());
    }
}
