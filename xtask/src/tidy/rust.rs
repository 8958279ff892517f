//! Rules of Rust files that the compiler and clippy do not have.

use super::Finding;
use super::source::Source;
use super::text::{has_word, unfinished, unfinished_text};

/// Macros that mark unfinished work.
const UNFINISHED_MACROS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];
/// A test that sleeps is slow when the machine is fast and red when the machine is slow.
const SLEEPS: [&str; 2] = ["thread::sleep", "time::sleep"];
/// The mark of an exception, followed by its reason.
const EXCEPTION: &str = "tidy:";
/// The folder where two processes meet in memory.
const SHARED_MEMORY: &str = "dataplane/shm/";
/// Orderings that have a partner somewhere else.
const PAIRED: [&str; 3] = ["Ordering::Acquire", "Ordering::Release", "Ordering::AcqRel"];
/// How many lines before an ordering its `SYNC` comment may be.
const SYNC_DISTANCE: usize = 3;

pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line, text: &str| findings.push(Finding::new(source.path, line, text));
    if !source.comments.first().is_some_and(|line| line.starts_with("//!")) {
        found(1, "the file does not say why it is there; begin it with a `//!` sentence");
    }
    for (line, comment) in (1..).zip(&source.comments) {
        if let Some(word) = unfinished(comment) {
            found(line, &unfinished_text(word));
        }
    }
    for (line, code) in source.numbered() {
        if let Some(word) = UNFINISHED_MACROS.into_iter().find(|word| has_word(code, word)) {
            found(line, &unfinished_text(word));
        }
        if code.replace(' ', "").contains("#[ignore]") {
            found(line, "the test is ignored without a reason; write `#[ignore = \"why\"]`");
        }
        if sleeps(code) && source.is_test(line) && !has_exception(source, line) {
            found(line, "the test sleeps; wait for a condition with a deadline, or say `// tidy: why` above");
        }
        if is_unpaired(source, line, code) {
            found(line, "the ordering names no partner; write `// SYNC: what is published` above");
        }
    }
    findings
}

fn sleeps(code: &str) -> bool {
    SLEEPS.iter().any(|sleep| has_word(code, sleep))
}

/// Whether this line or the one above makes an exception and gives a reason.
fn has_exception(source: &Source<'_>, line: usize) -> bool {
    let above = line.saturating_sub(2);
    source.comments[above..line]
        .iter()
        .any(|comment| comment.split_once(EXCEPTION).is_some_and(|(_, reason)| !reason.trim().is_empty()))
}

fn is_unpaired(source: &Source<'_>, line: usize, code: &str) -> bool {
    source.path.starts_with(SHARED_MEMORY)
        && PAIRED.iter().any(|ordering| has_word(code, ordering))
        && !source.comments[line.saturating_sub(1 + SYNC_DISTANCE)..line]
            .iter()
            .any(|comment| has_word(comment, "SYNC"))
}

#[cfg(test)]
mod tests {
    use super::super::tree::TextFile;
    use super::*;

    const NONE: [usize; 0] = [];

    /// The lines after a proper first one in which something is found.
    fn found(path: &str, text: &str) -> Vec<usize> {
        let file = TextFile { path: path.into(), text: format!("//! Why.\n{text}\n") };
        check(&Source::new(&file)).into_iter().map(|finding| finding.line - 1).collect()
    }

    #[test]
    fn a_file_says_why_it_is_there() {
        let found = |text: &str| check(&Source::new(&TextFile { path: "a.rs".into(), text: text.into() })).len();
        assert_eq!(found("// Why.\n"), 1);
        assert_eq!(found(""), 1);
        assert_eq!(found("//! Why.\n"), 0);
    }

    #[test]
    fn unfinished_work_is_found_in_comments_and_code() {
        assert_eq!(found("a.rs", "a(); // TODO: b"), [1]);
        assert_eq!(found("a.rs", "a();\ntodo!()"), [2]);
        assert_eq!(found("a.rs", "unimplemented!();\ndbg!(a);"), [1, 2]);
        assert_eq!(found("a.rs", "a(\"TODO todo!()\"); // the todo! macro"), NONE);
    }

    #[test]
    fn an_ignored_test_has_a_reason() {
        assert_eq!(found("a.rs", "#[ignore]\nfn a() {}"), [1]);
        assert_eq!(found("a.rs", "#[ignore = \"needs RDMA\"]\nfn a() {}"), NONE);
    }

    #[test]
    fn tests_do_not_sleep() {
        assert_eq!(found("tests/tests/a.rs", "std::thread::sleep(b);"), [1]);
        assert_eq!(found("a/src/b.rs", "fn c() {}\n#[cfg(test)]\nmod tests {\ntokio::time::sleep(d).await;\n}"), [4]);
        assert_eq!(found("tests/tests/a.rs", "// tidy:\nthread::sleep(b);"), [2]);
        assert_eq!(found("tests/tests/a.rs", "// tidy: the function itself is slow.\nthread::sleep(b);"), NONE);
        assert_eq!(found("a/src/b.rs", "thread::sleep(c);"), NONE);
    }

    #[test]
    fn orderings_over_shared_memory_name_their_partner() {
        assert_eq!(found("dataplane/shm/src/a.rs", "a.load(Ordering::Acquire);"), [1]);
        assert_eq!(found("dataplane/shm/src/a.rs", "// SYNC: b\n\n\n\na.swap(1, Ordering::AcqRel);"), [5]);
        assert_eq!(found("dataplane/shm/src/a.rs", "// SYNC: b\n\n\na.store(1, Ordering::Release);"), NONE);
        assert_eq!(found("dataplane/shm/src/a.rs", "a.load(Ordering::Relaxed);"), NONE);
        assert_eq!(found("gateway/src/a.rs", "a.load(Ordering::Acquire);"), NONE);
    }
}
