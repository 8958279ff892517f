//! A host that a test can kill: it forks the process whose number it is given, says so, and serves until it ends.
#![forbid(unsafe_code)]

use std::env::args_os;
use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::Arc;

use ramet_fork::{Family, Given, Host, LocalSource, prepare};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, zygote, pid] = args_os().collect::<Vec<_>>().try_into().map_err(|_| "usage: host ZYGOTE PID")?;
    let pid = pid.to_str().ok_or("a process number")?.parse()?;
    let prepared = prepare(pid)?;
    let source = LocalSource::open(prepared.seed.pid())?;
    let host = Arc::new(Host::start(Command::new(zygote))?);
    let family = Family::start(host, prepared.descriptor, Box::new(source))?;
    let child = family.child(&Given::own()?)?;
    writeln!(io::stdout(), "{}", child.pid)?;
    let _ = io::stdin().read(&mut [0])?;
    Ok(())
}
