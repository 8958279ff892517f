//! What runs in the child between fork and exec: the sandbox, part by part, and a word to the parent about each.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid, unshare_unsafe,
};
use seccompiler::BpfProgram;

use crate::loopback;
use crate::report::{Outcome, Part};
use crate::sandbox::{Limits, Network, User};

/// The bytes of one [`record`].
pub(crate) const RECORD_BYTES: usize = 8;
/// The part number of the record that follows a failed or probed exec.
pub(crate) const EXEC: u8 = 0;

const APPLIED: u8 = 0;
const REFUSED: u8 = 1;
const FATAL: u8 = 2;

/// What the child says of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// What became of a part.
    Part(Part, Outcome),
    /// The child gave up at this part, or at exec.
    GaveUp(Option<Part>, Errno),
}

impl Record {
    /// The record that these bytes are, if they are one.
    pub(crate) fn parse(bytes: [u8; RECORD_BYTES]) -> Option<Self> {
        let [part, outcome, _, _, errno @ ..] = bytes;
        let errno = Errno::from_raw_os_error(i32::from_ne_bytes(errno));
        match (part, outcome) {
            (EXEC, _) => Some(Self::GaveUp(None, errno)),
            (_, APPLIED) => Some(Self::Part(Part::from_u8(part)?, Outcome::Applied)),
            (_, REFUSED) => Some(Self::Part(Part::from_u8(part)?, Outcome::Refused(errno))),
            (_, _) => Some(Self::GaveUp(Some(Part::from_u8(part)?), errno)),
        }
    }
}

/// Everything that the child needs, made before the fork (C1).
#[derive(Debug)]
pub(crate) struct Entry {
    /// The supervisor's process, which is readable once that has died.
    pub(crate) supervisor: OwnedFd,
    /// Whether the child is the first process of a namespace of its own.
    pub(crate) process_namespace: Outcome,
    pub(crate) user: Option<User>,
    pub(crate) network: Network,
    pub(crate) limits: Limits,
    /// Where sockets of the child's own network go, if it gets one.
    pub(crate) sockets_way: Option<OwnedFd>,
    /// The lines for `uid_map` and `gid_map`, where the child makes a user namespace.
    pub(crate) user_map: Option<UserMap>,
    pub(crate) filters: [BpfProgram; 2],
    /// Where the records go.
    pub(crate) report: OwnedFd,
    /// What is executed; `None` for a probe, which ends here.
    pub(crate) image: Option<Image>,
}

/// Maps the supervisor's user to itself in a new user namespace.
#[derive(Debug)]
pub(crate) struct UserMap {
    pub(crate) uid: String,
    pub(crate) gid: String,
}

impl Entry {
    /// Enters the sandbox and executes the program. Returns only when that failed.
    pub(crate) fn run(&self) -> io::Result<()> {
        let Err(errno) = self.enter().and_then(|()| self.execute());
        Err(errno.into())
    }

    fn enter(&self) -> Result<(), Errno> {
        self.must(Part::Session, setsid().map(drop))?;
        // A user of the child's own has a group of its own.
        umask(if self.user.is_some() { Mode::RWXO } else { Mode::RWXG | Mode::RWXO });
        self.must(Part::Descriptors, close_on_exec_from(3))?;
        let in_user_namespace = self.enter_user_namespace();
        self.enter_namespaces();
        self.enter_own_network()?;
        self.must(Part::Limits, self.limit())?;
        if self.user.is_some() || in_user_namespace {
            let processes = self.limits.processes;
            self.must(Part::ProcessLimit, processes.map_or(Ok(()), |most| limit_to(Resource::Nproc, most)))?;
        } else if self.limits.processes.is_some() {
            self.say(Part::ProcessLimit as u8, REFUSED, Errno::PERM);
        }
        drop_bounding_set();
        if let Some(user) = self.user {
            self.must(Part::User, become_user(user))?;
        }
        self.must(Part::Capabilities, drop_capabilities())?;
        self.must(Part::DeathSignal, self.die_with_supervisor())?;
        self.must(Part::NoNewPrivileges, set_no_new_privs(true))?;
        self.must(Part::Seccomp, self.filters.iter().try_for_each(install))
    }

    fn execute(&self) -> Result<Infallible, Errno> {
        // A probe stops here: it wanted to know how far it would come.
        let errno = self.image.as_ref().map_or(Errno::CANCELED, Image::execute);
        self.say(EXEC, FATAL, errno);
        Err(errno)
    }

    fn enter_user_namespace(&self) -> bool {
        let Some(map) = &self.user_map else { return false };
        let entered = unshare(UnshareFlags::NEWUSER)
            .and_then(|()| write(c"/proc/self/setgroups", "deny"))
            .and_then(|()| write(c"/proc/self/uid_map", &map.uid))
            .and_then(|()| write(c"/proc/self/gid_map", &map.gid));
        self.may(Part::UserNamespace, entered);
        entered.is_ok()
    }

    fn enter_namespaces(&self) {
        // Without this the new namespace would still receive what the host mounts later.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        let mounts = unshare(UnshareFlags::NEWNS).and_then(|()| mount_change(c"/", private));
        self.may(Part::MountNamespace, mounts);
        match self.process_namespace {
            // Without a mount namespace the host would see the new processes instead of its own.
            Outcome::Applied => self.may(Part::ProcessNamespace, mounts.and_then(|()| show_own_processes())),
            Outcome::Refused(errno) => self.may(Part::ProcessNamespace, Err(errno)),
            Outcome::NotWanted => {}
        }
        self.may(Part::IpcNamespace, unshare(UnshareFlags::NEWIPC));
        if self.network == Network::None {
            self.may(Part::NetworkNamespace, unshare(UnshareFlags::NEWNET));
        }
    }

    /// A network that others can be connected to. Somebody else's would be no substitute.
    fn enter_own_network(&self) -> Result<(), Errno> {
        let (Network::Own { sockets }, Some(way)) = (self.network, &self.sockets_way) else { return Ok(()) };
        let entered = unshare(UnshareFlags::NEWNET)
            .and_then(|()| loopback::switch_on())
            .and_then(|()| loopback::hand_out(sockets, way));
        self.must(Part::NetworkNamespace, entered)
    }

    fn limit(&self) -> Result<(), Errno> {
        limit_to(Resource::Core, 0)?;
        let limits = [(Resource::Data, self.limits.memory_bytes), (Resource::Nofile, self.limits.open_files)];
        limits.into_iter().try_for_each(|(resource, most)| most.map_or(Ok(()), |most| limit_to(resource, most)))
    }

    /// The kernel forgets the signal when the user changes, so this comes after. It says nothing of a supervisor that
    /// died before.
    fn die_with_supervisor(&self) -> Result<(), Errno> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut supervisor = [PollFd::new(&self.supervisor, PollFlags::IN)];
        match poll(&mut supervisor, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
            0 => Ok(()),
            _ => Err(Errno::SRCH),
        }
    }

    fn must(&self, part: Part, result: Result<(), Errno>) -> Result<(), Errno> {
        match result {
            Ok(()) => self.say(part as u8, APPLIED, Errno::INVAL),
            Err(errno) => self.say(part as u8, FATAL, errno),
        }
        result
    }

    fn may(&self, part: Part, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.say(part as u8, APPLIED, Errno::INVAL),
            Err(errno) => self.say(part as u8, REFUSED, errno),
        }
    }

    fn say(&self, part: u8, outcome: u8, errno: Errno) {
        let [a, b, c, d] = errno.raw_os_error().to_ne_bytes();
        // The pipe holds more than every record together; a parent that is gone needs none.
        let _ = rustix::io::write(&self.report, &[part, outcome, 0, 0, a, b, c, d]);
    }
}

/// A program with its arguments and environment, ready for execve(2).
#[derive(Debug)]
pub(crate) struct Image {
    path: CString,
    file: OwnedFd,
    arguments: Pointers,
    environment: Pointers,
}

impl Image {
    /// `file` is the program at `path`, opened by somebody who may enter its folder.
    pub(crate) fn new(path: CString, file: OwnedFd, arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        Self { path, file, arguments: Pointers::new(arguments), environment: Pointers::new(environment) }
    }

    /// Executes the program by its path, so that tools show its name, or else by its descriptor.
    fn execute(&self) -> Errno {
        let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: C2.
        unsafe { libc::execve(self.path.as_ptr(), arguments, environment) };
        let errno = last_errno();
        if errno != Errno::ACCESS {
            return errno;
        }
        let (arguments, environment) = (arguments.cast::<*mut c_char>(), environment.cast::<*mut c_char>());
        let file = self.file.as_raw_fd();
        // SAFETY: C2; the kernel only reads the strings, whatever the prototype says.
        let by_descriptor =
            || unsafe { libc::execveat(file, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH) };
        by_descriptor();
        if last_errno() == Errno::NOENT {
            // A script: its interpreter opens it by its descriptor, because the sandbox's user cannot reach the file in
            // any other way. So it has to stay open.
            let _ = fcntl_setfd(&self.file, FdFlags::empty());
            by_descriptor();
        }
        last_errno()
    }
}

/// Strings with the null-terminated array of pointers to them that execve(2) wants.
#[derive(Debug)]
struct Pointers {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

// SAFETY: C2: the pointers lead to heap memory that moves along and is only ever read.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _strings: strings }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: C3.
    match unsafe { libc::close_range(first, u32::MAX, flags) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Makes `/proc` that of the child's own process namespace.
fn show_own_processes() -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"/proc", c"proc", flags, None)
}

fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: C4.
    unsafe { unshare_unsafe(flags) }
}

fn write(path: &CStr, text: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

/// Without privilege nobody gets more than the supervisor may have itself, so that is the limit then.
fn limit_to(resource: Resource, most: u64) -> Result<(), Errno> {
    match setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }) {
        Err(Errno::PERM) => {
            let own = getrlimit(resource).maximum;
            setrlimit(resource, Rlimit { current: own, maximum: own })
        }
        done => done,
    }
}

/// Takes every capability out of the set that executing a file can grant. Without the privilege to do so there is
/// nothing to take out that `no_new_privs` would not keep away.
fn drop_bounding_set() {
    for capability in CapabilitySet::all().iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
}

fn drop_capabilities() -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

fn become_user(user: User) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

fn install(filter: &BpfProgram) -> Result<(), Errno> {
    seccompiler::apply_filter(filter).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
            Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
        }
        _ => Errno::INVAL,
    })
}
