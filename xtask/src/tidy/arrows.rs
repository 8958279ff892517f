//! Which crate may use which: the arrows of ARCHITECTURE.md, so that a new one is a decision and no accident.

use super::Finding;
use super::crates::{Package, Section, Use};

/// What one crate may use of ours.
#[derive(Clone, Copy, Debug)]
enum Uses {
    Only(&'static [&'static str]),
    /// It stands on top; nothing uses it.
    Anything,
}

use Uses::{Anything, Only};

/// Every crate, from the bottom to the top, and the reason for what it may use.
const ALLOWED: &[(&str, Uses)] = &[
    // Layouts that kernel and user space share; it must compile for both.
    ("ramet-common", Only(&[])),
    // SPROXY runs in the kernel, where only the layouts exist.
    ("ramet-ebpf", Only(&["ramet-common"])),
    // It fills the kernel's maps, whose layouts are common. It knows nothing of requests.
    ("ramet-loader", Only(&["ramet-common"])),
    // Slots, lanes and ledger words carry common ids. Small, because it is unsafe.
    ("ramet-shm", Only(&["ramet-common"])),
    // Pools, messages and endpoints are built from shared segments.
    ("ramet-dataplane", Only(&["ramet-shm", "ramet-common"])),
    // Its messages carry the data plane's types; a copy of them would have to be kept equal by hand.
    ("ramet-control", Only(&["ramet-dataplane", "ramet-common"])),
    // Processes and sandboxes, whatever runs in them.
    ("ramet-sys", Only(&[])),
    // Reads of memory, whoever's. Small, because it is unsafe.
    ("ramet-rdma", Only(&[])),
    // It knows processes, pages and hosts, and no chains: usable on any process.
    ("ramet-fork", Only(&["ramet-sys", "ramet-rdma"])),
    // Text in, validated types out: testable without a node.
    ("ramet-manifest", Only(&[])),
    // Joining a node is a control conversation; after it there is only the data plane.
    ("ramet-sdk", Only(&["ramet-dataplane", "ramet-control", "ramet-common"])),
    // It is told everything over the control socket; it neither starts processes nor loads programs.
    ("ramet-gateway", Only(&["ramet-dataplane", "ramet-control", "ramet-common"])),
    // The supervisor starts the gateway as a process and never links it, nor what functions link.
    (
        "ramet-runtime",
        Only(&[
            "ramet-common",
            "ramet-loader",
            "ramet-shm",
            "ramet-dataplane",
            "ramet-control",
            "ramet-sys",
            "ramet-rdma",
            "ramet-fork",
            "ramet-manifest",
        ]),
    ),
    // Chains are measured from the outside, as a client. The steps of a fork have no outside: the engine times itself.
    // A hop is measured at both its ends, which are on the data plane like any function. Sizes are written as in
    // manifests.
    (
        "ramet-bench",
        Only(&[
            "ramet-common",
            "ramet-loader",
            "ramet-shm",
            "ramet-dataplane",
            "ramet-control",
            "ramet-sys",
            "ramet-fork",
            "ramet-manifest",
        ]),
    ),
    // The binary has the two daemons as subcommands. It is no function.
    (
        "ramet",
        Only(&[
            "ramet-common",
            "ramet-loader",
            "ramet-shm",
            "ramet-dataplane",
            "ramet-control",
            "ramet-sys",
            "ramet-rdma",
            "ramet-fork",
            "ramet-manifest",
            "ramet-gateway",
            "ramet-runtime",
            "ramet-bench",
        ]),
    ),
    // The whole system is what these are about.
    ("ramet-tests", Anything),
    ("xtask", Anything),
];

/// What a crate's tests may use beyond that, and the reason.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    // The one suite for all transports needs SPROXY loaded for the one in the kernel.
    ("ramet-dataplane", &["ramet-loader"]),
];

/// Where crates may be added without a row: they are on top, and show what a user would do.
const EXAMPLES: &str = "examples/";

pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let found = |text: String| Finding::new(&package.manifest, 1, text);
    let row = ALLOWED.iter().find(|(name, _)| *name == package.name);
    let uses = match row {
        Some((_, uses)) => *uses,
        None if package.manifest.starts_with(EXAMPLES) => Anything,
        None => {
            let name = &package.name;
            return vec![found(format!("{name} is new; say in xtask/src/tidy/arrows.rs what it may use, and why"))];
        }
    };
    let Only(allowed) = uses else { return Vec::new() };
    let in_tests = ALLOWED_IN_TESTS.iter().find(|(name, _)| *name == package.name).map_or(&[][..], |(_, used)| *used);
    let is_allowed = |used: &Use| {
        let name = used.name.as_str();
        allowed.contains(&name) || used.section == Section::Tests && in_tests.contains(&name)
    };
    let forbidden = package.uses.iter().filter(|used| !is_allowed(used));
    let text = |used: &Use| {
        let name = &used.name;
        format!("{} must not use {name}; see the table of crates in ARCHITECTURE.md", package.name)
    };
    forbidden.map(|used| found(text(used))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, folder: &str, uses: &[&str]) -> usize {
        found_in(Section::Product, name, folder, uses)
    }

    fn found_in(section: Section, name: &str, folder: &str, uses: &[&str]) -> usize {
        let uses = uses.iter().map(|used| Use { name: (*used).to_owned(), section }).collect();
        check(&[Package { name: name.into(), manifest: format!("{folder}/Cargo.toml"), uses, ..Package::default() }])
            .len()
    }

    #[test]
    fn arrows_that_are_not_drawn_are_found() {
        assert_eq!(found("ramet-gateway", "gateway", &["ramet-runtime", "ramet-sys"]), 2);
        assert_eq!(found("ramet-common", "ebpf/common", &["ramet-shm"]), 1);
        assert_eq!(found("ramet-gateway", "gateway", &["ramet-control", "ramet-common"]), 0);
        assert_eq!(found("ramet-tests", "tests", &["ramet-runtime"]), 0);
    }

    #[test]
    fn tests_may_use_what_the_product_may_not() {
        assert_eq!(found("ramet-dataplane", "dataplane", &["ramet-loader"]), 1);
        assert_eq!(found_in(Section::Tests, "ramet-dataplane", "dataplane", &["ramet-loader"]), 0);
        assert_eq!(found_in(Section::Tests, "ramet-gateway", "gateway", &["ramet-loader"]), 1);
    }

    #[test]
    fn a_new_crate_is_found_unless_it_is_an_example() {
        assert_eq!(found("ramet-new", "new", &[]), 1);
        assert_eq!(found("new", "examples/new", &["ramet-sdk"]), 0);
    }

    #[test]
    fn no_arrow_leads_up() {
        for (at, (name, uses)) in ALLOWED.iter().enumerate() {
            let Only(used) = uses else { continue };
            for used in *used {
                let below = ALLOWED[..at].iter().any(|(lower, _)| lower == used);
                assert!(below, "{name} uses {used}, which is not below it");
            }
        }
    }
}
