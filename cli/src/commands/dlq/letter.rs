//! A dead letter as people and programs see it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use weft_ledger::DeadLetterRecord;
use weft_schemas::{HeaderValue, requeue};

use crate::show;

/// Everything about a letter but its history. The body is text where it is text, else Base64.
pub fn as_json(record: &DeadLetterRecord) -> Value {
    let letter = &record.letter;
    let message = requeue::original(&letter.message);
    let text = std::str::from_utf8(&message.body).ok();
    json!({
        "id": letter.id,
        "function": letter.function,
        "key": letter.key,
        "epoch": letter.epoch,
        "reason": letter.reason,
        "code": letter.reason.code(),
        "page": letter.reason.page(),
        "error": letter.error,
        "fingerprint": record.fingerprint,
        "attempts": letter.attempts,
        "first_at": letter.first_at,
        "last_at": letter.last_at,
        "buried_at": record.buried_at,
        "trace_id": letter.trace_id,
        "arrivals": record.arrivals,
        "redriven_at": record.redriven_at,
        "redriven_by": record.redriven_by,
        "redriven_as": record.redriven_as,
        "redriven_from": requeue::redriven_from(&letter.message),
        "purged_at": record.purged_at,
        "purged_by": record.purged_by,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "message_id": message.properties.message_id,
        "content_type": message.properties.content_type,
        "body": text,
        "body_base64": text.is_none().then(|| BASE64.encode(&message.body)),
        "body_bytes": message.body.len(),
    })
}

/// How it was closed, by whom and when; `None` while it is open.
pub fn closed(record: &DeadLetterRecord) -> Option<String> {
    let mut parts = Vec::new();
    for (verb, at, by) in
        [("redriven", record.redriven_at, &record.redriven_by), ("purged", record.purged_at, &record.purged_by)]
    {
        let Some(at) = at else { continue };
        let mut part = verb.to_owned();
        if let (Some(key), "redriven") = (&record.redriven_as, verb) {
            part.push_str(&format!(" as {}", show::cut(key.as_str(), 60)));
        }
        if let Some(by) = by {
            part.push_str(&format!(" by {}", show::cut(by, 40)));
        }
        part.push_str(&format!(" {}", show::ago(at)));
        parts.push(part);
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A header's value in one line.
pub fn header(value: &HeaderValue) -> String {
    match value {
        HeaderValue::Text(text) => show::printable(text).replace('\n', "\\n"),
        HeaderValue::Opaque(bytes) | HeaderValue::Bytes(bytes) => format!("base64 {}", BASE64.encode(bytes)),
        HeaderValue::Void => "(void)".to_owned(),
        HeaderValue::Bool(value) => value.to_string(),
        HeaderValue::F32(value) => value.to_string(),
        HeaderValue::F64(value) => value.to_string(),
        HeaderValue::Timestamp(seconds) => format!("timestamp {seconds}"),
        HeaderValue::Decimal { scale, value } => format!("decimal {value}e-{scale}"),
        HeaderValue::Array(values) => format!("[{}]", values.iter().map(header).collect::<Vec<_>>().join(", ")),
        HeaderValue::Table(table) => {
            let members: Vec<_> = table.iter().map(|(name, value)| format!("{name}: {}", header(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.as_i64().map(|number| number.to_string()).unwrap_or_default(),
    }
}

/// The first bytes of what is no text, as people read them: offset, hexadecimal, characters.
pub fn hex(bytes: &[u8], most: usize) -> String {
    let shown = bytes.get(..most.min(bytes.len())).unwrap_or_default();
    let lines = shown.chunks(16).enumerate().map(|(n, chunk)| {
        let digits: Vec<_> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let characters: String =
            chunk.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect();
        format!("{:08x}  {:<47}  {characters}", n * 16, digits.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use jiff::Timestamp;
    use weft_schemas::{Attempt, DeadLetter, DeadLetterId, Epoch, ErrorInfo, FunctionName, Key, Message, Reason};

    use super::*;

    fn record(body: &'static [u8]) -> DeadLetterRecord {
        let error = ErrorInfo::new("NotFixed", "it is not fixed yet");
        let at = Timestamp::now();
        DeadLetterRecord {
            fingerprint: error.fingerprint(),
            letter: DeadLetter {
                id: DeadLetterId("0123".to_owned()),
                function: FunctionName::new("f").unwrap(),
                key: None,
                epoch: Epoch(0),
                reason: Reason::Terminal,
                error,
                attempts: Attempt(1),
                first_at: at,
                last_at: at,
                trace_id: None,
                message: Message { body: Bytes::from_static(body), ..Message::default() },
            },
            arrivals: 1,
            buried_at: at,
            redriven_at: None,
            redriven_by: None,
            redriven_as: None,
            purged_at: None,
            purged_by: None,
        }
    }

    #[test]
    fn a_body_is_text_in_json_or_base64_when_it_is_none() {
        let text = as_json(&record(b"{}"));
        assert_eq!((&text["body"], &text["body_base64"], &text["body_bytes"]), (&json!("{}"), &Value::Null, &json!(2)));
        let bytes = as_json(&record(b"\xff\x00"));
        assert_eq!((&bytes["body"], &bytes["body_base64"]), (&Value::Null, &json!("/wA=")));
    }

    #[test]
    fn a_closed_letter_says_how_and_by_whom() {
        let open = record(b"");
        assert_eq!(closed(&open), None);
        let redriven = DeadLetterRecord {
            redriven_at: Some(Timestamp::now()),
            redriven_by: Some("ann@host".to_owned()),
            redriven_as: Some(Key::new("k~0123").unwrap()),
            ..open.clone()
        };
        assert_eq!(closed(&redriven).unwrap(), "redriven as k~0123 by ann@host now");
        let purged =
            DeadLetterRecord { purged_at: Some(Timestamp::now()), purged_by: Some("ben@host".to_owned()), ..open };
        assert_eq!(closed(&purged).unwrap(), "purged by ben@host now");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_hexadecimal_and_cut() {
        let text = hex(b"\x00weft\xff", 512);
        assert_eq!(text, "00000000  00 77 65 66 74 ff                                .weft.");
        assert_eq!(hex(&[7; 40], 20).lines().count(), 2);
        assert_eq!(hex(b"", 16), "");
    }

    #[test]
    fn headers_of_every_kind_are_one_line() {
        let table = HeaderValue::Table([("a".to_owned(), HeaderValue::I8(1))].into());
        let values = HeaderValue::Array(vec![
            HeaderValue::from("two\nlines\u{1b}[2J"),
            HeaderValue::Bytes(vec![1, 2]),
            table,
            HeaderValue::Bool(true),
        ]);
        assert_eq!(header(&values), "[two\\nlines\\u{1b}[2J, base64 AQI=, {a: 1}, true]");
    }
}
