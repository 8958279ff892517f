//! What a child has of the process that was forked, and what it is given instead.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use ramet_fork::Given;
use ramet_sys::User;

#[path = "programs/target.rs"]
mod target;

use self::target::Target;

/// Who a process is, as the kernel tells the test.
fn status(pid: i32, key: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
}

#[test]
fn a_child_is_given_streams_in_place_of_sockets() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let target = Target::start_with(|command| {
        command.stdin(std::os::fd::OwnedFd::from(theirs));
    });
    target.tell("import os\nduplicate = os.dup(0)");
    let (mut given_ours, given_theirs) = UnixStream::pair().expect("a pair");
    let mut given = Given::own().expect("streams");
    given.streams[0] = given_theirs.into();
    let child = target.fork().child_given(&given);
    drop(given);
    given_ours.write_all(b"to the child").expect("sent");
    assert_eq!(child.tell("os.read(0, 100)"), "b'to the child'");
    // What is another number of the stream is so in the child.
    child.tell("os.write(duplicate, b'from it')");
    let mut answer = [0; 7];
    given_ours.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"from it");
    (&ours).write_all(b"to the parent").expect("sent");
    assert_eq!(target.tell("os.read(0, 100)"), "b'to the parent'");
}

/// A copy is made as a child of the process, and would be where that is.
#[test]
fn who_has_made_namespaces_for_its_children_is_refused_and_nothing_is_left() {
    let target = Target::start();
    target.tell("import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)");
    assert_eq!(target.tell("libc.unshare(0x20000000)"), "0", "a PID namespace, which takes root");
    let children =
        || std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid())).expect("its children");
    for children_of_its_own in [false, true] {
        if children_of_its_own {
            target.tell("first = os.fork() or os.execlp('sleep', 'sleep', '600')");
        }
        let before = children();
        let error = ramet_fork::prepare(target.pid()).expect_err("its copy would be elsewhere").to_string();
        assert!(error.contains("a PID namespace that it is not in"), "{error}");
        assert_eq!(children(), before);
    }
    target.tell("os.kill(first, 9)\nos.waitpid(first, 0)");
}

#[test]
fn a_child_that_has_done_nothing_shows_its_whole_command_line() {
    let target = Target::start_with(|command| {
        command.arg("long ".repeat(2000));
    });
    let shown = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).expect("its command line");
    let before = shown(target.pid());
    assert!(before.len() > 10_000);
    assert_eq!(shown(target.fork().child().child.pid), before);
}

#[test]
fn a_sockets_number_is_a_dead_sockets_in_the_child() {
    let target = Target::start();
    target.tell("import socket, os\na, b = socket.socketpair()\na.sendall(b'not for the child')");
    let child = target.fork().child();
    assert_eq!(child.tell("b.recv(100)"), "b''");
    assert!(child.tell("a.send(b'x', socket.MSG_NOSIGNAL)").contains("BrokenPipeError"));
    assert_ne!(child.tell("os.open('/dev/null', os.O_RDONLY) in (a.fileno(), b.fileno())"), "True");
    assert_eq!(target.tell("b.recv(100)"), "b'not for the child'");
}

/// As shells have it, who keep a descriptor of their terminal out of their programs' way.
#[test]
fn another_descriptor_of_a_stream_is_what_the_child_is_given() {
    let target = Target::start();
    target.tell(
        "import os\nmaster, slave = os.openpty()\nos.dup2(slave, 2)\nos.dup2(2, 255)\nos.close(slave)\n\
         os.close(master)",
    );
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let mut given = Given::own().expect("streams");
    given.streams[2] = theirs.into();
    let child = target.fork().child_given(&given);
    drop(given);
    child.tell("os.write(255, b'255')");
    let mut said = [0; 3];
    ours.read_exact(&mut said).expect("said");
    assert_eq!(&said, b"255");
}

#[test]
fn a_child_is_the_user_that_its_host_says() {
    let target = Target::start();
    target
        .tell("import os, threading\nthread = threading.Thread(target=lambda: threading.Event().wait(), daemon=True)");
    let alone = target.fork();
    target.tell("thread.start()");
    for forked in [alone, target.fork()] {
        let mut given = Given::own().expect("streams");
        given.user = Some(User { uid: 20_001, gid: 20_002 });
        let child = forked.child_given(&given);
        assert_eq!(
            child.tell("os.getresuid(), os.getresgid(), os.getgroups()"),
            "((20001, 20001, 20001), (20002, 20002, 20002), [])"
        );
        let every_thread = "[line.split()[1:] for task in os.listdir('/proc/self/task') \
             for line in open(f'/proc/self/task/{task}/status') if line.startswith(('Uid', 'CapEff', 'CapPrm'))]";
        let threads = child.tell(every_thread);
        assert!(!threads.contains("'0'") && threads.contains("'0000000000000000'"), "{threads}");
        assert!(child.tell("os.setuid(0)").contains("PermissionError"));
        assert_eq!(forked.child().tell("os.geteuid()"), "0");
    }
}

#[test]
fn a_child_is_who_the_forked_process_was() {
    let target = Target::start();
    target.tell(
        "import os, ctypes\nlibc = ctypes.CDLL(None)\nlibc.prctl(8, 1)\n\
         os.setgroups([7, 9])\nos.setresgid(33, 34, 35)\n\
         os.setresuid(1001, 1002, 1003)",
    );
    // `CAP_NET_BIND_SERVICE`, permitted, inheritable and ambient.
    target.tell(
        "header = (ctypes.c_uint * 2)(0x20080522, 0)\n\
         data = (ctypes.c_uint * 6)(1 << 10, 1 << 10 | 1 << 8, 1 << 10, 0, 0, 0)\n\
         libc.capset(header, data), libc.prctl(47, 2, 10, 0, 0), libc.prctl(24, 12), libc.prctl(38, 1, 0, 0, 0)",
    );
    let child = target.fork().child();
    assert_eq!(child.tell("1"), "1");
    for key in [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Umask",
        "SigIgn",
        "Seccomp",
    ] {
        assert_eq!(status(child.child.pid, key), status(target.pid(), key), "{key}");
    }
    assert_eq!(status(child.child.pid, "CapAmb"), "0000000000000400");
}
