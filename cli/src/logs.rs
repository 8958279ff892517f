//! `logs`: what instances wrote to standard output and error.

use anyhow::Context;
use http_body_util::BodyExt;
use ramet_control::admin::LogLine;

use crate::arguments::{Format, Logs, NodeArguments};
use crate::client::{Node, block_on, encoded};
use crate::exit::Failure;
use crate::output;

/// `ramet logs`.
pub(crate) fn run(node: &NodeArguments, options: &Logs) -> Result<(), Failure> {
    let node = Node::of(node)?;
    let mut path = format!("/v1/logs?follow={}", options.follow);
    for (name, value) in [("function", &options.function), ("namespace", &options.namespace)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    block_on(async {
        let mut response = node.send("GET", &path, None::<&()>).await?;
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
        Format::Yaml => output::value(format, &line),
        Format::Table => {
            output::line(&format!("{}/{}[{}] {}", line.namespace, line.function, line.instance, line.line))
        }
    }
}
