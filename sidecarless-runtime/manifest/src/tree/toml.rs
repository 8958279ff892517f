//! TOML becomes a tree, and the environment is laid over it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Field, Node, Path, Report, SOURCE_BYTES_MAX, Value};
use crate::source::{Place, SourceText};

/// The table that a text is, as far as it can be read.
pub(crate) fn read(text: &str, source: u32, report: &mut Report) -> Node {
    let root = Place { source, ..Place::default() };
    if text.len() > SOURCE_BYTES_MAX {
        let message = format!("{} bytes, expected at most {SOURCE_BYTES_MAX}", text.len());
        report.problem(root, &Path::Root, message);
        return Node::broken(root);
    }
    let places = report.source(root).clone();
    let place = |range: std::ops::Range<usize>| places.place(source, &range);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = format!("this is not TOML: {}", error.message());
        report.problem(error.span().map_or(root, place), &Path::Root, message);
    }
    // What the parser made up to go on after an error is not worth checking.
    if errors.is_empty() { table_node(table.get_ref(), root, &place) } else { Node::broken(root) }
}

fn table_node(table: &DeTable<'_>, at: Place, place: &dyn Fn(std::ops::Range<usize>) -> Place) -> Node {
    let fields = table.iter().map(|(key, value)| Field {
        key: key.get_ref().to_string(),
        place: place(key.span()),
        node: value_node(value, place),
    });
    Node { value: Value::Map(fields.collect()), place: at }
}

fn value_node(value: &Spanned<DeValue<'_>>, place: &dyn Fn(std::ops::Range<usize>) -> Place) -> Node {
    let at = place(value.span());
    let plain = |text: String| Value::Scalar { text, plain: true };
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Scalar { text: text.to_string(), plain: false },
        DeValue::Integer(number) => {
            // 0xff is as good a 255 as any.
            let decimal = i64::from_str_radix(number.as_str(), number.radix());
            plain(decimal.map_or_else(|_| number.to_string(), |number| number.to_string()))
        }
        DeValue::Float(number) => plain(number.to_string()),
        DeValue::Boolean(truth) => plain(truth.to_string()),
        DeValue::Datetime(time) => Value::Scalar { text: time.to_string(), plain: false },
        DeValue::Array(items) => Value::List(items.iter().map(|item| value_node(item, place)).collect()),
        DeValue::Table(table) => return table_node(table, at, place),
    };
    Node { value, place: at }
}

/// Sets the field that `keys` lead to, making the maps on the way. A value that stands in the way is replaced: the
/// environment has the last word.
pub(crate) fn set(root: &mut Node, keys: &[&str], text: &str, report: &mut Report, name: &str) {
    let source = report.add_source(SourceText::new(name, text));
    let place = Place { source, ..Place::default() };
    let mut node = root;
    for key in keys {
        if !matches!(node.value, Value::Map(_)) {
            *node = Node { value: Value::Map(Vec::new()), place };
        }
        let Value::Map(fields) = &mut node.value else { return };
        let index = fields.iter().position(|field| field.key == *key).unwrap_or_else(|| {
            fields.push(Field { key: (*key).to_owned(), place, node: Node { value: Value::Map(Vec::new()), place } });
            fields.len() - 1
        });
        let field = &mut fields[index];
        field.place = if keys.last() == Some(key) { place } else { field.place };
        node = &mut field.node;
    }
    *node = Node { value: Value::Scalar { text: text.to_owned(), plain: true }, place };
}
