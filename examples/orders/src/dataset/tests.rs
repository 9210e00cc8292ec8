#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use weft_schemas::Event;
use weft_schemas::event::DecodeError;

use super::*;
use crate::model::{self, Expected, ModelError};

fn order(id: &str, customer: &str, total_minor: i64, note: &str) -> Entry {
    let text = format!(
        r#"{{"specversion":"1.0","id":"{id}{note}","source":"/s","type":"orders.placed","data":{{"order_id":"{id}","placed_at":"2026-09-01T08:00:00Z","customer":{{"id":"{customer}","name":"N"}},"currency":"EUR","lines":[{{"sku":"s","name":"S","quantity":1,"unit_price_minor":{total_minor}}}],"total_minor":{total_minor},"provider":"p","note":"{note}"}}}}"#
    );
    Entry::parse(&text, 1).unwrap()
}

#[test]
fn the_committed_files_are_what_generator_and_model_make() {
    let entries = generate(SEED, COUNT).unwrap();
    assert_eq!(entries.len(), COUNT);
    assert!(to_text(&entries).unwrap() == FILE, "data/orders.ndjson is not what the generator makes");
    let expected = model::expect(&committed().unwrap(), accounts()).unwrap();
    assert_eq!(expected, Expected::committed().unwrap());
    assert!(expected.to_text().unwrap() == model::FILE, "data/expected.json is not what the model makes");
}

#[test]
fn the_same_seed_makes_the_same_file_and_another_seed_another() {
    let make = |seed, count| to_text(&generate(seed, count).unwrap()).unwrap();
    assert_eq!(make(7, 120), make(7, 120));
    assert_ne!(make(7, 120), make(8, 120));
}

#[test]
fn every_seed_and_count_has_the_documented_trouble() {
    for (seed, count) in [(0, MIN_COUNT), (1, 101), (u64::MAX, 1_000)] {
        let entries = generate(seed, count).unwrap();
        assert_eq!(entries.len(), count);
        let end = model::expect(&entries, accounts()).unwrap();
        let refused = [("mismatch", 5), ("no_key", 4), ("schema", 8), ("undecodable", 6)];
        let mut dead: BTreeMap<String, u64> = refused.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect();
        assert_eq!(end.functions["update-analytics"].dead, dead);
        dead.insert("crashed".to_owned(), 1);
        assert_eq!(end.functions["create-order"].dead, dead);
        assert_eq!(end.functions["charge-payment"].dead, BTreeMap::from([("terminal".to_owned(), 6)]));
        assert_eq!(end.duplicates, 20);
        let flaky = end.orders.keys().filter(|&id| data_of(&entries, id).contains(r#""provider":"flaky-bank""#));
        assert_eq!(flaky.count(), 12);
    }
    assert!(matches!(generate(0, MIN_COUNT - 1), Err(GenerateError::TooFew { .. })));
}

fn data_of<'a>(entries: &'a [Entry], order_id: &str) -> &'a str {
    let mark = format!(r#""order_id":"{order_id}""#);
    entries.iter().filter_map(Entry::data).find(|data| data.contains(&mark)).unwrap()
}

/// The model judges a line by hand; what really judges it is the decoder, the schema and the key.
#[test]
fn decoder_and_schema_judge_the_messages_as_the_model_does() {
    let schema = serde_json::from_str(include_str!("../../schemas/order-placed.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    let mut digests: BTreeMap<String, Vec<weft_schemas::Digest>> = BTreeMap::new();
    let mut repeats = 0;
    for entry in committed().unwrap() {
        let message = entry.to_message("weft.events");
        assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("weft.events", "orders.placed"));
        let reason = match Event::decode(&message) {
            Err(DecodeError::NoId) => "no_key",
            Err(DecodeError::Undecodable { .. }) => "undecodable",
            Ok(event) if !schema.is_valid(&serde_json::from_slice(&event.data).unwrap()) => "schema",
            Ok(event) => match event.pointer("/data/order_id") {
                None => "no_key",
                Some(key) => {
                    let seen = digests.entry(key).or_default();
                    if seen.contains(&event.digest()) {
                        repeats += 1;
                        continue;
                    }
                    seen.push(event.digest());
                    if seen.len() == 1 {
                        continue;
                    }
                    "mismatch"
                }
            },
        };
        *refused.entry(reason).or_default() += 1;
    }
    let expected = Expected::committed().unwrap();
    let by_model: BTreeMap<&str, u64> =
        expected.functions["update-analytics"].dead.iter().map(|(reason, &n)| (reason.as_str(), n)).collect();
    assert_eq!(refused, by_model);
    assert_eq!(repeats, expected.duplicates);
    assert_eq!(digests.len() as u64, expected.functions["update-analytics"].succeeded);
}

#[test]
fn every_expected_counter_is_one_that_the_judge_reads() {
    let names = counter_names();
    for name in Expected::committed().unwrap().counters.keys() {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn a_line_is_written_back_as_it_was_read() {
    assert_eq!(to_text(&parse(FILE).unwrap()).unwrap(), FILE);
}

#[test]
fn the_model_refuses_lines_whose_end_depends_on_their_order() {
    let account = Account { customer_id: "C-101", name: "N", currency: "EUR", opening_minor: 100 };
    let some_only = [order("A-0001", "C-101", 60, ""), order("A-0002", "C-101", 60, "")];
    assert!(matches!(model::expect(&some_only, &[account]), Err(ModelError::Ambiguous { .. })));
    let two_prices = [order("A-0001", "C-101", 60, ""), order("A-0001", "C-101", 50, "")];
    assert!(matches!(model::expect(&two_prices, &[account]), Err(ModelError::Different { .. })));
    let stranger = [order("A-0001", "C-999", 60, "")];
    assert!(matches!(model::expect(&stranger, &[account]), Err(ModelError::NoAccount { .. })));
    let two_notes = [order("A-0001", "C-101", 60, "a"), order("A-0001", "C-101", 60, "b")];
    let end = model::expect(&two_notes, &[account]).unwrap();
    assert_eq!((end.balances["C-101"], end.functions["create-order"].dead["mismatch"]), (40, 1));
}
