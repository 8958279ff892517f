//! Turns chains as manifests write them, by names, into what gateway and functions follow, by ids.

use std::collections::BTreeMap;

use ramet_common::{DomainId, FunctionId, RouteId};
use ramet_control::gateway;
use ramet_dataplane::Route;
use ramet_dataplane::route::{Branch, Next, Step, Target, Work};
use ramet_manifest::{self as manifest, Chain, ChainSpec, Name, Run};

/// The ids of a domain's functions, how each speaks, and what it wants of requests.
pub(crate) type FunctionIds = BTreeMap<Name, (FunctionId, Speaks, manifest::RequestBody)>;

/// What a function speaks with those who ask it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// The data plane, through the SDK.
    Descriptors,
    /// HTTP, with the gateway.
    Http,
}

impl Speaks {
    pub(crate) fn of(function: &manifest::Function) -> Self {
        if function.spec.http.is_some() { Self::Http } else { Self::Descriptors }
    }
}

/// A chain's route table. `functions` has every function that the chain names, which manifests are checked for.
pub(crate) fn compile(chain: &Chain, id: RouteId, domain: DomainId, functions: &FunctionIds) -> Route {
    let function = |name: &Name| functions.get(name).map(|(id, ..)| *id).unwrap_or_default();
    let steps = chain.spec.steps.iter().map(|step| Step {
        name: step.name.to_string(),
        work: match &step.run {
            Run::Function(name) => Work::Function(function(name)),
            Run::Parallel(branches) => Work::Parallel(
                branches
                    .iter()
                    .map(|branch| Branch { name: branch.name.to_string(), function: function(&branch.function) })
                    .collect(),
            ),
        },
        timeout: step.timeout,
        // Manifests allow ten.
        retries: u8::try_from(step.retries).unwrap_or(u8::MAX),
        next: next(&chain.spec, &step.next),
    });
    let known = || chain.spec.functions().filter_map(|name| functions.get(name));
    let http = known().filter(|(_, speaks, _)| *speaks == Speaks::Http).map(|(id, ..)| *id).collect();
    let streamed = known().filter(|(.., body)| *body == manifest::RequestBody::Streamed).map(|(id, ..)| *id).collect();
    Route { id, domain, chain: chain.qualified_name().to_string(), steps: steps.collect(), http, streamed }
}

fn next(spec: &ChainSpec, next: &manifest::Next) -> Next {
    let target = |target: &manifest::Target| match spec.step_index(target) {
        // A chain has at most 64 steps.
        Some(index) => Target::Step(index as u16),
        None => Target::Reply,
    };
    match next {
        manifest::Next::To(to) => Next::To(target(to)),
        manifest::Next::ByHeader { by_header, cases, otherwise } => Next::ByHeader {
            header: by_header.clone(),
            cases: cases.iter().map(|(value, to)| (value.clone(), target(to))).collect(),
            otherwise: target(otherwise),
        },
        manifest::Next::Choices { choices, otherwise } => {
            Next::Choice { choices: choices.iter().map(target).collect(), otherwise: target(otherwise) }
        }
    }
}

/// The chain as the gateway matches it.
pub(crate) fn for_gateway(chain: &Chain, route: Route) -> gateway::Chain {
    let matches = chain.spec.route.iter().map(|route| gateway::Match {
        host: route.host.as_ref().map(ToString::to_string),
        path: route.path.to_string(),
        methods: route.methods.iter().map(|method| method.as_str().to_owned()).collect(),
    });
    gateway::Chain {
        route,
        matches: matches.collect(),
        deadline: chain.spec.deadline,
        in_flight_max: chain.spec.max_in_flight,
        body_bytes_max: chain.spec.max_body.map(manifest::ByteCount::bytes),
    }
}

/// Where a chain is reached, for people: `ANY */thumbnail`.
pub(crate) fn addresses(chain: &Chain) -> Vec<String> {
    let address = |route: &manifest::RouteMatch| {
        let methods: Vec<_> = route.methods.iter().map(|method| method.as_str()).collect();
        let methods = if methods.is_empty() { "ANY".to_owned() } else { methods.join(",") };
        let host = route.host.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        format!("{methods} {host}{}", route.path)
    };
    chain.spec.route.iter().map(address).collect()
}
