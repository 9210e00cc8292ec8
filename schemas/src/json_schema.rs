//! JSON Schemas (draft 2020-12) of what people and other programs write and read: the manifest, a dead letter's headers
//! and the platform's own events. Generated from what the code itself uses; the files in `schemas/json` are copies.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::builtin::{Builtin, DeadLetterCreated, FunctionUnhealthy};
use crate::manifest::keys::{FUNCTION, Key, Plain, Ranged, Table};
use crate::manifest::{bytes, duration};
use crate::{FunctionName, Reason};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
const DURATION_PATTERN: &str = "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
const BYTES_PATTERN: &str = "^[0-9]+(B|KiB|MiB|GiB)$";

/// A schema and the name of its file, without `.schema.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedSchema {
    pub name: &'static str,
    pub document: Value,
}

/// Every schema, in the order of the names.
pub fn all() -> Vec<NamedSchema> {
    let mut all = vec![
        NamedSchema { name: "manifest", document: manifest() },
        NamedSchema { name: "dead-letter", document: dead_letter() },
    ];
    all.extend(events());
    all.sort_by_key(|schema| schema.name);
    all
}

/// The document that `weft.toml` holds. It states shapes, defaults and the ranges of plain numbers; the ranges of
/// durations and sizes and the rules between keys are only in the descriptions, as JSON Schema cannot express them.
pub fn manifest() -> Value {
    let mut function = table(&FUNCTION);
    let required: Vec<&str> = FUNCTION.keys.iter().filter(|key| matches!(key, Key::Texts(_))).map(Key::name).collect();
    function["required"] = json!(required);
    json!({
        "$schema": DRAFT,
        "title": "weft.toml",
        "description": "Declares functions and how they are run.",
        "type": "object",
        "properties": {
            "functions": {
                "description": "The functions by their names: a-z, 0-9, - and _, starting with a letter.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": { "pattern": "^[a-z][a-z0-9_-]*$", "maxLength": FunctionName::MAX_BYTES },
                "additionalProperties": function,
            },
        },
        "required": ["functions"],
        "additionalProperties": false,
    })
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> = table.keys.iter().map(|key| (key.name().to_owned(), property(key))).collect();
    json!({
        "description": table.doc,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Value {
    let text =
        |key: &Plain| json!({ "description": key.doc, "type": "string", "minLength": 1, "examples": [key.example] });
    match key {
        Key::Text(key) => text(key),
        Key::Texts(key) => json!({
            "description": key.doc,
            "type": "array",
            "items": { "type": "string", "minLength": 1 },
            "minItems": 1,
            "examples": [[key.example]],
        }),
        Key::MaybeTexts(key) => json!({
            "description": key.doc,
            "type": "array",
            "items": { "type": "string", "minLength": 1 },
            "minItems": 1,
            "examples": [[key.example]],
        }),
        Key::Word(key, words) => json!({
            "description": key.doc,
            "type": "string",
            "enum": words,
            "default": words.first(),
        }),
        Key::TextMap(key) => json!({
            "description": key.doc,
            "type": "object",
            "propertyNames": { "pattern": "^(?!WEFT_)[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": "string" },
            "examples": [{ "NAME": key.example }],
        }),
        Key::Duration(key) => unit(key, DURATION_PATTERN, duration::format),
        Key::DurationOr(key, word) => {
            let mut either = unit(key, DURATION_PATTERN, duration::format);
            either["pattern"] = json!(format!("{DURATION_PATTERN}|^{word}$"));
            either
        }
        Key::Bytes(key) => unit(key, BYTES_PATTERN, bytes::format),
        Key::Count(key) => number(key, "integer"),
        Key::Number(key) => number(key, "number"),
        Key::Flag(key) => json!({ "description": key.doc, "type": "boolean", "default": key.default }),
        Key::Table(inner) => table(inner),
        Key::Tables(inner) => {
            let mut item = table(inner);
            item["required"] =
                json!(inner.keys.iter().filter(|key| key.is_required()).map(Key::name).collect::<Vec<_>>());
            json!({ "description": inner.doc, "type": "array", "items": item })
        }
    }
}

/// A text of a number and a unit.
fn unit<T: Copy>(key: &Ranged<T>, pattern: &str, format: fn(T) -> String) -> Value {
    let range = format!("{} From {} to {}.", key.doc, format(key.min), format(key.max));
    with_default(
        json!({ "description": range, "type": "string", "minLength": 1, "pattern": pattern }),
        key.default.map(format),
    )
}

fn number<T: Copy + Serialize>(key: &Ranged<T>, kind: &str) -> Value {
    let value = json!({ "description": key.doc, "type": kind, "minimum": key.min, "maximum": key.max });
    with_default(value, key.default)
}

fn with_default(mut schema: Value, default: Option<impl Serialize>) -> Value {
    if let Some(default) = default {
        schema["default"] = json!(default);
    }
    schema
}

/// The headers that Weft adds to a message in a dead-letter queue; the other headers are the publisher's.
pub fn dead_letter() -> Value {
    generate::<DeadLetterHeaders>("dead letter")
}

/// The data of the platform's own events, each under its event type.
pub fn events() -> Vec<NamedSchema> {
    fn of<T: Builtin + JsonSchema>() -> NamedSchema {
        NamedSchema { name: T::TYPE, document: generate::<T>(T::TYPE) }
    }
    vec![of::<DeadLetterCreated>(), of::<FunctionUnhealthy>()]
}

fn generate<T: JsonSchema>(title: &str) -> Value {
    let mut document = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    document["title"] = json!(title);
    document
}

/// The headers of a message in a dead-letter queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DeadLetterHeaders {
    /// Names the dead letter, for `weft dlq show`.
    pub weft_id: String,
    /// The function that gave the event up.
    pub weft_function: String,
    /// The idempotency key; absent when the event died before it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft_key: Option<String>,
    /// How often the event had been redriven.
    pub weft_epoch: u32,
    /// Why it was given up.
    pub weft_reason: Reason,
    /// The reason's stable code, which has a page in `docs/errors`; absent on letters of an older Weft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft_code: Option<String>,
    /// The error's type or class.
    pub weft_error_type: String,
    pub weft_error_message: String,
    /// Attempts made; 0 when the event was refused at admission.
    pub weft_attempts: u32,
    /// When the event was first seen; RFC 3339, in UTC.
    #[schemars(extend("format" = "date-time"))]
    pub weft_first_at: String,
    /// When it was given up; RFC 3339, in UTC.
    #[schemars(extend("format" = "date-time"))]
    pub weft_last_at: String,
    /// 32 hexadecimal digits; absent when the event was not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft_trace_id: Option<String>,
    /// The exchange that the event was published to.
    pub weft_exchange: String,
    /// The routing key that it was published with.
    pub weft_routing_key: String,
    /// The publisher's `expiration` property, which the copy does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft_expiration: Option<String>,
    /// The publisher's `user_id` property, which the copy does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft_user_id: Option<String>,
    /// On an event that a redrive edited: the key that it ran under in place of the key in its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft_redriven_as: Option<String>,
    /// On an event that a redrive edited: the dead letter that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weft_redriven_from: Option<String>,
}

#[cfg(test)]
mod tests;
