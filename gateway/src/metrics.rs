//! What the gateway counts, in Prometheus' terms. Counting a request costs two atomic adds and one short lock.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::chains::ChainTable;
use crate::domain::Domain;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChainLabels {
    chain: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    chain: String,
    code: u16,
}

/// From 50 µs, about the fastest chain, to 13 s in steps of 4.
const BUCKETS: [f64; 10] = [5e-5, 2e-4, 8e-4, 3.2e-3, 1.28e-2, 5.12e-2, 0.2048, 0.8192, 3.2768, 13.1072];

type Durations = Family<ChainLabels, Histogram, fn() -> Histogram>;

/// All counters of the gateway process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    answers: Family<AnswerLabels, Counter>,
    not_found: Counter,
    durations: Durations,
    /// Descriptors that made no sense where they arrived.
    pub(crate) rejected_descriptors: Counter,
}

/// One chain's counters, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct ChainCounters {
    chain: String,
    ok: Counter,
    answers: Family<AnswerLabels, Counter>,
    duration: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("ramet");
        let answers: Family<AnswerLabels, Counter> = Family::default();
        let not_found = answers.get_or_create(&AnswerLabels { chain: String::new(), code: 404 }).clone();
        let durations: Durations = Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let rejected_descriptors = Counter::default();
        registry.register("answers", "Requests answered, by chain and HTTP status", answers.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's head to its answer's head",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register(
            "rejected_descriptors",
            "Descriptors from functions that made no sense to the gateway",
            rejected_descriptors.clone(),
        );
        Self { registry: Mutex::new(registry), answers, not_found, durations, rejected_descriptors }
    }

    /// A chain's counters; a new version of a chain goes on with the old one's.
    pub(crate) fn of_chain(&self, chain: &str) -> ChainCounters {
        let labels = ChainLabels { chain: chain.to_owned() };
        ChainCounters {
            chain: chain.to_owned(),
            ok: self.answers.get_or_create(&AnswerLabels { chain: chain.to_owned(), code: 200 }).clone(),
            answers: self.answers.clone(),
            duration: self.durations.get_or_create(&labels).clone(),
        }
    }

    /// A request that no chain matches.
    pub(crate) fn unrouted(&self, status: StatusCode) {
        if status == StatusCode::NOT_FOUND {
            self.not_found.inc();
        } else {
            self.answers.get_or_create(&AnswerLabels { chain: String::new(), code: status.as_u16() }).inc();
        }
    }

    /// Everything in text form: the counters, and how full chains and pools are now.
    pub(crate) fn text(&self, chains: &ChainTable, domains: &[&Domain]) -> String {
        let mut text = String::new();
        text.push_str("# HELP ramet_in_flight Requests that run now.\n# TYPE ramet_in_flight gauge\n");
        for chain in chains.chains() {
            let _ = writeln!(text, "ramet_in_flight{{chain=\"{}\"}} {}", chain.settings.route.chain, chain.in_flight());
        }
        text.push_str("# HELP ramet_waiting Requests that wait for room at a function.\n# TYPE ramet_waiting gauge\n");
        for chain in chains.chains() {
            let _ = writeln!(text, "ramet_waiting{{chain=\"{}\"}} {}", chain.settings.route.chain, chain.waiting());
        }
        text.push_str("# HELP ramet_free_slots Free slots of a domain's pool.\n# TYPE ramet_free_slots gauge\n");
        for domain in domains {
            for (bytes, free) in domain.free_slots() {
                let _ = writeln!(text, "ramet_free_slots{{domain=\"{}\",bytes=\"{bytes}\"}} {free}", domain.name);
            }
        }
        text.push_str("# HELP ramet_slots Slots of a domain's pool.\n# TYPE ramet_slots gauge\n");
        for domain in domains {
            for ((bytes, _), total) in domain.free_slots().zip(domain.pool.layout().counts) {
                let _ = writeln!(text, "ramet_slots{{domain=\"{}\",bytes=\"{bytes}\"}} {total}", domain.name);
            }
        }
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl ChainCounters {
    /// Counts an answer and how long it took.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        if status == StatusCode::OK {
            self.ok.inc();
        } else {
            let labels = AnswerLabels { chain: self.chain.clone(), code: status.as_u16() };
            self.answers.get_or_create(&labels).inc();
        }
        self.duration.observe(took.as_secs_f64());
    }

    #[cfg(test)]
    pub(crate) fn unregistered() -> Self {
        Metrics::new().of_chain("test")
    }
}
