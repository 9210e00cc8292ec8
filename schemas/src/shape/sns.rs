//! Amazon SNS: one record.
//! <https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html>

use serde_json::{Map, Value, json};

use super::{Envelope, Item, headers, sent, text};

/// Milliseconds, as SNS writes them.
const TIME: &str = "%Y-%m-%dT%H:%M:%S%.3fZ";
/// An address is asked for where there is none: it leads nowhere (RFC 2606).
const NOWHERE: &str = "https://sns.invalid/";

pub(super) fn request(envelope: &Envelope<'_>, item: &Item<'_>) -> Value {
    let topic = envelope.arn("sns", &topic(&item.event.kind));
    let attributes: Map<String, Value> =
        headers(item.event).map(|(name, value)| (name, json!({ "Type": "String", "Value": value }))).collect();
    json!({
        "Records": [{
            "EventVersion": "1.0",
            "EventSubscriptionArn": format!("{topic}:{}", envelope.function),
            "EventSource": "aws:sns",
            "Sns": {
                "SignatureVersion": "1",
                "Timestamp": sent(item).strftime(TIME).to_string(),
                "Signature": "",
                "SigningCertUrl": NOWHERE,
                "MessageId": envelope.message_id(item),
                "Message": text(item.event),
                "MessageAttributes": attributes,
                "Type": "Notification",
                "UnsubscribeUrl": NOWHERE,
                "TopicArn": topic,
                "Subject": item.event.subject,
            },
        }],
    })
}

/// The name of a topic holds letters, digits, `-` and `_`: an event's type with `-` for everything else.
fn topic(kind: &str) -> String {
    kind.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}
