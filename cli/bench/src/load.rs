//! A closed loop of kept-alive connections on this thread, so that the load costs as little as a load can.

mod connection;
mod exchange;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use hdrhistogram::Histogram;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

pub(crate) use connection::{Answer, fetch};
pub(crate) use exchange::{Exchange, Workload};

use crate::process::ProcessTree;
use connection::Connection;

/// How long a request that was sent may take before the system counts as stuck.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests run but do not count: connections open, caches fill.
const WARM_UP: u8 = 0;
/// Requests count.
const MEASURE: u8 = 1;
/// No further request counts.
const FINISH: u8 = 2;

/// What load a round puts on a system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// So many requests are always in flight, each on a connection of its own.
    pub(crate) connections: usize,
    pub(crate) payload_bytes: usize,
    /// Before the measurement.
    pub(crate) warm_up: Duration,
    /// Of the measurement.
    pub(crate) duration: Duration,
}

/// What a round found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) requests_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) cpu_us_per_request: f64,
}

/// Runs one round; any wrong answer ends it.
pub(crate) async fn round(
    address: SocketAddr,
    workload: &Workload,
    load: Load,
    processes: &ProcessTree,
) -> anyhow::Result<Sample> {
    let shared = Arc::new(Shared::new(load.connections)?);
    // Dropped on every way out, which ends the tasks.
    let mut tasks = JoinSet::new();
    for index in 0..load.connections {
        let exchange = workload.exchange(address, load.payload_bytes, index);
        tasks.spawn(drive(address, exchange, Arc::clone(&shared)));
    }
    let all_answered = tokio::time::timeout(PATIENCE, shared.first_answers.wait());
    undisturbed(&mut tasks, all_answered).await?.map_err(|_| stuck())?;
    undisturbed(&mut tasks, tokio::time::sleep(load.warm_up)).await?;
    let cpu_before = processes.cpu_time()?;
    let start = Instant::now();
    shared.enter(MEASURE);
    undisturbed(&mut tasks, tokio::time::sleep(load.duration)).await?;
    shared.enter(FINISH);
    let elapsed = start.elapsed();
    let cpu = processes.cpu_time()?.saturating_sub(cpu_before);
    let finished = tokio::time::timeout(PATIENCE, async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    });
    finished.await.map_err(|_| stuck())??;
    let latencies = shared.latencies();
    sample(&latencies, elapsed, cpu)
}

fn stuck() -> anyhow::Error {
    anyhow!("a request was not answered within {PATIENCE:?}")
}

fn sample(latencies: &Histogram<u64>, elapsed: Duration, cpu: Duration) -> anyhow::Result<Sample> {
    let requests = latencies.len() as f64;
    if latencies.is_empty() {
        bail!("no request was answered in {elapsed:?}");
    }
    let quantile_us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Sample {
        requests_per_s: requests / elapsed.as_secs_f64(),
        p50_us: quantile_us(0.5),
        p99_us: quantile_us(0.99),
        p999_us: quantile_us(0.999),
        cpu_us_per_request: cpu.as_secs_f64() * 1e6 / requests,
    })
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
struct Shared {
    /// The warm-up begins when every connection has had an answer.
    first_answers: Barrier,
    phase: AtomicU8,
    /// In nanoseconds. One for all, because one per connection would fill the caches.
    latencies: Mutex<Histogram<u64>>,
}

impl Shared {
    fn new(connections: usize) -> anyhow::Result<Self> {
        let latencies = Histogram::new(3).context("cannot make a histogram")?;
        Ok(Self {
            first_answers: Barrier::new(connections + 1),
            phase: AtomicU8::new(WARM_UP),
            latencies: Mutex::new(latencies),
        })
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn latencies(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection: the first answer is compared byte by byte, then as many as the round allows, then one more byte by
/// byte.
async fn drive(address: SocketAddr, exchange: Exchange, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    exchange.run_compared(&mut connection).await?;
    shared.first_answers.wait().await;
    let mut start = Instant::now();
    while shared.phase() != FINISH {
        exchange.run(&mut connection).await?;
        let end = Instant::now();
        if shared.phase() == MEASURE {
            let latency_ns = u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX);
            shared.latencies().record(latency_ns).context("cannot record a latency")?;
        }
        start = end;
    }
    exchange.run_compared(&mut connection).await?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
