//! Steps lead to steps: every one is reached, none is reached twice by one request, and every way ends in the reply.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::chain::{Next, Run, Step, Target};
use crate::name::Name;
use crate::source::Place;
use crate::tree::{Path, Report, did_you_mean, quoted};

/// A step as it was read, with what is wrong left out.
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) field: String,
    pub(super) name: Option<Name>,
    pub(super) name_place: Place,
    pub(super) run: Option<Run>,
    pub(super) timeout: Option<Duration>,
    pub(super) retries: u32,
    /// `None` where the field is left out; the inner one where it is wrong.
    pub(super) next: Option<(Option<Next>, Place)>,
    /// Every place that `next` names.
    pub(super) mentions: Vec<Mention>,
}

/// One naming of the reply or a step.
pub(super) struct Mention {
    pub(super) field: String,
    pub(super) place: Place,
    pub(super) target: Target,
}

impl Draft {
    pub(super) const fn new(place: Place, field: String) -> Self {
        Self {
            place,
            field,
            name: None,
            name_place: place,
            run: None,
            timeout: None,
            retries: 0,
            next: None,
            mentions: Vec::new(),
        }
    }

    fn say(&self, report: &mut Report, place: Place, field: &str, message: String) {
        let step = Path::Written(&self.field);
        let path = if field.is_empty() { step } else { step.field(field) };
        report.problem(place, &path, message);
    }
}

/// Checks how the steps hang together and makes them, without those that are wrong.
pub(super) fn steps(mut drafts: Vec<Draft>, report: &mut Report) -> Vec<Step> {
    let before = report.len();
    let names = names(&drafts, report);
    let whole = drafts.iter().all(|draft| draft.name.is_some() && draft.run.is_some());
    if whole {
        unknown_steps(&drafts, &names, report);
    }
    let follow: Vec<_> = (0..drafts.len()).map(|index| follow(&drafts, index)).collect();
    for (draft, follow) in drafts.iter().zip(&follow) {
        parallel_end(draft, follow.as_ref(), report);
    }
    // With a hole in the graph, what looks like an unreachable step may be an echo of the first error.
    if whole && report.len() == before {
        let edges: Vec<Vec<usize>> = follow.iter().map(|next| edges(next.as_ref(), &names)).collect();
        cycle(&drafts, &edges, report);
        unreachable(&drafts, &edges, report);
    }
    let steps = drafts.iter_mut().zip(follow).map(|(draft, next)| {
        let Draft { timeout, retries, .. } = *draft;
        Some(Step { name: draft.name.take()?, run: draft.run.take()?, timeout, retries, next: next? })
    });
    steps.flatten().collect()
}

/// The steps by name.
fn names(drafts: &[Draft], report: &mut Report) -> BTreeMap<Name, usize> {
    let mut names = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        let Some(name) = &draft.name else { continue };
        if let Some(first) = names.get(name) {
            let first: &Draft = &drafts[*first];
            let message = format!(
                "the step {} is here twice; first in line {}. Give one of them another `name`",
                quoted(name.as_str()),
                first.place.line
            );
            draft.say(report, draft.name_place, "name", message);
        } else {
            names.insert(name.clone(), index);
        }
    }
    names
}

fn unknown_steps(drafts: &[Draft], names: &BTreeMap<Name, usize>, report: &mut Report) {
    for mention in drafts.iter().flat_map(|draft| &draft.mentions) {
        if let Target::Step(name) = &mention.target
            && !names.contains_key(name)
        {
            let hint = did_you_mean(name.as_str(), names.keys().map(Name::as_str).chain([crate::chain::REPLY]));
            let message = format!("no step {} in this chain{hint}", quoted(name.as_str()));
            report.problem(mention.place, &Path::Written(&mention.field), message);
        }
    }
}

/// Where the step leads: what it says, or the step after it, or after the last the reply.
fn follow(drafts: &[Draft], index: usize) -> Option<Next> {
    match &drafts[index].next {
        Some((next, _)) => next.clone(),
        None => match drafts.get(index + 1) {
            Some(following) => following.name.clone().map(|name| Next::To(Target::Step(name))),
            None => Some(Next::To(Target::Reply)),
        },
    }
}

/// The results of a parallel step are brought together by the next one, so there must be exactly one.
fn parallel_end(draft: &Draft, next: Option<&Next>, report: &mut Report) {
    if !matches!(draft.run, Some(Run::Parallel(_))) {
        return;
    }
    let (place, field) = draft.next.as_ref().map_or((draft.place, ""), |(_, place)| (*place, "next"));
    match next {
        Some(Next::To(Target::Reply)) => {
            let message =
                "a parallel step cannot be the last: a step must follow that makes one result of its branches'";
            draft.say(report, place, field, message.to_owned());
        }
        Some(Next::ByHeader { .. } | Next::Choices { .. }) => {
            let message = "a parallel step leads to one step: there is no single result to choose by";
            draft.say(report, place, field, message.to_owned());
        }
        Some(Next::To(Target::Step(_))) | None => {}
    }
}

fn edges(next: Option<&Next>, names: &BTreeMap<Name, usize>) -> Vec<usize> {
    let steps = next.into_iter().flat_map(Next::targets).filter_map(|target| match target {
        Target::Reply => None,
        Target::Step(name) => names.get(name).copied(),
    });
    steps.collect()
}

/// Reports the first way that leads back to where it came from.
fn cycle(drafts: &[Draft], edges: &[Vec<usize>], report: &mut Report) {
    let mut done = vec![false; edges.len()];
    for start in 0..edges.len() {
        // The way from `start` to here: each step, and how many of its edges were taken.
        let mut way = vec![(start, 0)];
        while let Some((step, taken)) = way.last_mut() {
            let here = *step;
            let Some(&to) = edges[here].get(*taken).filter(|_| !done[here]) else {
                done[here] = true;
                way.pop();
                continue;
            };
            *taken += 1;
            if let Some(first) = way.iter().position(|(step, _)| *step == to) {
                let round = way[first..].iter().map(|(step, _)| *step).chain([to]);
                let names: Vec<_> = round.filter_map(|step| drafts[step].name.as_ref()).map(Name::as_str).collect();
                let draft = &drafts[here];
                let (place, field) = draft.next.as_ref().map_or((draft.place, ""), |(_, place)| (*place, "next"));
                let message = format!("the steps go round in a circle: {}; a request must end", names.join(" → "));
                return draft.say(report, place, field, message);
            }
            way.push((to, 0));
        }
    }
}

fn unreachable(drafts: &[Draft], edges: &[Vec<usize>], report: &mut Report) {
    let mut reached = vec![false; edges.len()];
    let mut waiting = vec![0];
    while let Some(step) = waiting.pop() {
        if !std::mem::replace(&mut reached[step], true) {
            waiting.extend(&edges[step]);
        }
    }
    for draft in drafts.iter().zip(reached).filter(|(_, reached)| !reached).map(|(draft, _)| draft) {
        let name = draft.name.as_ref().map_or("", Name::as_str);
        draft.say(report, draft.place, "", format!("no step leads to the step {}", quoted(name)));
    }
}
