//! How a template makes its children, and what each of them takes from the host.

use std::collections::HashSet;

use libc::{
    SYS_clone3, SYS_close, SYS_dup3, SYS_epoll_ctl, SYS_exit_group, SYS_fcntl, SYS_mount, SYS_recvmsg, SYS_sendto,
    SYS_setns, SYS_setsid, SYS_unshare,
};

use super::{Numbers, Planner};
use crate::program::{Operation, Program};
use crate::zygote::{CONTROL_FD, DESCRIPTORS_PER_MESSAGE, OWN_FDS};

/// What a template has received of an order: it has nothing else open below.
const CHILDS_CONTROL_FD: u64 = 0;
const NAMESPACE_FD: u64 = 1;

impl Planner<'_> {
    /// Forks a child for each order, which has the child's control socket with it, and where it is to be numbered as
    /// in the forked process the first process of its PID namespace. What follows is the child's.
    pub(super) fn fork_children(&self, main: &mut Program) {
        // A sibling: what ends a child is the host's to know.
        let mut arguments = [0_u64; 11];
        let namespace = if self.numbers == Numbers::SameFromFirst { libc::CLONE_NEWPID } else { 0 };
        arguments[0] = (libc::CLONE_PARENT | namespace) as u64;
        if self.numbers != Numbers::Any {
            arguments[8] = main.data(&self.descriptor.threads[0].tid.to_ne_bytes());
            arguments[9] = 1;
        }
        let arguments = main.data(&arguments.map(u64::to_ne_bytes).concat());
        let number = main.data(&[0; size_of::<u64>()]);
        let control = self.number(CONTROL_FD);
        let namespaces = usize::from(self.numbers == Numbers::Same);

        let next = main.here();
        receive(main, "taking an order", control, 1 + namespaces);
        let end = main.on_zero();
        if self.numbers == Numbers::Same {
            let kind = libc::CLONE_NEWPID as u64;
            main.call("entering a PID namespace", SYS_setns, &[NAMESPACE_FD, kind]);
            main.call("closing a PID namespace", SYS_close, &[NAMESPACE_FD]);
        }
        main.call("forking a child", SYS_clone3, &[arguments, 88]).stored_at(number);
        let child = main.on_zero();
        // Should it end before it says anything, this is how it is known.
        let quietly = libc::MSG_NOSIGNAL as u64;
        main.call("telling a child's number", SYS_sendto, &[CHILDS_CONTROL_FD, number, 8, quietly]).or_not();
        main.call("closing a child's control socket", SYS_close, &[CHILDS_CONTROL_FD]);
        main.jump(next);
        main.land(end);
        main.call("ending", SYS_exit_group, &[0]);
        main.land(child);
        self.end_with_host(main);
        let on_exec = libc::O_CLOEXEC as u64;
        main.call("taking its control socket", SYS_dup3, &[CHILDS_CONTROL_FD, control, on_exec]);
        main.call("closing its control socket", SYS_close, &[CHILDS_CONTROL_FD]);
        // Otherwise what it says to its process group it would say to its host.
        main.call("beginning a session", SYS_setsid, &[]);
    }

    /// Sees as little of the host as the forked process did.
    pub(super) fn enter_namespaces(&self, main: &mut Program) {
        let theirs = self.descriptor.namespaces;
        let kinds = [
            (theirs.network, libc::CLONE_NEWNET),
            (theirs.ipc, libc::CLONE_NEWIPC),
            (theirs.name, libc::CLONE_NEWUTS),
            (theirs.control_groups, libc::CLONE_NEWCGROUP),
            (theirs.mounts, libc::CLONE_NEWNS),
        ];
        let kinds = kinds.iter().filter(|(has, _)| *has).fold(0, |kinds, (_, kind)| kinds | kind);
        if kinds != 0 {
            main.call("making its namespaces", SYS_unshare, &[kinds as u64]);
        }
        if theirs.mounts {
            // What the host mounts later is none of its business.
            let root = main.data(b"/\0");
            let private = libc::MS_REC | libc::MS_PRIVATE;
            main.call("making its mounts its own", SYS_mount, &[0, root, 0, private, 0]);
        }
        if theirs.mounts && theirs.processes {
            let (kind, place) = (main.data(b"proc\0"), main.data(b"/proc\0"));
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            main.call("mounting its processes", SYS_mount, &[kind, place, kind, flags, 0]);
        }
    }

    /// Takes the open files and gives them their numbers.
    pub(super) fn take_files(&self, main: &mut Program) {
        let control = self.number(CONTROL_FD);
        // They come as the lowest numbers, in the order of those that they are to have.
        for some in self.open.chunks(DESCRIPTORS_PER_MESSAGE) {
            receive(main, "taking its files", control, some.len()).gives(1);
        }
        // From the highest on none is put where one is that has not been moved yet.
        for (come, (fd, on_exec)) in self.open.iter().enumerate().rev() {
            let (come, fd) = (come as u64, u64::from(fd.cast_unsigned()));
            if fd != come {
                main.call("giving a file its number", SYS_dup3, &[come, fd, *on_exec]);
            } else if *on_exec == 0 {
                main.call("keeping a file on exec", SYS_fcntl, &[fd, libc::F_SETFD as u64, 0]);
            }
        }
        let is_one = |number: u64| self.open.iter().any(|(fd, _)| u64::from(fd.cast_unsigned()) == number);
        for come in (0..self.open.len() as u64).filter(|come| !is_one(*come)) {
            main.call("closing what a file came as", SYS_close, &[come]);
        }
        self.watch(main);
    }

    /// Has epolls watch what they watched.
    fn watch(&self, main: &mut Program) {
        // Once for each number: what was added by two and is known by one needs another for that moment.
        let spare = self.number(OWN_FDS + self.descriptor.shared.len());
        let mut added = HashSet::new();
        for (epoll, watched) in self.descriptor.watched() {
            let is_new = added.insert((epoll, watched.fd));
            let [epoll, file] = [epoll, watched.fd].map(|fd| u64::from(fd.cast_unsigned()));
            // `struct epoll_event` is packed.
            let event = main.data(&[&watched.events.to_ne_bytes()[..], &watched.data.to_ne_bytes()].concat());
            let add = |main: &mut Program, file| {
                main.call("watching a file", SYS_epoll_ctl, &[epoll, libc::EPOLL_CTL_ADD as u64, file, event]);
            };
            if is_new {
                add(main, file);
            } else {
                main.call("watching a file again", SYS_dup3, &[file, spare, libc::O_CLOEXEC as u64]);
                add(main, spare);
                main.call("watching a file again", SYS_close, &[spare]);
            }
        }
    }
}

/// Takes a message of one byte and `count` descriptors, which get the lowest numbers that are free. It gives 0 when
/// nobody will send any more.
fn receive<'p>(program: &'p mut Program, meaning: &'static str, control: u64, count: usize) -> &'p mut Operation {
    let byte = program.data(&[0]);
    let part = program.data(&[byte, 1].map(u64::to_ne_bytes).concat());
    // `struct cmsghdr` is two words long.
    let room = 16 + (count as u64 * 4).next_multiple_of(8);
    let rights = program.data(&vec![0; room as usize]);
    let message = [0, 0, part, 1, rights, room, 0].map(u64::to_ne_bytes).concat();
    let (pristine, used) = (program.data(&message), program.data(&message));
    // The kernel writes into it.
    program.copy(used, pristine, message.len() as u64);
    program.call(meaning, SYS_recvmsg, &[control, used, libc::MSG_CMSG_CLOEXEC as u64])
}
