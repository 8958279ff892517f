//! The seeds' host: a process of its own, as it is one on another machine.

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ramet_fork::seeds::Limits;
use ramet_fork::{Handle, Key, PageServer, Seeds, Terms};
use serde::{Deserialize, Serialize};

use super::line::Line;
use crate::process::THIS_PROGRAM;

/// Longer than any run.
const LEASE: Duration = Duration::from_secs(3600);

/// Runs the process: it is asked on its standard input and ends with that.
pub(crate) fn serve() -> anyhow::Result<()> {
    let seeds = Arc::new(Seeds::new(Limits::default()));
    let server = PageServer::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, Arc::clone(&seeds))?;
    let (input, mut output) = (io::stdin().lock(), io::stdout().lock());
    for request in input.lines() {
        let answer = match obey(&request?, &seeds, server.address()) {
            Ok(seed) => Answer { seed, error: None },
            Err(error) => Answer { seed: None, error: Some(format!("{error:#}")) },
        };
        writeln!(output, "{}", serde_json::to_string(&answer)?)?;
    }
    Ok(())
}

fn obey(request: &str, seeds: &Seeds, address: SocketAddr) -> anyhow::Result<Option<Prepared>> {
    match request.split_once(' ') {
        Some(("prepare", pid)) => {
            let held = seeds.prepare(pid.parse()?, Terms { lease: LEASE })?;
            Ok(Some(Prepared {
                address,
                handle: held.handle.to_bytes(),
                key: *held.key.reveal(),
                pause: held.pause,
                prepare: held.prepare,
                descriptor_bytes: held.descriptor_bytes,
            }))
        }
        Some(("revoke", handle)) => {
            seeds.revoke(handle.parse()?)?;
            Ok(None)
        }
        _ => bail!("{request:?} is no request"),
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    seed: Option<Prepared>,
    error: Option<String>,
}

/// A seed that waits to be read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Prepared {
    pub(super) address: SocketAddr,
    handle: [u8; 16],
    key: [u8; 16],
    pub(super) pause: Duration,
    pub(super) prepare: Duration,
    pub(super) descriptor_bytes: usize,
}

impl Prepared {
    pub(super) const fn handle(&self) -> Handle {
        Handle::from_bytes(self.handle)
    }

    pub(super) const fn key(&self) -> Key {
        Key::from_bytes(self.key)
    }
}

/// The process, as who asks it sees it. It and its seeds end when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    process: Child,
    line: Line,
}

impl Keeper {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (line, theirs) = Line::pair()?;
        let mut command = Command::new(THIS_PROGRAM);
        command.args([crate::PEER_COMMAND, "seed-keeper"]).stdin(theirs.try_clone()?).stdout(theirs);
        let process = command.spawn().context("cannot start a keeper of seeds")?;
        Ok(Self { process, line })
    }

    pub(super) fn prepare(&mut self, pid: i32) -> anyhow::Result<Prepared> {
        self.ask(&format!("prepare {pid}"))?.context("the keeper of seeds has prepared none")
    }

    pub(super) fn revoke(&mut self, seed: &Prepared) -> anyhow::Result<()> {
        self.ask(&format!("revoke {}", seed.handle())).map(drop)
    }

    fn ask(&mut self, request: &str) -> anyhow::Result<Option<Prepared>> {
        let answer: Answer = serde_json::from_str(&self.line.ask(request)?)?;
        match answer.error {
            Some(error) => bail!("{error}"),
            None => Ok(answer.seed),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
