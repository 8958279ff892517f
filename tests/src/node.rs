//! A node of its own for a test: started on free ports, asked over HTTP, stopped by pid.

use std::fs::File;
use std::io::{Seek, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::http::{Answer, Client};
use crate::wait::eventually;

/// Every transport that a test of the whole has to pass with.
pub const TRANSPORTS: [&str; 3] = ["skmsg", "ring", "socket"];

/// How a node is to be started.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// `skmsg`, `ring`, `socket` or `auto`.
    pub transport: &'a str,
    /// Manifest text; `{actor}` and `{hostile}` stand for the test functions' programs.
    pub manifest: &'a str,
    /// Settings, as environment variables.
    pub environment: Vec<(&'a str, String)>,
    /// Whether to wait until it is ready.
    pub wait: bool,
}

impl<'a> Start<'a> {
    /// A node with this manifest that is waited for.
    #[must_use]
    pub fn new(transport: &'a str, manifest: &'a str) -> Self {
        Self { transport, manifest, environment: Vec::new(), wait: true }
    }

    /// The same with a setting.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    child: Option<Child>,
    /// Where requests go.
    pub listen: SocketAddr,
    /// Where `/readyz` is.
    pub admin: SocketAddr,
    folder: TempDir,
}

impl Node {
    /// Starts a node. `None`: this machine cannot, and the reason has been printed; in CI that is a failure.
    ///
    /// # Panics
    /// When the node does not get ready.
    #[must_use]
    pub fn start(start: &Start<'_>) -> Option<Self> {
        if start.transport == "skmsg" && !s_mode_works() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut node = Self { child: None, listen: free_address(), admin: free_address(), folder };
        let manifest = node.write_manifest("start.yaml", start.manifest);
        let log = File::create(node.folder.path().join("log")).expect("a log file");
        let mut command = Command::new(program("ramet"));
        command
            .args(["up", "--transport", start.transport])
            .args(["--listen", &node.listen.to_string(), "--admin", &node.admin.to_string()])
            .arg("--socket")
            .arg(node.socket())
            .arg("-f")
            .arg(manifest)
            // Tests start many nodes, and hardly any fills its pool.
            .env("RAMET_PREFAULT_POOLS", "false")
            .envs(start.environment.iter().map(|(name, value)| (name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log);
        node.child = Some(command.spawn().expect("ramet starts"));
        if start.wait {
            node.wait_ready();
        }
        Some(node)
    }

    /// Waits for `/readyz`.
    ///
    /// # Panics
    /// When the node does not get ready.
    pub fn wait_ready(&mut self) {
        let admin = self.admin;
        eventually("the node to be ready", || {
            let exited = self.child.as_mut().and_then(|child| child.try_wait().expect("wait"));
            assert!(exited.is_none(), "the node ended ({exited:?}):\n{}", self.log());
            let answer = Client::connect(admin).and_then(|mut client| client.request("GET", "/readyz", &[], b""));
            answer.is_ok_and(|answer| answer.status == 200).then_some(())
        });
    }

    /// Writes a manifest with the programs' paths filled in.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn write_manifest(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, filled_in(text)).expect("the manifest can be written");
        path
    }

    /// The admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("ramet.sock")
    }

    /// What the node and its gateway have logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Sends one request on a connection of its own.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut client = self.client();
        client.request(method, target, headers, body).unwrap_or_else(|error| {
            panic!("{method} {target}: {error}\n{}", self.log());
        })
    }

    /// Posts a body.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn post(&self, target: &str, body: &[u8]) -> Answer {
        self.request("POST", target, &[], body)
    }

    /// A kept-alive connection.
    ///
    /// # Panics
    /// When the gateway does not accept it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.listen).expect("the gateway accepts")
    }

    /// Runs a `ramet` command against this node.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ramet(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("ramet"));
        command.args(arguments).arg("--socket").arg(self.socket());
        command.output().expect("ramet runs")
    }

    /// The same with something to read on standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn ramet_fed(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(input).and_then(|()| file.rewind()).expect("the input can be written");
        let mut command = Command::new(program("ramet"));
        command.args(arguments).arg("--socket").arg(self.socket()).stdin(file);
        command.output().expect("ramet runs")
    }

    /// The sum of a metric over all its labels that contain `labels`.
    ///
    /// # Panics
    /// When `/metrics` does not answer.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let mut client = Client::connect(self.admin).expect("admin accepts");
        let answer = client.request("GET", "/metrics", &[], b"").expect("metrics");
        let text = answer.text();
        let matching = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        });
        matching.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until no request holds a slot: as many are free as there are.
    ///
    /// # Panics
    /// When some never come back.
    pub fn wait_all_slots_free(&self) {
        let (mut free, mut all) = (0.0, 0.0);
        eventually("every slot to come back", || {
            (free, all) = (self.metric("ramet_free_slots", ""), self.metric("ramet_slots", ""));
            (free == all && all > 0.0).then_some(())
        });
    }

    /// The node's processes: pid and command line, the supervisor first.
    #[must_use]
    pub fn processes(&self) -> Vec<(Pid, String)> {
        self.child.as_ref().map(|child| family(child.id())).unwrap_or_default()
    }

    /// The processes of a function, by a word of their command line.
    #[must_use]
    pub fn instances(&self, word: &str) -> Vec<Pid> {
        self.processes().into_iter().filter(|(_, line)| line.contains(word)).map(|(pid, _)| pid).collect()
    }

    /// The supervisor's pid.
    ///
    /// # Panics
    /// After the node was stopped.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().expect("running").id() as i32)
    }

    /// Stops the node as an operator would, and waits.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        // A node that has ended already is waited for all the same.
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        eventually("the node to end", || child.try_wait().expect("wait"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() {
                eprintln!("--- the node's log ---\n{}", self.log());
            }
            // Its children end with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program that was built beside this test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let program = folder.join(name);
    assert!(program.exists(), "{} is missing: run `cargo xtask test`", program.display());
    program
}

fn filled_in(text: &str) -> String {
    text.replace("{actor}", &program("actor").display().to_string())
        .replace("{hostile}", &program("hostile").display().to_string())
}

/// A free port of a loopback address that is this process's own: between here and the node's start, the tests beside it
/// open connections, each of which has a port of 127.0.0.1.
fn free_address() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0x80 | high, middle, low), 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

/// Whether S mode runs here, by the node's own word. In CI it has to.
fn s_mode_works() -> bool {
    let output = Command::new(program("ramet")).args(["check", "--transport", "skmsg"]).output().expect("ramet runs");
    if output.status.success() {
        return true;
    }
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(std::env::var_os("CI").is_none(), "CI must run S mode: {why}");
    skipped(&format!("S mode: {}", why.trim()));
    false
}

/// Runs `ramet` as somebody without any privilege, from a folder that is theirs. `None`: that cannot be done here, as
/// has been said.
///
/// # Panics
/// When there is no room for a copy of `ramet`.
#[must_use]
pub fn ramet_without_privilege(arguments: &[&str]) -> Option<Output> {
    ramet_without_privilege_and(arguments, &[])
}

/// The same with settings, as environment variables.
///
/// # Panics
/// When there is no room for a copy of `ramet`.
#[must_use]
pub fn ramet_without_privilege_and(arguments: &[&str], environment: &[(&str, &str)]) -> Option<Output> {
    if !nix::unistd::geteuid().is_root() {
        skipped("only root can become somebody else");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let ramet = folder.path().join("ramet");
    std::fs::copy(program("ramet"), &ramet).expect("copied");
    let nobody = nix::unistd::Uid::from_raw(65_534);
    nix::unistd::chown(folder.path(), Some(nobody), None).expect("chown");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
        .arg(&ramet)
        .args(arguments)
        .current_dir(folder.path())
        .envs(environment.iter().copied())
        .env_remove("XDG_RUNTIME_DIR")
        .output();
    output.inspect_err(|error| skipped(&format!("setpriv: {error}"))).ok()
}

/// Says that something was not tested, and why.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(file) = std::env::var_os("RAMET_TEST_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        // The summary is a courtesy; the line above is the record.
        let _ = file.and_then(|mut file| writeln!(file, "{why}"));
    }
}

/// A process and all its descendants: pid and command line, itself first.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn family(root: u32) -> Vec<(Pid, String)> {
    let mut members = vec![root];
    let mut all: Vec<(u32, u32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // After the command's name, which may hold anything: state, parent.
        let Some(parent) = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok()) else {
            continue;
        };
        all.push((pid, parent));
    }
    let mut index = 0;
    while index < members.len() {
        let parent = members[index];
        members.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        index += 1;
    }
    members
        .into_iter()
        .map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (Pid::from_raw(pid as i32), String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}
