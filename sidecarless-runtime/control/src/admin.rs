//! The admin API: JSON over HTTP/1.1 on the supervisor's unix socket. The socket's permissions are the access control.
//!
//! | method and path | body → answer |
//! |---|---|
//! | `GET /v1/node` | → [`Node`] |
//! | `POST /v1/apply` | [`Apply`] → [`Applied`], or 422 [`Problem`] with every error; then nothing was changed |
//! | `POST /v1/delete` | [`Apply`] → [`Applied`], or 404, 409, 422 [`Problem`]; then nothing was changed |
//! | `GET /v1/certificate` | → the certificate chain that the gateway shows, in PEM, or `null` |
//! | `GET /v1/objects?kind=&namespace=&name=` | → `[`[`Object`]`]` |
//! | `DELETE /v1/objects?kind=&namespace=&name=` | → [`Applied`], 404 or 409 [`Problem`] |
//! | `GET /v1/instances?namespace=&function=` | → `[`[`Instance`]`]` |
//! | `GET /v1/logs?namespace=&function=&follow=` (`true`: endless) | → one [`LogLine`] per line, newest last |

use serde::{Deserialize, Serialize};

/// Text of manifests with where it came from, for positions in errors and for relative commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// One per file.
    pub sources: Vec<Source>,
}

/// One manifest file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The name in errors.
    pub name: String,
    /// The absolute folder that relative commands start from.
    pub base_dir: String,
    /// YAML.
    pub text: String,
}

/// What an apply or delete did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// One per object that was named.
    pub changes: Vec<Change>,
}

/// What happened to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `Function` or `Chain`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What was done.
    pub action: Action,
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Created,
    /// It was another.
    Changed,
    /// It was the same.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// What went wrong, in RFC 9457's shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// One line.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, why, and what to do.
    pub detail: String,
    /// Each error on its own, for manifests with `FILE:LINE:COLUMN`.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// The node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The version of `ramet`.
    pub version: String,
    /// The supervisor's process.
    pub pid: u32,
    /// The gateway's process.
    pub gateway_pid: Option<u32>,
    /// How descriptors travel: `skmsg`, `ring` or `socket`.
    pub transport: String,
    /// Why that transport.
    pub transport_reason: String,
    /// Whether functions that serve HTTP by themselves are reached past TCP: `on`, `off` or `unneeded`.
    pub shortcut: String,
    /// Why.
    pub shortcut_reason: String,
    /// Where the gateway listens.
    pub listen: String,
    /// Where `/healthz`, `/readyz`, `/metrics` are.
    pub admin: String,
    /// What is not ready; empty when all is.
    pub waiting_for: Vec<String>,
}

/// A function or chain: as applied, and how it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// `Function` or `Chain`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The manifest, defaults filled in.
    pub manifest: serde_json::Value,
    /// How it is.
    pub status: Status,
}

/// How an object is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it takes requests.
    pub ready: bool,
    /// A sentence when it does not.
    pub message: String,
    /// A function's ready instances.
    pub ready_instances: u32,
    /// A function's wanted instances.
    pub wanted_instances: u32,
    /// How often instances of a function died or failed to start.
    pub restarts: u64,
    /// Where a chain is reached, such as `ANY */thumbnail`.
    pub routes: Vec<String>,
}

/// A process of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: u32,
    /// Its function's namespace.
    pub namespace: String,
    /// Its function.
    pub function: String,
    /// Its process.
    pub pid: u32,
    /// `starting`, `ready`, `unready`, `draining`.
    pub state: String,
    /// What it was made of: `exec`, `fork`, `remote-fork`.
    pub origin: String,
    /// Since when it runs, in seconds.
    pub age_seconds: u64,
}

/// A line that an instance wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Microseconds since the Unix epoch.
    pub time_us: u64,
    /// The function's namespace.
    pub namespace: String,
    /// The function.
    pub function: String,
    /// The instance.
    pub instance: u32,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Without its line end; at most 8 KiB, longer lines are split.
    pub line: String,
}
