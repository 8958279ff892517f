//! Settings file and environment become [`NodeSettings`].

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use super::{
    BusyPoll, CONNECTIONS_MAX, ENVIRONMENT_CONFIG, ENVIRONMENT_FORK_KEY, ENVIRONMENT_OTHERS, ENVIRONMENT_PREFIX,
    ENVIRONMENT_TEST_PREFIX, ForkSettings, GatewaySettings, HEADER_BYTES, LEASE_MAX, LogFormat, LogLevel, LogSettings,
    NodeSettings, SEEDS_BYTES, SEEDS_MAX, Shortcut, Surroundings, TlsSettings, Transport, UID_BASE, WORKERS_MAX,
};
use crate::decode::{self, At, Fields, pool, scalar};
use crate::errors::Errors;
use crate::placement::Placement;
use crate::pool::POOL_FIELDS;
use crate::source::{Place, Source, SourceText};
use crate::tree::{Node, Path, Report, Value, toml};

/// The longest environment variable, in bytes.
const VARIABLE_BYTES_MAX: usize = 4096;

pub(super) fn settings(
    file: Option<&Source>,
    environment: impl IntoIterator<Item = (String, String)>,
    surroundings: &Surroundings,
) -> Result<NodeSettings, Errors> {
    let mut report = Report::default();
    let (name, text) = file.map_or(("defaults", ""), |file| (file.name.as_str(), file.text.as_str()));
    let readable = if text.len() > crate::tree::SOURCE_BYTES_MAX { "" } else { text };
    let id = report.add_source(SourceText::new(name, readable));
    let mut root = match file {
        Some(file) => toml::read(&file.text, id, &mut report),
        None => Node { value: Value::Map(Vec::new()), place: Place::default() },
    };
    overlay(&mut root, environment, &mut report);
    let base_dir = file.and_then(|file| file.base_dir.as_deref());
    let settings = node(At { node: &root, path: &Path::Root }, &mut report, surroundings, base_dir);
    let mut problems = report.into_problems();
    decode::sort(&mut problems, file.map_or(&[], std::slice::from_ref));
    match (Errors::new(problems), settings) {
        (Some(errors), _) => Err(errors),
        (None, settings) => Ok(settings.unwrap_or_else(|| NodeSettings::default_for(surroundings))),
    }
}

/// Lays the variables that are settings over the file's fields. An empty variable is as good as none.
fn overlay(root: &mut Node, environment: impl IntoIterator<Item = (String, String)>, report: &mut Report) {
    for (name, text) in environment {
        let own = [ENVIRONMENT_CONFIG, ENVIRONMENT_FORK_KEY];
        let is_other = own.iter().chain(&ENVIRONMENT_OTHERS).any(|other| *other == name);
        let ignored = is_other || name.starts_with(ENVIRONMENT_TEST_PREFIX);
        let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX).filter(|_| !ignored && !text.is_empty()) else {
            continue;
        };
        let field = rest.to_ascii_lowercase();
        let mut keys: Vec<&str> = field.split("__").collect();
        if let ["pool", size] = keys.as_mut_slice() {
            *size = POOL_FIELDS.into_iter().find(|known| known.eq_ignore_ascii_case(size)).unwrap_or(size);
        }
        let source = format!("environment variable {name}");
        if text.len() > VARIABLE_BYTES_MAX || keys.len() > 2 {
            let id = report.add_source(SourceText::new(&source, ""));
            let message = format!("expected at most {VARIABLE_BYTES_MAX} bytes, and at most one `__` in the name");
            report.problem(Place { source: id, ..Place::default() }, &Path::Root, message);
            continue;
        }
        toml::set(root, &keys, &text, report, &source);
    }
}

fn node(
    at: At<'_>,
    report: &mut Report,
    surroundings: &Surroundings,
    base_dir: Option<&FilePath>,
) -> Option<NodeSettings> {
    let default = NodeSettings::default_for(surroundings);
    let transports = [
        ("auto", Transport::Auto),
        ("skmsg", Transport::Skmsg),
        ("ring", Transport::Ring),
        ("socket", Transport::Socket),
    ];
    let busy_polls = [("never", BusyPoll::Never), ("adaptive", BusyPoll::Adaptive), ("always", BusyPoll::Always)];
    let shortcuts = [("auto", Shortcut::Auto), ("on", Shortcut::On), ("off", Shortcut::Off)];
    let mut fields = Fields::of(at, report, "a table")?;
    let settings = NodeSettings {
        listen: fields.get("listen", report, address).unwrap_or(default.listen),
        admin: fields.get("admin", report, address).unwrap_or(default.admin),
        socket: fields.get("socket", report, |at, report| path(at, report, base_dir)).unwrap_or(default.socket),
        transport: fields
            .get("transport", report, |at, report| scalar::keyword(at, report, &transports))
            .unwrap_or_default(),
        busy_poll: fields
            .get("busy_poll", report, |at, report| scalar::keyword(at, report, &busy_polls))
            .unwrap_or_default(),
        keep_awake: fields.get("keep_awake", report, truth).unwrap_or(default.keep_awake),
        placement: fields.get("placement", report, placement).unwrap_or_default(),
        shortcut: fields
            .get("shortcut", report, |at, report| scalar::keyword(at, report, &shortcuts))
            .unwrap_or_default(),
        tls: fields.get("tls", report, |at, report| tls(at, report, base_dir)),
        gateway: fields
            .get("gateway", report, |at, report| gateway(at, report, &default.gateway))
            .unwrap_or_else(|| default.gateway.clone()),
        pool: fields.get("pool", report, pool::pool_sizes).unwrap_or_default(),
        prefault_pools: fields.get("prefault_pools", report, truth).unwrap_or(default.prefault_pools),
        fork: fields
            .get("fork", report, |at, report| fork(at, report, &default.fork))
            .unwrap_or_else(|| default.fork.clone()),
        log: fields.get("log", report, log).unwrap_or_default(),
        uid_base: fields
            .get("uid_base", report, |at, report| scalar::whole(at, report, UID_BASE))
            .unwrap_or(default.uid_base),
    };
    if settings.listen == settings.admin
        && settings.listen.port() != 0
        && let Some(field) = fields.find("admin").or(fields.find("listen"))
    {
        let message = format!("listen and admin are both {}, expected two addresses", settings.admin);
        report.problem(field.node.place, &at.path.field("admin"), message);
    }
    fields.end(report);
    Some(settings)
}

fn truth(at: At<'_>, report: &mut Report) -> Option<bool> {
    scalar::keyword(at, report, &[("true", true), ("false", false)])
}

fn gateway(at: At<'_>, report: &mut Report, default: &GatewaySettings) -> Option<GatewaySettings> {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut fields = Fields::of(at, report, "a table")?;
    let least = Duration::from_millis(10);
    let mut time = |fields: &mut Fields<'_>, name, least: Duration, default: Duration| {
        fields.get(name, report, |at, report| scalar::duration(at, report, least..=HOUR)).unwrap_or(default)
    };
    let header_timeout = time(&mut fields, "header_timeout", least, default.header_timeout);
    let idle_timeout = time(&mut fields, "idle_timeout", least, default.idle_timeout);
    let body_timeout = time(&mut fields, "body_timeout", least, default.body_timeout);
    let drain_timeout = time(&mut fields, "drain_timeout", Duration::ZERO, default.drain_timeout);
    let workers = fields.get("workers", report, |at, report| scalar::whole(at, report, 1..=WORKERS_MAX));
    let head = fields.get("max_header_bytes", report, |at, report| scalar::bytes(at, report, HEADER_BYTES));
    let connections =
        fields.get("max_connections", report, |at, report| scalar::whole(at, report, 1..=CONNECTIONS_MAX));
    fields.end(report);
    Some(GatewaySettings {
        workers: workers.unwrap_or(default.workers),
        header_timeout,
        idle_timeout,
        body_timeout,
        max_header_bytes: head.unwrap_or(default.max_header_bytes),
        max_connections: connections.unwrap_or(default.max_connections),
        drain_timeout,
    })
}

fn fork(at: At<'_>, report: &mut Report, default: &ForkSettings) -> Option<ForkSettings> {
    let mut fields = Fields::of(at, report, "a table")?;
    let leases = Duration::from_secs(1)..=LEASE_MAX;
    let settings = ForkSettings {
        listen: fields.get("listen", report, address).unwrap_or(default.listen),
        memory: fields
            .get("memory", report, |at, report| scalar::bytes(at, report, SEEDS_BYTES))
            .unwrap_or(default.memory),
        seeds: fields
            .get("seeds", report, |at, report| scalar::whole(at, report, 1..=SEEDS_MAX))
            .unwrap_or(default.seeds),
        lease_max: fields
            .get("lease_max", report, |at, report| scalar::duration(at, report, leases.clone()))
            .unwrap_or(default.lease_max),
    };
    fields.end(report);
    Some(settings)
}

fn tls(at: At<'_>, report: &mut Report, base_dir: Option<&FilePath>) -> Option<TlsSettings> {
    let mut fields = Fields::of(at, report, "a table with certificate and key")?;
    let certificate = fields.need("certificate", report, |at, report| path(at, report, base_dir));
    let key = fields.need("key", report, |at, report| path(at, report, base_dir));
    fields.end(report);
    Some(TlsSettings { certificate: certificate?, key: key? })
}

fn log(at: At<'_>, report: &mut Report) -> Option<LogSettings> {
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let mut fields = Fields::of(at, report, "a table with level and format")?;
    let level = fields.get("level", report, |at, report| scalar::keyword(at, report, &levels));
    let format = fields.get("format", report, |at, report| scalar::keyword(at, report, &formats));
    fields.end(report);
    Some(LogSettings { level: level.unwrap_or_default(), format: format.unwrap_or_default() })
}

fn placement(at: At<'_>, report: &mut Report) -> Option<Placement> {
    let expected = "\"adaptive\", \"spread\", or \"pinned:\" and cores, such as \"pinned:0,2-3\"";
    let placement = Placement::from_text(scalar::text(at, report, expected)?);
    if placement.is_none() {
        at.expected(report, expected);
    }
    placement
}

fn address(at: At<'_>, report: &mut Report) -> Option<SocketAddr> {
    let expected = "an address with a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"";
    let text = scalar::text(at, report, expected)?;
    let address = text.parse().ok();
    if address.is_none() {
        at.expected(report, expected);
    }
    address
}

/// A relative path in the file starts from the file's folder; in a variable, from where the node is started.
fn path(at: At<'_>, report: &mut Report, base_dir: Option<&FilePath>) -> Option<PathBuf> {
    let text = scalar::text(at, report, "a path")?;
    if text.is_empty() {
        at.expected(report, "a path");
        return None;
    }
    let in_file = at.node.place.source == 0;
    Some(base_dir.filter(|_| in_file).map_or_else(|| PathBuf::from(text), |folder| folder.join(text)))
}
