//! Trees become types. Each decoder takes a node, reports what is wrong with it and goes on, so that one reading finds
//! every error.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::{Chain, ChainSpec};
use crate::errors::Problem;
use crate::function::{Function, FunctionSpec};
use crate::name::{Name, QualifiedName};
use crate::object::{API_VERSION, Kind, Metadata, Object, Resource};
use crate::source::{Origin, Place, Reference, Source, SourceText};
use crate::tree::{Field, Node, Path, Report, SOURCE_BYTES_MAX, Value, nearest, quoted, yaml};

mod chain;
mod function;
mod graph;
mod http;
pub(crate) mod pool;
pub(crate) mod scalar;
mod start;

/// What the manifests of some sources say, as far as they can be understood.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// The objects. Where there are problems, parts of them may be missing.
    pub(crate) objects: Vec<Object>,
    /// Objects that have a name and no readable spec.
    pub(crate) broken: BTreeSet<(Kind, QualifiedName)>,
    /// What is wrong, in the order of the sources and their lines.
    pub(crate) problems: Vec<Problem>,
    /// Whether every source was read to its end.
    pub(crate) complete: bool,
}

/// Reads manifests.
pub(crate) fn sources(sources: &[Source]) -> Decoded {
    let mut report = Report::default();
    let mut decoded = Decoded { complete: true, ..Decoded::default() };
    let mut first_places = BTreeMap::new();
    for source in sources {
        let readable = if source.text.len() > SOURCE_BYTES_MAX { "" } else { &source.text };
        let id = report.add_source(SourceText::new(&source.name, readable));
        let (documents, complete) = yaml::read(&source.text, id, &mut report);
        decoded.complete &= complete;
        for document in &documents {
            self::document(document, source, &mut first_places, &mut decoded, &mut report);
        }
    }
    decoded.problems = report.into_problems();
    sort(&mut decoded.problems, sources);
    decoded
}

/// Puts problems in the order of the sources and their lines.
pub(crate) fn sort(problems: &mut [Problem], sources: &[Source]) {
    let order: BTreeMap<&str, usize> =
        sources.iter().enumerate().rev().map(|(index, source)| (source.name.as_str(), index)).collect();
    problems.sort_by_cached_key(|problem| {
        let place = problem.position.as_ref().map(|position| (position.line, position.column));
        (order.get(problem.file.as_str()).copied(), place)
    });
}

/// A node and the way to it: what a decoder looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: &'a Path<'a>,
}

impl At<'_> {
    /// Reports that the node is not what it should be.
    pub(crate) fn expected(&self, report: &mut Report, expected: &str) {
        if !matches!(self.node.value, Value::Broken) {
            let message = format!("found {}, expected {expected}", self.node.found());
            report.problem(self.node.place, self.path, message);
        }
    }

    /// Reports something about the node.
    pub(crate) fn say(&self, report: &mut Report, message: impl Into<String>) {
        report.problem(self.node.place, self.path, message);
    }
}

/// The fields of a map, taken one by one; what is left at the end is unknown.
pub(crate) struct Fields<'a> {
    fields: &'a [Field],
    place: Place,
    path: &'a Path<'a>,
    asked: Vec<&'static str>,
    missing: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of the node, which `what` calls by name.
    pub(crate) fn of(at: At<'a>, report: &mut Report, what: &str) -> Option<Self> {
        match &at.node.value {
            Value::Map(fields) => {
                Some(Self { fields, place: at.node.place, path: at.path, asked: Vec::new(), missing: Vec::new() })
            }
            _ => {
                at.expected(report, what);
                None
            }
        }
    }

    /// The field `name`, if it is there.
    pub(crate) fn find(&mut self, name: &'static str) -> Option<&'a Field> {
        self.asked.push(name);
        self.fields.iter().find(|field| field.key == name)
    }

    /// The field `name`, decoded, if it is there and right.
    pub(crate) fn get<T>(
        &mut self,
        name: &'static str,
        report: &mut Report,
        decode: impl FnOnce(At<'_>, &mut Report) -> Option<T>,
    ) -> Option<T> {
        let field = self.find(name)?;
        decode(At { node: &field.node, path: &self.path.field(name) }, report)
    }

    /// The same for a field that must be there; [`Self::end`] reports it where it is not.
    pub(crate) fn need<T>(
        &mut self,
        name: &'static str,
        report: &mut Report,
        decode: impl FnOnce(At<'_>, &mut Report) -> Option<T>,
    ) -> Option<T> {
        if !self.fields.iter().any(|field| field.key == name) {
            self.missing.push(name);
        }
        self.get(name, report, decode)
    }

    /// Reports the fields that nobody asked for and those that are not there. One that is there under a misspelt name
    /// is reported once.
    pub(crate) fn end(mut self, report: &mut Report) {
        for field in self.fields.iter().filter(|field| !self.asked.contains(&field.key.as_str())) {
            let hint = match nearest(&field.key, self.asked.iter().copied()) {
                Some(known) => {
                    self.missing.retain(|missing| *missing != known);
                    format!("did you mean {}?", quoted(known))
                }
                None => format!("expected one of {}", self.asked.join(", ")),
            };
            report.problem(field.place, &self.path.field(&field.key), format!("unknown field; {hint}"));
        }
        for missing in self.missing {
            report.problem(self.place, &self.path.field(missing), "this field is needed");
        }
    }
}

/// The items of a list, decoded; those that are wrong are left out.
pub(crate) fn list<T>(
    at: At<'_>,
    report: &mut Report,
    what: &str,
    count: std::ops::RangeInclusive<usize>,
    mut decode: impl FnMut(At<'_>, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    let Value::List(items) = &at.node.value else {
        at.expected(report, &format!("a list of {what}"));
        return None;
    };
    if !count.contains(&items.len()) {
        let limits = match (count.start(), count.end()) {
            (0, most) => format!("at most {most}"),
            (least, most) => format!("{least} to {most}"),
        };
        at.say(report, format!("found {} {what}, expected {limits}", items.len()));
        return None;
    }
    let decoded = items.iter().enumerate().map(|(index, node)| decode(At { node, path: &at.path.item(index) }, report));
    Some(decoded.collect::<Vec<_>>().into_iter().flatten().collect())
}

/// One document of a manifest. `first_places` says where each object was first found.
fn document(
    node: &Node,
    source: &Source,
    first_places: &mut BTreeMap<(Kind, QualifiedName), String>,
    decoded: &mut Decoded,
    report: &mut Report,
) {
    let at = At { node, path: &Path::Root };
    let Some(mut fields) = Fields::of(at, report, "a document with apiVersion, kind, metadata and spec") else {
        return;
    };
    fields.need("apiVersion", report, |at, report| scalar::keyword(at, report, &[(API_VERSION, ())]));
    let kinds = Kind::ALL.map(|kind| (kind.as_str(), kind));
    let kind = fields.need("kind", report, |at, report| scalar::keyword(at, report, &kinds));
    let named = fields.need("metadata", report, metadata);
    let name = named.as_ref().map(|(metadata, _)| &metadata.name);
    let spec = fields.need("spec", report, |at, report| match kind? {
        Kind::Function => function::spec(at, report, source.base_dir.as_deref()),
        Kind::Chain => chain::spec(at, report, name),
    });
    fields.end(report);
    let (Some(kind), Some((metadata, name))) = (kind, named) else { return };
    let key = (kind, metadata.qualified_name());
    let source = report.source(name).clone();
    if let Some(first) = first_places.get(&key) {
        let message = format!("{kind} {} is here twice; first in {first}", quoted(&key.1.to_string()));
        return report.problem(name, &Path::Root.field("metadata").field("name"), message);
    }
    first_places.insert(key.clone(), format!("{}:{}", source.name(), name.line));
    match spec {
        Some(Spec { body, references, routes }) => {
            let resource = match body {
                Body::Function(spec) => Resource::Function(Function { metadata, spec }),
                Body::Chain(spec) => Resource::Chain(Chain { metadata, spec }),
            };
            decoded.objects.push(Object { resource, origin: Origin { source, name, references, routes } });
        }
        None => drop(decoded.broken.insert(key)),
    }
}

/// A spec with what later checks need to know of its places.
struct Spec {
    body: Body,
    references: Vec<Reference>,
    routes: Vec<(String, Place)>,
}

enum Body {
    Function(FunctionSpec),
    Chain(ChainSpec),
}

/// Name and namespace, and the place of the name.
fn metadata(at: At<'_>, report: &mut Report) -> Option<(Metadata, Place)> {
    let mut fields = Fields::of(at, report, "a map with `name`")?;
    let name = fields.need("name", report, |at, report| Some((scalar::name(at, report)?, at.node.place)));
    let namespace = match fields.find("namespace") {
        Some(field) => scalar::name(At { node: &field.node, path: &at.path.field("namespace") }, report),
        None => Some(Name::default_namespace()),
    };
    fields.end(report);
    let (name, place) = name?;
    Some((Metadata { name, namespace: namespace? }, place))
}
