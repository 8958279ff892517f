//! Keeps the last lines that each function wrote, and passes new ones to whoever follows.
//!
//! One task owns the lines. Readers of pipes send to it through a short queue, so a function that writes faster than
//! lines are kept waits in its own `write`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use ramet_common::InstanceId;
use ramet_control::admin::LogLine;
use ramet_manifest::QualifiedName;
use ramet_sys::Captured;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

/// The longest line in bytes; longer ones are split.
const LINE_BYTES_MAX: usize = 8 << 10;
/// How many lines are kept of each function.
const LINES_MAX: usize = 1000;
/// How many bytes of lines are kept of each function.
const BYTES_MAX: usize = 256 << 10;
/// How far behind a follower may fall before it misses lines.
const FOLLOW_BEHIND_MAX: usize = 1024;
/// How many lines may wait to be kept.
const QUEUE: usize = 64;

/// Which lines somebody wants; `None` is any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    pub(crate) function: Option<String>,
}

impl Filter {
    /// Whether a line is wanted.
    pub(crate) fn admits(&self, line: &LogLine) -> bool {
        let same = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        same(&self.namespace, &line.namespace) && same(&self.function, &line.function)
    }
}

/// The kept lines that pass a filter, and those to come.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) lines: Vec<LogLine>,
    pub(crate) following: broadcast::Receiver<LogLine>,
}

#[derive(Debug)]
enum Command {
    Keep(LogLine),
    Read(Filter, oneshot::Sender<Reading>),
    Forget(QualifiedName),
    End,
}

/// The way to the task that keeps the lines.
#[derive(Clone, Debug)]
pub(crate) struct Logs(mpsc::Sender<Command>);

impl Logs {
    /// Starts the task. It ends when it is told to, or with the last clone of this.
    pub(crate) fn start() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(keep(receiver));
        Self(sender)
    }

    /// Keeps what a function's instance writes from now on. The task ends with the pipes.
    pub(crate) fn capture(&self, function: &QualifiedName, instance: InstanceId, captured: Captured) -> JoinHandle<()> {
        let writer =
            |stream: &'static str| Writer { logs: self.0.clone(), function: function.clone(), instance, stream };
        let (stdout, stderr) = (writer("stdout"), writer("stderr"));
        tokio::spawn(async move {
            tokio::join!(stdout.copy(captured.stdout.into()), stderr.copy(captured.stderr.into()));
        })
    }

    /// The lines kept so far, oldest first. Empty when the task is gone.
    pub(crate) async fn read(&self, filter: Filter) -> Option<Reading> {
        let (answer, reading) = oneshot::channel();
        self.0.send(Command::Read(filter, answer)).await.ok()?;
        reading.await.ok()
    }

    /// The last lines that one instance wrote.
    pub(crate) async fn last_words(&self, function: &QualifiedName, instance: InstanceId, most: usize) -> Vec<String> {
        let filter =
            Filter { namespace: Some(function.namespace.to_string()), function: Some(function.name.to_string()) };
        let lines = self.read(filter).await.map(|reading| reading.lines).unwrap_or_default();
        let mut last: Vec<_> = lines.into_iter().filter(|line| line.instance == instance.0).collect();
        let spare = last.len().saturating_sub(most);
        last.drain(spare..).map(|line| line.line).collect()
    }

    /// Ends the task, and with it what followers read. Nothing is kept any more.
    pub(crate) async fn end(&self) {
        // An error means that it has ended.
        let _ = self.0.send(Command::End).await;
    }

    /// Forgets a function's lines. If too much is going on, they stay: they are bounded.
    pub(crate) fn forget(&self, function: QualifiedName) {
        let _ = self.0.try_send(Command::Forget(function));
    }
}

async fn keep(mut commands: mpsc::Receiver<Command>) {
    let mut kept = BTreeMap::<(String, String), Kept>::new();
    let (followers, _) = broadcast::channel(FOLLOW_BEHIND_MAX);
    while let Some(command) = commands.recv().await {
        match command {
            Command::Keep(line) => {
                // An error means that nobody follows.
                let _ = followers.send(line.clone());
                kept.entry((line.namespace.clone(), line.function.clone())).or_default().push(line);
            }
            Command::Read(filter, answer) => {
                let mut lines: Vec<_> =
                    kept.values().flat_map(|kept| &kept.lines).filter(|line| filter.admits(line)).cloned().collect();
                lines.sort_by_key(|line| line.time_us);
                let _ = answer.send(Reading { lines, following: followers.subscribe() });
            }
            Command::Forget(name) => {
                kept.remove(&(name.namespace.to_string(), name.name.to_string()));
            }
            Command::End => return,
        }
    }
}

/// The last lines of one function.
#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.line.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.line.len();
        }
    }
}

/// One pipe of one instance.
struct Writer {
    logs: mpsc::Sender<Command>,
    function: QualifiedName,
    instance: InstanceId,
    stream: &'static str,
}

impl Writer {
    async fn copy(self, pipe: std::os::fd::OwnedFd) {
        match pipe::Receiver::from_owned_fd(pipe) {
            Ok(receiver) => self.split(receiver).await,
            Err(error) => tracing::error!(function = %self.function, %error, "cannot read a function's output"),
        }
    }

    async fn split(&self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = Vec::with_capacity(LINE_BYTES_MAX);
        loop {
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                self.keep(&line[..end]).await;
            }
            if buffer.len() >= LINE_BYTES_MAX {
                self.keep(&buffer).await;
                buffer.clear();
            }
            // `read_buf` fills the capacity, which must neither be zero nor grow.
            buffer.reserve(LINE_BYTES_MAX - buffer.len());
        }
        if !buffer.is_empty() {
            self.keep(&buffer).await;
        }
    }

    async fn keep(&self, bytes: &[u8]) {
        let mut pieces = bytes.chunks(LINE_BYTES_MAX);
        // An empty line is a line.
        self.keep_piece(pieces.next().unwrap_or_default()).await;
        for piece in pieces {
            self.keep_piece(piece).await;
        }
    }

    async fn keep_piece(&self, bytes: &[u8]) {
        let line = String::from_utf8_lossy(bytes.strip_suffix(b"\r").unwrap_or(bytes)).into_owned();
        tracing::info!(target: "ramet::function", function = %self.function, instance = self.instance.0,
            stream = self.stream, "{line}");
        let line = LogLine {
            time_us: now_us(),
            namespace: self.function.namespace.to_string(),
            function: self.function.name.to_string(),
            instance: self.instance.0,
            stream: self.stream.to_owned(),
            line,
        };
        let _ = self.logs.send(Command::Keep(line)).await;
    }
}

fn now_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn name(text: &str) -> QualifiedName {
        text.parse().expect("a name")
    }

    async fn written(write: impl FnOnce(&mut dyn Write) + Send + 'static) -> Vec<String> {
        let logs = Logs::start();
        let (stdout, mut stdout_writer) = std::io::pipe().expect("pipe");
        let (stderr, _) = std::io::pipe().expect("pipe");
        let captured = logs.capture(&name("a/b"), InstanceId(1), Captured { stdout, stderr });
        std::thread::spawn(move || write(&mut stdout_writer));
        captured.await.expect("the pipes end");
        let filter = Filter { namespace: Some("a".to_owned()), function: None };
        logs.read(filter).await.expect("lines").lines.into_iter().map(|line| line.line).collect()
    }

    #[tokio::test]
    async fn output_becomes_lines() {
        let lines = written(|out| out.write_all(b"one\r\n\ntwo\xff\nthree").expect("written")).await;
        assert_eq!(lines, ["one", "", "two\u{fffd}", "three"]);
    }

    #[tokio::test]
    async fn long_lines_are_split_and_old_ones_forgotten() {
        let lines = written(|out| out.write_all(&[b'x'; 3 * LINE_BYTES_MAX + 1]).expect("written")).await;
        assert_eq!(
            lines.iter().map(String::len).collect::<Vec<_>>(),
            [LINE_BYTES_MAX, LINE_BYTES_MAX, LINE_BYTES_MAX, 1]
        );
        let lines = written(|out| (0..2000).for_each(|n| writeln!(out, "{n}").expect("written"))).await;
        assert_eq!((lines.len(), lines[0].as_str(), lines[999].as_str()), (LINES_MAX, "1000", "1999"));
    }

    #[tokio::test]
    async fn followers_get_what_comes_and_filters_hold() {
        let logs = Logs::start();
        let mut reading = logs.read(Filter::default()).await.expect("a reading");
        let (stdout, mut writer) = std::io::pipe().expect("pipe");
        let (stderr, _) = std::io::pipe().expect("pipe");
        logs.capture(&name("a/b"), InstanceId(1), Captured { stdout, stderr });
        writer.write_all(b"hello\n").expect("written");
        let line = reading.following.recv().await.expect("a line");
        assert_eq!((line.line.as_str(), line.stream.as_str()), ("hello", "stdout"));
        let other = Filter { namespace: None, function: Some("c".to_owned()) };
        assert!(!other.admits(&line));
        logs.forget(name("a/b"));
        assert!(logs.read(Filter::default()).await.expect("a reading").lines.is_empty());
    }

    #[tokio::test]
    async fn an_end_comes_after_the_last_line() {
        let logs = Logs::start();
        let mut reading = logs.read(Filter::default()).await.expect("a reading");
        let (stdout, mut writer) = std::io::pipe().expect("pipe");
        let (stderr, _) = std::io::pipe().expect("pipe");
        let captured = logs.capture(&name("a/b"), InstanceId(1), Captured { stdout, stderr });
        writer.write_all(b"last").expect("written");
        drop(writer);
        captured.await.expect("the pipes end");
        logs.end().await;
        assert_eq!(reading.following.recv().await.expect("a line").line, "last");
        assert_eq!(reading.following.recv().await.expect_err("the end"), broadcast::error::RecvError::Closed);
        assert!(logs.read(Filter::default()).await.is_none());
    }
}
