//! Answers to requests: a delivery that names a `reply_to` is answered with what became of its invocation, before its ack.
//!
//! The first success leaves its answers in the very settle. Every other answer (to a duplicate, of a death, after a
//! handler's own commit) is posted to the outbox first and its delivery acked after: a crash in between brings the
//! delivery back, and it is answered again, with the same bytes and the same message id.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use weft_ledger::{DeadLetterQuery, Ledger, OutboxKind, OutboxMessage};
use weft_schemas::message::{HeaderValue, Properties};
use weft_schemas::{DeadLetter, Digest, FunctionName, Key, Message, dead_letter, requeue};

use super::core::{Action, Core, Now, Took};
use crate::broker::DeliveryId;
use crate::link::Seen;

/// Says how a request ended: [`SUCCEEDED`] or [`DEAD`].
pub(crate) const STATUS_HEADER: &str = "weft-status";
pub(crate) const SUCCEEDED: &str = "succeeded";
pub(crate) const DEAD: &str = "dead";
/// How long the handler ran, in microseconds; on the answer of the attempt itself alone.
pub(crate) const RAN_HEADER: &str = "weft-ran-us";
/// How long the worker took to start, in microseconds; where the attempt waited for that.
pub(crate) const INIT_HEADER: &str = "weft-init-us";
/// What the function calls its invocation, where it has a name of its own for it; with the next two, on the answer to a caller
/// that asked for its log.
pub(crate) const REQUEST_HEADER: &str = "weft-request";
/// The last of what the attempt wrote.
pub(crate) const LOG_HEADER: &str = "weft-log";
/// The most memory that the worker's process ever held, in MiB.
pub(crate) const MEMORY_HEADER: &str = "weft-memory-mib";
/// A request that is put off until a retry is over comes back so long after it.
const PUT_OFF: Duration = Duration::from_secs(1);

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// A queue's name, or the broker's name for a direct reply.
    pub to: String,
    pub correlation: Option<String>,
}

/// A delivery that waits for what becomes of its invocation.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub id: DeliveryId,
    pub reply: Option<Box<Address>>,
}

/// A message for the outbox, and the delivery that is acked once it is there.
#[derive(Debug, Clone)]
pub(crate) struct Posting {
    pub delivery: DeliveryId,
    pub what: Post,
}

#[derive(Debug, Clone)]
pub(crate) enum Post {
    Message(Box<OutboxMessage>),
    /// The answer about a dead invocation, whose letter only the ledger knows.
    OfDead {
        key: Key,
        address: Box<Address>,
    },
}

impl Core {
    /// A delivery and where its answer goes. One to a queue of Weft's own would be taken for an event, so it is none.
    pub(super) fn waiting(&self, id: DeliveryId, message: &Message) -> Waiting {
        Waiting { id, reply: address(message, &self.prefix).map(Box::new) }
    }

    /// Acks those that want no answer; the others are answered first.
    pub(super) fn answer(&mut self, answered: Vec<Waiting>, with: impl Fn(Box<Address>) -> Post) -> Vec<DeliveryId> {
        let mut acks = Vec::with_capacity(answered.len());
        for Waiting { id, reply } in answered {
            match reply {
                None => acks.push(id),
                Some(address) => self.to_post.push(Posting { delivery: id, what: with(address) }),
            }
        }
        acks
    }

    /// Puts requests off for which a retry has to come first: each comes back by itself after it. `carried` is the
    /// address that the retry itself has.
    pub(super) fn put_off(
        &mut self,
        answered: Vec<Waiting>,
        message: &Message,
        carried: Option<&Address>,
        due_in: Duration,
    ) -> Vec<DeliveryId> {
        let (prefix, function) = (self.prefix.clone(), self.function.name.clone());
        let (carried, others): (Vec<_>, Vec<_>) = answered
            .into_iter()
            .partition(|waiting| waiting.reply.as_deref().is_none_or(|address| Some(address) == carried));
        let mut acks: Vec<DeliveryId> = carried.into_iter().map(|waiting| waiting.id).collect();
        acks.extend(self.answer(others, |address| {
            let mut copy = requeue::again_message(message, &prefix, &function);
            copy.properties.reply_to = Some(address.to);
            copy.properties.correlation_id = address.correlation;
            let due_in = due_in.saturating_add(PUT_OFF);
            Post::Message(Box::new(OutboxMessage { kind: OutboxKind::Emit, due_in, message: copy }))
        }));
        acks
    }

    pub(super) fn ask_post(&mut self) {
        let batch = self.to_post.len().min(self.batch);
        self.posting = true;
        self.actions.push(Action::Post(self.to_post.drain(..batch).collect()));
    }

    pub(super) fn on_posted(&mut self, postings: Vec<Posting>, result: Result<(), weft_ledger::Error>, now: Now) {
        self.posting = false;
        match result {
            Ok(()) => {
                self.ledger_answered();
                self.actions.push(Action::Ack(postings.into_iter().map(|posting| posting.delivery).collect()));
                self.actions.push(Action::WakeRelay);
            }
            Err(error) => {
                self.to_post.extend(postings);
                self.ledger_failed("post replies", &error, now);
            }
        }
    }
}

/// Where a message wants its answer; `None`: nowhere, or to a queue of Weft's own.
pub(super) fn address(message: &Message, prefix: &str) -> Option<Address> {
    let to = message.properties.reply_to.as_deref().filter(|to| !to.is_empty())?;
    let ours = to.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| {
        rest.starts_with("fn.") || rest.starts_with("dlq.") || ["crashed", "unrouted"].contains(&rest)
    });
    (!ours).then(|| Address { to: to.to_owned(), correlation: message.properties.correlation_id.clone() })
}

/// Puts answers into the outbox.
pub(super) async fn post(
    ledger: &dyn Ledger,
    function: &FunctionName,
    postings: &[Posting],
) -> Result<(), weft_ledger::Error> {
    let mut messages = Vec::with_capacity(postings.len());
    for posting in postings {
        messages.push(match &posting.what {
            Post::Message(message) => message.as_ref().clone(),
            Post::OfDead { key, address } => {
                let query = DeadLetterQuery {
                    function: Some(function.clone()),
                    key: Some(key.clone()),
                    include_closed: true,
                    limit: 1,
                    ..DeadLetterQuery::default()
                };
                let letters = ledger.dead_letters(&query).await?;
                refusal(function, Some(key), letters.first().map(|record| &record.letter), address)
            }
        });
    }
    ledger.post(&messages).await
}

/// The answer of a success: the stored result, byte for byte.
pub(super) fn success(function: &FunctionName, key: &Key, result: &Bytes, address: &Address) -> OutboxMessage {
    reply(function, Some(key), SUCCEEDED, result.clone(), address)
}

/// The answer of a death: reason, code and error as JSON, and in headers.
pub(super) fn refusal(
    function: &FunctionName,
    key: Option<&Key>,
    letter: Option<&DeadLetter>,
    address: &Address,
) -> OutboxMessage {
    let body = match letter {
        Some(DeadLetter { reason, error, .. }) => json!({
            "reason": reason.as_str(), "code": reason.code(), "error": { "kind": error.kind, "message": error.message },
        }),
        // It was deleted by hand.
        None => json!({ "reason": null, "error": { "kind": "Dead", "message": "the event was given up" } }),
    };
    let mut answer = reply(function, key, DEAD, body.to_string().into(), address);
    if let Some(letter) = letter {
        let headers = &mut answer.message.headers;
        headers.insert(dead_letter::header::REASON.to_owned(), letter.reason.as_str().into());
        headers.insert(dead_letter::header::CODE.to_owned(), letter.reason.code().into());
        headers.insert(dead_letter::header::ERROR_TYPE.to_owned(), letter.error.kind.as_str().into());
    }
    answer
}

/// Adds what the attempt took to its own answer, for the caller; an answer that was stored has none.
pub(super) fn measured(mut answer: OutboxMessage, took: &Took) -> OutboxMessage {
    for (name, duration) in [(RAN_HEADER, took.ran), (INIT_HEADER, took.init)] {
        if let Some(micros) = duration.and_then(|duration| i64::try_from(duration.as_micros()).ok()) {
            answer.message.headers.insert(name.to_owned(), HeaderValue::I64(micros));
        }
    }
    if let Some(seen) = &took.seen {
        let Seen { request, log, memory_mib } = &**seen;
        let texts = [(REQUEST_HEADER, request.as_deref()), (LOG_HEADER, Some(log.as_str()))];
        for (name, text) in texts {
            if let Some(text) = text {
                answer.message.headers.insert(name.to_owned(), text.into());
            }
        }
        if let Some(mebibytes) = memory_mib.and_then(|mebibytes| i64::try_from(mebibytes).ok()) {
            answer.message.headers.insert(MEMORY_HEADER.to_owned(), HeaderValue::I64(mebibytes));
        }
    }
    answer
}

fn reply(
    function: &FunctionName,
    key: Option<&Key>,
    status: &'static str,
    body: Bytes,
    address: &Address,
) -> OutboxMessage {
    let text = |text: &str| HeaderValue::from(text);
    let headers = [
        (STATUS_HEADER, Some(text(status))),
        (requeue::FUNCTION_HEADER, Some(text(function.as_str()))),
        (dead_letter::header::KEY, key.map(|key| text(key.as_str()))),
    ];
    let correlation = address.correlation.as_deref().unwrap_or_default();
    let id = Digest::of(&[
        b"reply",
        function.as_str().as_bytes(),
        key.map_or("", Key::as_str).as_bytes(),
        address.to.as_bytes(),
        correlation.as_bytes(),
        &body,
    ]);
    let message = Message {
        exchange: String::new(),
        routing_key: address.to.clone(),
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            delivery_mode: Some(2),
            correlation_id: address.correlation.clone(),
            message_id: Some(id.to_hex().split_at(32).0.to_owned()),
            ..Properties::default()
        },
        headers: headers.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value))).collect(),
        body,
    };
    OutboxMessage { kind: OutboxKind::Reply, due_in: Duration::ZERO, message }
}
