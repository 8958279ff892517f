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

    /// Both ends, for [`Self::without_deadline`].
    pub(super) fn ends() -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((ours.into(), theirs.into()))
    }

    /// With a process that has deadlines itself.
    pub(super) fn without_deadline(end: OwnedFd) -> Self {
        Self { stream: BufReader::new(end.into()) }
    }

    pub(super) fn say(&mut self, request: impl Display) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).context("a process does not listen")
    }

    pub(super) fn hear(&mut self) -> anyhow::Result<String> {
        match self.hear_or_end()? {
            Some(answer) => Ok(answer),
            None => bail!("a process has ended instead of answering"),
        }
    }

    /// The next line, or nothing where there is nobody any more.
    pub(super) fn hear_or_end(&mut self) -> anyhow::Result<Option<String>> {
        let mut answer = String::new();
        let count = self.stream.read_line(&mut answer).context("a process does not answer")?;
        answer.truncate(answer.trim_end().len());
        Ok((count > 0).then_some(answer))
    }

    pub(super) fn ask(&mut self, request: impl Display) -> anyhow::Result<String> {
        self.say(request)?;
        self.hear()
    }
}
