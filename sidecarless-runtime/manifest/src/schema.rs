//! JSON Schemas for editors, made from the types that the parser fills.
//!
//! A schema cannot say everything: limits of quantities, whether a named function or step exists, and that steps end
//! are for the parser alone.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::chain::ChainSpec;
use crate::function::{ENV_MAX, FunctionSpec};
use crate::object::{API_VERSION, Kind, Metadata};
use crate::settings::NodeSettings;

/// What a schema can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOf {
    /// A document of kind `Function`.
    Function,
    /// A document of kind `Chain`.
    Chain,
    /// A document of either kind: what a manifest is made of.
    Manifest,
    /// The settings file.
    NodeSettings,
}

/// The JSON Schema (draft 2020-12).
#[must_use]
pub fn schema(of: SchemaOf) -> Value {
    let mut generator = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(tidy)).into_generator();
    let mut schema = match of {
        SchemaOf::NodeSettings => return generator.into_root_schema_for::<NodeSettings>().to_value(),
        SchemaOf::Function => document::<FunctionSpec>(&mut generator, Kind::Function),
        SchemaOf::Chain => document::<ChainSpec>(&mut generator, Kind::Chain),
        SchemaOf::Manifest => json_schema!({
            "title": "ramet manifest",
            "oneOf": [
                document::<FunctionSpec>(&mut generator, Kind::Function),
                document::<ChainSpec>(&mut generator, Kind::Chain),
            ],
        }),
    };
    let definitions = generator.take_definitions(true);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("$defs".to_owned(), Value::Object(definitions));
    RecursiveTransform(tidy).transform(&mut schema);
    schema.to_value()
}

fn document<Spec: JsonSchema>(generator: &mut SchemaGenerator, kind: Kind) -> Schema {
    json_schema!({
        "title": kind.as_str(),
        "type": "object",
        "properties": {
            "apiVersion": { "const": API_VERSION },
            "kind": { "const": kind.as_str() },
            "metadata": generator.subschema_for::<Metadata>(),
            "spec": generator.subschema_for::<Spec>(),
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
    })
}

/// A field that need not be there is left out; the parser takes no `null` for it.
fn tidy(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [single] = types.as_slice() {
            let single = single.clone();
            object.insert("type".to_owned(), single);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type") != Some(&json!("null")));
        if let [Value::Object(single)] = choices.as_slice() {
            let single = single.clone();
            object.shift_remove("anyOf");
            object.extend(single);
        }
    }
    if object.get("default") == Some(&Value::Null) {
        object.shift_remove("default");
    }
    // The lines of a comment in the source are no lines for an editor.
    if let Some(Value::String(description)) = object.get_mut("description") {
        *description = description.replace('\n', " ");
    }
}

/// One element of a command.
pub(crate) struct Argument;

impl JsonSchema for Argument {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Argument".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// Environment variables.
pub(crate) struct Environment;

impl JsonSchema for Environment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Environment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": ENV_MAX,
            "propertyNames": { "pattern": "^(?!RAMET_)[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        })
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self
    }
}

/// An address with a port.
pub(crate) struct Address;

impl JsonSchema for Address {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.%]+\\]):[0-9]{1,5}$" })
    }
}

/// A path of a file.
pub(crate) struct FilePath;

impl JsonSchema for FilePath {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FilePath".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}
