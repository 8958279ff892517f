//! `build-ebpf`: compiles SPROXY with whichever BPF toolchain is here, because no single one is everywhere.
//!
//! Two ways lead to the same object: a rustup nightly with `rust-src` builds `core` for BPF itself, and Debian ships a
//! Rust with a prebuilt one. Both link with bpf-linker. [`toolchain`] finds the way, [`install`] completes Debian's,
//! [`inputs`] knows when there is nothing to do, and [`clean`] keeps one toolchain's variables from another.

mod clean;
mod inputs;
mod install;
mod toolchain;

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use toolchain::Toolchain;

pub(crate) use clean::cache as cache_folder;

/// The program's name and the object's: SPROXY, and the redirect that the benchmark compares it with.
const OBJECTS: [(&str, &str); 2] = [("ramet", "ramet.bpf.o"), ("bare", "bare.bpf.o")];
/// The Rust target of BPF on little-endian machines.
const TARGET: &str = "bpfel-unknown-none";

/// The arguments of `cargo xtask build-ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not install anything: no Debian packages, no bpf-linker
    #[arg(long)]
    no_install: bool,
    /// Build even if nothing has changed
    #[arg(long)]
    force: bool,
}

/// Whether missing tools may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Install {
    /// Where it can be done without asking: as root on Debian, and into the own cache folder.
    Allowed,
    /// Never.
    Forbidden,
}

/// Whether an object that is newer than its sources is built again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It is kept.
    Reuse,
    /// It is built again.
    Rebuild,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let install = if args.no_install { Install::Forbidden } else { Install::Allowed };
    let freshness = if args.force { Freshness::Rebuild } else { Freshness::Reuse };
    let object = ensure(install, freshness)?;
    println!("{}", object.display());
    Ok(())
}

/// Makes sure that the objects are there and up to date; returns the path of SPROXY's.
pub(crate) fn ensure(install: Install, freshness: Freshness) -> Result<PathBuf> {
    ensure!(cfg!(target_endian = "little"), "the eBPF object can be built on little-endian machines only");
    let root = workspace_root()?;
    let target = target_directory(&root)?;
    let objects = OBJECTS.map(|(_, object)| target.join("ebpf").join(object));
    let [sproxy, _] = &objects;
    let mut are_fresh = freshness == Freshness::Reuse;
    for object in &objects {
        are_fresh = are_fresh && inputs::are_older_than(&root, object)?;
    }
    if are_fresh {
        return Ok(sproxy.clone());
    }
    let toolchain = toolchain::find(install)?;
    eprintln!("building the eBPF object with {toolchain}");
    let built = build(&root, &target, &toolchain)?;
    for ((program, _), object) in OBJECTS.iter().zip(&objects) {
        publish(&built.join(program), object)?;
    }
    Ok(sproxy.clone())
}

/// Compiles and links; returns the folder of cargo's output.
fn build(root: &Path, target: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let folder = target.join("ebpf").join("build");
    let mut command = toolchain.cargo();
    command
        .current_dir(root.join("ebpf/programs"))
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(&folder)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", toolchain.linker())
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root))
        .stdin(Stdio::null());
    let status = command.status().with_context(|| format!("cannot run {}", show(&command)))?;
    if !status.success() {
        bail!(
            "building the eBPF object failed ({status}); the messages above say why, the command was: {}",
            show(&command)
        );
    }
    Ok(folder.join(TARGET).join("release"))
}

/// The flags, separated as cargo wants them so that a path may hold spaces.
fn rustflags(root: &Path) -> OsString {
    let mut flags = OsString::new();
    // Atomics that return the old value came with the third version of the instruction set; Linux 5.12 has them all.
    // Debug information is where the linker takes BTF from. The remapping keeps the builder's paths out of it.
    for flag in ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"] {
        flags.push(flag);
        flags.push("\u{1f}");
    }
    flags.push("--remap-path-prefix=");
    flags.push(root);
    flags.push("=.");
    if let Some(home) = clean::cargo_home() {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(home);
        flags.push("=/cargo");
    }
    flags
}

/// Puts the object where the loader looks, in one step: a test may be reading the old one.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let staged = object.with_extension(format!("{}.tmp", std::process::id()));
    fs::copy(built, &staged)
        .with_context(|| format!("cannot copy the eBPF object from {} to {}", built.display(), staged.display()))?;
    fs::rename(&staged, object).with_context(|| format!("cannot put the eBPF object to {}", object.display()))
}

pub(crate) fn workspace_root() -> Result<PathBuf> {
    // What `cargo xtask` says now. What was so when this was compiled may be another checkout's, if they share a target
    // folder.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&xtask).parent().context("the xtask crate has no parent folder; build it anew")?;
    ensure!(
        root.join("ebpf/programs/Cargo.toml").is_file(),
        "{} is not ramet's source any more; was it moved after xtask was built? Run `cargo xtask` from its new place",
        root.display()
    );
    Ok(root.to_owned())
}

/// Where cargo puts things, whether by default, `CARGO_TARGET_DIR` or a configuration file.
pub(crate) fn target_directory(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["metadata", "--no-deps", "--format-version", "1"]).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {}", show(&command)))?;
    ensure!(
        output.status.success(),
        "asking cargo for the target folder failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the output of `cargo metadata` is not JSON")?;
    let folder = metadata["target_directory"].as_str().context("`cargo metadata` names no target folder")?;
    Ok(folder.into())
}

/// A command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
