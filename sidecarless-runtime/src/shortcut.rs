//! Whether connections of the gateway to functions that serve HTTP by themselves are short-cut past TCP, and why not.
//!
//! The programs are loaded when the first such function is started: nobody else has any use for them.

use std::os::fd::{AsFd, OwnedFd};

use ramet_common::shortcut::{GatewayEnd, ShortcutCount};
use ramet_common::{FunctionId, InstanceId};
use ramet_loader::{LoaderError, find_object};
use ramet_manifest::Shortcut as Wanted;

/// It was asked for and cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("shortcut = \"on\" does not work here: {0}; with `shortcut = \"auto\"` the node goes without")]
pub struct ShortcutError(String);

/// The short-cut, as far as there is one.
#[derive(Debug)]
pub(crate) enum Shortcut {
    /// Nothing has needed it yet.
    Unneeded,
    /// It is there.
    Open(Box<ramet_loader::Shortcut>),
    /// There is none.
    Closed(String),
}

impl Shortcut {
    /// What the settings ask for.
    pub(crate) fn new(wanted: Wanted) -> Result<Self, ShortcutError> {
        match wanted {
            Wanted::Auto => Ok(Self::Unneeded),
            Wanted::On => load().map(|shortcut| Self::Open(Box::new(shortcut))).map_err(ShortcutError),
            Wanted::Off => Ok(Self::Closed("the node's settings ask for none".to_owned())),
        }
    }

    /// Has connections on these sockets of the gateway's to an instance short-cut, if that can be.
    pub(crate) fn adopt(&mut self, function: FunctionId, instance: InstanceId, sockets: &[OwnedFd]) {
        if matches!(self, Self::Unneeded) {
            *self = load().map_or_else(Self::Closed, |shortcut| Self::Open(Box::new(shortcut)));
            if let Self::Closed(why) = self {
                tracing::info!("functions that serve HTTP are reached by plain TCP: {why}");
            }
        }
        let Self::Open(shortcut) = self else { return };
        let end = GatewayEnd { function, instance };
        let adopted = shortcut
            .count(function)
            .and_then(|()| sockets.iter().try_for_each(|socket| shortcut.adopt(socket.as_fd(), end)));
        if let Err(error) = adopted {
            tracing::warn!(%error, %instance, "an instance is reached by plain TCP");
        }
    }

    /// A function is gone.
    pub(crate) fn forget(&mut self, function: FunctionId) {
        if let Self::Open(shortcut) = self
            && let Err(error) = shortcut.forget(function)
        {
            tracing::error!(%error, "cannot forget a function's counters");
        }
    }

    /// What went to and from each function.
    pub(crate) fn counts(&self) -> Vec<(FunctionId, ShortcutCount)> {
        let Self::Open(shortcut) = self else { return Vec::new() };
        shortcut
            .counts()
            .inspect_err(|error| tracing::error!(%error, "cannot read the short-cut's counters"))
            .unwrap_or_default()
    }

    /// `on`, `off` or `unneeded`, and why.
    pub(crate) fn describe(&self) -> (&'static str, String) {
        match self {
            Self::Unneeded => ("unneeded", "no function serves HTTP by itself on a port".to_owned()),
            Self::Open(_) => ("on", "the kernel redirected what was sent over a connection".to_owned()),
            Self::Closed(why) => ("off", why.clone()),
        }
    }
}

/// Loads and tries it.
pub(crate) fn load() -> Result<ramet_loader::Shortcut, String> {
    let text = |error: LoaderError| error.to_string();
    let mut shortcut = ramet_loader::Shortcut::load(find_object().map_err(text)?).map_err(text)?;
    shortcut.test()?;
    Ok(shortcut)
}
