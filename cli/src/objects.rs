//! `apply`, `get`, `describe` and `delete`.

use ramet_control::admin::{self, Action, Applied, Apply, Instance, Object};
use ramet_manifest::{Manifests, Resource, Source};

use crate::arguments::{Delete, Files, Format, Get, Listed, Named, NodeArguments, ObjectKind};
use crate::client::{Node, block_on, encoded, read_manifests};
use crate::exit::Failure;
use crate::output;

const NOTHING: Option<&()> = None;

/// `ramet apply`.
pub(crate) fn apply(node: &NodeArguments, options: &Files) -> Result<(), Failure> {
    let sources = read_manifests(&options.files)?;
    let apply = Apply { sources: sources.into_iter().map(to_wire).collect::<Result<_, _>>()? };
    let node = Node::of(node)?;
    let applied: Applied = block_on(node.ask("POST", "/v1/apply", Some(&apply)))?;
    print_changes(options.output.output, &applied)
}

fn to_wire(source: Source) -> Result<admin::Source, Failure> {
    let base_dir = source.base_dir.unwrap_or_else(|| "/".into());
    let base_dir = base_dir.into_os_string().into_string();
    let base_dir = base_dir.map_err(|path| Failure::Invalid(format!("the folder {path:?} has no UTF-8 name")))?;
    Ok(admin::Source { name: source.name, base_dir, text: source.text })
}

fn print_changes(format: Format, applied: &Applied) -> Result<(), Failure> {
    if format != Format::Table {
        return output::value(format, applied);
    }
    for change in &applied.changes {
        let action = match change.action {
            Action::Created => "created",
            Action::Changed => "changed",
            Action::Unchanged => "unchanged",
            Action::Deleted => "deleted",
        };
        output::line(&format!("{} {}/{} {action}", change.kind.to_lowercase(), change.namespace, change.name))?;
    }
    Ok(())
}

/// `ramet get`.
pub(crate) fn get(node: &NodeArguments, options: &Get) -> Result<(), Failure> {
    let node = Node::of(node)?;
    let format = options.output.output;
    match options.what {
        Listed::Functions => list_functions(&node, options, format),
        Listed::Chains => list_chains(&node, options, format),
        Listed::Instances => list_instances(&node, options, format),
        Listed::Node => {
            let status: admin::Node = block_on(node.ask("GET", "/v1/node", NOTHING))?;
            output::value(format, &status)
        }
    }
}

fn list_functions(node: &Node, options: &Get, format: Format) -> Result<(), Failure> {
    let objects = objects(node, "Function", options.namespace.as_deref(), options.name.as_deref())?;
    let header = ["NAMESPACE", "NAME", "READY", "RESTARTS", "MESSAGE"];
    output::rows(format, &objects, &header, |object| {
        vec![
            object.namespace.clone(),
            object.name.clone(),
            format!("{}/{}", object.status.ready_instances, object.status.wanted_instances),
            object.status.restarts.to_string(),
            object.status.message.clone(),
        ]
    })
}

fn list_chains(node: &Node, options: &Get, format: Format) -> Result<(), Failure> {
    let objects = objects(node, "Chain", options.namespace.as_deref(), options.name.as_deref())?;
    let header = ["NAMESPACE", "NAME", "READY", "ROUTES", "MESSAGE"];
    output::rows(format, &objects, &header, |object| {
        vec![
            object.namespace.clone(),
            object.name.clone(),
            object.status.ready.to_string(),
            object.status.routes.join(", "),
            object.status.message.clone(),
        ]
    })
}

fn list_instances(node: &Node, options: &Get, format: Format) -> Result<(), Failure> {
    let query = query(&[("namespace", options.namespace.as_deref()), ("function", options.name.as_deref())]);
    let instances: Vec<Instance> = block_on(node.ask("GET", &format!("/v1/instances{query}"), NOTHING))?;
    let header = ["ID", "NAMESPACE", "FUNCTION", "PID", "STATE", "AGE"];
    output::rows(format, &instances, &header, |instance| {
        vec![
            instance.id.to_string(),
            instance.namespace.clone(),
            instance.function.clone(),
            instance.pid.to_string(),
            instance.state.clone(),
            format!("{}s", instance.age_seconds),
        ]
    })
}

/// All objects of a kind, or the one that is named.
pub(crate) fn objects(
    node: &Node,
    kind: &str,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<Object>, Failure> {
    let query = query(&[("kind", Some(kind)), ("namespace", namespace), ("name", name)]);
    let objects: Vec<Object> = block_on(node.ask("GET", &format!("/v1/objects{query}"), NOTHING))?;
    match name {
        Some(name) if objects.is_empty() => {
            Err(Failure::NotFound(format!("there is no {} \"{name}\"", kind.to_lowercase())))
        }
        _ => Ok(objects),
    }
}

fn query(fields: &[(&str, Option<&str>)]) -> String {
    let set: Vec<_> =
        fields.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", encoded(value)))).collect();
    if set.is_empty() { String::new() } else { format!("?{}", set.join("&")) }
}

fn kind_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Function => "Function",
        ObjectKind::Chain => "Chain",
    }
}

/// `ramet describe`.
pub(crate) fn describe(node: &NodeArguments, options: &Named) -> Result<(), Failure> {
    let node = Node::of(node)?;
    let kind = kind_name(options.kind);
    let mut found = objects(&node, kind, Some(&options.namespace), Some(&options.name))?;
    match found.pop() {
        Some(object) => output::value(options.output.output, &object),
        None => Err(Failure::NotFound(format!("there is no such {}", kind.to_lowercase()))),
    }
}

/// `ramet delete`.
pub(crate) fn delete(node: &NodeArguments, options: &Delete) -> Result<(), Failure> {
    let named = match (options.kind, &options.name) {
        (Some(kind), Some(name)) => vec![(kind_name(kind).to_owned(), options.namespace.clone(), name.clone())],
        _ => named_in(&read_manifests(&options.files)?)?,
    };
    let node = Node::of(node)?;
    let mut all = Applied { changes: Vec::new() };
    for (kind, namespace, name) in named {
        let query = query(&[("kind", Some(&kind)), ("namespace", Some(&namespace)), ("name", Some(&name))]);
        let applied: Applied = block_on(node.ask("DELETE", &format!("/v1/objects{query}"), NOTHING))?;
        all.changes.extend(applied.changes);
    }
    print_changes(options.output.output, &all)
}

/// What manifests name, chains before the functions that they use.
fn named_in(sources: &[Source]) -> Result<Vec<(String, String, String)>, Failure> {
    let objects = Manifests::parse(sources).map_err(|errors| Failure::Invalid(format!("{errors:#}")))?;
    let mut named = Vec::new();
    for object in objects {
        let (kind, metadata) = match object.into_resource() {
            Resource::Chain(chain) => ("Chain", chain.metadata.clone()),
            Resource::Function(function) => ("Function", function.metadata.clone()),
        };
        named.push((kind.to_owned(), metadata.namespace.to_string(), metadata.name.to_string()));
    }
    named.sort_by_key(|(kind, ..)| kind != "Chain");
    Ok(named)
}
