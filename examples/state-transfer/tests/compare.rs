//! The three ways that a table takes from the function that has built it to the next, measured in turn:
//!
//! ```text
//! cargo build --release --bins && cargo test --release -p state-transfer -- --nocapture
//! ```
//!
//! `RAMET_TEST_MIB` sets the table's size and `RAMET_TEST_ROUNDS` how often each way is measured.

use std::time::{Duration, Instant};

use ramet_tests::node::{program, skipped};
use ramet_tests::{Client, Node, Start, eventually};

/// Two functions that share a chain, and one that there will be.
fn manifest(successor: Option<&Seed>) -> String {
    let program = program("state-transfer");
    let function = |name: &str, more: &str| {
        format!(
            "
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {{name: {name}}}
spec: {{command: ['{}', {name}]{more}}}
",
            program.display()
        )
    };
    let chain = |name: &str, path: &str, steps: &str| {
        format!(
            "
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {{name: {name}}}
spec: {{steps: [{steps}], route: [{{path: {path}}}], deadline: 60s, maxBody: 1Gi}}
"
        )
    };
    let mut text = [
        function("producer", ", start: fork"),
        function("consumer", ""),
        chain("build", "/build", "{function: producer}"),
        chain("dump", "/dump", "{function: producer}"),
        chain("load", "/load", "{function: consumer}"),
        chain("pool", "/pool", "{function: producer}, {function: consumer}"),
    ]
    .concat();
    if let Some(Seed { name, address, handle, key_file }) = successor {
        let start = format!(
            ", start: {{remote-fork: {{address: '{address}', handle: '{handle}', keyFile: '{}'}}}}",
            key_file.path().display()
        );
        text.push_str(&function(name, &start));
        text.push_str(&chain("lookup", "/lookup", &format!("{{function: {name}}}")));
        text.push_str(&chain("sum", "/sum", &format!("{{function: {name}}}")));
    }
    text
}

/// Where the producer can be forked.
struct Seed {
    name: String,
    address: String,
    handle: String,
    key_file: tempfile::NamedTempFile,
}

fn prepare(node: &Node, round: usize) -> Seed {
    let listed = node.ramet(&["get", "instances", "producer", "-o", "json"]);
    let instances: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("instances");
    let target = format!("instance/{}", instances[0]["id"]);
    let printed = eventually("the producer to be prepared", || {
        let output = node.ramet(&["fork", "prepare", &target, "-o", "json"]);
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || why.contains("try again"), "{why}");
        output.status.success().then_some(output.stdout)
    });
    let printed: serde_json::Value = serde_json::from_slice(&printed).expect("a seed");
    let text = |field: &str| printed[field].as_str().expect("text").to_owned();
    let key_file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(key_file.path(), text("key")).expect("written");
    Seed { name: format!("successor-{round}"), address: text("address"), handle: text("handle"), key_file }
}

fn ask(client: &mut Client, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let answer = client.request(method, target, &[], body).expect("an answer");
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    answer.body
}

/// The time until the next function has answered with one number of the table.
fn by_fork(node: &Node, client: &mut Client, round: usize, at: usize) -> (Duration, Vec<u8>) {
    let begun = Instant::now();
    let seed = prepare(node, round);
    let path = node.write_manifest("with-successor.yaml", &manifest(Some(&seed)));
    let applied = node.ramet(&["apply", "-f", &path.display().to_string()]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let answer = ask(client, "POST", &format!("/lookup?at={at}"), b"");
    (begun.elapsed(), answer)
}

fn by_pool(client: &mut Client, at: usize) -> (Duration, Vec<u8>) {
    let begun = Instant::now();
    let answer = ask(client, "POST", &format!("/pool?at={at}"), b"");
    (begun.elapsed(), answer)
}

fn by_http(client: &mut Client, at: usize) -> (Duration, Vec<u8>) {
    let begun = Instant::now();
    let table = ask(client, "GET", "/dump", b"");
    let answer = ask(client, "POST", &format!("/load?at={at}"), &table);
    (begun.elapsed(), answer)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn a_state_goes_by_fork_through_the_pool_and_over_http() {
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        assert!(std::env::var_os("CI").is_none(), "CI must run the fork's tests as root");
        return skipped("only root can give forked processes their memory as they touch it");
    }
    let (mib, rounds) = (setting("RAMET_TEST_MIB", 64), setting("RAMET_TEST_ROUNDS", 3));
    let numbers = (mib << 20) / size_of::<u64>();
    let manifest = manifest(None);
    let start = Start::new("ring", &manifest).with("RAMET_POOL__1Mi", (mib + 8).to_string());
    let node = Node::start(&start).expect("ring runs everywhere");
    let mut client = node.client();
    ask(&mut client, "POST", &format!("/build?numbers={numbers}"), b"");
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 0..rounds {
        let at = (round + 1) * numbers / (rounds + 1);
        let fork = by_fork(&node, &mut client, round, at);
        let pool = by_pool(&mut client, at);
        let http = by_http(&mut client, at);
        let right = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string().into_bytes();
        for (way, (time, answer)) in times.iter_mut().zip([fork, pool, http]) {
            assert_eq!(answer, right);
            way.push(time);
        }
    }
    // The whole table is the successor's, not only what it has touched.
    let whole = (0..numbers as u64).fold(0_u64, |sum, at| sum.rotate_left(1) ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    assert_eq!(ask(&mut client, "POST", "/sum", b""), whole.to_string().into_bytes());
    let [fork, pool, http] = times.map(|times| median(times).as_secs_f64() * 1e3);
    eprintln!("{mib} MiB from a function to the next, until that has answered, medians of {rounds}:");
    eprintln!("  the next is the first, forked there   {fork:8.1} ms   1.00×");
    eprintln!("  through the pool                      {pool:8.1} ms   {:.2}×", pool / fork);
    eprintln!("  over HTTP                             {http:8.1} ms   {:.2}×", http / fork);
}
