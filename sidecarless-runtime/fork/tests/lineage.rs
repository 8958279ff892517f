//! A child may be forked on, from host to host: what it has not touched comes from the ancestor that has it.

#[path = "programs/witness.rs"]
mod witness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ramet_fork::{Family, Given, Host, LocalSource, PrepareError, prepare};
use ramet_sys::End;

use self::witness::Witness;

fn go(folder: &Path) -> PathBuf {
    folder.join("go")
}

fn host() -> Arc<Host> {
    Arc::new(Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host"))
}

/// Who copies a process has to know where the pages are that it has not touched.
#[test]
fn what_has_not_come_is_no_zeros_for_who_does_not_know_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = Witness::start(&[go(folder.path()).as_os_str()]);
    let prepared = prepare(target.pid()).expect("prepared");
    let source = LocalSource::open(prepared.seed.pid()).expect("the seed");
    let family = Family::start(host(), prepared.descriptor.clone(), Box::new(source)).expect("a family");
    let child = family.child(&Given::own().expect("streams")).expect("a child");
    let refused = prepare(child.pid).map(|_| ()).expect_err("it lacks pages");
    assert!(matches!(refused, PrepareError::Unfit { .. }) && refused.to_string().contains("userfaultfd"), "{refused}");
    child.pidfd.signal(End::Kill).expect("a signal");
    child.pidfd.wait().expect("its end");
}
