//! What a process of another node must be to be made an instance here. Whoever prepared it has said so, and may be
//! hostile: its copies are given users and limits of this node, and the rest of an instance's sandbox it must have
//! already.

use ramet_fork::ForkDescriptor;
use ramet_fork::descriptor::Namespaces;
use ramet_manifest::ByteCount;
use ramet_sys::{Limits, seccomp};

/// Why it cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error(
        "its seed was not prepared between two requests of an instance; prepare it there by `ramet fork prepare \
         instance/ID`"
    )]
    Serves,
    #[error(
        "its seed is not confined as instances of this node are: {0}; prepare an instance of a node of this release"
    )]
    Unconfined(&'static str),
    #[error("its seed has {has} of private memory, and its instances may have {may} here; raise `resources.memory`")]
    TooLarge { has: ByteCount, may: ByteCount },
}

/// Whether copies wait to be told who they are, and are confined as instances are.
pub(super) fn check(descriptor: &ForkDescriptor, limits: &Limits) -> Result<(), Unfit> {
    // And threads that serve would go on with that.
    if !descriptor.awaits_identity || descriptor.threads.len() != 1 {
        return Err(Unfit::Serves);
    }
    if !descriptor.credentials.no_new_privileges {
        return Err(Unfit::Unconfined("it may have new privileges"));
    }
    let has = |own: &Vec<u64>| descriptor.filters.iter().any(|filter| filter.instructions == *own);
    if !seccomp::programs().is_ok_and(|own| own.iter().all(has)) {
        return Err(Unfit::Unconfined("it has other system call filters, or none"));
    }
    let Namespaces { network, ipc, mounts, processes, .. } = descriptor.namespaces;
    if !(network && ipc && mounts && processes) {
        return Err(Unfit::Unconfined("it shares namespaces with its host"));
    }
    let has = descriptor.areas.iter().filter(|area| area.is_data()).map(|area| area.bytes).sum();
    match limits.memory_bytes {
        Some(may) if may < has => Err(Unfit::TooLarge { has: ByteCount::new(has), may: ByteCount::new(may) }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use ramet_fork::descriptor::Filter;

    use super::*;

    /// Whatever a peer says it has prepared, it is no instance unless all of this is so.
    #[test]
    fn what_is_not_confined_is_no_instance() {
        let mut process = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("a process");
        let prepared = ramet_fork::prepare(process.id().cast_signed());
        process.kill().and_then(|()| process.wait()).expect("ended");
        let mut descriptor = prepared.expect("prepared").descriptor;
        let limits = Limits { memory_bytes: Some(1 << 30), ..Limits::default() };
        let refused = |descriptor: &ForkDescriptor| check(descriptor, &limits).expect_err("it is not confined");

        assert_eq!(refused(&descriptor), Unfit::Serves);
        descriptor.awaits_identity = true;
        assert_eq!(refused(&descriptor), Unfit::Unconfined("it may have new privileges"));
        descriptor.credentials.no_new_privileges = true;
        assert_eq!(refused(&descriptor), Unfit::Unconfined("it has other system call filters, or none"));
        let own = seccomp::programs().expect("filters").map(|instructions| Filter { instructions, flags: 0 });
        descriptor.filters = own[..1].to_vec();
        assert_eq!(refused(&descriptor), Unfit::Unconfined("it has other system call filters, or none"));
        descriptor.filters = own.to_vec();
        descriptor.filters.push(Filter { instructions: vec![0x7fff_0000_0000_0006], flags: 0 });
        assert_eq!(refused(&descriptor), Unfit::Unconfined("it shares namespaces with its host"));
        let namespaces = &mut descriptor.namespaces;
        (namespaces.ipc, namespaces.mounts, namespaces.processes) = (true, true, true);
        assert_eq!(refused(&descriptor), Unfit::Unconfined("it shares namespaces with its host"));
        descriptor.namespaces.network = true;
        assert_eq!(check(&descriptor, &limits), Ok(()));
        let less = Limits { memory_bytes: Some(4096), ..limits };
        assert!(matches!(check(&descriptor, &less), Err(Unfit::TooLarge { .. })));
        descriptor.threads.push(descriptor.threads[0].clone());
        assert_eq!(refused(&descriptor), Unfit::Serves);
    }
}
