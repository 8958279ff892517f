//! A node of our own: started on free addresses, waited for, asked, and stopped, whatever happens in between.

use super::http;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, DirBuilder, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a node may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(20);
/// How many lines of its log are shown when it fails.
const LOG_LINES: usize = 20;

/// A running `ramet up`.
#[derive(Debug)]
pub(super) struct Node {
    /// Where it takes requests.
    pub(super) listen: SocketAddr,
    admin: SocketAddr,
    program: PathBuf,
    log: PathBuf,
    /// A folder of its own, for the socket.
    folder: PathBuf,
    child: Child,
}

/// What a node says of itself.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) transport: String,
    pub(super) reason: String,
}

impl Node {
    /// Starts it with a manifest; what it writes goes to `log`.
    pub(super) fn start(program: &Path, manifest: &Path, log: &Path) -> Result<Self> {
        // Both are held until both are known, so that they differ.
        let (listen, admin) = (free_address()?, free_address()?);
        let (listen, admin) = (listen.local_addr()?, admin.local_addr()?);
        let folder = std::env::temp_dir().join(format!("ramet-demo-{}", std::process::id()));
        // Whoever may enter the folder may command the node.
        DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command.arg("up").arg("-f").arg(manifest);
        command.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
        command.arg("--socket").arg(socket(&folder));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        eprintln!("$ {}", crate::commands::typed(&command));
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self { listen, admin, program: program.to_owned(), log: log.to_owned(), folder, child })
    }

    /// Waits until every instance is there.
    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot look at the node")? {
                bail!("the node ended ({status}):\n{}", self.last_words());
            }
            let waits_for = match http::request(self.admin, "GET", "/readyz", &[]) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => String::from_utf8_lossy(&answer.body).trim().to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("the node is not ready after {START_PATIENCE:?}: {waits_for}\n{}", self.last_words());
            }
            sleep(PAUSE);
        }
    }

    /// Asks it for its transport.
    pub(super) fn status(&self) -> Result<Status> {
        let mut command = Command::new(&self.program);
        command.args(["get", "node", "-o", "json", "--socket"]).arg(socket(&self.folder)).stdin(Stdio::null());
        let output = command.output().context("cannot ask the node for its status")?;
        ensure!(output.status.success(), "the node did not answer: {}", String::from_utf8_lossy(&output.stderr).trim());
        let node: Value = serde_json::from_slice(&output.stdout).context("the node's status is not JSON")?;
        let text = |name: &str| {
            node[name].as_str().map(str::to_owned).with_context(|| format!("the node's status has no `{name}`"))
        };
        Ok(Status { transport: text("transport")?, reason: text("transport_reason")? })
    }

    /// Asks it to stop, and waits.
    pub(super) fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < STOP_PATIENCE {
            if let Some(status) = self.child.try_wait().context("cannot look at the node")? {
                ensure!(status.success(), "the node stopped badly ({status}):\n{}", self.last_words());
                println!("the node stopped {} ms after SIGTERM", start.elapsed().as_millis());
                return Ok(());
            }
            sleep(PAUSE);
        }
        bail!("the node still runs {STOP_PATIENCE:?} after SIGTERM:\n{}", self.last_words())
    }

    fn signal(&self, signal: Signal) {
        // A process that has ended already needs no signal.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("{}\n(all of it: {})", last.join("\n"), self.log.display())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // After `stop` there is nothing left to do; after an error there is nobody left who would.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("admin.sock")
}

fn free_address() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")
}
