//! Which cores instances run on, as settings say it: a word, or `pinned:` and a list as taskset(1) takes it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// The highest number of a core, as far as a `cpu_set_t` goes (CPU_SET(3)).
const CORE_MAX: u16 = 1023;

const PINNED: &str = "pinned:";

/// Which cores the instances of functions run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Placement {
    /// On the core of the gateway's thread that serves them, while that core has room; on all that the node may use
    /// otherwise.
    #[default]
    Adaptive,
    /// On all that the node may use.
    Spread,
    /// On these.
    Pinned(Cores),
}

/// Some cores, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cores(BTreeSet<u16>);

impl Placement {
    /// What `text` says, or `None` where it says nothing of the kind.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "adaptive" => Some(Self::Adaptive),
            "spread" => Some(Self::Spread),
            _ => Some(Self::Pinned(Cores::from_text(text.strip_prefix(PINNED)?)?)),
        }
    }
}

impl Cores {
    /// The cores of a list such as `0,2-3`, or `None` where it is none.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut cores = BTreeSet::new();
        for range in text.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (core(first)?, core(last)?);
            if first > last {
                return None;
            }
            cores.extend(first..=last);
        }
        Some(Self(cores))
    }

    /// These cores, or `None` where there are none.
    pub fn of(cores: impl IntoIterator<Item = usize>) -> Option<Self> {
        let cores: BTreeSet<u16> = cores.into_iter().map(u16::try_from).collect::<Result<_, _>>().ok()?;
        (!cores.is_empty()).then_some(Self(cores))
    }

    /// Their numbers, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied().map(usize::from)
    }
}

fn core(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|core| is_number && *core <= CORE_MAX)
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adaptive => f.write_str("adaptive"),
            Self::Spread => f.write_str("spread"),
            Self::Pinned(cores) => write!(f, "{PINNED}{cores}"),
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut cores = self.0.iter().copied().peekable();
        while let Some(first) = cores.next() {
            let mut last = first;
            while let Some(next) = cores.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl Serialize for Placement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Placement {
    fn schema_name() -> Cow<'static, str> {
        "Placement".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Which cores the instances of functions run on. `adaptive`: on the core of the gateway's \
                thread that serves them, while that core has room; on all that the node may use otherwise. `spread`: \
                on all that the node may use. `pinned:` and a list of cores, such as `pinned:0,2-3`: on these.",
            "pattern": "^(adaptive|spread|pinned:[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_are_written_as_they_are_read() {
        for text in ["adaptive", "spread", "pinned:0", "pinned:0,2-3", "pinned:1023"] {
            assert_eq!(Placement::from_text(text).expect(text).to_string(), text);
        }
        let untidy = Placement::from_text("pinned:3,1,2-2,0-1").expect("a list");
        assert_eq!(untidy.to_string(), "pinned:0-3");
        for text in ["", "Spread", "pinned", "pinned:", "pinned:,", "pinned:3-1", "pinned:+1", "pinned:1024", "0-1"] {
            assert_eq!(Placement::from_text(text), None, "{text}");
        }
    }
}
