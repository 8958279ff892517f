//! What `/proc/PID/{status,stat,auxv}` say of a process.

use std::fs;
use std::io;

use crate::descriptor::{Credentials, Layout};

/// How many kinds of limits a process has (`RLIM_NLIMITS`).
pub(crate) const LIMITS: usize = 16;

/// The number of the field after the name in `/proc/PID/stat`.
const FIRST_FIELD: usize = 3;

/// `/proc/PID/FILE`.
pub(super) fn read(pid: i32, file: &'static str) -> io::Result<Vec<u8>> {
    fs::read(format!("/proc/{pid}/{file}"))
}

/// The lines of `/proc/PID/status` that matter.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) name: Vec<u8>,
    pub(super) umask: u32,
    pub(super) credentials: Credentials,
    /// The mode of seccomp: 0 none, 1 strict, 2 filters.
    pub(super) seccomp: u32,
    /// How many filters.
    pub(super) filters: u32,
    /// Its number in its own namespace.
    pub(super) number: i32,
    /// Whether it runs no more and only waits to be taken away.
    pub(super) has_ended: bool,
    /// Whether it is stopped, as by SIGSTOP.
    pub(super) is_stopped: bool,
    /// Whose child it is, in our numbers.
    pub(super) parent: i32,
    /// Who traces it, in our numbers; 0: nobody.
    pub(super) tracer: i32,
    /// Signals that are ignored; bit 0 is signal 1.
    pub(super) ignored: u64,
    /// Signals that have a handler.
    pub(super) caught: u64,
}

impl Status {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut status = Self::default();
        for line in text.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (key, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if key == b"Name" {
                status.name = value.to_vec();
                continue;
            }
            let value = std::str::from_utf8(value).ok()?;
            let mask = || u64::from_str_radix(value, 16).ok();
            let credentials = &mut status.credentials;
            match key {
                b"State" => {
                    status.has_ended = value.starts_with(['Z', 'X']);
                    status.is_stopped = value.starts_with('T');
                }
                b"Umask" => status.umask = u32::from_str_radix(value, 8).ok()?,
                b"Uid" => credentials.users = numbers(value)?.try_into().ok()?,
                b"Gid" => credentials.groups = numbers(value)?.try_into().ok()?,
                b"Groups" => credentials.supplementary = numbers(value)?,
                b"CapInh" => credentials.capabilities.inheritable = mask()?,
                b"CapPrm" => credentials.capabilities.permitted = mask()?,
                b"CapEff" => credentials.capabilities.effective = mask()?,
                b"CapBnd" => credentials.capabilities.bounding = mask()?,
                b"CapAmb" => credentials.capabilities.ambient = mask()?,
                b"NoNewPrivs" => credentials.no_new_privileges = value == "1",
                b"Seccomp" => status.seccomp = value.parse().ok()?,
                b"Seccomp_filters" => status.filters = value.parse().ok()?,
                b"PPid" => status.parent = value.parse().ok()?,
                b"TracerPid" => status.tracer = value.parse().ok()?,
                b"NSpid" => status.number = value.split_ascii_whitespace().next_back()?.parse().ok()?,
                b"SigIgn" => status.ignored = mask()?,
                b"SigCgt" => status.caught = mask()?,
                _ => {}
            }
        }
        Some(status)
    }
}

/// Whether it is a thread of the kernel, which has no memory.
pub(super) fn is_kernels(pid: i32) -> bool {
    /// `PF_KTHREAD`.
    const OF_KERNEL: u64 = 0x0020_0000;
    const FLAGS: usize = 9;
    let stat = read(pid, "stat").unwrap_or_default();
    let flags = fields(&stat).and_then(|fields| fields.get(FLAGS - FIRST_FIELD)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & OF_KERNEL != 0)
}

/// Whether any of a process's threads has not ended.
pub(super) fn has_threads(pid: i32) -> bool {
    let numbers = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.any(|tid| of_thread(pid, tid).is_ok_and(|thread| !thread.has_ended))
}

/// The fields of `/proc/PID/stat` from the third one on. The name before may have anything in it.
fn fields(stat: &[u8]) -> Option<Vec<&str>> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 2;
    Some(std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace().collect())
}

/// What is told of a thread.
pub(super) fn of_thread(pid: i32, tid: i32) -> io::Result<Status> {
    let status = Status::parse(&fs::read(format!("/proc/{pid}/task/{tid}/status"))?);
    status.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Reads `/proc/PID/limits`: for each `RLIMIT_…`, in their order, the limit and how far it may be raised.
pub(crate) fn limits(text: &[u8]) -> Option<[[u64; 2]; LIMITS]> {
    /// How wide the name of a limit is; it may have spaces in it.
    const NAME_BYTES: usize = 26;
    let text = std::str::from_utf8(text).ok()?;
    let number = |word: &str| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() };
    let mut limits = [[0; 2]; LIMITS];
    let mut lines = text.lines().skip(1);
    for limit in &mut limits {
        let mut words = lines.next()?.get(NAME_BYTES..)?.split_ascii_whitespace();
        *limit = [number(words.next()?)?, number(words.next()?)?];
    }
    Some(limits)
}

fn numbers(text: &str) -> Option<Vec<u32>> {
    text.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}

/// Reads `/proc/PID/stat` and `/proc/PID/auxv`.
pub(super) fn layout(stat: &[u8], auxiliary: &[u8]) -> Option<Layout> {
    let fields = fields(stat)?;
    let field = |number: usize| fields.get(number - FIRST_FIELD)?.parse::<u64>().ok();
    Some(Layout {
        start_code: field(26)?,
        end_code: field(27)?,
        start_stack: field(28)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        // Not told; the end of the heap's area is where it is, until an area says so.
        brk: field(47)?,
        auxiliary: auxiliary.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect(),
    })
}
