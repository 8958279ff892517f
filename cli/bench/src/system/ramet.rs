//! A real node, with a chain of echo functions.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;

use super::{Measured, Running, answering_get};
use crate::build::Build;
use crate::load::Workload;
use crate::process::{Launcher, Processes};
use crate::setting::Identity;

const CHAIN: &str = "bench";
/// What a function's queue and a chain's limit are by default.
const QUEUE_DEFAULT: usize = 64;
const IN_FLIGHT_DEFAULT: usize = 512;
/// The most requests at a time that a function can be given.
const CONCURRENCY_MAX: usize = 1024;
/// Where a function listens, in a network of its own.
const HTTP_PORT: u16 = 8080;

/// The transport that the node is told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Whichever it finds best.
    Auto,
    Skmsg,
    Ring,
    Socket,
}

impl Transport {
    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Skmsg => "skmsg",
            Self::Ring => "ring",
            Self::Socket => "socket",
        }
    }
}

/// What the functions of a chain are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Functions {
    /// They link the SDK.
    Linked,
    /// They serve HTTP by themselves.
    Http(Shortcut),
}

/// Whether the node is to reach functions that serve HTTP past TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortcut {
    On,
    Off,
}

/// A chain of echo functions.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) identity: Identity,
    pub(crate) transport: Transport,
    pub(crate) functions: u32,
    pub(crate) kind: Functions,
    /// The most requests that will be in flight.
    pub(crate) connections_max: usize,
}

/// Starts a node and waits until it is ready.
pub(super) async fn start_chain(chain: Chain, build: &Build, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let name = format!("{}-{}", chain.identity, chain.functions);
    let folder = launcher.folder().join(&name);
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("chain.yaml");
    fs::write(&file, manifest(&spec(build, &chain)?, &chain))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let (listen, admin) = (launcher.free_address()?, launcher.free_address()?);
    let mut arguments: Vec<OsString> = vec![
        "up".into(),
        "-f".into(),
        file.into(),
        "--listen".into(),
        listen.to_string().into(),
        "--admin".into(),
        admin.to_string().into(),
        "--transport".into(),
        chain.transport.name().into(),
        "--socket".into(),
        folder.join("ramet.sock").into(),
    ];
    arguments.extend(build.config().into_iter().flat_map(|file| ["--config".into(), file.into()]));
    let shortcut = match chain.kind {
        Functions::Linked => None,
        Functions::Http(Shortcut::On) => Some(("RAMET_SHORTCUT", "on")),
        Functions::Http(Shortcut::Off) => Some(("RAMET_SHORTCUT", "off")),
    };
    let node = launcher.start_with(&name, build.ramet(), arguments, shortcut, Stdio::null())?;
    let mut processes = Processes(vec![node]);
    answering_get(&mut processes, admin, "/readyz", 200).await?;
    let workload = Workload::Echo { path: format!("/{CHAIN}") };
    let Chain { identity, functions, .. } = chain;
    let functions = Some(functions);
    Ok(Running { identity, address: listen, h2c: None, workload, processes: Measured::Own(processes), functions })
}

/// Nothing but the defaults, except where more connections than usual would be refused, or would wait for a function
/// that serves any number.
fn spec(build: &Build, chain: &Chain) -> anyhow::Result<String> {
    // A JSON string is a YAML string.
    let quoted = |program: &Path| serde_json::Value::from(program.to_string_lossy());
    let queue = chain.connections_max.max(QUEUE_DEFAULT);
    Ok(match chain.kind {
        Functions::Linked => format!("  command: [{}]\n  queue: {queue}\n", quoted(build.function()?)),
        Functions::Http(_) => {
            // The very program that the peers are, in whichever build the node is.
            let program = std::env::current_exe().context("cannot find this executable")?;
            let (peer, concurrency) = (crate::PEER_COMMAND, chain.connections_max.clamp(16, CONCURRENCY_MAX));
            format!(
                "  command: [{}, {peer}, http-hop, '--listen=127.0.0.1:{HTTP_PORT}']\n  queue: {queue}\n  \
                 concurrency: {concurrency}\n  http: {{port: {HTTP_PORT}}}\n",
                quoted(&program)
            )
        }
    })
}

fn manifest(spec: &str, chain: &Chain) -> String {
    let in_flight = chain.connections_max.max(IN_FLIGHT_DEFAULT);
    let mut text = String::new();
    let mut steps = String::new();
    for number in 1..=chain.functions {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "apiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata:\n  name: echo-{number}\nspec:\n{spec}---\n"
        );
        let _ = writeln!(steps, "    - function: echo-{number}");
    }
    text + &format!(
        "apiVersion: ramet.dev/v1alpha1\nkind: Chain\nmetadata:\n  name: {CHAIN}\n\
         spec:\n  maxInFlight: {in_flight}\n  steps:\n{steps}"
    )
}
