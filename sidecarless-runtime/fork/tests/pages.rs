//! A page comes once to a host, and when all have come the seed may end.

#[path = "programs/witness.rs"]
mod witness;

use std::io::{PipeReader, Read, Write, pipe};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ramet_fork::seeds::Limits;
use ramet_fork::source::tcp;
use ramet_fork::{Child, Family, ForkDescriptor, Given, Held, Host, PageServer, PageSource, Seeds, Terms};

use self::witness::Witness;

const PATIENCE: Duration = Duration::from_secs(120);

/// A seed whose children wait until they are let look at their memory.
struct Waiting {
    _target: Witness,
    folder: tempfile::TempDir,
    seeds: Arc<Seeds>,
    held: Held,
    server: PageServer,
}

impl Waiting {
    fn start() -> Self {
        Self::with_lease(Duration::from_secs(600))
    }

    fn with_lease(lease: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Witness::start(&[go(folder.path()).as_os_str()]);
        let seeds = Arc::new(Seeds::new(Limits::default()));
        let held = seeds.prepare(target.pid(), Terms { lease }).expect("prepared");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let server = PageServer::start(listener, Arc::clone(&seeds)).expect("a server");
        Self { _target: target, folder, seeds, held, server }
    }

    fn let_look(&self) {
        std::fs::write(go(self.folder.path()), "").expect("a file");
    }

    fn local(&self) -> Family {
        let (descriptor, source) = self.seeds.open_local(self.held.handle, &self.held.key).expect("the seed");
        family(ForkDescriptor::decode(&descriptor).expect("a descriptor"), Box::new(source))
    }

    fn tcp(&self, address: SocketAddr) -> Family {
        let (descriptor, source) = tcp::connect(address, self.held.handle, &self.held.key).expect("the seed");
        family(descriptor, Box::new(source))
    }
}

fn go(folder: &Path) -> PathBuf {
    folder.join("go")
}

fn family(descriptor: ForkDescriptor, source: Box<dyn PageSource>) -> Family {
    let host = Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host");
    Family::start(Arc::new(host), descriptor, source).expect("a family")
}

fn child(family: &Family) -> (Child, PipeReader) {
    let (output, input) = pipe().expect("a pipe");
    let mut given = Given::own().expect("streams");
    given.streams[1] = input.into();
    (family.child(&given).expect("a child"), output)
}

fn says_right((child, mut output): (Child, PipeReader)) {
    let mut said = String::new();
    output.read_to_string(&mut said).expect("its words");
    assert_eq!(said, "right\n");
    assert!(child.pidfd.wait().expect("its end").success());
}

fn wait_until(what: &str, mut attempt: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !attempt() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // tidy: another process or thread is waited for, with a deadline.
        thread::sleep(Duration::from_millis(1));
    }
}

/// A link that counts what comes from the server.
fn counting(to: SocketAddr) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut server = TcpStream::connect(to).expect("a server");
        let (mut from, mut into) = (client.try_clone().expect("it"), server.try_clone().expect("it"));
        thread::spawn(move || std::io::copy(&mut from, &mut into));
        let mut bytes = vec![0; 1 << 16];
        while let Ok(some @ 1..) = server.read(&mut bytes) {
            counted.fetch_add(some as u64, Ordering::Relaxed);
            if client.write_all(&bytes[..some]).is_err() {
                break;
            }
        }
    });
    (address, count)
}

#[test]
fn siblings_share_what_has_come() {
    const SIBLINGS: usize = 8;
    let waiting = Waiting::start();
    let (address, count) = counting(waiting.server.address());
    let family = waiting.tcp(address);
    // None has looked yet, so none finds pages in the template.
    let children: Vec<_> = (0..SIBLINGS).map(|_| child(&family)).collect();
    waiting.let_look();
    children.into_iter().for_each(says_right);
    let come = count.load(Ordering::Relaxed);
    let all = waiting.held.own_bytes;
    eprintln!("{come} bytes came for {SIBLINGS} children of {all} bytes");
    assert!(come < all + all / 4, "{come} bytes came of a seed of {all}");
}

fn outlive_their_seed(waiting: &Waiting, family: &Family) {
    let children: Vec<_> = (0..4).map(|_| child(family)).collect();
    assert!(!family.is_independent());
    family.pull().expect("it is not too large");
    wait_until("all pages to be here", || family.is_independent());
    // Nobody holds on to it.
    wait_until("the seed to be left alone", || waiting.seeds.list()[0].readers == 0);
    waiting.seeds.revoke(waiting.held.handle).expect("revoked");
    waiting.let_look();
    children.into_iter().for_each(says_right);
    says_right(child(family));
    assert!(!family.is_lost());
}

#[test]
fn children_outlive_a_seed_that_was_pulled_over_tcp() {
    let waiting = Waiting::start();
    let family = waiting.tcp(waiting.server.address());
    outlive_their_seed(&waiting, &family);
    // A key that opens the seed no more is to open what was taken of it no more, either.
    wait_until("the seed's end to be heard of", || !family.is_fertile());
}

/// Nobody has taken it back, and there is nobody any more who could: its lease says for how long it has children.
#[test]
fn a_seed_that_was_pulled_has_children_when_its_host_is_gone_until_its_lease_ends() {
    for (lease, is_fertile) in [(Duration::from_secs(600), true), (Duration::from_millis(1500), false)] {
        let waiting = Waiting::with_lease(lease);
        waiting.let_look();
        let family = waiting.tcp(waiting.server.address());
        family.pull().expect("it is not too large");
        wait_until("the seed to be left alone", || waiting.seeds.list()[0].readers == 0);
        drop(waiting.server);
        if is_fertile {
            says_right(child(&family));
            assert!(family.is_fertile(), "nobody has revoked it");
        } else {
            wait_until("its lease to end", || !family.is_fertile());
        }
    }
}

#[test]
fn children_outlive_a_seed_of_this_host_that_was_pulled() {
    let waiting = Waiting::start();
    let family = waiting.local();
    outlive_their_seed(&waiting, &family);
    assert!(family.is_fertile(), "who may read a seed of this host its keeper says each time");
}

#[test]
fn a_seed_may_be_pulled_while_its_children_look() {
    let waiting = Waiting::start();
    for family in [waiting.local(), waiting.tcp(waiting.server.address())] {
        let children: Vec<_> = (0..4).map(|_| child(&family)).collect();
        waiting.let_look();
        family.pull().expect("it is not too large");
        children.into_iter().for_each(says_right);
        wait_until("all pages to be here", || family.is_independent());
        says_right(child(&family));
    }
}
