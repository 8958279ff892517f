//! What one round found of one system.

use std::collections::BTreeMap;

use crate::process::{Usage, Used};
use crate::recorder::{Latencies, Percentiles};
use crate::setting::Setting;

/// What a round found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) requests_per_s: f64,
    /// From when a request was sent.
    pub(crate) raw: Percentiles<f64>,
    /// With what coordinated omission hides.
    pub(crate) corrected: Percentiles<f64>,
    /// What the system's processes used; nothing where they are not known.
    pub(crate) cost: Option<Cost>,
    /// The same by the processes' names.
    pub(crate) processes: BTreeMap<String, (u32, Cost)>,
}

/// What requests cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) cpu_us_per_request: f64,
    pub(crate) wakeups_per_request: f64,
    pub(crate) memory_kib: Option<f64>,
}

impl Sample {
    /// Of what clients saw, and what the processes had used before and after.
    pub(crate) fn new(latencies: &Latencies, before: &Usage, after: &Usage) -> Self {
        let used = |name: &String, used: &Used| used.since(before.get(name));
        let used: Vec<_> = after.iter().map(|(name, now)| (name, used(name, now))).collect();
        let requests = latencies.requests as f64;
        let all = used.iter().fold(Used::default(), |sum, (_, used)| Used {
            processes: sum.processes + used.processes,
            cpu: sum.cpu + used.cpu,
            wakeups: sum.wakeups + used.wakeups,
            memory_kib: used.memory_kib.map(|kib| kib + sum.memory_kib.unwrap_or_default()).or(sum.memory_kib),
        });
        Self {
            requests_per_s: requests / latencies.elapsed.as_secs_f64(),
            raw: latencies.raw,
            corrected: latencies.corrected,
            cost: (!used.is_empty()).then(|| Cost::of(&all, requests)),
            processes: used
                .iter()
                .map(|(name, used)| ((*name).clone(), (used.processes, Cost::of(used, requests))))
                .collect(),
        }
    }

    /// The latencies that a reader means: where requests are due at some time, counted from then.
    pub(crate) const fn latency(&self, setting: &Setting) -> &Percentiles<f64> {
        if setting.rate_per_s.is_some() { &self.corrected } else { &self.raw }
    }
}

impl Cost {
    fn of(used: &Used, requests: f64) -> Self {
        Self {
            cpu_us_per_request: used.cpu.as_secs_f64() * 1e6 / requests,
            wakeups_per_request: used.wakeups as f64 / requests,
            memory_kib: used.memory_kib.map(|kib| kib as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sample_is_per_second_and_per_request() {
        let percentiles = |p50_us| Percentiles { p50_us, p90_us: 2.0, p99_us: 3.0, p999_us: 4.0, p9999_us: 5.0 };
        let latencies = Latencies {
            requests: 1000,
            elapsed: Duration::from_millis(500),
            raw: percentiles(1.0),
            corrected: percentiles(1.5),
        };
        let used = |cpu_ms, wakeups, memory_kib| Used {
            processes: 1,
            cpu: Duration::from_millis(cpu_ms),
            wakeups,
            memory_kib: Some(memory_kib),
        };
        let before = Usage::from([("front".to_owned(), used(100, 7, 10)), ("function".to_owned(), used(50, 1, 10))]);
        let after =
            Usage::from([("front".to_owned(), used(110, 507, 20)), ("function".to_owned(), used(60, 2001, 30))]);
        let found = Sample::new(&latencies, &before, &after);
        assert_eq!(found.requests_per_s, 2000.0);
        let all = found.cost.expect("there are processes");
        assert!((all.cpu_us_per_request - 20.0).abs() < 1e-9 && (all.wakeups_per_request - 2.5).abs() < 1e-9);
        assert_eq!(all.memory_kib, Some(50.0));
        let (count, front) = found.processes["front"];
        assert_eq!((count, front.wakeups_per_request, front.memory_kib), (1, 0.5, Some(20.0)));
        assert_eq!(Sample::new(&latencies, &Usage::new(), &Usage::new()).cost, None);
        let open = Setting { rate_per_s: Some(10), ..Setting::new(1, 1, 1) };
        assert_eq!((found.latency(&Setting::new(1, 1, 1)).p50_us, found.latency(&open).p50_us), (1.0, 1.5));
    }
}
