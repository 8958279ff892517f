//! The whole benchmark with real processes, and a stand-in for the node: what is measured, what is refused, and that
//! nothing is left behind.
//!
//! This program is its own peers, as the `ramet` executable is, so it has a `main` of its own: `bench-peer` and `up`
//! are what the benchmark starts, `chain` and `fork` are the benchmark in a process that can be killed, anything else
//! runs the tests.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a test program")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use ramet_bench::setting::Protocol;
use ramet_bench::{ChainOptions, ForkOptions, HopOptions, HopSystem, IngressOptions, PeerOptions, Report};
use rustix::process::{Pid, Signal, kill_process};

#[path = "processes/forks.rs"]
mod forks;

use forks::{
    a_build_that_knows_no_orders_is_told_of_at_once, all_that_forks_is_of_the_measured_build,
    forks_of_two_builds_are_measured_beside_each_other,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    command: Role,
}

#[derive(Subcommand)]
enum Role {
    BenchPeer(PeerOptions),
    Up(Up),
    Chain(ChainOptions),
    Hop(HopOptions),
    Ingress(IngressOptions),
    Fork(ForkOptions),
}

#[derive(clap::Args)]
struct Up {
    #[arg(short = 'f')]
    manifest: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    admin: SocketAddr,
    #[arg(long)]
    transport: String,
    #[arg(long)]
    socket: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let first = std::env::args().nth(1).unwrap_or_default();
    if ["bench-peer", "up", "chain", "hop", "ingress", "fork"].contains(&first.as_str()) {
        return match Program::parse().command {
            Role::BenchPeer(options) => ramet_bench::peer(options),
            Role::Up(options) => stand_in_node(&options).inspect_err(|error| {
                // Without a trace, for which there is no room in the last lines that a report shows.
                eprintln!("{error:#}");
                std::process::exit(1);
            }),
            Role::Chain(options) => ramet_bench::chain(&options).map(|report| eprint!("{report}")),
            Role::Hop(options) => ramet_bench::hop(&options).map(|report| eprint!("{report}")),
            Role::Ingress(options) => ramet_bench::ingress(&options).map(|report| eprint!("{report}")),
            Role::Fork(options) => ramet_bench::fork(&options).map(|report| eprint!("{report}")),
        };
    }
    run_tests()
}

type Test = fn() -> anyhow::Result<()>;

const TESTS: [(&str, Test); 13] = [
    ("bodies_pass_three_hops_unchanged", bodies_pass_three_hops_unchanged),
    (
        "chains_of_several_lengths_are_measured_one_after_the_other",
        chains_of_several_lengths_are_measured_one_after_the_other,
    ),
    ("wrong_answers_are_never_reported_as_numbers", wrong_answers_are_never_reported_as_numbers),
    (
        "servers_are_the_peers_own_with_the_short_cut_and_without",
        servers_are_the_peers_own_with_the_short_cut_and_without,
    ),
    ("fronts_give_the_same_answer_over_both_protocols", fronts_give_the_same_answer_over_both_protocols),
    ("hops_of_every_kind_are_measured_on_every_placement", hops_of_every_kind_are_measured_on_every_placement),
    ("many_messages_are_under_way_through_many_functions", many_messages_are_under_way_through_many_functions),
    ("idle_nodes_are_measured", idle_nodes_are_measured),
    ("nothing_survives_a_signal", nothing_survives_a_signal),
    ("nothing_survives_sigkill", nothing_survives_sigkill),
    ("forks_of_two_builds_are_measured_beside_each_other", forks_of_two_builds_are_measured_beside_each_other),
    ("all_that_forks_is_of_the_measured_build", all_that_forks_is_of_the_measured_build),
    ("a_build_that_knows_no_orders_is_told_of_at_once", a_build_that_knows_no_orders_is_told_of_at_once),
];

/// As much of the usual test program as `cargo test NAME` and nextest need.
fn run_tests() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str);
    // None of them is ignored.
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(filter) && !has("--ignored")) {
        if has("--list") {
            println!("{name}: test");
            continue;
        }
        test().with_context(|| format!("test {name}"))?;
        println!("test {name} ... ok");
    }
    Ok(())
}

/// Behaves as a node would, or badly, by the transport that it is told to use. It leaves a child behind that nobody
/// ends but the benchmark.
fn stand_in_node(options: &Up) -> anyhow::Result<()> {
    let manifest = fs::read_to_string(&options.manifest)?;
    anyhow::ensure!(manifest.contains("kind: Chain"), "no chain in the manifest");
    anyhow::ensure!(options.socket.is_absolute(), "no usable socket");
    let listen = format!("--listen={}", options.listen);
    let arguments = match options.transport.as_str() {
        "ring" => vec!["http-hop", &listen],
        "auto" if manifest.contains("http:") => {
            anyhow::ensure!(manifest.contains("bench-peer, http-hop"), "the function is not that of the peers");
            let shortcut = std::env::var("RAMET_SHORTCUT");
            anyhow::ensure!(shortcut.as_deref() == Ok("on"), "no plain connections here");
            vec!["http-hop", &listen]
        }
        "auto" => vec!["fixed", &listen, "--status=404", "--content-type=text/plain", "--body=nothing \"there\""],
        // As long as the payload, but not the payload.
        "socket" => vec!["fixed", &listen, "--status=200", "--content-type=text/plain", "--body=0123456789"],
        other => anyhow::bail!("no {other} here"),
    };
    Command::new("/proc/self/exe").arg("bench-peer").args(arguments).process_group(0).spawn()?;
    let admin = format!("--listen={}", options.admin);
    ramet_bench::peer(peer_options(&["http-hop", &admin]))
}

fn peer_options(arguments: &[&str]) -> PeerOptions {
    match Program::parse_from([&["", "bench-peer"], arguments].concat()).command {
        Role::BenchPeer(options) => options,
        _ => unreachable!("it says bench-peer"),
    }
}

/// The benchmark for a short time. Its function exists but is never started: the node is a stand-in.
fn run(arguments: &[&str]) -> anyhow::Result<Report> {
    let (command, arguments) = arguments.split_first().context("no command")?;
    let rounds = ["--duration=300ms", "--warm-up=20ms", "--rounds=2"];
    // What is idle has none.
    let rounds = if arguments.contains(&"--idle") { &[][..] } else { &rounds };
    let short = [&["", command], rounds].concat();
    let function = if *command == "hop" { &[][..] } else { &["--function=/proc/self/exe"] };
    let report = match Program::try_parse_from([&short, function, arguments].concat())?.command {
        Role::Chain(options) => ramet_bench::chain(&options)?,
        Role::Hop(options) => ramet_bench::hop(&options)?,
        Role::Ingress(options) => ramet_bench::ingress(&options)?,
        Role::Up(_) | Role::BenchPeer(_) | Role::Fork(_) => anyhow::bail!("{command} is not run here"),
    };
    let left = descendants(std::process::id());
    anyhow::ensure!(left.is_empty(), "still running: {left:?}");
    Ok(report)
}

fn load(report: &Report) -> anyhow::Result<&ramet_bench::report::LoadReport> {
    match report {
        Report::Load(report) => Ok(report),
        Report::Idle(_) | Report::Fork(_) => anyhow::bail!("not under load"),
    }
}

/// Nothing may be missing but what this machine or this build lacks.
fn expect_all_but(report: &Report, lacks: &[(&str, &str)]) -> anyhow::Result<usize> {
    for left_out in report.left_out() {
        let is_lacking = |&(system, why): &(&str, &str)| left_out.system == system && left_out.reason.contains(why);
        anyhow::ensure!(lacks.iter().any(is_lacking) && left_out.setting.is_none(), "{left_out}");
        eprintln!("{left_out}");
    }
    Ok(report.left_out().len())
}

const NO_NGINX: [(&str, &str); 2] = [("nginx-sidecars", "PATH"), ("nginx-bare", "PATH")];

fn bodies_pass_three_hops_unchanged() -> anyhow::Result<()> {
    let against = "--against=http-hops,nginx-sidecars,unix,tcp,grpc,iceoryx2";
    for (settings, sizes) in
        [(4, ["--connections=1,8", "--payload=0,100"]), (2, ["--connections=2", "--payload=1MiB,100001"])]
    {
        let report = run(&["chain", "--systems=http-hops", against, sizes[0], sizes[1]])?;
        let lacks = [&NO_NGINX[..], &NO_PEERS, &[("grpc", "--features peers")]].concat();
        let systems = 6 - expect_all_but(&report, &lacks)?;
        let rows = &load(&report)?.rows;
        anyhow::ensure!(rows.len() == systems * settings, "{report}");
        for row in rows {
            anyhow::ensure!(
                row.requests_per_s.min > 0.0 && row.latency.p50_us.min <= row.latency.p99_us.max,
                "{report}"
            );
            anyhow::ensure!(row.setting.functions == Some(3), "{report}");
            let cost = row.cost.as_ref().context("the cost is measured")?;
            anyhow::ensure!(cost.memory_kib.is_some_and(|kib| kib.min > 500.0), "{report}");
            let processes: u32 = row.processes.iter().map(|process| process.processes).sum();
            anyhow::ensure!(processes >= 3, "{report}");
        }
    }
    Ok(())
}

fn chains_of_several_lengths_are_measured_one_after_the_other() -> anyhow::Result<()> {
    let report = run(&["chain", "--systems=http-hops", "--against=unix", "--functions=2,1", "--connections=1"])?;
    expect_all_but(&report, &[])?;
    let measured: Vec<_> = load(&report)?.rows.iter().map(|row| (&*row.system, row.setting.functions)).collect();
    anyhow::ensure!(
        measured
            == [("http-hops", 1), ("unix", 1), ("http-hops", 2), ("unix", 2)].map(|(name, count)| (name, Some(count))),
        "{report}"
    );
    Ok(())
}

fn wrong_answers_are_never_reported_as_numbers() -> anyhow::Result<()> {
    let systems = "--systems=ramet-skmsg,ramet-ring,ramet-socket";
    let report = run(&["chain", systems, "--against=http-hops", "--connections=4", "--payload=10"])?;
    let chain = load(&report)?;
    let measured: Vec<_> = chain.rows.iter().map(|row| &*row.system).collect();
    anyhow::ensure!(measured == ["ramet-ring", "http-hops"], "{report}");
    let compared: Vec<_> = chain.ratios.iter().map(|ratio| (&*ratio.system, &*ratio.against)).collect();
    anyhow::ensure!(compared == [("ramet-ring", "http-hops")], "{report}");
    let [not_started, wrong] = report.left_out() else { anyhow::bail!("{report}") };
    anyhow::ensure!(not_started.system == "ramet-skmsg" && not_started.setting.is_none(), "{report}");
    anyhow::ensure!(not_started.reason.contains("no skmsg here"), "{report}");
    anyhow::ensure!(wrong.system == "ramet-socket" && wrong.reason.contains("differs"), "{report}");
    anyhow::ensure!(report.has_failures(), "{report}");
    Ok(())
}

/// The stand-in has no plain connections, so it is told apart which of the two asked for them.
fn servers_are_the_peers_own_with_the_short_cut_and_without() -> anyhow::Result<()> {
    let against = "--against=ramet-http-plain,http-hops";
    let report = run(&["chain", "--systems=ramet-http", against, "--functions=1", "--connections=2"])?;
    let chain = load(&report)?;
    let compared: Vec<_> = chain.ratios.iter().map(|ratio| (&*ratio.system, &*ratio.against)).collect();
    anyhow::ensure!(compared == [("ramet-http", "http-hops")], "{report}");
    let [plain] = report.left_out() else { anyhow::bail!("{report}") };
    anyhow::ensure!(plain.system == "ramet-http-plain" && plain.reason.contains("no plain connections"), "{report}");
    Ok(())
}

fn fronts_give_the_same_answer_over_both_protocols() -> anyhow::Result<()> {
    let report = run(&["ingress", "--against=hyper-bare,nginx-bare", "--connections=2"])?;
    let lacking = expect_all_but(&report, &NO_NGINX)?;
    let measured: Vec<_> = load(&report)?.rows.iter().map(|row| (&*row.system, row.setting.protocol)).collect();
    let fronts = ["ramet-gateway", "hyper-bare", "nginx-bare"];
    let expected: Vec<_> = [Protocol::Http1, Protocol::H2c]
        .iter()
        .flat_map(|&protocol| fronts[..3 - lacking].iter().map(move |&front| (front, Some(protocol))))
        .collect();
    anyhow::ensure!(measured == expected, "{report}");
    Ok(())
}

/// Without the privilege the kernel redirects nothing.
const NO_KERNEL: [(&str, &str); 4] = [
    ("ramet-skmsg", "BPF"),
    ("bare-skmsg", "BPF"),
    ("ramet-skmsg", "no eBPF object"),
    ("bare-skmsg", "no eBPF object"),
];
const NO_PEERS: [(&str, &str); 2] = [("iceoryx2", "--features peers"), ("iceoryx2-event", "--features peers")];

fn hops_of_every_kind_are_measured_on_every_placement() -> anyhow::Result<()> {
    let all = HopSystem::value_variants().iter().map(|system| system.name()).collect::<Vec<_>>().join(",");
    let report = run(&["hop", &format!("--systems={all}"), "--against=futex"])?;
    let lacking = expect_all_but(&report, &[&NO_KERNEL[..], &NO_PEERS].concat())?;
    let rows = &load(&report)?.rows;
    let placements = if std::thread::available_parallelism()?.get() > 1 { 3 } else { 2 };
    let systems = HopSystem::value_variants().len() - lacking;
    // Who never leaves its core is not put on one with another.
    let expected = systems * placements - if placements == 3 { 1 } else { 2 };
    anyhow::ensure!(rows.len() == expected, "{} rows instead of {expected}\n{report}", rows.len());
    for row in rows {
        anyhow::ensure!(row.setting.functions == Some(1) && row.setting.payload_bytes == 32, "{report}");
        anyhow::ensure!(row.latency.p50_us.min > 0.0 && row.requests_per_s.min > 0.0, "{report}");
        let processes: u32 = row.processes.iter().map(|process| process.processes).sum();
        anyhow::ensure!(processes == 2, "{report}");
    }
    let futex = rows.iter().find(|row| row.system == "futex").context("futex is measured")?;
    let cost = futex.cost.as_ref().context("its cost is measured")?;
    anyhow::ensure!(cost.wakeups_per_request.median > 0.1, "sleepers are woken: {report}");
    Ok(())
}

fn many_messages_are_under_way_through_many_functions() -> anyhow::Result<()> {
    let systems = "--systems=ramet-ring,ramet-ring-sleeping,ramet-skmsg,ramet-socket";
    let against = "--against=bare-ring,bare-skmsg,unix,tcp,iceoryx2,iceoryx2-event,futex";
    let load_options = ["--functions=3", "--in-flight=100", "--batch=1,32", "--placement=free"];
    let report = run(&[&["hop", systems, against], &load_options[..]].concat())?;
    // A word has room for one message only, so futex has no row.
    let lacking = expect_all_but(&report, &[&NO_KERNEL[..], &NO_PEERS].concat())?;
    let rows = &load(&report)?.rows;
    anyhow::ensure!(rows.len() == (10 - lacking) * 2, "{report}");
    Ok(())
}

fn idle_nodes_are_measured() -> anyhow::Result<()> {
    let report = run(&["chain", "--systems=ramet-ring,http-hops", "--idle", "--idle-duration=200ms"])?;
    let Report::Idle(idle) = &report else { anyhow::bail!("not idle") };
    let [row] = idle.rows.as_slice() else { anyhow::bail!("{report}") };
    anyhow::ensure!(row.system == "ramet-ring" && row.processes == 2, "{report}");
    anyhow::ensure!((0.0..50.0).contains(&row.percent_of_core), "{report}");
    Ok(())
}

fn nothing_survives_a_signal() -> anyhow::Result<()> {
    for signal in [Signal::INT, Signal::TERM] {
        let folder = tempfile::tempdir()?;
        let (mut child, started) = chain_in_a_process(folder.path())?;
        kill_process(pid_of(&child), signal)?;
        let status = ended(&mut child)?;
        anyhow::ensure!(status.code() == Some(1), "{status}");
        let left: Vec<_> = started.iter().filter(|process| runs(process)).collect();
        anyhow::ensure!(left.is_empty(), "still running: {left:?}");
    }
    Ok(())
}

fn nothing_survives_sigkill() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut child, started) = chain_in_a_process(folder.path())?;
    child.kill()?;
    ended(&mut child)?;
    // The stand-in's child has no wish to die with its parent; whoever leaves such a child behind must end it.
    let is_stray = |process: &Process| process.command.contains("bench-peer http-hop") && process.group == process.pid;
    let (strays, others): (Vec<_>, Vec<_>) = started.iter().partition(|process| is_stray(process) && process.is_leaf);
    let gone = wait_until(|| !others.iter().any(|process| runs(process)));
    for stray in strays.iter().filter(|process| runs(process)) {
        kill_process(Pid::from_raw(stray.pid).context("a number")?, Signal::KILL)?;
    }
    anyhow::ensure!(gone, "still running: {:?}", others.iter().filter(|process| runs(process)).collect::<Vec<_>>());
    Ok(())
}

/// Starts a run that takes long and keeps its files in `folder`, and returns once all its processes are there.
fn chain_in_a_process(folder: &Path) -> anyhow::Result<(Child, Vec<Process>)> {
    let mut command = Command::new("/proc/self/exe");
    command.args([
        "chain",
        "--systems=ramet-ring",
        "--against=http-hops",
        "--duration=1m",
        "--function=/proc/self/exe",
    ]);
    let child = command.env("TMPDIR", folder).stderr(Stdio::null()).spawn()?;
    // A node with its child, and three functions.
    let all = wait_until(|| descendants(child.id()).iter().filter(|process| process.is_settled()).count() == 5);
    anyhow::ensure!(all, "the run did not start: {:?}", descendants(child.id()));
    let started = descendants(child.id());
    Ok((child, started))
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn ended(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let mut status = None;
    wait_until(|| {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    status.context("the run did not end")
}

fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        // tidy: the pause between two looks at the condition
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[derive(Clone, Debug, PartialEq)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    start: String,
    command: String,
    is_leaf: bool,
}

impl Process {
    /// Whether it has become what it was started as.
    fn is_settled(&self) -> bool {
        !self.command.contains("bench-peer run")
    }
}

fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields[0] == "Z" {
        return None;
    }
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
    let number = |index: usize| fields.get(index)?.parse().ok();
    let start = (*fields.get(19)?).to_owned();
    Some(Process { pid, parent: number(1)?, group: number(2)?, start, command, is_leaf: true })
}

fn descendants(root: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<_> = pids.filter_map(process).collect();
    let mut found: Vec<Process> = Vec::new();
    let mut open = vec![root as i32];
    while let Some(parent) = open.pop() {
        let children: Vec<_> = all.iter().filter(|process| process.parent == parent).cloned().collect();
        if let Some(parent) = found.iter_mut().find(|process| process.pid == parent) {
            parent.is_leaf = children.is_empty();
        }
        open.extend(children.iter().map(|process| process.pid));
        found.extend(children);
    }
    found
}

fn runs(known: &Process) -> bool {
    process(known.pid).is_some_and(|now| now.start == known.start)
}
