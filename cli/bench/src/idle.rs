//! What a node costs while nothing is asked of it.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::build::Build;
use crate::chain;
use crate::machine::Machine;
use crate::options::chain::ChainOptions;
use crate::options::each_once;
use crate::process::{Launcher, ProcessTree};
use crate::report::{IdleReport, IdleRow, LeftOut};
use crate::setting::Identity;
use crate::system;

/// How long the nodes settle before the measurement.
const SETTLE_PAUSE: Duration = Duration::from_secs(2);

/// Starts the ramet systems that are asked for and measures them all over the same time.
pub(crate) async fn measure(options: &ChainOptions) -> anyhow::Result<IdleReport> {
    let systems = each_once(options.systems().iter().copied().filter(|system| system.is_ours()));
    if systems.is_empty() {
        bail!("--idle measures ramet only: name one of ramet-skmsg, ramet-ring, ramet-socket and ramet-http");
    }
    let machine = Machine::here();
    let build = Build::this(&options.nodes)?;
    let mut launcher = Launcher::new()?;
    let (mut left_out, mut running) = (Vec::new(), Vec::new());
    for &functions in &options.functions {
        for &system in &systems {
            match system::start(system, &build, functions, options, &mut launcher).await {
                Ok(started) => running.push(started),
                Err(error) => {
                    let (system, reason) = (chain::identity(system, &build).to_string(), format!("{error:#}"));
                    left_out.push(LeftOut { system, setting: None, reason });
                }
            }
        }
    }
    if running.is_empty() {
        let reasons: Vec<_> = left_out.iter().map(ToString::to_string).collect();
        bail!("nothing could be measured\n{}", reasons.join("\n"));
    }
    tokio::time::sleep(SETTLE_PAUSE).await;
    let mut before = Vec::new();
    for running in &running {
        if let Some(tree) = running.processes.tree()? {
            before.push((running, tree.thread_times()?, tree));
        }
    }
    let start = Instant::now();
    tokio::time::sleep(options.idle_duration).await;
    let elapsed = start.elapsed();
    let mut rows = Vec::new();
    for (running, threads_before, tree) in &before {
        let used = tree.thread_times()?.since(threads_before);
        rows.push(row(&running.identity, running.functions.unwrap_or_default(), tree, used, elapsed));
    }
    Ok(IdleReport { machine, rows, left_out })
}

fn row(identity: &Identity, functions: u32, tree: &ProcessTree, used: Duration, elapsed: Duration) -> IdleRow {
    IdleRow {
        system: identity.to_string(),
        transport: identity.transport.clone(),
        functions,
        processes: tree.len(),
        percent_of_core: 100.0 * used.as_secs_f64() / elapsed.as_secs_f64(),
    }
}
