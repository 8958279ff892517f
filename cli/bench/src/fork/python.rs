//! The measured process: a Python whose data is large.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::data;
use super::line::Line;

/// Where it is looked for a Python that has numpy.
const CANDIDATES: [&str; 3] = ["/usr/bin/python3", "python3", "python"];

/// A Python that has numpy.
#[derive(Clone, Debug)]
pub(super) struct Python {
    program: PathBuf,
    bytes: u64,
    log: PathBuf,
}

/// A process of it. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Target {
    process: Child,
    line: Line,
}

impl Python {
    /// Finds one. Its processes will have `bytes` of data each.
    pub(super) fn find(named: Option<&Path>, bytes: u64, log: PathBuf) -> anyhow::Result<Self> {
        let candidates = match named {
            Some(named) => vec![named.to_owned()],
            None => CANDIDATES.map(PathBuf::from).to_vec(),
        };
        let mut reasons = Vec::new();
        for program in candidates {
            let mut probe = Command::new(&program);
            let output = probe.args(["-c", "import numpy"]).stdin(Stdio::null()).output();
            match output {
                Ok(output) if output.status.success() => return Ok(Self { program, bytes, log }),
                Ok(output) => {
                    let error = String::from_utf8_lossy(&output.stderr);
                    reasons.push(format!("{}: {}", program.display(), error.lines().last().unwrap_or_default()));
                }
                Err(error) => reasons.push(format!("{}: {error}", program.display())),
            }
        }
        bail!("there is no Python with numpy ({}); on Debian it is python3-numpy", reasons.join("; "))
    }

    /// Starts one, which is then still importing and building.
    pub(super) fn start(&self) -> anyhow::Result<Target> {
        let (line, theirs) = Line::pair()?;
        let log = File::create(&self.log).context("cannot make a log")?;
        let process = Command::new(&self.program)
            .args(["-c", data::PROGRAM, &data::words(self.bytes).to_string()])
            .stdin(theirs.try_clone()?)
            .stdout(theirs)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Target { process, line })
    }

    /// How long it takes until a new one has answered.
    pub(super) fn fresh(&self, stretch: &Range<u64>) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut target = self.start()?;
        let answer = target.line.ask(Sum(stretch))?;
        let took = start.elapsed();
        check(&answer, stretch)?;
        Ok(took)
    }
}

impl Target {
    pub(super) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    pub(super) fn check(&mut self, stretch: &Range<u64>) -> anyhow::Result<()> {
        check(&self.line.ask(Sum(stretch))?, stretch)
    }

    /// For how long `os.fork` keeps it.
    pub(super) fn fork(&mut self) -> anyhow::Result<Duration> {
        let answer = self.line.ask("fork")?;
        Ok(Duration::from_nanos(answer.parse().with_context(|| format!("{answer:?} is no time"))?))
    }

    /// How long it takes until a child that it makes by `os.fork` has answered.
    pub(super) fn fork_and_answer(&mut self, stretch: &Range<u64>) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let answer = self.line.ask(format_args!("fork-{}", Sum(stretch)))?;
        let took = start.elapsed();
        check(&answer, stretch)?;
        Ok(took)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The request for a sum.
pub(super) struct Sum<'r>(pub(super) &'r Range<u64>);

impl std::fmt::Display for Sum<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sum {} {}", self.0.start, self.0.end)
    }
}

/// Fails unless it is the right answer: wrong memory is no speed.
pub(super) fn check(answer: &str, stretch: &Range<u64>) -> anyhow::Result<()> {
    let expected = data::sum(stretch);
    if answer.parse() == Ok(expected) {
        return Ok(());
    }
    bail!("the sum of words {} to {} is {expected}, and {answer:?} was answered", stretch.start, stretch.end)
}
