//! `logs`: what instances wrote to standard output and error.

use anyhow::Context;
use http_body_util::BodyExt;
use ramet_control::admin::LogLine;

use crate::arguments::{Format, Logs, NodeArguments};
use crate::client::{Node, block_on};
use crate::exit::Failure;
use crate::objects::instances;
use crate::output;
use crate::selection::Selection;

/// `ramet logs`.
pub(crate) fn run(node: &NodeArguments, options: &Logs) -> Result<(), Failure> {
    let selection = Selection::new(options.namespace.as_deref(), options.function.as_deref())?;
    let node = Node::of(node)?;
    if selection.has_name() {
        // The log of a function that does not exist is as empty as that of one which is silent.
        instances(&node, &selection)?;
    }
    block_on(async {
        let mut response = node.send("GET", &selection.logs(options.follow), None::<&()>).await?;
        let mut pending = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.context("the node broke off the log")?;
            let Some(data) = frame.data_ref() else { continue };
            pending.extend_from_slice(data);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                print(options.output.output, &line)?;
            }
        }
        Ok(())
    })
}

fn print(format: Format, line: &[u8]) -> Result<(), Failure> {
    let line: LogLine = serde_json::from_slice(line).context("a log line is not what this version expects")?;
    match format {
        Format::Json => output::line(&serde_json::to_string(&line).context("a log line cannot be written as JSON")?),
        Format::Yaml => output::document(&line),
        Format::Table => {
            output::line(&format!("{}/{}[{}] {}", line.namespace, line.function, line.instance, line.line))
        }
    }
}
