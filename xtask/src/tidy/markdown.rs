//! Documents stay true: what a link points to exists, and a command that a reader is told to type is there.

use super::Finding;
use super::tree::TextFile;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// What precedes a verb.
const COMMAND: &str = "cargo xtask ";

/// Relative links that lead nowhere. `exists` is asked for paths relative to the workspace.
pub(super) fn links(file: &TextFile, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    if !file.is_markdown() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (event, range) in Parser::new_ext(&file.text, Options::ENABLE_TABLES).into_offset_iter() {
        let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = event else { continue };
        let target = dest_url.split(['#', '?']).next().unwrap_or_default();
        if target.is_empty() || target.contains(':') {
            continue;
        }
        let is_there = resolve(file.folder(), target).is_some_and(|path| exists(&path));
        if !is_there {
            let line = line_of(&file.text, range.start);
            findings.push(Finding::new(&file.path, line, format!("the link to {target} leads nowhere; correct it")));
        }
    }
    findings
}

/// `cargo xtask` commands, in code, whose verb does not exist.
pub(super) fn commands(file: &TextFile, verbs: &[String]) -> Vec<Finding> {
    if !file.is_markdown() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut in_block = false;
    for (event, range) in Parser::new_ext(&file.text, Options::ENABLE_TABLES).into_offset_iter() {
        let code = match event {
            Event::Start(Tag::CodeBlock(_)) => {
                in_block = true;
                continue;
            }
            Event::End(TagEnd::CodeBlock) => {
                in_block = false;
                continue;
            }
            Event::Code(code) => code,
            Event::Text(code) if in_block => code,
            _ => continue,
        };
        for (at, _) in code.match_indices(COMMAND) {
            let verb = verb(&code[at + COMMAND.len()..]);
            if !verb.is_empty() && !verbs.iter().any(|known| known == verb) {
                let before = code[..at].matches('\n').count();
                let line = line_of(&file.text, range.start) + before;
                let text = format!("there is no `cargo xtask {verb}`; the verbs are {}", verbs.join(", "));
                findings.push(Finding::new(&file.path, line, text));
            }
        }
    }
    findings
}

/// The word in front; a placeholder such as `VERB` or `<verb>` is none.
fn verb(rest: &str) -> &str {
    let end = rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '-').unwrap_or(rest.len());
    let verb = &rest[..end];
    if verb.starts_with('-') { "" } else { verb }
}

/// A link's target relative to the workspace; nothing when it leads out of it.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => folder.split('/').filter(|part| !part.is_empty()).collect(),
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn document(path: &str, text: &str) -> TextFile {
        TextFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn links_to_nowhere_are_found() {
        let exists = |path: &str| path == "docs/a.md" || path == "README.md" || path == "docs";
        let found = |text: &str| {
            let found = links(&document("docs/b.md", text), exists);
            found.into_iter().map(|finding| finding.line).collect::<Vec<_>>()
        };
        assert_eq!(found("x\n[a](c.md)\n"), [2]);
        assert_eq!(found("[a][r]\n\n[r]: ../../README.md\n"), [1]);
        assert_eq!(found("![a](../a.md)\n"), [1]);
        assert_eq!(found("[a](a.md) [a](a.md#part) [b](../README.md) [c](.) [d](#here) [e](https://a.example)"), NONE);
        assert_eq!(found("`[a](c.md)`\n\n```\n[a](c.md)\n```\n"), NONE);
    }

    #[test]
    fn commands_that_do_not_exist_are_found() {
        let found = |path: &str, text: &str| {
            let found = commands(&document(path, text), &["test".to_owned(), "build-ebpf".to_owned()]);
            found.into_iter().map(|finding| finding.line).collect::<Vec<_>>()
        };
        assert_eq!(found("a.md", "x\n\n```sh\nls\ncargo xtask tests\n```\n"), [5]);
        assert_eq!(found("a.md", "| a |\n|---|\n| `cargo xtask build` |\n"), [3]);
        assert_eq!(found("a.md", "`cargo xtask test`, `cargo xtask build-ebpf --force`, `cargo xtask VERB`"), NONE);
        assert_eq!(found("a.md", "In prose, cargo xtask knows nothing.\n"), NONE);
        assert_eq!(found("a.rs", "`cargo xtask nothing`"), NONE);
    }
}
