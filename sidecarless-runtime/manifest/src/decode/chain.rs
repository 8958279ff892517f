//! Decodes the spec of a chain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::graph::{self, Draft, Mention};
use super::{At, Body, Fields, Spec, list, scalar};
use crate::chain::{
    BRANCHES_MAX, Branch, ChainSpec, Host, IN_FLIGHT_MAX, Isolation, METHODS, Method, Next, PathPrefix, RETRIES_MAX,
    ROUTE_MAX, RouteMatch, Run, STEPS_MAX, TARGETS_MAX, Target, default,
};
use crate::name::Name;
use crate::source::{Place, Reference};
use crate::tree::{Report, Value, quoted};

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// The longest header name, and the longest value that a case can have, in bytes.
const HEADER_BYTES_MAX: usize = 256;

/// A chain's spec; what is wrong in it is replaced by the default or left out.
pub(super) fn spec(at: At<'_>, report: &mut Report, name: Option<&Name>) -> Option<Spec> {
    let mut fields = Fields::of(at, report, "a map with `steps`")?;
    let by_name = fields.find("route").is_none();
    let route = fields.get("route", report, route).unwrap_or_default();
    let deadline = fields
        .get("deadline", report, |at, report| scalar::duration(at, report, SHORTEST..=LONGEST))
        .unwrap_or(default::deadline());
    let mut references = Vec::new();
    let steps = fields.need("steps", report, |at, report| {
        let mut index = 0;
        let drafts = list(at, report, "steps", 1..=STEPS_MAX, |at, report| {
            index += 1;
            step(at, report, index, deadline, &mut references)
        })?;
        Some(graph::steps(drafts, report))
    });
    let max_in_flight = fields
        .get("maxInFlight", report, |at, report| scalar::whole(at, report, 1..=IN_FLIGHT_MAX))
        .unwrap_or(default::max_in_flight());
    let max_body = fields.get("maxBody", report, |at, report| scalar::bytes(at, report, 0..=1 << 40));
    let isolations = [("namespace", Isolation::Namespace), ("chain", Isolation::Chain)];
    let isolation = fields.get("isolation", report, |at, report| scalar::keyword(at, report, &isolations));
    let isolation = isolation.unwrap_or_default();
    let pool = fields.get("pool", report, |at, report| {
        if isolation != Isolation::Chain {
            at.say(report, "a chain has a pool of its own only with `isolation: chain`");
        }
        super::pool::pool_override(at, report)
    });
    fields.end(report);
    let (mut route, routes): (Vec<_>, Vec<_>) =
        route.into_iter().map(|(route, field, place)| (route, (field, place))).unzip();
    if by_name {
        route.extend(name.map(RouteMatch::by_name));
    }
    let steps = steps.unwrap_or_default();
    let spec = ChainSpec { route, steps, deadline, max_in_flight, max_body, isolation, pool };
    Some(Spec { body: Body::Chain(spec), references, routes })
}

/// The matches with field and place of each.
fn route(at: At<'_>, report: &mut Report) -> Option<Vec<(RouteMatch, String, Place)>> {
    let mut matches: Vec<(RouteMatch, String, Place)> = Vec::new();
    list(at, report, "matches", 1..=ROUTE_MAX, |at, report| {
        let before = report.len();
        let found = route_match(at, report)?;
        if report.len() > before {
            return None;
        }
        if let Some((first, field, _)) = matches.iter().find(|(first, ..)| first.conflicts_with(&found)) {
            at.say(report, format!("{} is the same as {first}, which is {field}", quoted(&found.to_string())));
        } else {
            matches.push((found, at.path.to_string(), at.node.place));
        }
        Some(())
    })?;
    Some(matches)
}

fn route_match(at: At<'_>, report: &mut Report) -> Option<RouteMatch> {
    let mut fields = Fields::of(at, report, "a map with host, path and methods")?;
    let host = fields.get("host", report, |at, report| {
        let text = scalar::text(at, report, "a host")?;
        checked(at, report, text, Host::from_text)
    });
    let path = fields.get("path", report, |at, report| {
        let text = scalar::text(at, report, "a path")?;
        checked(at, report, text, PathPrefix::from_text)
    });
    let methods = fields.get("methods", report, |at, report| {
        list(at, report, "methods", 1..=METHODS.len(), |at, report| {
            let words: Vec<_> = METHODS.iter().filter_map(|word| Some((*word, Method::from_text(word)?))).collect();
            scalar::keyword(at, report, &words)
        })
    });
    fields.end(report);
    let methods = BTreeSet::from_iter(methods.unwrap_or_default());
    Some(RouteMatch { host, path: path.unwrap_or_default(), methods })
}

/// What `read` makes of the text.
fn checked<T>(
    at: At<'_>,
    report: &mut Report,
    text: &str,
    read: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Option<T> {
    match read(text) {
        Ok(value) => Some(value),
        Err(message) => {
            at.say(report, format!("found {}, but {message}", quoted(text)));
            None
        }
    }
}

/// The `number`th step, from 1.
fn step(
    at: At<'_>,
    report: &mut Report,
    number: usize,
    deadline: Duration,
    references: &mut Vec<Reference>,
) -> Option<Draft> {
    let mut draft = Draft::new(at.node.place, at.path.to_string());
    let Some(mut fields) = Fields::of(at, report, "a map with `function` or `parallel`") else { return Some(draft) };
    let name = fields.find("name").map(|field| {
        draft.name_place = field.node.place;
        step_name(At { node: &field.node, path: &at.path.field("name") }, report)
    });
    let function = fields.get("function", report, |at, report| reference(at, report, references));
    let parallel = fields.get("parallel", report, |at, report| branches(at, report, references));
    let has = |name| matches!(&at.node.value, Value::Map(fields) if fields.iter().any(|field| field.key == name));
    match (has("function"), has("parallel")) {
        (true, true) => at.say(report, "found both `function` and `parallel`, expected one of them"),
        (false, false) => at.say(report, "expected `function` or `parallel`"),
        _ => {}
    }
    draft.name = match (name, &function) {
        (Some(name), _) => name,
        (None, Some(function)) => Some(function.clone()),
        (None, None) if has("parallel") => Name::new(&format!("step-{number}")).ok(),
        (None, None) => None,
    };
    draft.run = function.map(Run::Function).or(parallel.map(Run::Parallel));
    draft.timeout = fields.get("timeout", report, |at, report| {
        let timeout = scalar::duration(at, report, SHORTEST..=LONGEST)?;
        if timeout > deadline {
            let deadline = crate::quantity::duration_text(deadline);
            at.expected(report, &format!("no more than the chain's deadline, which is {deadline}"));
        }
        Some(timeout)
    });
    draft.retries = fields.get("retries", report, |at, report| scalar::whole(at, report, 0..=RETRIES_MAX)).unwrap_or(0);
    if let Some(field) = fields.find("next") {
        let place = field.node.place;
        let next = next(At { node: &field.node, path: &at.path.field("next") }, report, &mut draft.mentions);
        draft.next = Some((next, place));
    }
    fields.end(report);
    Some(draft)
}

fn step_name(at: At<'_>, report: &mut Report) -> Option<Name> {
    let name = scalar::name(at, report)?;
    if name.as_str() == crate::chain::REPLY {
        at.say(report, "a step cannot be called \"reply\", because `next: reply` ends the chain");
        return None;
    }
    Some(name)
}

/// The name of a function, noted for the check whether there is such a function.
fn reference(at: At<'_>, report: &mut Report, references: &mut Vec<Reference>) -> Option<Name> {
    let function = scalar::function_name(at, report)?;
    references.push(Reference { field: at.path.to_string(), place: at.node.place, function: function.clone() });
    Some(function)
}

fn branches(at: At<'_>, report: &mut Report, references: &mut Vec<Reference>) -> Option<Vec<Branch>> {
    let mut seen = BTreeSet::new();
    list(at, report, "branches", 2..=BRANCHES_MAX, |at, report| {
        let mut fields = Fields::of(at, report, "a map with `function`")?;
        let name = fields.get("name", report, scalar::name);
        let function = fields.need("function", report, |at, report| reference(at, report, references));
        fields.end(report);
        let function = function?;
        let name = name.unwrap_or_else(|| function.clone());
        if !seen.insert(name.clone()) {
            at.say(report, format!("the branch {} is here twice; give one of them a `name`", quoted(name.as_str())));
        }
        Some(Branch { name, function })
    })
}

/// Where a step leads; each naming of a step is noted for the check whether there is such a step.
fn next(at: At<'_>, report: &mut Report, mentions: &mut Vec<Mention>) -> Option<Next> {
    if matches!(at.node.value, Value::Scalar { .. }) {
        return target(at, report, mentions).map(Next::To);
    }
    let mut fields = Fields::of(at, report, "\"reply\", a step's name, or a map with `byHeader` or `choices`")?;
    let by_header = fields.find("byHeader").is_some();
    let choices = fields.find("choices").is_some();
    if by_header == choices {
        at.say(report, "expected either `byHeader` with `cases`, or `choices`");
        return None;
    }
    let next = if by_header {
        let by_header = fields.need("byHeader", report, header);
        let cases = fields.need("cases", report, |at, report| cases(at, report, mentions));
        let otherwise = fields.need("otherwise", report, |at, report| target(at, report, mentions));
        by_header.zip(cases).zip(otherwise).map(|((by_header, cases), otherwise)| Next::ByHeader {
            by_header,
            cases,
            otherwise,
        })
    } else {
        let choices = fields.need("choices", report, |at, report| choice_list(at, report, mentions));
        let otherwise = fields.need("otherwise", report, |at, report| target(at, report, mentions));
        choices.zip(otherwise).map(|(choices, otherwise)| Next::Choices { choices, otherwise })
    };
    fields.end(report);
    next
}

fn choice_list(at: At<'_>, report: &mut Report, mentions: &mut Vec<Mention>) -> Option<Vec<Target>> {
    let mut seen = BTreeSet::new();
    list(at, report, "choices", 1..=TARGETS_MAX, |at, report| {
        let target = target(at, report, mentions)?;
        if !seen.insert(target.clone()) {
            at.say(report, format!("{} is here twice", quoted(&target.to_string())));
        }
        Some(target)
    })
}

fn cases(at: At<'_>, report: &mut Report, mentions: &mut Vec<Mention>) -> Option<BTreeMap<String, Target>> {
    let Value::Map(fields) = &at.node.value else {
        at.expected(report, "a map of header values to steps");
        return None;
    };
    if fields.is_empty() || fields.len() > TARGETS_MAX {
        at.say(report, format!("found {} cases, expected 1 to {TARGETS_MAX}", fields.len()));
        return None;
    }
    let mut cases = BTreeMap::new();
    for field in fields {
        let path = at.path.field(&field.key);
        let visible = field.key.chars().all(|c| c == ' ' || c.is_ascii_graphic()) && field.key.trim() == field.key;
        if !visible || field.key.is_empty() || field.key.len() > HEADER_BYTES_MAX {
            let message = "a header's value here has 1 to 256 visible ASCII characters, and no space at either end";
            report.problem(field.place, &path, message);
        }
        if let Some(target) = target(At { node: &field.node, path: &path }, report, mentions) {
            cases.insert(field.key.clone(), target);
        }
    }
    Some(cases)
}

fn header(at: At<'_>, report: &mut Report) -> Option<String> {
    let text = scalar::text(at, report, "a header's name")?;
    checked(at, report, text, |text| {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || text.len() > HEADER_BYTES_MAX || !text.bytes().all(token) {
            return Err("expected a header's name such as `content-type`");
        }
        Ok(text.to_ascii_lowercase())
    })
}

/// The reply or a step.
fn target(at: At<'_>, report: &mut Report, mentions: &mut Vec<Mention>) -> Option<Target> {
    let name = scalar::name(at, report)?;
    let target = if name.as_str() == crate::chain::REPLY { Target::Reply } else { Target::Step(name) };
    mentions.push(Mention { field: at.path.to_string(), place: at.node.place, target: target.clone() });
    Some(target)
}
