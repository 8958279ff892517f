//! Decodes the spec of a function.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::time::Duration;

use super::{At, Body, Fields, Spec, http, list, scalar, start};
use crate::function::{
    CALLS_MAX, COMMAND_MAX, CONCURRENCY_MAX, ENV_MAX, FunctionSpec, OPEN_FILES_MAX, PROCESSES_MAX, QUEUE_MAX,
    RequestBody, Resources, Restart, default,
};
use crate::name::Name;
use crate::source::Reference;
use crate::tree::{Report, Value, quoted};

const HOUR: Duration = Duration::from_secs(3600);

/// The least and the most memory that a function can be allowed.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;

/// Variables with this prefix are set by the node.
const RESERVED_ENV_PREFIX: &str = "RAMET_";

/// A function's spec; what is wrong in it is replaced by the default.
pub(super) fn spec(at: At<'_>, report: &mut Report, base_dir: Option<&FilePath>) -> Option<Spec> {
    let mut fields = Fields::of(at, report, "a map with `command`")?;
    let command = fields.need("command", report, |at, report| command(at, report, base_dir)).unwrap_or_default();
    let http = fields.get("http", report, http::http).map(Box::new);
    let bodies = [("whole", RequestBody::Whole), ("streamed", RequestBody::Streamed)];
    let request_body = fields.get("requestBody", report, |at, report| scalar::keyword(at, report, &bodies));
    let env = fields.get("env", report, env).unwrap_or_default();
    let replicas = fields.get("replicas", report, start::replicas).unwrap_or_default();
    let concurrency = fields
        .get("concurrency", report, |at, report| scalar::whole(at, report, 1..=CONCURRENCY_MAX))
        .unwrap_or(default::concurrency());
    let queue = fields.get("queue", report, |at, report| scalar::whole(at, report, 0..=QUEUE_MAX));
    let references = fields.get("calls", report, calls).unwrap_or_default();
    let hang_grace = fields
        .get("hangGrace", report, |at, report| scalar::duration(at, report, Duration::from_millis(100)..=HOUR))
        .unwrap_or(default::hang_grace());
    let shutdown_grace = fields
        .get("shutdownGrace", report, |at, report| scalar::duration(at, report, Duration::ZERO..=HOUR))
        .unwrap_or(default::shutdown_grace());
    let resources = fields.get("resources", report, |at, report| resources(at, report, concurrency));
    let restart = fields.get("restart", report, restart).unwrap_or_default();
    let start = fields.get("start", report, |at, report| start::start(at, report, base_dir)).unwrap_or_default();
    fields.end(report);
    let spec = FunctionSpec {
        command,
        http,
        request_body: request_body.unwrap_or_default(),
        env,
        replicas,
        concurrency,
        queue: queue.unwrap_or(default::queue()),
        calls: references.iter().map(|reference| reference.function.clone()).collect(),
        hang_grace,
        shutdown_grace,
        resources: resources.unwrap_or_else(|| Resources::of(concurrency)),
        restart,
        start,
    };
    http::contradictions(at, report, &spec);
    Some(Spec { body: Body::Function(spec), references, routes: Vec::new() })
}

/// Program and arguments; a relative path to the program becomes an absolute one.
fn command(at: At<'_>, report: &mut Report, base_dir: Option<&FilePath>) -> Option<Vec<String>> {
    let before = report.len();
    let mut command = list(at, report, "texts", 1..=COMMAND_MAX, |at, report| {
        scalar::verbatim(at, report, "a text").map(str::to_owned)
    })?;
    if report.len() > before {
        return None;
    }
    let program = command.first_mut()?;
    let Value::List(items) = &at.node.value else { return None };
    let at = At { node: items.first()?, path: &at.path.item(0) };
    if program.is_empty() {
        at.expected(report, "a program");
        return None;
    }
    if program.contains('/') && !program.starts_with('/') {
        let Some(base_dir) = base_dir else {
            at.say(report, "found a relative path, but this manifest has no folder; expected an absolute path");
            return None;
        };
        let path = base_dir.join(program.strip_prefix("./").unwrap_or(program));
        let Ok(path) = path.into_os_string().into_string() else {
            at.say(report, "the manifest's folder has a name that is not UTF-8; expected an absolute path");
            return None;
        };
        *program = path;
    }
    Some(command)
}

fn env(at: At<'_>, report: &mut Report) -> Option<BTreeMap<String, String>> {
    let Value::Map(fields) = &at.node.value else {
        at.expected(report, "a map of names to texts");
        return None;
    };
    if fields.len() > ENV_MAX {
        at.say(report, format!("found {} variables, expected at most {ENV_MAX}", fields.len()));
        return None;
    }
    let mut env = BTreeMap::new();
    for field in fields {
        let path = at.path.field(&field.key);
        let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        let named =
            field.key.bytes().next().is_some_and(letter) && field.key.bytes().all(|b| letter(b) || b.is_ascii_digit());
        if !named {
            report.problem(field.place, &path, "a variable's name has letters, digits and `_`, and no digit first");
        } else if field.key.starts_with(RESERVED_ENV_PREFIX) {
            report.problem(field.place, &path, "variables that begin with RAMET_ are set by the node");
        } else if let Some(text) = scalar::verbatim(At { node: &field.node, path: &path }, report, "a text") {
            env.insert(field.key.clone(), text.to_owned());
        }
    }
    Some(env)
}

fn calls(at: At<'_>, report: &mut Report) -> Option<Vec<Reference>> {
    let mut seen: BTreeSet<Name> = BTreeSet::new();
    list(at, report, "functions", 0..=CALLS_MAX, |at, report| {
        let function = scalar::function_name(at, report)?;
        if !seen.insert(function.clone()) {
            at.say(report, format!("{} is here twice", quoted(function.as_str())));
            return None;
        }
        Some(Reference { field: at.path.to_string(), place: at.node.place, function })
    })
}

fn resources(at: At<'_>, report: &mut Report, concurrency: u32) -> Option<Resources> {
    let mut fields = Fields::of(at, report, "a map with memory, openFiles and processes")?;
    let memory = fields.get("memory", report, |at, report| scalar::bytes(at, report, MEMORY_BYTES));
    let open_files = fields.get("openFiles", report, |at, report| scalar::whole(at, report, 16..=OPEN_FILES_MAX));
    let processes = fields.get("processes", report, |at, report| scalar::whole(at, report, 1..=PROCESSES_MAX));
    fields.end(report);
    let without = Resources::of(concurrency);
    Some(Resources {
        memory: memory.or(without.memory),
        open_files: open_files.unwrap_or(without.open_files),
        processes: processes.unwrap_or(without.processes),
    })
}

fn restart(at: At<'_>, report: &mut Report) -> Option<Restart> {
    let limits = Duration::from_millis(1)..=HOUR;
    let mut fields = Fields::of(at, report, "a map with initialBackoff and maxBackoff")?;
    let initial = fields.get("initialBackoff", report, |at, report| scalar::duration(at, report, limits.clone()));
    let max = fields.get("maxBackoff", report, |at, report| scalar::duration(at, report, limits));
    fields.end(report);
    let initial_backoff = initial.unwrap_or(default::initial_backoff());
    let max_backoff = max.unwrap_or(default::max_backoff());
    if max_backoff < initial_backoff {
        at.say(report, "maxBackoff is shorter than initialBackoff");
    }
    Some(Restart { initial_backoff, max_backoff })
}
