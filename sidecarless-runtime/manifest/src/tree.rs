//! Text as a tree of scalars, lists and maps that knows the place of each: what YAML, TOML and environment become.

use std::fmt;
use std::sync::Arc;

use crate::errors::Problem;
use crate::source::{Place, SourceText};

pub(crate) mod toml;
pub(crate) mod yaml;

/// The most bytes of one source.
pub(crate) const SOURCE_BYTES_MAX: usize = 1 << 20;

/// The most problems that one reading collects; [`crate::Errors`] lists even fewer.
const PROBLEMS_COLLECTED_MAX: usize = 1000;

/// The most characters of a found text that an error repeats.
const FOUND_CHARS_MAX: usize = 64;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// A value.
#[derive(Debug)]
pub(crate) enum Value {
    /// `plain` says that it was written without quotes, so that `1` may be a number and `true` a truth value.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Field>),
    /// Something about it has been reported, and nothing more is to be.
    Broken,
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// What a plain scalar is in YAML's core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScalarKind {
    Nothing,
    Truth,
    Number,
    Text,
}

/// What a scalar of this text is, if it stands without quotes.
pub(crate) fn scalar_kind(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ScalarKind::Nothing,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return ScalarKind::Truth,
        ".nan" | ".NaN" | ".NAN" => return ScalarKind::Number,
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let based = |prefix: &str, radix: u32| {
        text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    let decimal = || {
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        digits(whole)
            && digits(fraction)
            && digits(exponent)
            && !exponent.is_empty()
            && whole.len() + fraction.len() > 0
    };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || based("0x", 16) || based("0o", 8) || decimal() {
        ScalarKind::Number
    } else {
        ScalarKind::Text
    }
}

impl Node {
    pub(crate) const fn broken(place: Place) -> Self {
        Self { value: Value::Broken, place }
    }

    /// Whether it is an empty document or a field without a value.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if scalar_kind(text) == ScalarKind::Nothing)
    }

    /// What it is, for errors.
    pub(crate) fn found(&self) -> String {
        match &self.value {
            Value::Scalar { text, plain: false } => quoted(text),
            Value::Scalar { text, plain: true } => match scalar_kind(text) {
                ScalarKind::Nothing => "nothing".to_owned(),
                ScalarKind::Truth => shortened(text),
                ScalarKind::Number => format!("the number {}", shortened(text)),
                ScalarKind::Text => quoted(text),
            },
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Broken => "something broken".to_owned(),
        }
    }
}

/// A text in quotes, safe to print and not too long.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(FOUND_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(FOUND_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// The way from a document's root to a field, as errors write it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'a> {
    Root,
    /// A way that was written down earlier.
    Written(&'a str),
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    pub(crate) const fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(crate) const fn item(&self, index: usize) -> Path<'_> {
        Path::Item(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Written(way) => f.write_str(way),
            Self::Field(Path::Root, name) => f.write_str(&shortened(name)),
            Self::Field(parent, name) => write!(f, "{parent}.{}", shortened(name)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Collects what is wrong while texts are read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sources: Vec<Arc<SourceText>>,
    problems: Vec<Problem>,
}

impl Report {
    /// Adds a source and says by which number places name it.
    pub(crate) fn add_source(&mut self, source: Arc<SourceText>) -> u32 {
        self.sources.push(source);
        crate::source::count(self.sources.len() - 1)
    }

    pub(crate) fn source(&self, place: Place) -> &Arc<SourceText> {
        &self.sources[place.source as usize]
    }

    pub(crate) fn problem(&mut self, place: Place, path: &Path<'_>, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_COLLECTED_MAX {
            let problem = self.source(place).problem(place, path.to_string(), message.into());
            self.problems.push(problem);
        }
    }

    /// How many problems there are so far, to see whether a part was read without any.
    pub(crate) const fn len(&self) -> usize {
        self.problems.len()
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// The end of a sentence that asks for the nearest of `known`; nothing where none is near.
pub(crate) fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, known).map_or_else(String::new, |known| format!("; did you mean {}?", quoted(known)))
}

/// The one of `known` that `text` is probably meant to be.
pub(crate) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let wanted = plain(text);
    if wanted.chars().nth(FOUND_CHARS_MAX).is_some() {
        return None;
    }
    let near = known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&wanted, &plain(known)), known))
        .filter(|(distance, known)| *distance <= known.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance);
    near.map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_the_core_schema_says() {
        for (text, kind) in [
            ("", ScalarKind::Nothing),
            ("~", ScalarKind::Nothing),
            ("True", ScalarKind::Truth),
            ("yes", ScalarKind::Text),
            ("-12", ScalarKind::Number),
            ("1e3", ScalarKind::Number),
            (".5", ScalarKind::Number),
            ("1.", ScalarKind::Number),
            ("0x1F", ScalarKind::Number),
            ("0o17", ScalarKind::Number),
            (".", ScalarKind::Text),
            ("e3", ScalarKind::Text),
            ("1e", ScalarKind::Text),
            ("8Mi", ScalarKind::Text),
            ("10s", ScalarKind::Text),
        ] {
            assert_eq!(scalar_kind(text), kind, "{text:?}");
        }
    }

    #[test]
    fn a_near_miss_is_named() {
        assert_eq!(did_you_mean("resise", ["decode", "resize"]), "; did you mean \"resize\"?");
        assert_eq!(did_you_mean("hang_grace", ["hangGrace"]), "; did you mean \"hangGrace\"?");
        assert_eq!(did_you_mean("colour", ["command"]), "");
    }

    #[test]
    fn found_text_cannot_write_to_a_terminal() {
        assert_eq!(quoted("\u{1b}[2J\n"), "\"\\u{1b}[2J\\n\"");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), FOUND_CHARS_MAX + 3);
    }
}
