//! Which objects a command is about, in the words of the admin API.

use ramet_manifest::{Kind, Name};

use crate::exit::Failure;

/// A namespace and a name; what is left out is any.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    namespace: Option<Name>,
    name: Option<Name>,
}

impl Selection {
    /// What the arguments say, if those are names at all.
    pub(crate) fn new(namespace: Option<&str>, name: Option<&str>) -> Result<Self, Failure> {
        Ok(Self { namespace: namespace.map(checked).transpose()?, name: name.map(checked).transpose()? })
    }

    /// Whether it is about one name.
    pub(crate) fn has_name(&self) -> bool {
        self.name.is_some()
    }

    /// The path of the API to objects of a kind.
    pub(crate) fn objects(&self, kind: Kind) -> String {
        format!("/v1/objects?kind={}{}", kind.as_str(), self.query("name"))
    }

    /// The path of the API to instances.
    pub(crate) fn instances(&self) -> String {
        format!("/v1/instances?{}", self.query("function").trim_start_matches('&'))
    }

    /// The path of the API to what functions wrote.
    pub(crate) fn logs(&self, follow: bool) -> String {
        format!("/v1/logs?follow={follow}{}", self.query("function"))
    }

    /// `&field=value` of what is set. A name has no character that would have to be escaped.
    fn query(&self, name: &str) -> String {
        let fields = [("namespace", &self.namespace), (name, &self.name)];
        fields.iter().filter_map(|(field, value)| value.as_ref().map(|value| format!("&{field}={value}"))).collect()
    }

    /// That there is nothing of the kind.
    pub(crate) fn missing(&self, kind: Kind) -> Failure {
        let name = self.name.as_ref().map_or("", Name::as_str);
        let which = match &self.namespace {
            Some(namespace) => format!("{kind} \"{namespace}/{name}\""),
            None => format!("{kind} \"{name}\" in any namespace"),
        };
        Failure::NotFound(format!("there is no {which}; `ramet get {kind}s` lists those that there are"))
    }
}

fn checked(text: &str) -> Result<Name, Failure> {
    Name::new(text)
        .map_err(|error| Failure::Invalid(format!("no function, chain or namespace is called {text:?}: {error}")))
}
