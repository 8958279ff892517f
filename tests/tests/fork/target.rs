//! Processes to fork: each answers a byte on its standard input with one line about all its data, and ends at the end
//! of its input.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PYTHON: &str = r"
import os, zlib
data = [os.urandom(1 << 16) for _ in range(8)]
def answer():
    os.write(1, b'%d %d\n' % (len(data), zlib.crc32(b''.join(data))))
while True:
    if not os.read(0, 1):
        break
    answer()
";

/// What [`Target::numpy`] has.
pub(crate) const DATA_BYTES: u64 = 8 << 20;
/// The bytes that ask it for one part of its data after the other.
pub(crate) const BLOCKS: Range<u8> = b'a'..b'q';

const NUMPY: &str = r"
import os, sys, zlib
import numpy
data = numpy.random.default_rng().integers(0, 1 << 64, int(sys.argv[1]) // 8, dtype=numpy.uint64)
blocks = numpy.split(data, int(sys.argv[2]))
while True:
    asked = os.read(0, 1)
    if not asked:
        break
    part = data if asked == b'?' else blocks[asked[0] - ord('a')]
    os.write(1, b'%s %d %d %d\n' % (asked, part.size, numpy.bitwise_xor.reduce(part), zlib.crc32(part)))
";

/// Three threads that always hold or wait for a lock, and one that answers.
const THREADS: &str = r#"
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
enum { WORDS = 1 << 20 };
static uint64_t *data;
static uint64_t counts[3];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *count(void *own) {
    for (;;) {
        pthread_mutex_lock(&lock);
        ++*(uint64_t *)own;
        pthread_mutex_unlock(&lock);
        usleep(200);
    }
    return 0;
}
int main(void) {
    data = malloc(WORDS * sizeof *data);
    uint64_t state = getpid();
    for (int at = 0; at < WORDS; at++)
        data[at] = state = state * 6364136223846793005u + 1442695040888963407u;
    for (int at = 0; at < 3; at++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, count, &counts[at])) return 1;
    }
    char byte;
    while (read(0, &byte, 1) == 1) {
        uint64_t before[3], sum = 0;
        pthread_mutex_lock(&lock);
        for (int at = 0; at < 3; at++) before[at] = counts[at];
        pthread_mutex_unlock(&lock);
        for (int moved = 0; moved < 3; usleep(100)) {
            pthread_mutex_lock(&lock);
            moved = 0;
            for (int at = 0; at < 3; at++) moved += counts[at] > before[at];
            pthread_mutex_unlock(&lock);
        }
        for (int at = 0; at < WORDS; at++) sum = sum * 31 + data[at];
        char line[64];
        int length = snprintf(line, sizeof line, "all counted %llu\n", (unsigned long long)sum);
        if (write(1, line, length) != length) return 1;
    }
    return 0;
}
"#;

/// A process to fork.
#[derive(Debug)]
pub(crate) struct Target {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    marker: String,
}

impl Target {
    /// `python3` with 512 KiB of random bytes.
    pub(crate) fn python() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON]);
        Self::start(command)
    }

    /// `python3` with numpy, as it is installed, and 8 MiB of random numbers, of which it can be asked for parts.
    pub(crate) fn numpy() -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", NUMPY, &DATA_BYTES.to_string(), &BLOCKS.len().to_string()]);
        Self::start(command)
    }

    /// A program in C with four threads and 8 MiB.
    pub(crate) fn threads() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("threads.c");
        std::fs::write(&source, THREADS).expect("written");
        // Children map its file.
        let program = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("threads-{}", unique()));
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-pthread", "-o"]).arg(&program).arg(source);
        assert!(compiler.status().expect("a C compiler").success());
        Self::start(Command::new(program))
    }

    fn start(mut command: Command) -> Self {
        let marker = format!("fork-target-{}", unique());
        let command = command.arg(&marker).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a target");
        let (input, output) = (process.stdin.take().expect("input"), process.stdout.take().expect("output"));
        let mut target = Self { process, input, output: BufReader::new(output), marker };
        target.ask();
        target
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// A word of its command line, and of its copies', that no other process has.
    pub(crate) fn marker(&self) -> &str {
        &self.marker
    }

    /// What it says of its data.
    pub(crate) fn ask(&mut self) -> String {
        self.ask_for(b'?')
    }

    /// What it says of a part of its data.
    pub(crate) fn ask_for(&mut self, what: u8) -> String {
        ask(&mut self.input, &mut self.output, what).expect("it has ended instead of answering")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An answer. None: there is none, because the process has ended.
pub(crate) fn ask(input: &mut impl Write, output: &mut impl BufRead, what: u8) -> Option<String> {
    match input.write_all(&[what]) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return None,
        written => written.expect("asked"),
    }
    let mut line = String::new();
    output.read_line(&mut line).expect("an answer");
    assert!(line.is_empty() || line.ends_with('\n'), "half an answer: {line:?}");
    (!line.is_empty()).then_some(line)
}

/// A word that nothing else of this run has.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
