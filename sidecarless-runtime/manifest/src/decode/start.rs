//! Decodes how many instances of a function there are, and how they are started.

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use super::{At, Fields, scalar};
use crate::function::{REPLICAS_MAX, RemoteFork, Replicas, Start, default};
use crate::tree::{Report, Value};

/// For how long fewer instances must be enough.
const IDLE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

/// How many hexadecimal digits a handle has.
const HANDLE_DIGITS: usize = 32;

pub(super) fn replicas(at: At<'_>, report: &mut Report) -> Option<Replicas> {
    if !matches!(at.node.value, Value::Map(_)) {
        return scalar::whole(at, report, 1..=REPLICAS_MAX).map(Replicas::fixed);
    }
    let mut fields = Fields::of(at, report, "a whole number, or a map with `max`")?;
    let min = fields.get("min", report, |at, report| scalar::whole(at, report, 1..=REPLICAS_MAX)).unwrap_or(1);
    let max = fields.need("max", report, |at, report| scalar::whole(at, report, 1..=REPLICAS_MAX));
    let idle = fields.get("idle", report, |at, report| scalar::duration(at, report, IDLE));
    fields.end(report);
    let max = max?;
    if max < min {
        at.say(report, "max is less than min");
        return None;
    }
    Some(Replicas { min, max, idle: idle.unwrap_or(default::idle()) })
}

pub(super) fn start(at: At<'_>, report: &mut Report, base_dir: Option<&FilePath>) -> Option<Start> {
    if let Value::Scalar { text, .. } = &at.node.value {
        match text.as_str() {
            "exec" => return Some(Start::Exec),
            "fork" => return Some(Start::Fork),
            "remote-fork" => {
                let needs = "\"remote-fork\" needs to know of which process: a map with address, handle and keyFile";
                at.say(report, needs);
                return None;
            }
            _ => {}
        }
    }
    let mut fields = Fields::of(at, report, "\"exec\", \"fork\", or a map with `remote-fork`")?;
    let seed = fields.need("remote-fork", report, |at, report| remote_fork(at, report, base_dir));
    fields.end(report);
    seed.map(Start::RemoteFork)
}

fn remote_fork(at: At<'_>, report: &mut Report, base_dir: Option<&FilePath>) -> Option<RemoteFork> {
    let mut fields = Fields::of(at, report, "a map with address, handle and keyFile")?;
    let address = fields.need("address", report, address);
    let handle = fields.need("handle", report, handle);
    let key_file = fields.need("keyFile", report, |at, report| key_file(at, report, base_dir));
    fields.end(report);
    Some(RemoteFork { address: address?, handle: handle?, key_file: key_file? })
}

fn address(at: At<'_>, report: &mut Report) -> Option<SocketAddr> {
    let address = match &at.node.value {
        Value::Scalar { text, .. } => text.parse().ok(),
        _ => None,
    };
    if address.is_none() {
        at.expected(report, "an address and a port, such as 192.0.2.1:7070");
    }
    address
}

fn handle(at: At<'_>, report: &mut Report) -> Option<String> {
    // Without quotes it may look like a number.
    let text = scalar::verbatim(at, report, "the name of a seed")?;
    if text.len() != HANDLE_DIGITS || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        at.expected(report, "the name of a seed, 32 hexadecimal digits");
        return None;
    }
    Some(text.to_ascii_lowercase())
}

fn key_file(at: At<'_>, report: &mut Report, base_dir: Option<&FilePath>) -> Option<PathBuf> {
    let text = scalar::text(at, report, "the path of a file")?;
    let path = PathBuf::from(text);
    match base_dir {
        _ if path.is_absolute() => Some(path),
        Some(base_dir) => Some(base_dir.join(path)),
        None => {
            at.say(report, "found a relative path, but this manifest has no folder; expected an absolute path");
            None
        }
    }
}
