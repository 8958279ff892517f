//! What the tests start in a sandbox: it says what it finds there, or starts another one of itself.
#![allow(clippy::print_stdout, reason = "a test program's output is its purpose")]

use std::io::{Read, Write};
use std::path::PathBuf;

use ramet_sys::{Limits, Network, Output, Program, Sandbox, spawn};

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("facts") => facts(),
        Some("calls") => calls(),
        Some("wait") => wait(),
        Some("allocate") => allocate(),
        Some("supervise") => supervise(),
        Some("listen") => listen(),
        other => println!("unknown task {other:?}"),
    }
}

/// One `name=value` line each.
fn facts() {
    for (name, link) in [("mnt", "mnt"), ("ipc", "ipc"), ("net", "net"), ("user", "user"), ("pid", "pid")] {
        let target = std::fs::read_link(format!("/proc/self/ns/{link}")).unwrap_or_default();
        println!("ns_{name}={}", target.display());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines() {
        if let Some((key, value)) = line.split_once(':') {
            println!("{}={}", key.to_lowercase(), value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    for (name, title) in [
        ("core", "Max core file size"),
        ("files", "Max open files"),
        ("data", "Max data size"),
        ("processes", "Max processes"),
    ] {
        let line = limits.lines().find_map(|line| line.strip_prefix(title)).unwrap_or_default();
        println!("limit_{name}={}", line.split_whitespace().next().unwrap_or_default());
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // Reading the folder takes a descriptor of its own, which points at the folder.
    let inherited = descriptors.filter(|entry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        !target.starts_with("/proc") && entry.file_name().to_string_lossy().parse::<i32>().is_ok_and(|n| n > 2)
    });
    println!("inherited={}", inherited.count());
    println!("session={}", rustix::process::getsid(None).is_ok_and(|session| session == rustix::process::getpid()));
    println!("folder={}", std::env::current_dir().unwrap_or_default().display());
    println!(
        "variables={}",
        std::env::vars().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(",")
    );
}

/// The error number of each system call that must not work.
fn calls() {
    let calls = [
        ("bpf", libc::SYS_bpf, 0),
        ("ptrace", libc::SYS_ptrace, 0),
        ("unshare", libc::SYS_unshare, i64::from(libc::CLONE_NEWUSER)),
        ("setns", libc::SYS_setns, 0),
        ("mount", libc::SYS_mount, 0),
        ("userfaultfd", libc::SYS_userfaultfd, 0),
        ("io_uring_setup", libc::SYS_io_uring_setup, 1),
        ("perf_event_open", libc::SYS_perf_event_open, 0),
        ("keyctl", libc::SYS_keyctl, 0),
        ("init_module", libc::SYS_init_module, 0),
        ("process_vm_readv", libc::SYS_process_vm_readv, 0),
        ("settimeofday", libc::SYS_settimeofday, 0),
        ("clone_newuser", libc::SYS_clone, i64::from(libc::CLONE_NEWUSER | libc::SIGCHLD)),
        ("clone3", libc::SYS_clone3, 0),
        ("x32_getpid", 0x4000_0000 | 39, 0),
        ("getppid", libc::SYS_getppid, 0),
    ];
    for (name, number, argument) in calls {
        // SAFETY: none of these calls touches this process's memory with null pointers, and the filter stops them.
        let result = unsafe { libc::syscall(number, argument, 0, 0, 0, 0, 0) };
        if number == libc::SYS_clone && result == 0 {
            std::process::exit(0);
        }
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
        println!("{name}={}", if result < 0 { errno } else { 0 });
    }
    // The calls that a request handler does need.
    let thread = std::thread::spawn(|| 7).join().is_ok_and(|seven| seven == 7);
    println!("thread={thread}");
    println!("subprocess={}", std::process::Command::new("true").status().is_ok_and(|status| status.success()));
}

fn wait() {
    println!("waiting");
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read(&mut [0]);
}

/// Takes 256 MiB, which a limit of memory denies.
fn allocate() {
    let mut bytes: Vec<u8> = Vec::new();
    println!("allocated={}", bytes.try_reserve_exact(256 << 20).is_ok());
}

/// A supervisor in small: starts a child that waits, passes its word on, and waits itself.
fn supervise() {
    let (reader, _writer) = std::io::pipe().expect("pipe");
    let path = std::env::current_exe().expect("this program");
    let program = Program {
        arguments: vec![path.clone().into(), "wait".into()],
        path,
        environment: Vec::new(),
        folder: PathBuf::from("/"),
        stdin: reader.into(),
        output: Output::Captured,
    };
    let sandbox = Sandbox { user: None, network: Network::None, limits: Limits::default() };
    let mut child = spawn(program, &sandbox).expect("spawned");
    let captured = child.captured.as_mut().expect("captured");
    captured.stdout.read_exact(&mut [0]).expect("the child's word");
    println!("pid={}", child.pid);
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read(&mut [0]);
}

/// Says a word to whoever connects to port 4242, as often as somebody does.
fn listen() {
    let listener = std::net::TcpListener::bind("127.0.0.1:4242").expect("the loopback device is on");
    println!("listens");
    for connection in listener.incoming() {
        let _ = connection.and_then(|mut connection| connection.write_all(b"inside"));
    }
}
