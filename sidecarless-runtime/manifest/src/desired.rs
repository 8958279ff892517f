//! The validated whole: every function and chain that the node is asked to run. A change makes a new one or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chain::{Chain, RouteMatch};
use crate::decode;
use crate::errors::Errors;
use crate::function::Function;
use crate::name::{Name, QualifiedName};
use crate::object::{Kind, Object, Resource};
use crate::source::Source;

mod check;
mod domain;

pub use domain::{Domain, DomainName};

/// The most functions that all security domains can have together; a function that runs in two counts twice.
pub const FUNCTIONS_MAX: usize = 4000;
/// The most chains.
pub const CHAINS_MAX: usize = 4000;
/// The most security domains.
pub const DOMAINS_MAX: usize = 255;
/// The most instances, as the replicas of all functions of all domains.
pub const INSTANCES_MAX: u64 = 3072;

/// Functions and chains that are right together: every function that is named exists, in the namespace where it is
/// named, and no two chains claim the same requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    functions: BTreeMap<QualifiedName, Arc<Function>>,
    chains: BTreeMap<QualifiedName, Arc<Chain>>,
}

/// An object cannot be removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// There is no such object.
    #[error("there is no {kind} \"{name}\"")]
    Missing {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: QualifiedName,
    },
    /// Something that stays needs the function.
    #[error("function \"{name}\" is used by {}", list(users))]
    InUse {
        /// The function.
        name: QualifiedName,
        /// The chains and functions that use it.
        users: Vec<(Kind, QualifiedName)>,
    },
}

/// `chain "a/b", function "a/c" and 2 more`.
fn list(users: &[(Kind, QualifiedName)]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = users.iter().take(SHOWN).map(|(kind, name)| format!("{kind} \"{name}\"")).collect();
    let more = users.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

impl Desired {
    /// Adds `objects` or replaces those of the same kind and name, and checks the whole.
    ///
    /// # Errors
    /// Everything that does not fit: functions that are missing, requests that two chains claim, the same object
    /// twice, limits of the node.
    pub fn merge(&self, objects: Vec<Object>) -> Result<Self, Errors> {
        let problems = check::problems(self, &objects, &BTreeSet::new());
        match Errors::new(problems) {
            Some(errors) => Err(errors),
            None => Ok(self.with(objects)),
        }
    }

    /// Reads manifests and merges what they ask for, and reports what is wrong with either at once.
    ///
    /// # Errors
    /// Those of [`crate::Manifests::parse`] and of [`Self::merge`].
    pub fn apply(&self, sources: &[Source]) -> Result<Self, Errors> {
        let mut decoded = decode::sources(sources);
        // Of a file that could not be read to its end nobody knows what it would have declared.
        if decoded.complete {
            decoded.problems.extend(check::problems(self, &decoded.objects, &decoded.broken));
            decode::sort(&mut decoded.problems, sources);
        }
        match Errors::new(decoded.problems) {
            Some(errors) => Err(errors),
            None => Ok(self.with(decoded.objects)),
        }
    }

    /// Takes one object out.
    ///
    /// # Errors
    /// It is not there, or it is a function that a chain or another function uses.
    pub fn remove(&self, kind: Kind, namespace: &Name, name: &Name) -> Result<Self, RemoveError> {
        self.remove_all(&[(kind, QualifiedName::new(namespace.clone(), name.clone()))])
    }

    /// Takes several objects out at once, so that a chain and its functions, or functions that call each other, can
    /// go together.
    ///
    /// # Errors
    /// One of them is not there, or is a function that something which stays uses.
    pub fn remove_all(&self, names: &[(Kind, QualifiedName)]) -> Result<Self, RemoveError> {
        let mut rest = self.clone();
        for (kind, name) in names {
            let known = match kind {
                Kind::Function => self.functions.contains_key(name),
                Kind::Chain => self.chains.contains_key(name),
            };
            if !known {
                return Err(RemoveError::Missing { kind: *kind, name: name.clone() });
            }
            match kind {
                Kind::Function => drop(rest.functions.remove(name)),
                Kind::Chain => drop(rest.chains.remove(name)),
            }
        }
        for (_, name) in names.iter().filter(|(kind, _)| *kind == Kind::Function) {
            let users = rest.users(name);
            if !users.is_empty() {
                return Err(RemoveError::InUse { name: name.clone(), users });
            }
        }
        Ok(rest)
    }

    /// The function of this name.
    #[must_use]
    pub fn function(&self, name: &QualifiedName) -> Option<&Arc<Function>> {
        self.functions.get(name)
    }

    /// The chain of this name.
    #[must_use]
    pub fn chain(&self, name: &QualifiedName) -> Option<&Arc<Chain>> {
        self.chains.get(name)
    }

    /// All functions, by namespace and name.
    pub fn functions(&self) -> impl ExactSizeIterator<Item = &Arc<Function>> {
        self.functions.values()
    }

    /// All chains, by namespace and name.
    pub fn chains(&self) -> impl ExactSizeIterator<Item = &Arc<Chain>> {
        self.chains.values()
    }

    /// The chains and functions that name `function` in a step or in `calls`, itself not counted.
    #[must_use]
    pub fn users(&self, function: &QualifiedName) -> Vec<(Kind, QualifiedName)> {
        let same = |namespace: &Name| *namespace == function.namespace;
        let chains = self
            .chains
            .iter()
            .filter(|(name, chain)| same(&name.namespace) && chain.spec.functions().any(|used| *used == function.name));
        let functions = self.functions.iter().filter(|(name, user)| {
            same(&name.namespace) && *name != function && user.spec.calls.contains(&function.name)
        });
        let chains = chains.map(|(name, _)| (Kind::Chain, name.clone()));
        chains.chain(functions.map(|(name, _)| (Kind::Function, name.clone()))).collect()
    }

    /// The matches of all chains, the most specific first: the first one that matches a request says which chain gets
    /// it.
    #[must_use]
    pub fn routes(&self) -> Vec<(&RouteMatch, &Arc<Chain>)> {
        let mut routes: Vec<_> =
            self.chains.values().flat_map(|chain| chain.spec.route.iter().map(move |route| (route, chain))).collect();
        routes.sort_by_cached_key(|(route, _)| route.precedence());
        routes
    }

    /// The security domains, by name, with what runs in each.
    #[must_use]
    pub fn domains(&self) -> Vec<Domain> {
        domain::domains(self)
    }

    /// All objects as one manifest that [`Self::apply`] reads back: functions first, then chains.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let functions = self.functions.values().map(|function| crate::to_yaml(&**function));
        let chains = self.chains.values().map(|chain| crate::to_yaml(&**chain));
        functions.chain(chains).collect::<Vec<_>>().join("---\n")
    }

    fn with(&self, objects: Vec<Object>) -> Self {
        let mut changed = self.clone();
        for object in objects {
            let name = object.resource.metadata().qualified_name();
            match object.resource {
                Resource::Function(function) => drop(changed.functions.insert(name, Arc::new(function))),
                Resource::Chain(chain) => drop(changed.chains.insert(name, Arc::new(chain))),
            }
        }
        changed
    }
}
