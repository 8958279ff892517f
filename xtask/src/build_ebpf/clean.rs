//! Environments for child processes without what `cargo xtask` itself was started with.
//!
//! rustup and cargo tell their children which toolchain they are in (`RUSTUP_TOOLCHAIN`, `RUSTC`, `CARGO`, flags,
//! library paths). Another toolchain's cargo would believe it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

/// A command for a toolchain other than the one that runs us.
pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| leaks(name)) {
        command.env_remove(name);
    }
    command
}

/// Whether a variable belongs to the toolchain that runs us, and not to the user or the network.
fn leaks(name: &OsStr) -> bool {
    const KEPT: [&str; 7] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "RUSTUP_HOME", "CARGO_TERM_"];
    let Some(name) = name.to_str() else { return false };
    let of_toolchain = ["CARGO", "RUST", "LD_LIBRARY_PATH"].iter().any(|prefix| name.starts_with(prefix));
    of_toolchain && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

/// Cargo's home folder, where the sources of dependencies are.
pub(super) fn cargo_home() -> Option<PathBuf> {
    folder("CARGO_HOME").or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// ramet's cache folder.
pub(crate) fn cache() -> Option<PathBuf> {
    let base = folder("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")))?;
    Some(base.join("ramet"))
}

/// The absolute path in a variable; the XDG rules say that a relative one is to be ignored.
fn folder(variable: &str) -> Option<PathBuf> {
    let value: OsString = env::var_os(variable)?;
    Some(PathBuf::from(value)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_toolchain_is_hidden_from_another() {
        for name in [
            "RUSTUP_TOOLCHAIN",
            "RUSTC",
            "RUSTFLAGS",
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_PKG_NAME",
            "LD_LIBRARY_PATH",
        ] {
            assert!(leaks(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn what_the_user_said_about_network_and_folders_is_kept() {
        for name in ["HOME", "PATH", "CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_REGISTRIES_X_INDEX", "RUSTUP_HOME"] {
            assert!(!leaks(OsStr::new(name)), "{name}");
        }
    }
}
