//! What can go wrong between the object file and a running SPROXY, each with what to do about it.

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::{EbpfError, sys::SyscallError};
use ramet_common::InstanceId;
use std::{fs, io, path::PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// No compiled program was found.
    #[error(
        "no eBPF object: looked at {}; build it with `cargo xtask build-ebpf`, or set {} to its path",
        list(looked),
        crate::object::OBJECT_VARIABLE
    )]
    ObjectNotFound {
        /// The paths that were tried, in this order.
        looked: Vec<PathBuf>,
    },
    /// The object file exists but could not be read.
    #[error("cannot read the eBPF object {}: {source}; check its permissions or build it anew with \
        `cargo xtask build-ebpf`", path.display())]
    ObjectUnreadable {
        /// The file.
        path: PathBuf,
        /// What `read` said.
        source: io::Error,
    },
    /// The file is not an object that this version can use.
    #[error("{} is not an eBPF object of this version: {reason}; build it anew with `cargo xtask build-ebpf`",
        path.display())]
    ObjectInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel does not let this process use BPF.
    #[error(
        "the kernel does not permit BPF here ({source} while {action}); run as root, or with the capabilities \
        CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// What was attempted.
        action: &'static str,
        /// What the system call said.
        source: io::Error,
    },
    /// The kernel has no BPF, or not the map types that SPROXY needs.
    #[error(
        "the kernel cannot make SPROXY's maps: {source}; it needs Linux 6.1 or newer with CONFIG_BPF_SYSCALL, \
        CONFIG_BPF_STREAM_PARSER and CONFIG_INET"
    )]
    Unsupported {
        /// What aya said.
        source: Box<EbpfError>,
    },
    /// The verifier refused the program.
    #[error(
        "the kernel's verifier refused {program}: {source}; it needs Linux 6.1 or newer, please report this with \
        the verifier's last lines:\n{log_tail}"
    )]
    Rejected {
        /// What was to be loaded.
        program: &'static str,
        /// What the system call said.
        source: io::Error,
        /// The last lines of the verifier's log.
        log_tail: String,
    },
    /// The program loaded but could not be attached.
    #[error(
        "{program} was loaded but could not be attached: {source}; the kernel needs CONFIG_BPF_STREAM_PARSER and \
        CONFIG_CGROUP_BPF"
    )]
    Attach {
        /// What was to be attached.
        program: &'static str,
        /// What aya said.
        source: ProgramError,
    },
    /// There is no control group to attach to.
    #[error(
        "the short-cut past TCP needs a control group of the unified hierarchy (cgroup v2): {reason}; the kernel needs \
        CONFIG_CGROUPS, and one that is mounted is enough, with or without controllers"
    )]
    NoControlGroup {
        /// Why there is none.
        reason: String,
    },
    /// A map operation failed.
    #[error("cannot {action}: {source}")]
    Map {
        /// What was attempted, as in "cannot …".
        action: &'static str,
        /// What aya said.
        source: MapError,
    },
    /// An id is beyond the size of its table.
    #[error("{what} {value} is out of range: at most {limit} fit into SPROXY's tables")]
    OutOfRange {
        /// What the number is.
        what: &'static str,
        /// The number.
        value: u64,
        /// The first number that does not fit.
        limit: u64,
    },
    /// An id that means nobody was given where somebody is needed.
    #[error("{what} must not be {value}: {reason}")]
    Meaningless {
        /// What the number is.
        what: &'static str,
        /// The number.
        value: u64,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// Somebody lives at the index of the instance that wants to join.
    #[error("instance {joining} cannot join: instance {living} lives at the same index; let it leave first")]
    Occupied {
        /// The one that wants to join.
        joining: InstanceId,
        /// The one that is there.
        living: InstanceId,
    },
    /// A socket for an instance could not be made.
    #[error("cannot make the sockets of an instance: {call} failed: {source}; {hint}")]
    Sockets {
        /// The system call.
        call: &'static str,
        /// What it said.
        source: io::Error,
        /// What to look at.
        hint: &'static str,
    },
    /// The program's log lines cannot be read.
    #[error("cannot read SPROXY's log: {reason}")]
    Logs {
        /// Why.
        reason: String,
    },
}

impl LoaderError {
    /// Whether the reason is a missing privilege, so that another transport may work where this one does not.
    #[must_use]
    pub const fn is_permission(&self) -> bool {
        matches!(self, Self::NotPermitted { .. })
    }

    pub(crate) fn of_maps(error: EbpfError) -> Self {
        match permission(&error) {
            Some(source) => Self::NotPermitted { action: "making a map", source },
            None => Self::Unsupported { source: Box::new(error) },
        }
    }

    pub(crate) fn of_load(program: &'static str, error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                // Without CAP_BPF the kernel fails before the verifier has said anything; without CAP_PERFMON the
                // verifier is stricter than SPROXY can bear.
                let unprivileged = is_eperm(&io_error) && log.trim().is_empty();
                if unprivileged || !may_leak_pointers().unwrap_or(true) {
                    return Self::NotPermitted { action: "loading a program", source: io_error };
                }
                Self::Rejected { program, source: io_error, log_tail: tail(&log) }
            }
            other => Self::Rejected { program, source: io::Error::other(other.to_string()), log_tail: String::new() },
        }
    }

    pub(crate) fn of_attach(program: &'static str, source: ProgramError) -> Self {
        match source {
            ProgramError::SyscallError(SyscallError { io_error, .. }) if is_eperm(&io_error) => {
                Self::NotPermitted { action: "attaching a program", source: io_error }
            }
            source => Self::Attach { program, source },
        }
    }
}

/// How many of the verifier's last lines an error shows.
const TAIL_LINES: usize = 12;

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn is_eperm(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// Whether this process has CAP_PERFMON or CAP_SYS_ADMIN; `None` where the kernel does not say.
fn may_leak_pointers() -> Option<bool> {
    effective(&fs::read_to_string("/proc/self/status").ok()?)
}

fn effective(status: &str) -> Option<bool> {
    const PERFMON: u32 = 38;
    const SYS_ADMIN: u32 = 21;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let capabilities = u64::from_str_radix(line.trim(), 16).ok()?;
    Some(capabilities & (1 << PERFMON | 1 << SYS_ADMIN) != 0)
}

/// The `EPERM` somewhere below `error`, where there is one.
fn permission(error: &EbpfError) -> Option<io::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        if current.downcast_ref::<io::Error>().is_some_and(is_eperm) {
            return Some(io::Error::from_raw_os_error(libc::EPERM));
        }
        next = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_shows_the_last_lines_of_the_verifier() {
        let log = (0..100).map(|n| format!("line {n}\n\n")).collect::<String>();
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 99"));
    }

    #[test]
    fn a_missing_privilege_is_told_from_a_missing_feature() {
        let create = |number| {
            EbpfError::MapError(MapError::CreateError {
                name: "LEDGER".to_owned(),
                io_error: io::Error::from_raw_os_error(number),
            })
        };
        assert!(LoaderError::of_maps(create(libc::EPERM)).is_permission());
        assert!(!LoaderError::of_maps(create(libc::EINVAL)).is_permission());
    }

    #[test]
    fn the_capability_that_the_verifier_wants_is_read_from_the_status() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(true));
        assert_eq!(effective("CapEff:\t0000004000000000\n"), Some(true));
        assert_eq!(effective("CapEff:\t0000008000001000\n"), Some(false));
        assert_eq!(effective(""), None);
    }
}
