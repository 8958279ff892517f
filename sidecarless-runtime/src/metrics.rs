//! The supervisor's figures in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;

use ramet_common::Refusal;
use ramet_common::map::EdgeCount;
use ramet_dataplane::TransportKind;
use ramet_manifest::QualifiedName;

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

/// Figures as they are gathered.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    instances: String,
    wanted: String,
    restarts: String,
    refusals: String,
    /// By names: versions of a function are one function here.
    edges: BTreeMap<(String, String), EdgeCount>,
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

    /// All of it.
    pub(crate) fn text(self, transport: TransportKind, epoch: u32) -> String {
        let (mut descriptors, mut batches) = (String::new(), String::new());
        for ((from, to), count) in &self.edges {
            let labels = format!("from=\"{from}\",to=\"{to}\"");
            line(&mut descriptors, "ramet_sproxy_descriptors_total", &labels, count.descriptors);
            line(&mut batches, "ramet_sproxy_sends_total", &labels, count.batches);
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
            ("ramet_sproxy_refusals_total", "counter", "Sends that the kernel refused, by reason.", self.refusals),
            ("ramet_sproxy_descriptors_total", "counter", "Descriptors that went over an edge.", descriptors),
            ("ramet_sproxy_sends_total", "counter", "Sends that went over an edge.", batches),
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
        let text = metrics.text(TransportKind::SkMsg, 1);
        assert!(text.contains("ramet_instances{namespace=\"shop\",function=\"cart\",state=\"ready\"} 2\n"), "{text}");
        assert!(text.contains("ramet_sproxy_descriptors_total{from=\"gateway\",to=\"shop/cart\"} 12\n"), "{text}");
        assert!(!text.contains("refusals"), "an empty family is left out");
        assert_eq!(text.matches("# TYPE ramet_instances gauge").count(), 1);
    }
}
