//! Decodes how a function serves HTTP.

use std::time::Duration;

use super::{At, Fields, scalar};
use crate::function::http::{FAILURES_MAX, Http, Listen, PATH_BYTES_MAX, PORT_MIN, Probe};
use crate::function::{FunctionSpec, RequestBody, Start, default};
use crate::tree::{Report, Value};

const HOUR: Duration = Duration::from_secs(3600);
const PROBE_TIMES: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;
const START_TIMES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;

/// The variable that says where to listen.
const PORT_VARIABLE: &str = "PORT";

pub(super) fn http(at: At<'_>, report: &mut Report) -> Option<Http> {
    let mut fields = Fields::of(at, report, "a map, which may be empty: {}")?;
    let listens = [("tcp", Listen::Tcp), ("unix", Listen::Unix)];
    let listen = fields.get("listen", report, |at, report| scalar::keyword(at, report, &listens)).unwrap_or_default();
    let port = fields.get("port", report, |at, report| {
        if listen == Listen::Unix {
            at.say(report, "a port is for `listen: tcp`; with `listen: unix` the path is the node's to choose");
            return None;
        }
        scalar::whole(at, report, u32::from(PORT_MIN)..=u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
    });
    let readiness = fields.get("readiness", report, |at, report| probe(at, report, default::READINESS_PERIOD));
    let liveness = fields.get("liveness", report, |at, report| probe(at, report, default::LIVENESS_PERIOD));
    let start_timeout =
        fields.get("startTimeout", report, |at, report| scalar::duration(at, report, START_TIMES.clone()));
    fields.end(report);
    Some(Http { listen, port, readiness, liveness, start_timeout: start_timeout.unwrap_or(default::start_timeout()) })
}

fn probe(at: At<'_>, report: &mut Report, period: Duration) -> Option<Probe> {
    let mut fields = Fields::of(at, report, "a map with `path`")?;
    let path = fields.need("path", report, path);
    let mut time = |name| fields.get(name, report, |at, report| scalar::duration(at, report, PROBE_TIMES.clone()));
    let period = time("period").unwrap_or(period);
    let timeout = time("timeout").unwrap_or(default::PROBE_TIMEOUT);
    let failure_threshold =
        fields.get("failureThreshold", report, |at, report| scalar::whole(at, report, 1..=FAILURES_MAX));
    fields.end(report);
    let failure_threshold = failure_threshold.unwrap_or(default::failure_threshold());
    Some(Probe { path: path?, period, timeout, failure_threshold })
}

fn path(at: At<'_>, report: &mut Report) -> Option<String> {
    let text = scalar::text(at, report, "a path, such as /healthz")?;
    let is_path = text.starts_with('/') && text.len() <= PATH_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    if !is_path {
        at.expected(report, "a path that begins with `/`, of visible ASCII characters, such as /healthz");
        return None;
    }
    Some(text.to_owned())
}

/// What a function that serves HTTP cannot have besides; `at` is its spec.
pub(super) fn contradictions(at: At<'_>, report: &mut Report, spec: &FunctionSpec) {
    if spec.http.is_none() {
        return;
    }
    let Value::Map(fields) = &at.node.value else { return };
    let mut say = |name: &str, message: &str| {
        if let Some(field) = fields.iter().find(|field| field.key == name) {
            report.problem(field.node.place, &at.path.field(name), message);
        }
    };
    if spec.start != Start::Exec {
        say("start", "a function that serves HTTP by itself cannot be forked; leave `start` out");
    }
    if spec.request_body != RequestBody::default() {
        say("requestBody", "a function that serves HTTP by itself is always given bodies as they come; leave it out");
    }
    if !spec.calls.is_empty() {
        say("calls", "a function that serves HTTP by itself has no way to call others; leave `calls` out");
    }
    if spec.env.contains_key(PORT_VARIABLE) {
        say("env", "PORT is the node's to set for a function that serves HTTP; use `http: { port: … }`");
    }
}
