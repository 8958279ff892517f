//! A child's threads, and how each of them comes to where the forked process's was.

use libc::{
    SYS_arch_prctl, SYS_capset, SYS_clone3, SYS_close_range, SYS_futex, SYS_mmap, SYS_munmap, SYS_personality,
    SYS_prctl, SYS_rseq, SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_tgsigqueueinfo, SYS_sched_setaffinity,
    SYS_sched_setattr, SYS_set_robust_list, SYS_set_tid_address, SYS_write,
};
use ramet_sys::pagemap::PAGE_BYTES;

use super::{Place, Planner, with_end};
use crate::descriptor::{ForkDescriptor, Scheduling, Thread};
use crate::program::Argument::{At, Word};
use crate::program::{Finish, Program};
use crate::resume::ResumeError;
use crate::resume::confinement::Call;
use crate::resume::identity::{ADMINISTRATES, Identity};
use crate::zygote::{CONTROL_FD, PROGRAM_FD};

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const FUTEX_WAIT_PRIVATE: u64 = 128;
const FUTEX_WAKE_PRIVATE: u64 = 129;
/// `SCHED_ATTR_SIZE_VER1`.
const SCHEDULING_BYTES: u32 = 56;

impl Planner<'_> {
    /// Starts the threads, and goes on where the forked process was.
    ///
    /// What needs a right that the child may not have comes first, then the rights are given up and the filters taken,
    /// and only then is any of the threads the process's own: those could write to what the others still have to do.
    pub(super) fn become_child(&self, main: &mut Program, identity: Identity<'_>) -> Result<Vec<Program>, ResumeError> {
        let ForkDescriptor { threads, traits, .. } = self.descriptor;
        let Place { start, main_bytes, thread_bytes, .. } = self.place;
        main.call(
            "setting its timers' slack",
            SYS_prctl,
            &[libc::PR_SET_TIMERSLACK as u64, traits.timer_slack_ns.max(1)],
        );
        main.call("setting its personality", SYS_personality, &[u64::from(traits.personality)]);
        identity.become_user(main);
        let mut programs = Vec::with_capacity(threads.len());
        let mut gates = Vec::with_capacity(threads.len());
        for (index, thread) in threads.iter().enumerate().skip(1) {
            let mut program = Program::new(start + main_bytes + (index as u64 - 1) * thread_bytes);
            let (arrived, gate) = (program.data(&[0; 4]), program.data(&[0; 4]));
            let (one, number) = (program.data(&1_u32.to_ne_bytes()), program.data(&[0; 8]));
            self.become_thread(&mut program, thread, number);
            let name = program.data(&with_end(&thread.name));
            program.call("setting a thread's name", SYS_prctl, &[libc::PR_SET_NAME as u64, name]);
            identity.give_up_rest(&mut program);
            // From here on it needs nothing that the main thread gives up.
            program.copy(arrived, one, 4);
            program.call("telling the main thread", SYS_futex, &[arrived, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0]);
            program.call("waiting for the other threads", SYS_futex, &[gate, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0]).or_not();
            self.leave(&mut program, index, thread_bytes);
            self.start_thread(main, &program, thread.tid);
            gates.push((arrived, gate));
            programs.push(program);
        }
        let number = main.data(&[0; 8]);
        self.become_thread(main, &threads[0], number);
        let one = main.data(&1_u32.to_ne_bytes());
        for (arrived, _) in &gates {
            main.call("waiting for a thread", SYS_futex, &[*arrived, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0]).or_not();
        }
        self.queue_signals(main, number);
        self.start_timers(main, number)?;
        identity.limit(main);
        // A change of user has changed both.
        let dumpable = u64::from(traits.is_dumpable);
        main.call("hiding itself or not", SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, dumpable]);
        self.end_with_host(main);
        let byte = main.data(&[1]);
        main.call("telling its host", SYS_write, &[self.number(CONTROL_FD), byte, 1]);
        self.confine(main, identity)?;
        for (_, gate) in gates {
            main.copy(gate, one, 4);
            main.call("letting a thread go", SYS_futex, &[gate, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0]);
        }
        self.leave(main, 0, main_bytes);
        Ok(programs)
    }

    /// Has signals wait for the threads that they waited for.
    fn queue_signals(&self, main: &mut Program, number: u64) {
        let ForkDescriptor { threads, queued_signals, .. } = self.descriptor;
        let signal = |information: &[u8]| u64::from(u32::from_ne_bytes(*information.first_chunk().unwrap_or(&[0; 4])));
        for information in queued_signals {
            let at = main.data(information);
            let arguments = [At(number), Word(signal(information)), Word(at)];
            main.call_with("queueing a signal", SYS_rt_sigqueueinfo, &arguments);
        }
        for (index, thread) in threads.iter().enumerate() {
            for information in &thread.queued_signals {
                let at = main.data(information);
                // The others have the numbers that they had, as the first one has then.
                let tid = if index == 0 { At(number) } else { Word(u64::from(thread.tid.cast_unsigned())) };
                let arguments = [At(number), tid, Word(signal(information)), Word(at)];
                main.call_with("queueing a thread's signal", SYS_rt_tgsigqueueinfo, &arguments);
            }
        }
    }

    /// Gives up the rights that the child may not have and takes its filters, and closes what is not its own, in an
    /// order in which each step still may be done.
    fn confine(&self, main: &mut Program, identity: Identity<'_>) -> Result<(), ResumeError> {
        let filters = self.confinement;
        let close = [self.first_fd as u64, u64::from(u32::MAX), 0];
        let allows = |number, [a, b, c]: [u64; 3]| filters.allows(Call { number, arguments: [a, b, c, 0, 0, 0] });
        if filters.is_none() {
            identity.give_up_rest(main);
            main.call("closing what is not its own", SYS_close_range, &close);
            return Ok(());
        }
        if !allows(SYS_rt_sigreturn, [0; 3]) {
            return Err(ResumeError::Unfit("its seccomp filters forbid rt_sigreturn, by which it would begin"));
        }
        if self.descriptor.threads.len() > 1 && !allows(SYS_futex, [0, FUTEX_WAKE_PRIVATE, 1]) {
            return Err(ResumeError::Unfit("its seccomp filters forbid futex, by which its threads would begin"));
        }
        let closes_last = allows(SYS_close_range, close);
        let closing = "closing what is not its own";
        if !closes_last {
            main.call(closing, SYS_close_range, &close);
        }
        if self.descriptor.credentials.no_new_privileges {
            identity.give_up_rest(main);
            filters.install(main);
        } else {
            // Without that promise filters are for who is privileged.
            if !self.rights.has(ADMINISTRATES) || !allows(SYS_capset, [0; 3]) {
                return Err(ResumeError::Unfit(
                    "its seccomp filters were installed by root and forbid to drop privileges",
                ));
            }
            filters.install(main);
            identity.give_up_rest(main);
        }
        if closes_last {
            main.call(closing, SYS_close_range, &close);
        }
        Ok(())
    }

    /// Lets the main thread make another one, which begins with a program of its own.
    fn start_thread(&self, main: &mut Program, program: &Program, number: i32) {
        const SHARED: i32 = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let file = self.number(PROGRAM_FD);
        let start = program.start();
        let offset = start - self.place.start;
        let code = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let data = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE) as u64;
        let meaning = "mapping a thread's program";
        main.call(meaning, SYS_mmap, &[start, PAGE_BYTES, code, flags, file, offset]).gives(start);
        let (rest, offset) = (start + PAGE_BYTES, offset + PAGE_BYTES);
        main.call(meaning, SYS_mmap, &[rest, self.place.thread_bytes - PAGE_BYTES, data, flags, file, offset])
            .gives(rest);
        // `struct clone_args`
        let mut arguments = [0_u64; 11];
        arguments[0] = SHARED as u64;
        // Of several threads all have the numbers that they had.
        arguments[8] = main.data(&number.to_ne_bytes());
        arguments[9] = 1;
        let at = main.data(&arguments.map(u64::to_ne_bytes).concat());
        main.call("starting a thread", SYS_clone3, &[at, 88]).begins(program);
    }

    fn become_thread(&self, program: &mut Program, thread: &Thread, number: u64) {
        let tid_address = thread.tid_address;
        program.call("taking its number", SYS_set_tid_address, &[tid_address]).stored_at(number);
        if thread.tid_is_there {
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
        if thread.scheduling != self.rights.scheduling() {
            let Scheduling { policy, flags, nice, priority } = thread.scheduling;
            // `struct sched_attr`
            let head = u64::from(SCHEDULING_BYTES) | u64::from(policy) << 32;
            let yields = u64::from(nice.cast_unsigned()) | u64::from(priority) << 32;
            let at = program.data(&[head, flags, yields, 0, 0, 0, 0].map(u64::to_ne_bytes).concat());
            program.call("saying when a thread may run", SYS_sched_setattr, &[0, at, 0]);
        }
        // Where a function's instance runs is its own host's to say.
        if !thread.cores.is_empty() && !self.descriptor.awaits_identity {
            let cores: Vec<u8> = thread.cores.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let at = program.data(&cores);
            // This host may have none of them.
            program.call("choosing a thread's cores", SYS_sched_setaffinity, &[0, cores.len() as u64, at]).or_not();
        }
    }

    /// Lets a thread go on where it was.
    fn leave(&self, program: &mut Program, index: usize, mapped: u64) {
        let call_and_return = self.call_and_return;
        let unmap = Call { number: SYS_munmap, arguments: [program.start(), mapped, 0, 0, 0, 0] };
        let unmaps = self.confinement.allows(unmap);
        program.finish(Finish { frame: self.frames.addresses[index], call_and_return, mapped, unmaps });
    }
}
