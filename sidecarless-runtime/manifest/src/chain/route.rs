//! Which requests are a chain's: a host, a path prefix and methods, all of which must match.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// The longest path prefix, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;

/// The methods that a route can name.
pub const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// Requests that match host, path and method. Where several chains match, the more specific one gets the request:
/// an exact host before a wildcard, a longer wildcard before a shorter, any before none; then the longer path; then
/// named methods before any method.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RouteMatch {
    /// The request's host. Without it, every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// What the request's path begins with.
    #[schemars(default)]
    pub path: PathPrefix,
    /// The request's method. Without it, every method.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(default, length(min = 1))]
    pub methods: BTreeSet<Method>,
}

impl RouteMatch {
    /// Every request whose path begins with `/` and `name`: a chain's route when it names none.
    #[must_use]
    pub fn by_name(name: &crate::name::Name) -> Self {
        Self { host: None, path: PathPrefix(format!("/{name}")), methods: BTreeSet::new() }
    }

    /// Sorts the more specific of two matches first.
    #[must_use]
    pub fn precedence(&self) -> impl Ord + use<> {
        let host = match &self.host {
            Some(Host::Exact(host)) => (2, host.len()),
            Some(Host::Below(domain)) => (1, domain.len()),
            None => (0, 0),
        };
        Reverse((host, self.path.as_str().len(), !self.methods.is_empty()))
    }

    /// Whether some request is as much the one's as the other's: same host, same path, and a method in common.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let methods = if self.methods.is_empty() {
            other.methods.is_empty()
        } else {
            self.methods.intersection(&other.methods).next().is_some()
        };
        self.host == other.host && self.path == other.path && methods
    }
}

impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for method in &self.methods {
            write!(f, "{between}{method}")?;
            between = ",";
        }
        if !self.methods.is_empty() {
            f.write_str(" ")?;
        }
        if let Some(host) = &self.host {
            write!(f, "{host}")?;
        }
        write!(f, "{}", self.path)
    }
}

/// The host of a request, without its port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// This host.
    Exact(String),
    /// Every host below this domain, at any depth, but not the domain itself. Written `*.DOMAIN`.
    Below(String),
}

impl Host {
    /// The host that `text` writes, in any case, or what is wrong with it.
    pub(crate) fn from_text(text: &str) -> Result<Self, &'static str> {
        let text = text.to_ascii_lowercase();
        let (host, below) = match text.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text.as_str(), false),
        };
        let label = |label: &str| {
            let allowed = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
            (1..=63).contains(&label.len()) && allowed && !label.starts_with('-') && !label.ends_with('-')
        };
        if host.contains('*') {
            return Err("`*` may only stand for everything left of the first dot, as in `*.example.org`");
        }
        if host.contains(':') {
            return Err("a host is matched without its port");
        }
        if host.len() > 253 || !host.split('.').all(label) {
            return Err("expected a host such as `example.org` or `*.example.org`");
        }
        Ok(if below { Self::Below(host.to_owned()) } else { Self::Exact(host.to_owned()) })
    }

    /// Whether a request's host, without its port and in lower case, is one of these.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == exact,
            Self::Below(domain) => host
                .strip_suffix(domain.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|s| !s.is_empty()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Host {
    fn schema_name() -> Cow<'static, str> {
        "Host".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        const LABEL: &str = "[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?";
        json_schema!({
            "type": "string",
            "description": "A host without port; `*.example.org` means every host below example.org, at any depth.",
            "maxLength": 255,
            "pattern": format!(r"^(\*\.)?{LABEL}(\.{LABEL})*$"),
        })
    }
}

/// A path prefix of whole segments: `/shop` matches `/shop` and `/shop/cart`, not `/shopping`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// The prefix that `text` writes, without a slash at its end, or what is wrong with it.
    pub(crate) fn from_text(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with('/') {
            return Err("a path begins with `/`");
        }
        if text.len() > PATH_BYTES_MAX {
            return Err("a path prefix has at most 1024 bytes");
        }
        if text.contains('*') {
            return Err("a path is a prefix by itself and needs no `*`");
        }
        if let Some(bad) = text.bytes().find(|b| !b.is_ascii_graphic() || b"?#\"<>\\^`{|}".contains(b)) {
            return Err(if bad == b'?' { "a query is not part of the path" } else { "a path is written as in a URL" });
        }
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        if trimmed.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
            return Err("a path has no empty segment, no `.` and no `..`");
        }
        Ok(Self(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() }))
    }

    /// The prefix, which ends with a slash only where it is nothing else.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a request's path begins with these segments.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0 == "/" || path.strip_prefix(self.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Default for PathPrefix {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for PathPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl JsonSchema for PathPrefix {
    fn schema_name() -> Cow<'static, str> {
        "PathPrefix".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A prefix of whole segments: `/shop` matches `/shop` and `/shop/cart`, not `/shopping`.",
            "maxLength": PATH_BYTES_MAX,
            "pattern": "^/([!$%&'()+,\\-.0-9:;=@A-Z\\[\\]_a-z~]+(/[!$%&'()+,\\-.0-9:;=@A-Z\\[\\]_a-z~]+)*/?)?$",
        })
    }
}

/// An HTTP method, one of [`METHODS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(&'static str);

impl Method {
    /// The method that `text` names, in capitals.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        METHODS.iter().find(|method| **method == text).map(|method| Self(method))
    }

    /// The method's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl JsonSchema for Method {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Method".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": METHODS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathPrefix {
        PathPrefix::from_text(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn host(text: &str) -> Host {
        Host::from_text(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_path_matches_whole_segments() {
        assert!(path("/shop").matches("/shop"));
        assert!(path("/shop/").matches("/shop/cart"));
        assert!(!path("/shop").matches("/shopping"));
        assert!(path("/").matches("/anything"));
        for bad in ["", "shop", "//", "/a//b", "/a/../b", "/a?b", "/a b", "/*", "/ä"] {
            assert!(PathPrefix::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_matches_what_is_below() {
        assert!(host("Example.org").matches("example.org"));
        assert!(host("*.example.org").matches("a.b.example.org"));
        assert!(!host("*.example.org").matches("example.org"));
        assert!(!host("*.example.org").matches(".example.org"));
        assert!(!host("*.example.org").matches("badexample.org"));
        for bad in ["", "*", "a.*.b", "a..b", "-a", "a:80", "*.", "a b"] {
            assert!(Host::from_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_more_specific_match_comes_first() {
        let of = |h: Option<&str>, p: &str, methods: &[&str]| RouteMatch {
            host: h.map(host),
            path: path(p),
            methods: methods.iter().filter_map(|method| Method::from_text(method)).collect(),
        };
        let sorted = [
            of(Some("a.example.org"), "/", &[]),
            of(Some("*.a.example.org"), "/", &[]),
            of(Some("*.example.org"), "/long/path", &["GET"]),
            of(None, "/a/b", &[]),
            of(None, "/a", &["GET"]),
            of(None, "/a", &[]),
        ];
        assert!(sorted.is_sorted_by_key(RouteMatch::precedence));
        assert!(of(None, "/a", &["GET", "PUT"]).conflicts_with(&of(None, "/a/", &["PUT"])));
        assert!(!of(None, "/a", &["GET"]).conflicts_with(&of(None, "/a", &[])));
        assert!(of(None, "/a", &[]).conflicts_with(&of(None, "/a", &[])));
    }
}
