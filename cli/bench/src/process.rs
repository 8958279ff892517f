//! Processes that the benchmark starts, measures and, whatever happens, ends.

mod folder;
mod tree;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use folder::Folder;
pub(crate) use tree::{ProcessTree, Usage, Used};

/// How long processes may take to end after SIGTERM, before they are killed.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// This executable, even if its file has been replaced meanwhile.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// How much of a process's output an error shows.
const LOG_LINES_SHOWN: usize = 8;
/// Ports are taken from here: below those that Linux gives to outgoing connections, which come and go unasked.
const PORTS: std::ops::Range<u16> = 15_000..30_000;

/// Starts processes: knows this executable, a folder for their files, and free ports.
#[derive(Debug)]
pub(crate) struct Launcher {
    folder: Folder,
    next_port: u16,
}

impl Launcher {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        // Where to begin differs from run to run, so that two at a time seldom try for the same ports.
        let spread = u32::from(PORTS.end - PORTS.start) / 64;
        let next_port = PORTS.start + (std::process::id() % spread * 64) as u16;
        Ok(Self { folder, next_port })
    }

    /// Where the processes' files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A loopback address that nobody listens on and that no other call is given.
    pub(crate) fn free_address(&mut self) -> anyhow::Result<SocketAddr> {
        for _ in PORTS {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next_port));
            self.next_port = if self.next_port + 1 == PORTS.end { PORTS.start } else { self.next_port + 1 };
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        bail!("no free port in {PORTS:?}")
    }

    /// Starts `program`, which gets SIGTERM when this thread ends, in a process group of its own.
    pub(crate) fn start(
        &self,
        name: &str,
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> anyhow::Result<Process> {
        self.start_with(name, program, arguments, None, Stdio::null())
    }

    /// The same, with a variable in its environment and something to read.
    pub(crate) fn start_with(
        &self,
        name: &str,
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = OsString>,
        variable: Option<(&str, &str)>,
        stdin: Stdio,
    ) -> anyhow::Result<Process> {
        let log = self.folder().join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = Command::new(THIS_PROGRAM);
        command.args([crate::PEER_COMMAND, "run", "--parent", &std::process::id().to_string(), "--"]);
        command.arg(program.into()).args(arguments).envs(variable);
        command.stdin(stdin).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
        Ok(Process { name: name.to_owned(), pid, child, log, known: None, status: None })
    }
}

/// A process that was started here. Dropping it ends it and all that it started.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: Pid,
    child: Child,
    log: PathBuf,
    /// What it had started when SIGTERM was sent.
    known: Option<ProcessTree>,
    /// Set once it has been waited for; from then on its number may be another's.
    status: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Fails, with what the process wrote last, if it has ended.
    pub(crate) fn expect_alive(&mut self) -> anyhow::Result<()> {
        if self.has_ended() {
            let status = self.end(Instant::now())?;
            bail!("{} ended ({status}){}", self.name, self.last_lines());
        }
        Ok(())
    }

    /// How it ended, if it does within this time.
    pub(crate) fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(POLL_PAUSE);
        }
        self.end(deadline).ok()
    }

    /// The end of what the process wrote, to be appended to an error.
    pub(crate) fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return String::new();
        }
        format!("; its last lines were:\n{}", lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n"))
    }

    /// Looks without waiting for it: until that is done nobody else can have its number, so killing its group is safe.
    fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_some() || !matches!(waitid(WaitId::Pid(self.pid), look), Ok(None))
    }

    fn ask_to_end(&mut self) {
        if self.known.is_none() && !self.has_ended() {
            self.known = ProcessTree::of(&[self.pid]).ok();
            // It may have ended by itself just now.
            let _ = kill_process(self.pid, Signal::TERM);
        }
    }

    /// Waits until `deadline`, then kills; afterwards neither the process nor anything that it started runs.
    fn end(&mut self, deadline: Instant) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(POLL_PAUSE);
        }
        // An error says that nobody is left in the group.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let status = self.child.wait()?;
        self.status = Some(status);
        if let Some(known) = &self.known {
            known.kill_survivors();
        }
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ask_to_end();
        // Nothing more can be done about a process that cannot even be waited for.
        let _ = self.end(Instant::now() + SHUTDOWN_PATIENCE);
    }
}

/// Processes that belong together. Dropping them asks all to end before it waits for any.
#[derive(Debug, Default)]
pub(crate) struct Processes(pub(crate) Vec<Process>);

impl Processes {
    pub(crate) fn expect_alive(&mut self) -> anyhow::Result<()> {
        self.0.iter_mut().try_for_each(Process::expect_alive)
    }

    /// These processes and all that they have started by now.
    pub(crate) fn tree(&self) -> anyhow::Result<ProcessTree> {
        let roots: Vec<_> = self.0.iter().map(Process::pid).collect();
        ProcessTree::of(&roots)
    }

    /// Waits for processes that are about to end by themselves.
    pub(crate) fn wait_for_end(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.0.iter().all(Process::has_ended) && Instant::now() < deadline {
            std::thread::sleep(POLL_PAUSE);
        }
    }

    pub(crate) fn last_lines(&self) -> String {
        self.0.iter().map(Process::last_lines).find(|lines| !lines.is_empty()).unwrap_or_default()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Process::ask_to_end);
    }
}
