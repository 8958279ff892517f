//! Answers as tables for people and as JSON or YAML for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::arguments::Format;
use crate::exit::Failure;

/// Prints `value` as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    line(&text)
}

/// Prints rows as a table, or the values that they were made of.
pub(crate) fn rows<T: Serialize>(
    format: Format,
    values: &[T],
    header: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    if format == Format::Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.to_vec());
        for value in values {
            table.add_row(row(value));
        }
        return line(&table.trim_fmt());
    }
    value(format, &values)
}

/// Prints one value as JSON or YAML.
pub(crate) fn value(format: Format, value: &impl Serialize) -> Result<(), Failure> {
    match format {
        Format::Json => json(value),
        Format::Table | Format::Yaml => yaml(value),
    }
}

/// Prints one value as YAML.
pub(crate) fn yaml(value: &impl Serialize) -> Result<(), Failure> {
    line(&yaml_text(value)?)
}

/// Prints a value as one of several YAML documents.
pub(crate) fn document(value: &impl Serialize) -> Result<(), Failure> {
    line(&format!("---\n{}", yaml_text(value)?))
}

fn yaml_text(value: &impl Serialize) -> Result<String, Failure> {
    let value = serde_json::to_value(value).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(ramet_manifest::to_yaml(&value).trim_end().to_owned())
}

/// Prints a line. A reader that has enough and closes the pipe is no failure.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::Failed(format!("cannot write to the standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}
