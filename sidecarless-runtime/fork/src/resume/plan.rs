//! What a new process has to do to become the one that a descriptor describes.
//!
//! Its program has two parts. The first makes a *template*: the address space, and what is the same for every child.
//! It ends in a loop that takes an order for a child and forks. The second part is the child's: its files, its threads,
//! and the way to where the forked process was.

use std::os::fd::RawFd;

use libc::{
    SYS_arch_prctl, SYS_chdir, SYS_clone3, SYS_close, SYS_close_range, SYS_dup3, SYS_exit_group, SYS_fcntl, SYS_futex,
    SYS_madvise, SYS_mmap, SYS_msync, SYS_munmap, SYS_prctl, SYS_recvmsg, SYS_rseq, SYS_rt_sigaction, SYS_sendmsg,
    SYS_set_robust_list, SYS_set_tid_address, SYS_setns, SYS_umask, SYS_userfaultfd, SYS_write,
};
use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;

use super::ResumeError;
use super::identity::{Identity, Rights};
use crate::descriptor::{Area, AreaKind, ForkDescriptor, Layout, Thread};
use crate::frame::frame;
use crate::mapped::{self, Beneath};
use crate::missing::{Missing, Origin};
use crate::program::{Finish, Operation, Program};
use crate::validate::{ADDRESS_END, ADDRESS_START};
use crate::zygote::{CONTROL_FD, DESCRIPTORS_PER_MESSAGE, OWN_FDS, PROGRAM_FD, Start};

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
    /// Whether children need a PID namespace each, because their threads have the numbers that they had: a lock may
    /// say that one of them holds it.
    pub(crate) is_numbered: bool,
    programs: Vec<Program>,
}

/// `ARCH_SET_GS`, `ARCH_SET_FS`, `ARCH_MAP_VDSO_64` of arch_prctl(2).
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_MAP_VDSO_64: u64 = 0x2003;
/// `PR_SET_MM` with `PR_SET_MM_MAP`.
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
/// `FUTEX_WAIT` and `FUTEX_WAKE` of one process.
const FUTEX_WAIT_PRIVATE: u64 = 128;
const FUTEX_WAKE_PRIVATE: u64 = 129;

/// Descriptors below are free for the process's own.
const FIRST_FD_MIN: RawFd = 512;
/// What a template has received of an order: it has nothing else open below.
const CHILDS_CONTROL_FD: u64 = 0;
const NAMESPACE_FD: u64 = 1;

/// More than the operations and data of one thread need, areas and files apart.
const THREAD_BYTES: u64 = 8 * PAGE_BYTES;
/// The most that an area needs, overlays of own pages apart.
const AREA_OPERATIONS: usize = 2;
const FIXED_OPERATIONS: usize = 160;

struct Planner<'d> {
    descriptor: &'d ForkDescriptor,
    /// The numbers of the files that a child has open, ascending, and whether they are closed on exec.
    open: Vec<(RawFd, u64)>,
    first_fd: RawFd,
    rights: &'d Rights,
    call_and_return: u64,
    restorer: u64,
    /// Changed pages of files that do not lie over their mapping.
    in_place: Vec<Range>,
    missing: Missing,
    registered: Vec<Range>,
}

impl Plan {
    /// Plans a template and its children.
    pub(super) fn new(
        descriptor: &ForkDescriptor,
        call_and_return: Option<u64>,
        rights: &Rights,
    ) -> Result<Self, ResumeError> {
        let on_exec = |flags: u32| u64::from(flags & libc::O_CLOEXEC.cast_unsigned());
        let open: Vec<_> = descriptor.files.iter().map(|file| (file.fd, on_exec(file.flags))).collect();
        let first_fd = open.last().map_or(0, |(fd, _)| fd + 1).max(FIRST_FD_MIN);
        let vdso = descriptor.areas.iter().find(|area| area.kind == AreaKind::Vdso).map_or(0, |area| area.start);
        let restorer = descriptor.signal_return;
        let call_and_return = if vdso == 0 || restorer == 0 { 0 } else { call_and_return.map_or(0, |at| vdso + at) };
        let planner = Planner {
            descriptor,
            open,
            first_fd,
            rights,
            call_and_return,
            restorer,
            in_place: mapped::in_place(descriptor),
            missing: Missing::over(Beneath::new(descriptor)),
            registered: Vec::new(),
        };
        planner.plan()
    }

    /// What the operation at an address is for.
    pub(crate) fn meaning(&self, address: u64) -> &'static str {
        let program = self.programs.iter().rev().find(|program| program.operations_start() <= address);
        program.map_or("taking its descriptors", |program| program.meaning(address))
    }
}

impl Planner<'_> {
    fn plan(mut self) -> Result<Plan, ResumeError> {
        let descriptor = self.descriptor;
        let main_bytes = self.main_bytes();
        let others = descriptor.threads.len() - 1;
        let place = hole(&descriptor.areas, main_bytes + others as u64 * THREAD_BYTES)?;
        let mut main = Program::new(place.start);
        let failure = main.data(&[0; 16]);

        self.become_template(&mut main, place)?;
        self.fork_children(&mut main);
        let identity = Identity::take(&mut main, self.number(CONTROL_FD));
        self.take_files(&mut main);
        let programs = self.become_child(&mut main, place, main_bytes, identity)?;

        let mut image = main.image();
        if image.len() as u64 > main_bytes {
            return Err(ResumeError::Unfit("its program is longer than was reckoned"));
        }
        image.resize(main_bytes as usize, 0);
        for program in &programs {
            let mut part = program.image();
            if part.len() as u64 > THREAD_BYTES {
                return Err(ResumeError::Unfit("a thread's program is longer than was reckoned"));
            }
            part.resize(THREAD_BYTES as usize, 0);
            image.extend(part);
        }
        let start = Start {
            program: place.start,
            program_bytes: main_bytes,
            operations: main.operations_start(),
            failure,
            first_fd: self.first_fd,
            fds: (OWN_FDS + descriptor.mapped_files.len()) as u32,
        };
        let is_numbered = self.is_numbered();
        let programs = std::iter::once(main).chain(programs).collect();
        Ok(Plan { image, start, missing: self.missing, registered: self.registered, is_numbered, programs })
    }

    /// Makes the address space and what else is the same for all children.
    fn become_template(&mut self, main: &mut Program, place: Range) -> Result<(), ResumeError> {
        let control = self.number(CONTROL_FD);
        self.say_userfault(main, control);
        self.clear(main, place);
        self.map(main)?;
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
        Ok(())
    }

    /// Forks a child for each order, which has the child's control socket with it, and where it is to be numbered as
    /// in the forked process the first process of its PID namespace. What follows is the child's.
    fn fork_children(&self, main: &mut Program) {
        // A sibling: what ends a child is the host's to know.
        let mut arguments = [0_u64; 11];
        arguments[0] = libc::CLONE_PARENT as u64;
        if self.is_numbered() {
            arguments[8] = main.data(&self.descriptor.threads[0].tid.to_ne_bytes());
            arguments[9] = 1;
        }
        let arguments = main.data(&arguments.map(u64::to_ne_bytes).concat());
        let control = self.number(CONTROL_FD);
        let namespaces = usize::from(self.is_numbered());

        let next = main.here();
        receive(main, "taking an order", control, 1 + namespaces);
        let end = main.on_zero();
        if self.is_numbered() {
            let kind = libc::CLONE_NEWPID as u64;
            main.call("entering a PID namespace", SYS_setns, &[NAMESPACE_FD, kind]);
            main.call("closing a PID namespace", SYS_close, &[NAMESPACE_FD]);
        }
        main.call("forking a child", SYS_clone3, &[arguments, 88]);
        let child = main.on_zero();
        main.call("closing a child's control socket", SYS_close, &[CHILDS_CONTROL_FD]);
        main.jump(next);
        main.land(end);
        main.call("ending", SYS_exit_group, &[0]);
        main.land(child);
        self.end_with_host(main);
        let on_exec = libc::O_CLOEXEC as u64;
        main.call("taking its control socket", SYS_dup3, &[CHILDS_CONTROL_FD, control, on_exec]);
        main.call("closing its control socket", SYS_close, &[CHILDS_CONTROL_FD]);
    }

    /// Takes the open files and gives them their numbers.
    fn take_files(&self, main: &mut Program) {
        let control = self.number(CONTROL_FD);
        // They come as the lowest numbers, in the order of those that they are to have.
        for some in self.open.chunks(DESCRIPTORS_PER_MESSAGE) {
            receive(main, "taking its files", control, some.len()).gives(1);
        }
        // From the highest on none is put where one is that has not been moved yet.
        for (come, (fd, on_exec)) in self.open.iter().enumerate().rev() {
            let (come, fd) = (come as u64, u64::from(fd.cast_unsigned()));
            if fd != come {
                main.call("giving a file its number", SYS_dup3, &[come, fd, *on_exec]);
            } else if *on_exec == 0 {
                main.call("keeping a file on exec", SYS_fcntl, &[fd, libc::F_SETFD as u64, 0]);
            }
        }
        let is_one = |number: u64| self.open.iter().any(|(fd, _)| u64::from(fd.cast_unsigned()) == number);
        for come in (0..self.open.len() as u64).filter(|come| !is_one(*come)) {
            main.call("closing what a file came as", SYS_close, &[come]);
        }
    }

    /// Starts the threads, and goes on where the forked process was.
    fn become_child(
        &self,
        main: &mut Program,
        place: Range,
        main_bytes: u64,
        identity: Identity,
    ) -> Result<Vec<Program>, ResumeError> {
        let ForkDescriptor { threads, credentials, .. } = self.descriptor;
        identity.become_user(main, self.rights, credentials);
        let mut programs = Vec::with_capacity(threads.len());
        let mut gates = Vec::with_capacity(threads.len());
        for (thread, index) in threads[1..].iter().zip(0..) {
            let start = place.start + main_bytes + index * THREAD_BYTES;
            let mut program = Program::new(start);
            let (arrived, gate) = (program.data(&[0; 4]), program.data(&[0; 4]));
            let (one, number) = (program.data(&1_u32.to_ne_bytes()), program.data(&[0; 8]));
            // Before any thread is the process's own, none may do more than the process may.
            identity.copy_into(&mut program).give_up_rest(&mut program, self.rights, credentials);
            // From here on it needs nothing that the main thread gives up.
            program.copy(arrived, one, 4);
            program.call("telling the main thread", SYS_futex, &[arrived, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0]);
            program.call("waiting for the other threads", SYS_futex, &[gate, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0]).or_not();
            self.become_thread(&mut program, thread, number)?;
            self.start_thread(main, &program, start - place.start, thread.tid);
            gates.push((arrived, gate));
            programs.push(program);
        }
        let number = main.data(&[0; 8]);
        self.become_thread_until_frame(main, &threads[0], number);
        let one = main.data(&1_u32.to_ne_bytes());
        for (arrived, _) in &gates {
            main.call("waiting for a thread", SYS_futex, &[*arrived, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0]).or_not();
        }
        // A change of user has made it forget.
        self.end_with_host(main);
        identity.give_up_rest(main, self.rights, credentials);
        let byte = main.data(&[1]);
        main.call("telling its host", SYS_write, &[self.number(CONTROL_FD), byte, 1]);
        main.call("closing what is not its own", SYS_close_range, &[self.first_fd as u64, u64::from(u32::MAX), 0]);
        for (_, gate) in gates {
            main.copy(gate, one, 4);
            main.call("letting a thread go", SYS_futex, &[gate, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0]);
        }
        self.leave(main, &threads[0], main_bytes)?;
        Ok(programs)
    }

    fn end_with_host(&self, main: &mut Program) {
        main.call("ending with its host", SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64]);
    }

    const fn is_numbered(&self) -> bool {
        self.descriptor.threads.len() > 1
    }

    /// The number of the descriptor that comes at a place in the order.
    const fn number(&self, index: usize) -> u64 {
        self.first_fd as u64 + index as u64
    }

    fn main_bytes(&self) -> u64 {
        let ForkDescriptor { areas, signals, threads, .. } = self.descriptor;
        let open = self.open.len() * 2;
        let overlays: usize = areas.iter().map(|area| area.own.len()).sum();
        let operations = FIXED_OPERATIONS
            + Identity::OPERATIONS
            + areas.len() * AREA_OPERATIONS
            + overlays
            + signals.len()
            + open
            + threads.len() * 9;
        let frame = self.descriptor.threads[0].extended_state.len() + 1024;
        let data = frame
            + signals.len() * 64
            + threads.len() * 256
            + self.open.len() * 8
            + self.descriptor.credentials.supplementary.len() * 4
            + self.descriptor.layout.auxiliary.len() * 8
            + 8192;
        Program::bytes_for(operations, data)
    }

    /// Makes the descriptor for faults and passes it to the host.
    fn say_userfault(&self, main: &mut Program, control: u64) {
        let byte = main.data(&[0]);
        let part = main.data(&[byte, 1].map(u64::to_ne_bytes).concat());
        // `struct cmsghdr` with one descriptor, which is filled in.
        const LEVEL_AND_TYPE: u64 = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
        let rights = main.data(&[20, LEVEL_AND_TYPE, 0].map(u64::to_ne_bytes).concat());
        let message = main.data(&[0, 0, part, 1, rights, 24, 0].map(u64::to_ne_bytes).concat());
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        main.call("making a userfaultfd", SYS_userfaultfd, &[flags]).stored_at(rights + 16);
        main.call("passing its userfaultfd", SYS_sendmsg, &[control, message, 0]);
    }

    /// Gives up what the zygote had.
    fn clear(&self, main: &mut Program, place: Range) {
        let low = Range::new(0, place.start);
        let high = Range::new(place.start + main_part(place, self.descriptor), ADDRESS_END);
        for range in [low, high] {
            main.call("giving up the zygote's memory", SYS_munmap, &[range.start, range.bytes]);
        }
        main.call("closing the zygote's files", SYS_close_range, &[0, self.first_fd as u64 - 1, 0]);
        for signal in [libc::SIGPIPE, libc::SIGSEGV, libc::SIGBUS] {
            let nothing = main.data(&[0; 32]);
            main.call("resetting a signal", SYS_rt_sigaction, &[signal as u64, nothing, 0, 8]);
        }
    }

    fn map(&mut self, main: &mut Program) -> Result<(), ResumeError> {
        let areas = &self.descriptor.areas;
        let kernels = |area: &&Area| matches!(area.kind, AreaKind::Vdso | AreaKind::Vvar);
        if let Some(first) = areas.iter().find(kernels) {
            main.call("mapping the vdso", SYS_arch_prctl, &[ARCH_MAP_VDSO_64, first.start]);
            // The kernel may have put it elsewhere.
            for area in areas.iter().filter(kernels) {
                let arguments = [area.start, area.bytes, libc::MS_ASYNC as u64];
                main.call("finding the vdso", SYS_msync, &arguments);
            }
        }
        for area in areas {
            self.map_area(main, area)?;
        }
        Ok(())
    }

    fn map_area(&mut self, main: &mut Program, area: &Area) -> Result<(), ResumeError> {
        const MEMORY: i32 = libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        const NOWHERE: u64 = u64::MAX;
        let map = |main: &mut Program, meaning, range: Range, flags: i32, fd: u64, offset: u64| {
            let protection = u64::from(area.protection);
            let arguments = [range.start, range.bytes, protection, flags as u64, fd, offset];
            main.call(meaning, SYS_mmap, &arguments).gives(range.start);
        };
        let new = libc::MAP_FIXED_NOREPLACE;
        match area.kind {
            AreaKind::Private | AreaKind::Stack => {
                let grows = if area.kind == AreaKind::Stack { libc::MAP_GROWSDOWN | libc::MAP_STACK } else { 0 };
                let flags = libc::MAP_PRIVATE | MEMORY | grows | new;
                map(main, "mapping memory", area.range(), flags, NOWHERE, 0);
                self.register_own(area);
            }
            AreaKind::File { file, offset, shared } => {
                let sharing = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                let fd = self.number(OWN_FDS + file as usize);
                map(main, "mapping a file", area.range(), sharing | new, fd, offset);
                let is_in_place = |own: &Range| self.in_place.binary_search_by_key(&own.start, |it| it.start).is_ok();
                let over: Vec<_> = area.own_ranges().filter(|own| !is_in_place(own)).collect();
                for own in over {
                    let flags = libc::MAP_PRIVATE | MEMORY | libc::MAP_FIXED;
                    map(main, "mapping changed pages of a file", own, flags, NOWHERE, 0);
                    self.missing.set(own, Origin::Seed(own.start));
                    self.registered.push(own);
                }
            }
            AreaKind::Wiped => {
                map(main, "mapping memory", area.range(), libc::MAP_PRIVATE | MEMORY | new, NOWHERE, 0);
                let arguments = [area.start, area.bytes, libc::MADV_WIPEONFORK as u64];
                main.call("having memory wiped at a fork", SYS_madvise, &arguments);
            }
            AreaKind::SharedMemory { id, .. } => {
                let same =
                    |other: &&Area| matches!(other.kind, AreaKind::SharedMemory { id: theirs, .. } if theirs == id);
                if self.descriptor.areas.iter().filter(same).count() > 1 {
                    return Err(ResumeError::Unfit("it has one piece of shared memory mapped in several places"));
                }
                map(main, "mapping shared memory", area.range(), libc::MAP_SHARED | MEMORY | new, NOWHERE, 0);
                self.missing.set(area.range(), Origin::Seed(area.start));
                self.registered.push(area.range());
            }
            AreaKind::Vdso | AreaKind::Vvar => {}
        }
        Ok(())
    }

    /// Registers the whole of an area that has pages of its own; the others are zeros. A part alone would be a mapping
    /// of its own in the kernel's eyes, and mremap(2) does not take two.
    fn register_own(&mut self, area: &Area) {
        if area.own.is_empty() {
            return;
        }
        for own in area.own_ranges() {
            self.missing.set(own, Origin::Seed(own.start));
        }
        match self.registered.last_mut() {
            Some(last) if last.end() == area.start => last.bytes += area.bytes,
            _ => self.registered.push(area.range()),
        }
    }

    /// What the kernel shows of a process.
    fn describe(&self, main: &mut Program) {
        let Layout { auxiliary, .. } = &self.descriptor.layout;
        let l = &self.descriptor.layout;
        let vector = main.data(&auxiliary.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        // No other executable: that needs more rights than all else here.
        let sizes = (auxiliary.len() as u64 * 8) | (u64::from(u32::MAX) << 32);
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
            sizes,
        ];
        let at = main.data(&map.map(u64::to_ne_bytes).concat());
        let bytes = size_of_val(&map) as u64;
        main.call("setting the layout of its memory", SYS_prctl, &[PR_SET_MM, PR_SET_MM_MAP, at, bytes, 0]);
        let name = main.data(&with_end(&self.descriptor.name));
        main.call("setting its name", SYS_prctl, &[libc::PR_SET_NAME as u64, name]);
        main.call("setting its umask", SYS_umask, &[u64::from(self.descriptor.umask)]);
        let directory = main.data(&with_end(&self.descriptor.directory));
        main.call("entering its working directory", SYS_chdir, &[directory]);
    }

    /// Lets the main thread make another one, which begins with a program of its own.
    fn start_thread(&self, main: &mut Program, program: &Program, offset: u64, number: i32) {
        const SHARED: i32 = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let file = self.number(PROGRAM_FD);
        let start = program.start();
        let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let data = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE) as u64;
        let meaning = "mapping a thread's program";
        main.call(meaning, SYS_mmap, &[start, PAGE_BYTES, code, flags, file, offset]).gives(start);
        let (rest, offset) = (start + PAGE_BYTES, offset + PAGE_BYTES);
        main.call(meaning, SYS_mmap, &[rest, THREAD_BYTES - PAGE_BYTES, data, flags, file, offset]).gives(rest);
        // `struct clone_args`
        let mut arguments = [0_u64; 11];
        arguments[0] = SHARED as u64;
        if self.is_numbered() {
            arguments[8] = main.data(&number.to_ne_bytes());
            arguments[9] = 1;
        }
        let at = main.data(&arguments.map(u64::to_ne_bytes).concat());
        main.call("starting a thread", SYS_clone3, &[at, 88]).begins(program);
    }

    fn become_thread(&self, program: &mut Program, thread: &Thread, number: u64) -> Result<(), ResumeError> {
        self.become_thread_until_frame(program, thread, number);
        self.leave(program, thread, THREAD_BYTES)
    }

    fn become_thread_until_frame(&self, program: &mut Program, thread: &Thread, number: u64) {
        let tid_address = thread.tid_address;
        program.call("taking its number", SYS_set_tid_address, &[tid_address]).stored_at(number);
        if tid_address != 0 {
            program.copy(tid_address, number, 4);
        }
        let (head, bytes) = thread.robust_list;
        if head != 0 {
            program.call("setting its robust list", SYS_set_robust_list, &[head, bytes]);
        }
        for (what, base) in [(ARCH_SET_FS, thread.registers.fs_base), (ARCH_SET_GS, thread.registers.gs_base)] {
            program.call("setting its thread-local storage", SYS_arch_prctl, &[what, base]);
        }
        let rseq = thread.rseq;
        if rseq.bytes != 0 {
            let arguments = [rseq.address, u64::from(rseq.bytes), 0, u64::from(rseq.signature)];
            program.call("registering its restartable sequences", SYS_rseq, &arguments);
        }
    }

    fn leave(&self, program: &mut Program, thread: &Thread, mapped: u64) -> Result<(), ResumeError> {
        let frame = frame(thread, self.restorer);
        let holds =
            |area: &Area| area.range().contains(frame.address) && area.range().contains(thread.registers.rsp - 1);
        if !self.descriptor.areas.iter().any(holds) {
            return Err(ResumeError::Unfit("a thread's stack has no room for a signal frame"));
        }
        let at = program.data(&frame.bytes);
        program.copy(frame.address, at, frame.bytes.len() as u64);
        program.finish(Finish { frame: frame.address, call_and_return: self.call_and_return, mapped });
        Ok(())
    }
}

/// Takes a message of one byte and `count` descriptors, which get the lowest numbers that are free. It gives 0 when
/// nobody will send any more.
fn receive<'p>(program: &'p mut Program, meaning: &'static str, control: u64, count: usize) -> &'p mut Operation {
    let byte = program.data(&[0]);
    let part = program.data(&[byte, 1].map(u64::to_ne_bytes).concat());
    // `struct cmsghdr` is two words long.
    let room = 16 + (count as u64 * 4).next_multiple_of(8);
    let rights = program.data(&vec![0; room as usize]);
    let message = [0, 0, part, 1, rights, room, 0].map(u64::to_ne_bytes).concat();
    let (pristine, used) = (program.data(&message), program.data(&message));
    // The kernel writes into it.
    program.copy(used, pristine, message.len() as u64);
    program.call(meaning, SYS_recvmsg, &[control, used, libc::MSG_CMSG_CLOEXEC as u64])
}

/// How much of the place is the main thread's.
fn main_part(place: Range, descriptor: &ForkDescriptor) -> u64 {
    place.bytes - (descriptor.threads.len() as u64 - 1) * THREAD_BYTES
}

fn with_end(text: &[u8]) -> Vec<u8> {
    text.iter().copied().chain([0]).collect()
}

/// The lowest place where nothing is, and nothing next to it that may grow.
fn hole(areas: &[Area], bytes: u64) -> Result<Range, ResumeError> {
    const APART: u64 = 16 * PAGE_BYTES;
    let mut start = ADDRESS_START;
    for area in areas {
        if area.start.saturating_sub(start) >= bytes + APART {
            return Ok(Range { start, bytes });
        }
        start = area.start + area.bytes + APART;
    }
    if ADDRESS_END - start >= bytes {
        Ok(Range { start, bytes })
    } else {
        Err(ResumeError::Unfit("its memory is full"))
    }
}
