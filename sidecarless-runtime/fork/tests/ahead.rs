//! One child is forked ahead of who asks for it. Nobody but who asks for another one notices.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child as Process, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ramet_fork::{Family, Given, Host, LocalSource, prepare};
use ramet_sys::{End, Pidfd};

/// Held by a test while it counts what this process has.
static ALONE: Mutex<()> = Mutex::new(());

struct Sleeper(Process);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("a process"))
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The processes that are this one's to reap, of which the name begins so: those that others live in have another.
fn own(name: &str) -> BTreeSet<i32> {
    let name = format!("({name}");
    let this = std::process::id().to_string();
    let numbers =
        fs::read_dir("/proc").expect("processes").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_own = |number: &i32| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent == Some(&this) && stat.contains(&name)
    };
    numbers.filter_map(|name| name.parse().ok()).filter(is_own).collect()
}

/// The copies of the zygote that wait or keep something for all children: one is made after another was taken.
fn copies() -> BTreeSet<i32> {
    own("ramet-fork-zyg")
}

/// Whether it sleeps: until it waits it has nothing to sleep for.
fn sleeps(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") S "))
}

/// Waits for the one process that is not among these, and until it waits.
fn one_more_than(known: &BTreeSet<i32>) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let more: Vec<i32> = own("sleep").difference(known).copied().collect();
        match *more {
            [one] if sleeps(one) => return one,
            _ => assert!(Instant::now() < deadline, "{more:?} instead of one process more"),
        }
        // tidy: another process is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_waits_is_the_next_child_unless_it_was_ended() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sleeper = Sleeper::start();
    let prepared = prepare(sleeper.pid()).expect("prepared");
    let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
    let host = Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host");
    let family = Family::start(Arc::new(host), prepared.descriptor, Box::new(source)).expect("a family");
    let all = own("");
    let (mut known, mut children) = (BTreeSet::new(), Vec::new());
    let mut next = |known: &mut BTreeSet<i32>| {
        let child = family.child(&Given::own().expect("streams")).expect("a child");
        let pid = child.pid;
        known.insert(pid);
        children.push(child);
        pid
    };
    next(&mut known);
    known = own("sleep");
    assert_eq!(known.len(), 4, "the process, its seed, the template and one child, because one was wanted: {known:?}");
    next(&mut known);
    let waits = one_more_than(&known);
    assert_eq!(next(&mut known), waits, "who waits is the next");
    let waits = one_more_than(&known);
    Pidfd::of_child(waits.cast_unsigned()).and_then(|waits| waits.signal(End::Kill)).expect("killed");
    let child = next(&mut known);
    assert_ne!(child, waits, "who was ended is none");
    assert!(!own("").contains(&waits), "and was taken away");
    one_more_than(&known);
    for child in children {
        child.pidfd.signal(End::Kill).expect("killed");
        child.pidfd.wait().expect("reaped");
        drop(child);
    }
    drop(family);
    let left: BTreeSet<i32> = own("").difference(&copies()).copied().collect();
    assert!(left.is_subset(&all), "{left:?} are there after a family has ended, and {all:?} were before");
}

#[test]
fn a_copy_of_the_zygote_that_waits_is_taken_unless_it_was_ended() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let sleeper = Sleeper::start();
    let prepared = prepare(sleeper.pid()).expect("prepared");
    let host = Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host");
    let host = Arc::new(host);
    let begin = |waits: i32| {
        let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
        let family = Family::start(Arc::clone(&host), prepared.descriptor.clone(), Box::new(source)).expect("a family");
        let child = family.child(&Given::own().expect("streams")).expect("a child");
        assert!(!copies().contains(&waits), "it is the template by now, or was taken away");
        child.pidfd.signal(End::Kill).expect("killed");
        child.pidfd.wait().expect("reaped");
        family
    };
    // The newest: what keeps the children's faults is older.
    let newest = || copies().last().copied().expect("one");
    let first = newest();
    let family = begin(first);
    let template = fs::read_to_string(format!("/proc/{first}/stat")).expect("it has become something else");
    assert!(template.contains("(sleep)"), "the template of: {template}");
    drop(family);
    let deadline = Instant::now() + Duration::from_secs(60);
    while newest() == first || copies().len() < 3 {
        assert!(Instant::now() < deadline, "no further copy is made: {:?}", copies());
        // tidy: another process is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(2));
    }
    let second = newest();
    Pidfd::of_child(second.cast_unsigned()).and_then(|waits| waits.signal(End::Kill)).expect("killed");
    drop(begin(second));
}
