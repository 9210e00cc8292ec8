//! What a function's answer says of each event of the call.
//!
//! `ReportBatchItemFailures` as AWS documents it
//! (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>): an answer with an empty, null or absent
//! list of failures says that all succeeded; one that is no JSON, and a failure without an identifier, with an empty one, or
//! with one that belongs to no event of the call, says that all failed: for what it meant cannot be known, and an event that
//! is run again costs less than one that is lost.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Envelope, Item, Shape};
use crate::{ErrorInfo, Outcome};

/// The error of an event that the function named.
const ITEM_FAILED: &str = "BatchItemFailure";
/// The error of each event of a call whose answer makes no sense.
const BAD_ANSWER: &str = "BatchAnswerInvalid";
const FAILURES: &str = "batchItemFailures";
const IDENTIFIER: &str = "itemIdentifier";

/// What an answer says, before it is told to each event.
enum Said {
    /// These failed, by their place; all others succeeded.
    Failed(Vec<usize>),
    /// All succeeded, each with a result of its own.
    Each(Vec<Bytes>),
    /// Nobody knows; why.
    Nonsense(String),
}

pub(super) fn answers(envelope: &Envelope<'_>, items: &[Item<'_>], body: &[u8]) -> Vec<Outcome> {
    let said = match envelope.shape {
        Shape::Sqs => failures(envelope, items, body),
        Shape::CloudEvent | Shape::Data if envelope.batch => own(envelope, items, body),
        // Written for a source that reads no answer.
        Shape::CloudEvent | Shape::Data | Shape::Rmq | Shape::Sns | Shape::EventBridge => Said::Failed(Vec::new()),
    };
    match said {
        Said::Failed(failed) => {
            let result = if items.len() == 1 { json(body) } else { Bytes::from_static(b"null") };
            let outcome = |(n, _)| {
                if failed.contains(&n) { item_failed() } else { Outcome::Succeeded { result: result.clone() } }
            };
            items.iter().enumerate().map(outcome).collect()
        }
        Said::Each(results) => results.into_iter().map(|result| Outcome::Succeeded { result }).collect(),
        Said::Nonsense(why) => {
            let error = ErrorInfo::new(BAD_ANSWER, why);
            items.iter().map(|_| Outcome::Retry { error: error.clone(), after_ms: None }).collect()
        }
    }
}

fn item_failed() -> Outcome {
    let message = format!("the function named this event in {FAILURES}");
    Outcome::Retry { error: ErrorInfo::new(ITEM_FAILED, message), after_ms: None }
}

/// Of shapes that are ours: a list has an answer for each event, anything else is read as of SQS.
fn own(envelope: &Envelope<'_>, items: &[Item<'_>], body: &[u8]) -> Said {
    match serde_json::from_slice::<Vec<Box<RawValue>>>(body) {
        Ok(each) if each.len() == items.len() => {
            Said::Each(each.into_iter().map(|result| Bytes::from(Box::<str>::from(result).into_string())).collect())
        }
        Ok(each) => Said::Nonsense(format!("the answer has {} results for {} events", each.len(), items.len())),
        Err(_) => failures(envelope, items, body),
    }
}

fn failures(envelope: &Envelope<'_>, items: &[Item<'_>], body: &[u8]) -> Said {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Said::Failed(Vec::new());
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Said::Nonsense("the answer is no JSON".to_owned());
    };
    // A text, a number: the answer of a function that knows nothing of failures in batches.
    let Some(list) = answer.as_object().and_then(|answer| answer.get(FAILURES)).filter(|list| !list.is_null()) else {
        return Said::Failed(Vec::new());
    };
    let Some(list) = list.as_array() else {
        return Said::Nonsense(format!("{FAILURES} is no list"));
    };
    let known: Vec<String> = items.iter().enumerate().map(|(n, item)| envelope.identifier(n, item)).collect();
    let mut failed = Vec::new();
    for (n, failure) in list.iter().enumerate() {
        let Some(identifier) = failure.get(IDENTIFIER) else {
            return Said::Nonsense(format!("{FAILURES} has no {IDENTIFIER} at {n}"));
        };
        let Some(identifier) = identifier.as_str().filter(|identifier| !identifier.is_empty()) else {
            return Said::Nonsense(format!("{FAILURES} has an {IDENTIFIER} at {n} that is empty or no text"));
        };
        // Two events may have one id, from two sources: then both are meant.
        let places = known.iter().enumerate().filter(|(_, known)| *known == identifier).map(|(place, _)| place);
        let before = failed.len();
        failed.extend(places);
        if failed.len() == before {
            return Said::Nonsense(format!("{FAILURES} has an {IDENTIFIER} at {n} that no event of the call has"));
        }
    }
    Said::Failed(failed)
}

/// A result is JSON: what is none becomes a text, what is no text an object that says so, and no answer is `null`.
fn json(body: &[u8]) -> Bytes {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Bytes::from_static(b"null");
    }
    match std::str::from_utf8(body) {
        Ok(text) if serde_json::from_str::<&RawValue>(text).is_ok() => Bytes::copy_from_slice(body),
        Ok(text) => Value::from(text).to_string().into(),
        Err(_) => serde_json::json!({ "isBase64Encoded": true, "body": BASE64.encode(body) }).to_string().into(),
    }
}
