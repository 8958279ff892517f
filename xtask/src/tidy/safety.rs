//! Unsafe code explains itself, in the kernel's programs too, where clippy does not run.

use super::Finding;
use super::source::Source;
use super::text::{has_word, words};

pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in source.numbered() {
        let text = match unsafe_use(code, source.code.get(line).map_or("", String::as_str)) {
            Some(Use::Operation) if !explained(source, line, &["SAFETY:"]) => {
                "unsafe without a reason; write `// SAFETY:` and the invariant it rests on above it"
            }
            Some(Use::Promise) if !explained(source, line, &["# Safety", "SAFETY:"]) => {
                "an unsafe function without its conditions; document them under `# Safety`"
            }
            _ => continue,
        };
        findings.push(Finding::new(source.path, line, text));
    }
    findings
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// A block, an implementation, foreign declarations: the author vouches for something.
    Operation,
    /// A function or trait: the caller or implementer must vouch for something.
    Promise,
}

/// What `unsafe` means in a line, the next of which is `following`.
fn unsafe_use(code: &str, following: &str) -> Option<Use> {
    let at = words(code, "unsafe").next()?;
    let rest = code[at + "unsafe".len()..].trim_start();
    let rest = if rest.is_empty() { following.trim_start() } else { rest };
    // A foreign function type or definition: the calling convention is a literal, which is blank here.
    let abi = rest.strip_prefix("extern").map(str::trim_start);
    let rest = abi.unwrap_or(rest);
    if rest.starts_with('{') || rest.starts_with("impl") {
        return Some(Use::Operation);
    }
    let name = rest.strip_prefix("fn").or_else(|| rest.strip_prefix("trait"))?;
    // `unsafe fn(u8)` is a type.
    name.starts_with(' ').then_some(Use::Promise)
}

/// Whether the comment that belongs to the statement of this line has one of the marks.
fn explained(source: &Source<'_>, line: usize, marks: &[&str]) -> bool {
    let has_mark = |index: usize| marks.iter().any(|mark| source.comments[index].contains(mark));
    let own = line - 1;
    if has_mark(own) {
        return true;
    }
    let mut in_comment = false;
    for index in (0..own).rev() {
        let code = source.code[index].trim();
        let comment = source.comments[index].trim();
        if code.is_empty() && comment.is_empty() {
            return false;
        }
        if code.is_empty() {
            in_comment = true;
            if has_mark(index) {
                return true;
            }
        } else if in_comment || ends_statement(code) {
            return false;
        }
    }
    false
}

/// Whether the line ends what came before, so that its comment is not ours.
fn ends_statement(code: &str) -> bool {
    code.ends_with([';', '{', '}']) || has_word(code, "unsafe")
}

#[cfg(test)]
mod tests {
    use super::super::tree::TextFile;
    use super::*;

    const NONE: [usize; 0] = [];

    fn found(text: &str) -> Vec<usize> {
        let file = TextFile { path: "a.rs".into(), text: text.into() };
        check(&Source::new(&file)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn an_unsafe_block_needs_a_reason() {
        assert_eq!(found("a;\nunsafe { b() }\n"), [2]);
        assert_eq!(found("// SAFETY: S1.\nunsafe { b() }\n"), NONE);
        assert_eq!(found("// SAFETY: S1, and\n// more.\n#[inline]\nlet a =\n    unsafe { b() };\n"), NONE);
        assert_eq!(found("// SAFETY: of another.\na();\nunsafe { b() }\n"), [3]);
        assert_eq!(found("// SAFETY: of another.\n\nunsafe { b() }\n"), [3]);
        assert_eq!(found("// SAFETY: S1.\nA => unsafe { b() },\nC => unsafe { d() },\n"), [3]);
    }

    #[test]
    fn an_unsafe_implementation_needs_a_reason() {
        assert_eq!(found("unsafe impl Send for A {}\n"), [1]);
        assert_eq!(found("unsafe extern \"C\" {\n}\n"), [1]);
        assert_eq!(found("// SAFETY: S2.\nunsafe impl Send for A {}\n"), NONE);
    }

    #[test]
    fn an_unsafe_function_needs_conditions() {
        assert_eq!(found("/// Does.\npub unsafe fn a() {}\n"), [2]);
        assert_eq!(found("/// # Safety\n/// When.\npub unsafe extern \"C\" fn a() {}\n"), NONE);
        assert_eq!(found("/// Does.\nunsafe trait A {}\n"), [2]);
    }

    #[test]
    fn words_attributes_and_types_are_not_unsafe_code() {
        assert_eq!(found("// unsafe { a }\n\"unsafe { a }\";\n#[unsafe(no_mangle)]\n"), NONE);
        assert_eq!(
            found("#![forbid(unsafe_code)]\ntype A = unsafe extern \"C\" fn(u8);\ntype B = unsafe fn();\n"),
            NONE
        );
    }
}
