//! `prepare`, `list`, `renew` and `revoke`.

use ramet_control::fork::{self, Answer, Question};
use ramet_fork::Handle;
use serde::Serialize;

use super::arguments::{Prepare, Renew, Revoke, Target};
use super::question::{Keeper, unexpected};
use super::{expiry, key};
use crate::arguments::{Format, NodeArguments};
use crate::exit::Failure;
use crate::output;

/// A seed that was prepared, as programs read it.
#[derive(Serialize)]
struct Prepared {
    address: String,
    handle: String,
    key: String,
    expires: String,
    pause_us: u128,
    prepare_us: u128,
    descriptor_bytes: u64,
}

/// A seed as programs read it.
#[derive(Serialize)]
struct Row {
    handle: String,
    /// The process that was forked.
    parent: i32,
    name: String,
    /// The process that is the seed.
    pid: i32,
    age_seconds: u64,
    lease_left_seconds: u64,
    expires: String,
    bytes: u64,
    readers: u32,
}

/// How long a seed is kept, as programs read it.
#[derive(Serialize)]
struct Renewed {
    handle: String,
    expires: String,
}

/// How many seeds were ended, as programs read it.
#[derive(Serialize)]
struct Revoked {
    revoked: u32,
}

/// `ramet fork prepare`.
pub(super) fn prepare(node: &NodeArguments, options: &Prepare) -> Result<(), Failure> {
    let lease = options.lease;
    let question = match options.process {
        Target::Process(pid) => Question::Prepare { pid, lease },
        Target::Instance(id) => Question::PrepareInstance { id, lease },
    };
    let keeper = Keeper::reach(node)?;
    let Answer::Prepared(prepared) = keeper.ask(&question, &[])? else { return Err(unexpected()) };
    let handle = prepared.handle;
    let prepared = Prepared {
        address: prepared.address.to_string(),
        handle: Handle::from_bytes(handle).to_string(),
        key: key::digits(&prepared.key),
        expires: expiry::in_universal_time(prepared.lease),
        pause_us: prepared.pause.as_micros(),
        prepare_us: prepared.prepare.as_micros(),
        descriptor_bytes: prepared.descriptor_bytes,
    };
    output::value(options.output.output, &prepared).inspect_err(|_| {
        // Nobody will ever know its key. If it cannot be ended now, its lease ends.
        let _ = keeper.ask(&Question::Revoke { handle: Some(handle) }, &[]);
    })
}

/// `ramet fork list`.
pub(super) fn list(node: &NodeArguments, format: Format) -> Result<(), Failure> {
    let Answer::Seeds(seeds) = Keeper::reach(node)?.ask(&Question::List, &[])? else { return Err(unexpected()) };
    let rows: Vec<Row> = seeds.into_iter().map(row).collect();
    let header = ["HANDLE", "PARENT", "NAME", "SEED", "AGE", "LEASE LEFT", "BYTES", "READERS"];
    output::rows(format, &rows, &header, |row| {
        vec![
            row.handle.clone(),
            row.parent.to_string(),
            // Any process names itself as it likes.
            row.name.escape_debug().to_string(),
            row.pid.to_string(),
            format!("{}s", row.age_seconds),
            format!("{}s", row.lease_left_seconds),
            row.bytes.to_string(),
            row.readers.to_string(),
        ]
    })
}

fn row(seed: fork::Seed) -> Row {
    Row {
        handle: Handle::from_bytes(seed.handle).to_string(),
        parent: seed.parent,
        name: seed.name,
        pid: seed.pid,
        age_seconds: seed.age.as_secs(),
        lease_left_seconds: seed.lease_left.as_secs(),
        expires: expiry::in_universal_time(seed.lease_left),
        bytes: seed.bytes,
        readers: seed.readers,
    }
}

/// `ramet fork renew`.
pub(super) fn renew(node: &NodeArguments, options: &Renew) -> Result<(), Failure> {
    let Renew { handle, lease, .. } = *options;
    let question = Question::Renew { handle: handle.to_bytes(), lease };
    let Answer::Renewed(left) = Keeper::reach(node)?.ask(&question, &[])? else { return Err(unexpected()) };
    let expires = expiry::in_universal_time(left);
    match options.output.output {
        Format::Table => output::line(&format!("seed {handle} is kept until {expires}")),
        format => output::value(format, &Renewed { handle: handle.to_string(), expires }),
    }
}

/// `ramet fork revoke`.
pub(super) fn revoke(node: &NodeArguments, options: &Revoke) -> Result<(), Failure> {
    let question = Question::Revoke { handle: options.handle.map(Handle::to_bytes) };
    let Answer::Revoked(count) = Keeper::reach(node)?.ask(&question, &[])? else { return Err(unexpected()) };
    match (options.output.output, options.handle) {
        (Format::Table, Some(handle)) => output::line(&format!("seed {handle} revoked")),
        (Format::Table, None) => {
            output::line(&format!("{count} {} revoked", if count == 1 { "seed" } else { "seeds" }))
        }
        (format, _) => output::value(format, &Revoked { revoked: count }),
    }
}
