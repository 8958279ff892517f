//! How fast seeds are read by RDMA, beside perftest's programs in alternating rounds: one line of JSON. In an emulated
//! guest only the ratios mean something.

#[path = "../tests/programs/hoard.rs"]
mod hoard;

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ramet_fork::seeds::Limits;
use ramet_fork::source::{self, rdma};
use ramet_fork::{Agent, Family, ForkDescriptor, Held, Host, PageServer, RdmaSource, Seeds, Terms};
use ramet_rdma::{Device, Domain, Paging, Piece, Reader, Registration, Responder};

use self::hoard::Hoard;

const LEASE: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(120);
const PAGE_BYTES: usize = 4096;
const READS: usize = 1000;
const PULLED_BYTES: u64 = 64 << 20;
const REGISTERED_BYTES: u64 = 128 << 20;
/// Of the address of the network, by which perftest is to reach a device.
const GID: &str = "1";
/// How this program is told to be the process whose copies become children.
const ZYGOTE: &str = "zygote";

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(ZYGOTE) {
        return Ok(ramet_fork::zygote::run(io::stdin().as_fd().try_clone_to_owned()?)?);
    }
    let rounds = argument.map_or(Ok(5), |argument| argument.parse()).context("the argument is how many rounds")?;
    let device = Device::open(std::env::var("XTASK_VM_DEVICE").ok().as_deref())?;
    let bench = Bench { device, ip: ip()?, rounds };
    let reads = bench.reads()?;
    let pulls = bench.pulls()?;
    let registering = bench.registering()?;
    let report = serde_json::json!({
        "device": bench.device.name(),
        "pages_on_demand": bench.device.pages_on_demand(),
        "rounds": rounds,
        "read_4_kib": reads,
        "pull_64_mib": pulls,
        "register_128_mib": registering,
    });
    Ok(writeln!(io::stdout(), "{report}")?)
}

fn ip() -> Result<IpAddr> {
    match std::env::var("XTASK_VM_ADDRESS") {
        Ok(ip) => Ok(ip.parse()?),
        Err(_) => Ok(Ipv4Addr::LOCALHOST.into()),
    }
}

struct Bench {
    device: Device,
    ip: IpAddr,
    rounds: usize,
}

impl Bench {
    /// Single pages, read one after the other: the shortest of some thousand times.
    fn reads(&self) -> Result<serde_json::Value> {
        let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..self.rounds {
            ours = ours.min(self.read_pages()?.as_secs_f64() * 1e6);
            let count = READS.to_string();
            theirs = theirs.min(self.perftest("ib_read_lat", &["-s", "4096", "-n", &count], 2)?);
        }
        Ok(serde_json::json!({ "ramet_us": ours, "ib_read_lat_us": theirs, "ratio": ours / theirs }))
    }

    fn read_pages(&self) -> Result<Duration> {
        let memory = page();
        let domain = Domain::new(&self.device)?;
        let address = self.device.address(self.ip);
        let mut responder = Responder::new(&domain, address)?;
        let mut reader = Reader::new(&self.device, address, PAGE_BYTES)?;
        responder.connect(reader.local())?;
        reader.connect(responder.local())?;
        let registration = Registration::own(&domain, Paging::Pinned, memory)?;
        let region = registration.region();
        let piece = Piece { from: region.start, key: region.key, to: 0, bytes: PAGE_BYTES as u32 };
        // As perftest counts: from one read's beginning to the next one's, in the processor's ticks.
        let begun = (Instant::now(), ticks());
        let (mut shortest, mut start) = (u64::MAX, begun.1);
        let deadline = begun.0 + PATIENCE;
        for token in 0..READS {
            reader.post(token as u64, &[piece])?;
            let mut polls: u64 = 0;
            while reader.poll(|_| ())? == 0 {
                polls += 1;
                ensure!(
                    !polls.is_multiple_of(1 << 20) || Instant::now() < deadline,
                    "a read is neither done nor failed"
                );
            }
            let now = ticks();
            shortest = shortest.min(now - std::mem::replace(&mut start, now));
        }
        let tick = begun.0.elapsed().as_secs_f64() / (start - begun.1) as f64;
        ensure!(reader.bytes(0, PAGE_BYTES) == memory, "a read has brought something else");
        Ok(Duration::from_secs_f64(shortest as f64 * tick))
    }

    /// All of a seed, brought for children to come, and the same number of bytes by perftest.
    fn pulls(&self) -> Result<serde_json::Value> {
        let hoard = Hoard::start(PULLED_BYTES);
        let server = Server::start(self)?;
        let held = server.prepare(&hoard)?;
        let mut zygote = Command::new(std::env::current_exe()?);
        zygote.arg(ZYGOTE);
        let host = Arc::new(Host::start(zygote)?);
        let (mut pulled, mut streamed, mut theirs) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
        let mib = (PULLED_BYTES >> 20) as f64;
        let messages = (PULLED_BYTES / 65536).to_string();
        for _ in 0..self.rounds {
            let (descriptor, source) = server.open(self, &held)?;
            pulled = pulled.min(pull(&host, descriptor, source)?.as_secs_f64());
            let (_, source) = server.open(self, &held)?;
            streamed = streamed.min(stream(&hoard, source)?.as_secs_f64());
            // The third number is the mean rate in MiB/s.
            let rate = self.perftest("ib_read_bw", &["-s", "65536", "-n", &messages], 3)?;
            theirs = theirs.min(mib / rate);
        }
        Ok(serde_json::json!({
            "ramet_pull_ms": pulled * 1e3,
            "ramet_source_ms": streamed * 1e3,
            "ib_read_bw_ms": theirs * 1e3,
            "pull_rate_ratio": theirs / pulled,
            "source_rate_ratio": theirs / streamed,
        }))
    }

    /// A seed that nobody has read yet is reached, and once more when its memory is registered.
    fn registering(&self) -> Result<serde_json::Value> {
        let hoard = Hoard::start(REGISTERED_BYTES);
        let server = Server::start(self)?;
        let (mut first, mut again, mut more_private_kib) = (f64::INFINITY, f64::INFINITY, 0);
        for _ in 0..self.rounds {
            let held = server.prepare(&hoard)?;
            let before = server.private_kib(&held)?;
            for shortest in [&mut first, &mut again] {
                let start = Instant::now();
                drop(server.open(self, &held)?);
                *shortest = shortest.min(start.elapsed().as_secs_f64() * 1e3);
            }
            let (_, source) = server.open(self, &held)?;
            if self.device.pages_on_demand() {
                stream(&hoard, source)?;
            }
            more_private_kib = more_private_kib.max(server.private_kib(&held)?.saturating_sub(before));
            server.seeds.revoke(held.handle)?;
        }
        Ok(serde_json::json!({
            "reached_first_ms": first,
            "reached_again_ms": again,
            "registering_ms": first - again,
            "copied_kib_at_most": more_private_kib,
        }))
    }

    /// Runs one of perftest's programs against itself: a number of its only line of results.
    fn perftest(&self, program: &str, options: &[&str], column: usize) -> Result<f64> {
        let mut command = Command::new(program);
        command.args(["-d", self.device.name(), "-x", GID, "-F"]).args(options).stdin(Stdio::null());
        let _server = Ending(command.stdout(Stdio::null()).spawn().with_context(|| format!("no {program}"))?);
        // It takes one connection, so that it cannot be asked whether it listens.
        let deadline = Instant::now() + PATIENCE;
        while !listens(18515)? {
            ensure!(Instant::now() < deadline, "{program} does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        let output = command.arg(self.ip.to_string()).stdout(Stdio::piped()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let results = text.lines().find(|line| line.trim_start().starts_with(options[1]));
        let number = results.and_then(|line| line.split_whitespace().nth(column)?.parse().ok());
        number.with_context(|| format!("{program} has not said how fast it was: {text}"))
    }
}

/// Whether somebody listens on a port of this host.
fn listens(port: u16) -> Result<bool> {
    const LISTENS: &str = "0A";
    let ending = format!(":{port:04X}");
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        let listens = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let address = words.next().is_some_and(|address| address.ends_with(&ending));
            address && words.nth(1) == Some(LISTENS)
        };
        if text.lines().any(listens) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many ticks of its clock the processor has counted. To ask the kernel's clock in each read would lengthen it: it
/// takes some microseconds where every instruction is emulated.
fn ticks() -> u64 {
    // SAFETY: it reads a register.
    unsafe { std::arch::x86_64::_rdtsc() }
}

struct Ending(Process);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Server {
    seeds: Arc<Seeds>,
    server: PageServer,
}

impl Server {
    fn start(bench: &Bench) -> Result<Self> {
        let seeds = Arc::new(Seeds::new(Limits::default()));
        let agent = Arc::new(Agent::new(Some(bench.device.name().to_owned())));
        let server = PageServer::start_with_agent(TcpListener::bind((bench.ip, 0))?, Arc::clone(&seeds), agent)?;
        Ok(Self { seeds, server })
    }

    fn prepare(&self, hoard: &Hoard) -> Result<Held> {
        Ok(self.seeds.prepare(hoard.pid(), Terms { lease: LEASE })?)
    }

    fn open(&self, bench: &Bench, held: &Held) -> Result<(ForkDescriptor, RdmaSource)> {
        Ok(rdma::connect(&bench.device, self.server.address(), held.handle, &held.key)?)
    }

    /// What of a seed's memory nobody shares.
    fn private_kib(&self, held: &Held) -> Result<u64> {
        let seeds = self.seeds.list();
        let seed = seeds.iter().find(|seed| seed.handle == held.handle).context("the seed has ended")?.seed;
        let text = fs::read_to_string(format!("/proc/{seed}/smaps_rollup"))?;
        let private = text.lines().filter(|line| line.starts_with("Private_"));
        Ok(private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
    }
}

/// Brings all of a seed as a keeper does.
fn pull(host: &Arc<Host>, descriptor: ForkDescriptor, source: RdmaSource) -> Result<Duration> {
    ensure!(source.is_direct(), "it would not be read by RDMA");
    let family = Family::start(Arc::clone(host), descriptor, Box::new(source))?;
    let start = Instant::now();
    family.pull()?;
    while !family.is_independent() {
        if family.is_lost() || start.elapsed() > PATIENCE {
            bail!("the seed was not brought");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(start.elapsed())
}

/// Reads all of a hoard, with some reads under way, and checks it.
fn stream(hoard: &Hoard, mut source: RdmaSource) -> Result<Duration> {
    let mut bytes = vec![0; hoard.data.bytes as usize];
    let start = Instant::now();
    source::read(&mut source, &[hoard.data], &mut bytes)?;
    let elapsed = start.elapsed();
    ensure!(source.brought_bytes() == hoard.data.bytes, "not all of it came by RDMA");
    ensure!(hoard.is_right(hoard.data.start, &bytes), "other bytes than those of the seed have come");
    Ok(elapsed)
}

/// A page that is not zeros.
fn page() -> &'static [u8] {
    let room = vec![0; 2 * PAGE_BYTES].leak();
    let start = room.as_ptr().align_offset(PAGE_BYTES);
    let page = &mut room[start..start + PAGE_BYTES];
    page.fill(0x5a);
    page
}
