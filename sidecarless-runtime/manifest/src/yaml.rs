//! Prints anything serialisable as YAML that reads well and reads back: a page of our own beats an unmaintained crate.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::tree::{ScalarKind, scalar_kind};

/// `value` as one YAML document in block style, in the order of its fields. What cannot be JSON, such as a map whose
/// keys are lists, becomes a comment that says so.
#[must_use]
pub fn to_yaml<T: Serialize + ?Sized>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(value) => {
            let mut text = String::new();
            block(&mut text, &value, 0);
            text
        }
        Err(error) => format!("# {}\n", error.to_string().replace('\n', " ")),
    }
}

/// Writes a value that begins at the start of a line, or after `- `.
fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (key, value)) in fields.iter().enumerate() {
                if index > 0 {
                    indentation(text, indent);
                }
                scalar(text, key);
                text.push(':');
                child(text, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    indentation(text, indent);
                }
                text.push_str("- ");
                block(text, item, indent + 2);
            }
        }
        _ => inline(text, value),
    }
}

/// Writes a field's value: on the same line if it is one word, else below.
fn child(text: &mut String, value: &Value, indent: usize) {
    let nested = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        text.push('\n');
        indentation(text, indent + 2);
        block(text, value, indent + 2);
    } else {
        text.push(' ');
        inline(text, value);
    }
}

fn inline(text: &mut String, value: &Value) {
    match value {
        Value::String(value) => scalar(text, value),
        Value::Array(_) => text.push_str("[]"),
        Value::Object(_) => text.push_str("{}"),
        value => {
            let _ = write!(text, "{value}");
        }
    }
    text.push('\n');
}

fn indentation(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// Writes a text, in quotes where it would otherwise be something else.
fn scalar(text: &mut String, value: &str) {
    let safe_first = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '(' | '+');
    let safe = |c: char| c.is_ascii_alphanumeric() || " /._-+()=,;$@%^~".contains(c);
    let ends = value.chars().next().is_some_and(safe_first) && !value.ends_with(' ');
    let document_mark = value.starts_with("...");
    if ends && value.chars().all(safe) && scalar_kind(value) == ScalarKind::Text && !document_mark && !old_truth(value)
    {
        text.push_str(value);
        return;
    }
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if needs_escape(c) => {
                let _ = write!(text, "\\U{:08x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// Words that YAML 1.1, which many tools still read, takes for truth values.
fn old_truth(value: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off"].contains(&value.to_ascii_lowercase().as_str())
}

/// What YAML does not let stand in quotes, and what breaks lines.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_is_in_block_style() {
        let value = json!({
            "kind": "Chain",
            "empty": [],
            "steps": [{ "name": "a", "next": { "cases": { "1": "b" } } }, ["x", 1, true, null]],
        });
        let expected = "kind: Chain\nempty: []\nsteps:\n  - name: a\n    next:\n      cases:\n        \"1\": b\n  - - \
        x\n    - 1\n    - true\n    - null\n";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn what_could_be_misread_is_quoted() {
        for (text, yaml) in [
            ("plain text", "plain text\n"),
            ("8Mi", "8Mi\n"),
            ("", "\"\"\n"),
            ("8080", "\"8080\"\n"),
            ("true", "\"true\"\n"),
            ("no", "\"no\"\n"),
            ("~", "\"~\"\n"),
            ("a: b", "\"a: b\"\n"),
            ("a #b", "\"a #b\"\n"),
            ("- a", "\"- a\"\n"),
            ("*.example.org", "\"*.example.org\"\n"),
            ("...", "\"...\"\n"),
            ("a\n\"\u{7f}", "\"a\\n\\\"\\U0000007f\"\n"),
        ] {
            assert_eq!(to_yaml(text), yaml);
        }
    }
}
