//! What a new process has to do to become the one that a descriptor describes.
//!
//! Its program has two parts. The first makes a *template*: the address space, and what is the same for every child.
//! It ends in a loop that takes an order for a child and forks. The second part is the child's: its files, its threads,
//! and the way to where the forked process was.

mod children;
mod memory;
mod threads;
mod timers;

use std::os::fd::RawFd;

use libc::{SYS_arch_prctl, SYS_chdir, SYS_close_range, SYS_mmap, SYS_prctl, SYS_rt_sigaction, SYS_umask, SYS_write};
use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;

use super::ResumeError;
use super::ahead::ARRIVED;
use super::confinement::Confinement;
use super::identity::{ADMINISTRATES, Identity, Rights};
use crate::descriptor::{Area, AreaKind, Clocks, ForkDescriptor};
use crate::frame::Frames;
use crate::machine::TILES;
use crate::mapped::{self, Beneath};
use crate::missing::Missing;
use crate::program::Program;
use crate::validate::{ADDRESS_END, ADDRESS_START};
use crate::zygote::{CONTROL_FD, OWN_FDS, PROGRAM_FD, Start};

/// A program and what the host has to do for it.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The programs of all threads, one after the other.
    pub(crate) image: Vec<u8>,
    pub(crate) start: Start,
    /// What is missing, and where it comes from.
    pub(crate) missing: Missing,
    /// What has to be registered for that.
    pub(crate) registered: Vec<Range>,
    programs: Vec<Program>,
}

/// How a child's threads are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// As it comes.
    Any,
    /// As they were, in a PID namespace that the host makes for each child: a lock may say that one of them holds it.
    Same,
    /// As they were, and the child is the first process of its PID namespace, as the forked process was.
    SameFromFirst,
}

const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;

/// `PR_SET_MM` with `PR_SET_MM_MAP`.
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;

/// Descriptors below are free for the process's own.
const FIRST_FD_MIN: RawFd = 512;

/// Where the programs lie. How long they are is the same wherever they are.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    /// How long the main thread's is.
    main_bytes: u64,
    /// How long each of the others' is.
    thread_bytes: u64,
    /// Where the frames are, behind them all.
    frames: u64,
}

struct Planner<'d> {
    descriptor: &'d ForkDescriptor,
    place: Place,
    /// The numbers of the files that a child has open, ascending, and whether they are closed on exec.
    open: Vec<(RawFd, u64)>,
    first_fd: RawFd,
    rights: &'d Rights,
    confinement: Confinement<'d>,
    /// How far a child's clocks are from the machine's own, if otherwise than the host's.
    clocks: Option<Clocks>,
    numbers: Numbers,
    call_and_return: u64,
    /// What its threads go on from.
    frames: Frames,
    /// Changed pages of files that do not lie over their mapping.
    in_place: &'d [Range],
    missing: Missing,
    registered: Vec<Range>,
}

/// The programs of all threads.
struct Draft {
    main: Program,
    others: Vec<Program>,
}

impl Plan {
    /// Plans a template and its children.
    pub(super) fn new(
        descriptor: &ForkDescriptor,
        call_and_return: Option<u64>,
        rights: &Rights,
        clocks: Option<Clocks>,
    ) -> Result<Self, ResumeError> {
        if clocks.is_some() {
            rights.need(ADMINISTRATES, "make a time namespace, in which clocks go on from what they showed")?;
        }
        let on_exec = |flags: u32| u64::from(flags & libc::O_CLOEXEC.cast_unsigned());
        let mut open: Vec<_> = descriptor.files.iter().map(|file| (file.fd, on_exec(file.flags))).collect();
        let pieces = descriptor.shared.len() as RawFd;
        // All files together come below.
        let first_fd = open.last().map_or(0, |(fd, _)| fd + 1).max(FIRST_FD_MIN) + pieces;
        // Those of shared memory come where the mapped files were.
        let pieces = (0..pieces).map(|piece| first_fd + OWN_FDS as RawFd + piece);
        open.extend(pieces.map(|fd| (fd, libc::O_CLOEXEC as u64)));
        let vdso = descriptor.areas.iter().find(|area| area.kind == AreaKind::Vdso).map_or(0, |area| area.start);
        let restorer = descriptor.signal_return;
        let call_and_return = if vdso == 0 || restorer == 0 { 0 } else { call_and_return.map_or(0, |at| vdso + at) };
        let numbers = numbers(descriptor);
        if numbers != Numbers::Any {
            rights.need(ADMINISTRATES, "make a PID namespace, in which threads have the numbers that they had")?;
        }
        let confinement = Confinement::of(descriptor);
        let in_place = mapped::in_place(descriptor);
        let planner = |place: Place| Planner {
            descriptor,
            place,
            open: open.clone(),
            first_fd,
            rights,
            confinement,
            clocks,
            numbers,
            call_and_return,
            frames: Frames::new(&descriptor.threads, restorer, place.frames),
            in_place: &in_place,
            missing: Missing::over(Beneath::new(descriptor)),
            registered: Vec::new(),
        };
        // The first draft is only for its length.
        let mut planner_of_nowhere = planner(Place::nowhere());
        let draft = planner_of_nowhere.draft()?;
        let place = draft.place(&descriptor.areas, planner_of_nowhere.frames.bytes.len() as u64)?;
        let mut planner = planner(place);
        let draft = planner.draft()?;
        let start = Start {
            program: place.start,
            program_bytes: place.main_bytes,
            operations: draft.main.operations_start(),
            failure: draft.main.start() + PAGE_BYTES,
            first_fd,
            fds: (OWN_FDS + descriptor.mapped_files.len()) as u32,
        };
        let Planner { missing, registered, frames, .. } = planner;
        let image = draft.image(place, &frames);
        let programs = std::iter::once(draft.main).chain(draft.others).collect();
        Ok(Self { image, start, missing, registered, programs })
    }

    /// What the operation at an address is for.
    pub(crate) fn meaning(&self, address: u64) -> &'static str {
        let program = self.programs.iter().rev().find(|program| program.operations_start() <= address);
        program.map_or("taking its descriptors", |program| program.meaning(address))
    }
}

impl Place {
    const fn nowhere() -> Self {
        Self { start: ADDRESS_START, main_bytes: PAGE_BYTES, thread_bytes: PAGE_BYTES, frames: ADDRESS_START }
    }
}

impl Draft {
    /// The lowest place where nothing is, and nothing next to it that may grow.
    fn place(&self, areas: &[Area], frames_bytes: u64) -> Result<Place, ResumeError> {
        const APART: u64 = 16 * PAGE_BYTES;
        let main_bytes = self.main.bytes();
        let thread_bytes = self.others.iter().map(Program::bytes).max().unwrap_or(0);
        let programs_bytes = main_bytes + self.others.len() as u64 * thread_bytes;
        let bytes = programs_bytes + frames_bytes;
        let at = |start| Place { start, main_bytes, thread_bytes, frames: start + programs_bytes };
        let mut start = ADDRESS_START;
        for area in areas {
            if area.start.saturating_sub(start) >= bytes + APART {
                return Ok(at(start));
            }
            start = area.start + area.bytes + APART;
        }
        if ADDRESS_END.saturating_sub(start) >= bytes {
            Ok(at(start))
        } else {
            Err(ResumeError::Unfit("its memory is full"))
        }
    }

    fn image(&self, place: Place, frames: &Frames) -> Vec<u8> {
        let mut image = self.main.image();
        for (program, end) in self.others.iter().zip(1..) {
            image.extend(program.image());
            image.resize((place.main_bytes + end * place.thread_bytes) as usize, 0);
        }
        image.extend_from_slice(&frames.bytes);
        image
    }
}

impl Planner<'_> {
    fn draft(&mut self) -> Result<Draft, ResumeError> {
        let mut main = Program::new(self.place.start);
        // Where it notes what failed comes first.
        main.data(&[0; 16]);
        self.become_template(&mut main);
        self.fork_children(&mut main);
        self.enter_namespaces(&mut main);
        let arrived = main.data(&[ARRIVED]);
        main.call("saying that it waits", SYS_write, &[self.number(CONTROL_FD), arrived, 1]);
        let identity = Identity::take(&mut main, self.number(CONTROL_FD), self.rights, &self.descriptor.credentials);
        self.take_files(&mut main);
        self.map_shared(&mut main);
        self.leave_out(&mut main);
        let others = self.become_child(&mut main, identity)?;
        Ok(Draft { main, others })
    }

    /// Makes the address space and what else is the same for all children.
    fn become_template(&mut self, main: &mut Program) {
        let control = self.number(CONTROL_FD);
        self.say_userfault(main, control);
        self.clear(main);
        self.map_frames(main);
        self.set_clocks(main);
        // Before any file is mapped: who executes what it has mapped cannot be made to execute something else.
        self.set_layout(main);
        self.map(main);
        self.describe(main);
        for action in &self.descriptor.signals {
            let words = [action.handler, action.flags, action.restorer, action.mask];
            let at = main.data(&words.map(u64::to_ne_bytes).concat());
            main.call("setting a signal's action", SYS_rt_sigaction, &[u64::from(action.signal), at, 0, 8]);
        }
        let mapped = self.number(OWN_FDS);
        main.call("closing the mapped files", SYS_close_range, &[mapped, u64::from(u32::MAX), 0]);
        self.end_with_host(main);
        let byte = main.data(&[1]);
        main.call("telling its host", SYS_write, &[control, byte, 1]);
    }

    /// They are only read, so all children have the same. They stay: who goes on from one cannot give it up.
    fn map_frames(&self, main: &mut Program) {
        let (file, offset) = (self.number(PROGRAM_FD), self.place.frames - self.place.start);
        let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE) as u64;
        let arguments =
            [self.place.frames, self.frames.bytes.len() as u64, libc::PROT_READ as u64, flags, file, offset];
        main.call("mapping its threads' registers", SYS_mmap, &arguments).gives(self.place.frames);
    }

    fn end_with_host(&self, main: &mut Program) {
        main.call("ending with its host", SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64]);
    }

    /// The number of the descriptor that comes at a place in the order.
    const fn number(&self, index: usize) -> u64 {
        self.first_fd as u64 + index as u64
    }

    /// Where the kernel takes the parts of its memory to be, and what it executes.
    fn set_layout(&self, main: &mut Program) {
        let l = &self.descriptor.layout;
        let vector = main.data(&l.auxiliary.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        let map = [
            l.start_code,
            l.end_code,
            l.start_data,
            l.end_data,
            l.start_brk,
            l.brk,
            l.start_stack,
            l.arg_start,
            l.arg_end,
            l.env_start,
            l.env_end,
            vector,
        ];
        let arguments = |main: &mut Program, executable: u64| {
            let sizes = (l.auxiliary.len() as u64 * 8) | executable << 32;
            let map = map.into_iter().chain([sizes]).flat_map(u64::to_ne_bytes).collect::<Vec<_>>();
            let (at, bytes) = (main.data(&map), map.len() as u64);
            [PR_SET_MM, PR_SET_MM_MAP, at, bytes, 0]
        };
        let meaning = "setting the layout of its memory";
        let plainly = arguments(main, u32::MAX.into());
        main.call(meaning, SYS_prctl, &plainly);
        if let Some(file) = self.descriptor.executable {
            // It takes a right that all else here does not (CAP_CHECKPOINT_RESTORE).
            let executing = arguments(main, self.number(OWN_FDS + file as usize));
            main.call(meaning, SYS_prctl, &executing).or_not();
        }
    }

    /// What the kernel shows of a process.
    fn describe(&self, main: &mut Program) {
        if self.descriptor.traits.without_huge_pages {
            main.call("giving up huge pages", SYS_prctl, &[libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0]);
        }
        if self.descriptor.traits.may_use_tiles {
            main.call("asking for AMX", SYS_arch_prctl, &[ARCH_REQ_XCOMP_PERM, TILES.into()]);
        }
        let name = main.data(&with_end(&self.descriptor.name));
        main.call("setting its name", SYS_prctl, &[libc::PR_SET_NAME as u64, name]);
        main.call("setting its umask", SYS_umask, &[u64::from(self.descriptor.umask)]);
        let directory = main.data(&with_end(&self.descriptor.directory));
        main.call("entering its working directory", SYS_chdir, &[directory]);
    }
}

fn with_end(text: &[u8]) -> Vec<u8> {
    text.iter().copied().chain([0]).collect()
}

/// How the threads of a process's children have to be numbered.
pub(super) fn numbers(descriptor: &ForkDescriptor) -> Numbers {
    let ForkDescriptor { threads, namespaces, .. } = descriptor;
    // A C library that we do not know cannot be told another number.
    let is_known = threads[0].tid_is_there;
    match threads[0].tid {
        1 => Numbers::SameFromFirst,
        _ if threads.len() > 1 || namespaces.processes || !is_known => Numbers::Same,
        _ => Numbers::Any,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// A peer may send anything that has the right checksum.
    #[test]
    fn whatever_can_be_decoded_can_be_planned_or_is_refused() {
        const ATTEMPTS: u64 = 20_000;
        let mut process = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("a process");
        let prepared = crate::prepare(process.id().cast_signed());
        process.kill().and_then(|()| process.wait()).expect("ended");
        let bytes = prepared.expect("prepared").descriptor.encode();
        let rights = Rights::own().expect("rights");
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut planned = 0;
        for _ in 0..ATTEMPTS {
            let mut bytes = bytes.clone();
            for _ in 0..=next() % 3 {
                let at = 8 + next() as usize % (bytes.len() - 8);
                bytes[at] = next() as u8;
            }
            let checksum = crc32fast::hash(&bytes[8..]);
            bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(descriptor) = ForkDescriptor::decode(&bytes) {
                planned += u64::from(Plan::new(&descriptor, Some(0), &rights, None).is_ok());
            }
        }
        assert!(planned > ATTEMPTS / 100, "most changes are to what only the process knows; {planned} were planned");
    }
}
