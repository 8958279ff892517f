//! Text with a name, and places in it: what makes an error say where.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::errors::{Position, Problem};
use crate::name::Name;

/// The longest line that an error repeats, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

/// A text to read. It can travel, so that one process reads the file and another parses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What errors call it: a path as the user wrote it, or `standard input`.
    pub name: String,
    /// The text.
    pub text: String,
    /// The absolute folder that relative paths in it start from; without one they are errors.
    pub base_dir: Option<PathBuf>,
}

/// A stretch of one line. Line and column count from 1; line 0 is no place in particular.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of the [`crate::tree::Report`]'s sources.
    pub(crate) source: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) width: u32,
}

/// A source's name and lines.
#[derive(Debug)]
pub(crate) struct SourceText {
    name: String,
    text: String,
    /// Where each line begins, in bytes.
    line_starts: Vec<usize>,
}

impl SourceText {
    pub(crate) fn new(name: &str, text: &str) -> Arc<Self> {
        let line_starts = Some(0).into_iter().chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        Arc::new(Self { name: name.to_owned(), text: text.to_owned(), line_starts })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The place of a byte range, which is cut at the end of its first line.
    pub(crate) fn place(&self, source: u32, range: &std::ops::Range<usize>) -> Place {
        let line = self.line_starts.partition_point(|&start| start <= range.start).saturating_sub(1);
        let chars = |from: usize, to: usize| self.text.get(from..to).map_or(0, |text| text.chars().count());
        let end = self.line_starts.get(line + 1).map_or(self.text.len(), |next| next - 1).min(range.end);
        Place {
            source,
            line: count(line + 1),
            column: count(chars(self.line_starts[line], range.start) + 1),
            width: count(chars(range.start, end).max(1)),
        }
    }

    /// A problem with what is at `place` of this source.
    pub(crate) fn problem(&self, place: Place, field: String, message: String) -> Problem {
        let position = (place.line > 0).then(|| Position {
            line: place.line,
            column: place.column.max(1),
            width: place.width.max(1),
            excerpt: self.excerpt(place.line),
        });
        Problem { file: self.name.clone(), position, field, message }
    }

    /// A line as it can be printed: no control characters, and nothing where it is too long.
    fn excerpt(&self, line: u32) -> String {
        let index = line as usize - 1;
        let Some(&start) = self.line_starts.get(index) else { return String::new() };
        let end = self.line_starts.get(index + 1).copied().unwrap_or(self.text.len());
        let line = &self.text[start..end];
        if line.chars().nth(EXCERPT_CHARS_MAX).is_some() {
            return String::new();
        }
        let printable: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        printable.trim_end().to_owned()
    }
}

/// Numbers of lines and characters fit: texts are at most a mebibyte long.
pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Where an object came from, for errors that show only when objects are put together.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) source: Arc<SourceText>,
    /// The object's name.
    pub(crate) name: Place,
    /// The functions that it names.
    pub(crate) references: Vec<Reference>,
    /// Field and place of each match of a chain's route.
    pub(crate) routes: Vec<(String, Place)>,
}

/// One naming of a function.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) field: String,
    pub(crate) place: Place,
    pub(crate) function: Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters() {
        let source = SourceText::new("x", "a\näöü = 1\n\u{1b}b");
        let start = "a\näö".len();
        let place = source.place(3, &(start..start + 2));
        assert_eq!(place, Place { source: 3, line: 2, column: 3, width: 1 });
        assert_eq!(source.place(0, &(2..100)).width, 7);
        assert_eq!(source.excerpt(2), "äöü = 1");
        assert_eq!(source.excerpt(3), " b");
        assert_eq!(source.excerpt(9), "");
    }
}
