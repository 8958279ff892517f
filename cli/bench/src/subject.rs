//! The one face that everything has which can be measured.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use crate::sample::Sample;
use crate::setting::{Identity, Setting, Times};

/// A round under way.
pub(crate) type Round<'r> = Pin<Box<dyn Future<Output = anyhow::Result<Sample>> + 'r>>;

/// Something that runs, and goes on until it is dropped.
pub(crate) trait Subject: Debug {
    /// Which system it is.
    fn identity(&self) -> &Identity;

    /// Whether it can be measured so; if not, it is left out without a word.
    fn suits(&self, setting: &Setting) -> bool;

    /// One round. An answer that is not what it should be is an error.
    fn round(&mut self, setting: Setting, times: Times) -> Round<'_>;
}
