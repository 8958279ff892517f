//! What a process shares with others, or may change while it is being described, is in its children as it was when it
//! was forked.

use std::fs::File;
use std::io::Write;

#[path = "programs/target.rs"]
mod target;

use self::target::Target;

/// In the target: functions that map memory of a descriptor, and read and write there.
const MAPS: &str = "import os, mmap, ctypes, fcntl, threading, time\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    libc.mmap.restype = ctypes.c_void_p\n\
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]\n\
    def place(length, protection, flags, fd, offset=0):\n\
    \x20   at = libc.mmap(None, length, protection, flags, fd, offset)\n\
    \x20   assert at not in (None, 2 ** 64 - 1)\n\
    \x20   return (ctypes.c_char * length).from_address(at)\n";

#[test]
fn shared_memory_is_what_it_was_and_each_childs_own() {
    let target = Target::start();
    target.tell(MAPS);
    target.tell("memory = mmap.mmap(-1, 16 * 4096)\nmemory[0:4] = b'then'\nmemory[5 * 4096] = 7");
    let forked = target.fork();
    target.tell("memory[0:4] = b'late'\nmemory[5 * 4096] = 8\nmemory[9 * 4096] = 1");
    let (first, second) = (forked.child(), forked.child());
    let all = "memory[0:4], memory[5 * 4096], sum(memory[:])";
    let sum: u32 = b"then".iter().map(|byte| u32::from(*byte)).sum::<u32>() + 7;
    assert_eq!(first.tell(all), format!("(b'then', 7, {sum})"));
    first.tell("memory[0:4] = b'mine'");
    assert_eq!(second.tell(all), format!("(b'then', 7, {sum})"), "what another child writes is its own");
    let third = forked.child();
    assert_eq!(third.tell("memory[0:4]"), "b'then'");
    assert_eq!(first.tell("memory[0:4]"), "b'mine'");
    assert_eq!(target.tell("memory[0:4]"), "b'late'");
    // With its own children it shares it.
    first.tell("if os.fork() == 0:\n    memory[0:4] = b'kids'\n    os._exit(0)\nos.wait()");
    assert_eq!(first.tell("memory[0:4]"), "b'kids'");
}

/// A parent that never ceases to write must not be seen doing so: both counters are one apart at most at any moment.
#[test]
fn a_parent_that_goes_on_writing_changes_nothing() {
    let target = Target::start();
    target.tell(MAPS);
    target.tell(
        "memory = mmap.mmap(-1, 2048 * 4096)\n\
         def write():\n    number = 0\n    while True:\n        number += 1\n        for page in (0, 1023, 2047):\n\
         \x20           memory[page * 4096:page * 4096 + 8] = number.to_bytes(8, 'little')\n\
         threading.Thread(target=write, daemon=True).start()",
    );
    let numbers = "sorted(int.from_bytes(memory[page * 4096:page * 4096 + 8], 'little') for page in (0, 1023, 2047))";
    for _ in 0..10 {
        // The child has the thread too, so it is looked at where nothing runs yet: in the seed.
        let forked = target.fork();
        let piece = forked.prepared.descriptor.shared.iter().find(|piece| piece.bytes == 2048 * 4096).expect("it");
        let number = |nth: usize| {
            let page = [0, 1023, 2047][nth];
            let mut before = 0;
            for run in &piece.content {
                if (run.first..run.first + run.pages).contains(&page) {
                    let at = piece.frozen_at + (before + u64::from(page - run.first)) * 4096;
                    let mut bytes = [0; 8];
                    forked.prepared.seed.memory().read(at, &mut bytes).expect("read");
                    return u64::from_le_bytes(bytes);
                }
                before += u64::from(run.pages);
            }
            panic!("page {page} has no content")
        };
        let frozen = [0, 1, 2].map(number);
        assert!(frozen[0] - frozen[2] <= 1 && frozen[0] >= frozen[1] && frozen[1] >= frozen[2], "{frozen:?}");
        assert_eq!(frozen, [0, 1, 2].map(number));
        let child = forked.child();
        assert!(!child.tell(numbers).contains("raised"));
    }
}

#[test]
fn memory_files_are_carried_open_and_mapped() {
    let target = Target::start();
    target.tell(MAPS);
    target.tell(
        "fd = os.memfd_create('kept', os.MFD_ALLOW_SEALING)\n\
         os.ftruncate(fd, 3 * 4096 + 100)\n\
         os.pwrite(fd, b'first', 0)\nos.pwrite(fd, b'last', 3 * 4096)\n\
         one = place(4 * 4096, 3, 1, fd)\nother = place(4096, 3, 1, fd, 3 * 4096)\n\
         own = place(4 * 4096, 3, 2, fd)\nown[4096:4100] = b'self'\n\
         os.lseek(fd, 2, 0)\nfcntl.fcntl(fd, 1033, 2)",
    );
    // Closed, so that only its mappings are left.
    target.tell(
        "gone = os.memfd_create('gone')\nos.write(gone, b'mapped')\nleft = place(4096, 1, 1, gone)\nos.close(gone)",
    );
    let sealed = "os.memfd_create('sealed', os.MFD_ALLOW_SEALING)";
    target.tell(&format!("sealed = {sealed}\nos.write(sealed, b'for good')\nfcntl.fcntl(sealed, 1033, 15)"));
    target.tell("view = place(4096, 1, 1, sealed)");
    let forked = target.fork();
    target.tell("os.pwrite(fd, b'FIRST', 0)\nos.pwrite(fd, b'LAST', 3 * 4096)\nos.lseek(fd, 1, 0)");
    let child = forked.child();
    assert_eq!(child.tell("os.read(fd, 4), os.fstat(fd).st_size"), "(b'rst\\x00', 12388)");
    assert_eq!(child.tell("one[0:5], other[0:4], left[0:6], view[0:8]"), "(b'first', b'last', b'mapped', b'for good')");
    assert_eq!(child.tell("own[0:5], own[4096:4100], own[3 * 4096:3 * 4096 + 4]"), "(b'first', b'self', b'last')");
    child.tell("one[0:5] = b'again'\nother[0:4] = b'once'");
    assert_eq!(child.tell("os.pread(fd, 5, 0), one[3 * 4096:3 * 4096 + 4], own[0:5]"), "(b'again', b'once', b'first')");
    assert!(child.tell("os.ftruncate(fd, 1)").contains("PermissionError"), "it may not shrink");
    assert!(child.tell("os.pwrite(sealed, b'x', 0)").contains("PermissionError"), "it is sealed");
    assert_eq!(child.tell("os.readlink(f'/proc/self/fd/{fd}')"), "'/memfd:kept (deleted)'");
    assert_eq!(target.tell("os.pread(fd, 5, 0)"), "b'FIRST'");
}

/// The first one of a namespace has the number 0, as memory of no file has.
#[test]
fn memory_of_system_v_is_carried_whatever_its_number() {
    let target = Target::start();
    target.tell(MAPS);
    target.tell("libc.shmat.restype = ctypes.c_void_p");
    assert_eq!(target.tell("libc.unshare(0x08000000)"), "0", "an IPC namespace of its own, which takes root");
    target.tell(
        "def piece(text):\n    number = libc.shmget(0, 4096, 0o1600)\n\
         \x20   at = (ctypes.c_char * 4096).from_address(libc.shmat(number, None, 0))\n\
         \x20   at[0:4] = text\n    return number, at\n\
         zero, other = piece(b'zero'), piece(b'more')",
    );
    assert_eq!(target.tell("zero[0]"), "0");
    let forked = target.fork();
    target.tell("zero[1][0:4] = b'late'");
    assert_eq!(forked.child().tell("zero[1][0:4], other[1][0:4]"), "(b'zero', b'more')");
}

/// As `shm_open` opens it, and one that was only ever found, not opened.
#[test]
fn descriptors_that_follow_no_link_or_only_name_a_file_are_carried() {
    let target = Target::start();
    let folder = tempfile::tempdir().expect("a folder");
    let named = folder.path().join("named");
    File::create(&named).expect("a file").write_all(b"here").expect("written");
    target.tell(MAPS);
    target.tell(&format!(
        "name = f'/dev/shm/ramet-test-{{os.getpid()}}'\n\
         fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)\nos.unlink(name)\n\
         os.write(fd, b'shared')\nmapped = mmap.mmap(fd, 6)\nos.lseek(fd, 2, 0)\n\
         path = os.open({named:?}, os.O_PATH)\nwhole = os.open('/proc/self/fd/%d' % fd, os.O_PATH)"
    ));
    let child = target.fork().child();
    assert_eq!(child.tell("mapped[:], os.read(fd, 9)"), "(b'shared', b'ared')");
    child.tell("mapped[0:1] = b'S'");
    assert_eq!(child.tell("os.pread(fd, 1, 0), os.fstat(whole).st_ino == os.fstat(fd).st_ino"), "(b'S', True)");
    assert_eq!(child.tell("open(f'/proc/self/fd/{path}').read()"), "'here'");
    assert!(child.tell("os.read(path, 1)").contains("Bad file descriptor"), "it only names the file");
}

/// Linux 6.13 marks pages that nobody may touch. Who does so ends, as in a local fork, and nobody else does.
#[test]
fn guards_are_carried_and_who_touches_one_harms_nobody_else() {
    let target = Target::start();
    target.tell(MAPS);
    target.tell("libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]");
    target.tell("area = place(64 * 4096, 3, 0x22, -1)\nctypes.memset(area, 5, len(area))");
    if target.tell("libc.madvise(ctypes.addressof(area) + 16 * 4096, 16 * 4096, 102)") != "0" {
        eprintln!("skipped: this kernel has no guard pages (Linux 6.13)");
        return;
    }
    let forked = target.fork();
    if forked.prepared.descriptor.guards.is_empty() {
        eprintln!("skipped: this kernel does not tell where guard pages are (Linux 6.15)");
        return;
    }
    let (one, other) = (forked.child(), forked.child());
    let touch = |page: u32| {
        format!(
            "if os.fork() == 0:\n    area[{page} * 4096]\n    os._exit(0)\n\
             os.waitstatus_to_exitcode(os.wait()[1])"
        )
    };
    assert_eq!([15, 16, 31, 32].map(|page| one.tell(&touch(page))), ["0", "-11", "-11", "0"]);
    assert_eq!([15, 16, 31, 32].map(|page| other.tell(&touch(page))), ["0", "-11", "-11", "0"]);
    assert_eq!(one.tell("sum(area[:16 * 4096]) + sum(area[32 * 4096:])"), (48 * 4096 * 5).to_string());
    one.tell("libc.madvise(ctypes.addressof(area) + 16 * 4096, 16 * 4096, 103)");
    assert_eq!(one.tell("sum(area[:])"), (48 * 4096 * 5).to_string(), "without its guard there is nothing");
    assert_eq!(other.tell("sum(area[:16 * 4096]) + sum(area[32 * 4096:])"), (48 * 4096 * 5).to_string());
}

#[test]
fn too_much_shared_memory_is_refused() {
    let target = Target::start();
    target.tell("import mmap\nmemory = mmap.mmap(-1, 65 << 20)\nmemory[:] = b'x' * len(memory)");
    let error = ramet_fork::prepare(target.pid()).expect_err("too much").to_string();
    assert!(error.contains("64 MiB") && error.contains("/dev/zero"), "{error}");
    assert_eq!(target.tell("memory[5]"), "120");
    target.tell("memory.close()");
    // What has nothing in it costs nothing.
    target.tell("memory = mmap.mmap(-1, 1 << 33)\nmemory[1 << 32] = 5");
    assert_eq!(target.fork().child().tell("memory[1 << 32]"), "5");
}

#[test]
fn files_shared_by_dup_have_one_position() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().join("numbers");
    File::create(&name).expect("a file").write_all(b"0123456789").expect("written");
    let target = Target::start();
    target.tell(&format!(
        "import os\na = os.open({name:?}, os.O_RDONLY)\nb = os.dup(a)\n\
         c = os.open({name:?}, os.O_RDONLY)\nos.read(a, 3)"
    ));
    let forked = target.fork();
    target.tell("os.read(a, 5)");
    let child = forked.child();
    assert_eq!(child.tell("os.read(a, 2), os.read(b, 2), os.read(c, 2)"), "(b'34', b'56', b'01')");
}

#[test]
fn pipes_counters_and_timers_are_what_they_were() {
    let target = Target::start();
    target.tell(
        "import os, signal, time, ctypes, struct, fcntl\nlibc = ctypes.CDLL(None)\n\
         r, w = os.pipe()\nos.write(w, b'unread')\nbig_r, big_w = os.pipe()\nfcntl.fcntl(big_w, 1031, 1 << 19)\n\
         os.write(big_w, bytes(range(256)) * 1024)\nos.set_blocking(r, False)\n\
         event = os.eventfd(5, os.EFD_NONBLOCK)\n\
         timer = libc.timerfd_create(1, 0o4000)\n\
         periodic = libc.timerfd_create(1, 0o4000)\n\
         late = libc.timerfd_create(1, 0o4000)\n\
         def arm(fd, first, every):\n    libc.timerfd_settime(fd, 0, struct.pack('4q', 0, every, 0, first), None)\n\
         arm(timer, 1, 0)\narm(periodic, 1, 1000000)\n\
         libc.timerfd_settime(late, 0, struct.pack('4q', 0, 0, 1000, 0), None)\n\
         signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n\
         signals = libc.signalfd(-1, struct.pack('Q', 1 << 9), 0o4000)\nos.kill(os.getpid(), signal.SIGUSR1)\n\
         time.sleep(0.01)",
    );
    let forked = target.fork();
    target.tell("os.read(r, 6)\nos.eventfd_read(event)\nos.read(timer, 8)\nos.read(signals, 128)\narm(late, 1, 0)");
    let child = forked.child();
    assert_eq!(child.tell("os.read(r, 100)"), "b'unread'");
    assert!(child.tell("os.read(r, 100)").contains("BlockingIOError"), "it does not wait");
    assert_eq!(child.tell("os.read(big_r, 1 << 20) == bytes(range(256)) * 1024"), "True");
    assert_eq!(child.tell("os.eventfd_read(event)"), "5");
    assert_eq!(child.tell("os.read(timer, 8)"), r"b'\x01\x00\x00\x00\x00\x00\x00\x00'");
    for _ in 0..3 {
        assert_eq!(
            child.tell("os.set_blocking(periodic, True)\nint.from_bytes(os.read(periodic, 8), 'little') > 0"),
            "True"
        );
    }
    assert!(child.tell("os.read(late, 8)").contains("BlockingIOError"), "it has not expired");
    assert_eq!(child.tell("os.read(signals, 128)[:4]"), r"b'\n\x00\x00\x00'");
}
