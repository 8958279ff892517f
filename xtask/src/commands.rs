//! Other programs, started where everybody can see what is started.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// The cargo that runs us, in the workspace.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).stdin(Stdio::null());
    command
}

/// Whether a program runs and says yes, without a word.
pub(crate) fn says_yes(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs a command and shows it. `false`: it ran, and failed.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    eprintln!("$ {}", typed(command));
    let status = command.status().with_context(|| format!("cannot run {}", typed(command)))?;
    Ok(status.success())
}

/// Which output of a command is listened to; the other goes where ours goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Standard,
    Error,
}

/// The same as [`succeeds`], with `hear` being given every line of one output.
pub(crate) fn overhear(command: &mut Command, output: Output, mut hear: impl FnMut(&str)) -> Result<bool> {
    eprintln!("$ {}", typed(command));
    match output {
        Output::Standard => command.stdout(Stdio::piped()),
        Output::Error => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().with_context(|| format!("cannot run {}", typed(command)))?;
    let pipe: Option<Box<dyn Read>> = match output {
        Output::Standard => child.stdout.take().map(|pipe| Box::new(pipe) as _),
        Output::Error => child.stderr.take().map(|pipe| Box::new(pipe) as _),
    };
    let mut reader = BufReader::new(pipe.context("a child process has no pipe")?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).context("cannot read from a child process")? > 0 {
        hear(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
    Ok(child.wait().context("cannot wait for a child process")?.success())
}

/// A command as one would type it.
pub(crate) fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_are_heard_as_they_come_and_the_exit_code_counts() {
        let mut lines = Vec::new();
        let heard = overhear(&mut shell("echo a; printf 'b\\377'; exit 3"), Output::Standard, |line| {
            lines.push(line.to_owned())
        });
        assert!(!heard.expect("it ran"));
        assert_eq!(lines, ["a", "b\u{fffd}"]);
        let mut errors = 0;
        assert!(overhear(&mut shell("echo a >&2"), Output::Error, |_| errors += 1).expect("it ran"));
        assert_eq!(errors, 1);
    }

    #[test]
    fn a_missing_program_says_no() {
        assert!(!says_yes(&mut Command::new("/no/such/program")));
        assert!(says_yes(&mut shell("exit 0")) && !says_yes(&mut shell("exit 1")));
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        assert_eq!(typed(&shell("a")), "sh -c a");
    }
}
