//! A node under test, and what a test asks of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ramet_control::admin::{Applied, Apply, Instance, Node, Object, Problem, Source};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// How long anything may take: less than the supervisor waits for a child that hangs, so that such a wait shows.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A running node. It is killed when this is dropped, and what it logged is printed if the test failed.
pub(crate) struct Running {
    pub(crate) supervisor: Child,
    folder: TempDir,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// A manifest of a function that this program plays.
pub(crate) fn function(name: &str, behaviour: &str, more: &str) -> String {
    let program = std::env::current_exe().expect("this program");
    format!(
        "apiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\n\
         spec: {{command: [{:?}, function, {behaviour}], {more}}}\n---\n",
        program.display().to_string()
    )
}

/// A manifest of a chain through these functions.
pub(crate) fn chain(name: &str, functions: &[&str], more: &str) -> String {
    let steps: Vec<_> = functions.iter().map(|name| format!("{{function: {name}}}")).collect();
    format!(
        "apiVersion: ramet.dev/v1alpha1\nkind: Chain\nmetadata: {{name: {name}}}\n\
         spec: {{steps: [{}], {more}}}\n---\n",
        steps.join(", ")
    )
}

/// Waits until `probe` gives something.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not happen in time: {what}");
        // tidy: the pause between two looks at a condition, not a wait for it
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the process runs; one that waits to be reaped does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z')
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("signalled");
}

impl Running {
    /// Starts a node and waits until all of it is ready.
    pub(crate) fn ready(transport: &str, manifests: &str) -> Self {
        let node = Self::start(transport, manifests);
        node.wait_ready();
        eventually("every replica is ready", || {
            let functions: Vec<Object> = node.get("/v1/objects?kind=Function");
            let complete = |function: &Object| function.status.ready_instances == function.status.wanted_instances;
            functions.iter().all(complete).then_some(())
        });
        node
    }

    /// Starts a node.
    pub(crate) fn start(transport: &str, manifests: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = folder.path().join("ramet.yaml");
        std::fs::write(&manifest, manifests).expect("written");
        let mut command = Self::command(&folder, transport);
        let mut supervisor = command.arg(manifest).stderr(Stdio::piped()).spawn().expect("a supervisor");
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = supervisor.stderr.take().expect("piped");
        let into = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { supervisor, folder, log, reader: Some(reader) }
    }

    fn command(folder: &TempDir, transport: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .arg("up")
            .env("RAMET_SOCKET", folder.path().join("ramet.sock"))
            .env("RAMET_LISTEN", "127.0.0.1:0")
            .env("RAMET_ADMIN", "127.0.0.1:0")
            .env("RAMET_TRANSPORT", transport)
            .env("RAMET_GATEWAY__WORKERS", "2")
            .env("RAMET_POOL__4Ki", "64")
            .stdin(Stdio::null());
        command
    }

    /// Tries to start another node on this one's socket.
    pub(crate) fn start_twin(&self) -> (ExitStatus, String) {
        let output = Self::command(&self.folder, "ring").output().expect("it ran");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("ramet.sock")
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn wait_ready(&self) {
        eventually("the node is ready", || self.try_node().filter(|node| node.waiting_for.is_empty()));
    }

    fn try_node(&self) -> Option<Node> {
        let (status, body) = self.request("GET", "/v1/node", "")?;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).ok()
    }

    pub(crate) fn node(&self) -> Node {
        self.try_node().expect("the node answers")
    }

    /// An HTTP request to the admin socket; `None` where nobody answers.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: ramet\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.request("GET", path, "").expect("an answer");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    pub(crate) fn apply(&self, manifests: &str) -> Result<Applied, Problem> {
        let source = Source { name: "test.yaml".to_owned(), base_dir: String::new(), text: manifests.to_owned() };
        let body = serde_json::to_string(&Apply { sources: vec![source] }).expect("JSON");
        outcome(self.request("POST", "/v1/apply", &body).expect("an answer"))
    }

    pub(crate) fn delete(&self, kind: &str, name: &str) -> Result<Applied, Problem> {
        let path = format!("/v1/objects?kind={kind}&namespace=default&name={name}");
        outcome(self.request("DELETE", &path, "").expect("an answer"))
    }

    pub(crate) fn instances(&self) -> Vec<Instance> {
        self.get("/v1/instances")
    }

    /// The instances of a function that are ready.
    pub(crate) fn ready_instances(&self, function: &str) -> Vec<Instance> {
        let mut instances = self.instances();
        instances.retain(|instance| instance.function == function && instance.state == "ready");
        instances
    }

    pub(crate) fn pids(&self, function: &str) -> Vec<u32> {
        self.ready_instances(function).into_iter().map(|instance| instance.pid).collect()
    }

    pub(crate) fn object(&self, kind: &str, name: &str) -> Object {
        let mut objects: Vec<Object> = self.get(&format!("/v1/objects?kind={kind}&name={name}"));
        assert_eq!(objects.len(), 1, "{kind} {name}");
        objects.remove(0)
    }

    /// Asks the test's gateway something.
    pub(crate) fn ask_gateway(&self, question: &str) -> String {
        let mut stream = TcpStream::connect(self.node().listen).expect("the gateway listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        writeln!(stream, "{question}").expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    /// Sends a message to a chain, and returns the instance that replied.
    pub(crate) fn send(&self, chain: &str) -> Result<u32, String> {
        let answer = self.ask_gateway(&format!("send default/{chain}"));
        answer.parse().map_err(|_| answer)
    }

    pub(crate) fn gateway_log(&self) -> Vec<String> {
        self.ask_gateway("log").lines().map(str::to_owned).collect()
    }

    /// Every process of the node but the supervisor.
    pub(crate) fn children(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.instances().into_iter().map(|instance| instance.pid).collect();
        pids.extend(self.node().gateway_pid);
        pids
    }

    /// Tells the node to end, and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        signal(self.supervisor.id(), Signal::TERM);
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = eventually("the supervisor ends", || self.supervisor.try_wait().expect("a child"));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() || std::env::var_os("RAMET_TEST_LOG").is_some() {
            eprintln!("--- the node's log ---\n{}", self.log());
        }
    }
}

fn outcome((status, body): (u16, String)) -> Result<Applied, Problem> {
    if status == 200 {
        return Ok(serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")));
    }
    let problem: Problem = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!(problem.status, status);
    Err(problem)
}
