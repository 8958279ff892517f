//! Which function comes next: an immutable table per chain version, the same in gateway and functions.

use std::collections::BTreeSet;
use std::time::Duration;

use ramet_common::{DomainId, FunctionId, RouteId};
use serde::{Deserialize, Serialize};

/// How many steps a chain can have.
pub const STEPS_MAX: usize = 256;

/// One version of a chain. Requests that started on it finish on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The version's id, named by envelopes.
    pub id: RouteId,
    /// The security domain whose pool the chain uses.
    pub domain: DomainId,
    /// `namespace/name`, for logs and metrics.
    pub chain: String,
    /// The steps; a request starts at the first.
    pub steps: Vec<Step>,
    /// Those of its functions that serve HTTP by themselves: they are on no data plane, so the gateway asks them.
    pub http: BTreeSet<FunctionId>,
    /// Those that begin before their request's body is whole, as their manifests say.
    pub streamed: BTreeSet<FunctionId>,
}

/// One step of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The name that `choose` and logs use.
    pub name: String,
    /// What runs.
    pub work: Work,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// How often a failed attempt is made again, on another instance where there is one.
    pub retries: u8,
    /// What comes after.
    pub next: Next,
}

/// What a step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// One function.
    Function(FunctionId),
    /// Several at once; the next step receives all their answers.
    Parallel(Vec<Branch>),
}

/// One branch of a parallel step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The name under which the fan-in function finds the answer.
    pub name: String,
    /// The function.
    pub function: FunctionId,
}

/// What comes after a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Always the same.
    To(Target),
    /// By a header of the step's outcome.
    ByHeader {
        /// The header's lower-case name.
        header: String,
        /// Values and where they lead.
        cases: Vec<(String, Target)>,
        /// Where any other value, or none, leads.
        otherwise: Target,
    },
    /// The function decides among these.
    Choice {
        /// What it may name.
        choices: Vec<Target>,
        /// Where no decision leads.
        otherwise: Target,
    },
}

/// A place to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Back to the client.
    Reply,
    /// The step at this index.
    Step(u16),
}

/// Where a message goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To the gateway as the final answer.
    Reply,
    /// Straight to the next function.
    Function {
        /// The step it is for.
        step: u16,
        /// The step's function.
        function: FunctionId,
    },
    /// To the gateway, which starts this step itself because it supervises it or the one before, or because the step's
    /// function serves HTTP by itself.
    Gateway {
        /// The step to start.
        step: u16,
    },
}

/// A function asked for a step that the chain does not offer it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such choice.
    #[error("step \"{step}\" of chain {chain} does not offer \"{wanted}\" as its next step; it offers: {offered}")]
    NotOffered {
        /// The chain.
        chain: String,
        /// The step that decided.
        step: String,
        /// What it asked for.
        wanted: String,
        /// What it may ask for.
        offered: String,
    },
    /// The envelope names a step that the route does not have.
    #[error("chain {chain} has no step {step}")]
    NoStep {
        /// The chain.
        chain: String,
        /// The index.
        step: u16,
    },
}

impl Step {
    /// Whether the gateway has to start this step and receive its outcome.
    #[must_use]
    pub fn is_supervised(&self) -> bool {
        self.timeout.is_some() || self.retries > 0 || matches!(self.work, Work::Parallel(_))
    }

    /// The functions that it runs.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionId> {
        match &self.work {
            Work::Function(function) => vec![*function],
            Work::Parallel(branches) => branches.iter().map(|branch| branch.function).collect(),
        }
    }

    /// Where its outcome may go.
    fn targets(&self) -> Vec<Target> {
        match &self.next {
            Next::To(target) => vec![*target],
            Next::ByHeader { cases, otherwise, .. } => {
                cases.iter().map(|(_, target)| *target).chain([*otherwise]).collect()
            }
            Next::Choice { choices, otherwise } => choices.iter().copied().chain([*otherwise]).collect(),
        }
    }
}

impl Route {
    /// The step at `index`.
    ///
    /// # Errors
    /// [`RouteError::NoStep`].
    pub fn step(&self, index: u16) -> Result<&Step, RouteError> {
        self.steps.get(usize::from(index)).ok_or_else(|| RouteError::NoStep { chain: self.chain.clone(), step: index })
    }

    /// Where the outcome of step `index` goes: by the function's own decision if it made one, else by `header`.
    ///
    /// # Errors
    /// A step that is not there, or a decision that the chain does not offer.
    pub fn after<'h>(
        &self,
        index: u16,
        decision: Option<&str>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Hop, RouteError> {
        let step = self.step(index)?;
        let target = match (&step.next, decision) {
            (Next::To(target), None) => *target,
            (Next::ByHeader { header: name, cases, otherwise }, None) => header(name)
                .and_then(|value| cases.iter().find(|(case, _)| case.as_bytes() == value))
                .map_or(*otherwise, |(_, target)| *target),
            (Next::Choice { otherwise, .. }, None) => *otherwise,
            (next, Some(wanted)) => self.decided(step, next, wanted)?,
        };
        self.hop(step, target)
    }

    /// Whether a function serves HTTP by itself.
    #[must_use]
    pub fn serves_http(&self, function: FunctionId) -> bool {
        self.http.contains(&function)
    }

    /// The functions that a plain, unsupervised outcome of `step` can go to: the edges that policy must allow.
    pub fn successors(&self, step: &Step) -> Vec<FunctionId> {
        let hops = step.targets().into_iter().filter_map(|target| self.hop(step, target).ok());
        hops.filter_map(|hop| match hop {
            Hop::Function { function, .. } => Some(function),
            Hop::Reply | Hop::Gateway { .. } => None,
        })
        .collect()
    }

    /// The other functions that a message may be at before it comes to `function`.
    #[must_use]
    pub fn before(&self, function: FunctionId) -> Vec<FunctionId> {
        let runs: Vec<bool> = self.steps.iter().map(|step| step.functions().contains(&function)).collect();
        let mut leads = vec![false; self.steps.len()];
        let leads_there = |leads: &[bool], target: Target| match target {
            Target::Reply => false,
            Target::Step(step) => [leads, &runs].iter().any(|known| known.get(usize::from(step)) == Some(&true)),
        };
        // The graph has no cycles, so each round but the last finds a step more.
        while let Some(at) = (0..leads.len())
            .find(|&at| !leads[at] && self.steps[at].targets().into_iter().any(|target| leads_there(&leads, target)))
        {
            leads[at] = true;
        }
        let before = self.steps.iter().zip(leads).filter(|(_, leads)| *leads).flat_map(|(step, _)| step.functions());
        let mut before: Vec<_> = before.filter(|other| *other != function).collect();
        before.sort_unstable();
        before.dedup();
        before
    }

    /// All functions that the chain runs.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionId> {
        let mut functions: Vec<_> = self.steps.iter().flat_map(Step::functions).collect();
        functions.sort_unstable();
        functions.dedup();
        functions
    }

    fn decided(&self, step: &Step, next: &Next, wanted: &str) -> Result<Target, RouteError> {
        let offered: Vec<(&str, Target)> = match next {
            Next::Choice { choices, .. } => choices.iter().map(|&target| (self.name_of(target), target)).collect(),
            Next::To(_) | Next::ByHeader { .. } => Vec::new(),
        };
        offered.iter().find(|(name, _)| *name == wanted).map(|(_, target)| *target).ok_or_else(|| {
            let names: Vec<_> = offered.iter().map(|(name, _)| *name).collect();
            RouteError::NotOffered {
                chain: self.chain.clone(),
                step: step.name.clone(),
                wanted: wanted.to_owned(),
                offered: if names.is_empty() { "nothing".to_owned() } else { names.join(", ") },
            }
        })
    }

    fn name_of(&self, target: Target) -> &str {
        match target {
            Target::Reply => "reply",
            Target::Step(index) => self.steps.get(usize::from(index)).map_or("", |step| &step.name),
        }
    }

    fn hop(&self, from: &Step, target: Target) -> Result<Hop, RouteError> {
        let Target::Step(index) = target else { return Ok(Hop::Reply) };
        let to = self.step(index)?;
        Ok(match &to.work {
            Work::Function(function) if self.is_plain(to) && self.is_plain(from) => {
                Hop::Function { step: index, function: *function }
            }
            Work::Function(_) | Work::Parallel(_) => Hop::Gateway { step: index },
        })
    }

    /// Whether messages go to and from a step without the gateway.
    fn is_plain(&self, step: &Step) -> bool {
        !step.is_supervised() && matches!(step.work, Work::Function(function) if !self.serves_http(function))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, function: u32, next: Next) -> Step {
        Step { name: name.to_owned(), work: Work::Function(FunctionId(function)), timeout: None, retries: 0, next }
    }

    fn route() -> Route {
        let by_header = Next::ByHeader {
            header: "x-kind".to_owned(),
            cases: vec![("big".to_owned(), Target::Step(1)), ("done".to_owned(), Target::Reply)],
            otherwise: Target::Step(2),
        };
        let choice = Next::Choice { choices: vec![Target::Step(2), Target::Reply], otherwise: Target::Step(3) };
        let mut supervised = step("d", 4, Next::To(Target::Reply));
        supervised.retries = 1;
        Route {
            id: RouteId(1),
            domain: DomainId(0),
            chain: "default/test".to_owned(),
            steps: vec![
                step("a", 1, by_header),
                step("b", 2, choice),
                step("c", 3, Next::To(Target::Reply)),
                supervised,
            ],
            http: BTreeSet::new(),
            streamed: BTreeSet::new(),
        }
    }

    #[test]
    fn a_header_decides_the_next_step() {
        let route = route();
        let after = |value: Option<&'static [u8]>| route.after(0, None, |_| value).expect("a hop");
        assert_eq!(after(Some(b"big")), Hop::Function { step: 1, function: FunctionId(2) });
        assert_eq!(after(Some(b"done")), Hop::Reply);
        assert_eq!(after(Some(b"other")), Hop::Function { step: 2, function: FunctionId(3) });
        assert_eq!(after(None), Hop::Function { step: 2, function: FunctionId(3) });
    }

    #[test]
    fn a_function_decides_only_among_what_is_offered() {
        let route = route();
        let after = |decision| route.after(1, decision, |_| None);
        assert_eq!(after(Some("c")), Ok(Hop::Function { step: 2, function: FunctionId(3) }));
        assert_eq!(after(Some("reply")), Ok(Hop::Reply));
        assert_eq!(after(None), Ok(Hop::Gateway { step: 3 }), "a supervised step is the gateway's to start");
        assert!(matches!(after(Some("a")), Err(RouteError::NotOffered { .. })));
        assert!(route.after(0, Some("b"), |_| None).is_err(), "step a leaves no choice");
    }

    #[test]
    fn a_function_that_serves_http_is_the_gateways_to_ask() {
        let mut route = route();
        route.http.insert(FunctionId(3));
        assert_eq!(route.after(0, None, |_| None), Ok(Hop::Gateway { step: 2 }));
        assert_eq!(route.after(1, Some("c"), |_| None), Ok(Hop::Gateway { step: 2 }));
        assert_eq!(route.successors(&route.steps[0]), vec![FunctionId(2)], "there is no edge to it");
        route.http.insert(FunctionId(2));
        assert!(route.successors(&route.steps[1]).is_empty(), "nor from it");
    }

    #[test]
    fn what_may_come_to_a_function_is_at_any_step_that_leads_there() {
        let route = route();
        let before = |function| route.before(FunctionId(function));
        assert_eq!((before(1), before(2)), (vec![], vec![FunctionId(1)]));
        assert_eq!(before(3), vec![FunctionId(1), FunctionId(2)], "over one step or two");
        assert_eq!(before(99), vec![], "the chain does not run it");
    }

    #[test]
    fn edges_are_those_that_a_plain_hop_takes() {
        let route = route();
        assert_eq!(route.successors(&route.steps[0]), vec![FunctionId(2), FunctionId(3)]);
        assert_eq!(route.successors(&route.steps[1]), vec![FunctionId(3)]);
        assert!(route.successors(&route.steps[3]).is_empty());
        assert!(route.after(9, None, |_| None).is_err());
    }
}
