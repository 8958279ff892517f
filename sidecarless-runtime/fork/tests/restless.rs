//! A process that is just becoming something else is prepared as what it becomes, or said to be early. It goes on in
//! any case, and nothing is ever done in one address space that was found out in another.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ramet_fork::descriptor::AreaKind;
use ramet_fork::{ForkDescriptor, PrepareError, prepare};

/// How often a process is prepared that changes all the time.
const ATTEMPTS: u32 = 150;
/// How many processes are prepared that have just been started.
const STARTED: u32 = 300;
/// `AT_SYSINFO_EHDR` of getauxval(3).
const SYSINFO: u64 = 33;

/// A process that never stays what it is.
struct Restless {
    process: Child,
    folder: tempfile::TempDir,
}

impl Restless {
    fn start(by: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/restless.c");
        let program = folder.path().join("restless");
        let built = Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&program).arg(source).status();
        assert!(built.expect("a C compiler").success());
        let told = folder.path().join("told");
        fs::write(&told, "").expect("a file");
        let process = Command::new(program).arg(told).args([by, "0"]).stdin(Stdio::null()).spawn();
        let restless = Self { process: process.expect("a process"), folder };
        restless.changes_further();
        restless
    }

    /// How often it has changed.
    fn count(&self) -> u64 {
        let text = fs::read(self.folder.path().join("told")).expect("what it told");
        let number = text.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(number).expect("text").parse().unwrap_or(0)
    }

    fn changes_further(&self) {
        let (before, deadline) = (self.count(), Instant::now() + Duration::from_secs(30));
        while self.count() == before {
            assert!(Instant::now() < deadline, "it has stopped to change");
            thread::yield_now();
        }
    }

    /// Prepares it again and again.
    fn is_prepared(&mut self, check: impl Fn(&ForkDescriptor)) {
        let (mut prepared, before) = (0, self.count());
        for _ in 0..ATTEMPTS {
            match prepare(self.process.id().cast_signed()) {
                Ok(seed) => {
                    prepared += 1;
                    check(&seed.descriptor);
                }
                Err(PrepareError::Executing(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let status = self.process.try_wait().expect("its state");
            assert!(status.is_none(), "it has ended: {status:?}");
        }
        let changes = self.count() - before;
        self.changes_further();
        assert!(prepared > ATTEMPTS / 2, "only {prepared} of {ATTEMPTS} times it was prepared");
        assert!(changes > u64::from(ATTEMPTS), "it changed {changes} times only");
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_one_program(descriptor: &ForkDescriptor) {
    let vdso = descriptor.areas.iter().find(|area| area.kind == AreaKind::Vdso).expect("its vdso");
    let told = descriptor.layout.auxiliary.as_chunks().0.iter().find(|[kind, _]| *kind == SYSINFO);
    assert_eq!(told, Some(&[SYSINFO, vdso.start]));
}

#[test]
fn executes_itself() {
    Restless::start("process").is_prepared(is_one_program);
}

#[test]
fn executes_itself_by_another_thread() {
    Restless::start("thread").is_prepared(is_one_program);
}

#[test]
fn has_another_thread_every_moment() {
    Restless::start("threads").is_prepared(|descriptor| {
        assert!(descriptor.threads.len() > 1, "a thread ran on while the others were stopped");
    });
}

#[test]
fn has_just_been_started() {
    for _ in 0..STARTED {
        let mut process = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("a process");
        let prepared = prepare(process.id().cast_signed());
        process.kill().and_then(|()| process.wait()).expect("ended");
        prepared.expect("prepared");
    }
}
