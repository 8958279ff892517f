//! `apply`, `get` and `describe`.

use ramet_control::admin::{self, Action, Applied, Apply, Instance, Object};
use ramet_manifest::{Kind, Source};

use crate::arguments::{Files, Format, Get, Listed, Named, NodeArguments, ObjectKind};
use crate::client::{Node, block_on, read_manifests};
use crate::exit::Failure;
use crate::output;
use crate::selection::Selection;

const NOTHING: Option<&()> = None;

/// `ramet apply`.
pub(crate) fn apply(node: &NodeArguments, options: &Files) -> Result<(), Failure> {
    let apply = to_wire(read_manifests(&options.files)?)?;
    let node = Node::of(node)?;
    let applied: Applied = block_on(node.ask("POST", "/v1/apply", Some(&apply)))?;
    print_changes(options.output.output, &applied)
}

/// Manifests as the node is sent them.
pub(crate) fn to_wire(sources: Vec<Source>) -> Result<Apply, Failure> {
    Ok(Apply { sources: sources.into_iter().map(source_to_wire).collect::<Result<_, _>>()? })
}

fn source_to_wire(source: Source) -> Result<admin::Source, Failure> {
    let base_dir = source.base_dir.unwrap_or_else(|| "/".into());
    let base_dir = base_dir.into_os_string().into_string();
    let base_dir = base_dir.map_err(|path| Failure::Invalid(format!("the folder {path:?} has no UTF-8 name")))?;
    Ok(admin::Source { name: source.name, base_dir, text: source.text })
}

/// Prints what became of each object that was named.
pub(crate) fn print_changes(format: Format, applied: &Applied) -> Result<(), Failure> {
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
    let selection = Selection::new(options.namespace.as_deref(), options.name.as_deref())?;
    let node = Node::of(node)?;
    let format = options.output.output;
    match options.what {
        Listed::Functions => list_functions(&node, &selection, format),
        Listed::Chains => list_chains(&node, &selection, format),
        Listed::Instances => list_instances(&node, &selection, format),
        Listed::Node if options.name.is_some() || options.namespace.is_some() => Err(Failure::Invalid(
            "`ramet get node` takes neither a name nor a namespace: it shows the one node that answers on the admin \
             socket, and --socket names another"
                .to_owned(),
        )),
        Listed::Node => {
            let status: admin::Node = block_on(node.ask("GET", "/v1/node", NOTHING))?;
            output::value(format, &status)
        }
    }
}

fn list_functions(node: &Node, selection: &Selection, format: Format) -> Result<(), Failure> {
    let objects = objects(node, Kind::Function, selection)?;
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

fn list_chains(node: &Node, selection: &Selection, format: Format) -> Result<(), Failure> {
    let objects = objects(node, Kind::Chain, selection)?;
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

fn list_instances(node: &Node, selection: &Selection, format: Format) -> Result<(), Failure> {
    let instances = instances(node, selection)?;
    let header = ["ID", "NAMESPACE", "FUNCTION", "PID", "ORIGIN", "STATE", "AGE"];
    output::rows(format, &instances, &header, |instance| {
        vec![
            instance.id.to_string(),
            instance.namespace.clone(),
            instance.function.clone(),
            instance.pid.to_string(),
            instance.origin.clone(),
            instance.state.clone(),
            format!("{}s", instance.age_seconds),
        ]
    })
}

/// All objects of a kind, or the one that is named.
pub(crate) fn objects(node: &Node, kind: Kind, selection: &Selection) -> Result<Vec<Object>, Failure> {
    let objects: Vec<Object> = block_on(node.ask("GET", &selection.objects(kind), NOTHING))?;
    if selection.has_name() && objects.is_empty() { Err(selection.missing(kind)) } else { Ok(objects) }
}

/// All instances, or those of the function that is named. A function that was deleted is known for as long as it has
/// instances, and one that is to run may have none yet.
pub(crate) fn instances(node: &Node, selection: &Selection) -> Result<Vec<Instance>, Failure> {
    let instances: Vec<Instance> = block_on(node.ask("GET", &selection.instances(), NOTHING))?;
    if selection.has_name() && instances.is_empty() {
        objects(node, Kind::Function, selection)?;
    }
    Ok(instances)
}

/// The kind that an argument means.
pub(crate) fn kind_of(kind: ObjectKind) -> Kind {
    match kind {
        ObjectKind::Function => Kind::Function,
        ObjectKind::Chain => Kind::Chain,
    }
}

/// `ramet describe`.
pub(crate) fn describe(node: &NodeArguments, options: &Named) -> Result<(), Failure> {
    let selection = Selection::new(Some(&options.namespace), Some(&options.name))?;
    let node = Node::of(node)?;
    let kind = kind_of(options.kind);
    let object = objects(&node, kind, &selection)?.pop().ok_or_else(|| selection.missing(kind))?;
    output::value(options.output.output, &object)
}
