//! `vm`: runs a command in an emulated guest with another kernel and a soft-RoCE device, because the kernel that builds
//! ramet may have neither.
//!
//! The guest sees the host's own file tree, so it runs what has just been built. [`series`] and [`sources`] know where
//! a kernel comes from, [`apt`] fetches it, [`cache`] keeps it with the [`initramfs`], which has the [`modules`] that a
//! guest begins with; [`qemu`] starts a guest with its [`script`], and [`run`] follows it to its end.

mod apt;
mod cache;
mod initramfs;
mod modules;
mod qemu;
mod run;
mod script;
mod series;
mod sources;

use crate::build_ebpf::Install;
use crate::debian::{self, Need};
use anyhow::{Context, Result, ensure};
use cache::Age;
use qemu::Role;
use run::{Ending, Plan, Stream};
use script::Script;
use series::Series;
use std::collections::HashMap;
use std::env;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The exit code when the command had not ended in time, as of timeout(1).
const TIMED_OUT: u8 = 124;
/// The exit code when it was not the command that failed, as of timeout(1).
const BROKEN: u8 = 125;

/// What guests need here: the emulator, what their first root is made with, and what they find in this machine's tree.
const NEEDS: [Need; 11] = [
    Need { package: "qemu-system-x86", probe: &[qemu::PROGRAM, "--version"] },
    Need {
        package: "busybox-static",
        probe: &["sh", "-c", "busybox --list | grep -qx switch_root && ! ldd /bin/busybox"],
    },
    Need { package: "cpio", probe: &["cpio", "--version"] },
    Need { package: "kmod", probe: &["modprobe", "--version"] },
    Need { package: "xz-utils", probe: &["xz", "--version"] },
    Need { package: "iproute2", probe: &["rdma", "-V"] },
    Need { package: "rdma-core", probe: &["test", "-d", "/usr/share/doc/rdma-core"] },
    Need { package: "ibverbs-providers", probe: &["test", "-e", "/etc/libibverbs.d/rxe.driver"] },
    Need { package: "ibverbs-utils", probe: &["sh", "-c", "command -v ibv_devinfo"] },
    Need { package: "perftest", probe: &["sh", "-c", "command -v ib_read_lat"] },
    Need { package: "util-linux", probe: &["setpriv", "--version"] },
];

/// The arguments of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guests' kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Series,
    /// How many guests; with two, `--peer` says what the second runs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    guests: u8,
    /// What the second guest runs, a line of shell; its end is not the run's
    #[arg(long, value_name = "SHELL")]
    peer: Option<String>,
    /// Seconds after which the run is over, with exit code 124
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Memory of each guest
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// A folder in which the guests can leave files, `$RAMET_VM_OUT` for them
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Look for a newer kernel than the one in the cache
    #[arg(long)]
    refresh: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the verb: the command's exit code, 124 when it took too long, 125 when it was not the command that failed.
pub(crate) fn run(args: &Args) -> ExitCode {
    let ending = prepare(args).and_then(|plan| {
        let mut printer = Printer::default();
        let ending = run::run(&plan, &mut |role, stream, bytes| printer.hear(role, stream, bytes));
        printer.finish();
        ending
    });
    match ending {
        Ok(Ending::Code(code)) => ExitCode::from(code),
        Ok(Ending::TimedOut) => {
            eprintln!("error: the command had not ended after {} s; give it more with --timeout", args.timeout);
            ExitCode::from(TIMED_OUT)
        }
        Ok(Ending::Broken(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(BROKEN)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(BROKEN)
        }
    }
}

fn prepare(args: &Args) -> Result<Plan> {
    let folder = env::current_dir().context("the current folder is gone")?;
    let peer = match (args.guests, &args.peer) {
        (1, Some(_)) => anyhow::bail!("--peer is what a second guest runs; say --guests 2 as well"),
        (2, None) => anyhow::bail!("two guests need --peer, what the second one runs"),
        (_, peer) => peer.as_deref().map(|peer| Script::new(&folder).shell(peer)),
    };
    ensure_packages()?;
    Ok(Plan {
        series: args.kernel,
        age: if args.refresh { Age::Newest } else { Age::Any },
        memory_mib: args.memory,
        timeout: Duration::from_secs(args.timeout),
        command: Script::new(&folder).words(&args.command),
        peer,
        out: args.out.clone(),
    })
}

/// Makes sure that guests can be started.
fn ensure_packages() -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "guests run this machine's own programs on an emulated x86-64 machine, and this machine is another"
    );
    debian::ensure_packages("an emulated guest", &NEEDS, Install::Allowed)
}

/// Passes on what guests say: the command's output as it is, everything else by the line and with its origin.
#[derive(Debug, Default)]
struct Printer {
    partial: HashMap<(Role, Stream), Vec<u8>>,
}

impl Printer {
    fn hear(&mut self, role: Role, stream: Stream, bytes: &[u8]) {
        // A reader who has gone away must not keep the run from its end.
        let _ = match (role, stream) {
            (Role::Command, Stream::Out) => stdout().write_all(bytes).and_then(|()| stdout().flush()),
            (Role::Command, Stream::Err) => stderr().write_all(bytes),
            _ => {
                let partial = self.partial.entry((role, stream)).or_default();
                partial.extend_from_slice(bytes);
                let end = partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let whole: Vec<u8> = partial.drain(..end).collect();
                stderr().write_all(prefixed(role, stream, &whole).as_bytes())
            }
        };
    }

    /// Prints what had no end of line.
    fn finish(&mut self) {
        for ((role, stream), rest) in self.partial.drain() {
            eprint!("{}", prefixed(role, stream, &rest));
        }
    }
}

fn prefixed(role: Role, stream: Stream, bytes: &[u8]) -> String {
    let origin = match (role, stream) {
        (Role::Command, _) => "console: ",
        (Role::Peer, Stream::Console) => "peer's console: ",
        (Role::Peer, _) => "peer: ",
    };
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(|line| format!("{origin}{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_where_they_come_from() {
        assert_eq!(prefixed(Role::Peer, Stream::Out, b"a\r\nb"), "peer: a\npeer: b\n");
        assert_eq!(prefixed(Role::Command, Stream::Console, b"x\n"), "console: x\n");
        assert_eq!(prefixed(Role::Peer, Stream::Console, b""), "");
    }
}
