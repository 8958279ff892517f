//! Guests from their start to their end, and what the run has come to.

use super::cache::{self, Age};
use super::qemu::{Link, Machine, Role, Running};
use super::script::Script;
use super::series::Series;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take to make the link's socket, or to say that it cannot.
const LINK_WAIT: Duration = Duration::from_secs(30);
/// Memory of each guest, by default.
pub(super) const MEMORY_MIB: u32 = 2048;
/// How many runs one process may have at a time, those counted whose folders were left behind.
const FOLDERS_MAX: u32 = 1000;

/// How often guests are started until they are there.
const BOOTS_MAX: u32 = 3;

/// What to run, and in what.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The guests' kernel.
    pub(crate) series: Series,
    /// Whether a newer kernel than the cached one is looked for.
    pub(super) age: Age,
    /// Memory of each guest.
    pub(crate) memory_mib: u32,
    /// How long everything may take, from the guests' start.
    pub(crate) timeout: Duration,
    /// What the first guest runs.
    pub(crate) command: Script,
    /// What the second guest runs, if there shall be one.
    pub(crate) peer: Option<Script>,
    /// Where the guests can leave files; by default they go with the run.
    pub(crate) out: Option<PathBuf>,
}

impl Plan {
    /// A command in one guest, with the kernel that is there.
    pub(crate) fn new(series: Series, timeout: Duration, command: Script) -> Self {
        Self { series, age: Age::Any, memory_mib: MEMORY_MIB, timeout, command, peer: None, out: None }
    }
}

/// What a run has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command ended with this exit code.
    Code(u8),
    /// The command had not ended when the time was over.
    TimedOut,
    /// The guest ended, or never came, and the command has no exit code; with the reason.
    Broken(String),
}

/// Which of a guest's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stream {
    /// The command's standard output.
    Out,
    /// The command's standard error.
    Err,
    /// The kernel's messages and QEMU's own.
    Console,
}

/// From the threads that read.
enum Event {
    Heard(Role, Stream, Vec<u8>),
    Closed(Role),
}

/// A guest's process, which does not outlive this.
struct Guest {
    process: Child,
    streams_open: usize,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It fails when QEMU has ended, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The run's own folder, with what guests and host tell each other.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Boots the guests, gives `hear` everything that comes from them, and waits for the command's end.
///
/// An emulated kernel crashes now and then as it boots: it changes its own instructions while another processor runs
/// them, which the emulation does not always follow. Until the command has begun nothing is lost by another try.
///
/// # Errors
/// When no guest could be started at all.
pub(crate) fn run(plan: &Plan, hear: &mut dyn FnMut(Role, Stream, &[u8])) -> Result<Ending> {
    let mut boots = 1;
    loop {
        match boot(plan, hear)? {
            Booted::Not if boots < BOOTS_MAX => eprintln!("the guest ended as it booted; it is started once more"),
            Booted::Not => {
                return Ok(Ending::Broken(format!(
                    "the guest ended as it booted, {boots} times; its console is above"
                )));
            }
            Booted::Until(ending) => return Ok(ending),
        }
        boots += 1;
    }
}

/// What became of guests.
enum Booted {
    /// The command had not begun when they ended.
    Not,
    Until(Ending),
}

fn boot(plan: &Plan, hear: &mut dyn FnMut(Role, Stream, &[u8])) -> Result<Booted> {
    let kernel = cache::kernel(plan.series, plan.age)?;
    let folder = Folder::new()?;
    let shared = folder.0.join("shared");
    write(&shared.join("modules"), &kernel.modules.to_string_lossy())?;
    write(&shared.join("script.command"), &plan.command.text())?;
    if let Some(peer) = &plan.peer {
        write(&shared.join("script.peer"), &peer.text())?;
    }
    let own_out = folder.0.join("out");
    let out = plan.out.as_deref().unwrap_or(&own_out);
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let out = out.canonicalize().with_context(|| format!("cannot find {}", out.display()))?;
    let link = if plan.peer.is_some() { Link::Pair } else { Link::Alone };
    let machine = |role| Machine {
        role,
        link,
        series: plan.series,
        kernel: &kernel,
        memory_mib: plan.memory_mib,
        folder: &folder.0,
        out: &out,
    };
    let (sender, events) = channel();
    let deadline = Instant::now() + plan.timeout;
    let mut guests = vec![(Role::Command, start(&machine(Role::Command), &sender)?)];
    if link == Link::Pair {
        await_link(&machine(Role::Command).link_socket(), &mut guests[0].1)?;
        guests.push((Role::Peer, start(&machine(Role::Peer), &sender)?));
    }
    drop(sender);
    let ending = listen(guests, &shared, &events, deadline, hear);
    let has_crashed = matches!(ending, Ending::Broken(_)) && Instant::now() < deadline;
    Ok(if has_crashed && !shared.join("ready.command").exists() { Booted::Not } else { Booted::Until(ending) })
}

/// Passes on what comes until the command's guest has ended.
fn listen(
    mut guests: Vec<(Role, Guest)>,
    shared: &Path,
    events: &Receiver<Event>,
    deadline: Instant,
    hear: &mut dyn FnMut(Role, Stream, &[u8]),
) -> Ending {
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Heard(role, stream, bytes)) => hear(role, stream, &bytes),
            Ok(Event::Closed(role)) => {
                let Some((_, guest)) = guests.iter_mut().find(|(known, _)| *known == role) else { continue };
                guest.streams_open -= 1;
                if guest.streams_open > 0 {
                    continue;
                }
                match role {
                    Role::Command => return ending(shared),
                    Role::Peer if !shared.join("ready.peer").exists() => {
                        return Ending::Broken("the peer's guest ended before its command began".into());
                    }
                    Role::Peer => report_peer(shared),
                }
            }
            Err(RecvTimeoutError::Timeout) if shared.join("ready.command").exists() => return Ending::TimedOut,
            Err(RecvTimeoutError::Timeout) => {
                return Ending::Broken("the guest was not there in time; its console is above".into());
            }
            Err(RecvTimeoutError::Disconnected) => return ending(shared),
        }
    }
}

/// An emulated machine ends as well when its kernel panics, and QEMU calls both a success.
fn ending(shared: &Path) -> Ending {
    let code = exit_code(shared, Role::Command);
    let broken = || Ending::Broken("the guest ended before its command; its console is above".into());
    code.map_or_else(broken, Ending::Code)
}

/// The peer's end is not the run's, yet nobody should have to guess it.
fn report_peer(shared: &Path) {
    match exit_code(shared, Role::Peer) {
        Some(0) => {}
        Some(code) => eprintln!("peer: its command ended with exit code {code}"),
        None => eprintln!("peer: the guest ended before its command"),
    }
}

fn exit_code(shared: &Path, role: Role) -> Option<u8> {
    fs::read_to_string(shared.join(format!("rc.{}", role.name()))).ok()?.trim().parse().ok()
}

impl Folder {
    fn new() -> Result<Self> {
        let process = std::process::id();
        // A run that was killed has left its folder, and process ids come again.
        for number in 0..FOLDERS_MAX {
            let path = std::env::temp_dir().join(format!("ramet-vm-{process}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Self(path).filled(),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
            }
        }
        bail!("{} is full of ramet-vm-{process}-… folders; remove them", std::env::temp_dir().display())
    }

    fn filled(self) -> Result<Self> {
        fs::create_dir(self.0.join("shared")).with_context(|| format!("cannot fill {}", self.0.display()))?;
        Ok(self)
    }
}

fn start(machine: &Machine<'_>, sender: &Sender<Event>) -> Result<Guest> {
    let Running { process, out, err, console } = machine.start()?;
    let guest = Guest { process, streams_open: 3 };
    read(machine.role, Stream::Out, out, sender.clone());
    read(machine.role, Stream::Err, err, sender.clone());
    read(machine.role, Stream::Console, console, sender.clone());
    Ok(guest)
}

/// The second guest cannot join a link that is not there.
fn await_link(socket: &Path, guest: &mut Guest) -> Result<()> {
    let deadline = Instant::now() + LINK_WAIT;
    while !socket.exists() {
        if let Some(status) = guest.process.try_wait().context("cannot wait for QEMU")? {
            bail!("QEMU ended before it had made the link between the guests ({status})");
        }
        if Instant::now() > deadline {
            bail!("QEMU has not made the link between the guests within {} s", LINK_WAIT.as_secs());
        }
        // tidy: the file system tells nobody that a socket is there.
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn read(role: Role, stream: Stream, mut source: impl Read + Send + 'static, sender: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                // Nobody listens any more when the run is over.
                Ok(count) if sender.send(Event::Heard(role, stream, buffer[..count].to_vec())).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = sender.send(Event::Closed(role));
    });
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_exit_code_it_was_not_the_command() {
        let folder = Folder::new().expect("a folder");
        let shared = folder.0.join("shared");
        assert!(matches!(ending(&shared), Ending::Broken(_)));
        fs::write(shared.join("rc.command"), "3\n").expect("written");
        assert_eq!(ending(&shared), Ending::Code(3));
    }
}
