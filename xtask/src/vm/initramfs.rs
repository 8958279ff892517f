//! The guest's first root: a shell, the modules that lead to its real root, and the script that goes there.

use super::modules;
use anyhow::{Context, Result, ensure};
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the guest does.
const INIT: &str = include_str!("init.sh");
/// Debian's statically linked one, which needs nothing beside it.
const BUSYBOX: &str = "/bin/busybox";

/// The image of a kernel package, made if it is not there or its contents would be others.
pub(super) fn ensure(package: &Path, release: &str, unfinished: &Path) -> Result<PathBuf> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    let modules = modules::in_order(package, release)?;
    let image = package.join(format!("initramfs-{:016x}.cpio", digest(&busybox, &modules)));
    if image.is_file() {
        return Ok(image);
    }
    let (tree, archive) = (unfinished.join("tree"), unfinished.join("initramfs.cpio"));
    fill(&tree, &busybox, &modules)?;
    pack(&tree, &archive)?;
    fs::rename(&archive, &image).with_context(|| format!("cannot put the initramfs to {}", image.display()))?;
    Ok(image)
}

/// Tells one content from another; nobody has to be kept from making two alike.
fn digest(busybox: &[u8], modules: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (INIT, busybox, modules).hash(&mut hasher);
    hasher.finish()
}

fn fill(tree: &Path, busybox: &[u8], modules: &[PathBuf]) -> Result<()> {
    for folder in ["bin", "modules"] {
        fs::create_dir_all(tree.join(folder)).with_context(|| format!("cannot make {}", tree.display()))?;
    }
    write_program(&tree.join("bin/busybox"), busybox)?;
    let script = INIT.replacen("#!/bin/sh", "#!/bin/busybox sh", 1);
    write_program(&tree.join("init"), script.as_bytes())?;
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        let plain = name.trim_end_matches(".xz");
        let target = tree.join("modules").join(plain);
        if plain.len() == name.len() {
            fs::copy(module, &target).with_context(|| format!("cannot copy {}", module.display()))?;
        } else {
            unpack(module, &target)?;
        }
        order.push_str(plain);
        order.push('\n');
    }
    fs::write(tree.join("modules/order"), order).context("cannot write the modules' order")
}

fn write_program(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

fn unpack(module: &Path, target: &Path) -> Result<()> {
    let file = File::create(target).with_context(|| format!("cannot make {}", target.display()))?;
    let mut command = Command::new("xz");
    command.args(["--decompress", "--stdout"]).arg(module).stdin(Stdio::null()).stdout(file);
    let status = command.status().context("cannot run xz")?;
    ensure!(status.success(), "unpacking {} failed ({status})", module.display());
    Ok(())
}

/// Not compressed: the emulated processor takes longer to unpack it than QEMU to load it.
fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut names = vec!["init".to_owned()];
    for folder in ["bin", "modules"] {
        names.push(folder.to_owned());
        let entries = fs::read_dir(tree.join(folder)).with_context(|| format!("cannot read {}", tree.display()))?;
        names.extend(entries.flatten().map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())));
    }
    let file = File::create(archive).with_context(|| format!("cannot make {}", archive.display()))?;
    let mut command = Command::new("cpio");
    command.args(["--create", "--format=newc", "--owner=0:0", "--quiet"]).current_dir(tree);
    let mut child = command.stdin(Stdio::piped()).stdout(file).spawn().context("cannot run cpio")?;
    // Taken, so that cpio sees the end of the list.
    let mut list = child.stdin.take().context("cpio has no standard input")?;
    let written = list.write_all((names.join("\n") + "\n").as_bytes());
    drop(list);
    let status = child.wait().context("cannot wait for cpio")?;
    written.context("cannot tell cpio what to pack")?;
    ensure!(status.success(), "packing the initramfs failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_is_another_image() {
        let modules = [PathBuf::from("/m/9p.ko")];
        assert_eq!(digest(b"a", &modules), digest(b"a", &modules));
        assert_ne!(digest(b"a", &modules), digest(b"b", &modules));
        assert_ne!(digest(b"a", &modules), digest(b"a", &[]));
    }
}
