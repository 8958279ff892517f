//! Latencies of a round, as they were and corrected for coordinated omission.
//!
//! A client that waits for an answer before it asks again asks less while the system stands still, and so sees less of
//! that than its users would (Gil Tene, "How NOT to Measure Latency"). With requests that are due at fixed times the
//! correction is exact: the time is counted from when a request was due. In a closed loop nothing is ever due, and the
//! correction is HdrHistogram's: an answer that took longer than the median stands for those that would have been asked
//! for meanwhile, one each median.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::statistics::Spread;

/// Three digits: a thousandth of each value.
const DIGITS: u8 = 3;

/// How the latencies of a round are distributed, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles<T> {
    /// Half of the answers came within this time.
    pub p50_us: T,
    /// 90 % of the answers came within this time.
    pub p90_us: T,
    /// 99 %.
    pub p99_us: T,
    /// 99.9 %.
    pub p999_us: T,
    /// 99.99 %.
    pub p9999_us: T,
}

impl<T: Copy> Percentiles<T> {
    /// From the median on.
    pub(crate) fn values(&self) -> [T; 5] {
        [self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.p9999_us]
    }
}

/// What [`Percentiles::values`] are of.
pub(crate) const QUANTILES: [(f64, &str); 5] =
    [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];

impl Percentiles<f64> {
    fn of(latencies_ns: &Histogram<u64>, divisor: f64) -> Self {
        let [p50_us, p90_us, p99_us, p999_us, p9999_us] =
            QUANTILES.map(|(quantile, _)| latencies_ns.value_at_quantile(quantile) as f64 / 1e3 / divisor);
        Self { p50_us, p90_us, p99_us, p999_us, p9999_us }
    }
}

impl Percentiles<Spread> {
    /// Of several rounds, each percentile for itself.
    pub(crate) fn spread<'p>(rounds: impl Iterator<Item = &'p Percentiles<f64>> + Clone) -> Option<Self> {
        let spread = |at: usize| Spread::of(rounds.clone().map(|percentiles| percentiles.values()[at]));
        Some(Self {
            p50_us: spread(0)?,
            p90_us: spread(1)?,
            p99_us: spread(2)?,
            p999_us: spread(3)?,
            p9999_us: spread(4)?,
        })
    }
}

/// What a round's clients saw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latencies {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// From when requests were sent.
    pub(crate) raw: Percentiles<f64>,
    /// With what coordinated omission hides.
    pub(crate) corrected: Percentiles<f64>,
}

/// Takes the latencies of a round.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// In nanoseconds, as the other.
    raw: Histogram<u64>,
    /// Only with requests that are due at some time.
    from_due: Option<Histogram<u64>>,
}

impl Recorder {
    /// For a round in which the client waits for its answers.
    pub(crate) fn closed_loop() -> anyhow::Result<Self> {
        Ok(Self { raw: histogram()?, from_due: None })
    }

    /// For a round in which requests are due at some time.
    pub(crate) fn open_loop() -> anyhow::Result<Self> {
        Ok(Self { raw: histogram()?, from_due: Some(histogram()?) })
    }

    /// One answer. In a closed loop a request is due when it is sent.
    pub(crate) fn record(&mut self, due: Instant, sent: Instant, answered: Instant) -> anyhow::Result<()> {
        record(&mut self.raw, answered - sent)?;
        match &mut self.from_due {
            Some(from_due) => record(from_due, answered - due),
            None => Ok(()),
        }
    }

    /// What was recorded in this time; each latency is a `divisor`-th of what was recorded.
    pub(crate) fn latencies(&self, elapsed: Duration, divisor: u32) -> anyhow::Result<Latencies> {
        if self.raw.is_empty() {
            bail!("no request was answered in {elapsed:?}");
        }
        let divisor = f64::from(divisor);
        let corrected = match &self.from_due {
            Some(from_due) => Percentiles::of(from_due, divisor),
            None => Percentiles::of(&self.raw.clone_correct(self.raw.value_at_quantile(0.5)), divisor),
        };
        Ok(Latencies { requests: self.raw.len(), elapsed, raw: Percentiles::of(&self.raw, divisor), corrected })
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new(DIGITS).context("cannot make a histogram")
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) -> anyhow::Result<()> {
    let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    histogram.record(latency_ns).context("cannot record a latency")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn close(value: f64, exact: f64) -> bool {
        (value / exact - 1.0).abs() < 2e-3
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut recorder = Recorder::closed_loop().unwrap();
        let start = Instant::now();
        for micros in 1..=10_000 {
            recorder.record(start, start, start + Duration::from_micros(micros)).unwrap();
        }
        let latencies = recorder.latencies(Duration::from_secs(1), 1).unwrap();
        assert_eq!(latencies.requests, 10_000);
        for (value, exact) in latencies.raw.values().into_iter().zip([5000.0, 9000.0, 9900.0, 9990.0, 9999.0]) {
            assert!(close(value, exact), "{value} instead of {exact}");
        }
        let halves = recorder.latencies(Duration::from_secs(1), 2).unwrap();
        assert!(close(halves.raw.p50_us, 2500.0));
    }

    #[test]
    fn a_standstill_counts_for_those_who_would_have_asked_meanwhile() {
        let mut recorder = Recorder::closed_loop().unwrap();
        let start = Instant::now();
        for _ in 0..1000 {
            recorder.record(start, start, start + Duration::from_micros(100)).unwrap();
        }
        recorder.record(start, start, start + Duration::from_millis(100)).unwrap();
        let latencies = recorder.latencies(Duration::from_secs(1), 1).unwrap();
        assert!(close(latencies.raw.p90_us, 100.0) && close(latencies.raw.p99_us, 100.0));
        // A thousand more, 0.1 to 100 ms, would have been asked in that time.
        assert!((75_000.0..85_000.0).contains(&latencies.corrected.p90_us), "{latencies:?}");
    }

    #[test]
    fn in_an_open_loop_the_wait_to_be_sent_counts() {
        let mut recorder = Recorder::open_loop().unwrap();
        let due = Instant::now();
        let sent = due + Duration::from_millis(5);
        recorder.record(due, sent, sent + Duration::from_millis(1)).unwrap();
        let latencies = recorder.latencies(Duration::from_secs(1), 1).unwrap();
        assert!(close(latencies.raw.p50_us, 1000.0) && close(latencies.corrected.p50_us, 6000.0));
    }

    #[test]
    fn nothing_recorded_is_an_error() {
        assert!(Recorder::closed_loop().unwrap().latencies(Duration::from_secs(1), 1).is_err());
    }
}
