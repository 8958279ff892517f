//! What a child does with its memory gives what it gives after a plain fork: the same program does the same after
//! either, and what it finds in its memory is compared, every byte of it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ramet_fork::seeds::Limits;
use ramet_fork::{Family, Given, Held, Host, Kin, LocalSource, PageServer, SeedAt, Seeds, Terms, lineage, prepare};
use ramet_sys::End;

/// How long a process may take for one case.
const CASE_TIMEOUT: Duration = Duration::from_secs(90);

/// A process with memory that waits until it is forked.
struct Target {
    process: Process,
    folder: tempfile::TempDir,
}

impl Target {
    /// Starts one that has prepared a case. What `variant` means is the case's to know.
    fn start(case: &str, variant: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(program());
        command.args([case, variant]).arg(folder.path()).stdin(Stdio::null());
        let target = Self { process: command.spawn().expect("a target"), folder };
        let ready = target.file("all", "ready");
        wait_until("the target to be ready", || ready.exists().then_some(()));
        target
    }

    fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    fn file(&self, of: impl std::fmt::Display, what: &str) -> PathBuf {
        self.folder.path().join(format!("{of}.{what}"))
    }

    /// Has a process do something, and what it said once that is done.
    fn tell(&self, pid: i32, what: &str) -> String {
        fs::write(self.file(pid, what), "").expect("an order");
        let (end, said) = (self.file(pid, "end"), self.file(pid, "said"));
        let deadline = Instant::now() + CASE_TIMEOUT;
        while !end.exists() {
            let so_far = || fs::read_to_string(&said).unwrap_or_default();
            assert!(Instant::now() < deadline, "process {pid} does not come to an end; it said:\n{}", so_far());
            // It may end after the first look.
            let is_over = has_ended(pid);
            assert!(end.exists() || !is_over, "process {pid} ended too early; it said:\n{}", so_far());
            // tidy: another process is waited for, with a deadline.
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::read_to_string(said).expect("what it said")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program of all cases, which is compiled once. Its name is that of its sources, so that nobody replaces one that
/// somebody runs.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        let is_part = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("memory"))
        };
        let entries = fs::read_dir(folder).expect("the programs").map(|entry| entry.expect("one").path());
        let mut parts: Vec<_> = entries.filter(is_part).collect();
        parts.sort();
        let mut hasher = DefaultHasher::new();
        parts.iter().map(|part| fs::read(part).expect("a source")).collect::<Vec<_>>().hash(&mut hasher);
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("memory-{:016x}", hasher.finish()));
        if !program.exists() {
            let mine = program.with_extension(std::process::id().to_string());
            let sources = parts.iter().filter(|part| part.extension().is_some_and(|extension| extension == "c"));
            let mut compiler = Command::new("cc");
            compiler.args(["-O2", "-Wall", "-Wextra", "-pthread", "-o"]).arg(&mine).args(sources);
            assert!(compiler.status().expect("a C compiler").success());
            match fs::hard_link(&mine, &program) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result.expect("the program"),
            }
            fs::remove_file(mine).expect("its other name");
        }
        program
    })
}

/// Whether a process is none any more, or waits to be reaped.
fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

fn wait_until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + CASE_TIMEOUT;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // tidy: another process is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn host() -> Arc<Host> {
    Arc::new(Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host"))
}

/// Runs a case after a fork from outside, twice, and after a plain one.
fn is_as_after_a_local_fork(case: &str, variant: &str) {
    let target = Target::start(case, variant);
    let prepared = prepare(target.pid()).expect("prepared");
    let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
    let family = Family::start(host(), prepared.descriptor, Box::new(source)).expect("a family");
    children_do_as_a_plain_fork(&target, &family, case, variant);
}

/// The same after the child was forked on before it has touched more than its first pages, and so was its child.
fn is_so_after_three_hops(case: &str) {
    let target = Target::start(case, "");
    let seeds = Arc::new(Seeds::new(Limits::default()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let server = PageServer::start(listener, Arc::clone(&seeds)).expect("a server");
    let terms = Terms { lease: Duration::from_secs(600) };
    let family = |held: Held| {
        let seed = SeedAt { address: server.address(), handle: held.handle, key: held.key };
        let (descriptor, source) = lineage::connect(&seed).expect("the seed");
        Arc::new(Family::start(host(), descriptor, Box::new(source)).expect("a family"))
    };
    let mut families = vec![family(seeds.prepare(target.pid(), terms).expect("prepared"))];
    let mut between = Vec::new();
    for hop in 0..2 {
        let child = families[hop].child(&Given::own().expect("streams")).expect("a child");
        let watch = Kin::of(&families[hop], &child).watch().expect("a watch");
        families.push(family(seeds.prepare_child(watch, terms).expect("prepared")));
        between.push(child);
    }
    children_do_as_a_plain_fork(&target, &families[2], case, "after three hops");
    for child in between {
        child.pidfd.signal(End::Kill).expect("killed");
        child.pidfd.wait().expect("reaped");
    }
}

fn children_do_as_a_plain_fork(target: &Target, family: &Family, case: &str, variant: &str) {
    let mut said = Vec::new();
    // The second one has from the beginning what the first one touched.
    for _ in 0..2 {
        let child = family.child(&Given::own().expect("streams")).expect("a child");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target.tell(child.pid, "act")));
        child.pidfd.signal(End::Kill).expect("killed");
        child.pidfd.wait().expect("reaped");
        said.push(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    }
    let local = target.tell(target.pid(), "fork");
    assert!(!local.is_empty(), "{case} says something");
    for said in said {
        assert_eq!(said, local, "{case} {variant:?}: left after a fork from outside, right after a plain one");
    }
}

macro_rules! cases {
    ($($test:ident: $case:literal,)*) => {
        $(#[test] fn $test() { is_as_after_a_local_fork($case, ""); })*
    };
}

cases! {
    memory_grows_elsewhere: "grow",
    memory_grows_that_was_touched_in_part: "grow-half",
    memory_grows_where_it_is: "grow-in-place",
    memory_shrinks_and_grows_with_zeros: "shrink-and-grow",
    memory_moves_over_other_memory: "move-over-another",
    a_part_of_memory_moves: "move-a-part",
    memory_moves_there_and_back: "move-there-and-back",
    two_places_are_exchanged: "exchange",
    memory_moves_and_its_place_stays: "move-and-leave-the-place",
    memory_moves_before_it_is_forked_again: "move-before-a-fork",
    what_is_given_up_is_zeros: "give-up",
    what_is_given_up_is_zeros_in_a_child: "give-up-and-fork",
    memory_is_written_before_it_is_read: "write-first",
    what_is_freed_lazily_is_what_it_was_or_zeros: "free-lazily",
    memory_is_wiped_at_each_fork: "wiped",
    memory_is_left_out_of_a_fork: "left-out-of-forks",
    memory_is_populated: "populate",
    memory_is_advised_otherwise: "advise-otherwise",
    memory_is_protected: "protect",
    hidden_memory_is_shown: "show-what-was-hidden",
    memory_is_locked: "lock",
    huge_pages_are_used_in_parts: "huge-pages",
    memory_is_unmapped_and_mapped_again: "unmap",
    the_break_moves: "move-the-break",
    stacks_grow: "grow-stacks",
    a_private_file_is_changed: "change-a-private-file",
    what_is_given_up_of_a_private_file_is_the_files: "give-up-a-private-file",
    a_library_is_changed: "change-a-library",
    what_is_given_up_of_a_library_is_the_files: "give-up-a-library",
    a_private_file_moves: "move-a-private-file",
    a_shared_file_is_changed: "change-a-shared-file",
    a_mapped_file_is_shortened: "shorten-a-file",
    a_private_file_has_no_name_any_more: "a-file-without-a-name",
    the_kernel_reads_and_writes: "read-and-write",
    the_kernel_reads_directly: "read-directly",
    messages_are_sent_and_received: "send-and-receive",
    a_futex_is_not_there_yet: "wait-on-a-word",
    the_kernel_answers_into_memory: "ask-for-much",
    memory_is_looked_into_by_another_process: "look-into-another",
    a_child_becomes_another_program: "become-another",
    a_signals_stack_is_not_there_yet: "take-a-signal",
    threads_race_for_the_same_pages: "race-for-the-same-pages",
    threads_race_with_moves: "race-with-moves",
    threads_race_with_forks: "race-with-forks",
    threads_race_with_giving_up: "race-with-giving-up",
    threads_race_with_unmapping: "race-with-unmapping",
    forks_race_with_moves: "race-of-forks-and-moves",
}

/// What a child's memory is in the end is known to nobody but its pager and its seed: both have to be asked well.
#[test]
fn memory_is_the_same_after_three_hops() {
    for case in [
        "grow",
        "move-a-part",
        "give-up",
        "write-first",
        "wiped",
        "protect",
        "move-the-break",
        "grow-stacks",
        "change-a-private-file",
        "give-up-a-private-file",
        "change-a-library",
        "give-up-a-library",
        "move-a-private-file",
        "a-file-without-a-name",
        "read-and-write",
        "race-with-moves",
    ] {
        is_so_after_three_hops(case);
    }
}

/// As many orders as there is time for. Each is known by its number, so that it can be run again.
#[test]
fn whatever_is_done_gives_what_it_gives_after_a_local_fork() {
    const ENOUGH: Duration = Duration::from_secs(6);
    let began = Instant::now();
    let numbers = match std::env::var("RAMET_MEMORY_ORDER") {
        Ok(number) => vec![number.parse().expect("a number")],
        Err(_) => (0..8).chain((0..).map(|step| u64::from(std::process::id()) * 1000 + step).take(10_000)).collect(),
    };
    for number in numbers.into_iter().take_while(|_: &u64| began.elapsed() < ENOUGH) {
        is_as_after_a_local_fork("random", &number.to_string());
    }
}
