//! `ramet check`: tries what a node needs, one thing after the other, and says what to do about what is missing.

use ramet_manifest::Transport;
use ramet_sys::{Limits, Network, Outcome, Part, Sandbox, SandboxReport, User};

use crate::transport::Findings;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What.
    pub name: String,
    /// Whether it works.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty where nothing is to be done.
    pub advice: String,
}

/// Whether something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Works,
    /// It does not, and a node goes without.
    Missing,
    /// It does not, and no node starts without.
    Fails,
}

/// Tries everything that a node with `transport`, and `uid_base` as in its settings, needs on this machine.
#[must_use]
pub fn check(transport: Transport, uid_base: u32) -> Vec<Item> {
    let mut items = vec![kernel()];
    let findings = Findings::gather(transport);
    items.extend(skmsg_steps(&findings));
    items.push(lane("ring: memfd and eventfd", &findings.ring));
    items.push(lane("socket: unix socket pairs", &findings.socket));
    items.push(shortcut());
    items.extend(sandbox(uid_base));
    items.push(match findings.choose(transport) {
        Ok(choice) => Item::works("transport", format!("{}: {}", choice.kind.as_str(), choice.reason)),
        Err(error) => Item {
            verdict: Verdict::Fails,
            ..Item::missing("transport", error.to_string(), "set `transport = \"auto\"`, or mend what failed above")
        },
    });
    items
}

impl Item {
    fn works(name: &str, detail: String) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Works, detail, advice: String::new() }
    }

    fn missing(name: &str, detail: String, advice: &str) -> Self {
        Self { verdict: Verdict::Missing, advice: advice.to_owned(), ..Self::works(name, detail) }
    }
}

fn kernel() -> Item {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let detail = format!("Linux {release}");
    if version >= (6, 1) {
        Item::works("kernel", detail)
    } else {
        Item::missing("kernel", detail, "ramet is tried on Linux 6.1 and newer")
    }
}

/// The steps of the loader's probe; those after the first failure were not tried.
fn skmsg_steps(findings: &Findings) -> Vec<Item> {
    let steps = findings.skmsg.iter().flat_map(|probe| &probe.steps);
    steps.map(|step| lane(&format!("skmsg: {}", step.name), &step.outcome)).collect()
}

fn lane(name: &str, outcome: &Result<(), String>) -> Item {
    match outcome {
        Ok(()) => Item::works(name, "yes".to_owned()),
        Err(text) => Item::missing(name, text.clone(), "without it a node takes the next best transport"),
    }
}

/// Only functions that serve HTTP by themselves have any use for it.
fn shortcut() -> Item {
    match crate::shortcut::load() {
        Ok(_) => Item::works("short-cut past TCP", "yes".to_owned()),
        Err(why) => {
            Item::missing("short-cut past TCP", why, "functions that serve HTTP by themselves are reached by plain TCP")
        }
    }
}

/// Forks a child into the sandbox of a function and looks at what it got.
fn sandbox(uid_base: u32) -> Vec<Item> {
    let is_root = rustix::process::geteuid().is_root();
    let sandbox = Sandbox {
        user: is_root.then_some(User { uid: uid_base, gid: uid_base }),
        network: Network::None,
        limits: Limits { memory_bytes: None, open_files: Some(1024), processes: Some(64) },
    };
    match ramet_sys::probe(&sandbox) {
        Ok(report) => Part::ALL.into_iter().filter_map(|part| sandbox_part(&report, part)).collect(),
        Err(error) => vec![Item {
            verdict: Verdict::Fails,
            ..Item::missing("sandbox", error.to_string(), "no function can be started without it")
        }],
    }
}

fn sandbox_part(report: &SandboxReport, part: Part) -> Option<Item> {
    let name = format!("sandbox: {part}");
    let advice = match part {
        Part::UserNamespace | Part::MountNamespace | Part::IpcNamespace | Part::NetworkNamespace => {
            "functions run without it; start the node as root, or let users make namespaces"
        }
        _ => "functions run without it; start the node as root",
    };
    match report.outcome(part) {
        Outcome::Applied => Some(Item::works(&name, "yes".to_owned())),
        Outcome::Refused(errno) => Some(Item::missing(&name, errno.to_string(), advice)),
        Outcome::NotWanted if part == Part::User => {
            Some(Item::missing(&name, "every function runs as the supervisor's user".to_owned(), advice))
        }
        Outcome::NotWanted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_says_what_works_and_which_transport_it_is() {
        let items = check(Transport::Auto, 200_000);
        let item = |name: &str| items.iter().find(|item| item.name == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(item("ring: memfd and eventfd").verdict, Verdict::Works);
        assert_eq!(item("sandbox: seccomp filter").verdict, Verdict::Works);
        assert_eq!(item("transport").verdict, Verdict::Works);
        assert!(items.iter().all(|item| (item.verdict == Verdict::Works) == item.advice.is_empty()));
    }
}
