//! How long files and functions may be: what does not fit a screen or two is read by nobody.

use super::Finding;
use super::source::Source;

/// Lines of a file: from here on it is advice, and from here on a rule.
const FILE: (usize, usize) = (400, 600);
/// The same of a function.
const FUNCTION: (usize, usize) = (70, 100);

pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(judge(source.path, 1, "the file", source.code.len(), FILE));
    for (line, column, name) in functions(source) {
        if let Some(end) = source.end_of_item(line, column) {
            findings.extend(judge(source.path, line, &format!("function `{name}`"), end + 1 - line, FUNCTION));
        }
    }
    findings
}

fn judge(path: &str, line: usize, what: &str, lines: usize, (soft, hard): (usize, usize)) -> Option<Finding> {
    let text = |limit| format!("{what} has {lines} lines; split it, {limit} is the limit");
    if lines > hard {
        return Some(Finding::new(path, line, text(hard)));
    }
    (lines > soft).then(|| Finding::advice(path, line, text(soft)))
}

/// Every function that has a name: its line, the column after `fn`, and the name.
fn functions<'a>(source: &'a Source<'_>) -> impl Iterator<Item = (usize, usize, &'a str)> {
    source.numbered().filter_map(|(line, code)| {
        let (before, after) =
            code.split_once("fn ").filter(|(before, _)| before.is_empty() || before.ends_with(' '))?;
        let name = after.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()?;
        let column = before.chars().count() + 3;
        (!name.is_empty()).then_some((line, column, name))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::super::tree::TextFile;
    use super::*;

    fn found(text: String) -> Vec<(usize, Weight)> {
        let file = TextFile { path: "a.rs".into(), text };
        check(&Source::new(&file)).into_iter().map(|finding| (finding.line, finding.weight)).collect()
    }

    fn function(lines: usize) -> String {
        format!("x\npub async fn long(a: [u8; 2]) -> B {{\n{}}}\n", "  a();\n".repeat(lines - 2))
    }

    #[test]
    fn long_functions_are_found_where_they_start() {
        assert_eq!(found(function(101)), [(2, Weight::Rule)]);
        assert_eq!(found(function(100)), [(2, Weight::Advice)]);
        assert_eq!(found(function(70)), []);
    }

    #[test]
    fn declarations_and_function_pointers_are_no_functions() {
        let rest = "b\n".repeat(150);
        assert_eq!(found(format!("fn declared(&self) -> u8;\ntype A = fn (u8);\nmod m {{\n{rest}}}\n")), []);
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(found("a\n".repeat(601)), [(1, Weight::Rule)]);
        assert_eq!(found("a\n".repeat(401)), [(1, Weight::Advice)]);
        assert_eq!(found("a\n".repeat(400)), []);
    }
}
