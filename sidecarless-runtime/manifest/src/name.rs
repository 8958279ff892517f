//! Names are DNS labels, so that they fit into host names, cgroup names and metrics without escaping.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most characters that a name may have.
pub const NAME_CHARS_MAX: usize = 63;

/// The name of a namespace, function, chain or step: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The text is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no character at all.
    #[error("a name cannot be empty")]
    Empty,
    /// There are more than [`NAME_CHARS_MAX`] characters.
    #[error("a name has at most {NAME_CHARS_MAX} characters")]
    TooLong,
    /// A character is not allowed in names.
    #[error("a name has only lower-case letters, digits and `-`, not {0:?}")]
    Character(char),
    /// The first or last character is `-`.
    #[error("a name begins and ends with a letter or digit")]
    Dash,
}

impl Name {
    /// The name that `text` is.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(bad) = text.chars().find(|&c| !allowed(c)) {
            return Err(NameError::Character(bad));
        }
        if text.len() > NAME_CHARS_MAX {
            return Err(NameError::TooLong);
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Dash);
        }
        Ok(Self(text.into()))
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of objects that name none: `default`.
    #[must_use]
    pub fn default_namespace() -> Self {
        Self("default".into())
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Name::new(&Cow::<str>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Name {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A DNS label: 1 to 63 lower-case letters, digits and `-`, no `-` at either end.",
            "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        })
    }
}

/// A function or chain, named across namespaces: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    /// The namespace, which is the security domain.
    pub namespace: Name,
    /// The name, unique among its kind in the namespace.
    pub name: Name,
}

impl QualifiedName {
    /// `name` in `namespace`.
    #[must_use]
    pub fn new(namespace: Name, name: Name) -> Self {
        Self { namespace, name }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.namespace, self.name))
    }
}

/// Reads `NAMESPACE/NAME`, or `NAME` for the default namespace.
impl FromStr for QualifiedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, name)) => Ok(Self::new(namespace.parse()?, name.parse()?)),
            None => Ok(Self::new(Name::default_namespace(), text.parse()?)),
        }
    }
}

impl Serialize for QualifiedName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QualifiedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for good in ["a", "0", "a-b", "x".repeat(63).as_str()] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new(&"x".repeat(64)), Err(NameError::TooLong));
        assert_eq!(Name::new("Echo"), Err(NameError::Character('E')));
        assert_eq!(Name::new("-a"), Err(NameError::Dash));
        assert_eq!(Name::new("a-"), Err(NameError::Dash));
    }

    #[test]
    fn a_bare_name_is_in_the_default_namespace() {
        assert_eq!("echo".parse::<QualifiedName>().unwrap().to_string(), "default/echo");
        assert_eq!("shop/echo".parse::<QualifiedName>().unwrap().to_string(), "shop/echo");
        assert!("a/b/c".parse::<QualifiedName>().is_err());
    }
}
