//! A Rust file with its code and its comments apart, so that no rule takes a word in a string for code.
//!
//! This is not a parser: it knows comments, strings and character literals, which are the only places where a brace or
//! a word does not mean what it looks like.

use super::tree::TextFile;
use std::ops::RangeInclusive;

/// The two views have the same lines and columns; what belongs to the other view, or is inside a literal, is a space.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) code: Vec<String>,
    pub(super) comments: Vec<String>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a TextFile) -> Self {
        let (code, comments) = split(&file.text);
        let lines = |view: String| view.lines().map(str::to_owned).collect();
        Self { path: &file.path, code: lines(code), comments: lines(comments) }
    }

    /// The code, each line with its number, counted from one.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.iter().map(String::as_str))
    }

    /// Whether the line is in a file or a module of tests.
    pub(super) fn is_test(&self, line: usize) -> bool {
        let by_path = self.path.starts_with("tests/") || self.path.contains("/tests/");
        by_path || self.path.ends_with("/tests.rs") || self.test_modules().any(|lines| lines.contains(&line))
    }

    /// Where the items marked `#[cfg(test)]`, or with more conditions than that, are.
    fn test_modules(&self) -> impl Iterator<Item = RangeInclusive<usize>> {
        let is_mark = |code: &str| {
            let code = code.trim_start();
            code.starts_with("#[cfg(test)") || code.starts_with("#[cfg(all(test")
        };
        self.numbered().filter(move |(_, code)| is_mark(code)).filter_map(|(line, _)| {
            let end = self.end_of_item(line + 1, 0)?;
            Some(line..=end)
        })
    }

    /// The line of the brace that closes the first block after a line and column; nothing for an item without a block.
    pub(super) fn end_of_item(&self, line: usize, column: usize) -> Option<usize> {
        let mut depth = 0_usize;
        // A semicolon in `[u8; 4]` ends nothing.
        let mut brackets = 0_usize;
        for (number, code) in self.numbered().skip(line - 1) {
            let from = if number == line { column } else { 0 };
            for letter in code.chars().skip(from) {
                match letter {
                    '(' | '[' => brackets += 1,
                    ')' | ']' => brackets = brackets.saturating_sub(1),
                    '{' => depth += 1,
                    '}' if depth <= 1 => return (depth == 1).then_some(number),
                    '}' => depth -= 1,
                    ';' if depth == 0 && brackets == 0 => return None,
                    _ => {}
                }
            }
        }
        None
    }
}

/// What a character belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Literal,
}

fn split(text: &str) -> (String, String) {
    let letters: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut at = 0;
    while at < letters.len() {
        let (part, length) = next(&letters, at);
        for &letter in &letters[at..at + length] {
            let shown = |view: Part| if part == view || letter == '\n' { letter } else { ' ' };
            code.push(shown(Part::Code));
            comments.push(shown(Part::Comment));
        }
        at += length;
    }
    (code, comments)
}

/// What starts here, and how many characters it has.
fn next(letters: &[char], at: usize) -> (Part, usize) {
    let rest = &letters[at..];
    let starts = |start: &str| start.chars().eq(rest.iter().copied().take(start.len()));
    if starts("//") {
        let length = rest.iter().position(|letter| *letter == '\n').unwrap_or(rest.len());
        return (Part::Comment, length);
    }
    if starts("/*") {
        return (Part::Comment, block_comment(rest));
    }
    if starts("\"") {
        return (Part::Literal, quoted(rest, '"'));
    }
    let after_word = at > 0 && (letters[at - 1].is_alphanumeric() || letters[at - 1] == '_');
    let after_prefix = at > 0 && matches!(letters[at - 1], 'b' | 'c');
    if starts("r")
        && (!after_word || after_prefix)
        && let Some(length) = raw_string(rest)
    {
        return (Part::Literal, length);
    }
    if starts("'") && (starts("'\\") || rest.get(2) == Some(&'\'')) {
        return (Part::Literal, quoted(rest, '\''));
    }
    (Part::Code, 1)
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            letter if letter == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().skip(1).take_while(|letter| **letter == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let is_end =
        |at: &usize| rest[*at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    Some((hashes + 2..rest.len()).find(is_end).map_or(rest.len(), |end| end + 1 + hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        split(text).0
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code(r#"f("{ \" }") {"#), "f(        ) {");
        assert_eq!(code("f('{', '\\'', 'a: &'static str) }"), "f(   ,     , 'a: &'static str) }");
        assert_eq!(code("r#\"a \" {\"# }").trim(), "}");
        assert_eq!(code("r#type br\"{\" }").replace(' ', ""), "r#typeb}");
    }

    #[test]
    fn comments_keep_their_place() {
        assert_eq!(split("ab // c\n").1, "   // c\n");
        assert_eq!(split("\"// c\"").1.trim(), "");
    }

    #[test]
    fn an_item_ends_with_its_brace() {
        let file = TextFile { path: "a.rs".into(), text: "fn a(x: [u8; 2])\n{\n if b { '}' }\n}\nfn c();\n".into() };
        let source = Source::new(&file);
        assert_eq!(source.end_of_item(1, 0), Some(4));
        assert_eq!(source.end_of_item(5, 0), None);
    }

    #[test]
    fn tests_are_known_by_path_and_by_module() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  x\n}\nfn b() {}\n";
        let in_tests = |path: &str, line| Source::new(&TextFile { path: path.into(), text: text.into() }).is_test(line);
        assert_eq!(
            (1..=6).map(|line| in_tests("a.rs", line)).collect::<Vec<_>>(),
            [false, true, true, true, true, false]
        );
        assert!(in_tests("tests/src/lib.rs", 1) && in_tests("a/tests/b.rs", 1) && in_tests("a/src/b/tests.rs", 1));
    }
}
