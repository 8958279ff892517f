//! What is wrong only when objects are put together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{CHAINS_MAX, DOMAINS_MAX, Desired, FUNCTIONS_MAX, INSTANCES_MAX};
use crate::chain::{Chain, Host, PathPrefix, RouteMatch};
use crate::errors::{PROBLEMS_MAX, Problem};
use crate::function::Function;
use crate::name::{Name, QualifiedName};
use crate::object::{Kind, Object, Resource};
use crate::source::Reference;
use crate::tree::{did_you_mean, quoted};

/// What would be wrong with `current` and `objects` together. `broken` are objects that were found and could not be
/// read: naming one of them is not another error.
pub(super) fn problems(
    current: &Desired,
    objects: &[Object],
    broken: &BTreeSet<(Kind, QualifiedName)>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let functions = functions(current, objects, broken);
    for object in objects {
        let namespace = &object.resource.metadata().namespace;
        for reference in &object.origin.references {
            if functions.get(namespace).is_some_and(|names| names.contains(&reference.function)) {
                continue;
            }
            // Looking for what was meant takes time, and after the limit nobody will read it.
            let hint =
                if problems.len() < PROBLEMS_MAX { hint(&functions, namespace, reference) } else { String::new() };
            let (name, namespace) = (quoted(reference.function.as_str()), quoted(namespace.as_str()));
            let message = format!("no function {name} in namespace {namespace}{hint}");
            problems.push(object.origin.source.problem(reference.place, reference.field.clone(), message));
        }
    }
    duplicates(objects, &mut problems);
    calls_over_http(current, objects, &mut problems);
    route_conflicts(current, objects, &mut problems);
    if problems.is_empty() {
        problems.extend(limits(current, objects));
    }
    problems
}

/// The functions that there would be, by namespace.
fn functions<'a>(
    current: &'a Desired,
    objects: &'a [Object],
    broken: &'a BTreeSet<(Kind, QualifiedName)>,
) -> BTreeMap<&'a Name, BTreeSet<&'a Name>> {
    let mut functions: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    let known = current.functions.keys().map(|name| (&name.namespace, &name.name));
    let new = objects.iter().filter(|object| object.resource.kind() == Kind::Function);
    let new = new.map(|object| object.resource.metadata()).map(|metadata| (&metadata.namespace, &metadata.name));
    let broken = broken.iter().filter(|(kind, _)| *kind == Kind::Function);
    let broken = broken.map(|(_, name)| (&name.namespace, &name.name));
    for (namespace, name) in known.chain(new).chain(broken) {
        functions.entry(namespace).or_default().insert(name);
    }
    functions
}

/// Where the function that was meant may be.
fn hint(functions: &BTreeMap<&Name, BTreeSet<&Name>>, namespace: &Name, reference: &Reference) -> String {
    if let Some((other, _)) = functions.iter().find(|(_, names)| names.contains(&reference.function)) {
        let other = quoted(other.as_str());
        return format!("; there is one in namespace {other}, but only functions of the same namespace can be used");
    }
    let near = functions.get(namespace).into_iter().flatten().map(|name| name.as_str());
    did_you_mean(reference.function.as_str(), near)
}

fn duplicates(objects: &[Object], problems: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    for Object { resource, origin } in objects {
        let name = resource.metadata().qualified_name();
        let message = format!("{} {} is here twice", resource.kind(), quoted(&name.to_string()));
        if !seen.insert((resource.kind(), name)) {
            problems.push(origin.source.problem(origin.name, "metadata.name".to_owned(), message));
        }
    }
}

/// Calls of functions that serve HTTP by themselves, which only a chain can reach.
fn calls_over_http(current: &Desired, objects: &[Object], problems: &mut Vec<Problem>) {
    let new: BTreeMap<QualifiedName, (&Object, &Function)> = objects
        .iter()
        .filter_map(|object| match &object.resource {
            Resource::Function(function) => Some((function.qualified_name(), (object, function))),
            Resource::Chain(_) => None,
        })
        .collect();
    let serves_http = |name: &QualifiedName| {
        let known = new.get(name).map(|(_, function)| *function).or_else(|| current.functions.get(name).map(|f| &**f));
        known.is_some_and(|function| function.spec.http.is_some())
    };
    for (name, (object, function)) in &new {
        let is_call = |reference: &&Reference| function.spec.calls.contains(&reference.function);
        for reference in object.origin.references.iter().filter(is_call) {
            let callee = QualifiedName::new(name.namespace.clone(), reference.function.clone());
            if serves_http(&callee) {
                let message = format!(
                    "function {} serves HTTP by itself, so it can be a step of a chain but not be called",
                    quoted(callee.name.as_str())
                );
                problems.push(object.origin.source.problem(reference.place, reference.field.clone(), message));
            }
        }
        let calls_it = |(caller, by): &(&QualifiedName, &Arc<Function>)| {
            caller.namespace == name.namespace && !new.contains_key(caller) && by.spec.calls.contains(&name.name)
        };
        if function.spec.http.is_some()
            && let Some((caller, _)) = current.functions.iter().find(calls_it)
        {
            let caller = quoted(&caller.to_string());
            let message = format!("function {caller} calls it, which a function that serves HTTP by itself cannot be");
            problems.push(object.origin.source.problem(object.origin.name, "spec.http".to_owned(), message));
        }
    }
}

/// Matches and their chains, by host and path.
type Claims<'a> = HashMap<(&'a Option<Host>, &'a PathPrefix), Vec<(&'a RouteMatch, &'a Chain)>>;

/// Chains that claim the same requests; the later one is at fault.
fn route_conflicts(current: &Desired, objects: &[Object], problems: &mut Vec<Problem>) {
    let new = objects.iter().filter_map(|object| match &object.resource {
        Resource::Chain(chain) => Some((object, chain, chain.qualified_name())),
        Resource::Function(_) => None,
    });
    let new: Vec<_> = new.collect();
    let replaced: BTreeSet<&QualifiedName> = new.iter().map(|(_, _, name)| name).collect();
    let mut claims: Claims<'_> = HashMap::new();
    for (_, chain) in current.chains.iter().filter(|(name, _)| !replaced.contains(name)) {
        for route in &chain.spec.route {
            claims.entry((&route.host, &route.path)).or_default().push((route, chain));
        }
    }
    for (object, chain, name) in &new {
        for (index, route) in chain.spec.route.iter().enumerate() {
            let claimed = claims.entry((&route.host, &route.path)).or_default();
            let other =
                claimed.iter().find(|(other, owner)| other.conflicts_with(route) && owner.qualified_name() != *name);
            if let Some((_, owner)) = other {
                let owner = quoted(&owner.qualified_name().to_string());
                let requests = quoted(&route.to_string());
                let origin = &object.origin;
                let problem = match origin.routes.get(index) {
                    Some((field, place)) => {
                        let message = format!("the requests {requests} are those of chain {owner} already");
                        origin.source.problem(*place, field.clone(), message)
                    }
                    None => {
                        let message = format!(
                            "a chain of this name without a `route` has the requests {requests}, which are those of \
                             chain {owner} already; give it a `route`"
                        );
                        origin.source.problem(origin.name, "metadata.name".to_owned(), message)
                    }
                };
                problems.push(problem);
            }
            claimed.push((route, chain));
        }
    }
}

/// What would be too much for a node; the last object is as good a place as any to say so.
fn limits(current: &Desired, objects: &[Object]) -> Option<Problem> {
    let last = objects.last()?;
    let whole = current.with(objects.to_vec());
    let domains = whole.domains();
    let functions: usize = domains.iter().map(|domain| domain.functions.len()).sum();
    let instances: u64 = domains.iter().map(super::Domain::instances).sum();
    let message = if whole.chains.len() > CHAINS_MAX {
        format!("the node would have {} chains, expected at most {CHAINS_MAX}", whole.chains.len())
    } else if domains.len() > DOMAINS_MAX {
        format!("the node would have {} security domains, expected at most {DOMAINS_MAX}", domains.len())
    } else if functions > FUNCTIONS_MAX {
        format!("the node would have {functions} functions in all its domains, expected at most {FUNCTIONS_MAX}")
    } else if instances > INSTANCES_MAX {
        format!("the node would have {instances} instances, expected at most {INSTANCES_MAX}")
    } else {
        return None;
    };
    Some(last.origin.source.problem(last.origin.name, String::new(), message))
}
