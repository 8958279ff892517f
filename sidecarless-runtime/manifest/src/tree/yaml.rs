//! YAML becomes trees within limits; what lets a small text stand for a big one (aliases) or for code (tags) is not
//! taken.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{Field, Node, Path, Report, SOURCE_BYTES_MAX, Value, quoted};
use crate::source::{Place, count};

/// The most documents of one source.
pub(crate) const DOCUMENTS_MAX: usize = 1024;

/// How deep lists and maps may lie in each other.
pub(crate) const DEPTH_MAX: usize = 32;

/// The most fields of one map.
pub(crate) const FIELDS_MAX: usize = 1024;

/// The most scalars, lists and maps of one source.
pub(crate) const NODES_MAX: usize = 1 << 16;

/// The documents of a source, without those that are empty, and whether the source was read to its end.
pub(crate) fn read(text: &str, source: u32, report: &mut Report) -> (Vec<Node>, bool) {
    let mut reader =
        Reader { source, report, open: Vec::new(), documents: Vec::new(), document_count: 0, node_count: 0 };
    let complete = reader.read(text).is_some();
    (reader.documents, complete)
}

/// A list or map whose end has not come yet.
struct Open {
    place: Place,
    children: Children,
}

enum Children {
    List(Vec<Node>),
    /// The fields so far, and the key whose value comes next. A key that is no scalar has no text.
    Map(Vec<Field>, Option<(Option<String>, Place)>),
}

struct Reader<'a> {
    source: u32,
    report: &'a mut Report,
    open: Vec<Open>,
    documents: Vec<Node>,
    document_count: usize,
    node_count: usize,
}

impl Reader<'_> {
    /// `None` where the rest cannot be read.
    fn read(&mut self, text: &str) -> Option<()> {
        if text.len() > SOURCE_BYTES_MAX {
            let place = Place { source: self.source, ..Place::default() };
            return self.stop(place, format!("{} bytes, expected at most {SOURCE_BYTES_MAX}", text.len()));
        }
        for event in Parser::new_from_str(text) {
            match event {
                Ok((event, span)) => {
                    let place = self.place(span);
                    self.event(event, place)?;
                }
                Err(error) => {
                    let place = self.place(Span::empty(*error.marker()));
                    return self.stop(place, format!("this is not YAML: {}", error.info()));
                }
            }
        }
        Some(())
    }

    fn event(&mut self, event: Event<'_>, place: Place) -> Option<()> {
        match event {
            Event::DocumentStart(_) => {
                self.document_count += 1;
                if self.document_count > DOCUMENTS_MAX {
                    return self.stop(place, format!("expected at most {DOCUMENTS_MAX} documents in a file"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(place, anchor, tag.is_some());
                let plain = style == ScalarStyle::Plain;
                return self.add(Node { value: Value::Scalar { text: text.into_owned(), plain }, place });
            }
            Event::Alias(_) => {
                self.say(place, "aliases are not supported; write the value out");
                return self.add(Node::broken(place));
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(place, anchor, tag.is_some());
                return self.begin(place, Children::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(place, anchor, tag.is_some());
                return self.begin(place, Children::Map(Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { place, children } = self.open.pop()?;
                let value = match children {
                    Children::List(items) => Value::List(items),
                    Children::Map(fields, _) => Value::Map(fields),
                };
                return self.add(Node { value, place });
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Some(())
    }

    fn begin(&mut self, place: Place, children: Children) -> Option<()> {
        if self.open.len() >= DEPTH_MAX {
            return self.stop(place, format!("expected lists and maps at most {DEPTH_MAX} deep"));
        }
        self.open.push(Open { place, children });
        Some(())
    }

    /// Puts a finished node where it belongs: into the innermost open list or map, or among the documents.
    fn add(&mut self, mut node: Node) -> Option<()> {
        self.node_count += 1;
        if self.node_count > NODES_MAX {
            return self.stop(node.place, format!("expected at most {NODES_MAX} values in a file"));
        }
        match self.open.last_mut().map(|open| &mut open.children) {
            None if node.is_nothing() => {}
            None => self.documents.push(node),
            Some(Children::List(items)) => items.push(node),
            Some(Children::Map(fields, key)) => match key.take() {
                Some((Some(text), place)) => {
                    // A value that is not there has no place of its own; its key is where to look.
                    if node.is_nothing() {
                        node.place = place;
                    }
                    fields.push(Field { key: text, place, node });
                }
                Some((None, _)) => {}
                None => return self.add_key(node),
            },
        }
        Some(())
    }

    fn add_key(&mut self, node: Node) -> Option<()> {
        let mut wrong = None;
        let Some(Open { children: Children::Map(fields, key), .. }) = self.open.last_mut() else { return Some(()) };
        if fields.len() >= FIELDS_MAX {
            return self.stop(node.place, format!("expected at most {FIELDS_MAX} fields in a map"));
        }
        let text = match node.value {
            Value::Scalar { text, .. } => match fields.iter().find(|field| field.key == text) {
                Some(first) => {
                    wrong =
                        Some(format!("the field {} is here twice; first in line {}", quoted(&text), first.place.line));
                    None
                }
                None => Some(text),
            },
            _ => {
                wrong = Some("expected a field's name".to_owned());
                None
            }
        };
        *key = Some((text, node.place));
        if let Some(wrong) = wrong {
            self.say(node.place, &wrong);
        }
        Some(())
    }

    fn refuse(&mut self, place: Place, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.say(place, "anchors are not supported; write the value out where it is needed");
        }
        if tagged {
            self.say(place, "tags such as `!name` are not supported");
        }
    }

    /// Reports and gives up.
    fn stop(&mut self, place: Place, message: String) -> Option<()> {
        self.say(place, &message);
        None
    }

    fn say(&mut self, place: Place, message: &str) {
        self.report.problem(place, &Path::Root, message);
    }

    /// The parser counts columns from 0.
    fn place(&self, span: Span) -> Place {
        let width =
            if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
        Place {
            source: self.source,
            line: count(span.start.line()),
            column: count(span.start.col() + 1),
            width: count(width),
        }
    }
}

/// Reads one source by itself.
#[cfg(test)]
pub(crate) fn read_one(text: &str) -> (Vec<Node>, Vec<crate::Problem>, bool) {
    let mut report = Report::default();
    let source = report.add_source(crate::source::SourceText::new("x", text));
    let (documents, complete) = read(text, source, &mut report);
    (documents, report.into_problems(), complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        read_one(text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_have_places() {
        let (documents, problems, complete) = read_one("# hello\na:\n  - b: \"c\"\n---\n---\nd: e\n");
        assert!(problems.is_empty() && complete);
        assert_eq!(documents.len(), 2);
        let Value::Map(fields) = &documents[0].value else { panic!("a map") };
        let Value::List(items) = &fields[0].node.value else { panic!("a list") };
        let Value::Map(inner) = &items[0].value else { panic!("a map") };
        let place = inner[0].node.place;
        assert_eq!((place.line, place.column, place.width), (3, 8, 3));
    }

    #[test]
    fn what_is_not_plain_data_is_refused() {
        assert_eq!(
            messages("a: &x 1\nb: *x\nc: !t 2\na: 3\n[d]: 4\n"),
            [
                "x:1:4: anchors are not supported; write the value out where it is needed",
                "x:2:4: aliases are not supported; write the value out",
                "x:3:4: tags such as `!name` are not supported",
                "x:4:1: the field \"a\" is here twice; first in line 1",
                "x:5:1: expected a field's name",
            ]
        );
    }

    #[test]
    fn everything_is_bounded() {
        assert_eq!(messages(&"[".repeat(100)), ["x:1:33: expected lists and maps at most 32 deep"]);
        assert_eq!(messages(&"- ".repeat(50_000)), ["x:1:65: expected lists and maps at most 32 deep"]);
        assert_eq!(messages(&"---\na: b\n".repeat(1025)), ["x:2049:1: expected at most 1024 documents in a file"]);
        assert_eq!(messages(&"- a\n".repeat(70_000)), ["x:65537:3: expected at most 65536 values in a file"]);
        let fields: String = (0..1025).map(|index| format!("f{index}: 1\n")).collect();
        assert_eq!(messages(&fields), ["x:1025:1: expected at most 1024 fields in a map"]);
        assert_eq!(messages(&" ".repeat(SOURCE_BYTES_MAX + 1)), ["x: 1048577 bytes, expected at most 1048576"]);
        assert!(messages("a: [1, 2\nb: 3\n")[0].contains("this is not YAML"));
    }
}
