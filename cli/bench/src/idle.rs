//! What a node costs while nothing is asked of it.

use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::ProgressBar;

use crate::machine::Machine;
use crate::options::{ChainOptions, System};
use crate::process::{Launcher, ProcessTree};
use crate::report::{IdleReport, IdleRow};
use crate::rounds;

/// How long the nodes settle before the measurement.
const SETTLE_PAUSE: Duration = Duration::from_secs(2);

/// Starts the ramet systems that are asked for and measures them all over the same time.
pub(crate) async fn measure(options: &ChainOptions) -> anyhow::Result<IdleReport> {
    let systems: Vec<_> = options.systems.iter().copied().filter(|system| system.is_ramet_chain()).collect();
    if systems.is_empty() {
        bail!("--idle measures ramet only: name one of ramet-skmsg, ramet-ring and ramet-socket");
    }
    let options = ChainOptions { systems, ..options.clone() };
    let machine = Machine::here();
    let mut launcher = Launcher::new()?;
    let mut left_out = Vec::new();
    let progress = ProgressBar::new_spinner();
    let running = rounds::start_all(&options, &mut launcher, &progress, &mut left_out).await?;
    progress.set_message("measuring idle nodes");
    progress.tick();
    tokio::time::sleep(SETTLE_PAUSE).await;
    let mut before = Vec::new();
    for running in &running {
        let tree = running.processes.tree()?;
        before.push((running.system, tree.thread_times()?, tree));
    }
    let start = Instant::now();
    tokio::time::sleep(options.idle_duration).await;
    let elapsed = start.elapsed();
    let mut rows = Vec::new();
    for (system, threads_before, tree) in &before {
        let used = tree.thread_times()?.since(threads_before);
        rows.push(row(*system, options.functions, tree, used, elapsed));
    }
    progress.finish_and_clear();
    Ok(IdleReport { machine, rows, left_out })
}

fn row(system: System, functions: u32, tree: &ProcessTree, used: Duration, elapsed: Duration) -> IdleRow {
    let percent_of_core = 100.0 * used.as_secs_f64() / elapsed.as_secs_f64();
    IdleRow { system: system.name(), transport: system.transport(), functions, processes: tree.len(), percent_of_core }
}
