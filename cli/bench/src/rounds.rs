//! The run: every system once in each round, so that what disturbs the machine disturbs all of them.

use std::collections::BTreeMap;

use anyhow::{anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::load::{self, Load, Sample};
use crate::machine::Machine;
use crate::options::{ChainOptions, System};
use crate::process::Launcher;
use crate::report::{ChainReport, LeftOut, Setting};
use crate::system::{self, Running};

/// The samples of a setting, one per round, of each system that got through all rounds.
pub(crate) type Samples = BTreeMap<System, Vec<Sample>>;

/// Starts the systems, runs the rounds of each setting, and reports.
pub(crate) async fn measure(options: &ChainOptions) -> anyhow::Result<ChainReport> {
    let machine = Machine::here();
    let mut launcher = Launcher::new()?;
    let mut left_out = Vec::new();
    let progress = ProgressBar::new_spinner();
    let mut running = start_all(options, &mut launcher, &progress, &mut left_out).await?;
    let settings = settings(options, &running);
    let rounds: usize = settings.iter().map(|setting| count(&running, setting) * options.rounds as usize).sum();
    progress.set_length(rounds as u64);
    progress.set_style(bar_style());
    let mut measured = Vec::new();
    for setting in settings {
        let samples = measure_setting(options, &setting, &mut running, &progress, &mut left_out).await?;
        measured.push((setting, samples));
    }
    progress.finish_and_clear();
    Ok(ChainReport::new(machine, options.rounds, &measured, left_out))
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} (about {eta} left)")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Starts every system; hyper last, because it repeats what the gateway answers.
pub(crate) async fn start_all(
    options: &ChainOptions,
    launcher: &mut Launcher,
    progress: &ProgressBar,
    left_out: &mut Vec<LeftOut>,
) -> anyhow::Result<Vec<Running>> {
    let mut wanted = options.systems.clone();
    wanted.sort();
    wanted.dedup();
    wanted.sort_by_key(|&system| system == System::HyperBare);
    let mut running: Vec<Running> = Vec::new();
    for system in wanted {
        progress.set_message(format!("starting {system}"));
        progress.tick();
        match system::start(system, options, &running, launcher).await {
            Ok(started) => running.push(started),
            Err(error) => left_out.push(LeftOut { system, setting: None, reason: format!("{error:#}") }),
        }
    }
    if running.is_empty() {
        let reasons: Vec<_> = left_out.iter().map(ToString::to_string).collect();
        bail!("there is nothing to measure\n{}", reasons.join("\n"));
    }
    running.sort_by_key(|running| running.system);
    Ok(running)
}

/// Each number of connections with each payload for chains, and once for what answers by itself.
fn settings(options: &ChainOptions, running: &[Running]) -> Vec<Setting> {
    let mut settings = Vec::new();
    for &connections in &options.connections {
        for &payload_bytes in &options.payload {
            settings.push(Setting { functions: options.functions, connections, payload_bytes });
        }
    }
    let alone = |&connections: &usize| Setting { functions: 0, connections, payload_bytes: 0 };
    settings.extend(options.connections.iter().map(alone));
    settings.retain(|setting| count(running, setting) > 0);
    settings
}

fn count(running: &[Running], setting: &Setting) -> usize {
    running.iter().filter(|running| setting.suits(running.system)).count()
}

async fn measure_setting(
    options: &ChainOptions,
    setting: &Setting,
    running: &mut [Running],
    progress: &ProgressBar,
    left_out: &mut Vec<LeftOut>,
) -> anyhow::Result<Samples> {
    let load = Load {
        connections: setting.connections,
        payload_bytes: setting.payload_bytes,
        warm_up: options.warm_up,
        duration: options.duration,
    };
    let mut samples: Samples =
        running.iter().filter(|one| setting.suits(one.system)).map(|one| (one.system, Vec::new())).collect();
    for round in 0..options.rounds {
        for one in running.iter_mut() {
            let Some(found) = samples.get_mut(&one.system) else { continue };
            progress.set_message(format!("{} ({setting})", one.system));
            progress.tick();
            match measure_round(one, load).await {
                Ok(sample) => found.push(sample),
                Err(error) => {
                    // Numbers of a system that answers wrongly are not shown beside those of one that does not.
                    samples.remove(&one.system);
                    let reason = format!("{error:#}");
                    left_out.push(LeftOut { system: one.system, setting: Some(*setting), reason });
                    progress.inc(u64::from(options.rounds - round - 1));
                }
            }
            progress.inc(1);
        }
    }
    Ok(samples)
}

async fn measure_round(running: &mut Running, load: Load) -> anyhow::Result<Sample> {
    running.processes.expect_alive()?;
    let tree = running.processes.tree()?;
    let sample = load::round(running.address, &running.workload, load, &tree).await;
    sample.map_err(|error| anyhow!("{error:#}{}", running.processes.last_lines()))
}
