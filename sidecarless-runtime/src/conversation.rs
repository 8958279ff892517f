//! Speaks to a child without ever waiting for it: few messages are under way at a time, the rest queues here.
//!
//! A control socket holds little. A child that is told of a thousand lanes at once would look like one that does not
//! read, so at most [`WINDOW`] messages wait for their `Applied`; each answer lets the next one go.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ramet_control::Numbered;
use ramet_control::socket::{ControlError, ControlSocket};
use serde::Serialize;

/// How many messages may wait for their `Applied`.
const WINDOW: usize = 32;

/// How many messages may wait to be sent. A child that lets more pile up is not following.
const QUEUE_MAX: usize = 1 << 14;

/// How long a child may take to answer a message.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Queued<M> {
    numbered: Numbered<M>,
    fds: Vec<OwnedFd>,
}

/// The supervisor's side of a conversation with one child.
#[derive(Debug)]
pub(crate) struct Conversation<M> {
    socket: ControlSocket,
    next: u64,
    queue: VecDeque<Queued<M>>,
    unanswered: BTreeSet<u64>,
    /// When the child last answered, or was first told something after it had answered everything.
    waiting_since: Option<Instant>,
}

impl<M: Serialize> Conversation<M> {
    pub(crate) fn new(socket: ControlSocket) -> Self {
        Self { socket, next: 1, queue: VecDeque::new(), unanswered: BTreeSet::new(), waiting_since: None }
    }

    /// The socket that it is held over.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Says something and returns its number, for [`Self::is_applied`].
    pub(crate) fn say(&mut self, message: M, fds: Vec<OwnedFd>) -> Result<u64, ControlError> {
        let sequence = self.next;
        self.next += 1;
        self.queue.push_back(Queued { numbered: Numbered { sequence, message }, fds });
        self.flush()?;
        Ok(sequence)
    }

    /// Notes the child's answer and sends what has waited for it.
    pub(crate) fn applied(&mut self, sequence: u64) -> Result<(), ControlError> {
        if self.unanswered.remove(&sequence) {
            self.waiting_since = (!self.unanswered.is_empty()).then(Instant::now);
        }
        self.flush()
    }

    /// Ends the conversation: the child reads an end of file.
    pub(crate) fn close(&self) {
        // An error means that the child has closed its side.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Whether a message that was said has taken effect.
    pub(crate) fn is_applied(&self, sequence: u64) -> bool {
        let sent = self.queue.front().is_none_or(|first| sequence < first.numbered.sequence);
        sent && !self.unanswered.contains(&sequence)
    }

    /// Whether everything that was said has taken effect.
    pub(crate) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.unanswered.is_empty()
    }

    /// Since when an answer is due, if one is.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    fn flush(&mut self) -> Result<(), ControlError> {
        while self.unanswered.len() < WINDOW
            && let Some(first) = self.queue.front()
        {
            let fds: Vec<_> = first.fds.iter().map(AsFd::as_fd).collect();
            match self.socket.send(&first.numbered, &fds) {
                Ok(()) => {}
                // The next answer tries again. Without one to come, nothing would.
                Err(ControlError::Congested) if !self.unanswered.is_empty() => break,
                Err(error) => return Err(error),
            }
            self.unanswered.insert(first.numbered.sequence);
            self.waiting_since.get_or_insert_with(Instant::now);
            self.queue.pop_front();
        }
        if self.queue.len() > QUEUE_MAX { Err(ControlError::Congested) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Conversation<u32>, ControlSocket) {
        let (ours, theirs) = ControlSocket::pair().expect("a pair");
        (Conversation::new(ours), theirs)
    }

    fn heard(socket: &ControlSocket) -> Vec<u64> {
        let mut sequences = Vec::new();
        while let Ok(Some((numbered, _))) = socket.try_receive::<Numbered<u32>>() {
            sequences.push(numbered.sequence);
        }
        sequences
    }

    #[test]
    fn answers_let_the_next_messages_go_in_order() {
        let (mut conversation, child) = pair();
        for number in 0..100 {
            conversation.say(number, Vec::new()).expect("queued");
        }
        assert_eq!(heard(&child), (1..=WINDOW as u64).collect::<Vec<_>>());
        assert!(!conversation.is_applied(1) && !conversation.is_applied(99));
        for sequence in 1..=50 {
            conversation.applied(sequence).expect("sent");
        }
        assert!(conversation.is_applied(50) && !conversation.is_applied(51));
        assert_eq!(heard(&child), (WINDOW as u64 + 1..=50 + WINDOW as u64).collect::<Vec<_>>());
        for sequence in 51..=100 {
            conversation.applied(sequence).expect("sent");
        }
        assert_eq!(heard(&child).last(), Some(&100));
        assert!(conversation.is_quiet());
        assert_eq!(conversation.waiting_since(), None);
    }

    #[test]
    fn a_child_that_is_gone_or_does_not_read_is_noticed() {
        let (mut conversation, child) = pair();
        let told = (0..1 << 20).find_map(|number| conversation.say(number, Vec::new()).err());
        assert!(matches!(told, Some(ControlError::Congested)));
        drop(child);
        let (mut conversation, child) = pair();
        drop(child);
        assert!(matches!(conversation.say(1, Vec::new()), Err(ControlError::Closed)));
    }
}
