//! What an instance of a function executes, as whom, and with what.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ramet_common::InstanceId;
use ramet_dataplane::TransportKind;
use ramet_manifest::{Function, Http, NodeSettings};
use ramet_sys::{Limits, Network, Output, Program, Sandbox, User};

use crate::server::Way;

/// Where programs are looked for when neither the function nor the supervisor has a PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an instance needs itself: control socket, pool, two sockets, and a few while they are handed over.
const OPEN_FILES_SKMSG: u64 = 16;
/// A lane is one or two descriptors at each end, and a function may have 64 instances of dozens of others beside it.
const OPEN_FILES_LANES: u64 = 16_384;

/// No folder of PATH has the program.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no program \"{name}\" in PATH ({path}); name it by an absolute path, or by one with a `/`, which is \
    relative to the manifest"
)]
pub(crate) struct NotFound {
    name: String,
    path: String,
}

/// The program of an instance, without its standard input.
#[derive(Debug)]
pub(crate) struct Launch {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Launch {
    /// What `instance` of `function` executes.
    pub(crate) fn new(function: &Function, instance: InstanceId, way: Option<&Way>) -> Result<Self, NotFound> {
        let spec = &function.spec;
        let search = spec.env.get("PATH").cloned();
        let search = search.or_else(|| std::env::var("PATH").ok()).unwrap_or_else(|| DEFAULT_PATH.to_owned());
        let name = spec.command.first().map_or("", String::as_str);
        let path = find(name, &search).ok_or_else(|| NotFound { name: name.to_owned(), path: search.clone() })?;
        let own = [
            ("PATH", search),
            ("HOME", "/".to_owned()),
            ("RAMET_NAMESPACE", function.metadata.namespace.to_string()),
            ("RAMET_FUNCTION", function.metadata.name.to_string()),
            ("RAMET_INSTANCE", instance.to_string()),
        ];
        let own = own.into_iter().chain(way.map(Way::variable)).map(|(name, value)| (name.to_owned(), value));
        let all = own.chain(spec.env.clone()).collect::<std::collections::BTreeMap<_, _>>();
        Ok(Self {
            path,
            arguments: spec.command.iter().map(OsString::from).collect(),
            environment: all.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        })
    }

    pub(crate) fn with_stdin(self, stdin: OwnedFd) -> Program {
        let Self { path, arguments, environment } = self;
        Program { path, arguments, environment, folder: PathBuf::from("/"), stdin, output: Output::Captured }
    }
}

fn find(name: &str, search: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let executable =
        |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    search.split(':').map(|folder| Path::new(folder).join(name)).find(executable)
}

/// The sandbox of an instance. Each has a user and a group of its own, so that no two of them can touch each other's
/// processes, and the kernel counts each one's processes apart.
///
/// Its descriptors on the data plane do not count as its open files.
pub(crate) fn sandbox(
    function: &Function,
    instance: InstanceId,
    settings: &NodeSettings,
    transport: TransportKind,
) -> Sandbox {
    let is_root = rustix::process::geteuid().is_root();
    let id = settings.uid_base + instance.index();
    Sandbox {
        user: is_root.then_some(User { uid: id, gid: id }),
        network: match function.spec.http.as_deref().and_then(Http::port) {
            // So many connections can it have at once as requests in service.
            Some(_) => Network::Own { sockets: function.spec.concurrency },
            None => Network::None,
        },
        limits: limits(function, transport),
    }
}

/// What each instance of a function may use.
pub(crate) fn limits(function: &Function, transport: TransportKind) -> Limits {
    let own_files = match transport {
        TransportKind::SkMsg => OPEN_FILES_SKMSG,
        TransportKind::Ring | TransportKind::Socket => OPEN_FILES_LANES,
    };
    let resources = &function.spec.resources;
    Limits {
        memory_bytes: resources.memory.map(ramet_manifest::ByteCount::bytes),
        open_files: Some(u64::from(resources.open_files) + own_files),
        processes: Some(resources.processes.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert_eq!(find("sh", "/nowhere:/bin"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("sh", "/nowhere"), None);
        assert_eq!(find("/some/where", "/bin"), Some(PathBuf::from("/some/where")));
    }
}
