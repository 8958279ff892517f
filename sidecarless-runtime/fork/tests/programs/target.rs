//! Processes that do what a test tells them, and their children.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_fork::{Child, Family, Given, Host, LocalSource, Prepared, ResumeError, prepare};
use ramet_sys::End;

/// A process that runs the code that it is told.
pub(crate) struct Target {
    process: Process,
    folder: tempfile::TempDir,
}

/// What was prepared, and the children of that.
pub(crate) struct Forked<'t> {
    target: &'t Target,
    pub(crate) family: Rc<Family>,
    pub(crate) prepared: Rc<Prepared>,
}

/// A child, which ends with the test.
pub(crate) struct Told<'t> {
    target: &'t Target,
    pub(crate) child: Child,
    _family: Rc<Family>,
    _prepared: Rc<Prepared>,
}

impl Target {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.stdin(Stdio::null()).arg(program("obeys.py"));
        change(&mut command);
        let folder = tempfile::tempdir().expect("a folder");
        // The process may come to be another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
        let process = command.arg(folder.path()).spawn().expect("a target");
        let target = Self { process, folder };
        target.tell("1");
        target
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Has the process run code; what the last line gives.
    pub(crate) fn tell(&self, code: &str) -> String {
        tell(self.folder.path(), self.pid(), code)
    }

    /// Has a child of it run code.
    #[allow(dead_code, reason = "not every test makes its children itself")]
    pub(crate) fn tell_child(&self, pid: i32, code: &str) -> String {
        tell(self.folder.path(), pid, code)
    }

    pub(crate) fn fork(&self) -> Forked<'_> {
        let prepared = prepare(self.pid()).expect("prepared");
        let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
        let family = Family::start(Arc::new(host()), prepared.descriptor.clone(), Box::new(source));
        Forked { target: self, family: Rc::new(family.expect("a family")), prepared: Rc::new(prepared) }
    }
}

impl<'t> Forked<'t> {
    pub(crate) fn child(&self) -> Told<'t> {
        self.child_given(&Given::own().expect("streams"))
    }

    pub(crate) fn child_given(&self, given: &Given) -> Told<'t> {
        let child = self.family.child(given).expect("a child");
        Told { target: self.target, child, _family: Rc::clone(&self.family), _prepared: Rc::clone(&self.prepared) }
    }

    #[expect(dead_code, reason = "comes with the first refusal")]
    pub(crate) fn refused(&self) -> ResumeError {
        self.family.child(&Given::own().expect("streams")).expect_err("a child")
    }
}

impl Told<'_> {
    /// Has the child run code; what the last line gives.
    pub(crate) fn tell(&self, code: &str) -> String {
        tell(self.target.folder.path(), self.child.pid, code)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let _ = self.child.pidfd.signal(End::Kill);
        let _ = self.child.pidfd.wait();
    }
}

pub(crate) fn host() -> Host {
    Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host")
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

fn tell(folder: &Path, pid: i32, code: &str) -> String {
    let file = |what: &str| folder.join(format!("{pid}.{what}"));
    fs::write(file("ask.new"), code).expect("a question");
    fs::rename(file("ask.new"), file("ask")).expect("a question");
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Ok(answer) = fs::read_to_string(file("answer")) {
            fs::remove_file(file("answer")).expect("its answer");
            return answer;
        }
        assert!(Instant::now() < deadline, "process {pid} does not answer: {code}");
        // tidy: another process is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(1));
    }
}
