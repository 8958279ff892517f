//! A driver and its functions, each a process, between two rounds.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use ramet_control::socket::ControlSocket;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::fabric::{Fabric, Held};
use crate::build::Build;
use crate::options::hop::HopSystem;
use crate::peer::hop::orders::{Order, Outcome, Part};
use crate::process::{Launcher, Processes};
use crate::recorder::Latencies;
use crate::sample::Sample;
use crate::setting::{Identity, Placement, Setting, Times};
use crate::subject::{Round, Subject};

/// How long a process may take to answer beyond the time that it was given.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long processes may take to end by themselves.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);

/// What runs.
#[derive(Debug)]
pub(super) struct Running {
    system: HopSystem,
    identity: Identity,
    functions: u32,
    processes: Processes,
    /// The driver's first.
    controls: Vec<ControlSocket>,
    /// Why it cannot be measured any more.
    broken: Option<String>,
    _held: Held,
}

impl Running {
    pub(super) async fn start(
        system: HopSystem,
        identity: Identity,
        build: &Build,
        functions: u32,
        launcher: &Launcher,
    ) -> anyhow::Result<Self> {
        let name = format!("{identity}-{functions}-{}", std::process::id());
        let Fabric { way, parts, held } = Fabric::new(system, functions + 1, &name)?;
        let mut processes = Processes::default();
        let mut controls = Vec::new();
        for (number, fds) in (0..).zip(parts) {
            let (own, theirs) = ControlSocket::pair()?;
            let arguments = [crate::PEER_COMMAND.into(), "hop".into()];
            let name = format!("{name}-{number}");
            processes.0.push(launcher.start_with(&name, build.ramet(), arguments, None, theirs.into_fd().into())?);
            let part = Part { number, functions, way: way.clone() };
            let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
            own.send(&part, &fds)?;
            controls.push(own);
        }
        let mut running = Self { system, identity, functions, processes, controls, broken: None, _held: held };
        for control in &running.controls {
            match hear(control, PATIENCE).await {
                Ok(Outcome::Ready) => {}
                Ok(other) => bail!("a process said {other:?} instead of being ready"),
                Err(error) => {
                    running.processes.expect_alive()?;
                    bail!("{error:#}{}", running.processes.last_lines());
                }
            }
        }
        Ok(running)
    }

    async fn run(&mut self, setting: &Setting, times: Times) -> anyhow::Result<Sample> {
        self.processes.expect_alive()?;
        self.place(setting.placement.unwrap_or(Placement::Free))?;
        let in_flight = u32::try_from(setting.connections)?;
        let batch = setting.batch.unwrap_or(ramet_common::BATCH_MAX);
        let order = Order { in_flight, batch, warm_up: times.warm_up, duration: times.duration };
        // Functions first, so that nobody sends to who does not look yet.
        for control in self.controls.iter().rev() {
            control.send(&order, &[])?;
        }
        let driver = self.controls.first().context("there is no driver")?;
        let tree = self.processes.tree()?;
        let begun = hear(driver, times.warm_up + PATIENCE).await?;
        ensure!(matches!(begun, Outcome::Measuring), "the driver said {begun:?} instead of measuring");
        let before = tree.usage()?;
        let latencies: Latencies = match hear(driver, times.duration + PATIENCE).await? {
            Outcome::Measured(latencies) => latencies,
            other => bail!("the driver said {other:?} instead of what it measured"),
        };
        let mut after = tree.usage()?;
        tree.add_memory(&mut after);
        Ok(Sample::new(&latencies, &before, &after))
    }

    fn place(&self, placement: Placement) -> anyhow::Result<()> {
        let cores = cores()?;
        let pids = self.processes.0.iter().map(|process| process.pid());
        for (number, pid) in pids.enumerate() {
            pin(pid, &cores_for(placement, number, &cores)?)?;
        }
        Ok(())
    }
}

impl Drop for Running {
    /// Who hears that nobody is there any more ends by itself, and takes away what it has put into the machine. Those
    /// that are in a round hear nothing and are ended.
    fn drop(&mut self) {
        self.controls.clear();
        self.processes.wait_for_end(FAREWELL_PATIENCE);
    }
}

impl Subject for Running {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn suits(&self, setting: &Setting) -> bool {
        let cores = cores().map_or(1, |cores| cores.len());
        let has_core_each = setting.placement != Some(Placement::SameCore) && (self.functions as usize) < cores;
        Some(self.functions) == setting.functions
            && (setting.placement != Some(Placement::TwoCores) || cores > 1)
            && (self.system.is_queue() || setting.connections == 1)
            && (!self.system.spins() || has_core_each)
    }

    fn round(&mut self, setting: Setting, times: Times) -> Round<'_> {
        Box::pin(async move {
            if let Some(why) = &self.broken {
                bail!("an earlier round failed: {why}");
            }
            let outcome = self.run(&setting, times).await;
            outcome.map_err(|error| {
                // Messages may still be under way.
                self.broken = Some(format!("{error:#}"));
                anyhow!("{error:#}{}", self.processes.last_lines())
            })
        })
    }
}

/// Waits for what a process says.
async fn hear(control: &ControlSocket, patience: Duration) -> anyhow::Result<Outcome> {
    #[allow(deprecated, reason = "sound for an OwnedFd; its replacement is unsafe, which this crate forbids")]
    let ready: AsyncFd<OwnedFd> = AsyncFd::with_interest(control.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    let heard = async {
        loop {
            let mut guard = ready.readable().await?;
            match control.try_receive() {
                Ok(Some((outcome, _))) => return anyhow::Ok(outcome),
                Ok(None) => guard.clear_ready(),
                Err(error) => return Err(error).context("a process has ended"),
            }
        }
    };
    tokio::time::timeout(patience, heard).await.map_err(|_| anyhow!("a process does not answer within {patience:?}"))?
}

/// The cores that this process may use.
fn cores() -> anyhow::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("sched_getaffinity failed")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
}

fn cores_for(placement: Placement, number: usize, cores: &[usize]) -> anyhow::Result<Vec<usize>> {
    let core = |at: usize| cores.get(at).copied().context("there are not so many cores");
    Ok(match placement {
        Placement::SameCore => vec![core(0)?],
        Placement::TwoCores => vec![core(number % 2)?],
        Placement::Free => cores.to_vec(),
    })
}

fn pin(pid: Pid, cores: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(Some(pid), &set).context("sched_setaffinity failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_talk_take_turns_on_two_cores() {
        let cores = [3, 5, 7];
        let places = |placement| [0, 1, 2].map(|number| cores_for(placement, number, &cores).expect("cores"));
        assert_eq!(places(Placement::SameCore), [[3], [3], [3]]);
        assert_eq!(places(Placement::TwoCores), [[3], [5], [3]]);
        assert_eq!(places(Placement::Free), [cores, cores, cores]);
        assert!(cores_for(Placement::TwoCores, 1, &[0]).is_err());
    }
}
