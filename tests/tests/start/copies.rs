//! What copies are: as confined as an instance that executes its command, counted, and never twice the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ramet_tests::{Node, Start, eventually};

use super::{can_fork, instances, manifest, wait_for_ready};

/// What a copy says when it has become itself: its token and its first random number.
fn sayings(node: &Node) -> BTreeSet<(String, String, String)> {
    let logs = node.ramet(&["logs", "a"]);
    let text = String::from_utf8_lossy(&logs.stdout).into_owned();
    let words = text.lines().filter_map(|line| line.split_once("copy ").map(|(_, said)| said));
    let said = words.filter_map(|said| match said.split(' ').collect::<Vec<_>>()[..] {
        [instance, token, number] => Some((instance.to_owned(), token.to_owned(), number.to_owned())),
        _ => None,
    });
    said.collect()
}

pub(super) fn scale_to(node: &Node, arguments: &str, replicas: u32) {
    let path = node.write_manifest("scaled.yaml", &manifest(arguments, &format!(", replicas: {replicas}")));
    let applied = node.ramet(&["apply", "-f", &path.display().to_string()]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    wait_for_ready(node, f64::from(replicas));
}

#[test]
fn a_thousand_copies_have_no_token_and_no_random_number_twice() {
    if !can_fork() {
        return;
    }
    const COPIES: usize = 1000;
    let node = Node::start(&Start::new("ring", &manifest("", ", replicas: 64"))).expect("ring runs everywhere");
    wait_for_ready(&node, 64.0);
    let mut said = sayings(&node);
    while said.len() < COPIES {
        scale_to(&node, "", 1);
        scale_to(&node, "", 64);
        said.extend(sayings(&node));
    }
    let forked = node.metric("ramet_instance_starts_total", "kind=\"fork\"");
    assert_eq!(said.len() as f64, forked, "each copy has said it once");
    let tokens: BTreeSet<_> = said.iter().map(|(_, token, _)| token).collect();
    let numbers: BTreeSet<_> = said.iter().map(|(.., number)| number).collect();
    assert_eq!((tokens.len(), numbers.len()), (said.len(), said.len()));
    eprintln!("{} copies, no token and no number twice", said.len());
}

#[test]
fn a_generator_that_no_hook_seeds_gives_every_copy_the_same() {
    if !can_fork() {
        return;
    }
    let node = Node::start(&Start::new("ring", &manifest(", --forgetful", ", replicas: 4"))).expect("ring");
    wait_for_ready(&node, 4.0);
    let said = sayings(&node);
    let numbers: BTreeSet<_> = said.iter().map(|(.., number)| number).collect();
    assert_eq!((said.len(), numbers.len()), (3, 1), "the test above can fail: {said:?}");
}

/// What the kernel says of a process's confinement, without what differs from one process to the next.
pub(super) fn confinement(pid: u64) -> BTreeMap<String, String> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("a process that runs");
    let status = read("status");
    let mut all = BTreeMap::new();
    let said = ["Umask", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    for (name, value) in status.lines().filter_map(|line| line.split_once(':')) {
        if said.contains(&name) || name == "Seccomp_filters" || name.starts_with("Sig") {
            // What signals wait, and for whom, is no confinement.
            if !["SigQ", "SigPnd"].contains(&name) {
                all.insert(name.to_owned(), value.trim().to_owned());
            }
        }
        if name == "NStgid" {
            all.insert("process namespaces".to_owned(), value.split_whitespace().count().to_string());
        }
    }
    all.insert("limits".to_owned(), read("limits"));
    all.insert("oom_score_adj".to_owned(), read("oom_score_adj"));
    all.insert("personality".to_owned(), read("personality"));
    for name in ["cwd", "root"] {
        let link = fs::read_link(format!("/proc/{pid}/{name}")).expect("a link");
        all.insert(name.to_owned(), link.display().to_string());
    }
    // Who makes itself undumpable has a folder that is root's.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/mem")).expect("a file"));
    all.insert("owner of mem".to_owned(), owner.to_string());
    let mut kinds: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("descriptors")
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|to| to.display().to_string())
        .map(|to| if to.starts_with('/') { to } else { to.split(':').next().unwrap_or_default().to_owned() })
        .collect();
    kinds.sort();
    all.insert("descriptors".to_owned(), kinds.join(" "));
    all
}

fn namespaces(pid: &str) -> BTreeMap<String, String> {
    let all = fs::read_dir(format!("/proc/{pid}/ns")).expect("namespaces").flatten();
    all.map(|entry| {
        let link = fs::read_link(entry.path()).expect("a link").display().to_string();
        (entry.file_name().to_string_lossy().into_owned(), link)
    })
    .collect()
}

fn users(pid: u64) -> BTreeSet<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let lines = status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
    lines.flat_map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn a_copy_is_confined_as_an_instance_that_executes_its_command() {
    if !can_fork() {
        return;
    }
    for transport in ramet_tests::TRANSPORTS {
        let limits = "resources: {memory: 512Mi, openFiles: 77, processes: 33}";
        let manifest = manifest("", &format!(", replicas: 2, {limits}"));
        let Some(node) = Node::start(&Start::new(transport, &manifest)) else { continue };
        wait_for_ready(&node, 2.0);
        let of = |origin: &str| {
            let all = instances(&node);
            let one = all.iter().find(|one| one["origin"] == origin).expect("one of each");
            one["pid"].as_u64().expect("a number")
        };
        let (parent, copy) = (of("exec"), of("fork"));
        assert_eq!(confinement(copy), confinement(parent), "{transport}");
        assert_eq!(users(copy).len(), 1, "one user and group, and nothing else to change to");
        assert!(users(copy).is_disjoint(&users(parent)), "{:?}", users(copy));
        // Its own pool, and nothing of its parent's, in which there is what others have sent.
        let pools = |pid: u64| {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process that runs");
            maps.lines().filter(|line| line.contains("ramet-pool")).count()
        };
        assert_eq!((pools(copy), pools(parent)), (1, 1), "{transport}");
        let (host, parent, copy) = (namespaces("self"), namespaces(&parent.to_string()), namespaces(&copy.to_string()));
        let own = |of: &BTreeMap<String, String>| -> BTreeSet<String> {
            of.iter().filter(|(name, link)| host.get(*name) != Some(*link)).map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(own(&copy), own(&parent), "{transport}");
        assert!(own(&copy).contains("net"), "{:?}", own(&copy));
        for name in own(&copy) {
            assert_ne!(copy[&name], parent[&name], "a namespace of its own: {name}");
        }
    }
}

#[test]
fn starts_are_counted_by_kind_and_timed_by_phase() {
    if !can_fork() {
        return;
    }
    let node = Node::start(&Start::new("ring", &manifest("", ", replicas: 5"))).expect("ring runs everywhere");
    wait_for_ready(&node, 5.0);
    let count = |kind: &str, phase: &str| {
        node.metric("ramet_instance_start_seconds_count", &format!("kind=\"{kind}\",phase=\"{phase}\""))
    };
    let sum = |kind: &str, phase: &str| {
        node.metric("ramet_instance_start_seconds_sum", &format!("kind=\"{kind}\",phase=\"{phase}\""))
    };
    for (kind, starts, phases) in
        [("exec", 1.0, &["spawn", "greet", "join"][..]), ("fork", 4.0, &["open", "fork", "begin", "join"])]
    {
        assert_eq!(node.metric("ramet_instance_starts_total", &format!("kind=\"{kind}\"")), starts);
        let total = sum(kind, "total");
        assert_eq!(count(kind, "total"), starts);
        let mut parts = 0.0;
        for phase in phases {
            assert_eq!(count(kind, phase), starts, "{kind} {phase}");
            assert!(sum(kind, phase) > 0.0, "{kind} {phase}");
            parts += sum(kind, phase);
        }
        assert!(parts <= total, "{kind}: the parts take {parts} s, all of it {total} s");
        let unbounded =
            node.metric("ramet_instance_start_seconds_bucket", &format!("kind=\"{kind}\",phase=\"total\",le=\"+Inf\""));
        assert_eq!(unbounded, starts);
    }
    assert_eq!(count("fork", "template"), 1.0, "one for all copies");
    assert_eq!(count("exec", "fork"), 0.0);
    let described = node.ramet(&["get", "instances"]);
    let text = String::from_utf8_lossy(&described.stdout).into_owned();
    eventually("people to see the kinds", || (text.contains("exec") && text.contains("fork")).then_some(()));
}

/// The names of a node's seeds.
fn seeds(node: &Node) -> BTreeSet<String> {
    let listed = node.ramet(&["fork", "list", "-o", "json"]);
    let seeds: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("seeds");
    let seeds = seeds.as_array().expect("seeds").iter();
    seeds.map(|seed| seed["handle"].as_str().expect("a name").to_owned()).collect()
}

/// Copies of one version are copies of one moment, and another version begins with another.
#[test]
fn a_version_has_one_seed_for_as_long_as_it_lives() {
    if !can_fork() {
        return;
    }
    let node = Node::start(&Start::new("ring", &manifest("", ", replicas: 2"))).expect("ring runs everywhere");
    wait_for_ready(&node, 2.0);
    let first = seeds(&node);
    assert_eq!(first.len(), 1);
    scale_to(&node, "", 4);
    scale_to(&node, "", 1);
    assert_eq!(seeds(&node), first, "how many there are is no other version");
    scale_to(&node, ", another", 3);
    let second = seeds(&node);
    eventually("the old seed to be given up", || (seeds(&node).len() == 1).then_some(()));
    assert!(seeds(&node).is_disjoint(&first) && seeds(&node).is_subset(&second));
    // When it is taken away another one is made, of an instance that executes its command rather than of a copy.
    let revoked = node.ramet(&["fork", "revoke", "--all"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    scale_to(&node, ", another", 5);
    eventually("another seed", || (seeds(&node).len() == 1).then_some(()));
    assert!(seeds(&node).is_disjoint(&second));
    let executed = instances(&node).iter().filter(|one| one["origin"] == "exec").count();
    assert_eq!(executed, 1, "{}", node.log());
}
