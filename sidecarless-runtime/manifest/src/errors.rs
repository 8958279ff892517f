//! Every error at once, each with its place, so that a manifest is mended in one go.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most problems that one [`Errors`] lists; more are only counted.
pub const PROBLEMS_MAX: usize = 100;

/// One thing that is wrong. Displayed as `FILE:LINE:COLUMN: FIELD: MESSAGE`; with `{:#}` the line of the file
/// follows, marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, or whatever else the text came from.
    pub file: String,
    /// Where in the file, if it is in a file.
    pub position: Option<Position>,
    /// The field, such as `spec.steps[1].function`; empty where it is the document or the file.
    pub field: String,
    /// What was found and what was expected.
    pub message: String,
}

/// A stretch of one line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The line; the first is 1.
    pub line: u32,
    /// The column in characters; the first is 1.
    pub column: u32,
    /// How many characters the thing has on this line; at least 1.
    pub width: u32,
    /// The line's text, without control characters; empty where it is too long to show.
    pub excerpt: String,
}

/// Everything that is wrong; never empty. Displayed as one line for each problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Errors {
    problems: Vec<Problem>,
    omitted: usize,
}

impl Errors {
    /// The first [`PROBLEMS_MAX`] of `problems`, or `None` where there are none.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Option<Self> {
        let omitted = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        (!problems.is_empty()).then_some(Self { problems, omitted })
    }

    /// The problems, in the order of the files and lines.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more problems there are than [`Self::problems`] lists.
    #[must_use]
    pub const fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        if self.omitted > 0 {
            write!(f, "\n… and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(position) = &self.position {
            write!(f, ":{}:{}", position.line, position.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.position {
            Some(position) if f.alternate() && !position.excerpt.is_empty() => position.fmt_excerpt(f),
            _ => Ok(()),
        }
    }
}

impl Position {
    fn fmt_excerpt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = self.column as usize - 1;
        let room = self.excerpt.chars().count().saturating_sub(indent).max(1);
        let marks = "^".repeat((self.width as usize).clamp(1, room));
        write!(f, "\n{:>5} | {}\n      | {:indent$}{marks}", self.line, self.excerpt, "")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_place() {
        let position = Position { line: 7, column: 3, width: 4, excerpt: "a: true".to_owned() };
        let mut problem = Problem {
            file: "x.yaml".to_owned(),
            position: Some(position),
            field: "spec.a".to_owned(),
            message: "no".to_owned(),
        };
        assert_eq!(problem.to_string(), "x.yaml:7:3: spec.a: no");
        assert_eq!(format!("{problem:#}"), "x.yaml:7:3: spec.a: no\n    7 | a: true\n      |   ^^^^");
        problem.position = None;
        assert_eq!(format!("{problem:#}"), "x.yaml: spec.a: no");
    }

    #[test]
    fn no_more_problems_are_listed_than_the_limit() {
        let problem = Problem { file: "x".to_owned(), position: None, field: String::new(), message: String::new() };
        let errors = Errors::new(vec![problem; PROBLEMS_MAX + 2]).unwrap();
        assert_eq!((errors.problems().len(), errors.omitted()), (PROBLEMS_MAX, 2));
        assert!(errors.to_string().ends_with("… and 2 more"));
        assert_eq!(Errors::new(Vec::new()), None);
    }
}
