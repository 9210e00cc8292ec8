//! Amazon SQS: `{ "Records": [ … ] }`.
//! <https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>

use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};

use super::{Envelope, Item, headers, sent, text};
use crate::Digest;

/// The transport type of a text in the digest of a message's attributes.
const TEXT: u8 = 1;

pub(super) fn request(envelope: &Envelope<'_>, items: &[Item<'_>]) -> Value {
    json!({ "Records": items.iter().map(|item| record(envelope, item)).collect::<Vec<_>>() })
}

fn record(envelope: &Envelope<'_>, item: &Item<'_>) -> Value {
    let body = text(item.event);
    let mut attributes = json!({
        "ApproximateReceiveCount": item.attempt.0.to_string(),
        "SentTimestamp": sent(item).as_millisecond().to_string(),
        "SenderId": envelope.account,
        "ApproximateFirstReceiveTimestamp": item.received.as_millisecond().to_string(),
    });
    if let (Some(trace), Some(attributes)) = (item.trace, attributes.as_object_mut()) {
        attributes.insert("AWSTraceHeader".to_owned(), trace.into());
    }
    // In the order of their names, which their digest needs.
    let named: Vec<(String, String)> = headers(item.event).collect();
    let mut record = json!({
        "messageId": envelope.message_id(item),
        "receiptHandle": receipt(envelope, item),
        "body": body,
        "attributes": attributes,
        "messageAttributes": named.iter().map(|(name, value)| (name.clone(), attribute(value))).collect::<Map<_, _>>(),
        "md5OfBody": hex(&Md5::digest(body.as_bytes())),
        "eventSource": "aws:sqs",
        "eventSourceARN": envelope.arn("sqs", envelope.queue),
        "awsRegion": envelope.region,
    });
    if let (false, Some(record)) = (named.is_empty(), record.as_object_mut()) {
        record.insert("md5OfMessageAttributes".to_owned(), hex(&digest(&named)).into());
    }
    record
}

fn attribute(value: &str) -> Value {
    json!({ "stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String" })
}

/// Names this attempt and nothing that anybody could use.
fn receipt(envelope: &Envelope<'_>, item: &Item<'_>) -> String {
    let attempt = item.attempt.0.to_be_bytes();
    let parts: [&[u8]; 4] = [b"receipt", envelope.function.as_str().as_bytes(), item.key.as_str().as_bytes(), &attempt];
    Digest::of(&parts).to_hex()
}

/// As Amazon SQS digests attributes: name, type, transport type and value, each with its length in front.
fn digest(attributes: &[(String, String)]) -> Vec<u8> {
    let mut hash = Md5::new();
    for (name, value) in attributes {
        for part in [name.as_str(), "String"] {
            put(&mut hash, part);
        }
        hash.update([TEXT]);
        put(&mut hash, value);
    }
    hash.finalize().to_vec()
}

fn put(hash: &mut Md5, part: &str) {
    hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    hash.update(part.as_bytes());
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_digest_that_amazon_documents() {
        assert_eq!(hex(&Md5::digest(b"Test message.")), "e4e68fb7bd0e697a0ae8f1bb342846b3");
        assert_eq!(hex(&Md5::digest(b"")), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn the_digest_of_attributes_has_lengths_in_front_of_all_but_the_transport_type() {
        let attributes = [("a".to_owned(), "xy".to_owned())];
        let spelled = b"\0\0\0\x01a\0\0\0\x06String\x01\0\0\0\x02xy";
        assert_eq!(digest(&attributes), Md5::digest(spelled).to_vec());
    }
}
