//! Completes Debian's toolchain: its packages where we are root, and bpf-linker in a cache folder of our own.

use super::toolchain::{LINKER, debian_cargo, debian_llvm};
use super::{clean, show};
use crate::debian;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The version that was tried with this source.
const LINKER_VERSION: &str = "0.13.0";
/// The LLVM of Debian's current rustc-web, as long as it is not installed and cannot be asked.
const LLVM_DEFAULT: u32 = 22;

/// The command that installs the packages, for a person to type.
pub(super) fn packages_command() -> String {
    debian::install_command(&package_names())
}

/// Installs Debian's packages.
pub(super) fn packages() -> Result<()> {
    eprintln!("installing Debian's Rust for eBPF");
    debian::install_packages(&package_names())
}

/// Where [`linker`] installs to.
pub(super) fn linker_folder() -> Option<PathBuf> {
    Some(clean::cache()?.join(LINKER))
}

/// Compiles bpf-linker against the LLVM of Debian's compiler; returns its path.
pub(super) fn linker() -> Result<PathBuf> {
    let folder =
        linker_folder().context("there is no home folder to cache bpf-linker in; set HOME or XDG_CACHE_HOME")?;
    let llvm = debian_llvm().unwrap_or(LLVM_DEFAULT);
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        bail!("{LINKER} cannot be compiled because {prefix} is missing; run: {}", packages_command());
    }
    eprintln!("compiling {LINKER} {LINKER_VERSION} into {} (about a minute, once)", folder.display());
    let mut command = debian_cargo();
    command
        .env("LLVM_PREFIX", prefix)
        .args(["install", LINKER, "--version", LINKER_VERSION, "--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(&folder);
    let status = status(&mut command)?;
    if !status.success() {
        bail!("compiling {LINKER} failed ({status}), the messages above say why; the command was: {}", show(&command));
    }
    Ok(folder.join("bin").join(LINKER))
}

fn package_names() -> Vec<String> {
    let llvm = debian_llvm().unwrap_or(LLVM_DEFAULT);
    let names = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "zlib1g-dev", "libzstd-dev"];
    let names = names.into_iter().map(str::to_owned);
    names.chain([format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]).collect()
}

fn status(command: &mut Command) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {}", show(command)))
}
