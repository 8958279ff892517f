//! How many instances of a function run.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::default;
use crate::quantity::{DurationText, duration_text};

/// The most instances of one function in one security domain.
pub const REPLICAS_MAX: u32 = 64;

/// How many instances run: never fewer than `min` nor more than `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// So many there always are.
    pub min: u32,
    /// So many there are at most, when requests wait.
    pub max: u32,
    /// For how long fewer must have been enough before some end.
    pub idle: Duration,
}

impl Replicas {
    /// Always so many.
    #[must_use]
    pub const fn fixed(count: u32) -> Self {
        Self { min: count, max: count, idle: default::idle() }
    }

    /// Whether the load decides.
    #[must_use]
    pub const fn is_elastic(&self) -> bool {
        self.min < self.max
    }
}

impl Default for Replicas {
    fn default() -> Self {
        Self::fixed(1)
    }
}

/// As it would be written: a number where nothing is to decide.
impl Serialize for Replicas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.is_elastic() {
            return serializer.serialize_u32(self.min);
        }
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("min", &self.min)?;
        map.serialize_entry("max", &self.max)?;
        map.serialize_entry("idle", &duration_text(self.idle))?;
        map.end()
    }
}

impl JsonSchema for Replicas {
    fn schema_name() -> Cow<'static, str> {
        "Replicas".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let count = json_schema!({ "type": "integer", "minimum": 1, "maximum": REPLICAS_MAX });
        json_schema!({
            "oneOf": [
                count,
                {
                    "type": "object",
                    "description": "Between `min` and `max`; an instance ends when for `idle` fewer were enough.",
                    "properties": {
                        "min": { "type": "integer", "minimum": 1, "maximum": REPLICAS_MAX, "default": 1 },
                        "max": { "type": "integer", "minimum": 1, "maximum": REPLICAS_MAX },
                        "idle": generator.subschema_for::<DurationText>(),
                    },
                    "required": ["max"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}
