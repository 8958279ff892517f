//! A child may be forked on, from host to host: what it has not touched comes from the ancestor that has it.

#[path = "programs/witness.rs"]
mod witness;

use std::io::{PipeReader, Read, pipe};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ramet_fork::seeds::Limits;
use ramet_fork::{
    Child, Family, Given, Held, Host, Kin, LocalSource, PageServer, PrepareError, SeedAt, Seeds, Terms, lineage,
    prepare,
};
use ramet_sys::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::witness::Witness;

/// How long a child may take for everything.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
const TERMS: Terms = Terms { lease: Duration::from_secs(600) };

fn go(folder: &Path) -> PathBuf {
    folder.join("go")
}

fn host() -> Arc<Host> {
    Arc::new(Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host"))
}

/// Who copies a process has to know where the pages are that it has not touched.
#[test]
fn what_has_not_come_is_no_zeros_for_who_does_not_know_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Witness::start(&[go(folder.path()).as_os_str()]);
    let prepared = prepare(target.pid()).expect("prepared");
    let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
    let family = Family::start(host(), prepared.descriptor.clone(), Box::new(source)).expect("a family");
    let child = family.child(&Given::own().expect("streams")).expect("a child");
    let refused = prepare(child.pid).map(|_| ()).expect_err("it lacks pages");
    assert!(matches!(refused, PrepareError::Unfit { .. }) && refused.to_string().contains("userfaultfd"), "{refused}");
    child.pidfd.signal(End::Kill).expect("a signal");
    child.pidfd.wait().expect("its end");
}

/// A host: it keeps seeds and serves them.
struct Node {
    seeds: Arc<Seeds>,
    server: PageServer,
}

/// A child and what it says.
type Spoken = (Child, PipeReader);

impl Node {
    fn start() -> Self {
        Self::within(Limits::default())
    }

    fn within(limits: Limits) -> Self {
        let seeds = Arc::new(Seeds::new(limits));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let server = PageServer::start(listener, Arc::clone(&seeds)).expect("a server");
        Self { seeds, server }
    }

    /// What others need to read a seed that is kept here.
    fn at(&self, held: &Held) -> SeedAt {
        SeedAt { address: self.server.address(), handle: held.handle, key: held.key.clone() }
    }

    /// Forks a child on.
    fn prepare(&self, family: &Arc<Family>, child: &Child) -> SeedAt {
        let watch = Kin::of(family, child).watch().expect("a watch");
        self.at(&self.seeds.prepare_child(watch, TERMS).expect("prepared"))
    }
}

/// Reaches a seed, and all that it descends from.
fn reach(seed: &SeedAt) -> Arc<Family> {
    let _ = tracing_subscriber::fmt().with_ansi(false).with_test_writer().try_init();
    let (descriptor, source) = lineage::connect(seed).expect("the seed");
    Arc::new(Family::start(host(), descriptor, Box::new(source)).expect("a family"))
}

fn child(family: &Family) -> Spoken {
    let (output, input) = pipe().expect("a pipe");
    let mut given = Given::own().expect("streams");
    given.streams[1] = input.into();
    (family.child(&given).expect("a child"), output)
}

/// What a child says before it ends, and by which signal it does.
fn end_of((child, mut output): Spoken) -> (String, Option<i32>) {
    let ready = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&PATIENCE)).expect("poll");
    assert!(ready == 1, "child {} neither goes on nor ends", child.pid);
    let status = child.pidfd.wait().expect("its end");
    let mut said = String::new();
    output.read_to_string(&mut said).expect("its words");
    (said, status.signal())
}

fn says_right(child: Spoken) {
    assert_eq!(end_of(child), ("right\n".to_owned(), None));
}

/// How many pages a process has mapped.
fn mapped(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("its size");
    status.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number of pages")
}

/// Three hops over TCP: each child looks when all are there, so that every page comes from the first seed, where a
/// child had not touched it, or from that of a child that had.
#[test]
fn pages_come_from_the_ancestor_that_has_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Witness::start(&[go(folder.path()).as_os_str()]);
    let nodes = [(); 4].map(|()| Node::start());
    let held = nodes[0].seeds.prepare(target.pid(), TERMS).expect("prepared");
    let mut seeds = vec![nodes[0].at(&held)];
    let mut children = Vec::new();
    let mut sizes = Vec::new();
    for node in &nodes[1..] {
        let family = reach(seeds.last().expect("the last"));
        let one = child(&family);
        seeds.push(node.prepare(&family, &one.0));
        sizes.push(mapped(one.0.pid));
        children.push((one, family));
    }
    assert!(sizes.iter().all(|size| *size == sizes[0]), "what made a child is not carried on: {sizes:?} pages");
    let last = reach(seeds.last().expect("the last"));
    let families = [&last, &children[2].1, &children[0].1].map(Arc::clone);
    children.push((child(&last), last));
    for family in families {
        children.push((child(&family), family));
    }
    std::fs::write(go(folder.path()), "").expect("a file");
    for (one, _family) in children {
        says_right(one);
    }
}

/// What is lost in the middle of a chain is refused, never wrong, whoever it was of and whenever.
#[test]
fn what_an_ancestor_has_no_more_is_refused() {
    let (mut right, mut refused) = (0, 0);
    for round in 0..9 {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Witness::start(&[go(folder.path()).as_os_str()]);
        let mut nodes = Vec::from([(); 3].map(|()| Some(Node::start())));
        let held = node(&nodes, 0).seeds.prepare(target.pid(), TERMS).expect("prepared");
        let mut seeds = vec![node(&nodes, 0).at(&held)];
        let mut families = Vec::new();
        for hop in 1..3 {
            let family = reach(&seeds[hop - 1]);
            let one = child(&family);
            seeds.push(node(&nodes, hop).prepare(&family, &one.0));
            families.push((one, family));
        }
        let last = reach(&seeds[2]);
        let children: Vec<_> = (0..8).map(|_| child(&last)).collect();
        let lost = round % 3;
        if round < 6 {
            // Before anybody has looked, and so for certain.
            end_one(&mut nodes, &seeds, lost, round % 2 == 0);
        }
        std::fs::write(go(folder.path()), "").expect("a file");
        if round >= 6 {
            // tidy: the moment is the point.
            std::thread::sleep(Duration::from_micros(1500 * round as u64));
            end_one(&mut nodes, &seeds, lost, round % 2 == 0);
        }
        for one in children {
            match end_of(one) {
                (said, None) if said == "right\n" => right += 1,
                (said, Some(libc::SIGBUS)) if said.is_empty() || said == "right\n" => refused += 1,
                other => panic!("{other:?}: round {round}, seed {lost} was lost"),
            }
        }
        for ((child, _), _) in &families {
            child.pidfd.signal(End::Kill).expect("a signal");
            child.pidfd.wait().expect("its end");
        }
    }
    eprintln!("{right} children had all their bytes, {refused} were refused some");
    assert!(refused >= 8 * 4, "{right} right and {refused} refused: the first seed has most of the bytes");
}

fn node(nodes: &[Option<Node>], at: usize) -> &Node {
    nodes[at].as_ref().expect("a node")
}

/// Ends a seed, or its whole host.
fn end_one(nodes: &mut [Option<Node>], seeds: &[SeedAt], which: usize, whole: bool) {
    if whole {
        nodes[which] = None;
    } else {
        node(nodes, which).seeds.revoke(seeds[which].handle).expect("revoked");
    }
}

/// Ancestors do not make room for others, and their leases last as long as a descendant's.
#[test]
fn a_seed_holds_on_to_its_ancestors() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Witness::start(&[go(folder.path()).as_os_str()]);
    let first = Node::within(Limits { seeds_max: 1, ..Limits::default() });
    let second = Node::start();
    let short = Terms { lease: Duration::from_secs(60) };
    let held = first.seeds.prepare(target.pid(), short).expect("prepared");
    let family = reach(&first.at(&held));
    let one = child(&family);
    let watch = Kin::of(&family, &one.0).watch().expect("a watch");
    let descendant = second.seeds.prepare_child(watch, TERMS).expect("prepared");
    let lease_left = || first.seeds.list()[0].lease_left;
    assert!(lease_left() > Duration::from_secs(590), "{:?}", lease_left());
    std::fs::write(go(folder.path()), "").expect("a file");
    says_right(one);
    drop(family);
    // Nobody reads it now, but it is needed.
    let refused = first.seeds.prepare(target.pid(), short).expect_err("there is no room");
    assert!(refused.to_string().contains("all in use"), "{refused}");
    first.seeds.release(held.handle);
    assert_eq!(first.seeds.list().len(), 1, "who prepared it wants it no more, and that changes nothing");
    second.seeds.renew(descendant.handle, Duration::from_secs(3600)).expect("renewed");
    assert!(lease_left() > Duration::from_secs(3590), "{:?}", lease_left());
    // A lease that the first host does not give is none that the second one can give.
    std::fs::remove_file(go(folder.path())).expect("removed");
    let longer = Limits { lease_max: Duration::from_secs(48 * 3600), ..Limits::default() };
    let third = Node::within(longer);
    let family = reach(&second.at(&descendant));
    let one = child(&family);
    let watch = Kin::of(&family, &one.0).watch().expect("a watch");
    let terms = Terms { lease: Duration::from_secs(30 * 3600) };
    let refused = third.seeds.prepare_child(watch, terms).expect_err("too long");
    assert!(refused.to_string().contains("no lease that is as long"), "{refused}");
    std::fs::write(go(folder.path()), "").expect("a file");
    says_right(one);
    second.seeds.revoke(descendant.handle).expect("revoked");
    drop(family);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while first.seeds.list()[0].readers > 0 {
        assert!(std::time::Instant::now() < deadline, "it is let go");
        // tidy: another thread is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(1));
    }
    first.seeds.release(held.handle);
    assert!(first.seeds.list().is_empty(), "now nobody needs it");
}
