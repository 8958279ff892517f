//! Who a child is: users, groups and capabilities, and what it may use, which its host may decide for each child
//! (credentials(7), getrlimit(2)).
//!
//! A thread that is to have the number that it had is made with a right that the child itself may not have. So a child
//! changes its user and keeps what its host may, makes its threads, and then each of them gives up the rest.

use std::fs;
use std::io;

use libc::{
    SYS_capset, SYS_prctl, SYS_prlimit64, SYS_read, SYS_setfsgid, SYS_setfsuid, SYS_setgroups, SYS_setresgid,
    SYS_setresuid,
};

use ramet_sys::Limits;
use ramet_sys::thread::scheduling;

use super::{Given, ResumeError};
use crate::capture::{LIMITS, limits, this_process};
use crate::descriptor::{Capabilities, Credentials, ForkDescriptor, Marks, Scheduling};
use crate::program::Argument::{At, Word};
use crate::program::{Argument, Program};

/// What the program of a child reads of it: words of the machine.
const WORDS: usize = MAY_USE + 2 * LIMITS;
const USERS: usize = 0;
const GROUPS: usize = 4;
const SUPPLEMENTARY: usize = 8;
/// `PR_CAP_AMBIENT_RAISE`, or what changes nothing.
const AMBIENT: usize = 9;
/// Two times the argument of capset(2): while there is privilege left, and at last.
const CAPABILITIES_BETWEEN: usize = 10;
const CAPABILITIES: usize = 13;
/// For each kind of limit the limit and how far it may be raised.
const MAY_USE: usize = 16;

const CAPSET_BYTES: u64 = 24;
const WORD_BYTES: u64 = 8;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// How many capabilities there may be.
const CAPABILITY_BITS: u32 = 64;

/// `CAP_SETGID`, `CAP_SETUID` and `CAP_SETPCAP`: with these a process can become any other.
const CHANGES_USERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;

const RAISES_LIMITS: Capability = Capability { bit: 24, name: "CAP_SYS_RESOURCE" };
/// The faults of forks are for who has this, whatever `vm.unprivileged_userfaultfd` says (`UFFD_FEATURE_EVENT_FORK`).
pub(super) const TRACES: Capability = Capability { bit: 19, name: "CAP_SYS_PTRACE" };
pub(super) const ADMINISTRATES: Capability = Capability { bit: 21, name: "CAP_SYS_ADMIN" };

/// A right of a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capability {
    bit: u32,
    name: &'static str,
}

/// What the host itself is, and with that whom it can make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    own: Credentials,
    limits: [[u64; 2]; LIMITS],
    scheduling: Scheduling,
    marks: Marks,
}

impl Rights {
    /// Those of this process, and of the calling thread.
    pub(super) fn own() -> io::Result<Self> {
        let ramet_sys::thread::Scheduling { policy, flags, nice, priority, .. } =
            scheduling(0).map_err(io::Error::other)?;
        let scheduling = Scheduling { policy, flags, nice, priority };
        let limits = limits(&fs::read("/proc/self/limits")?).ok_or(io::ErrorKind::InvalidData)?;
        let marks = Marks::of(std::process::id().cast_signed());
        Ok(Self { own: this_process()?, limits, scheduling, marks })
    }

    /// When the host may run.
    pub(super) const fn scheduling(&self) -> Scheduling {
        self.scheduling
    }

    /// What is written about the host.
    pub(super) const fn marks(&self) -> Marks {
        self.marks
    }

    /// Whether the host has a capability.
    pub(super) const fn has(&self, capability: Capability) -> bool {
        self.own.capabilities.effective >> capability.bit & 1 == 1
    }

    /// Whether the host may do something that takes a capability.
    ///
    /// # Errors
    /// It has not got it.
    pub(super) const fn need(&self, capability: Capability, what: &'static str) -> Result<(), ResumeError> {
        if self.has(capability) { Ok(()) } else { Err(ResumeError::Unprivileged { what, needs: capability.name }) }
    }

    /// What a child may use. The host lowers all limits, and raises those of itself if it may.
    fn limits(&self, there: &[[u64; 2]], given: Option<Limits>) -> [[u64; 2]; LIMITS] {
        let may_raise = self.has(RAISES_LIMITS);
        let mut limits = self.limits;
        let mut set = |resource: u32, [soft, hard]: [u64; 2]| {
            let Some(limit) = limits.get_mut(resource as usize) else { return };
            let most = if may_raise { u64::MAX } else { limit[1] };
            *limit = [soft.min(most), hard.min(most)];
        };
        match given {
            Some(Limits { memory_bytes, open_files, processes }) => {
                let all = [
                    (libc::RLIMIT_CORE, Some(0)),
                    (libc::RLIMIT_DATA, memory_bytes),
                    (libc::RLIMIT_NOFILE, open_files),
                    (libc::RLIMIT_NPROC, processes),
                ];
                all.into_iter().for_each(|(resource, most)| _ = most.map(|most| set(resource, [most; 2])));
            }
            None => (0..).zip(there).for_each(|(resource, limit)| set(resource, *limit)),
        }
        limits
    }

    /// Whether children can be other users than the host.
    const fn may_change(&self) -> bool {
        self.own.capabilities.effective & CHANGES_USERS == CHANGES_USERS
    }

    /// Whether everything that a process may the host may, too.
    fn check(&self, there: &Credentials, given: &Given) -> Result<(), ResumeError> {
        let own = &self.own;
        if !self.may_change() {
            let mut sorted = [own.supplementary.clone(), there.supplementary.clone()];
            sorted.iter_mut().for_each(|groups| groups.sort_unstable());
            let is_same = own.users == there.users && own.groups == there.groups && sorted[0] == sorted[1];
            if !is_same || given.user.is_some() {
                let there = given.user.map_or(there.users[1], |user| user.uid);
                return Err(ResumeError::User { here: own.users[1], there });
            }
        }
        let wanted = if given.user.is_some() { 0 } else { there.capabilities.permitted };
        match wanted & !own.capabilities.permitted {
            0 => Ok(()),
            lacking => Err(ResumeError::Capabilities { lacking }),
        }
    }

    /// What the program of a child reads of who it is.
    ///
    /// # Errors
    /// The host may not make it.
    pub(super) fn identity(&self, descriptor: &ForkDescriptor, given: &Given) -> Result<Vec<u8>, ResumeError> {
        let there = &descriptor.credentials;
        self.check(there, given)?;
        let mut words = [0_u64; WORDS];
        let (users, groups, capabilities) = match given.user {
            Some(user) => ([user.uid; 4], [user.gid; 4], Capabilities::default()),
            None => {
                words[SUPPLEMENTARY] = there.supplementary.len() as u64;
                (there.users, there.groups, there.capabilities)
            }
        };
        words[USERS..GROUPS].copy_from_slice(&users.map(u64::from));
        words[GROUPS..SUPPLEMENTARY].copy_from_slice(&groups.map(u64::from));
        let keeps_ambient = given.user.is_none();
        words[AMBIENT] = if keeps_ambient { libc::PR_CAP_AMBIENT_RAISE } else { libc::PR_CAP_AMBIENT_IS_SET } as u64;
        let own = self.own.capabilities.permitted;
        let between = Capabilities { effective: own, permitted: own, ..capabilities };
        words[CAPABILITIES_BETWEEN..CAPABILITIES].copy_from_slice(&capset_words(between));
        words[CAPABILITIES..MAY_USE].copy_from_slice(&capset_words(capabilities));
        words[MAY_USE..].copy_from_slice(self.limits(&descriptor.limits, given.limits).as_flattened());
        Ok(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }
}

/// The argument of capset(2).
fn capset_words(capabilities: Capabilities) -> [u64; 3] {
    let Capabilities { effective, permitted, inheritable, .. } = capabilities;
    // Three words of 32 bits with the lower halves, three with the upper ones.
    let low = |set: u64| set & u64::from(u32::MAX);
    let high = |set: u64| set >> 32;
    [
        low(effective) | low(permitted) << 32,
        low(inheritable) | high(effective) << 32,
        high(permitted) | high(inheritable) << 32,
    ]
}

/// Where a child's program has what it has read of who it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'d> {
    words: u64,
    rights: &'d Rights,
    there: &'d Credentials,
}

impl<'d> Identity<'d> {
    /// Reads it from the host.
    pub(super) fn take(program: &mut Program, control: u64, rights: &'d Rights, there: &'d Credentials) -> Self {
        let words = program.data(&[0; WORDS * WORD_BYTES as usize]);
        let bytes = WORDS as u64 * WORD_BYTES;
        program.call("taking who it is", SYS_read, &[control, words, bytes]).gives(bytes);
        Self { words, rights, there }
    }

    const fn word(self, index: usize) -> Argument {
        At(self.words + index as u64 * WORD_BYTES)
    }

    /// Becomes the user and keeps all that the host may, as far as it may make another user at all.
    pub(super) fn become_user(self, program: &mut Program) {
        let Self { rights, there, .. } = self;
        if rights.may_change() {
            keep_capabilities(program, 1);
            let groups: Vec<u8> = there.supplementary.iter().flat_map(|group| group.to_ne_bytes()).collect();
            let groups = program.data(&groups);
            program.call_with("taking its groups", SYS_setgroups, &[self.word(SUPPLEMENTARY), Word(groups)]);
            let three = |first: usize| [first, first + 1, first + 2].map(|index| self.word(index));
            program.call_with("taking its group", SYS_setresgid, &three(GROUPS));
            program.call_with("taking its user", SYS_setresuid, &three(USERS));
            self.set_capabilities(program, CAPABILITIES_BETWEEN);
            // These give the ones before, whatever happens; nothing can happen here.
            program.call_with("taking its group", SYS_setfsgid, &[self.word(GROUPS + 3)]).or_not();
            program.call_with("taking its user", SYS_setfsuid, &[self.word(USERS + 3)]).or_not();
            // Changing the filesystem's user took some away.
            self.set_capabilities(program, CAPABILITIES_BETWEEN);
            keep_capabilities(program, 0);
            for capability in bits(there.capabilities.ambient) {
                let what = [Word(libc::PR_CAP_AMBIENT as u64), self.word(AMBIENT), Word(capability), Word(0), Word(0)];
                program.call_with("keeping ambient capabilities", SYS_prctl, &what);
            }
            for capability in bits(rights.own.capabilities.bounding & !there.capabilities.bounding) {
                program.call("giving up capabilities", SYS_prctl, &[libc::PR_CAPBSET_DROP as u64, capability]);
            }
            if there.secure_bits != 0 {
                let what = [libc::PR_SET_SECUREBITS as u64, there.secure_bits.into()];
                program.call("setting its secure bits", SYS_prctl, &what);
            }
        }
        if there.no_new_privileges {
            let what = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0];
            program.call("giving up new privileges", SYS_prctl, &what);
        }
    }

    /// Takes what the child may use.
    pub(super) fn limit(self, program: &mut Program) {
        for resource in 0..LIMITS {
            let at = self.words + (MAY_USE + 2 * resource) as u64 * WORD_BYTES;
            program.call("limiting itself", SYS_prlimit64, &[0, resource as u64, at, 0]);
        }
    }

    /// Gives up what the host may and the child may not.
    pub(super) fn give_up_rest(self, program: &mut Program) {
        self.set_capabilities(program, CAPABILITIES);
    }

    fn set_capabilities(self, program: &mut Program, index: usize) {
        let header = program.data(&u64::from(CAPABILITY_VERSION_3).to_ne_bytes());
        let at = self.words + index as u64 * WORD_BYTES;
        program.call("taking its capabilities", SYS_capset, &[header, at]);
    }
}

fn keep_capabilities(program: &mut Program, keep: u64) {
    program.call("keeping capabilities", SYS_prctl, &[libc::PR_SET_KEEPCAPS as u64, keep]);
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..u64::from(CAPABILITY_BITS)).filter(move |bit| set >> bit & 1 == 1)
}

const _: () = assert!((MAY_USE - CAPABILITIES) as u64 * WORD_BYTES == CAPSET_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_lacks_is_named_with_what_to_do() {
        let mut rights = Rights::own().expect("rights");
        rights.own.capabilities.effective = 1 << TRACES.bit;
        rights.need(TRACES, "serve").expect("it has it");
        let error = rights.need(ADMINISTRATES, "make a PID namespace").expect_err("it has not").to_string();
        let expected = "this host may not make a PID namespace: that takes CAP_SYS_ADMIN";
        assert!(error.starts_with(expected) && error.ends_with("as root"), "{error}");
    }
}
