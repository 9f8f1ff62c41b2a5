// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Whether a JSON value is as a JSON schema says: as much of the language as schemars makes from Rust types, and
//! stricter in one point: a property that an object's schema does not name is an error.

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value;

/// Fails with the place of the first difference.
pub fn check(schema: &Value, value: &Value) -> Result<()> {
    at(schema, schema, value, "$")
}

fn at(root: &Value, schema: &Value, value: &Value, place: &str) -> Result<()> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference
            .strip_prefix("#/$defs/")
            .context("a reference of another kind")?;
        return at(root, &root["$defs"][name], value, place);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(schemas) = schema[choice].as_array() {
            let fits = schemas.iter().any(|schema| at(root, schema, value, place).is_ok());
            ensure!(fits, "{place}: {value} is none of the choices");
            return Ok(());
        }
    }
    if let Some(allowed) = schema["enum"].as_array() {
        ensure!(allowed.contains(value), "{place}: {value} is not one of {allowed:?}");
    }
    if !schema["const"].is_null() {
        ensure!(schema["const"] == *value, "{place}: {value} is not {}", schema["const"]);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        Value::Null => vec![],
        other => bail!("{place}: a schema with the type {other}"),
    };
    ensure!(
        types.is_empty() || types.iter().any(|name| is(value, name)),
        "{place}: {value} is not of type {types:?}"
    );
    if let Some(least) = schema["minimum"].as_i64() {
        ensure!(
            value.as_i64().is_none_or(|v| v >= least),
            "{place}: {value} is below {least}"
        );
    }
    if let Value::Array(items) = value {
        for (n, item) in items.iter().enumerate() {
            at(root, &schema["items"], item, &format!("{place}[{n}]"))?;
        }
    }
    if let Value::Object(members) = value {
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            ensure!(members.contains_key(name), "{place}: no {name}");
        }
        for (name, member) in members {
            let inside = format!("{place}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Null) => bail!("{inside}: the schema does not know it"),
                (Value::Null, other) => at(root, other, member, &inside)?,
                (known, _) => at(root, known, member, &inside)?,
            }
        }
    }
    Ok(())
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_held_to_their_schema() {
        let schema = json!({
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0}, "who": {"$ref": "#/$defs/Who"},
                           "maybe": {"anyOf": [{"$ref": "#/$defs/Who"}, {"type": "null"}]}},
            "required": ["n"],
            "$defs": {"Who": {"type": "string", "enum": ["a", "b"]}},
        });
        for good in [json!({"n": 1}), json!({"n": 0, "who": "a", "maybe": null})] {
            check(&schema, &good).unwrap();
        }
        for bad in [
            json!({}),
            json!({"n": -1}),
            json!({"n": "1"}),
            json!({"n": 1, "who": "c"}),
            json!({"n": 1, "maybe": "c"}),
            json!({"n": 1, "more": 1}),
            json!([]),
        ] {
            assert!(check(&schema, &bad).is_err(), "{bad}");
        }
    }
}
