//! A child's clocks and timers: those that the forked process had, which a fork leaves behind.

use libc::{
    SYS_close, SYS_openat, SYS_prctl, SYS_setitimer, SYS_setns, SYS_timer_create, SYS_timer_delete, SYS_timer_settime,
    SYS_unshare, SYS_write,
};
use ramet_sys::events::{TimerNumbers, timer_numbers};

use super::Planner;
use crate::descriptor::{Expiry, MadeTimer, Spent, TimerClock};
use crate::program::Program;
use crate::resume::ResumeError;

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// `struct sigevent`, and where in it the thread is.
const EVENT_BYTES: usize = 64;
const EVENT_THREAD: u64 = 16;
/// How many timers are made and deleted on older kernels until one has its number.
const NUMBERS_LEFT_OUT_MAX: u32 = 1024;
const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

/// What has been closed before is what the next file comes as.
const LOWEST_FD: u64 = 0;

impl Planner<'_> {
    /// Enters a time namespace where the clocks go on, before anything of the kernel's is mapped that shows them.
    pub(super) fn set_clocks(&self, main: &mut Program) {
        let Some(clocks) = self.clocks else { return };
        let kind = libc::CLONE_NEWTIME as u64;
        main.call("making a time namespace", SYS_unshare, &[kind]);
        let text = clocks.to_text();
        let (at, bytes) = (main.data(text.as_bytes()), text.len() as u64);
        let open = |main: &mut Program, path: &[u8], how: libc::c_int| {
            let path = main.data(path);
            let flags = (how | libc::O_CLOEXEC) as u64;
            let arguments = [libc::AT_FDCWD as u64, path, flags, 0];
            main.call("finding its time namespace", SYS_openat, &arguments).gives(LOWEST_FD);
        };
        open(main, b"/proc/self/timens_offsets\0", libc::O_WRONLY);
        main.call("setting its clocks", SYS_write, &[LOWEST_FD, at, bytes]).gives(bytes);
        main.call("closing its clocks", SYS_close, &[LOWEST_FD]);
        open(main, b"/proc/self/ns/time_for_children\0", libc::O_RDONLY);
        main.call("entering its time namespace", SYS_setns, &[LOWEST_FD, kind]);
        main.call("closing its time namespace", SYS_close, &[LOWEST_FD]);
    }

    /// Makes the timers and lets them run. What they send waits until the process goes on, as all signals are blocked.
    /// The main thread's number is at `number`.
    pub(super) fn start_timers(&self, main: &mut Program, number: u64) -> Result<(), ResumeError> {
        let timers = &self.descriptor.timers;
        if !timers.made.is_empty() {
            match timer_numbers() {
                TimerNumbers::Chosen => self.make_numbered(main, number),
                TimerNumbers::Counted => self.make_counted(main, number)?,
            }
        }
        for timer in timers.made.iter().filter(|timer| timer.expiry.next != [0, 0]) {
            let at = main.data(&words(timer.expiry, 1));
            main.call("starting a timer", SYS_timer_settime, &[timer.number.into(), 0, at, 0]);
        }
        for (which, expiry) in (0..).zip(timers.intervals).filter(|(_, expiry)| expiry.next != [0, 0]) {
            let at = main.data(&words(expiry, NANOSECONDS_PER_MICROSECOND));
            main.call("starting an interval timer", SYS_setitimer, &[which, at, 0]);
        }
        Ok(())
    }

    fn make_numbered(&self, main: &mut Program, number: u64) {
        main.call("giving timers their numbers", SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0]);
        for timer in &self.descriptor.timers.made {
            self.make(main, timer, number);
        }
        main.call("having given timers their numbers", SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0]);
    }

    /// The kernel counts upwards from 0.
    fn make_counted(&self, main: &mut Program, number: u64) -> Result<(), ResumeError> {
        let made = &self.descriptor.timers.made;
        let last = made.last().map_or(0, |timer| timer.number);
        if last as usize - (made.len() - 1) > NUMBERS_LEFT_OUT_MAX as usize {
            return Err(ResumeError::Unfit(
                "one of its timers has a number that only Linux 6.15 and later give; resume it on such a host",
            ));
        }
        let mut next = 0;
        for timer in made {
            for left_out in next..timer.number {
                let number = main.data(&[0; 4]);
                main.call("counting timers", SYS_timer_create, &[libc::CLOCK_MONOTONIC as u64, 0, number]);
                main.call("counting timers", SYS_timer_delete, &[left_out.into()]);
            }
            self.make(main, timer, number);
            next = timer.number + 1;
        }
        Ok(())
    }

    fn make(&self, main: &mut Program, timer: &MadeTimer, number: u64) {
        let of_thread = if timer.thread.is_some() { libc::SIGEV_THREAD_ID as u64 } else { 0 };
        let how = u64::from(timer.signal) | (u64::from(timer.notification) | of_thread) << 32;
        let mut event = [timer.value, how].map(u64::to_ne_bytes).concat();
        event.resize(EVENT_BYTES, 0);
        let event = main.data(&event);
        match timer.thread {
            None => {}
            Some(0) => main.copy(event + EVENT_THREAD, number, 4),
            Some(index) => {
                let tid = main.data(&self.descriptor.threads[index as usize].tid.to_ne_bytes());
                main.copy(event + EVENT_THREAD, tid, 4);
            }
        }
        let wanted = main.data(&timer.number.to_ne_bytes());
        main.call("making a timer", SYS_timer_create, &[self.clock(timer.clock), event, wanted]);
    }

    /// The number of a clock (the kernel's linux/posix-timers.h).
    fn clock(&self, clock: TimerClock) -> u64 {
        const OF_A_THREAD: i32 = 4;
        const fn spent(spent: Spent) -> i32 {
            match spent {
                Spent::Ticks => 0,
                Spent::OwnTicks => 1,
                Spent::Exactly => 2,
            }
        }
        let number = match clock {
            TimerClock::Machine(number) => return number.into(),
            // Process 0 and thread 0 are who asks, which is the main thread.
            TimerClock::Process(how) => !0 << 3 | spent(how),
            TimerClock::Thread(0, how) => !0 << 3 | OF_A_THREAD | spent(how),
            TimerClock::Thread(index, how) => {
                !self.descriptor.threads[index as usize].tid << 3 | OF_A_THREAD | spent(how)
            }
        };
        u64::from(number.cast_unsigned())
    }
}

/// `struct itimerspec`, or `struct itimerval` where the unit is larger.
fn words(Expiry { next, interval }: Expiry, nanoseconds: u64) -> Vec<u8> {
    let parts = [interval, next].map(|[seconds, rest]| [seconds, rest / nanoseconds].map(u64::to_ne_bytes));
    parts.as_flattened().concat()
}
