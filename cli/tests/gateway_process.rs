//! What the gateway is as a process: it logs as its node was told to, and nobody looks into its memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// How long a node may take to log what is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

/// The gateway's first words, at the level `debug`.
const FIRST_WORDS: &str = "the gateway starts";

/// A node. Its children end with it.
struct Node {
    supervisor: Child,
    lines: mpsc::Receiver<String>,
    folder: TempDir,
}

impl Node {
    fn start(settings: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("ramet.toml");
        std::fs::write(&config, settings).expect("written");
        let mut supervisor = Command::new(env!("CARGO_BIN_EXE_ramet"))
            .args(["up", "--transport", "socket", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"])
            .arg(config)
            .arg("--socket")
            .arg(folder.path().join("ramet.sock"))
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a supervisor");
        let stderr = BufReader::new(supervisor.stderr.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { supervisor, lines, folder }
    }

    /// Its gateway, by the node's own word.
    fn gateway_pid(&self) -> u32 {
        let mut stream = UnixStream::connect(self.folder.path().join("ramet.sock")).expect("the node listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(b"GET /v1/node HTTP/1.1\r\nhost: ramet\r\nconnection: close\r\n\r\n").expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let node: ramet_control::admin::Node = serde_json::from_str(body).expect("JSON");
        node.gateway_pid.expect("a gateway")
    }

    /// The first line that has `words` in it.
    fn line_with(&self, words: &str) -> String {
        let mut log = String::new();
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            if line.contains(words) {
                return line;
            }
            log.push_str(&line);
            log.push('\n');
        }
        panic!("no line with {words:?} in the log:\n{log}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

const JSON: &str = "[log]\nlevel = \"debug\"\nformat = \"json\"\n";

#[test]
fn it_logs_as_the_settings_file_says() {
    let node = Node::start(JSON, &[]);
    let line = node.line_with(FIRST_WORDS);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(line["level"], "DEBUG");
}

#[test]
fn a_variable_comes_before_the_file() {
    let line = Node::start(JSON, &[("RAMET_LOG__FORMAT", "text")]).line_with(FIRST_WORDS);
    assert!(line.contains("DEBUG") && !line.starts_with('{'), "{line}");
}

#[test]
fn a_process_of_the_same_user_cannot_read_its_memory() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must be root");
        eprintln!("skipped: only root can start a process as the gateway's user");
        return;
    }
    let node = Node::start(JSON, &[]);
    // What it does before its first words is done.
    node.line_with(FIRST_WORDS);
    let gateway = node.gateway_pid();
    let user = std::fs::read_to_string(format!("/proc/{gateway}/status")).expect("a status");
    let user = user.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    let user = user.and_then(|uid| uid.parse().ok()).expect("a user");
    assert_ne!(user, 0, "the gateway is not root");
    // What is refused here must be allowed with an ordinary process, or this test says nothing.
    let mut other = as_user(user, "read line").stdin(Stdio::piped()).spawn().expect("a process");
    let readable = opens_memory(user, other.id());
    drop(other.stdin.take());
    other.wait().expect("reaped");
    assert!(readable.is_ok(), "an ordinary process of the user: {readable:?}");
    let error = opens_memory(user, gateway).expect_err("the gateway's memory was opened");
    assert!(error.contains("ermission denied"), "{error}");
}

/// Whether a process of that user can open the memory of a process; if not, what its shell says.
fn opens_memory(user: u32, pid: u32) -> Result<(), String> {
    let output = as_user(user, &format!("exec 3</proc/{pid}/mem")).output().expect("a shell");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn as_user(user: u32, script: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).env_clear().current_dir("/").uid(user).gid(user);
    shell
}
