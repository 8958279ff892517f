//! What guests say, by the line and with its origin, and the last of it.

use super::qemu::Role;
use super::run::Stream;
use std::collections::{HashMap, VecDeque};

/// How many lines are kept of what is shown only when something has failed.
const KEPT_LINES: usize = 200;

/// Makes lines of what comes in pieces from several streams.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: HashMap<(Role, Stream), Vec<u8>>,
}

impl Lines {
    /// The lines that are whole with this piece.
    pub(super) fn take(&mut self, role: Role, stream: Stream, bytes: &[u8]) -> String {
        let partial = self.partial.entry((role, stream)).or_default();
        partial.extend_from_slice(bytes);
        let end = partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = partial.drain(..end).collect();
        prefixed(role, stream, &whole)
    }

    /// What had no end of line.
    pub(super) fn rest(&mut self) -> String {
        self.partial.drain().map(|((role, stream), rest)| prefixed(role, stream, &rest)).collect()
    }
}

/// The last lines of all streams.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: Lines,
    kept: VecDeque<String>,
}

impl Tail {
    /// Takes a piece.
    pub(crate) fn take(&mut self, role: Role, stream: Stream, bytes: &[u8]) {
        let whole = self.lines.take(role, stream, bytes);
        self.kept.extend(whole.lines().map(str::to_owned));
        self.kept.drain(..self.kept.len().saturating_sub(KEPT_LINES));
    }

    /// What there is.
    pub(crate) fn text(mut self) -> String {
        let kept: String = self.kept.iter().map(|line| format!("{line}\n")).collect();
        kept + &self.lines.rest()
    }
}

fn prefixed(role: Role, stream: Stream, bytes: &[u8]) -> String {
    let origin = match (role, stream) {
        (Role::Command, Stream::Console) => "console: ",
        (Role::Command, _) => "guest: ",
        (Role::Peer, Stream::Console) => "peer's console: ",
        (Role::Peer, _) => "peer: ",
    };
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(|line| format!("{origin}{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_where_they_come_from() {
        assert_eq!(prefixed(Role::Peer, Stream::Out, b"a\r\nb"), "peer: a\npeer: b\n");
        assert_eq!(prefixed(Role::Command, Stream::Console, b"x\n"), "console: x\n");
        assert_eq!(prefixed(Role::Peer, Stream::Console, b""), "");
    }

    #[test]
    fn the_last_lines_are_kept_whole() {
        let mut tail = Tail::default();
        for number in 0..KEPT_LINES + 2 {
            tail.take(Role::Peer, Stream::Err, format!("{number}\nhal").as_bytes());
            tail.take(Role::Peer, Stream::Err, b"f ");
        }
        let text = tail.text();
        assert_eq!(text.lines().count(), KEPT_LINES + 1);
        assert!(text.starts_with("peer: half 2\n") && text.ends_with("peer: half\n"), "{text}");
    }
}
