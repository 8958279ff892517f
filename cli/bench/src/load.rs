//! Requests over kept-alive connections on this thread, so that the load costs as little as a load can.

mod client;
mod connection;
mod exchange;
mod schedule;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

pub(crate) use connection::{Answer, fetch};
pub(crate) use exchange::{Exchange, Workload};

use crate::process::{ProcessTree, Usage};
use crate::recorder::Recorder;
use crate::sample::Sample;
use crate::setting::{Setting, Times};
use client::Clients;
use schedule::Schedule;

/// How long a request that was sent may take before the system counts as stuck.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests run but do not count: connections open, caches fill.
const WARM_UP: u8 = 0;
/// Requests count.
const MEASURE: u8 = 1;
/// No further request counts.
const FINISH: u8 = 2;

/// Runs one round; any wrong answer ends it.
pub(crate) async fn round(
    address: SocketAddr,
    workload: &Workload,
    setting: &Setting,
    times: Times,
    processes: Option<&ProcessTree>,
) -> anyhow::Result<Sample> {
    let shared = Arc::new(Shared::new(setting)?);
    let mut clients = Clients::new(address, setting.protocol);
    // Dropped on every way out, which ends the tasks.
    let mut tasks = JoinSet::new();
    for index in 0..setting.connections {
        let exchange = workload.exchange(address, setting.payload_bytes, index);
        tasks.spawn(drive(clients.next().await?, exchange, Arc::clone(&shared)));
    }
    let all_answered = tokio::time::timeout(PATIENCE, shared.first_answers.wait());
    undisturbed(&mut tasks, all_answered).await?.map_err(|_| stuck())?;
    let _keeper = shared.schedule.as_ref().map(Schedule::keep);
    undisturbed(&mut tasks, tokio::time::sleep(times.warm_up)).await?;
    let usage = || processes.map_or_else(|| Ok(Usage::new()), ProcessTree::usage);
    let before = usage()?;
    let start = Instant::now();
    shared.enter(MEASURE);
    undisturbed(&mut tasks, tokio::time::sleep(times.duration)).await?;
    shared.enter(FINISH);
    let elapsed = start.elapsed();
    let mut after = usage()?;
    if let Some(processes) = processes {
        processes.add_memory(&mut after);
    }
    let finished = tokio::time::timeout(PATIENCE, async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    });
    finished.await.map_err(|_| stuck())??;
    let latencies = shared.recorder().latencies(elapsed, 1)?;
    Ok(Sample::new(&latencies, &before, &after))
}

fn stuck() -> anyhow::Error {
    anyhow!("a request was not answered within {PATIENCE:?}")
}

/// Waits for `pause`; a connection that ends before its time has failed.
async fn undisturbed<T>(tasks: &mut JoinSet<anyhow::Result<()>>, pause: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::select! {
        outcome = pause => Ok(outcome),
        Some(ended) = tasks.join_next() => match ended? {
            Ok(()) => bail!("a connection ended before the round"),
            Err(error) => Err(error),
        },
    }
}

/// What the connections of a round have in common. They run on one thread: nothing here is ever contended.
#[derive(Debug)]
struct Shared {
    /// The warm-up begins when every connection has had an answer.
    first_answers: Barrier,
    phase: AtomicU8,
    /// When requests are due; in a closed loop, whenever there is an answer.
    schedule: Option<Arc<Schedule>>,
    /// One for all, because one per connection would fill the caches.
    recorder: Mutex<Recorder>,
}

impl Shared {
    fn new(setting: &Setting) -> anyhow::Result<Self> {
        let recorder = match setting.rate_per_s {
            Some(_) => Recorder::open_loop()?,
            None => Recorder::closed_loop()?,
        };
        Ok(Self {
            first_answers: Barrier::new(setting.connections + 1),
            phase: AtomicU8::new(WARM_UP),
            schedule: setting.rate_per_s.map(|rate| Arc::new(Schedule::new(rate))),
            recorder: Mutex::new(recorder),
        })
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        if let (FINISH, Some(schedule)) = (phase, &self.schedule) {
            schedule.end();
        }
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next request of a connection is due, and when it is sent; nothing at the end of the round.
    async fn next(&self, answered: Instant) -> Option<(Instant, Instant)> {
        let times = match &self.schedule {
            Some(schedule) => (schedule.next().await?, Instant::now()),
            None => (answered, answered),
        };
        (self.phase() != FINISH).then_some(times)
    }
}

/// One connection: the first answer is compared byte by byte, then as many as the round allows, then one more byte by
/// byte.
async fn drive(mut client: client::Client, exchange: Exchange, shared: Arc<Shared>) -> anyhow::Result<()> {
    exchange.run_compared(&mut client).await?;
    shared.first_answers.wait().await;
    let mut answered = Instant::now();
    while let Some((due, sent)) = shared.next(answered).await {
        exchange.run(&mut client).await?;
        answered = Instant::now();
        if shared.phase() == MEASURE {
            shared.recorder().record(due, sent, answered)?;
        }
    }
    exchange.run_compared(&mut client).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
