//! A real node of this executable, with a chain of echo functions.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::Path;

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

/// A chain of echo functions.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) identity: Identity,
    pub(crate) transport: Transport,
    pub(crate) functions: u32,
    /// The most requests that will be in flight.
    pub(crate) connections_max: usize,
}

/// Starts a node and waits until it is ready.
pub(super) async fn start_chain(chain: Chain, build: &Build, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let name = format!("{}-{}", chain.identity, chain.functions);
    let folder = launcher.folder().join(&name);
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("chain.yaml");
    fs::write(&file, manifest(build.function()?, &chain))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let (listen, admin) = (launcher.free_address()?, launcher.free_address()?);
    let arguments: [OsString; 11] = [
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
    let mut processes = Processes(vec![launcher.start(&name, build.ramet(), arguments)?]);
    answering_get(&mut processes, admin, "/readyz", 200).await?;
    let workload = Workload::Echo { path: format!("/{CHAIN}") };
    let Chain { identity, functions, .. } = chain;
    Ok(Running { identity, address: listen, h2c: None, workload, processes: Measured::Own(processes), functions })
}

/// Nothing but the defaults, except where more connections than usual would be refused.
fn manifest(program: &Path, chain: &Chain) -> String {
    let (queue, in_flight) = (chain.connections_max.max(QUEUE_DEFAULT), chain.connections_max.max(IN_FLIGHT_DEFAULT));
    // A JSON string is a YAML string.
    let program = serde_json::Value::from(program.to_string_lossy());
    let mut text = String::new();
    let mut steps = String::new();
    for number in 1..=chain.functions {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "apiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata:\n  name: echo-{number}\n\
             spec:\n  command: [{program}]\n  queue: {queue}\n---\n"
        );
        let _ = writeln!(steps, "    - function: echo-{number}");
    }
    text + &format!(
        "apiVersion: ramet.dev/v1alpha1\nkind: Chain\nmetadata:\n  name: {CHAIN}\n\
         spec:\n  maxInFlight: {in_flight}\n  steps:\n{steps}"
    )
}
