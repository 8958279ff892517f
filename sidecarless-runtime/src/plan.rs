//! What has to change for the node to run what is asked for: what stays, and what comes anew beside the old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ramet_common::FunctionId;
use ramet_dataplane::PoolLayout;
use ramet_manifest::{self as manifest, Chain, Desired, DomainName, Name, PoolSizes};

use crate::function::is_same_version;

/// The versions that run now, by domain and name, and the domains' pools.
#[derive(Debug, Default)]
pub(crate) struct Running<'a> {
    pub(crate) domains: BTreeMap<&'a DomainName, PoolLayout>,
    pub(crate) functions: BTreeMap<(&'a DomainName, &'a Name), (FunctionId, &'a manifest::Function)>,
}

/// All domains after the change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) domains: Vec<PlannedDomain>,
}

/// A domain after the change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlannedDomain {
    pub(crate) name: DomainName,
    pub(crate) layout: PoolLayout,
    /// Whether it is there already. A pool of another size is another domain.
    pub(crate) is_new: bool,
    pub(crate) functions: Vec<PlannedFunction>,
    pub(crate) chains: Vec<Arc<Chain>>,
}

/// A function after the change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlannedFunction {
    pub(crate) manifest: Arc<manifest::Function>,
    /// The version that stays; `None`: a new one is needed.
    pub(crate) kept: Option<FunctionId>,
}

impl Plan {
    pub(crate) fn new(running: &Running<'_>, desired: &Desired, node_pool: PoolSizes) -> Self {
        let domains = desired.domains().into_iter().map(|domain| {
            let layout = PoolLayout { counts: domain.pool.over(node_pool).counts() };
            let is_new = running.domains.get(&domain.name) != Some(&layout);
            let mut functions: Vec<_> = domain
                .functions
                .into_iter()
                .map(|manifest| {
                    let known = running.functions.get(&(&domain.name, &manifest.metadata.name));
                    let same = known.filter(|(_, current)| !is_new && is_same_version(current, &manifest));
                    PlannedFunction { kept: same.map(|(id, _)| *id), manifest }
                })
                .collect();
            renew_callers(&mut functions);
            PlannedDomain { name: domain.name, layout, is_new, functions, chains: domain.chains }
        });
        Self { domains: domains.collect() }
    }
}

/// An instance learns the ids of the functions that it may call when it joins, so whoever calls a new version has to
/// become a new version too.
fn renew_callers(functions: &mut [PlannedFunction]) {
    loop {
        let renewed: BTreeSet<Name> = functions
            .iter()
            .filter(|function| function.kept.is_none())
            .map(|function| function.manifest.metadata.name.clone())
            .collect();
        let calls_renewed =
            |function: &&mut PlannedFunction| function.manifest.spec.calls.iter().any(|name| renewed.contains(name));
        let mut changed = false;
        for caller in functions.iter_mut().filter(|function| function.kept.is_some()).filter(calls_renewed) {
            caller.kept = None;
            changed = true;
        }
        if !changed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramet_manifest::Source;

    const BASE: &str = "
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: leaf}
spec: {command: [/bin/leaf]}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: caller}
spec: {command: [/bin/caller], calls: [leaf]}
---
apiVersion: ramet.dev/v1alpha1
kind: Function
metadata: {name: other}
spec: {command: [/bin/other]}
---
apiVersion: ramet.dev/v1alpha1
kind: Chain
metadata: {name: chain}
spec: {steps: [{function: caller}, {function: other}]}
";

    fn desired(text: &str) -> Desired {
        let source = Source { name: "test".to_owned(), text: text.to_owned(), base_dir: None };
        Desired::default().apply(&[source]).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Which functions a change from `before` to `after` keeps.
    fn kept(before: &str, after: &str) -> BTreeMap<String, bool> {
        let (before, pool) = (desired(before), PoolSizes::default());
        let domains = before.domains();
        let mut running = Running::default();
        for domain in &domains {
            running.domains.insert(&domain.name, PoolLayout { counts: domain.pool.over(pool).counts() });
            for (id, function) in (1..).zip(&domain.functions) {
                running.functions.insert((&domain.name, &function.metadata.name), (FunctionId(id), function));
            }
        }
        let plan = Plan::new(&running, &desired(after), pool);
        let functions = plan.domains.iter().flat_map(|domain| {
            domain.functions.iter().map(|function| {
                (format!("{}:{}", domain.name, function.manifest.metadata.name), function.kept.is_some())
            })
        });
        functions.collect()
    }

    fn changed(functions: &BTreeMap<String, bool>) -> Vec<&str> {
        functions.iter().filter(|(_, kept)| !**kept).map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn nothing_changes_by_itself() {
        assert!(changed(&kept(BASE, BASE)).is_empty());
    }

    #[test]
    fn more_replicas_are_no_new_version() {
        let more = BASE.replace("[/bin/other]", "[/bin/other], replicas: 3, shutdownGrace: 1s");
        assert!(changed(&kept(BASE, &more)).is_empty());
        let queue = BASE.replace("[/bin/other]", "[/bin/other], queue: 3");
        assert_eq!(changed(&kept(BASE, &queue)), ["default:other"]);
    }

    #[test]
    fn callers_follow_what_they_call() {
        let leaf = BASE.replace("/bin/leaf", "/bin/leaf2");
        assert_eq!(changed(&kept(BASE, &leaf)), ["default:caller", "default:leaf"]);
    }

    #[test]
    fn a_chain_of_its_own_starts_its_functions_once_more() {
        let isolated = BASE.replace("spec: {steps", "spec: {isolation: chain, steps");
        let functions = kept(BASE, &isolated);
        assert_eq!(changed(&functions), ["default/chain:caller", "default/chain:leaf", "default/chain:other"]);
        assert_eq!(functions.len(), 3, "nothing else uses them");
        let larger = isolated.replace("isolation: chain,", "isolation: chain, pool: {4Ki: 7},");
        assert_eq!(changed(&kept(&isolated, &larger)).len(), 3, "another pool is another domain");
    }
}
