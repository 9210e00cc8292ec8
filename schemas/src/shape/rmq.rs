//! Amazon MQ for RabbitMQ: messages by queue and virtual host.
//! <https://docs.aws.amazon.com/lambda/latest/dg/with-mq.html>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::{Envelope, Item, headers};
use crate::Digest;

/// Persistent.
const DELIVERY_MODE: u8 = 2;
/// How Java writes a time in English, in UTC: `Jan 1, 1970, 12:33:41 AM`.
const TIME: &str = "%b %-d, %Y, %-I:%M:%S %p";

pub(super) fn request(envelope: &Envelope<'_>, items: &[Item<'_>]) -> Value {
    let queue = format!("{}::{}", envelope.queue, envelope.vhost);
    let messages: Vec<Value> = items.iter().map(message).collect();
    let id = Digest::of(&[b"broker", envelope.vhost.as_bytes()]).to_hex();
    json!({
        "eventSource": "aws:rmq",
        "eventSourceArn": envelope.arn("mq", &format!("broker:weft:b-{}", id.get(..32).unwrap_or_default())),
        "rmqMessagesByQueue": { queue: messages },
    })
}

/// The message as Weft itself would publish the event: binary mode, the CloudEvent's attributes in the headers.
fn message(item: &Item<'_>) -> Value {
    let headers: Map<String, Value> =
        headers(item.event).map(|(name, value)| (name, json!({ "bytes": value.as_bytes() }))).collect();
    json!({
        "basicProperties": {
            "contentType": item.event.datacontenttype,
            "contentEncoding": null,
            "headers": headers,
            "deliveryMode": DELIVERY_MODE,
            "priority": null,
            "correlationId": null,
            "replyTo": null,
            "expiration": null,
            "messageId": item.event.id,
            "timestamp": item.event.time.map(|time| time.strftime(TIME).to_string()),
            "type": null,
            "userId": null,
            "appId": null,
            "clusterId": null,
            "bodySize": item.event.data.len(),
        },
        "redelivered": item.attempt.0 > 1,
        "data": BASE64.encode(&item.event.data),
    })
}
