//! The table of keys, the parser and the JSON Schema say the same.

use serde_json::json;

use super::*;
use crate::json_schema;
use crate::manifest::keys::{FUNCTION, Key};

/// A value that a key takes, in TOML.
fn accepted(key: &Key) -> String {
    match key {
        Key::Text(key) if key.name == "schema" => "\"good.json\"".into(),
        Key::Text(key) => format!("{:?}", key.example),
        Key::Texts(key) | Key::MaybeTexts(key) => format!("[{:?}]", key.example),
        Key::Word(_, words) => format!("{:?}", words[0]),
        Key::TextMap(key) => format!("{{ NAME = {:?} }}", key.example),
        Key::Duration(key) | Key::DurationOr(key, _) => format!("{:?}", duration::format(key.max)),
        Key::Bytes(key) => format!("{:?}", bytes::format(key.max)),
        Key::Count(key) => key.max.to_string(),
        Key::Number(key) => format!("{:?}", key.max),
        Key::Flag(key) => (!key.default).to_string(),
        Key::Table(table) => {
            let entries: Vec<_> = table.keys.iter().map(|key| format!("{} = {}", key.name(), accepted(key))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Key::Tables(table) => format!("[{}]", accepted(&Key::Table(table))),
    }
}

/// Every key with its path below a function, inner ones too, with a value that no key takes.
fn faulty(keys: &[Key], wrap: &dyn Fn(String) -> String, out: &mut Vec<(String, String)>) {
    for key in keys {
        out.push((key.name().to_owned(), wrap(format!("{} = 1979-05-27", key.name()))));
        if let Key::Table(table) = key {
            faulty(table.keys, &|inner| wrap(format!("{} = {{ {inner} }}", table.name)), out);
        }
        if let Key::Tables(table) = key {
            faulty(table.keys, &|inner| wrap(format!("{} = [{{ {inner} }}]", table.name)), out);
        }
    }
}

#[test]
fn the_parser_reads_every_key_of_the_table_and_the_schema_knows_the_same_ones() {
    let lines: Vec<_> = FUNCTION.keys.iter().map(|key| format!("{} = {}", key.name(), accepted(key))).collect();
    let text = format!("[functions.f]\n{}", lines.join("\n"));
    parse(&text).unwrap();
    let as_json: serde_json::Value = toml::from_str(&text).unwrap();
    let schema = jsonschema::validator_for(&json_schema::manifest()).unwrap();
    assert!(schema.is_valid(&as_json), "{:?}", schema.iter_errors(&as_json).map(|e| e.to_string()).collect::<Vec<_>>());

    // A key that is known but never read would let a date through.
    let mut all = Vec::new();
    faulty(FUNCTION.keys, &|line| line, &mut all);
    assert!(all.len() > 20);
    for (name, line) in all {
        let base = if MINIMAL.contains(&format!("\n{name} = ")) {
            MINIMAL.replace(&format!("{name} ="), "handler =")
        } else {
            MINIMAL.into()
        };
        let text =
            format!("{}{line}\n", base.replace("handler = [\"./f\"]\n", "").replace("handler = [\"a.b\"]\n", ""));
        let shown = shown(&text);
        assert!(shown.iter().any(|fault| fault.contains(&format!("{name} in [functions.f"))), "{line}: {shown:?}");
        let as_json = json!(toml::from_str::<toml::Value>(&text).unwrap());
        assert!(!schema.is_valid(&as_json), "{line}");
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses_for_its_shape() {
    let schema = jsonschema::validator_for(&json_schema::manifest()).unwrap();
    let valid = |text: &str| schema.is_valid(&toml::from_str::<serde_json::Value>(text).unwrap());
    assert!(valid(MINIMAL));
    for lines in [
        "slot = 1",
        "slots = 0",
        "slots = 1001",
        "timeout = \"30\"",
        "timeout = \"\"",
        "memory = \"1MB\"",
        "retry = { attempt = 1 }",
        "retry = { backoff = { factor = 0.5 } }",
        "env = { WEFT_X = \"1\" }",
        "env = { A = 1 }",
        "handler = \"\"",
    ] {
        assert!(!valid(&with(lines)), "{lines}");
        assert!(parse(&with(lines)).is_err(), "{lines}");
    }
    assert!(!valid("[functions.F]\ncommand = [\"x\"]\nevents = [\"a\"]"));
    assert!(!valid("[functions.f]\nevents = [\"a\"]"));
    assert!(!valid("[functions]"));
    assert!(!valid("[function]"));
}
