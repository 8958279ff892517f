//! Whitespace, line ends and unfinished work: rules for every text file.

use super::Finding;
use super::tree::TextFile;

/// Columns of a line of Rust; rustfmt keeps code to it, but not strings and comments.
const COLUMNS: usize = 120;
/// Words that mark unfinished work.
const UNFINISHED: [&str; 3] = ["TODO", "FIXME", "XXX"];

pub(super) fn check(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(file.text.split('\n')) {
        let mut found = |text: String| findings.push(Finding::new(&file.path, number, text));
        let (line, ends_with_return) = line.strip_suffix('\r').map_or((line, false), |line| (line, true));
        if ends_with_return {
            found("the line ends with CR LF; use LF".into());
        }
        if line.contains('\t') {
            found("there is a tab; use spaces".into());
        }
        if line.ends_with([' ', '\t']) {
            found("the line ends with a space; remove it".into());
        }
        let columns = line.chars().count();
        if file.is_rust() && columns > COLUMNS {
            found(format!("the line has {columns} columns; break it at {COLUMNS}"));
        }
        // In Rust, the rules for comments know which words are in strings.
        if !file.is_rust()
            && let Some(word) = unfinished(line)
        {
            found(unfinished_text(word));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(Finding::new(&file.path, file.text.lines().count(), "the last line has no end; add a newline"));
    }
    if file.text.ends_with("\n\n") {
        findings.push(Finding::new(
            &file.path,
            file.text.lines().count(),
            "the file ends with empty lines; remove them",
        ));
    }
    findings
}

/// The first word in the line that marks unfinished work.
pub(super) fn unfinished(line: &str) -> Option<&'static str> {
    UNFINISHED.into_iter().find(|word| has_word(line, word))
}

pub(super) fn unfinished_text(word: &str) -> String {
    format!("{word} marks unfinished work; finish it, or describe what is missing in an issue")
}

/// Whether the word is there and no part of a longer one.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    words(line, word).next().is_some()
}

/// Where the word is and no part of a longer one.
pub(super) fn words(line: &str, word: &str) -> impl Iterator<Item = usize> {
    let inside = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !line[..*at].ends_with(inside) && !line[at + word.len()..].starts_with(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        let file = TextFile { path: path.into(), text: text.into() };
        check(&file).into_iter().map(|finding| (finding.line, finding.text)).collect()
    }

    fn assert_one(path: &str, text: &str, line: usize, part: &str) {
        let found = found(path, text);
        assert!(matches!(&found[..], [(at, what)] if *at == line && what.contains(part)), "{found:?}");
    }

    #[test]
    fn whitespace_that_nobody_sees_is_found() {
        assert_one("a.rs", "a\r\n", 1, "CR LF");
        assert_one("a.md", "a\n\tb\n", 2, "tab");
        assert_one("a.toml", "a \n", 1, "ends with a space");
        assert_one("a.rs", "a", 1, "no end");
        assert_one("a.rs", "a\n\n", 2, "empty lines");
        assert_eq!(found("a.rs", "a\n\n  b\n"), []);
        assert_eq!(found("a.md", ""), []);
    }

    #[test]
    fn long_lines_are_found_in_rust_only() {
        let line = format!("{}\n", "é".repeat(121));
        assert_one("a.rs", &line, 1, "121 columns");
        assert_eq!(found("a.md", &line), []);
        assert_eq!(found("a.rs", &format!("{}\n", "é".repeat(120))), []);
    }

    #[test]
    fn marks_of_unfinished_work_are_found_as_words() {
        assert_one("a.md", "b\nTODO: c\n", 2, "TODO");
        assert_one("a.sh", "# (FIXME)\n", 1, "FIXME");
        assert_eq!(found("a.sh", "mktemp ramet.XXXXXX; MASTODON\n"), []);
    }
}
