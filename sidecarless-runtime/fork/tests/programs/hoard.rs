//! A process with much data, as tests and measurements start it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ramet_sys::Range;

/// A process whose data is known.
pub(crate) struct Hoard {
    process: Child,
    /// Where it is.
    pub(crate) data: Range,
    _folder: tempfile::TempDir,
}

impl Hoard {
    pub(crate) fn start(bytes: u64) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/hoard.c");
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("hoard");
        let built = Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(source).status();
        assert!(built.expect("a C compiler").success());
        let mut command = Command::new(&program);
        command.arg(bytes.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a hoard");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("its output")).read_line(&mut line).expect("an address");
        let start = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).expect("an address");
        Self { process, data: Range { start, bytes }, _folder: folder }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Whether this is what is at an address.
    pub(crate) fn is_right(&self, address: u64, bytes: &[u8]) -> bool {
        let first = (address - self.data.start) / 8;
        let word = |place: u64| place.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let words = bytes.as_chunks().0;
        (first..).zip(words).all(|(place, found)| u64::from_ne_bytes(*found) == word(place))
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
