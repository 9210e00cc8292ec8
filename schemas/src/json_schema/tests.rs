#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::builtin::Builtin;
use crate::sample;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("json")
}

#[test]
fn the_committed_files_agree_with_the_types() {
    let update = std::env::var_os("UPDATE_SCHEMAS").is_some();
    let mut expected = Vec::new();
    for schema in all() {
        let file = format!("{}.schema.json", schema.name);
        if update {
            std::fs::write(folder().join(&file), format!("{:#}\n", schema.document)).unwrap();
        }
        // Compared as values: the order of members depends on a feature of serde_json that any crate may switch on.
        let found = std::fs::read(folder().join(&file)).unwrap_or_default();
        let found: Value = serde_json::from_slice(&found).unwrap_or_default();
        assert!(found == schema.document, "{file} is out of date: run the tests of weft-schemas with UPDATE_SCHEMAS=1");
        expected.push(file);
    }
    let mut found: Vec<String> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "a file that no type stands behind");
}

#[test]
fn every_schema_is_one_and_stands_alone() {
    for schema in all() {
        assert!(jsonschema::meta::is_valid(&schema.document), "{}", schema.name);
        jsonschema::options().offline().build(&schema.document).unwrap();
    }
}

proptest! {
    #[test]
    fn the_headers_of_every_dead_letter_satisfy_their_schema(letter in sample::dead_letter()) {
        let message = letter.to_message("weft");
        let headers: Map<String, Value> = message
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with(crate::requeue::HEADER_PREFIX))
            .map(|(name, value)| (name.clone(), value.as_i64().map_or_else(|| json!(value.as_str()), Value::from)))
            .collect();
        let validator = jsonschema::options().should_validate_formats(true).build(&dead_letter()).unwrap();
        let headers = Value::Object(headers);
        prop_assert!(validator.is_valid(&headers), "{:?}", validator.iter_errors(&headers).map(|e| e.to_string()).collect::<Vec<_>>());
        // Every header has a field: nothing is lost by reading them into the type.
        let read: DeadLetterHeaders = serde_json::from_value(headers.clone()).unwrap();
        prop_assert_eq!(serde_json::to_value(read).unwrap(), headers);
    }

    #[test]
    fn a_built_in_event_satisfies_its_schema_and_is_an_event(letter in sample::dead_letter(), now in sample::time()) {
        let payload = DeadLetterCreated::from(&letter);
        let event = payload.to_event("node-1", now).unwrap();
        prop_assert_eq!(event.check(), Ok(()));
        let data = event.data_json().unwrap();
        let schema = events().into_iter().find(|schema| schema.name == event.kind).unwrap();
        prop_assert!(jsonschema::is_valid(&schema.document, &data));
        prop_assert_eq!(serde_json::from_value::<DeadLetterCreated>(data).unwrap(), payload.clone());
        prop_assert_eq!(payload.to_event("node-1", now).unwrap(), event);
    }
}

#[test]
fn an_unhealthy_function_is_reported_by_an_event_that_satisfies_its_schema() {
    let payload = FunctionUnhealthy {
        function: "create-order".into(),
        node: "a".into(),
        failed_starts: 5,
        problem: "no such program".into(),
        since: jiff::Timestamp::UNIX_EPOCH,
    };
    let event = payload.to_event("a", jiff::Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((event.kind.as_str(), event.source.as_str()), (FunctionUnhealthy::TYPE, "/weft/a"));
    let schema = events().into_iter().find(|schema| schema.name == event.kind).unwrap();
    assert!(jsonschema::is_valid(&schema.document, &event.data_json().unwrap()));
}
