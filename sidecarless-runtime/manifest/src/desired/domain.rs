//! Which functions run in which security domain follows from the chains that use them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::Desired;
use crate::chain::{Chain, Isolation};
use crate::function::Function;
use crate::name::{Name, QualifiedName};
use crate::pool::PoolOverride;

/// What a security domain is made for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainName {
    /// The chains of a namespace.
    Namespace(Name),
    /// One chain with `isolation: chain`.
    Chain(QualifiedName),
}

/// `NAMESPACE` or `NAMESPACE/CHAIN`.
impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => name.fmt(f),
            Self::Chain(name) => name.fmt(f),
        }
    }
}

/// A security domain: one pool, and the functions that may map it.
///
/// A chain with `isolation: chain` has a domain of its own, with its functions and those that they may call. The
/// namespace's domain has every other chain, with all functions of the namespace except those that only chains with a
/// domain of their own use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// What it is made for.
    pub name: DomainName,
    /// The functions that run in it, by name.
    pub functions: Vec<Arc<Function>>,
    /// The chains that run in it, by name.
    pub chains: Vec<Arc<Chain>>,
    /// What its pool has instead of the node's numbers of slots.
    pub pool: PoolOverride,
}

impl Domain {
    /// How many instances run in it.
    #[must_use]
    pub fn instances(&self) -> u64 {
        self.functions.iter().map(|function| u64::from(function.spec.replicas.max)).sum()
    }
}

/// The domains of `desired`, by name.
pub(super) fn domains(desired: &Desired) -> Vec<Domain> {
    let mut domains = BTreeMap::new();
    let mut isolated = BTreeSet::new();
    let mut shared: Vec<QualifiedName> = Vec::new();
    for (name, chain) in &desired.chains {
        let namespace = &name.namespace;
        let steps = chain.spec.functions().map(|function| QualifiedName::new(namespace.clone(), function.clone()));
        if chain.spec.isolation == Isolation::Chain {
            let reached = with_called(desired, steps.collect());
            let domain = domains.entry(DomainName::Chain(name.clone())).or_insert_with_key(empty);
            domain.functions.extend(reached.iter().filter_map(|name| desired.function(name).cloned()));
            domain.chains.push(chain.clone());
            domain.pool = chain.spec.pool.unwrap_or_default();
            isolated.extend(reached);
        } else {
            shared.extend(steps);
            let namespace = DomainName::Namespace(namespace.clone());
            domains.entry(namespace).or_insert_with_key(empty).chains.push(chain.clone());
        }
    }
    shared.extend(desired.functions.keys().filter(|name| !isolated.contains(*name)).cloned());
    for name in with_called(desired, shared) {
        let Some(function) = desired.function(&name) else { continue };
        domains.entry(DomainName::Namespace(name.namespace)).or_insert_with_key(empty).functions.push(function.clone());
    }
    domains.into_values().collect()
}

fn empty(name: &DomainName) -> Domain {
    Domain { name: name.clone(), functions: Vec::new(), chains: Vec::new(), pool: PoolOverride::default() }
}

/// The functions of `waiting`, those that they may call, those that these may call, and so on.
fn with_called(desired: &Desired, mut waiting: Vec<QualifiedName>) -> BTreeSet<QualifiedName> {
    let mut reached = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if let Some(function) = desired.functions.get(&name)
            && !reached.contains(&name)
        {
            let calls = &function.spec.calls;
            waiting.extend(calls.iter().map(|called| QualifiedName::new(name.namespace.clone(), called.clone())));
            reached.insert(name);
        }
    }
    reached
}
