//! Starting a child in its sandbox.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, getegid, geteuid, getpid, pidfd_open};

use crate::entry::{Entry, Image, RECORD_BYTES, Record, UserMap};
use crate::loopback;
use crate::namespace::ProcessNamespace;
use crate::pidfd::Pidfd;
use crate::report::{Outcome, Part, SandboxReport};
use crate::sandbox::{Network, Sandbox};
use crate::seccomp;

/// A program and what it starts with.
#[derive(Debug)]
pub struct Program {
    /// The executable file. It may lie in a folder that the child's user cannot enter.
    pub path: PathBuf,
    /// All arguments; the first is the program's name.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub folder: PathBuf,
    /// Its standard input.
    pub stdin: OwnedFd,
    /// Where its output goes.
    pub output: Output,
}

/// Where a child's standard output and error go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Into pipes that the caller reads.
    Captured,
    /// Where the caller's go.
    Inherited,
}

/// A process that has begun to execute its program.
#[derive(Debug)]
pub struct Child {
    /// Its number, for people.
    pub pid: u32,
    /// The process.
    pub pidfd: Pidfd,
    /// What it writes, if that is captured.
    pub captured: Option<Captured>,
    /// What of the sandbox it got.
    pub report: SandboxReport,
    /// Unconnected TCP sockets of its own network, if it has one: whoever connects one to 127.0.0.1 connects to the
    /// child.
    pub sockets: Vec<OwnedFd>,
}

/// What a child writes.
#[derive(Debug)]
pub struct Captured {
    /// To standard output.
    pub stdout: PipeReader,
    /// To standard error.
    pub stderr: PipeReader,
}

/// What `EAGAIN` means where a program is to be executed.
fn too_many(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::WouldBlock {
        "; its user has as many processes already as one may have"
    } else {
        ""
    }
}

/// Why a child was not started; no process is left behind.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program's file cannot be opened.
    #[error("cannot open the program {}: {source}", path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The program's file cannot be executed.
    #[error("cannot execute {}: {source}{}", path.display(), too_many(source))]
    Execute {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// An argument or variable has a zero byte in it.
    #[error("an argument or environment variable has a zero byte in it, which no program can be given")]
    ZeroByte,
    /// A part of the sandbox that no child goes without.
    #[error("cannot give the new process its sandbox ({part}): {source}")]
    Sandbox {
        /// The part.
        part: Part,
        /// The reason.
        source: io::Error,
    },
    /// The seccomp filter is not made for this machine.
    #[error("cannot build the seccomp filter: {0}")]
    Filter(String),
    /// A system call of the supervisor failed.
    #[error("cannot start a process: {call} failed: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// The reason.
        source: io::Error,
    },
}

fn system(call: &'static str) -> impl FnOnce(io::Error) -> SpawnError {
    move |source| SpawnError::System { call, source }
}

/// Starts `program` in `sandbox`.
///
/// The child dies with the *thread* that calls this: call it from one that lives as long as the supervisor.
///
/// # Errors
/// [`SpawnError`]; no process is left behind.
pub fn spawn(program: Program, sandbox: &Sandbox) -> Result<Child, SpawnError> {
    spawn_in(program, sandbox, None)
}

/// As [`spawn`], but in the process namespace of another process, `neighbour`, instead of one of the child's own: it is
/// not the first there, so that it can be forked from outside (a first process has no siblings, clone(2)).
///
/// # Errors
/// [`SpawnError`]; no process is left behind.
pub fn spawn_beside(neighbour: &Pidfd, program: Program, sandbox: &Sandbox) -> Result<Child, SpawnError> {
    spawn_in(program, sandbox, Some(neighbour.as_fd()))
}

fn spawn_in(program: Program, sandbox: &Sandbox, neighbour: Option<BorrowedFd<'_>>) -> Result<Child, SpawnError> {
    let file = open_program(&program.path)?;
    let path = program.path.clone();
    let c_path = c_string(program.path.into_os_string())?;
    let arguments = program.arguments.into_iter().map(c_string).collect::<Result<_, _>>()?;
    let variables = program.environment.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        c_string(name)
    });
    let image = Image::new(c_path, file, arguments, variables.collect::<Result<_, _>>()?);
    let mut command = Command::new(&path);
    command.current_dir(program.folder).stdin(program.stdin);
    let captured = match program.output {
        Output::Captured => Some(capture(&mut command)?),
        Output::Inherited => None,
    };
    let way = match sandbox.network {
        Network::Own { .. } => Some(loopback::way().map_err(system("socketpair"))?),
        Network::None | Network::Host => None,
    };
    let (near, far) = way.map_or((None, None), |(near, far)| (Some(near), Some(far)));
    let (result, records) = start(command, sandbox, Some(image), neighbour, far)?;
    let child = result.map_err(|error| gave_up(path, error, &records))?;
    let sockets = near.map_or_else(|| Ok(Vec::new()), |near| loopback::collect(&near));
    let pidfd = match Pidfd::of_child(child.id()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            abandon(child);
            return Err(system("pidfd_open")(error));
        }
    };
    match sockets {
        Ok(sockets) => Ok(Child { pid: child.id(), pidfd, captured, report: outcomes(&records), sockets }),
        Err(error) => {
            abandon(child);
            Err(system("recvmsg")(error))
        }
    }
}

fn capture(command: &mut Command) -> Result<Captured, SpawnError> {
    let (stdout, stdout_writer) = io::pipe().map_err(system("pipe"))?;
    let (stderr, stderr_writer) = io::pipe().map_err(system("pipe"))?;
    command.stdout(stdout_writer).stderr(stderr_writer);
    Ok(Captured { stdout, stderr })
}

/// Forks a child that enters `sandbox` and ends: what a real one would get.
///
/// # Errors
/// [`SpawnError`]: a real one would get the same.
pub fn probe(sandbox: &Sandbox) -> Result<SandboxReport, SpawnError> {
    let mut command = Command::new("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (result, records) = start(command, sandbox, None, None, None)?;
    match result {
        Ok(child) => abandon(child),
        Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => {}
        Err(error) => return Err(gave_up(PathBuf::from("/"), error, &records)),
    }
    Ok(outcomes(&records))
}

type Started = (io::Result<std::process::Child>, Vec<Record>);

fn start(
    mut command: Command,
    sandbox: &Sandbox,
    image: Option<Image>,
    neighbour: Option<BorrowedFd<'_>>,
    sockets_way: Option<OwnedFd>,
) -> Result<Started, SpawnError> {
    let (mut report, report_writer) = io::pipe().map_err(system("pipe"))?;
    let is_root = geteuid().is_root();
    let user_map = (!is_root).then(|| UserMap {
        uid: format!("{0} {0} 1", geteuid().as_raw()),
        gid: format!("{0} {0} 1", getegid().as_raw()),
    });
    let namespace = match neighbour {
        Some(neighbour) => ProcessNamespace::of(neighbour),
        None if is_root => ProcessNamespace::for_next_child(),
        None => Err(Errno::PERM),
    };
    let supervisor = pidfd_open(getpid(), PidfdFlags::empty());
    let entry = Entry {
        supervisor: supervisor.map_err(io::Error::from).map_err(system("pidfd_open"))?,
        process_namespace: namespace.as_ref().map_or_else(|errno| Outcome::Refused(*errno), |_| Outcome::Applied),
        user: sandbox.user,
        network: sandbox.network,
        limits: sandbox.limits,
        sockets_way,
        user_map,
        filters: seccomp::filters().map_err(|error| SpawnError::Filter(error.to_string()))?,
        report: report_writer.into(),
        image,
    };
    // SAFETY: C1: `Entry::run` uses what was prepared above and makes system calls.
    unsafe { command.pre_exec(move || entry.run()) };
    let result = command.spawn();
    drop(namespace);
    // The command owns our copies of the pipes' writing ends.
    drop(command);
    let mut bytes = Vec::new();
    report.read_to_end(&mut bytes).map_err(system("read"))?;
    let records = bytes.as_chunks::<RECORD_BYTES>().0.iter().filter_map(|record| Record::parse(*record));
    Ok((result, records.collect()))
}

/// Opens a program for execution. Reading it is not needed and may not be allowed.
fn open_program(path: &Path) -> Result<OwnedFd, SpawnError> {
    let opened = File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
    Ok(opened.map_err(|source| SpawnError::Program { path: path.to_owned(), source })?.into())
}

fn c_string(text: OsString) -> Result<CString, SpawnError> {
    CString::new(text.into_vec()).map_err(|_| SpawnError::ZeroByte)
}

fn outcomes(records: &[Record]) -> SandboxReport {
    let parts = records.iter().filter_map(|record| match record {
        Record::Part(part, outcome) => Some((*part, *outcome)),
        Record::GaveUp(..) => None,
    });
    SandboxReport::new(parts.collect())
}

/// What went wrong in a child that did not get as far as its program.
fn gave_up(path: PathBuf, error: io::Error, records: &[Record]) -> SpawnError {
    let last = records.iter().find_map(|record| match record {
        Record::GaveUp(part, errno) => Some((*part, io::Error::from(*errno))),
        Record::Part(..) => None,
    });
    match last {
        Some((Some(part), source)) => SpawnError::Sandbox { part, source },
        Some((None, source)) => SpawnError::Execute { path, source },
        // It was the fork, the pipes or the folder: what the standard library does itself.
        None => SpawnError::System { call: "fork or chdir", source: error },
    }
}

fn abandon(mut child: std::process::Child) {
    let _ = child.kill();
    let _ = child.wait();
}
