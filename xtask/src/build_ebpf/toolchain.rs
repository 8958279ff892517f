//! Finds a Rust that can compile for BPF, and the linker that belongs to it.

use super::{Install, TARGET, clean, install};
use crate::debian;
use anyhow::{Result, bail};
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The linker's file name.
pub(super) const LINKER: &str = "bpf-linker";
/// The rustc of Debian's `rustc-web`, which lies beside rustup's.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The cargo of Debian's `cargo-web`.
pub(super) const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// A way to build, complete with its linker.
#[derive(Debug)]
pub(super) enum Toolchain {
    /// A rustup nightly that builds `core` itself.
    Nightly {
        /// `bpf-linker`, from `PATH`.
        linker: PathBuf,
    },
    /// Debian's Rust, which has a prebuilt `core` for BPF.
    Debian {
        /// `bpf-linker`, from the cache or from `PATH`.
        linker: PathBuf,
    },
}

impl Toolchain {
    /// This toolchain's cargo, without its verb.
    pub(super) fn cargo(&self) -> Command {
        match self {
            Self::Nightly { .. } => {
                let mut command = clean::command("rustup");
                command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
                command
            }
            Self::Debian { .. } => debian_cargo(),
        }
    }

    /// The linker.
    pub(super) fn linker(&self) -> &Path {
        match self {
            Self::Nightly { linker } | Self::Debian { linker } => linker,
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly { linker } => write!(f, "rustup's nightly and {}", linker.display()),
            Self::Debian { linker } => write!(f, "Debian's Rust ({DEBIAN_RUSTC}) and {}", linker.display()),
        }
    }
}

/// Debian's cargo with Debian's rustc.
pub(super) fn debian_cargo() -> Command {
    let mut command = clean::command(DEBIAN_CARGO);
    // aya-ebpf uses inline assembly for BPF, which a stable compiler allows only this way.
    command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command
}

/// The first way that is complete, or that can be completed.
pub(super) fn find(install: Install) -> Result<Toolchain> {
    if nightly_has_source()
        && let Some(linker) = on_path()
    {
        return Ok(Toolchain::Nightly { linker });
    }
    if !debian_has_core() {
        if install == Install::Forbidden || !debian::can_install() {
            bail!("{}", advice());
        }
        install::packages()?;
        if !debian_has_core() {
            bail!(
                "Debian's packages were installed, but {DEBIAN_RUSTC} still has no `core` for {TARGET}; {}",
                advice()
            );
        }
    }
    match cached().or_else(on_path) {
        Some(linker) => Ok(Toolchain::Debian { linker }),
        None if install == Install::Forbidden => bail!(
            "{LINKER} is not here and installing is forbidden; run `cargo xtask build-ebpf` without `--no-install` to \
             compile it into the cache folder"
        ),
        None => Ok(Toolchain::Debian { linker: install::linker()? }),
    }
}

/// The major version of the LLVM that Debian's rustc is built with; the linker must read its bitcode.
pub(super) fn debian_llvm() -> Option<u32> {
    let mut rustc = clean::command(DEBIAN_RUSTC);
    let text = output(rustc.arg("-vV"))?;
    llvm_major(&text)
}

fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

fn nightly_has_source() -> bool {
    let mut rustc = clean::command("rustup");
    rustc.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    // Without `--install` rustup does not fetch a toolchain that is missing; it fails.
    output(&mut rustc)
        .is_some_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file())
}

fn debian_has_core() -> bool {
    let mut rustc = clean::command(DEBIAN_RUSTC);
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    let Some(folder) = output(&mut rustc) else { return false };
    let Ok(entries) = std::fs::read_dir(folder.trim()) else { return false };
    let has_core = entries.flatten().any(|entry| {
        let name = entry.file_name();
        Path::new(&name).extension() == Some(OsStr::new("rlib")) && name.to_string_lossy().starts_with("libcore-")
    });
    has_core && Path::new(DEBIAN_CARGO).is_file()
}

/// Where [`install::linker`] puts the linker, if it is there.
fn cached() -> Option<PathBuf> {
    Some(install::linker_folder()?.join("bin").join(LINKER)).filter(|path| path.is_file())
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(LINKER)).find(|file| file.is_file())
}

/// What a command prints, if it runs and succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn advice() -> String {
    format!(
        "no toolchain for eBPF is here; run one of these and then `cargo xtask build-ebpf` again:\n\
         \n  on Debian, as root:  {}\n  \
         elsewhere:           rustup toolchain install nightly --component rust-src && cargo install {LINKER}",
        install::packages_command()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linkers_llvm_follows_the_compilers() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn the_advice_is_something_to_type() {
        let advice = advice();
        assert!(advice.contains("apt-get install"), "{advice}");
        assert!(advice.contains("--component rust-src"), "{advice}");
    }
}
