//! A seed whose memory is known, kept and served, and the ways to read it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ramet_fork::seeds::Limits;
use ramet_fork::source::{SourceError, tcp};
use ramet_fork::{Held, PageServer, PageSource, Seeds, Terms};
use ramet_sys::Range;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) const PAGE_BYTES: u64 = 4096;
/// Pages of its own in a group, and then one of a file.
pub(crate) const OWN: u64 = 16;
const GROUP: u64 = OWN + 1;
pub(crate) const GROUPS: u64 = 256;
/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(600);

/// A process whose memory is known.
pub(crate) struct Target {
    process: Child,
    base: u64,
    _secret: tempfile::NamedTempFile,
}

/// How a fabric's seed is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Local,
    Tcp,
}

/// A seed of a target and everything it takes to read it.
pub(crate) struct Fabric {
    pub(crate) seeds: Arc<Seeds>,
    server: Mutex<Option<PageServer>>,
    pub(crate) target: Target,
    pub(crate) held: Held,
    way: Way,
}

pub(crate) fn local() -> Option<Fabric> {
    Some(Fabric::new(Way::Local))
}

pub(crate) fn tcp() -> Option<Fabric> {
    Some(Fabric::new(Way::Tcp))
}

impl Target {
    pub(crate) fn start(groups: u64) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/patterned.c");
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("patterned");
        let built = Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(source).status();
        assert!(built.expect("a C compiler").success());
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), [0xee; PAGE_BYTES as usize]).expect("written");
        let mut process = Command::new(&program)
            .arg(groups.to_string())
            .arg(secret.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a target");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("its output")).read_line(&mut line).expect("an address");
        let base = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).expect("an address");
        Self { process, base, _secret: secret }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// The addresses of the pages of its own, `group` by group.
    pub(crate) fn own(&self, group: u64) -> Range {
        Range { start: self.base + group * GROUP * PAGE_BYTES, bytes: OWN * PAGE_BYTES }
    }

    /// The page of the file after a group.
    pub(crate) fn secret(&self, group: u64) -> Range {
        Range { start: self.own(group).end(), bytes: PAGE_BYTES }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a range of the target's own pages holds.
pub(crate) fn pattern(range: Range) -> Vec<u8> {
    let word = |address: u64| match address / PAGE_BYTES % 7 {
        0 => 0,
        _ => address.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
    };
    (range.start..range.end()).step_by(8).flat_map(|address| word(address).to_ne_bytes()).collect()
}

impl Fabric {
    fn new(way: Way) -> Self {
        let target = Target::start(GROUPS);
        let seeds = Arc::new(Seeds::new(Limits::default()));
        let held = seeds.prepare(target.pid(), Terms { lease: LEASE }).expect("prepared");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let server = PageServer::start(listener, Arc::clone(&seeds)).expect("a server");
        Self { seeds, server: Mutex::new(Some(server)), target, held, way }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.lock().expect("a server").as_ref().expect("a server").address()
    }

    /// Opens the seed as a new reader.
    pub(crate) fn open(&self) -> Box<dyn PageSource> {
        self.open_other(&self.held)
    }

    /// Opens another one of the same target.
    pub(crate) fn open_other(&self, held: &Held) -> Box<dyn PageSource> {
        match self.way {
            Way::Local => Box::new(self.seeds.open_local(held.handle, &held.key).expect("the seed").1),
            Way::Tcp => Box::new(tcp::connect(self.address(), held.handle, &held.key).expect("the seed").1),
        }
    }

    /// Opens it over an address that leads to its server.
    pub(crate) fn connect(&self, address: SocketAddr) -> Box<dyn PageSource> {
        Box::new(tcp::connect(address, self.held.handle, &self.held.key).expect("the seed").1)
    }

    /// Another seed of the same target, for so long.
    pub(crate) fn prepare_for(&self, lease: Duration) -> Held {
        self.seeds.prepare(self.target.pid(), Terms { lease }).expect("prepared")
    }

    pub(crate) fn stop_server(&self) {
        drop(self.server.lock().expect("a server").take());
    }
}

/// Collects answers until `count` have come.
pub(crate) fn collect(source: &mut dyn PageSource, count: usize) -> Result<Vec<(u64, Vec<u8>)>, SourceError> {
    let deadline = Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    while answers.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} answers have come", answers.len());
        if let Some(ready) = source.readiness() {
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            poll(&mut [PollFd::from_borrowed_fd(ready, PollFlags::IN)], Some(&second)).expect("poll");
        }
        source.answers(&mut |token, pages| answers.push((token, pages.to_vec())))?;
    }
    Ok(answers)
}

/// Reads one range.
pub(crate) fn read(source: &mut dyn PageSource, range: Range) -> Result<Vec<u8>, SourceError> {
    source.begin(7, &[range])?;
    let mut answers = collect(source, 1)?;
    assert_eq!(answers[0].0, 7);
    Ok(answers.remove(0).1)
}
