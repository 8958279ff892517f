//! A seed whose memory is known, kept and served, and the ways to read it.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ramet_fork::seeds::Limits;
use ramet_fork::source::{SourceError, rdma, tcp};
use ramet_fork::{Agent, Held, PageServer, PageSource, Seeds, Terms};
use ramet_rdma::{Device, OpenError};
use ramet_sys::Range;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::patterned::{PAGE_BYTES, Target};

pub(crate) const GROUPS: u64 = 256;
/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(600);

/// How a fabric's seed is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Local,
    Tcp,
    Rdma,
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

/// Without a device there is nothing to test; in a guest there is one.
pub(crate) fn rdma() -> Option<Fabric> {
    match device() {
        Ok(_) => Some(Fabric::new(Way::Rdma)),
        Err(error) => {
            assert!(std::env::var_os("XTASK_VM_DEVICE").is_none(), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn device() -> Result<Device, OpenError> {
    Device::open(std::env::var("XTASK_VM_DEVICE").ok().as_deref())
}

impl Fabric {
    fn new(way: Way) -> Self {
        let target = Target::start(GROUPS);
        let seeds = Arc::new(Seeds::new(Limits::default()));
        let held = seeds.prepare(target.pid(), Terms { lease: LEASE }).expect("prepared");
        let host = match way {
            // A device is reached where the host is.
            Way::Rdma => std::env::var("XTASK_VM_ADDRESS").unwrap_or_else(|_| "127.0.0.1".to_owned()),
            _ => "127.0.0.1".to_owned(),
        };
        let listener = TcpListener::bind((host, 0)).expect("a listener");
        let server = match way {
            Way::Rdma => {
                let agent = Agent::new(std::env::var("XTASK_VM_DEVICE").ok());
                PageServer::start_with_agent(listener, Arc::clone(&seeds), Arc::new(agent))
            }
            _ => PageServer::start(listener, Arc::clone(&seeds)),
        };
        let server = server.expect("a server");
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
            Way::Rdma => {
                let device = device().expect("a device");
                Box::new(rdma::connect(&device, self.address(), held.handle, &held.key).expect("the seed").1)
            }
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

/// Reads one range, in every way that there is.
pub(crate) fn read(source: &mut dyn PageSource, range: Range) -> Result<Vec<u8>, SourceError> {
    let at_once = source.at_once(range)?.map(<[u8]>::to_vec);
    source.begin(7, &[range])?;
    let mut answers = collect(source, 1)?;
    assert_eq!(answers[0].0, 7);
    let pages = answers.remove(0).1;
    if let Some(beginning) = at_once {
        assert!(
            !beginning.is_empty() && (beginning.len() as u64).is_multiple_of(PAGE_BYTES),
            "{} bytes",
            beginning.len()
        );
        assert!(pages.starts_with(&beginning), "what is had at once is what is had later");
    }
    Ok(pages)
}
