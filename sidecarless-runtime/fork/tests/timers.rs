//! A child's timers go on as the forked process's did, and its clocks never go back.

use std::fs;
use std::sync::Arc;

use ramet_fork::descriptor::Clocks;
use ramet_fork::{Family, Given, LocalSource, prepare};

#[path = "programs/target.rs"]
mod target;

use self::target::Target;

/// In the target: timers by the kernel's numbers, and what they have sent.
const BEGIN: &str = "import ctypes, os, signal, struct, threading, time\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def make(clock, signo, notify=0, value=0, tid=0):\n\
    \x20   number = ctypes.c_int(-1)\n\
    \x20   event = struct.pack('Qiii44x', value, signo, notify, tid)\n\
    \x20   assert libc.syscall(222, clock, event, ctypes.byref(number)) == 0, ctypes.get_errno()\n\
    \x20   return number.value\n\
    def arm(number, first, every=0):\n\
    \x20   split = lambda time: (int(time), int(time % 1 * 1e9))\n\
    \x20   spec = struct.pack('4q', *split(every), *split(first))\n\
    \x20   assert libc.syscall(223, number, 0, spec, None) == 0, ctypes.get_errno()\n\
    def left(number):\n\
    \x20   spec = ctypes.create_string_buffer(32)\n\
    \x20   if libc.syscall(224, number, spec):\n        return None\n\
    \x20   every, every_rest, next, next_rest = struct.unpack('4q', spec.raw)\n\
    \x20   return next + next_rest / 1e9, every + every_rest / 1e9\n\
    def within(number, first, every=0):\n\
    \x20   next, interval = left(number)\n\
    \x20   return 0 < next <= first and abs(interval - every) < 1e-6\n\
    count = {}\n\
    def came(signo, frame):\n    count[signo] = count.get(signo, 0) + 1\n\
    def comes(signo, times=1):\n\
    \x20   deadline = time.monotonic() + 60\n\
    \x20   while count.get(signo, 0) < times:\n\
    \x20       assert time.monotonic() < deadline\n\
    \x20   count.clear()\n\
    for signo in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGUSR1, signal.SIGUSR2):\n\
    \x20   signal.signal(signo, came)\n";

#[test]
fn interval_timers_go_on() {
    let target = Target::start();
    target.tell(BEGIN);
    target.tell(
        "signal.setitimer(signal.ITIMER_REAL, 1000, 500)\nsignal.setitimer(signal.ITIMER_PROF, 0.005, 0.005)\n\
         signal.setitimer(signal.ITIMER_VIRTUAL, 2000.25)",
    );
    let forked = target.fork();
    target.tell("signal.setitimer(signal.ITIMER_REAL, 0)");
    let child = forked.child();
    let real = child.tell("next, every = signal.getitimer(signal.ITIMER_REAL)\n900 < next <= 1000, every");
    assert_eq!(real, "(True, 500.0)");
    let own = child.tell("next, every = signal.getitimer(signal.ITIMER_VIRTUAL)\n1900 < next < 2001, every");
    assert_eq!(own, "(True, 0.0)");
    assert_eq!(child.tell("comes(signal.SIGPROF, 2)"), "None");
    // It rings in the child as it would have in the process.
    target.tell("signal.setitimer(signal.ITIMER_REAL, 0.2)");
    let child = target.fork().child();
    assert_eq!(child.tell("comes(signal.SIGALRM)\nsignal.getitimer(signal.ITIMER_REAL)"), "(0.0, 0.0)");
}

#[test]
fn made_timers_go_on_by_their_numbers() {
    let target = Target::start();
    target.tell(BEGIN);
    // 0 and 1 are gone; 3 never runs, 4 has expired, 5 tells nobody.
    target.tell(
        "assert [make(1, 10) for _ in range(6)] == [0, 1, 2, 3, 4, 5]\n\
         libc.syscall(226, 0), libc.syscall(226, 1), libc.syscall(226, 5)\n\
         arm(2, 1000, 70)\narm(4, 0.000001)\ncomes(signal.SIGUSR1)\nquiet = make(7, 0, 1)\narm(quiet, 300)\n\
         by_work = make(2, 12)\narm(by_work, 0.01, 0.01)\nreal = make(0, 10)\narm(real, 5000)",
    );
    let forked = target.fork();
    target.tell("libc.syscall(226, 2)");
    let child = forked.child();
    assert_eq!(child.tell("within(2, 1000, 70), left(3), left(4)"), "(True, (0.0, 0.0), (0.0, 0.0))");
    assert_eq!(child.tell("left(0), left(1), within(quiet, 300), within(real, 5000)"), "(None, None, True, True)");
    assert_eq!(child.tell("comes(signal.SIGUSR2, 2)"), "None");
    assert_eq!(child.tell("arm(3, 0.001)\ncomes(signal.SIGUSR1)"), "None", "what it sends is as it was");
    assert_eq!(child.tell("make(1, 10) not in (2, 3, 4, quiet, by_work, real)"), "True");
}

#[test]
fn a_threads_timer_rings_for_that_thread() {
    let target = Target::start();
    target.tell(BEGIN);
    target.tell(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [34])\nready, got = threading.Event(), []\n\
         def wait():\n\
         \x20   global timer\n    timer = make(1, 34, 4, 77, threading.get_native_id())\n    ready.set()\n\
         \x20   while True:\n        got.append(signal.sigwaitinfo([34]).si_signo)\n\
         def work():\n    global worked\n    worked = make(3, 12, 4, 0, threading.get_native_id())\n\
         \x20   done.set()\n    while True:\n        sum(range(1000))\n\
         thread = threading.Thread(target=wait, daemon=True)\nthread.start()\nready.wait()\narm(timer, 0.05, 0.05)",
    );
    let child = target.fork().child();
    let rings = "before = len(got)\ndeadline = time.monotonic() + 60\n\
        while len(got) < before + 3:\n    assert time.monotonic() < deadline\n    time.sleep(0.01)";
    assert_eq!(child.tell(rings), "None");
    assert_eq!(child.tell("got[-1], thread.is_alive(), within(timer, 0.05, 0.05)"), "(34, True, True)");
    // By the time of a thread that works.
    target.tell("done = threading.Event()\nthreading.Thread(target=work, daemon=True).start()\ndone.wait()");
    target.tell("arm(worked, 0.01, 0.01)\ncount.clear()");
    let child = target.fork().child();
    assert_eq!(child.tell("comes(signal.SIGUSR2, 2)"), "None");
}

/// In the target: both clocks, by the vdso and by the kernel.
const CLOCKS: &str = "import ctypes, os, struct, time\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def clock(which):\n\
    \x20   now = ctypes.create_string_buffer(16)\n    assert libc.syscall(228, which, now) == 0\n\
    \x20   seconds, rest = struct.unpack('2q', now.raw)\n    kernels = seconds * 10 ** 9 + rest\n\
    \x20   assert abs(kernels - time.clock_gettime_ns(which)) < 60 * 10 ** 9\n    return kernels\n";

fn clocks(tell: impl Fn(&str) -> String) -> [i64; 2] {
    [1, 7].map(|which| tell(&format!("clock({which})")).parse().expect("a time"))
}

/// From one time to a later one, not long after it.
fn go_on(before: [i64; 2], after: [i64; 2]) {
    const LONG_NS: i64 = 600_000_000_000;
    let passed = [0, 1].map(|clock| after[clock] - before[clock]);
    assert!(passed.iter().all(|passed| (0..LONG_NS).contains(passed)), "{before:?} → {after:?}");
}

#[test]
fn on_one_host_clocks_go_on_by_themselves() {
    let target = Target::start();
    target.tell(CLOCKS);
    let forked = target.fork();
    let before = clocks(|code| target.tell(code));
    let child = forked.child();
    go_on(before, clocks(|code| child.tell(code)));
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/time")).expect("its time namespace");
    assert_eq!(namespace(&child.child.pid.to_string()), namespace("self"), "nothing is made that is not needed");
}

/// A process whose clocks are so many seconds from its machine's.
fn elsewhere(monotonic: i64, boottime: i64) -> Target {
    let target = Target::start();
    target.tell(CLOCKS);
    target.tell(&format!(
        "libc.unshare(0x80)\nwith open('/proc/self/timens_offsets', 'w') as offsets:\n\
         \x20   offsets.write('monotonic {monotonic} 0\\nboottime {boottime} 0\\n')",
    ));
    let error = prepare(target.pid()).expect_err("it is between two times").to_string();
    assert!(error.contains("time namespace that it is not in"), "{error}");
    target.tell(
        "namespace = os.open('/proc/self/ns/time_for_children', os.O_RDONLY)\n\
         assert libc.setns(namespace, 0x80) == 0\nos.close(namespace)",
    );
    target
}

#[test]
fn clocks_of_a_time_namespace_go_on() {
    let target = elsewhere(1_000_000, 2_000_000);
    let before = clocks(|code| target.tell(code));
    assert!(before[0] > 1_000_000_000_000_000 && before[1] > 2_000_000_000_000_000, "{before:?}");
    let child = target.fork().child();
    go_on(before, clocks(|code| child.tell(code)));
    assert_eq!(child.tell("time.sleep(0.01)"), "None");
}

/// All that a process knows of its boot are its clocks, so one with clocks of its own is as one from elsewhere.
#[test]
fn clocks_of_another_boot_go_on() {
    let uptime = fs::read_to_string("/proc/uptime").expect("how long this machine runs");
    let uptime: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a time");
    // Later than here, and earlier.
    for seconds in [1_000_000, -(uptime as i64) / 2] {
        let target = elsewhere(seconds, 2 * seconds.max(0) + seconds.min(0));
        let before = clocks(|code| target.tell(code));
        let prepared = prepare(target.pid()).expect("prepared");
        let mut descriptor = prepared.descriptor.clone();
        descriptor.machine.boot = "another".to_owned();
        descriptor.clock_offsets = Clocks::default();
        let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
        let family = Family::start(Arc::new(target::host()), descriptor, Box::new(source)).expect("a family");
        for _ in 0..2 {
            let child = family.child(&Given::own().expect("streams")).expect("a child");
            go_on(before, clocks(|code| target.tell_child(child.pid, code)));
            let slept = "before = clock(1)\ntime.sleep(0.01)\nclock(1) - before >= 10 ** 7";
            assert_eq!(target.tell_child(child.pid, slept), "True");
            child.pidfd.signal(ramet_sys::End::Kill).expect("killed");
            child.pidfd.wait().expect("reaped");
        }
    }
}
