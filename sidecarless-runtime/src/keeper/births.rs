//! Children that somebody asked for: all of them, or those that could be made and why there are no more.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ramet_control::fork::{self, Answer, CHILDREN_MAX, Life, Pages, Problem, ProblemKind, Resume, SourceKind};
use ramet_control::socket::ControlSocket;
use ramet_fork::nursery::{Born, NurseryError, Vigil};
use ramet_fork::source::rdma;
use ramet_fork::source::tcp::{self, ConnectError};
use ramet_fork::{ForkDescriptor, Given, Handle, Key, Lineage, PageSource, SeedAt, lineage};
use ramet_rdma::Device;
use ramet_sys::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::asker::Asker;
use super::conversation::{forbidden, problem, unread};
use super::{Kept, SeedName};

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

type Reached = (ForkDescriptor, Box<dyn PageSource>);

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
        let given = Given { streams, user: None };
        let vigil = match resume.life {
            Life::Askers => Some(Arc::new(Vigil::new().map_err(|error| problem(ProblemKind::Failed, error))?)),
            Life::Keepers => None,
        };
        let mut made = Made { pids: HashSet::new(), vigil };
        let (mut children, mut failure) = (Vec::new(), None);
        let key = Key::from_bytes(resume.key.0);
        for _ in 0..resume.children {
            if self.has_gone() {
                break;
            }
            match self.child(&resume, &key, &given, made.vigil.as_ref()) {
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

    fn child(&self, resume: &Resume, key: &Key, given: &Given, vigil: Option<&Arc<Vigil>>) -> Result<Born, NoChild> {
        let handle = Handle::from_bytes(resume.handle);
        let source = self.source(resume, handle, key);
        if source == Some(SourceKind::Local) {
            // A family that was reached before its seed has ended would not know yet.
            self.kept.seeds.check(handle, key).map_err(|refusal| NoChild(unread(refusal)))?;
        }
        let name = SeedName { address: resume.address, handle, key: key.fingerprint(), source };
        let born = self.kept.nursery.child(&name, given, vigil, || self.reach(&name, key).map_err(NoChild))?;
        if resume.pages == Pages::All
            && let Err(error) = self.kept.nursery.pull(&name)
        {
            // Who wants children that need nobody has no use for others.
            self.kept.nursery.end(&HashSet::from([born.pid]), End::Kill);
            return Err(NoChild(problem(ProblemKind::Failed, error)));
        }
        Ok(born)
    }

    /// The way that was asked for, or this host's own where the seed is here.
    fn source(&self, resume: &Resume, handle: Handle, key: &Key) -> Option<SourceKind> {
        let is_here = || self.kept.seeds.check(handle, key).is_ok();
        resume.source.or_else(|| is_here().then_some(SourceKind::Local))
    }

    /// Reaches a seed, and those that it descends from.
    fn reach(&self, name: &SeedName, key: &Key) -> Result<Reached, Problem> {
        let (descriptor, source) = self.reach_one(name, key)?;
        let mut ancestors = Vec::new();
        for seed in lineage::ancestors(&descriptor, name.handle, key) {
            let is_here = self.kept.seeds.check(seed.handle, &seed.key).is_ok();
            let source = match name.source {
                None | Some(SourceKind::Local) => is_here.then_some(SourceKind::Local),
                other => other,
            };
            let name = SeedName { address: seed.address, handle: seed.handle, key: seed.key.fingerprint(), source };
            let (_, source) = self.reach_one(&name, &seed.key)?;
            ancestors.push((seed, source));
        }
        // Where others find what is here, whatever it was asked for by.
        let address = if name.source == Some(SourceKind::Local) { self.kept.address } else { name.address };
        let own = SeedAt { address, handle: name.handle, key: key.clone() };
        let lineage = Lineage::new(own, source, ancestors).map_err(|error| problem(ProblemKind::Failed, error))?;
        Ok((descriptor, Box::new(lineage)))
    }

    fn reach_one(&self, name: &SeedName, key: &Key) -> Result<Reached, Problem> {
        match name.source {
            Some(SourceKind::Local) => {
                let (descriptor, source) = self.kept.seeds.open_local(name.handle, key).map_err(unread)?;
                let descriptor = ForkDescriptor::decode(&descriptor);
                Ok((descriptor.map_err(|error| problem(ProblemKind::Failed, error))?, Box::new(source)))
            }
            Some(SourceKind::Tcp) => by_tcp(name, key),
            Some(SourceKind::Rdma) => match self.kept.agent.device() {
                Ok(device) => by_rdma(device, name, key).map_err(unread_by_rdma),
                Err(error) => Err(problem(ProblemKind::Failed, format!("{error}; or use --source tcp"))),
            },
            None => match self.kept.agent.device() {
                Ok(device) => by_rdma(device, name, key).or_else(|error| match error {
                    rdma::ConnectError::Tcp(error) => Err(unreached(error)),
                    error => {
                        tracing::info!(%error, "a seed of another host is read over TCP");
                        by_tcp(name, key)
                    }
                }),
                Err(_) => by_tcp(name, key),
            },
        }
    }

    /// Whether the asker has closed its end.
    fn has_gone(&self) -> bool {
        let mut end = [PollFd::new(self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut end, Some(&now)), Ok(1..))
    }
}

fn by_tcp(name: &SeedName, key: &Key) -> Result<Reached, Problem> {
    let (descriptor, source) = tcp::connect(name.address, name.handle, key).map_err(unreached)?;
    Ok((descriptor, Box::new(source)))
}

fn by_rdma(device: &Device, name: &SeedName, key: &Key) -> Result<Reached, rdma::ConnectError> {
    let (descriptor, source) = rdma::connect(device, name.address, name.handle, key)?;
    Ok((descriptor, Box::new(source)))
}

fn unread_by_rdma(error: rdma::ConnectError) -> Problem {
    match error {
        rdma::ConnectError::Tcp(error) => unreached(error),
        error => problem(ProblemKind::Failed, error),
    }
}

fn unreached(error: ConnectError) -> Problem {
    match &error {
        ConnectError::Refused { refusal, .. } => Problem { detail: error.to_string(), ..unread(*refusal) },
        _ => problem(ProblemKind::Failed, error),
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
