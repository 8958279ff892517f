//! Reports as comma-separated values: the rows of the JSON object, with the names of nested values joined by a dot.

use std::fmt::Write;

use serde_json::{Map, Value};

/// One line per row, after one that names the columns. The machine is in each line, so that files can be put together.
pub(super) fn csv(report: &Value) -> String {
    let rows = report["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let machine = machine(&report["machine"]);
    let records: Vec<Vec<(String, String)>> = rows
        .iter()
        .map(|row| {
            let mut record = Vec::new();
            flatten("", row, &mut record);
            record.push(("rounds".to_owned(), text(&report["rounds"])));
            record.extend(machine.iter().cloned());
            record
        })
        .collect();
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in records.iter().flatten() {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut csv = line(columns.iter().copied());
    for record in &records {
        let value = |column: &&str| record.iter().find(|(name, _)| name == column).map_or("", |(_, value)| value);
        csv += &line(columns.iter().map(value));
    }
    csv
}

fn line<'v>(values: impl Iterator<Item = &'v str>) -> String {
    values.map(quoted).collect::<Vec<_>>().join(",") + "\r\n"
}

fn quoted(value: &str) -> String {
    if value.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                flatten(&joined(name, field), value, into);
            }
        }
        // Things that have a name are told apart by it.
        Value::Array(things) => {
            for thing in things {
                let mut thing = thing.as_object().cloned().unwrap_or_default();
                let own = thing.remove("name").as_ref().map(text).unwrap_or_default();
                flatten(&joined(name, &own), &Value::Object(thing), into);
            }
        }
        value => into.push((name.to_owned(), text(value))),
    }
}

fn joined(name: &str, field: &str) -> String {
    if name.is_empty() { field.to_owned() } else { format!("{name}.{field}") }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn machine(machine: &Value) -> Vec<(String, String)> {
    let empty = Map::new();
    let fields = machine.as_object().unwrap_or(&empty);
    let value = |value: &Value| match value {
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => fields.iter().fold(String::new(), |mut all, (name, value)| {
            // Writing to a string cannot fail.
            let _ = write!(all, "{}{name}: {}", if all.is_empty() { "" } else { "; " }, text(value));
            all
        }),
        value => text(value),
    };
    fields.iter().map(|(name, field)| (format!("machine.{name}"), value(field))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_a_line_and_the_machine_is_in_each() {
        let report = json!({
            "machine": {
                "kernel": "6.1",
                "cpu_model": "A, or \"B\"",
                "load_average": [0.5, 1.0],
                "mitigations": {"x": "y"},
            },
            "rounds": 3,
            "rows": [
                {"system": "a", "p50_us": {"median": 1.5, "min": 1.0}, "processes": [{"name": "echo", "processes": 2}]},
                {"system": "b", "rate_per_s": 7},
            ],
            "ratios": [],
        });
        let csv = csv(&report);
        let lines: Vec<_> = csv.split("\r\n").collect();
        let mut columns: Vec<_> = lines[0].split(',').collect();
        columns.sort_unstable();
        let expected = [
            "machine.cpu_model",
            "machine.kernel",
            "machine.load_average",
            "machine.mitigations",
            "p50_us.median",
            "p50_us.min",
            "processes.echo.processes",
            "rate_per_s",
            "rounds",
            "system",
        ];
        assert_eq!(columns, expected);
        assert_eq!(lines.len(), 4, "a header, two rows, and the end of the last");
        for (line, has) in [(1, ["a", "1.5", "2", "3"]), (2, ["b", "7", "3", "6.1"])] {
            let values: Vec<_> = lines[line].split(',').collect();
            assert!(has.iter().all(|value| values.contains(value)), "{csv}");
            assert!(lines[line].contains(r#""A, or ""B""""#) && lines[line].contains("0.5 1.0"), "{csv}");
            assert!(lines[line].contains("x: y"), "{csv}");
        }
    }
}
