//! What a guest is given to run, as a script, because a script survives every shell's quoting.

use std::env;
use std::path::Path;

/// What the guest takes over from our own environment, apart from what names nothing of the host.
const PASSED: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "RUSTUP_HOME",
    "CI",
];
/// What begins so is passed, too.
const PASSED_PREFIXES: [&str; 3] = ["RAMET_", "RUST_", "NEXTEST_"];

/// A command with its surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    lines: Vec<String>,
}

impl Script {
    /// Begins with our own environment, in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut script = Self { lines: Vec::new() };
        for (name, value) in env::vars().filter(|(name, _)| is_passed(name)) {
            script.set(&name, &value);
        }
        script.lines.push(format!("cd {} || exit 126", quoted(&folder.to_string_lossy())));
        script
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.lines.push(format!("export {name}={}", quoted(value)));
    }

    /// Ends with a program and its arguments, taken as they are.
    pub(crate) fn words(mut self, words: &[String]) -> Self {
        let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
        self.lines.push(format!("exec {}", words.join(" ")));
        self
    }

    /// Goes on with lines of shell.
    pub(crate) fn shell(mut self, text: &str) -> Self {
        self.lines.push(text.to_owned());
        self
    }

    /// The script's text.
    pub(super) fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }
}

fn is_passed(name: &str) -> bool {
    PASSED.contains(&name) || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A word that no shell takes apart.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn words_arrive_as_they_were() {
        let words = ["printf", "%s|", "a b", "it's", "$HOME `id` \\ \"x\"", "", "*", "two\nlines"].map(str::to_owned);
        let mut script = Script::new(Path::new("/"));
        script.set("WORD", "it's $HOME");
        let text = script.words(&words).text();
        let output = Command::new("/bin/sh").args(["-c", &text]).output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a b|it's|$HOME `id` \\ \"x\"||*|two\nlines|");
        let shown = Script::new(Path::new("/")).shell("printf %s \"$HOME\"").text();
        let output = Command::new("/bin/sh").args(["-c", &shown]).output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), env::var("HOME").unwrap_or_default());
    }

    #[test]
    fn nothing_runs_in_a_folder_that_is_not_there() {
        let text = Script::new(Path::new("/no/such")).shell("echo ran").text();
        let output = Command::new("/bin/sh").args(["-c", &text]).output().expect("a shell");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(126), 0));
    }

    #[test]
    fn the_toolchain_that_runs_us_is_not_passed_on() {
        assert!(is_passed("PATH") && is_passed("RAMET_EBPF_OBJECT") && is_passed("RUST_BACKTRACE"));
        assert!(
            !is_passed("XTASK_VM_OUT")
                && !is_passed("CARGO_MANIFEST_DIR")
                && !is_passed("LD_PRELOAD")
                && !is_passed("SSH_AUTH_SOCK")
        );
    }
}
