//! What the build needs from the system, and how to get it where that can be done without asking.

use crate::build_ebpf::Install;
use crate::commands::{says_yes, succeeds};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Something that is needed: Debian's package, and a command that succeeds where it is there.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) package: &'static str,
    pub(crate) probe: &'static [&'static str],
}

/// libbpf, the second loader that the tests compare with, is compiled from source against these.
const NEEDS: [Need; 4] = [
    Need { package: "make", probe: &["make", "--version"] },
    Need { package: "pkg-config", probe: &["pkg-config", "--version"] },
    Need { package: "libelf-dev", probe: &["pkg-config", "--exists", "libelf"] },
    Need { package: "zlib1g-dev", probe: &["pkg-config", "--exists", "zlib"] },
];

/// Programs that the tests fork, as they are.
const FORKED: [Need; 3] = [
    Need { package: "gcc", probe: &["cc", "--version"] },
    Need { package: "python3-numpy", probe: &["/usr/bin/python3", "-c", "import numpy"] },
    Need { package: "nodejs", probe: &["node", "--version"] },
];

/// Makes sure that the tests find what they fork.
pub(crate) fn ensure_forked_programs(install: Install) -> Result<()> {
    ensure_packages("the tests of forks", &FORKED, install)
}

/// Makes sure that the workspace can be compiled.
pub(crate) fn ensure_build_packages(install: Install) -> Result<()> {
    ensure_packages("the build", &NEEDS, install)
}

/// Makes sure that everything is there that `who` needs.
pub(crate) fn ensure_packages(who: &str, needs: &[Need], install: Install) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(", ");
    ensure!(
        install == Install::Allowed && can_install(),
        "{who} needs {names}; on Debian, run as root: {}",
        install_command(&missing)
    );
    eprintln!("installing what {who} needs from Debian: {names}");
    install_packages(&missing)
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let is_missing = |need: &&Need| {
        let (program, arguments) = need.probe.split_first().unwrap_or((&"false", &[]));
        !says_yes(Command::new(program).args(arguments))
    };
    needs.iter().filter(is_missing).map(|need| need.package).collect()
}

/// Whether [`install_packages`] would work: on Debian, as root.
pub(crate) fn can_install() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    is_debian(&release) && Path::new("/usr/bin/apt-get").exists() && is_root()
}

/// The command that installs the packages, for a person to type.
pub(crate) fn install_command(packages: &[impl AsRef<OsStr>]) -> String {
    crate::commands::typed(&apt_install(packages))
}

/// Installs packages. Debian's lists may be old or missing, so they are fetched if the first attempt fails.
pub(crate) fn install_packages(packages: &[impl AsRef<OsStr>]) -> Result<()> {
    if succeeds(&mut apt_install(packages))? {
        return Ok(());
    }
    let mut update = apt();
    update.arg("update");
    if !succeeds(&mut update).context("fetching Debian's package lists")? {
        bail!("fetching Debian's package lists failed, the messages above say why; run: apt-get update");
    }
    if !succeeds(&mut apt_install(packages))? {
        bail!("installing Debian's packages failed, the messages above say why; run: {}", install_command(packages));
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

fn apt_install(packages: &[impl AsRef<OsStr>]) -> Command {
    let mut command = apt();
    command.args(["install", "-y", "--no-install-recommends"]).args(packages);
    command
}

/// Descendants do not ship Debian's Rust for eBPF, so Debian itself it must be.
fn is_debian(os_release: &str) -> bool {
    os_release.lines().any(|line| line == "ID=debian")
}

/// The kernel says who we are by the owner of our own process's folder.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_is_told_from_others() {
        assert!(is_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(!is_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(!is_debian("ID=fedora\nHOME_URL=\"https://debian.example\"\n"));
    }

    #[test]
    fn the_command_to_type_names_every_package() {
        let command = install_command(&["make", "libelf-dev"]);
        assert_eq!(command, "apt-get install -y --no-install-recommends make libelf-dev");
    }
}
