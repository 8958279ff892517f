//! `vm`: runs a command in an emulated guest with another kernel and a soft-RoCE device, because the kernel that builds
//! ramet may have neither.
//!
//! The guest sees the host's own file tree, so it runs what has just been built. [`series`] and [`sources`] know where
//! a kernel comes from, [`apt`] fetches it, [`cache`] keeps it with the [`initramfs`], which has the [`modules`] that a
//! guest begins with; [`qemu`] starts a guest with its [`script`], and [`mod@run`] follows it to its end.

mod apt;
mod cache;
mod initramfs;
mod modules;
mod qemu;
mod run;
mod script;
mod series;
mod sources;
mod tail;

pub(crate) use qemu::Role;
pub(crate) use run::{Ending, Plan, Stream, run as follow};
pub(crate) use script::{Script, quoted};
pub(crate) use series::Series;
pub(crate) use tail::Tail;

use crate::build_ebpf::Install;
use crate::debian::{self, Need};
use anyhow::{Context, Result, ensure};
use cache::Age;
use std::env;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tail::Lines;

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
    #[arg(long, value_name = "MIB", default_value_t = run::MEMORY_MIB)]
    memory: u32,
    /// A folder in which the guests can leave files, `$XTASK_VM_OUT` for them
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
        let ending = follow(&plan, &mut |role, stream, bytes| printer.hear(role, stream, bytes));
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

/// Whether this machine is one that guests can be made on, given the packages.
pub(crate) fn is_possible() -> bool {
    cfg!(target_arch = "x86_64")
}

/// Makes sure that guests can be started.
pub(crate) fn ensure_packages() -> Result<()> {
    ensure!(
        is_possible(),
        "guests run this machine's own programs on an emulated x86-64 machine, and this machine is another"
    );
    debian::ensure_packages("an emulated guest", &NEEDS, Install::Allowed)
}

/// Makes sure that a kernel of the series is there.
pub(crate) fn ensure_kernel(series: Series) -> Result<()> {
    cache::kernel(series, Age::Any).map(drop)
}

/// Passes on what guests say: the command's output as it is, everything else by the line and with its origin.
#[derive(Debug, Default)]
struct Printer {
    lines: Lines,
}

impl Printer {
    fn hear(&mut self, role: Role, stream: Stream, bytes: &[u8]) {
        // A reader who has gone away must not keep the run from its end.
        let _ = match (role, stream) {
            (Role::Command, Stream::Out) => stdout().write_all(bytes).and_then(|()| stdout().flush()),
            (Role::Command, Stream::Err) => stderr().write_all(bytes),
            _ => stderr().write_all(self.lines.take(role, stream, bytes).as_bytes()),
        };
    }

    /// Prints what had no end of line.
    fn finish(&mut self) {
        eprint!("{}", self.lines.rest());
    }
}
