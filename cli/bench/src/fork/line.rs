//! A conversation in lines with a process that was started here, or forked.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Our end.
#[derive(Debug)]
pub(super) struct Line {
    stream: BufReader<UnixStream>,
}

impl Line {
    /// Both ends.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        ours.set_write_timeout(Some(PATIENCE))?;
        Ok((Self { stream: BufReader::with_capacity(1024, ours) }, theirs.into()))
    }

    pub(super) fn say(&mut self, request: impl Display) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).context("a process does not listen")
    }

    pub(super) fn hear(&mut self) -> anyhow::Result<String> {
        let mut answer = String::new();
        let count = self.stream.read_line(&mut answer).context("a process does not answer")?;
        if count == 0 {
            bail!("a process has ended instead of answering");
        }
        answer.truncate(answer.trim_end().len());
        Ok(answer)
    }

    pub(super) fn ask(&mut self, request: impl Display) -> anyhow::Result<String> {
        self.say(request)?;
        self.hear()
    }
}
