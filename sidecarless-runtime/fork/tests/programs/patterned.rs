//! A process whose memory is known, as the tests start it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ramet_sys::Range;

pub(crate) const PAGE_BYTES: u64 = 4096;
/// Pages of its own in a group, and then one of a file.
pub(crate) const OWN: u64 = 16;
const GROUP: u64 = OWN + 1;

/// A process whose memory is known.
pub(crate) struct Target {
    process: Child,
    base: u64,
    _secret: tempfile::NamedTempFile,
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
