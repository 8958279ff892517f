//! Kernels and initramfs images, made once and kept outside the checkout.
//!
//! `ramet/vm/SERIES/PACKAGE_VERSION/` in the user's cache folder holds an unpacked image package and beside it the
//! initramfs. Everything is made under another name and renamed when it is whole, under a lock, so a run that is
//! broken off leaves nothing that looks complete, and two runs do not fetch twice.

use super::apt;
use super::initramfs;
use super::series::Series;
use crate::build_ebpf::cache_folder;
use crate::commands::succeeds;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is begun and not yet whole.
const UNFINISHED: &str = "unfinished";

/// A kernel that can be booted.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The compressed kernel.
    pub(super) image: PathBuf,
    /// The folder with all its modules.
    pub(super) modules: PathBuf,
    /// The guest's first root.
    pub(super) initramfs: PathBuf,
}

/// Whether a kernel that is there will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// It will.
    Any,
    /// Debian is asked for a newer one.
    Newest,
}

/// The kernel of a series, fetched if it is not there.
pub(super) fn kernel(series: Series, age: Age) -> Result<Kernel> {
    let cache = cache_folder().context("there is no home folder to cache kernels in; set HOME or XDG_CACHE_HOME")?;
    let folder = cache.join("vm").join(series.name());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let _lock = lock(&folder)?;
    let unfinished = folder.join(UNFINISHED);
    remove(&unfinished)?;
    let package = match newest(&folder, series)? {
        Some(package) if age == Age::Any => package,
        _ => fetch(series, &folder, &unfinished)?,
    };
    let (release, modules) = release(&package)?;
    Ok(Kernel {
        image: package.join("boot").join(format!("vmlinuz-{release}")),
        initramfs: initramfs::ensure(&package, &release, &unfinished)?,
        modules,
    })
}

/// Waits for whoever fills the cache. The lock goes with the returned file.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("waiting for another run that fills {}", folder.display()),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The newest package that is there, whole.
fn newest(folder: &Path, series: Series) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // A package's name ends where its version begins.
    let package_of = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
    let packages: Vec<String> = names.iter().map(|name| package_of(name)).collect();
    let Some(newest) = series.newest(packages.iter().map(String::as_str)) else { return Ok(None) };
    Ok(names.iter().find(|name| package_of(name) == newest).map(|name| folder.join(name)))
}

/// Fetches and unpacks the newest package; returns its folder.
fn fetch(series: Series, folder: &Path, unfinished: &Path) -> Result<PathBuf> {
    eprintln!("fetching Debian's kernel {series} into {} (about 100 MB, once)", folder.display());
    let (download, root) = (unfinished.join("download"), unfinished.join("root"));
    fs::create_dir_all(&download).with_context(|| format!("cannot make {}", download.display()))?;
    let archive = apt::fetch_image(series, &download)?;
    let name = archive.file_stem().context("a package without a name")?.to_owned();
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&archive).arg(&root);
    ensure!(succeeds(&mut unpack)?, "unpacking {} failed, the messages above say why", archive.display());
    if !root.join("lib").exists() {
        // Debian 13's packages have no `/lib` any more, and depmod looks nowhere else.
        symlink("usr/lib", root.join("lib")).context("cannot make a link to usr/lib")?;
    }
    let (release, _) = release(&root)?;
    let mut depmod = Command::new("depmod");
    depmod.arg("-b").arg(&root).arg(&release);
    ensure!(succeeds(&mut depmod)?, "listing the modules' dependencies failed, the messages above say why");
    let package = folder.join(name);
    remove(&package)?;
    fs::rename(&root, &package).with_context(|| format!("cannot put the kernel to {}", package.display()))?;
    remove(unfinished)?;
    Ok(package)
}

/// The release and the modules' folder of an unpacked package, which has just one.
fn release(package: &Path) -> Result<(String, PathBuf)> {
    let folder = package.join("lib/modules");
    let mut entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten();
    let modules = entries.next().with_context(|| format!("{} is empty", folder.display()))?;
    Ok((modules.file_name().to_string_lossy().into_owned(), modules.path()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_is_not_found() {
        let folder = std::env::temp_dir().join(format!("ramet-vm-cache-{}", std::process::id()));
        for name in [UNFINISHED, "linux-image-6.12.9+deb12-amd64_6.12.9-1_amd64"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let found = newest(&folder, Series::V6_12).expect("readable");
        assert_eq!(found, Some(folder.join("linux-image-6.12.9+deb12-amd64_6.12.9-1_amd64")));
        assert_eq!(newest(&folder, Series::V6_1).expect("readable"), None);
        remove(&folder).expect("removable");
        remove(&folder).expect("what is gone is gone");
    }
}
