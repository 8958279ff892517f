//! `delete`: one object by its name, or everything that manifests name, whole or not at all.

use ramet_control::admin::{Applied, Apply};

use crate::arguments::{Delete, NodeArguments};
use crate::client::{Node, block_on, read_manifests};
use crate::exit::Failure;
use crate::objects::{kind_of, print_changes, to_wire};
use crate::selection::Selection;

/// `ramet delete`.
pub(crate) fn run(node: &NodeArguments, options: &Delete) -> Result<(), Failure> {
    let node = Node::of(node)?;
    let applied: Applied = match (options.kind, &options.name) {
        (Some(kind), Some(name)) => {
            let selection = Selection::new(Some(&options.namespace), Some(name))?;
            block_on(node.ask("DELETE", &selection.objects(kind_of(kind)), None::<&()>))?
        }
        _ => {
            // The node looks them up and takes them out as one change: whoever changes something at the same time
            // comes before or after it.
            let named: Apply = to_wire(read_manifests(&options.files)?)?;
            block_on(node.ask("POST", "/v1/delete", Some(&named)))?
        }
    };
    print_changes(options.output.output, &applied)
}
