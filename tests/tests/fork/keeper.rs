//! `ramet fork serve`, or a node, and the commands that ask it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ramet_tests::eventually;
use ramet_tests::node::program;
use serde_json::Value;
use tempfile::TempDir;

use super::target;

/// Somebody who keeps seeds. `ramet fork serve` ends with it.
#[derive(Debug)]
pub(crate) struct Keeper {
    process: Option<Child>,
    socket: PathBuf,
    folder: TempDir,
}

impl Keeper {
    /// `ramet fork serve`.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with options.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut keeper = Self { process: None, socket: folder.path().join("s"), folder };
        keeper.serve(options);
        keeper
    }

    /// A node's.
    pub(crate) fn of_node(socket: PathBuf) -> Self {
        Self { process: None, socket, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Starts it once more, where it was killed.
    pub(crate) fn start_again(&mut self) {
        self.serve(&[]);
    }

    fn serve(&mut self, options: &[&str]) {
        let log = File::create(self.folder.path().join("log")).expect("a log");
        let mut command = self.command(&["serve"]);
        if let Ok(address) = std::env::var("XTASK_VM_ADDRESS") {
            // A guest's RDMA device has the address of its network.
            command.args(["--listen", &format!("{address}:0")]);
        }
        let command = command.args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("ramet starts"));
        eventually("who keeps seeds to answer", || (code(&self.ramet(&["list"])) == 0).then_some(()));
    }

    /// Tries to keep seeds where this one does; it has so long to say that it cannot.
    pub(crate) fn serve_again(&self, patience: Duration) -> Output {
        let mut command = Command::new("timeout");
        command.arg(patience.as_secs().to_string()).arg(program("ramet"));
        command.args(["fork", "serve", "--socket"]).arg(&self.socket).output().expect("ramet runs")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its socket for those who ask.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.with_file_name("s.fork")
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.as_ref().expect("it runs").id().cast_signed())
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) {
        self.process.take().expect("it runs").wait().expect("reaped");
    }

    /// A command that asks it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("ramet"));
        command.arg("fork").args(arguments).arg("--socket").arg(&self.socket);
        command
    }

    /// What a command that asks it says.
    pub(crate) fn ramet(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("ramet runs")
    }

    /// Its seeds.
    pub(crate) fn list(&self) -> Value {
        serde_json::from_str(&done(&self.ramet(&["list", "-o", "json"]))).expect("seeds")
    }

    /// A command that makes children of a seed.
    pub(crate) fn resume_command(&self, seed: &Seed, options: &[&str]) -> Command {
        let mut command = self.command(&["resume", &seed.address, "--handle", &seed.handle]);
        command.args(options).env("RAMET_FORK_KEY", &seed.key);
        command
    }

    /// Makes children that can be spoken to.
    pub(crate) fn resume(&self, seed: &Seed, options: &[&str]) -> Children {
        self.children(self.resume_command(seed, options))
    }

    /// The same with a command.
    pub(crate) fn children(&self, mut command: Command) -> Children {
        let error = tempfile::NamedTempFile::new_in(self.folder()).expect("a file");
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.stderr(error.reopen().expect("a file")).spawn().expect("ramet starts");
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("output"));
        Children { process, input, output, error }
    }

    /// Fails to make children, which find nothing to read should there be some.
    pub(crate) fn resume_fails(&self, seed: &Seed, options: &[&str]) -> Output {
        let output = self.resume_command(seed, options).stdin(Stdio::null()).output().expect("ramet runs");
        assert_ne!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(err(&output).lines().count(), 1, "one clear error: {}", err(&output));
        output
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            if std::thread::panicking() {
                eprintln!("--- the keeper's log ---\n{}", self.log());
            }
            let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            let _ = process.wait();
        }
    }
}

/// A seed that was prepared.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    pub(crate) address: String,
    pub(crate) handle: String,
    pub(crate) key: String,
    /// All that was printed.
    pub(crate) printed: Value,
}

impl Seed {
    pub(crate) fn prepare(keeper: &Keeper, pid: i32) -> Self {
        Self::prepare_for(keeper, pid, "10m")
    }

    pub(crate) fn prepare_for(keeper: &Keeper, pid: i32, lease: &str) -> Self {
        let printed = done(&keeper.ramet(&["prepare", &pid.to_string(), "--lease", lease, "-o", "json"]));
        let printed: Value = serde_json::from_str(&printed).expect("a seed");
        let text = |field: &str| printed[field].as_str().expect("text").to_owned();
        Self { address: text("address"), handle: text("handle"), key: text("key"), printed: printed.clone() }
    }
}

/// Children whose standard streams are their command's.
#[derive(Debug)]
pub(crate) struct Children {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    error: tempfile::NamedTempFile,
}

impl Children {
    /// The rows that the command prints, in JSON.
    pub(crate) fn rows(&mut self) -> Value {
        let mut text = String::new();
        while text.lines().last() != Some("]") {
            assert_ne!(self.output.read_line(&mut text).expect("output"), 0, "no rows: {text}{}", self.said());
        }
        serde_json::from_str(&text).expect("rows")
    }

    pub(crate) fn ask(&mut self) -> String {
        self.ask_for(b'?').expect("it has ended instead of answering")
    }

    /// What one says of a part of its data. None: it has ended instead.
    pub(crate) fn ask_for(&mut self, what: u8) -> Option<String> {
        target::ask(self.input.as_mut().expect("open"), &mut self.output, what)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// Lets the children come to the end of their input, and waits for the command.
    pub(crate) fn close(mut self) -> (ExitStatus, String) {
        self.input = None;
        self.wait()
    }

    /// Waits for the command.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let status = eventually("the command to end", || self.process.try_wait().expect("wait"));
        (status, self.said())
    }

    fn said(&self) -> String {
        let mut text = String::new();
        self.error.reopen().and_then(|mut file| file.read_to_string(&mut text)).expect("read");
        text
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        // One that has ended is reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("ramet ends by itself")
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The output of a command that has to succeed.
pub(crate) fn done(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}", err(output));
    assert_eq!(err(output), "", "who succeeds has nothing to explain");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of fields.
pub(crate) trait Names {
    fn names(&self) -> BTreeSet<String>;
}

impl Names for Value {
    fn names(&self) -> BTreeSet<String> {
        self.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
    }
}

impl<const N: usize> Names for [&str; N] {
    fn names(&self) -> BTreeSet<String> {
        self.iter().map(|name| (*name).to_owned()).collect()
    }
}

pub(crate) fn keys(of: &impl Names) -> BTreeSet<String> {
    of.names()
}
