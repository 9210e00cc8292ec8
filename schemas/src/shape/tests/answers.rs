//! What answers say.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Given, order};
use crate::shape::Shape;
use crate::{Outcome, sample};

/// Of each event: the result, or the type of its error.
fn told(given: &Given, body: &[u8]) -> Vec<Result<String, String>> {
    let outcomes = given.envelope().answers(&given.items(1), body);
    let tell = |outcome| match outcome {
        Outcome::Succeeded { result } => Ok(String::from_utf8(result.to_vec()).unwrap()),
        Outcome::Retry { error, after_ms: None } => Err(error.kind),
        other => panic!("{other:?}"),
    };
    outcomes.into_iter().map(tell).collect()
}

fn ids(given: &Given) -> Vec<String> {
    given.items(1).iter().enumerate().map(|(n, item)| given.envelope().identifier(n, item)).collect()
}

fn naming(identifiers: &[&str]) -> Vec<u8> {
    let failures: Vec<Value> = identifiers.iter().map(|id| json!({ "itemIdentifier": id })).collect();
    json!({ "batchItemFailures": failures }).to_string().into_bytes()
}

const BATCHED: [Shape; 3] = [Shape::Sqs, Shape::CloudEvent, Shape::Data];

#[test]
fn only_the_events_that_are_named_have_failed() {
    for shape in BATCHED {
        let given = Given::orders(shape, true, 3);
        let ids = ids(&given);
        let failed = || Err("BatchItemFailure".to_owned());
        let succeeded = || Ok("null".to_owned());
        assert_eq!(told(&given, &naming(&[&ids[1]])), [succeeded(), failed(), succeeded()], "{shape:?}");
        assert_eq!(told(&given, &naming(&[&ids[2], &ids[0], &ids[2]])), [failed(), succeeded(), failed()], "{shape:?}");
    }
}

#[test]
fn an_answer_that_names_no_failure_says_that_all_succeeded() {
    for shape in BATCHED {
        let given = Given::orders(shape, true, 2);
        for body in [
            r#"{"batchItemFailures":[]}"#,
            r#"{"batchItemFailures":null}"#,
            "{}",
            "null",
            "",
            " \n",
            r#"{"statusCode":200}"#,
            r#"{"batchItemFailure":[{"itemIdentifier":"x"}]}"#,
            "\"done\"",
            "7",
        ] {
            assert_eq!(
                told(&given, body.as_bytes()),
                [Ok("null".to_owned()), Ok("null".to_owned())],
                "{shape:?} {body}"
            );
        }
    }
}

#[test]
fn an_answer_that_makes_no_sense_fails_the_whole_batch() {
    for shape in BATCHED {
        let given = Given::orders(shape, true, 2);
        let known = ids(&given)[0].clone();
        for body in [
            "oops".to_owned(),
            r#"{"batchItemFailures":["#.to_owned(),
            r#"{"batchItemFailures":{}}"#.to_owned(),
            r#"{"batchItemFailures":"x"}"#.to_owned(),
            r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#.to_owned(),
            r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#.to_owned(),
            r#"{"batchItemFailures":[{"itemIdentifier":7}]}"#.to_owned(),
            r#"{"batchItemFailures":["x"]}"#.to_owned(),
            r#"{"batchItemFailures":[null]}"#.to_owned(),
            format!(r#"{{"batchItemFailures":[{{"ItemIdentifier":"{known}"}}]}}"#),
            format!(r#"{{"batchItemFailures":[{{"itemIdentifier":"{known}"}},{{"itemIdentifier":"unknown"}}]}}"#),
        ] {
            let invalid = || Err("BatchAnswerInvalid".to_owned());
            assert_eq!(told(&given, body.as_bytes()), [invalid(), invalid()], "{shape:?} {body}");
        }
    }
}

#[test]
fn one_event_of_sqs_may_be_named_too_and_has_the_answer_as_its_result() {
    let given = Given::orders(Shape::Sqs, false, 1);
    assert_eq!(told(&given, &naming(&[&ids(&given)[0]])), [Err("BatchItemFailure".to_owned())]);
    assert_eq!(told(&given, b"{ \"ok\": 1.0 }"), [Ok("{ \"ok\": 1.0 }".to_owned())]);
}

#[test]
fn a_list_answers_each_event_of_a_batch_that_is_ours() {
    for shape in [Shape::CloudEvent, Shape::Data] {
        let given = Given::orders(shape, true, 2);
        assert_eq!(told(&given, b"[ {\"a\": 1.0}, null ]"), [Ok("{\"a\": 1.0}".to_owned()), Ok("null".to_owned())]);
        let invalid = || Err("BatchAnswerInvalid".to_owned());
        assert_eq!(told(&given, b"[1]"), [invalid(), invalid()]);
        assert_eq!(told(&given, b"[]"), [invalid(), invalid()]);
    }
}

#[test]
fn sources_that_read_no_answer_succeed_whatever_it_is() {
    for shape in [Shape::Rmq, Shape::Sns, Shape::EventBridge] {
        let given = Given::orders(shape, false, 1);
        assert_eq!(told(&given, b"oops"), [Ok("\"oops\"".to_owned())]);
        assert_eq!(told(&given, b"{\"batchItemFailures\":[{}]}"), [Ok("{\"batchItemFailures\":[{}]}".to_owned())]);
    }
    let batch = Given::orders(Shape::Rmq, true, 2);
    assert_eq!(told(&batch, b"1"), [Ok("null".to_owned()), Ok("null".to_owned())]);
}

#[test]
fn one_event_that_succeeded_has_the_answer_as_its_result_as_json() {
    for shape in [Shape::CloudEvent, Shape::Data] {
        let given = Given::orders(shape, false, 1);
        for (body, result) in [
            (b"[1]".as_slice(), "[1]"),
            (b"", "null"),
            (b"text", "\"text\""),
            (b"\xff", r#"{"body":"/w==","isBase64Encoded":true}"#),
            (b"{\"batchItemFailures\":[{}]}", "{\"batchItemFailures\":[{}]}"),
        ] {
            assert_eq!(told(&given, body), [Ok(result.to_owned())]);
        }
    }
}

#[test]
fn two_events_of_one_id_are_both_meant() {
    let mut other = order("e0");
    other.source = "/elsewhere".to_owned();
    let given = Given::new(Shape::CloudEvent, true, [order("e0"), other, order("e1")]);
    let kinds: Vec<bool> = told(&given, &naming(&["e0"])).iter().map(Result::is_ok).collect();
    assert_eq!(kinds, [false, false, true]);
}

proptest! {
    #[test]
    fn any_answer_is_an_outcome_for_each_event(
        body in prop_oneof![
            sample::body().prop_map(|body| body.to_vec()),
            sample::json().prop_map(|value| value.to_string().into_bytes()),
            sample::json().prop_map(|value| json!({ "batchItemFailures": value }).to_string().into_bytes()),
            sample::json().prop_map(|value| json!({ "batchItemFailures": [{ "itemIdentifier": value }] }).to_string().into_bytes()),
        ],
        count in 1_usize..5,
        batch: bool,
    ) {
        for shape in Shape::ALL {
            let given = Given::orders(shape, batch, if batch { count } else { 1 });
            let outcomes = told(&given, &body);
            prop_assert_eq!(outcomes.len(), given.events.len());
            for result in outcomes.into_iter().flatten() {
                prop_assert!(serde_json::from_str::<Value>(&result).is_ok(), "{}", result);
            }
        }
    }

    #[test]
    fn exactly_those_that_are_named_are_tried_again(failed in prop::collection::vec(any::<bool>(), 1..6)) {
        for shape in BATCHED {
            let given = Given::orders(shape, true, failed.len());
            let ids = ids(&given);
            let named: Vec<&str> = ids.iter().zip(&failed).filter(|(_, failed)| **failed).map(|(id, _)| id.as_str()).collect();
            let told: Vec<bool> = told(&given, &naming(&named)).iter().map(Result::is_err).collect();
            prop_assert_eq!(&told, &failed);
        }
    }
}
