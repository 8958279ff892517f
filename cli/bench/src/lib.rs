//! `ramet bench`: ramet beside other ways to do the same, in alternating rounds of one run, every answer checked.
//!
//! Reading order: [`options`] is what can be asked; [`report`] is what comes out, as a table, JSON, CSV or a picture,
//! with [`statistics`], [`noise`] and [`machine`]. `subject` is the face of all that can be measured, in a [`setting`];
//! `engine` runs the rounds; `recorder` takes latencies and `sample` is what a round found. `chain`, `hop` and
//! `ingress` start what they measure: `system` of `process`es, some of which are [`peer`]s, and of a `build`; `load` is
//! the client, over `wire`, the HTTP that it reads. `idle` and [`mod@fork`] measure other things, and are reported
//! likewise.
#![forbid(unsafe_code)]

pub mod options;
pub mod report;

pub mod machine;
pub mod noise;
pub mod setting;
pub mod statistics;

mod engine;
mod recorder;
mod sample;
mod subject;

mod chain;
mod hop;
mod idle;
mod ingress;

pub mod fork;

mod build;
mod load;
mod peer;
mod process;
mod system;
mod wire;

use std::future::Future;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

pub use fork::{ForkOptions, ForkReport, fork};
pub use options::chain::{ChainOptions, System, Target};
pub use options::hop::{HopOptions, HopSystem};
pub use options::ingress::{Front, IngressOptions};
pub use peer::{PEER_COMMAND, PeerOptions, peer};
pub use recorder::Percentiles;
pub use report::Report;

use build::Build;

/// Measures chains. Blocks until that is done, and must not be called from within an asynchronous runtime. The
/// executable must run [`peer`] under the name [`PEER_COMMAND`] and a node under `up`.
///
/// When it returns, which it does on SIGINT, SIGTERM and SIGHUP as well, no process that it started runs any more. If
/// this process is killed meanwhile, the kernel sends them SIGTERM.
///
/// # Errors
/// Nothing could be measured, or the run was interrupted. A single system that cannot be started, or that answers
/// wrongly, is left out and named in [`Report`].
pub fn chain(options: &ChainOptions) -> anyhow::Result<Report> {
    let base = base(options.rounds.base.as_deref())?;
    run(async {
        if options.idle {
            idle::measure(options).await.map(Report::Idle)
        } else {
            chain::measure(options, base.as_ref()).await.map(Report::Load)
        }
    })
}

/// Measures chains of a node that runs already, as [`chain`] does.
///
/// # Errors
/// As [`chain`].
pub fn targets(options: &ChainOptions, targets: &[Target]) -> anyhow::Result<Report> {
    run(async { chain::measure_targets(options, targets).await.map(Report::Load) })
}

/// Measures hops from process to process, as [`chain`] does.
///
/// # Errors
/// As [`chain`].
pub fn hop(options: &HopOptions) -> anyhow::Result<Report> {
    let base = base(options.rounds.base.as_deref())?;
    run(async { hop::measure(options, base.as_ref()).await.map(Report::Load) })
}

/// Measures fronts that answer by themselves, as [`chain`] does.
///
/// # Errors
/// As [`chain`].
pub fn ingress(options: &IngressOptions) -> anyhow::Result<Report> {
    let base = base(options.rounds.base.as_deref())?;
    run(async { ingress::measure(options, base.as_ref()).await.map(Report::Load) })
}

fn base(revision: Option<&str>) -> anyhow::Result<Option<Build>> {
    revision.map(Build::of_revision).transpose()
}

fn run(work: impl Future<Output = anyhow::Result<Report>>) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            interrupted = interruption() => Err(interrupted),
            report = work => report,
        }
    })
}

/// Waits for a signal that ends the run. Whatever is dropped then ends its processes.
async fn interruption() -> anyhow::Error {
    let wait = async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("interrupted by SIGTERM"),
            _ = hangup.recv() => bail!("interrupted by SIGHUP"),
        }
    };
    let outcome: anyhow::Result<std::convert::Infallible> = wait.await;
    match outcome.context("the measurement was given up") {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
