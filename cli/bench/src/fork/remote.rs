//! Both sides of forks in a process of the build that is measured: host, zygote, seeds and page server are its own.
//!
//! Those of this build are in such a process, too, so that nothing but the code is different.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail};
use ramet_fork::Family;

use super::host::{self, Seed, Sides};
use super::line::Line;
use super::orders::{Order, Prepared, Reply, VERSION};
use crate::build::Build;
use crate::process::{Launcher, Process};

/// The name of the process among the peers.
const ROLE: &str = "fork-sides";
/// How long a process that says nothing any more may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How a program ends that does not understand its arguments.
const USAGE: i32 = 2;

/// Runs the process: it is told what to do on its standard input, a socket, and ends with that. The thread that calls
/// this is the one that the children end with.
pub(crate) fn serve(children: u32) -> anyhow::Result<()> {
    let mut line = Line::without_deadline(io::stdin().as_fd().try_clone_to_owned()?);
    let served = Sides::start(children).map(|sides| Served { sides, seeds: BTreeMap::new(), last: 0 });
    let mut served = match served {
        Ok(served) => served,
        Err(error) => return line.say(serde_json::to_string(&Reply::Failed(format!("{error:#}")))?),
    };
    line.say(serde_json::to_string(&Reply::Ready { version: VERSION })?)?;
    while let Some(order) = line.hear_or_end()? {
        let reply = serde_json::from_str(&order).context("no order").and_then(|order| served.obey(order));
        let reply = reply.unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
        line.say(serde_json::to_string(&reply)?)?;
    }
    Ok(())
}

struct Served {
    sides: Sides,
    seeds: BTreeMap<u64, Kept>,
    last: u64,
}

struct Kept {
    seed: Seed,
    /// What further children are made of, once there was a first one.
    family: Option<Family>,
}

impl Served {
    fn obey(&mut self, order: Order) -> anyhow::Result<Reply> {
        match order {
            Order::Pause { way, pid } => {
                let seed = self.sides.prepare(way, pid)?;
                self.sides.revoke(&seed)?;
                Ok(Reply::Prepared(seed.prepared(0)))
            }
            Order::Prepare { way, pid } => {
                let seed = self.sides.prepare(way, pid)?;
                self.last += 1;
                let prepared = seed.prepared(self.last);
                self.seeds.insert(self.last, Kept { seed, family: None });
                Ok(Reply::Prepared(prepared))
            }
            Order::Revoke { seed } => {
                let Kept { seed, family } = self.seeds.remove(&seed).context("there is no such seed")?;
                drop(family);
                self.sides.revoke(&seed)?;
                Ok(Reply::Revoked)
            }
            Order::First { seed, stretch } => {
                let kept = self.seeds.get_mut(&seed).context("there is no such seed")?;
                let unlearned = kept.seed.learned_bytes()?;
                let (family, first, latency) = self.sides.cold(&kept.seed, &stretch)?;
                let learned_bytes = kept.seed.wait_until_learned(unlearned)?;
                drop(first);
                kept.family = Some(family);
                Ok(Reply::First { child: latency.timed(), learned_bytes })
            }
            Order::Further { seed, stretches, whole } => {
                let latencies = host::further(self.family(seed)?, &stretches, &whole)?;
                Ok(Reply::Children(latencies.iter().map(host::Latency::timed).collect()))
            }
            Order::Fault { seed, stretch, walks: [begin, walk] } => {
                let (mut child, _) = host::warm(self.family(seed)?, &stretch)?;
                child.fault(&begin)?;
                Ok(Reply::Fault(child.fault(&walk)?))
            }
            Order::Cold { seed, stretches, whole } => {
                let kept = self.seeds.get(&seed).context("there is no such seed")?;
                let latencies = self.sides.each_cold(&kept.seed, &stretches, &whole)?;
                Ok(Reply::Children(latencies.iter().map(host::Latency::timed).collect()))
            }
            Order::Crowd { seed, stretches } => {
                let (children, took) = host::crowd(self.family(seed)?, &stretches)?;
                let kib = children.iter().map(host::Answered::proportional_kib).sum::<anyhow::Result<u64>>()?;
                Ok(Reply::Crowd { took, kib })
            }
        }
    }

    fn family(&self, seed: u64) -> anyhow::Result<&Family> {
        let kept = self.seeds.get(&seed).context("there is no such seed")?;
        kept.family.as_ref().context("the seed had no first child")
    }
}

/// The process, as who tells it sees it. It and all that it has made end when this is dropped.
#[derive(Debug)]
pub(super) struct Remote {
    /// Goes first: who hears nobody any more takes its children away.
    line: Line,
    process: Process,
}

impl Remote {
    /// Starts it, for at most so many children at a time.
    pub(super) fn start(build: &Build, children: u32, launcher: &Launcher) -> anyhow::Result<Self> {
        let (ours, theirs) = Line::ends()?;
        let name = if build.revision().is_some() { "fork-sides-of-base" } else { ROLE };
        let arguments = [crate::PEER_COMMAND.into(), ROLE.into(), format!("--children={children}").into()];
        let process = launcher.start_with(name, build.ramet(), arguments, None, theirs.into())?;
        let mut remote = Self { line: Line::without_deadline(ours), process };
        let said = remote.hear().map_err(|error| remote.why_silent(build, error))?;
        match said {
            Reply::Ready { version: VERSION } => Ok(remote),
            Reply::Failed(why) => bail!("{why}"),
            other => {
                let build = build.revision().unwrap_or("this build");
                bail!("{build} cannot be measured beside this one: it answers {other:?}, not version {VERSION}")
            }
        }
    }

    fn why_silent(&mut self, build: &Build, error: anyhow::Error) -> anyhow::Error {
        let status = self.process.ended_within(END_PATIENCE);
        match (build.revision(), status) {
            (Some(revision), Some(status)) if status.code() == Some(USAGE) => anyhow::anyhow!(
                "{revision} cannot be measured: its forks are not made by a process that can be told (`{} {ROLE}`)",
                crate::PEER_COMMAND
            ),
            _ => error.context(format!("no forks can be made{}", self.process.last_lines())),
        }
    }

    /// Has it do something.
    pub(super) fn tell(&mut self, order: &Order) -> anyhow::Result<Reply> {
        self.line.say(serde_json::to_string(order)?)?;
        match self.hear().map_err(|error| error.context(format!("no more forks{}", self.process.last_lines())))? {
            Reply::Failed(why) => bail!("{why}"),
            reply => Ok(reply),
        }
    }

    /// Prepares a process, for good or for a moment.
    pub(super) fn prepared(&mut self, order: &Order) -> anyhow::Result<Prepared> {
        match self.tell(order)? {
            Reply::Prepared(prepared) => Ok(prepared),
            other => Err(unexpected(&other)),
        }
    }

    fn hear(&mut self) -> anyhow::Result<Reply> {
        serde_json::from_str(&self.line.hear()?).context("not what an order is answered with")
    }
}

/// An answer to another order.
pub(super) fn unexpected(reply: &Reply) -> anyhow::Error {
    anyhow::anyhow!("an order was answered with {reply:?}")
}
