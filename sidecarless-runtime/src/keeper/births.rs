//! Children that somebody asked for: all of them, or those that could be made and why there are no more.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ramet_control::fork::{self, Answer, CHILDREN_MAX, Life, Pages, Problem, ProblemKind, Resume, SourceKind};
use ramet_control::socket::ControlSocket;
use ramet_fork::nursery::{Born, NurseryError, Vigil};
use ramet_fork::seeds::Refusal;
use ramet_fork::{Given, Handle, Key, SeedAt};
use ramet_sys::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::asker::Asker;
use super::conversation::{forbidden, problem, unread};
use super::{Kept, SeedName};
use crate::reach::Unreached;

/// Why a seed of an instance has no children here.
const OF_AN_INSTANCE: &str = "the seed is of a function's instance, and its copies wait to be told by a node who they \
                              are; make them instances: name it in the manifest of a function, as `start: \
                              {remote-fork: {address: …, handle: …, keyFile: …}}`";

/// What to add where a seed is looked for here, and its address is another's.
const NOT_LOCAL: &str = "; --source local is for seeds that are kept here, and this one's address is another keeper's";

/// Makes children for one asker.
pub(super) struct Births<'k> {
    kept: &'k Kept,
    socket: &'k ControlSocket,
    asker: Asker,
}

/// Children that were made.
pub(super) struct Made {
    pub(super) pids: HashSet<i32>,
    /// What hears of their ends, where they live as long as their asker.
    pub(super) vigil: Option<Arc<Vigil>>,
}

/// Why there is no child.
struct NoChild(Problem);

impl From<NurseryError> for NoChild {
    fn from(error: NurseryError) -> Self {
        Self(problem(ProblemKind::Failed, error))
    }
}

impl<'k> Births<'k> {
    pub(super) const fn new(kept: &'k Kept, socket: &'k ControlSocket, asker: Asker) -> Self {
        Self { kept, socket, asker }
    }

    /// Makes children until there are enough, one cannot be made, or the asker has gone.
    pub(super) fn make(&self, resume: Resume, fds: Vec<OwnedFd>) -> Result<(Answer, Made), Problem> {
        if !self.asker.is_trusted() {
            return Err(forbidden(self.asker.forbidden("make children of seeds")));
        }
        let invalid = |why: &str| problem(ProblemKind::Invalid, why);
        let streams: [OwnedFd; 3] = fds.try_into().map_err(|_| invalid("a resume comes with three descriptors"))?;
        if resume.children == 0 || resume.children > CHILDREN_MAX {
            return Err(invalid(&format!("1 to {CHILDREN_MAX} children can be asked for")));
        }
        let given = Given { streams, user: None, limits: None };
        let vigil = match resume.life {
            Life::Askers => Some(Arc::new(Vigil::new().map_err(|error| problem(ProblemKind::Failed, error))?)),
            Life::Keepers => None,
        };
        let mut made = Made { pids: HashSet::new(), vigil };
        let (mut children, mut failure) = (Vec::new(), None);
        let (handle, key) = (Handle::from_bytes(resume.handle), Key::from_bytes(resume.key.0));
        let seed = SeedAt { address: resume.address, handle, key };
        for _ in 0..resume.children {
            if self.has_gone() {
                break;
            }
            match self.child(&resume, &seed, &given, made.vigil.as_ref()) {
                Ok(born) => {
                    made.pids.insert(born.pid);
                    children.push(told(&born));
                }
                Err(NoChild(problem)) if children.is_empty() => return Err(problem),
                Err(NoChild(problem)) => {
                    failure = Some(problem);
                    break;
                }
            }
        }
        Ok((Answer::Resumed(children, failure), made))
    }

    fn child(
        &self,
        resume: &Resume,
        seed: &SeedAt,
        given: &Given,
        vigil: Option<&Arc<Vigil>>,
    ) -> Result<Born, NoChild> {
        let reach = &self.kept.reach;
        // The way that was asked for, or this host's own where the seed is here.
        let source = resume.source.or_else(|| reach.is_here(seed).then_some(SourceKind::Local));
        if source == Some(SourceKind::Local) {
            // A family that was reached before its seed has ended would not know yet.
            reach.seeds.check(seed.handle, &seed.key).map_err(|refusal| {
                let Problem { kind, detail } = unread(refusal);
                let is_anothers = refusal == Refusal::Stranger && seed.address != reach.address;
                NoChild(Problem { kind, detail: detail + if is_anothers { NOT_LOCAL } else { "" } })
            })?;
        }
        let SeedAt { address, handle, key } = seed;
        let name = SeedName { address: *address, handle: *handle, key: key.fingerprint(), source };
        let reach = || {
            let reached = reach.reach(seed, source).map_err(|error| NoChild(unreached(error)))?;
            if reached.0.awaits_identity {
                return Err(NoChild(problem(ProblemKind::Invalid, OF_AN_INSTANCE)));
            }
            Ok(reached)
        };
        let born = self.kept.nursery.child(&name, given, vigil, reach)?;
        if resume.pages == Pages::All
            && let Err(error) = self.kept.nursery.pull(&name)
        {
            // Who wants children that need nobody has no use for others.
            self.kept.nursery.end(&HashSet::from([born.pid]), End::Kill);
            return Err(NoChild(problem(ProblemKind::Failed, error)));
        }
        Ok(born)
    }

    /// Whether the asker has closed its end.
    fn has_gone(&self) -> bool {
        let mut end = [PollFd::new(self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut end, Some(&now)), Ok(1..))
    }
}

fn unreached(error: Unreached) -> Problem {
    match error.refusal() {
        Some(refusal) => Problem { detail: error.to_string(), ..unread(refusal) },
        None => problem(ProblemKind::Failed, error),
    }
}

fn told(born: &Born) -> fork::Child {
    let phases = &born.phases;
    let first = phases.template.map(|template| fork::First {
        connect: born.reached.unwrap_or_default(),
        plan: template.plan,
        copy: template.copy,
        map: template.map,
        register: template.register,
        push: template.push,
    });
    fork::Child { pid: born.pid, first, open: phases.open, fork: phases.fork, start: phases.start }
}
