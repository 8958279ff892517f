//! The crate as others use it: manifests and settings in, types or errors out.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad;
mod desired;
mod good;
mod properties;
mod schema;
mod settings;

use ramet_manifest::{Desired, Errors, Source};

/// A manifest in the folder `/srv`.
fn source(text: &str) -> Source {
    Source { name: "ramet.yaml".to_owned(), text: text.to_owned(), base_dir: Some("/srv".into()) }
}

/// What a node would run that had nothing before.
fn apply(text: &str) -> Result<Desired, Errors> {
    Desired::default().apply(&[source(text)])
}

/// The same for a manifest that is right.
fn desired(text: &str) -> Desired {
    apply(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// The problems, one a line, without the file's name.
fn lines(errors: &Errors) -> Vec<String> {
    errors.to_string().lines().map(|line| line.trim_start_matches("ramet.yaml:").to_owned()).collect()
}

/// A function document.
fn function(name: &str, spec: &str) -> String {
    format!("---\napiVersion: ramet.dev/v1alpha1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n{spec}\n")
}

/// A chain document.
fn chain(name: &str, spec: &str) -> String {
    format!("---\napiVersion: ramet.dev/v1alpha1\nkind: Chain\nmetadata: {{ name: {name} }}\nspec:\n{spec}\n")
}

/// Functions that only have a name, as manifest text.
fn functions(names: &[&str]) -> String {
    names.iter().map(|name| function(name, "  command: [x]")).collect()
}
