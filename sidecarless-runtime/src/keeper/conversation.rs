//! One asker's questions, answered one after the other.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ramet_common::InstanceId;
use ramet_control::fork::{self, Answer, Problem, ProblemKind, Question};
use ramet_control::socket::{ControlError, ControlSocket};
use ramet_fork::nursery::{Ended, Vigil};
use ramet_fork::seeds::{Refusal, SeedError, SeedStatus};
use ramet_fork::{Handle, Held, PrepareError, Terms};
use ramet_sys::End;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::Kept;
use super::asker::{Asker, Forbidden};
use super::births::Births;
use crate::loan::{Loan, NoLoan, instance_of};

/// One end of a conversation with somebody who asks.
pub(super) struct Conversation {
    socket: ControlSocket,
    asker: Asker,
    kept: Arc<Kept>,
    ending: Arc<OwnedFd>,
}

/// What there is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The asker has said something, or gone.
    Hear,
    /// Children have ended.
    Mourn,
    /// The keeper ends.
    Stop,
}

impl Conversation {
    pub(super) const fn new(socket: ControlSocket, asker: Asker, kept: Arc<Kept>, ending: Arc<OwnedFd>) -> Self {
        Self { socket, asker, kept, ending }
    }

    /// Answers until the asker goes or the keeper ends.
    pub(super) fn hold(self) {
        match self.answer_all() {
            Ok(()) | Err(ControlError::Closed) => {}
            Err(error) => tracing::warn!(uid = self.asker.uid(), %error, "a conversation about seeds has ended"),
        }
    }

    fn answer_all(&self) -> Result<(), ControlError> {
        while self.wait(None)? == Next::Hear {
            let (question, fds) = self.socket.receive()?;
            if let Question::Resume(resume) = question {
                self.resume(resume, fds)?;
                continue;
            }
            let answer = self.answer(question).unwrap_or_else(Answer::Refused);
            self.socket.send(&answer, &[])?;
        }
        Ok(())
    }

    fn answer(&self, question: Question) -> Result<Answer, Problem> {
        match question {
            Question::Prepare { pid, lease } => self.prepare(pid, lease).map(Answer::Prepared),
            Question::PrepareInstance { id, lease } => self.prepare_instance(id, lease).map(Answer::Prepared),
            Question::List => Ok(Answer::Seeds(self.seeds().iter().map(told).collect())),
            Question::Renew { handle, lease } => {
                let handle = self.own(handle)?;
                let expires = self.kept.reach.seeds.renew(handle, lease).map_err(refused)?;
                Ok(Answer::Renewed(left(expires)))
            }
            Question::Revoke { handle: Some(handle) } => {
                self.kept.reach.seeds.revoke(self.own(handle)?).map_err(refused)?;
                Ok(Answer::Revoked(1))
            }
            Question::Revoke { handle: None } => {
                let revoked =
                    self.seeds().iter().filter(|seed| self.kept.reach.seeds.revoke(seed.handle).is_ok()).count();
                Ok(Answer::Revoked(u32::try_from(revoked).unwrap_or(u32::MAX)))
            }
            Question::End => Err(problem(ProblemKind::Invalid, "this connection has no children to end")),
            Question::Resume(_) => Err(problem(ProblemKind::Failed, "it was not expected here")),
        }
    }

    /// Prepares an instance of the node, which stands still for it.
    fn prepare_instance(&self, id: u32, lease: Option<Duration>) -> Result<fork::Prepared, Problem> {
        if !self.asker.is_trusted() {
            return Err(forbidden(self.asker.forbidden("fork instances")));
        }
        let Some(events) = self.kept.node.get() else {
            let why = "who keeps seeds here is no node, and has no instances; ask one by --socket";
            return Err(problem(ProblemKind::NotFound, why));
        };
        let loan = Loan::begin(events, InstanceId(id)).map_err(|error| match error {
            NoLoan::Unknown(_) => problem(ProblemKind::NotFound, error),
            error => problem(ProblemKind::Failed, error),
        })?;
        let watch = loan.watch().map_err(|error| problem(ProblemKind::Failed, error))?;
        let prepare = |terms| self.kept.reach.seeds.prepare_waiting(loan.pid(), loan.habitat().clone(), watch, terms);
        self.keep(loan.pid(), lease, prepare)
    }

    fn prepare(&self, pid: i32, lease: Option<Duration>) -> Result<fork::Prepared, Problem> {
        let node = self.kept.node.get().filter(|_| self.asker.is_trusted());
        if let Some(id) = node.and_then(|events| instance_of(events, pid)) {
            let why = format!(
                "process {pid} is an instance of a function and shares its node's memory; prepare `instance/{id}`"
            );
            return Err(problem(ProblemKind::Failed, why));
        }
        let watch = self.kept.nursery.watch(pid).map_err(|error| problem(ProblemKind::Failed, error))?;
        self.keep(pid, lease, |terms| match watch {
            // A child of this keeper may not have touched all that it has.
            Some(watch) => self.kept.reach.seeds.prepare_child(watch, terms),
            None => self.kept.reach.seeds.prepare(pid, terms),
        })
    }

    /// Prepares a process, if it is the asker's to copy, and notes whose the seed is.
    fn keep(
        &self,
        pid: i32,
        lease: Option<Duration>,
        prepare: impl FnOnce(Terms) -> Result<Held, SeedError>,
    ) -> Result<fork::Prepared, Problem> {
        self.asker.may_copy(pid).map_err(forbidden)?;
        let lease = lease.unwrap_or_else(|| self.kept.reach.seeds.usual_lease());
        let held = prepare(Terms { lease }).map_err(refused)?;
        // Its number may have become another's meanwhile. The seed is of whoever it was.
        let seed = self.kept.reach.seeds.list().into_iter().find(|seed| seed.handle == held.handle);
        if let Some(Err(why)) = seed.map(|seed| self.asker.may_copy(seed.seed)) {
            let _ = self.kept.reach.seeds.revoke(held.handle);
            return Err(forbidden(why));
        }
        let living: HashSet<Handle> = self.kept.reach.seeds.list().iter().map(|seed| seed.handle).collect();
        let mut owners = self.kept.owners();
        owners.retain(|handle, _| living.contains(handle));
        owners.insert(held.handle, self.asker.uid());
        Ok(fork::Prepared {
            address: self.kept.reach.address,
            handle: held.handle.to_bytes(),
            key: fork::Key(*held.key.reveal()),
            lease: left(held.expires),
            pause: held.pause,
            prepare: held.prepare,
            descriptor_bytes: held.descriptor_bytes as u64,
        })
    }

    /// The seeds that are the asker's business.
    fn seeds(&self) -> Vec<SeedStatus> {
        let owners = self.kept.owners();
        let mut seeds = self.kept.reach.seeds.list();
        seeds.retain(|seed| self.asker.may_see(owners.get(&seed.handle).copied()));
        seeds
    }

    /// The name of a seed, if it is the asker's business. If not, there might as well be none.
    fn own(&self, handle: [u8; 16]) -> Result<Handle, Problem> {
        let handle = Handle::from_bytes(handle);
        let owner = self.kept.owners().get(&handle).copied();
        if self.asker.may_see(owner) { Ok(handle) } else { Err(refused(SeedError::Unknown(handle))) }
    }

    /// Makes children. Where they live as long as the asker this returns when they have ended.
    fn resume(&self, resume: fork::Resume, fds: Vec<OwnedFd>) -> Result<(), ControlError> {
        let births = Births::new(&self.kept, &self.socket, self.asker);
        let (answer, born) = match births.make(resume, fds) {
            Ok(made) => made,
            Err(problem) => return self.socket.send(&Answer::Refused(problem), &[]),
        };
        let told = self.socket.send(&answer, &[]);
        match (&told, born.vigil) {
            (Ok(()), Some(vigil)) => self.follow(&born.pids, &vigil),
            (Ok(()), None) => Ok(()),
            // Nobody knows of them.
            (Err(_), _) => {
                self.kept.nursery.end(&born.pids, End::Kill);
                told
            }
        }
    }

    /// Tells the asker of each child's end. They end with the asker.
    fn follow(&self, pids: &HashSet<i32>, vigil: &Vigil) -> Result<(), ControlError> {
        let mut left = pids.clone();
        let outcome = self.follow_until_end(&mut left, vigil);
        self.kept.nursery.end(&left, End::Kill);
        outcome
    }

    fn follow_until_end(&self, left: &mut HashSet<i32>, vigil: &Vigil) -> Result<(), ControlError> {
        while !left.is_empty() {
            match self.wait(Some(vigil))? {
                Next::Mourn => {
                    for ended in vigil.take() {
                        left.remove(&ended.pid);
                        self.socket.send(&Answer::Ended { pid: ended.pid, how: how(ended) }, &[])?;
                    }
                }
                Next::Hear => match self.socket.receive()? {
                    (Question::End, _) => self.kept.nursery.end(left, End::Ask),
                    _ => return Err(ControlError::Malformed("children are being waited for".to_owned())),
                },
                Next::Stop => return Ok(()),
            }
        }
        Ok(())
    }

    fn wait(&self, vigil: Option<&Vigil>) -> Result<Next, ControlError> {
        let mut ready = vec![PollFd::new(&*self.ending, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        ready.extend(vigil.map(|vigil| PollFd::from_borrowed_fd(vigil.as_fd(), PollFlags::IN)));
        loop {
            match poll(&mut ready, None) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ControlError::System(errno.into())),
                Ok(_) if !ready[0].revents().is_empty() => return Ok(Next::Stop),
                Ok(_) if ready.get(2).is_some_and(|vigil| !vigil.revents().is_empty()) => return Ok(Next::Mourn),
                Ok(_) => return Ok(Next::Hear),
            }
        }
    }
}

pub(super) fn problem(kind: ProblemKind, detail: impl std::fmt::Display) -> Problem {
    Problem { kind, detail: detail.to_string() }
}

pub(super) fn forbidden(why: Forbidden) -> Problem {
    problem(ProblemKind::Failed, why)
}

fn refused(error: SeedError) -> Problem {
    let kind = match &error {
        SeedError::Prepare(PrepareError::NoProcess(_) | PrepareError::Ended(_))
        | SeedError::Unknown(_)
        | SeedError::Ended(..) => ProblemKind::NotFound,
        SeedError::NoLease | SeedError::LeaseTooLong { .. } => ProblemKind::Invalid,
        _ => ProblemKind::Failed,
    };
    problem(kind, error)
}

pub(super) fn unread(refusal: Refusal) -> Problem {
    let kind = match refusal {
        Refusal::Stranger | Refusal::Ended(_) => ProblemKind::NotFound,
        _ => ProblemKind::Failed,
    };
    problem(kind, refusal)
}

/// How long it is until then.
fn left(expires: SystemTime) -> Duration {
    expires.duration_since(SystemTime::now()).unwrap_or_default()
}

fn told(seed: &SeedStatus) -> fork::Seed {
    fork::Seed {
        handle: seed.handle.to_bytes(),
        parent: seed.parent,
        name: seed.name.clone(),
        pid: seed.seed,
        age: seed.age,
        lease_left: seed.lease_left,
        bytes: seed.own_bytes,
        readers: seed.readers,
    }
}

fn how(Ended { status, is_seed_lost, .. }: Ended) -> fork::Ending {
    match (is_seed_lost, status.code(), ExitStatus::signal(&status)) {
        (true, ..) => fork::Ending::SeedLost,
        (false, Some(code), _) => fork::Ending::Exited(code),
        (false, None, signal) => fork::Ending::Signalled(signal.unwrap_or_default()),
    }
}
