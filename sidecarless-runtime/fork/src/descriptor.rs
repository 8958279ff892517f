//! What a process is but for the bytes of its memory: all that another host needs to make one like it.

mod marks;
mod thread;
mod times;

use std::net::SocketAddr;

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

pub use self::marks::Marks;
pub use self::thread::{GeneralRegisters, Rseq, Scheduling, SignalStack, Thread};
pub use self::times::{Clocks, Expiry, MadeTimer, Spent, Time, TimerClock, Timers};

/// The first bytes of every encoded descriptor.
const MAGIC: [u8; 4] = *b"RFD1";
/// Magic and checksum.
const HEADER_BYTES: usize = 8;
/// A descriptor that is longer is not read: the largest seen, of a process with 2000 areas, had 300 KiB.
pub const DESCRIPTOR_BYTES_MAX: usize = 16 << 20;

/// A process at the moment when it was forked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForkDescriptor {
    /// The machine that it ran on.
    pub machine: Machine,
    /// Where the parts of its memory begin and end.
    pub layout: Layout,
    /// Its name (`comm`).
    pub name: Vec<u8>,
    /// Its working directory.
    pub directory: Vec<u8>,
    /// Its file mode creation mask.
    pub umask: u32,
    /// Who it is.
    pub credentials: Credentials,
    /// The seccomp filters of all its threads, in the order in which they were installed.
    pub filters: Vec<Filter>,
    /// What it may use: for each `RLIMIT_…`, in their order, the limit and how far it may be raised.
    pub limits: Vec<[u64; 2]>,
    /// What it sees of its host.
    pub namespaces: Namespaces,
    /// What prctl(2) has changed.
    pub traits: Traits,
    /// What others have written about it.
    pub marks: Marks,
    /// Its mappings, ascending.
    pub areas: Vec<Area>,
    /// Pages that the process had not touched, ascending: they are in seeds of those that it was forked from.
    pub inherited: Vec<Inherited>,
    /// Those seeds, the nearest first.
    pub ancestors: Vec<Ancestor>,
    /// The files that areas map.
    pub mapped_files: Vec<MappedFile>,
    /// Which of them the process executes: index into `mapped_files`.
    pub executable: Option<u32>,
    /// What signals do that do not do what they do by default.
    pub signals: Vec<SignalAction>,
    /// Where in its memory there is the end of a signal's handling: `rt_sigreturn` and nothing else. 0: nowhere.
    pub signal_return: u64,
    /// Its threads; the first is the one whose number is the process's.
    pub threads: Vec<Thread>,
    /// Signals that wait for any of them: `siginfo_t` each.
    pub queued_signals: Vec<Vec<u8>>,
    /// What its clocks showed when it was forked.
    pub clocks: Clocks,
    /// How far those were from the machine's own.
    pub clock_offsets: Clocks,
    /// What sends it signals at certain times.
    pub timers: Timers,
    /// Its open files.
    pub files: Vec<OpenFile>,
    /// Memory that it shares, or that is a file of its own: what areas and open files name.
    pub shared: Vec<SharedMemory>,
    /// Addresses and lengths of what its own forks do not have (`MADV_DONTFORK`). A child has it, as it goes on as the
    /// process.
    pub left_out: Vec<(u64, u64)>,
    /// Addresses and lengths of pages that nobody may touch (`MADV_GUARD_INSTALL`).
    pub guards: Vec<(u64, u64)>,
    /// Whether it waits to be told who it is, as a function's instance does that its node has frozen: a child that is
    /// told nothing is of no use.
    pub awaits_identity: bool,
}

/// A seccomp filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Its instructions, `struct sock_filter` each.
    pub instructions: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_…`
    pub flags: u64,
}

/// Which namespaces a process had that were not those of the host that prepared it. A child has new ones instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each of them is there or not")]
pub struct Namespaces {
    /// Its network; a child's has no interface that is up.
    pub network: bool,
    /// System V IPC and POSIX message queues; a child's is empty.
    pub ipc: bool,
    /// The host's name.
    pub name: bool,
    /// The root of the control groups that it sees.
    pub control_groups: bool,
    /// Mounts, which were those of the host. So are the child's, but for `/proc` where there are own processes, too.
    pub mounts: bool,
    /// Processes. A child has the numbers that its threads had.
    pub processes: bool,
}

/// What prctl(2) and personality(2) have changed of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    /// Whether others of its user may look into it (`PR_SET_DUMPABLE`).
    pub is_dumpable: bool,
    /// Whether it has no huge pages (`PR_SET_THP_DISABLE`).
    pub without_huge_pages: bool,
    /// How much later than asked its timers may ring, in nanoseconds.
    pub timer_slack_ns: u64,
    /// `PER_…` and its flags.
    pub personality: u32,
    /// Whether it may use AMX's tiles (`ARCH_REQ_XCOMP_PERM` of arch_prctl(2)).
    pub may_use_tiles: bool,
}

/// Where the kernel takes the parts of a process to be (`struct prctl_mm_map`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields have the names that proc_pid_stat(5) gives them")]
pub struct Layout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// The auxiliary vector, as pairs.
    pub auxiliary: Vec<u64>,
}

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real, effective, saved and filesystem user.
    pub users: [u32; 4],
    /// The same of groups.
    pub groups: [u32; 4],
    /// Supplementary groups.
    pub supplementary: Vec<u32>,
    /// What it may do of what only root may (capabilities(7)).
    pub capabilities: Capabilities,
    /// How root is treated (`SECBIT_…`).
    pub secure_bits: u32,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
}

/// The sets of capabilities; bit 0 is capability 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What counts now.
    pub effective: u64,
    /// What may count.
    pub permitted: u64,
    /// What may be had from an executed file that allows it.
    pub inheritable: u64,
    /// What an executed file may give.
    pub bounding: u64,
    /// What is kept when a file is executed.
    pub ambient: u64,
}

/// What may be done with an area's bytes: the bits of mmap(2)'s `prot`.
pub type Protection = u32;

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// Its first address.
    pub start: u64,
    /// Its length, whole pages.
    pub bytes: u64,
    /// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
    pub protection: Protection,
    /// What is mapped.
    pub kind: AreaKind,
    /// The pages that the process has to itself and that are not zeros, ascending.
    pub own: Vec<PageRun>,
}

/// What an area maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AreaKind {
    /// Memory of the process alone.
    Private,
    /// The same, and it grows downwards when it is touched below (`MAP_GROWSDOWN`).
    Stack,
    /// The same, and each fork begins with zeros there (`MADV_WIPEONFORK`).
    Wiped,
    /// A file. Own pages are those that were changed in a private mapping.
    File {
        /// Index into `mapped_files`.
        file: u32,
        /// Where in the file the area begins.
        offset: u64,
        /// Whether changes go to the file.
        shared: bool,
    },
    /// Memory that the kernel shares with the children of a fork. A child has its own, as it was when the process was
    /// forked.
    SharedMemory {
        /// Index into `shared`.
        piece: u32,
        /// Where in it the area begins.
        offset: u64,
    },
    /// What only the seed has: the content of shared memory, which the process has changed since.
    Frozen,
    /// The kernel's code for all processes.
    Vdso,
    /// Its data.
    Vvar,
}

/// A piece of memory that is shared (memfd_create(2), `MAP_SHARED`, shm_open(3), shmget(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMemory {
    /// The name that it was made with.
    pub name: Vec<u8>,
    /// Its length.
    pub bytes: u64,
    /// `F_SEAL_…`
    pub seals: u32,
    /// The pages of it that are not zeros, ascending.
    pub content: Vec<PageRun>,
    /// Where they are in the seed, one after the other.
    pub frozen_at: u64,
}

/// Neighbouring pages of an area, or of a piece of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun {
    /// How many pages after its start.
    pub first: u32,
    /// How many pages.
    pub pages: u32,
}

/// Neighbouring pages that an ancestor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// Where the process has them.
    pub start: u64,
    /// How many.
    pub pages: u32,
    /// Which ancestor has them: index into `ancestors`.
    pub ancestor: u8,
    /// Where it has them.
    pub from: u64,
}

/// A seed of a process that another was forked from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Where its host's page server is.
    pub address: SocketAddr,
    /// Its name.
    pub handle: [u8; 16],
    /// Its key, for who has the key of the seed that this describes.
    pub sealed_key: [u8; 16],
}

/// A file that is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedFile {
    /// Where it was found.
    pub path: Vec<u8>,
    /// What tells it from another.
    pub identity: FileIdentity,
}

/// What tells a file from another one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub modified_ns: i64,
}

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAction {
    /// Which signal.
    pub signal: u8,
    /// `SIG_IGN` or where its handler is.
    pub handler: u64,
    /// `SA_…`
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// What is blocked meanwhile.
    pub mask: u64,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// Its descriptor.
    pub fd: i32,
    /// `O_…`, with `O_CLOEXEC`.
    pub flags: u32,
    /// What it is.
    pub kind: OpenFileKind,
}

/// What is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenFileKind {
    /// A file of a filesystem, or a device, which is opened again by its name.
    Path {
        /// Its name.
        path: Vec<u8>,
        /// Which it was; none for devices, where the name is all.
        identity: Option<FileIdentity>,
        /// Where the next read begins.
        position: u64,
    },
    /// One end of a pipe. Ends with the same number belong together.
    Pipe {
        /// Which pipe.
        id: u64,
        /// What nobody has read yet, of a pipe that the process has both ends of; at the end that reads.
        unread: Vec<u8>,
    },
    /// An event counter.
    Event {
        /// What it counts.
        count: u64,
        /// `EFD_SEMAPHORE`.
        semaphore: bool,
    },
    /// An epoll(7).
    Epoll {
        /// What it watches.
        watched: Vec<Watched>,
    },
    /// A timer (timerfd_create(2)).
    Timer(Timer),
    /// What signals are read from (signalfd(2)).
    Signals {
        /// Which signals; bit 0 is signal 1.
        mask: u64,
    },
    /// Memory that is a file (memfd_create(2)).
    Memory {
        /// Index into `shared`.
        piece: u32,
        /// Where the next read begins.
        position: u64,
    },
    /// The open file that a lower descriptor has, too: they share its position.
    Same {
        /// The lower one.
        fd: i32,
    },
    /// A terminal: what the child is given takes its place.
    Terminal,
    /// A socket. As a standard stream it is replaced by what the child is given; elsewhere one whose other end has
    /// closed takes its number, so that this never comes to mean another file.
    Socket,
    /// What cannot be carried; the name says what it is.
    Other {
        /// `/proc/PID/fd/N` as a link.
        name: Vec<u8>,
    },
}

/// A timer that is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// `CLOCK_…`
    pub clock: u32,
    /// How often it has expired without that having been read.
    pub ticks: u64,
    /// When.
    pub expiry: Expiry,
}

/// A file that an epoll watches (`struct epoll_event`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// A descriptor of it, not always the one that it was added by.
    pub fd: i32,
    /// `EPOLL…`
    pub events: u32,
    /// What the process is told with an event.
    pub data: u64,
}

/// Why bytes are no descriptor.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is another format, or another version of this one.
    #[error("this is not a fork descriptor of version 1; both hosts must run the same release")]
    Format,
    /// Bytes are missing or changed.
    #[error("the fork descriptor is damaged: its checksum does not fit its {bytes} bytes; fetch it again")]
    Damaged {
        /// How many bytes there are.
        bytes: usize,
    },
    /// It has the right checksum and no sense.
    #[error("the fork descriptor makes no sense: {0}")]
    Senseless(&'static str),
}

impl ForkDescriptor {
    /// The descriptor as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        // Writing into a vector does not fail, and all fields have a representation.
        bytes = postcard::to_extend(self, bytes).unwrap_or_default();
        let checksum = crc32fast::hash(&bytes[HEADER_BYTES..]);
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a descriptor that may have been damaged, or made up by a peer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return Err(DecodeError::Format) };
        if header[..4] != MAGIC {
            return Err(DecodeError::Format);
        }
        let damaged = DecodeError::Damaged { bytes: bytes.len() };
        if bytes.len() > DESCRIPTOR_BYTES_MAX || header[4..] != crc32fast::hash(body).to_le_bytes() {
            return Err(damaged);
        }
        let (descriptor, rest): (Self, _) = postcard::take_from_bytes(body).map_err(|_| damaged)?;
        if !rest.is_empty() {
            return Err(DecodeError::Senseless("bytes follow it"));
        }
        crate::validate::validate(&descriptor)?;
        Ok(descriptor)
    }
}

impl ForkDescriptor {
    /// What its epolls watch, each with the epoll's own descriptor.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (i32, &Watched)> {
        self.files.iter().flat_map(|file| match &file.kind {
            OpenFileKind::Epoll { watched } => watched.iter().map(|watched| (file.fd, watched)).collect(),
            _ => Vec::new(),
        })
    }
}

impl SharedMemory {
    /// How much of it is in the seed.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.content.iter().map(|run| u64::from(run.pages)).sum::<u64>() * PAGE_BYTES
    }
}

impl ForkDescriptor {
    /// The pages of a range that ancestors have: whole runs, which are in one area each.
    pub fn inherited_in(&self, range: Range) -> impl Iterator<Item = &Inherited> {
        let first = self.inherited.partition_point(|run| run.start < range.start);
        self.inherited[first..].iter().take_while(move |run| run.start < range.end())
    }
}

impl Inherited {
    /// Where the process has the pages.
    #[must_use]
    pub const fn range(&self) -> Range {
        Range { start: self.start, bytes: self.pages as u64 * PAGE_BYTES }
    }
}

impl Area {
    /// Whether it counts as data of the process (`RLIMIT_DATA`, getrlimit(2)): it is its own and can be written.
    #[must_use]
    pub const fn is_data(&self) -> bool {
        let is_own = matches!(self.kind, AreaKind::Private | AreaKind::Wiped | AreaKind::File { shared: false, .. });
        is_own && self.protection & libc::PROT_WRITE.cast_unsigned() != 0
    }

    /// Its addresses.
    #[must_use]
    pub const fn range(&self) -> Range {
        Range { start: self.start, bytes: self.bytes }
    }

    /// The addresses of its own pages.
    pub fn own_ranges(&self) -> impl Iterator<Item = Range> {
        self.own.iter().map(|run| Range {
            start: self.start + u64::from(run.first) * PAGE_BYTES,
            bytes: u64::from(run.pages) * PAGE_BYTES,
        })
    }
}
