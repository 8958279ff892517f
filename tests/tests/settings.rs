//! Settings that change how a node works and not what it answers.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use nix::unistd::Pid;
use ramet_tests::node::skipped;
use ramet_tests::{Node, Start, eventually};

const MANIFEST: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: a}
spec: {command: ['{actor}', a]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: one}
spec: {steps: [{function: a}]}
";

#[test]
fn readers_of_rings_sleep_as_they_are_told() {
    let (never, always) = (sleeps_per_request("never"), sleeps_per_request("always"));
    // On a busy core many requests have come when it is about to sleep.
    assert!(never > 0.25, "a function that never looks sleeps before each request, not {never} times");
    assert!(always < 0.25, "a function that always looks does not sleep between requests, but did {always} times");
    sleeps_per_request("adaptive");
}

/// How often a function sleeps in a node over rings.
fn sleeps_per_request(busy_poll: &str) -> f64 {
    const REQUESTS: u32 = 500;
    let start = Start::new("ring", MANIFEST).with("RAMET_BUSY_POLL", busy_poll);
    let mut node = Node::start(&start).expect("ring runs everywhere");
    // Its own process and the one that it lives in.
    let function = node.instances("actor");
    let sleeps = || function.iter().copied().map(sleeps).sum::<u64>();
    let mut client = node.client();
    let before = sleeps();
    for _ in 0..REQUESTS {
        assert_eq!(client.request("POST", "/one", &[], b"x").expect("an answer").status, 200);
    }
    let sleeps = sleeps() - before;
    assert!(node.stop().success(), "{}", node.log());
    sleeps as f64 / f64::from(REQUESTS)
}

/// How often the threads of a process have waited.
fn sleeps(process: Pid) -> u64 {
    let of_thread = |thread: std::io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(thread.expect("a thread").path().join("status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|number| number.trim().parse::<u64>().ok()).expect("a number")
    };
    fs::read_dir(format!("/proc/{process}/task")).expect("threads").map(of_thread).sum()
}

#[test]
fn cores_are_kept_awake_while_requests_come_and_no_longer() {
    if let Err(error) = longest_wake() {
        return skipped(&format!("nobody may say how long cores may take to wake: {error}"));
    }
    let start = Start::new("ring", MANIFEST).with("RAMET_KEEP_AWAKE", "true");
    let node = Node::start(&start).expect("ring runs everywhere");
    let is_awake = || longest_wake().expect("what the kernel keeps to") == 0;
    let mut client = node.client();
    let mut ask = || assert_eq!(client.request("POST", "/one", &[], b"x").expect("an answer").status, 200);
    eventually("the cores to be kept awake", || {
        ask();
        is_awake().then_some(())
    });
    for _ in 0..500 {
        ask();
        assert!(is_awake(), "requests come");
    }
    eventually("the cores to sleep again", || (!is_awake()).then_some(()));
}

/// How many microseconds a core may take to wake, by all that programs have asked for.
fn longest_wake() -> std::io::Result<i32> {
    let mut bytes = [0; 4];
    fs::File::open("/dev/cpu_dma_latency")?.read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

#[test]
fn pools_get_their_memory_before_requests_need_it_unless_they_shall_not() {
    for (prefault, is_whole) in [("true", true), ("false", false)] {
        let start = Start::new("ring", MANIFEST).with("RAMET_PREFAULT_POOLS", prefault).with("RAMET_POOL__1Mi", "16");
        let node = Node::start(&start).expect("ring runs everywhere");
        let pool = fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("its files").find_map(|file| {
            let path = file.expect("a file").path();
            fs::read_link(&path)
                .is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:ramet-pool"))
                .then_some(path)
        });
        let pool = pool.expect("the domain's pool");
        let has_all = || fs::metadata(&pool).is_ok_and(|pool| pool.blocks() * 512 >= pool.size());
        if is_whole {
            eventually("the pool to have its memory", || has_all().then_some(()));
        }
        assert_eq!(node.post("/one", b"x").status, 200);
        assert_eq!(has_all(), is_whole);
    }
}
