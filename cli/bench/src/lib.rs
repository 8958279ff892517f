//! `ramet bench`: ramet beside other ways to chain functions, in alternating rounds of one run, every answer checked.
//!
//! Reading order: [`options`] is what can be asked; [`report`] is what comes out, with [`statistics`] and [`machine`];
//! `rounds` is the run and `idle` the other measurement; `system` starts what is measured, of `process`es, some of
//! which are [`peer`]s; `load` is the client, over `wire`, the HTTP that it reads. [`mod@fork`] is another benchmark,
//! of forks of a running process.
#![forbid(unsafe_code)]

pub mod options;
pub mod report;
pub mod statistics;

pub mod machine;

mod idle;
mod rounds;

pub mod fork;

mod load;
mod peer;
mod process;
mod system;
mod wire;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

pub use fork::{ForkOptions, ForkReport, fork};
pub use options::{ChainOptions, System};
pub use peer::{PEER_COMMAND, PeerOptions, peer};
pub use report::Report;

/// Measures what `options` ask for. Blocks until that is done, and must not be called from within an asynchronous
/// runtime. The executable must run [`peer`] under the name [`PEER_COMMAND`] and a node under `up`.
///
/// When it returns, which it does on SIGINT, SIGTERM and SIGHUP as well, no process that it started runs any more. If
/// this process is killed meanwhile, the kernel sends them SIGTERM.
///
/// # Errors
/// No system could be started, or the run was interrupted. A single system that cannot be started, or that answers
/// wrongly, is left out and named in [`Report`].
pub fn chain(options: &ChainOptions) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            interrupted = interruption() => Err(interrupted),
            report = measure(options) => report,
        }
    })
}

async fn measure(options: &ChainOptions) -> anyhow::Result<Report> {
    if options.idle {
        idle::measure(options).await.map(Report::Idle)
    } else {
        rounds::measure(options).await.map(Report::Chain)
    }
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
