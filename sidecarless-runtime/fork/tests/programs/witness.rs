//! A process whose copies look at all of their memory, as the tests start it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process whose copies say whether their memory is right.
pub(crate) struct Witness {
    process: Child,
    /// Its program is mapped again by its copies.
    _folder: tempfile::TempDir,
}

impl Witness {
    pub(crate) fn start(arguments: &[&OsStr]) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/witness.c");
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("witness");
        let built = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).status();
        assert!(built.expect("a C compiler").success());
        let process = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut process = process.expect("a process");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self { process, _folder: folder }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
