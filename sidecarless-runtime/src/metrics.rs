//! The supervisor's figures in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use ramet_common::Refusal;
use ramet_common::map::EdgeCount;
use ramet_common::shortcut::ShortcutCount;
use ramet_control::gateway::Figures;
use ramet_dataplane::TransportKind;
use ramet_fork::Phases;
use ramet_manifest::QualifiedName;

use crate::instance::Origin;

/// What is counted of a function, over all its versions and domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FunctionFigures {
    pub(crate) name: QualifiedName,
    pub(crate) starting: usize,
    pub(crate) ready: usize,
    pub(crate) draining: usize,
    pub(crate) wanted: u32,
    pub(crate) restarts: u64,
}

/// A part of an instance's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StartPhase {
    /// Starting the process.
    Spawn,
    /// From there to its first word.
    Greet,
    /// Making what all copies of a process are forked from.
    Template,
    /// Opening a copy's files.
    Open,
    /// Forking it.
    Fork,
    /// From there until it is itself.
    Begin,
    /// Taking its place among the others.
    Join,
    /// All of it.
    Total,
}

impl StartPhase {
    /// The phases of making a copy.
    pub(crate) fn of_fork(phases: &Phases) -> Vec<(Self, Duration)> {
        let template =
            phases.template.map(|made| (Self::Template, made.plan + made.copy + made.map + made.register + made.push));
        let own = [(Self::Open, phases.open), (Self::Fork, phases.fork), (Self::Begin, phases.start)];
        template.into_iter().chain(own).collect()
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Greet => "greet",
            Self::Template => "template",
            Self::Open => "open",
            Self::Fork => "fork",
            Self::Begin => "begin",
            Self::Join => "join",
            Self::Total => "total",
        }
    }
}

/// The upper ends of the ranges in which times are counted: 100 µs to 26 s, each four times the one before.
const START_BUCKETS_SECONDS: [f64; 10] = [1e-4, 4e-4, 1.6e-3, 6.4e-3, 2.56e-2, 0.1024, 0.4096, 1.6384, 6.5536, 26.2144];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    counts: [u64; START_BUCKETS_SECONDS.len()],
    count: u64,
    sum: Duration,
}

/// How instances were started.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    totals: BTreeMap<Origin, u64>,
    times: BTreeMap<(Origin, StartPhase), Times>,
}

impl Starts {
    /// A part of a start took so long.
    pub(crate) fn took(&mut self, origin: Origin, phase: StartPhase, time: Duration) {
        let times = self.times.entry((origin, phase)).or_default();
        times.count += 1;
        times.sum += time;
        let seconds = time.as_secs_f64();
        for (count, end) in times.counts.iter_mut().zip(START_BUCKETS_SECONDS) {
            *count += u64::from(seconds <= end);
        }
    }

    /// An instance takes requests, so long after it was wanted.
    pub(crate) fn started(&mut self, origin: Origin, after: Duration) {
        *self.totals.entry(origin).or_default() += 1;
        self.took(origin, StartPhase::Total, after);
    }

    /// The lines of the counter and of the histogram.
    fn lines(&self) -> (String, String) {
        let (mut totals, mut times) = (String::new(), String::new());
        for (origin, count) in &self.totals {
            line(&mut totals, "ramet_instance_starts_total", &format!("kind=\"{}\"", origin.as_str()), count);
        }
        let name = "ramet_instance_start_seconds";
        for ((origin, phase), taken) in &self.times {
            let labels = format!("kind=\"{}\",phase=\"{}\"", origin.as_str(), phase.as_str());
            for (count, end) in taken.counts.iter().zip(START_BUCKETS_SECONDS) {
                line(&mut times, &format!("{name}_bucket"), &format!("{labels},le=\"{end}\""), count);
            }
            line(&mut times, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), taken.count);
            line(&mut times, &format!("{name}_sum"), &labels, taken.sum.as_secs_f64());
            line(&mut times, &format!("{name}_count"), &labels, taken.count);
        }
        (totals, times)
    }
}

/// Figures as they are gathered.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    instances: String,
    wanted: String,
    restarts: String,
    refusals: String,
    /// By names: versions of a function are one function here.
    edges: BTreeMap<(String, String), EdgeCount>,
    shortcuts: BTreeMap<String, ShortcutCount>,
    /// And how many of the messages wait.
    flows: BTreeMap<String, (Figures, u64)>,
}

impl Metrics {
    pub(crate) fn function(&mut self, figures: &FunctionFigures) {
        let labels = format!("namespace=\"{}\",function=\"{}\"", figures.name.namespace, figures.name.name);
        let states = [("starting", figures.starting), ("ready", figures.ready), ("draining", figures.draining)];
        for (state, count) in states {
            line(&mut self.instances, "ramet_instances", &format!("{labels},state=\"{state}\""), count);
        }
        line(&mut self.wanted, "ramet_instances_wanted", &labels, figures.wanted);
        line(&mut self.restarts, "ramet_instance_restarts_total", &labels, figures.restarts);
    }

    pub(crate) fn refusals(&mut self, counts: &[(Refusal, u64)]) {
        for (reason, count) in counts {
            let labels = format!("reason=\"{}\"", reason.as_str());
            line(&mut self.refusals, "ramet_sproxy_refusals_total", &labels, count);
        }
    }

    /// What went from one function to another; `None` is the gateway.
    pub(crate) fn edge(&mut self, from: Option<String>, to: Option<String>, count: EdgeCount) {
        let name = |name: Option<String>| name.unwrap_or_else(|| "gateway".to_owned());
        let total = self.edges.entry((name(from), name(to))).or_default();
        total.descriptors += count.descriptors;
        total.batches += count.batches;
    }

    /// What came to a version of a function whose instances take so many messages at a time.
    pub(crate) fn flow(&mut self, function: String, figures: Figures, capacity: u64) {
        let (total, waiting) = self.flows.entry(function).or_default();
        *waiting += figures.held.saturating_sub(capacity);
        total.done += figures.done;
        total.held += figures.held;
        total.spent += figures.spent;
    }

    /// What went between the gateway and a function that serves HTTP by itself.
    pub(crate) fn shortcut(&mut self, function: String, count: ShortcutCount) {
        let total = self.shortcuts.entry(function).or_default();
        total.redirected += count.redirected;
        total.redirected_bytes += count.redirected_bytes;
        total.passed += count.passed;
        total.passed_bytes += count.passed_bytes;
    }

    /// All of it.
    pub(crate) fn text(self, transport: TransportKind, epoch: u32, starts: &Starts) -> String {
        let (start_totals, start_times) = starts.lines();
        let (mut descriptors, mut batches) = (String::new(), String::new());
        for ((from, to), count) in &self.edges {
            let labels = format!("from=\"{from}\",to=\"{to}\"");
            line(&mut descriptors, "ramet_sproxy_descriptors_total", &labels, count.descriptors);
            line(&mut batches, "ramet_sproxy_sends_total", &labels, count.batches);
        }
        let (mut done, mut held, mut spent) = (String::new(), String::new(), String::new());
        let mut waits = String::new();
        for (function, (figures, waiting)) in &self.flows {
            let labels = format!("function=\"{function}\"");
            line(&mut done, "ramet_function_messages_total", &labels, figures.done);
            line(&mut held, "ramet_function_held", &labels, figures.held);
            line(&mut waits, "ramet_function_waiting", &labels, waiting);
            line(&mut spent, "ramet_function_seconds_total", &labels, figures.spent.as_secs_f64());
        }
        let (mut sends, mut bytes) = (String::new(), String::new());
        for (function, count) in &self.shortcuts {
            let labels = |way| format!("function=\"{function}\",way=\"{way}\"");
            line(&mut sends, "ramet_shortcut_sends_total", &labels("short"), count.redirected);
            line(&mut sends, "ramet_shortcut_sends_total", &labels("tcp"), count.passed);
            line(&mut bytes, "ramet_shortcut_bytes_total", &labels("short"), count.redirected_bytes);
            line(&mut bytes, "ramet_shortcut_bytes_total", &labels("tcp"), count.passed_bytes);
        }
        let mut info = String::new();
        let labels = format!("version=\"{}\",transport=\"{}\"", env!("CARGO_PKG_VERSION"), transport.as_str());
        line(&mut info, "ramet_node_info", &labels, 1);
        let starts = format!("ramet_gateway_starts_total {epoch}\n");
        let families = [
            ("ramet_node_info", "gauge", "The node's version and transport.", info),
            ("ramet_gateway_starts_total", "counter", "Gateways started since the node did.", starts),
            ("ramet_instances", "gauge", "Instances of a function by state.", self.instances),
            ("ramet_instances_wanted", "gauge", "Instances that a function should have.", self.wanted),
            ("ramet_instance_restarts_total", "counter", "Instances that died or failed to start.", self.restarts),
            (
                "ramet_instance_starts_total",
                "counter",
                "Instances that got ready, by how they were made.",
                start_totals,
            ),
            ("ramet_instance_start_seconds", "histogram", "What the parts of instances' starts took.", start_times),
            ("ramet_sproxy_refusals_total", "counter", "Sends that the kernel refused, by reason.", self.refusals),
            ("ramet_sproxy_descriptors_total", "counter", "Descriptors that went over an edge.", descriptors),
            ("ramet_sproxy_sends_total", "counter", "Sends that went over an edge.", batches),
            ("ramet_function_messages_total", "counter", "Messages that a function has done with.", done),
            ("ramet_function_held", "gauge", "Messages that a function has, waiting and in service.", held),
            (
                "ramet_function_waiting",
                "gauge",
                "Messages that a function has beyond what its instances take at a time.",
                waits,
            ),
            (
                "ramet_function_seconds_total",
                "counter",
                "The time that all messages spent at a function, waiting and in service; where none waits it is the \
                 service time.",
                spent,
            ),
            (
                "ramet_shortcut_sends_total",
                "counter",
                "Sends between the gateway and a function that serves HTTP by itself.",
                sends,
            ),
            ("ramet_shortcut_bytes_total", "counter", "Their bytes.", bytes),
        ];
        let mut text = String::new();
        for (name, kind, help, lines) in families.into_iter().filter(|(.., lines)| !lines.is_empty()) {
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
        text
    }
}

fn line(into: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(into, "{name}{{{labels}}} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_whole_and_versions_are_added_up() {
        let mut metrics = Metrics::default();
        let name: QualifiedName = "shop/cart".parse().expect("a name");
        let figures = FunctionFigures { name, starting: 0, ready: 2, draining: 1, wanted: 2, restarts: 3 };
        metrics.function(&figures);
        for descriptors in [5, 7] {
            metrics.edge(None, Some("shop/cart".to_owned()), EdgeCount { descriptors, batches: 1 });
        }
        let text = metrics.text(TransportKind::SkMsg, 1, &Starts::default());
        assert!(text.contains("ramet_instances{namespace=\"shop\",function=\"cart\",state=\"ready\"} 2\n"), "{text}");
        assert!(text.contains("ramet_sproxy_descriptors_total{from=\"gateway\",to=\"shop/cart\"} 12\n"), "{text}");
        assert!(!text.contains("refusals"), "an empty family is left out");
        assert_eq!(text.matches("# TYPE ramet_instances gauge").count(), 1);
    }
}
