//! Which build of ramet is measured: this one, or that of a git revision, made beside it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, bail, ensure};

use crate::options::NodeOptions;
use crate::process::THIS_PROGRAM;

/// The programs of a build.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// As it was asked for; nothing for this one.
    revision: Option<String>,
    ramet: PathBuf,
    echo: PathBuf,
    /// The settings file of its nodes.
    config: Option<PathBuf>,
}

/// The profile in which the other build is made: the one in which this was.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };
/// Where cargo puts what it makes in it.
const PROFILE_FOLDER: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

impl Build {
    /// The program that runs, with this function or the `echo` beside it.
    pub(crate) fn this(nodes: &NodeOptions) -> anyhow::Result<Self> {
        let echo = match &nodes.function {
            Some(file) => file.clone(),
            None => env::current_exe().context("cannot find this executable")?.with_file_name("echo"),
        };
        let config = nodes.config.as_deref().map(readable).transpose()?;
        Ok(Self { revision: None, ramet: THIS_PROGRAM.into(), echo, config })
    }

    /// The program of a git revision of the source that this is run in. It is compiled if it never was before: the
    /// programs, and what cargo can use again, are kept in the cache folder.
    pub(crate) fn of_revision(revision: &str) -> anyhow::Result<Self> {
        let root =
            git(None, &["rev-parse", "--show-toplevel"]).context("--base needs ramet's source; run this within it")?;
        let root = PathBuf::from(root);
        let commit = git(Some(&root), &["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")])
            .with_context(|| format!("{revision} is no revision of {}", root.display()))?;
        let cache = cache_folder()?;
        let build = Self::kept(revision, &cache.join("builds").join(&commit));
        if build.echo.is_file() {
            return Ok(build);
        }
        compile(&root, &commit, &cache).with_context(|| format!("cannot build {revision}"))?;
        Ok(build)
    }

    fn kept(revision: &str, folder: &Path) -> Self {
        let programs = folder.join(PROFILE_FOLDER);
        let (ramet, echo) = (programs.join("ramet"), programs.join("echo"));
        Self { revision: Some(revision.to_owned()), ramet, echo, config: None }
    }

    /// The same with the settings of another.
    pub(crate) fn with_settings_of(&self, other: &Self) -> Self {
        Self { config: other.config.clone(), ..self.clone() }
    }

    pub(crate) fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    pub(crate) fn ramet(&self) -> &Path {
        &self.ramet
    }

    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The echo function.
    pub(crate) fn function(&self) -> anyhow::Result<&Path> {
        ensure!(
            self.echo.is_file(),
            "there is no {}: build it with `cargo build --release -p echo`",
            self.echo.display()
        );
        Ok(&self.echo)
    }
}

/// The whole path of a file that can be read.
fn readable(file: &Path) -> anyhow::Result<PathBuf> {
    fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(std::path::absolute(file)?)
}

fn cache_folder() -> anyhow::Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let folder = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("ramet").join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// A checkout that is gone when this is dropped.
struct Checkout<'c> {
    root: &'c Path,
    folder: PathBuf,
}

impl Drop for Checkout<'_> {
    fn drop(&mut self) {
        // What is left behind is overwritten by the next checkout.
        let _ = git(Some(self.root), &["worktree", "remove", "--force", &self.folder.to_string_lossy()]);
    }
}

/// Checks the revision out beside the source, compiles it, and keeps its programs.
fn compile(root: &Path, commit: &str, cache: &Path) -> anyhow::Result<()> {
    // Always the same folder, so that cargo knows what it has compiled before.
    let folder = cache.join("checkout");
    let add = ["worktree", "add", "--force", "--detach", &folder.to_string_lossy(), commit];
    let _ = git(Some(root), &["worktree", "remove", "--force", "--force", &folder.to_string_lossy()]);
    git(Some(root), &add)?;
    let checkout = Checkout { root, folder };
    let target = cache.join("target");
    let cargo = |arguments: &[&str]| -> anyhow::Result<()> {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&checkout.folder).env("CARGO_TARGET_DIR", &target).stdin(Stdio::null());
        eprintln!("$ cargo {}", arguments.join(" "));
        let status = command.stdout(std::io::stderr()).status().context("cannot run cargo")?;
        ensure!(status.success(), "`cargo {}` failed; its messages are above", arguments.join(" "));
        Ok(())
    };
    cargo(&["build", "--locked", "--profile", PROFILE, "-p", "ramet", "-p", "echo"])?;
    let has_object = cargo(&["xtask", "build-ebpf"]);
    let kept = cache.join("builds").join(commit);
    fs::create_dir_all(kept.join(PROFILE_FOLDER))?;
    fs::create_dir_all(kept.join("ebpf"))?;
    match has_object {
        Ok(()) => drop(fs::copy(target.join("ebpf/ramet.bpf.o"), kept.join("ebpf/ramet.bpf.o"))?),
        // Then S mode is left out, with the reason.
        Err(error) => eprintln!("warning: {error:#}"),
    }
    // The last one says that all are there.
    for program in ["ramet", "echo"] {
        let from = target.join(PROFILE_FOLDER).join(program);
        let to = kept.join(PROFILE_FOLDER).join(program);
        let staged = to.with_extension("tmp");
        fs::copy(&from, &staged).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::rename(&staged, &to)?;
    }
    Ok(())
}

/// What git says, without the end of the line.
fn git(folder: Option<&Path>, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command.args(arguments).stdin(Stdio::null());
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = command.output().context("cannot run git")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = if said.trim().is_empty() { output.status.to_string() } else { said.trim().to_owned() };
        bail!("`git {}` failed: {why}", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_revision_is_refused_before_anything_is_built() {
        let error = Build::of_revision("no-such-revision").expect_err("there is none");
        let text = format!("{error:#}");
        assert!(text.contains("no-such-revision") || text.contains("source"), "{text}");
    }

    #[test]
    fn a_function_that_is_not_there_is_named() {
        let function = Some("/no/such/echo".into());
        let build = Build::this(&NodeOptions { function, config: None }).expect("a path");
        let error = build.function().expect_err("it is not there");
        assert!(error.to_string().contains("/no/such/echo"), "{error}");
    }
}
