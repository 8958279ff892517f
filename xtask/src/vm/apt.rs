//! Fetches a kernel image with apt, under a configuration of our own, so that the machine's stays as it is.

use super::series::Series;
use super::sources;
use crate::commands::{succeeds, typed};
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// apt, seeing one suite only.
struct Apt<'a> {
    folder: &'a Path,
}

/// Fetches the newest image of a series into a folder that is there and empty. Returns the package's path.
pub(super) fn fetch_image(series: Series, folder: &Path) -> Result<PathBuf> {
    let apt = Apt::new(folder, series)?;
    ensure!(
        succeeds(apt.command("apt-get").args(["--quiet", "update"]))?,
        "fetching the package list of {} failed, the messages above say why",
        series.suite()
    );
    let names = apt.package_names()?;
    let package = series.newest(names.lines()).with_context(|| {
        format!(
            "the suite {} of this machine's Debian mirror has no kernel {series}; is the mirror complete?",
            series.suite()
        )
    })?;
    let mut download = apt.command("apt-get");
    download.args(["--quiet", "download", package]).current_dir(folder);
    ensure!(succeeds(&mut download)?, "fetching {package} failed, the messages above say why");
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    paths.find(is_package).with_context(|| format!("apt-get fetched no {package}, though it says that it did"))
}

impl<'a> Apt<'a> {
    fn new(folder: &'a Path, series: Series) -> Result<Self> {
        for needed in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(needed)).context("cannot make a folder for apt")?;
        }
        let sources = sources::for_suite(series.suite(), series.archive())?;
        fs::write(folder.join("suite.sources"), sources).context("cannot write apt's sources")?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, value) in [
            ("Dir::State::Lists", self.folder.join("lists")),
            ("Dir::Etc::SourceList", self.folder.join("suite.sources")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
            ("Dir::Cache", self.folder.to_owned()),
            // apt's own user may not look into a home folder.
            ("APT::Sandbox::User", PathBuf::from("root")),
        ] {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            command.arg("-o").arg(option);
        }
        command.stdin(Stdio::null());
        command
    }

    fn package_names(&self) -> Result<String> {
        let mut command = self.command("apt-cache");
        command.args(["pkgnames", "linux-image-"]);
        let output = command.output().with_context(|| format!("cannot run {}", typed(&command)))?;
        ensure!(
            output.status.success(),
            "listing kernel images failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
