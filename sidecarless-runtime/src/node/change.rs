//! Applying and deleting: one change at a time, whole or not at all.
//!
//! New versions start beside the old. Once they are ready and everybody knows the new routes, the gateway is told to
//! start requests on them: that is the point of no return. Before it, anything that fails takes the new back and leaves
//! the old as it was. After it, the old drains as its requests finish.

use std::collections::BTreeSet;
use std::time::Duration;

use ramet_common::{FunctionId, InstanceId};
use ramet_control::admin::{Action, Applied, Change as ObjectChange, Problem};
use ramet_control::gateway::ToGateway;
use ramet_control::instance::{START_TIMEOUT, ToInstance};
use ramet_manifest::{self as manifest, Desired, Errors, Kind, Manifests, QualifiedName, RemoveError, Source};
use tokio::sync::oneshot;

use super::draft::Draft;
use super::epoch::EpochError;
use super::{Interrupted, Node};
use crate::dataplane::DataPlaneError;
use crate::function::Function;
use crate::ids::NoRoom;
use crate::instance::Instance;

/// How much longer than its instances a change may take to get ready.
const READY_MARGIN: Duration = Duration::from_secs(5);

/// How long instances and gateway may take to take in new routes. Whoever is slower is killed for it before.
const ROUTES_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last words of an instance that failed are waited for.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(200);

/// How many of an instance's last words an error repeats.
const LAST_WORDS: usize = 5;

/// Something to be changed, and who wants to know the outcome.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) what: What,
    pub(crate) answer: oneshot::Sender<Result<Applied, Problem>>,
}

/// What is to be changed.
#[derive(Debug)]
pub(crate) enum What {
    /// Manifests to apply.
    Apply(Vec<Source>),
    /// An object to take out.
    Delete(Kind, QualifiedName),
    /// Everything to take out that manifests name.
    DeleteNamed(Vec<Source>),
}

/// Why a change was not made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("the manifests have errors: {}", .0.problems().len() + .0.omitted())]
    Manifests(Errors),
    #[error("{}; nothing was deleted{}", .0, hint(.0))]
    Remove(#[from] RemoveError),
    #[error("there is no {}; nothing was deleted", list(.0))]
    Missing(Vec<(Kind, QualifiedName)>),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
    #[error(
        "all chains together take {bytes} bytes as the gateway is told of them, more than fits a message; use fewer \
         chains, steps or matches"
    )]
    TooManyChains { bytes: usize },
    #[error("{why}; what ran before still runs, mend the function and apply again{}{last_words}",
        if last_words.is_empty() { "" } else { "; its last words were:" })]
    NotReady { why: String, last_words: String },
    #[error("the new instances were not ready in time; what ran before still runs")]
    TimedOut,
    #[error("the gateway died during the change; the node starts anew with what it ran before, apply again")]
    GatewayGone,
    #[error("the node is stopping")]
    Stopping,
    #[error("too many changes wait for the one under way; try again later")]
    TooManyChanges,
}

impl ChangeError {
    fn status(&self) -> u16 {
        match self {
            Self::Manifests(_) | Self::NoRoom(_) | Self::TooManyChains { .. } => 422,
            Self::Remove(RemoveError::Missing { .. }) | Self::Missing(_) => 404,
            Self::Remove(RemoveError::InUse { .. }) => 409,
            Self::DataPlane(_) => 500,
            Self::NotReady { .. } | Self::TimedOut => 409,
            Self::GatewayGone | Self::Stopping | Self::TooManyChanges => 503,
        }
    }

    /// The answer to whoever asked for the change.
    pub(crate) fn problem(&self) -> Problem {
        let errors = match self {
            Self::Manifests(errors) => errors.problems().iter().map(ToString::to_string).collect(),
            Self::Missing(missing) => {
                missing.iter().map(|(kind, name)| format!("there is no {kind} \"{name}\"")).collect()
            }
            _ => Vec::new(),
        };
        let title = match self {
            Self::Manifests(_) => "the manifests are wrong",
            Self::Remove(_) => "the object cannot be deleted",
            Self::Missing(_) => "nothing was deleted, because the manifests name what does not exist; leave that out",
            Self::NotReady { .. } | Self::TimedOut => "the new version did not become ready",
            _ => "the change was not made",
        };
        let detail = match self {
            Self::Manifests(errors) => errors.to_string(),
            other => other.to_string(),
        };
        Problem { title: title.to_owned(), status: self.status(), detail, errors }
    }
}

impl From<Interrupted> for ChangeError {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::TimedOut => Self::TimedOut,
            Interrupted::GatewayGone => Self::GatewayGone,
            Interrupted::Signal => Self::Stopping,
        }
    }
}

impl Change {
    /// Answers that it was not made.
    pub(crate) fn refuse(self, error: &ChangeError) {
        // Whoever asked may have gone.
        let _ = self.answer.send(Err(error.problem()));
    }
}

impl Node {
    /// Makes a change and answers it. An error ends the epoch; that of the change itself does not.
    pub(super) async fn make(&mut self, change: Change) -> Result<(), EpochError> {
        let Change { what, answer } = change;
        let outcome = self.try_change(&what).await;
        if let Err(error) = &outcome {
            tracing::warn!("a change was not made: {error}");
        }
        let _ = answer.send(outcome.map_err(|error| error.problem()));
        Ok(self.interruption()?)
    }

    async fn try_change(&mut self, what: &What) -> Result<Applied, ChangeError> {
        let (desired, named) = match what {
            What::Apply(sources) => {
                let desired = self.desired.apply(sources).map_err(ChangeError::Manifests)?;
                (desired, named(sources).map_err(ChangeError::Manifests)?)
            }
            What::Delete(kind, name) => {
                let named = vec![(*kind, name.clone())];
                (self.desired.remove_all(&named)?, named)
            }
            What::DeleteNamed(sources) => {
                let named = self.to_delete(sources)?;
                (self.desired.remove_all(&named)?, named)
            }
        };
        let changes = changes(&self.desired, &desired, named);
        if desired != self.desired {
            let draft = self.draft(desired)?;
            match self.bring_up(&draft).await {
                Ok(()) => self.commit(draft),
                Err(error) => {
                    self.discard(&draft);
                    return Err(error);
                }
            }
        }
        Ok(Applied { changes })
    }

    /// What manifests name, chains before the functions that they use. All of it is there.
    fn to_delete(&self, sources: &[Source]) -> Result<Vec<(Kind, QualifiedName)>, ChangeError> {
        let mut named = named(sources).map_err(ChangeError::Manifests)?;
        named.sort_by_key(|(kind, _)| *kind != Kind::Chain);
        let is_missing = |(kind, name): &&(Kind, QualifiedName)| match kind {
            Kind::Function => self.desired.function(name).is_none(),
            Kind::Chain => self.desired.chain(name).is_none(),
        };
        let missing: Vec<_> = named.iter().filter(is_missing).cloned().collect();
        if missing.is_empty() { Ok(named) } else { Err(ChangeError::Missing(missing)) }
    }

    async fn bring_up(&mut self, draft: &Draft) -> Result<(), ChangeError> {
        let timeout =
            self.incoming(draft).map(Function::start_timeout).fold(START_TIMEOUT, Duration::max) + READY_MARGIN;
        let chains = self.chains_for_gateway(draft)?;
        let concerned = self.concerned(draft);
        self.wait_for(timeout, |node| node.has_failed(draft) || node.is_drafted_ready(draft, &concerned)).await?;
        if self.has_failed(draft) {
            return Err(self.why_not_ready(draft).await);
        }
        let told = self.tell_routes(draft);
        let all_applied = |node: &Self| told.iter().all(|&(id, sequence)| node.applied_or_gone(id, sequence));
        self.wait_for(ROUTES_TIMEOUT, all_applied).await?;
        let sequence = self.tell_gateway(ToGateway::Chains(chains), Vec::new());
        Ok(self.wait_for(ROUTES_TIMEOUT, |node| node.gateway_applied(sequence)).await?)
    }

    fn has_failed(&self, draft: &Draft) -> bool {
        self.incoming(draft).any(|function| function.failure.is_some())
    }

    fn incoming<'a>(&'a self, draft: &'a Draft) -> impl Iterator<Item = &'a Function> {
        draft.incoming.iter().filter_map(|id| self.functions.get(id))
    }

    /// The functions between which something is new.
    fn concerned(&self, draft: &Draft) -> Vec<FunctionId> {
        let routes = draft.new_routes.iter().filter_map(|id| self.routes.get(id));
        let in_routes: BTreeSet<_> = routes.flat_map(|live| live.route.functions()).collect();
        in_routes.union(&draft.incoming).copied().collect()
    }

    fn is_drafted_ready(&self, draft: &Draft, concerned: &[FunctionId]) -> bool {
        let mut incoming = self.incoming(draft);
        incoming.all(|function| self.ready_instances(function) >= function.wanted())
            && self.lanes_are_settled(concerned)
    }

    /// The first failure, with what the instance wrote before it.
    async fn why_not_ready(&mut self, draft: &Draft) -> ChangeError {
        let failed = |id: &FunctionId| self.functions.get(id).is_some_and(|function| function.failure.is_some());
        let failed = draft.incoming.iter().copied().find(failed);
        let Some(function) = failed.and_then(|id| self.functions.get_mut(&id)) else { return ChangeError::TimedOut };
        let why = format!("function {}: {}", function.name(), function.failure.as_deref().unwrap_or_default());
        let mut last_words = String::new();
        if let Some((instance, output)) = function.failed.take() {
            let name = function.name();
            // What it wrote may still be in its pipes; something else that it started may hold them open.
            let _ = tokio::time::timeout(OUTPUT_TIMEOUT, output).await;
            for line in self.logs.last_words(&name, instance, LAST_WORDS).await {
                last_words.push_str("\n  ");
                last_words.push_str(&line);
            }
        }
        ChangeError::NotReady { why, last_words }
    }

    /// Tells the instances that were there before of the routes that they take part in now.
    fn tell_routes(&mut self, draft: &Draft) -> Vec<(InstanceId, u64)> {
        let mut told = Vec::new();
        for id in &draft.new_routes {
            let Some(route) = self.routes.get(id).map(|live| live.route.clone()) else { continue };
            let functions = route.functions();
            let new_to =
                |instance: &&mut Instance| instance.introduced.is_some() && functions.contains(&instance.function);
            let instances = self.instances.values_mut().filter(new_to);
            let uninformed: Vec<_> = instances.filter_map(|i| i.routes.insert(*id).then_some(i.id)).collect();
            for instance in uninformed {
                let routes = ToInstance::Routes { added: vec![route.clone()], retired: Vec::new() };
                told.push((instance, self.tell(instance, routes, Vec::new())));
            }
        }
        told
    }
}

/// The objects that manifests name, in their order.
fn named(sources: &[Source]) -> Result<Vec<(Kind, QualifiedName)>, Errors> {
    let name = |object: manifest::Object| {
        let resource = object.into_resource();
        (resource.kind(), resource.metadata().qualified_name())
    };
    Ok(Manifests::parse(sources)?.into_iter().map(name).collect())
}

/// What to do about an object that cannot be removed.
fn hint(error: &RemoveError) -> &'static str {
    match error {
        RemoveError::InUse { .. } => ", delete what uses it before or together with it",
        RemoveError::Missing { .. } => "",
    }
}

/// `chain "a/b", function "a/c"`.
fn list(objects: &[(Kind, QualifiedName)]) -> String {
    objects.iter().map(|(kind, name)| format!("{kind} \"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// What happens to each named object.
fn changes(before: &Desired, after: &Desired, named: Vec<(Kind, QualifiedName)>) -> Vec<ObjectChange> {
    let action = |kind, name: &QualifiedName| {
        let (was, is, same) = match kind {
            Kind::Function => {
                let (was, is) = (before.function(name), after.function(name));
                (was.is_some(), is.is_some(), was == is)
            }
            Kind::Chain => {
                let (was, is) = (before.chain(name), after.chain(name));
                (was.is_some(), is.is_some(), was == is)
            }
        };
        match (was, is) {
            (_, false) => Action::Deleted,
            (false, true) => Action::Created,
            (true, true) if same => Action::Unchanged,
            (true, true) => Action::Changed,
        }
    };
    let change = |(kind, name): (Kind, QualifiedName)| ObjectChange {
        kind: kind.as_str().to_owned(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        action: action(kind, &name),
    };
    named.into_iter().map(change).collect()
}
