//! A real node of this executable, with a chain of echo functions.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Running, answering_get};
use crate::load::Workload;
use crate::options::{ChainOptions, System};
use crate::process::{Launcher, Processes, THIS_PROGRAM};

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

/// Starts a node and waits until it is ready.
pub(super) async fn start_chain(
    system: System,
    transport: Transport,
    options: &ChainOptions,
    launcher: &mut Launcher,
) -> anyhow::Result<Running> {
    let program = function_program(options)?;
    let folder = launcher.folder().join(system.name());
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("chain.yaml");
    fs::write(&file, manifest(&program, options)).with_context(|| format!("cannot write {}", file.display()))?;
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
        transport.name().into(),
        "--socket".into(),
        folder.join("ramet.sock").into(),
    ];
    let mut processes = Processes(vec![launcher.start(system.name(), THIS_PROGRAM, arguments)?]);
    answering_get(&mut processes, admin, "/readyz", 200).await?;
    let workload = Workload::Echo { path: format!("/{CHAIN}") };
    Ok(Running { system, address: listen, workload, processes })
}

fn function_program(options: &ChainOptions) -> anyhow::Result<PathBuf> {
    let program = match &options.function {
        Some(file) => std::path::absolute(file)?,
        None => {
            let this = std::env::current_exe().context("cannot find this executable")?;
            this.with_file_name("echo")
        }
    };
    if !program.is_file() {
        bail!("there is no {}: build it with `cargo build --release -p echo`", program.display());
    }
    Ok(program)
}

/// Nothing but the defaults, except where more connections than usual would be refused.
fn manifest(program: &Path, options: &ChainOptions) -> String {
    let connections_max = options.connections.iter().max().copied().unwrap_or(1);
    let (queue, in_flight) = (connections_max.max(QUEUE_DEFAULT), connections_max.max(IN_FLIGHT_DEFAULT));
    // A JSON string is a YAML string.
    let program = serde_json::Value::from(program.to_string_lossy());
    let mut text = String::new();
    let mut steps = String::new();
    for number in 1..=options.functions {
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
