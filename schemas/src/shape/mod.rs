//! What a Lambda function gets for an event, and what its answer says of each event: pure conversion, both ways.
//!
//! A function that was written for one of AWS's event sources finds here what that source would have sent it, with the
//! names and types of AWS's own documents (<https://docs.aws.amazon.com/lambda/latest/dg/lambda-services.html>). What has no
//! counterpart outside AWS is filled so that clients which check the form accept it: accounts are
//! `000000000000`, addresses lead nowhere.
//!
//! | shape | one event | with `batch` | which of a batch failed |
//! | --- | --- | --- | --- |
//! | `cloudevent` | CloudEvents' JSON form | a list | `batchItemFailures` by the event's id |
//! | `data` | the data alone | a list | `batchItemFailures` by the place in the list, from `"0"` |
//! | `aws:sqs` | one record | several records | `batchItemFailures` by `messageId` |
//! | `aws:rmq` | one message | several messages | all or none |
//! | `aws:sns`, `aws:eventbridge` | one record, one event | refused: functions take the first and lose the rest | |
//!
//! `docs/event-shapes.md` says it for people. What this module does not do: it knows nothing of the Runtime API and makes no
//! text of an error that the function itself reported.

mod answer;
mod eventbridge;
mod rmq;
mod sns;
mod sqs;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{Attempt, Digest, Event, FunctionName, Key, Outcome};

/// What a function gets for an event: `event = "aws:sqs"` in the manifest. Default: `cloudevent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Shape {
    /// The CloudEvent in its JSON form.
    #[default]
    CloudEvent,
    /// The event's data alone: JSON as it arrived, other text as a JSON string, other bytes as one in base64, none as
    /// `null`.
    Data,
    /// An event of Amazon SQS.
    Sqs,
    /// An event of Amazon MQ for RabbitMQ.
    Rmq,
    /// An event of Amazon SNS.
    Sns,
    /// An event of Amazon EventBridge.
    EventBridge,
}

impl Shape {
    pub const ALL: [Self; 6] = [Self::CloudEvent, Self::Data, Self::Sqs, Self::Rmq, Self::Sns, Self::EventBridge];

    /// Its word in the manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CloudEvent => "cloudevent",
            Self::Data => "data",
            Self::Sqs => "aws:sqs",
            Self::Rmq => "aws:rmq",
            Self::Sns => "aws:sns",
            Self::EventBridge => "aws:eventbridge",
        }
    }

    /// The shape of that word; `None` for any other text.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.as_str() == word)
    }

    /// Whether a function that takes it may have `batch`. SNS and EventBridge send one at a time, and a function written for
    /// them may look at the first alone.
    pub const fn takes_batches(self) -> bool {
        match self {
            Self::CloudEvent | Self::Data | Self::Sqs | Self::Rmq => true,
            Self::Sns | Self::EventBridge => false,
        }
    }
}

/// One event of a call.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub event: &'a Event,
    pub key: &'a Key,
    /// From 1.
    pub attempt: Attempt,
    /// When Weft got it first; who does not know says when this attempt began. Stands in too for the time of an event that
    /// names none.
    pub received: Timestamp,
    /// Its trace in the form of AWS X-Ray's tracing header.
    pub trace: Option<&'a str>,
}

/// What is common to the calls of one function.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    pub shape: Shape,
    /// The function takes batches: a list even where there is one event.
    pub batch: bool,
    pub function: &'a FunctionName,
    /// The queue that feeds it.
    pub queue: &'a str,
    /// The broker's virtual host; `/` where there is none.
    pub vhost: &'a str,
    /// Such as `us-east-1`; in names of resources, and told to the function.
    pub region: &'a str,
    /// Twelve digits.
    pub account: &'a str,
}

impl Envelope<'_> {
    /// What the function gets for these events: JSON. The same events give the same bytes but for what changes with the
    /// attempt. Several events for a shape that takes no batches, which the manifest refuses, are a list of its documents.
    pub fn request(&self, items: &[Item<'_>]) -> Bytes {
        match (self.shape, items) {
            (Shape::Sqs, _) => sqs::request(self, items).to_string().into(),
            (Shape::Rmq, _) => rmq::request(self, items).to_string().into(),
            (shape, [item]) if !(self.batch && shape.takes_batches()) => self.document(item),
            (_, items) => {
                let documents: Vec<Bytes> = items.iter().map(|item| self.document(item)).collect();
                [b"[".as_slice(), &documents.join(b",".as_slice()), b"]"].concat().into()
            }
        }
    }

    /// What the function's answer says of each event, in their order: succeeded, or to be tried again. `body`: as the
    /// function posted it, before anything is made of it. That it says so at all is a success of the call: an error that the
    /// function reported does not come here.
    ///
    /// A call of one event that succeeded has the answer as its result; of several, where they are not answered one by one,
    /// each has `null`.
    pub fn answers(&self, items: &[Item<'_>], body: &[u8]) -> Vec<Outcome> {
        answer::answers(self, items, body)
    }

    /// What the function calls this event when it says which failed.
    fn identifier(&self, index: usize, item: &Item<'_>) -> String {
        match self.shape {
            Shape::CloudEvent => item.event.id.clone(),
            Shape::Data => index.to_string(),
            Shape::Sqs | Shape::Rmq | Shape::Sns | Shape::EventBridge => self.message_id(item),
        }
    }

    /// The id of a message: a UUID (version 8 of RFC 9562) made of function and key, so that it is the same for each attempt
    /// and each duplicate, and another for another function.
    fn message_id(&self, item: &Item<'_>) -> String {
        let hex = Digest::of(&[b"message", self.function.as_str().as_bytes(), item.key.as_str().as_bytes()]).to_hex();
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        format!("{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
    }

    /// The name of a resource: `arn:aws:sqs:us-east-1:000000000000:weft.orders`.
    fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.region, self.account)
    }

    /// One event where each has a document of its own.
    fn document(&self, item: &Item<'_>) -> Bytes {
        match self.shape {
            Shape::CloudEvent => item.event.to_structured_json().into(),
            Shape::Data => data(item.event),
            Shape::Sqs => sqs::request(self, std::slice::from_ref(item)).to_string().into(),
            Shape::Rmq => rmq::request(self, std::slice::from_ref(item)).to_string().into(),
            Shape::Sns => sns::request(self, item).to_string().into(),
            Shape::EventBridge => eventbridge::request(self, item).to_string().into(),
        }
    }
}

/// The data as JSON, byte for byte where it is JSON already.
fn data(event: &Event) -> Bytes {
    if event.data.is_empty() {
        return Bytes::from_static(b"null");
    }
    if event.data_json().is_some() {
        return event.data.clone();
    }
    serde_json::Value::from(text(event)).to_string().into()
}

/// The data as text: what is no UTF-8 in base64.
fn text(event: &Event) -> Cow<'_, str> {
    std::str::from_utf8(&event.data).map_or_else(|_| BASE64.encode(&event.data).into(), Cow::from)
}

/// When the event was made, as far as anybody knows.
fn sent(item: &Item<'_>) -> Timestamp {
    item.event.time.unwrap_or(item.received)
}

/// The attributes of a CloudEvent as its publisher would write them into a message's headers: name and text, but for the
/// content type.
fn headers(event: &Event) -> impl Iterator<Item = (String, String)> {
    let message = event.to_message("", "");
    message.headers.into_iter().filter_map(|(name, value)| match value {
        crate::HeaderValue::Text(text) => Some((name, text)),
        _ => None,
    })
}
