//! What cannot be carried is refused by one sentence, and nothing is left behind.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ramet_fork::descriptor::{ForkDescriptor, OpenFileKind};
use ramet_fork::{Family, Given, Host, LocalSource, Prepared, prepare};

#[path = "programs/target.rs"]
mod target;

use self::target::Target;

/// What this process has: open files, and children of the test's own making.
fn belongings() -> (usize, usize) {
    let children = fs::read_dir("/proc/self/task").expect("its threads").map(|thread| {
        let thread = thread.expect("a thread").path();
        fs::read_to_string(thread.join("children")).unwrap_or_default().split_ascii_whitespace().count()
    });
    (fs::read_dir("/proc/self/fd").expect("its files").count(), children.sum())
}

fn refused(host: &Arc<Host>, prepared: &Prepared, change: impl FnOnce(&mut ForkDescriptor)) -> String {
    let mut descriptor = prepared.descriptor.clone();
    change(&mut descriptor);
    let before = belongings();
    let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
    let family = Family::start(Arc::clone(host), descriptor, Box::new(source));
    let error = match family {
        Err(error) => error,
        Ok(family) => family.child(&Given::own().expect("streams")).expect_err("a child"),
    };
    // Another copy of the zygote comes to wait when one was taken.
    let deadline = Instant::now() + Duration::from_secs(60);
    while belongings() != before {
        assert!(Instant::now() < deadline, "{:?} instead of {before:?} after: {error}", belongings());
        // tidy: what is waited for tells nobody when it is done.
        thread::sleep(Duration::from_millis(1));
    }
    error.to_string()
}

// One test, because what the whole process has is counted.
#[test]
fn a_refusal_says_why_and_leaves_nothing() {
    let target = Target::start();
    let prepared = prepare(target.pid()).expect("prepared");
    let host = Arc::new(Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host"));
    let machine =
        |change: fn(&mut ramet_fork::machine::Machine)| refused(&host, &prepared, |it| change(&mut it.machine));
    let error = machine(|machine| machine.features[2] = u32::MAX);
    assert!(error.contains("this processor lacks features"), "{error}");
    let error = machine(|machine| machine.extended_state_bytes += 64);
    assert!(error.contains("bytes of extended state"), "{error}");
    let error = machine(|machine| machine.page_bytes = 16384);
    assert!(error.contains("pages of 4096 bytes here") && error.contains("16384"), "{error}");
    let error = machine(|machine| machine.vdso.0 ^= 1);
    assert!(error.contains("vdso"), "{error}");
    let error = machine(|machine| machine.vvar_bytes += 4096);
    assert!(error.contains("vdso"), "{error}");
    let error = refused(&host, &prepared, |descriptor| descriptor.directory = b"/there/is/none".to_vec());
    assert!(error.contains("works in /there/is/none, which cannot be entered here"), "{error}");
    let error = refused(&host, &prepared, |descriptor| descriptor.mapped_files[0].identity.inode ^= 1);
    assert!(error.contains("is not the file that the forked process has"), "{error}");

    // Whoever wrote the descriptor did not ask.
    let other = OpenFileKind::Other { name: b"anon_inode:inotify".to_vec() };
    let error = refused(&host, &prepared, |descriptor| descriptor.files[0].kind = other);
    assert!(error.contains("inotify open as descriptor 0, which a fork cannot carry"), "{error}");

    for (make, name) in [
        ("master, held = os.openpty()\nos.close(master)", "a terminal"),
        ("held = open(folder + '/held', 'w')\nos.unlink(folder + '/held')", "held (deleted)"),
        ("import ctypes\nheld = ctypes.CDLL(None).inotify_init1(0)", "inotify"),
        ("held = os.pidfd_open(os.getpid())", "pid"),
        ("held = libc.syscall(425, 1, ctypes.create_string_buffer(120))", "io_uring"),
        ("held = libc.syscall(323, 1)", "userfaultfd"),
        // An array with one element.
        ("held = libc.syscall(321, 0, struct.pack('4I104x', 2, 4, 8, 1), 120)", "bpf-map"),
        // The time of a processor, for this process.
        ("held = libc.syscall(298, struct.pack('2I120x', 1, 128), 0, -1, -1, 0)", "perf_event"),
    ] {
        target.tell("import os, ctypes, struct\nlibc = ctypes.CDLL(None)");
        target.tell(make);
        if target.tell("held == -1") == "True" {
            eprintln!("skipped: this kernel or its settings give no {name}");
            continue;
        }
        let before = belongings();
        let error = prepare(target.pid()).map(drop).expect_err("it cannot be carried").to_string();
        assert_eq!(belongings(), before, "{error}");
        assert!(error.contains(name) && error.contains("which a fork cannot carry"), "{error}");
        target.tell("held.close() if hasattr(held, 'close') else os.close(held)");
    }
    target.tell("os.mkdir(folder + '/gone')\nos.chdir(folder + '/gone')\nos.rmdir(folder + '/gone')");
    let before = belongings();
    let error = prepare(target.pid()).map(drop).expect_err("nobody else can enter it").to_string();
    assert_eq!(belongings(), before, "{error}");
    assert!(error.contains("its working directory was removed") && error.contains("/gone"), "{error}");
    target.tell("os.chdir('/')");
    // And what is not refused works.
    assert_eq!(target.fork().child().tell("1 + 1"), "2");
}
