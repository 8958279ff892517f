//! The children's host, and how it comes by a seed. All of it is in a process of the measured build.

use std::fs::File;
use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ramet_fork::seeds::Limits;
use ramet_fork::source::{self, PageSource};
use ramet_fork::{Child, Family, ForkDescriptor, Given, Host, Phases, Seeds, Terms};
use ramet_sys::End;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::data::Walk;
use super::keeper::{self, Keeper};
use super::line::Line;
use super::orders::{Prepared, Timed, Way};
use super::python::{Sum, check};
use crate::process::THIS_PROGRAM;

/// Longer than any run.
const LEASE: Duration = Duration::from_secs(3600);
/// A host opens some files for each child, and so does who holds their faults.
const FILES_PER_CHILD: u64 = 4;
const FILES_SPARE: u64 = 512;

/// How long the first child of a seed may be quiet before it is told what it touched.
const LESSON_PATIENCE: Duration = Duration::from_secs(5);

/// Both sides of a fork.
#[derive(Debug)]
pub(super) struct Sides {
    host: Arc<Host>,
    /// Seeds of this process: those that are read on the same host.
    seeds: Arc<Seeds>,
    keeper: Keeper,
}

/// A seed and the way to it.
#[derive(Debug)]
pub(super) enum Seed {
    Local { seeds: Arc<Seeds>, held: ramet_fork::Held },
    Tcp(keeper::Prepared),
}

/// A child that has answered. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Answered {
    child: Child,
    line: Line,
}

/// How long it took until a child had answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    total: Duration,
    /// To the seed and back with its descriptor, if the host did not have it.
    reach: Option<Duration>,
    phases: Phases,
    /// From the child's first instruction to its answer.
    answer: Duration,
}

impl Sides {
    pub(super) fn start(children: u32) -> anyhow::Result<Self> {
        allow_files(u64::from(children) * FILES_PER_CHILD + FILES_SPARE);
        let mut zygote = Command::new(THIS_PROGRAM);
        zygote.args([crate::PEER_COMMAND, "zygote"]);
        let host = Arc::new(Host::start(zygote).context("cannot start a host of children")?);
        Ok(Self { host, seeds: Arc::new(Seeds::new(Limits::default())), keeper: Keeper::start()? })
    }

    /// Prepares the process; for how long that was stopped.
    pub(super) fn prepare(&mut self, way: Way, pid: i32) -> anyhow::Result<Seed> {
        match way {
            Way::Local => {
                let held = self.seeds.prepare(pid, Terms { lease: LEASE })?;
                Ok(Seed::Local { seeds: Arc::clone(&self.seeds), held })
            }
            Way::Tcp => Ok(Seed::Tcp(self.keeper.prepare(pid)?)),
        }
    }

    pub(super) fn revoke(&mut self, seed: &Seed) -> anyhow::Result<()> {
        match seed {
            Seed::Local { seeds, held } => Ok(seeds.revoke(held.handle)?),
            Seed::Tcp(prepared) => self.keeper.revoke(prepared),
        }
    }

    /// The first child of a seed on a host that knows nothing of it: from the request to the answer.
    pub(super) fn cold(&self, seed: &Seed, stretch: &Range<u64>) -> anyhow::Result<(Family, Answered, Latency)> {
        let start = Instant::now();
        let (line, given) = request(stretch)?;
        let reaching = Instant::now();
        let (descriptor, source) = seed.reach()?;
        let reach = reaching.elapsed();
        let family = Family::start(Arc::clone(&self.host), descriptor, source)?;
        let (child, latency) = hear(start, Some(reach), &family, line, &given, stretch)?;
        Ok((family, child, latency))
    }

    /// Such a child for each stretch, one after the other.
    pub(super) fn each_cold(
        &self,
        seed: &Seed,
        stretches: &[Range<u64>],
        whole: &Range<u64>,
    ) -> anyhow::Result<Vec<Latency>> {
        let mut latencies = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            let (family, mut child, latency) = self.cold(seed, stretch)?;
            latencies.push(latency);
            if latencies.len() == stretches.len() {
                child.check(whole)?;
            }
            // It needs its pages until it has ended.
            drop(child);
            drop(family);
        }
        Ok(latencies)
    }
}

/// A further child of a seed for each stretch, one after the other.
pub(super) fn further(family: &Family, stretches: &[Range<u64>], whole: &Range<u64>) -> anyhow::Result<Vec<Latency>> {
    let mut latencies = Vec::with_capacity(stretches.len());
    for stretch in stretches {
        let (mut child, latency) = warm(family, stretch)?;
        latencies.push(latency);
        if latencies.len() == stretches.len() {
            child.check(whole)?;
        }
    }
    Ok(latencies)
}

/// Another child of a seed.
pub(super) fn warm(family: &Family, stretch: &Range<u64>) -> anyhow::Result<(Answered, Latency)> {
    let start = Instant::now();
    let (line, given) = request(stretch)?;
    hear(start, None, family, line, &given, stretch)
}

/// Many children at the same time: how long until all have answered.
pub(super) fn crowd(family: &Family, stretches: &[Range<u64>]) -> anyhow::Result<(Vec<Answered>, Duration)> {
    let start = Instant::now();
    let mut children = Vec::with_capacity(stretches.len());
    for stretch in stretches {
        let (line, given) = request(stretch)?;
        children.push(Answered { child: family.child(&given)?, line });
    }
    let answers = children.iter_mut().map(|child| child.line.hear()).collect::<anyhow::Result<Vec<_>>>()?;
    let took = start.elapsed();
    answers.iter().zip(stretches).try_for_each(|(answer, stretch)| check(answer, stretch))?;
    Ok((children, took))
}

/// A request that waits for the child that it is for.
fn request(stretch: &Range<u64>) -> anyhow::Result<(Line, Given)> {
    let (mut line, theirs) = Line::pair()?;
    let nowhere = File::options().write(true).open("/dev/null")?;
    line.say(Sum(stretch))?;
    Ok((line, Given { streams: [theirs.try_clone()?, theirs, nowhere.into()], user: None, limits: None }))
}

fn hear(
    start: Instant,
    reach: Option<Duration>,
    family: &Family,
    line: Line,
    given: &Given,
    stretch: &Range<u64>,
) -> anyhow::Result<(Answered, Latency)> {
    let child = family.child(given)?;
    let born = Instant::now();
    let phases = child.phases;
    let mut answered = Answered { child, line };
    let answer = answered.line.hear()?;
    let (total, answer_time) = (start.elapsed(), born.elapsed());
    check(&answer, stretch)?;
    Ok((answered, Latency { total, reach, phases, answer: answer_time }))
}

impl Seed {
    /// What its prepare was, under this number.
    pub(super) fn prepared(&self, seed: u64) -> Prepared {
        let (pause, prepare, descriptor_bytes) = match self {
            Self::Local { held, .. } => (held.pause, held.prepare, held.descriptor_bytes),
            Self::Tcp(prepared) => (prepared.pause, prepared.prepare, prepared.descriptor_bytes),
        };
        Prepared { seed, pause, prepare, descriptor_bytes }
    }

    fn reach(&self) -> anyhow::Result<(ForkDescriptor, Box<dyn PageSource>)> {
        match self {
            Self::Local { seeds, held } => {
                let (descriptor, source) = seeds.open_local(held.handle, &held.key)?;
                Ok((ForkDescriptor::decode(&descriptor)?, Box::new(source)))
            }
            Self::Tcp(prepared) => {
                let (descriptor, source) = source::tcp::connect(prepared.address, prepared.handle(), &prepared.key())?;
                Ok((descriptor, Box::new(source)))
            }
        }
    }

    /// How many pages the seed's host gives with the descriptor.
    pub(super) fn learned_bytes(&self) -> anyhow::Result<usize> {
        Ok(self.reach()?.1.take_learned()?.pages.len())
    }

    /// Waits until the seed's host has been told what the first child touched: it gives more than it did.
    pub(super) fn wait_until_learned(&self, before: usize) -> anyhow::Result<usize> {
        let deadline = Instant::now() + LESSON_PATIENCE;
        loop {
            let bytes = self.learned_bytes()?;
            if bytes > before {
                return Ok(bytes);
            }
            if Instant::now() > deadline {
                bail!("nothing was learned of what the first child touched");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Latency {
    /// Step by step.
    pub(super) fn timed(&self) -> Timed {
        let mut steps = Vec::new();
        let mut step = |name: &str, took| steps.push((name.to_owned(), took));
        if let Some(reach) = self.reach {
            step("1 reach the seed", reach);
        }
        if let Some(template) = self.phases.template {
            step("2 plan", template.plan);
            step("3 copy the zygote", template.copy);
            step("4 map memory", template.map);
            step("5 register", template.register);
            step("6 push what is learned", template.push);
        }
        step("7 open files", self.phases.open);
        step("8 fork the template", self.phases.fork);
        step("9 start", self.phases.start);
        step("answer", self.answer);
        Timed { total: self.total, steps }
    }
}

impl Answered {
    /// Asks it once more.
    pub(super) fn check(&mut self, stretch: &Range<u64>) -> anyhow::Result<()> {
        check(&self.line.ask(Sum(stretch))?, stretch)
    }

    /// How long each fault of a walk takes it.
    pub(super) fn fault(&mut self, walk: &Walk) -> anyhow::Result<Duration> {
        let answer = self.line.ask(walk)?;
        let (sum, nanoseconds) = answer.split_once(' ').with_context(|| format!("{answer:?} is no sum and time"))?;
        if sum.parse() != Ok(walk.sum()) {
            bail!("the sum of a walk is {}, and {sum} was answered", walk.sum());
        }
        Ok(Duration::from_nanos(nanoseconds.parse()?) / walk.count())
    }

    /// Its share of the memory that it has.
    pub(super) fn proportional_kib(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.pid);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse().ok()).with_context(|| format!("{path} tells no proportional memory"))
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.pidfd.signal(End::Kill);
        let _ = self.child.pidfd.wait();
    }
}

/// Where it is not allowed a child will not be made, and that is told.
fn allow_files(files: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < files) {
        let wanted = maximum.map_or(files, |maximum| maximum.min(files));
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}
