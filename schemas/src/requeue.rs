//! Messages that Weft publishes a second time: retries, dead letters and redrives.
//!
//! They go to a queue by the default exchange, so where they were first published to stands in headers (a plain JSON
//! event takes its type and source from there). All headers of ours begin with `weft-`: a reserved prefix, which is
//! taken off and written anew each time, so that they never pile up. Whatever else the publisher set stays as it was.

mod edited;

use crate::{DeadLetter, DeadLetterId, Epoch, Fence, FunctionName, HeaderValue, Key, Message};

pub use edited::{Edited, edited_message};

/// The prefix of the headers of ours.
pub const HEADER_PREFIX: &str = "weft-";
/// The function that the message waits for.
pub const FUNCTION_HEADER: &str = "weft-function";
/// The fence of the settle that parked the invocation; on retries.
pub const FENCE_HEADER: &str = "weft-fence";
/// How often the event has been redriven; absent before the first time.
pub const EPOCH_HEADER: &str = "weft-epoch";
/// The exchange that the message was first published to.
pub const EXCHANGE_HEADER: &str = "weft-exchange";
/// The routing key that the message was first published with.
pub const ROUTING_KEY_HEADER: &str = "weft-routing-key";
/// The publisher's `expiration` property.
pub const EXPIRATION_HEADER: &str = "weft-expiration";
/// The publisher's `user_id` property.
pub const USER_ID_HEADER: &str = "weft-user-id";

/// The key of the invocation that waits for the message; on retries, and on redrives of what had run. Honoured on these
/// alone.
pub const KEY_HEADER: &str = crate::dead_letter::header::KEY;
/// The key that an edited event runs under; honoured on redriven messages alone. See [`edited_message`].
pub const REDRIVEN_AS_HEADER: &str = "weft-redriven-as";
/// The dead letter that an edited event was made from.
pub const REDRIVEN_FROM_HEADER: &str = "weft-redriven-from";

/// What brokers add to a message, or act upon: a copy of ours must not carry it on.
fn is_the_broker_s(header: &str) -> bool {
    header == "x-death"
        || header.starts_with("x-first-death-")
        || header.starts_with("x-last-death-")
        || ["x-delivery-count", "x-acquired-count", "CC", "BCC"].contains(&header)
}

/// The message as its publisher made it, however often Weft has queued it again since. Safe to repeat.
///
/// The broker's headers stay away, as nobody can tell which of them the publisher had set.
pub fn original(message: &Message) -> Message {
    let (exchange, routing_key) = message.origin();
    let (exchange, routing_key) = (exchange.to_owned(), routing_key.to_owned());
    let text = |name| message.header(name).map(str::to_owned);
    let mut properties = message.properties.clone();
    properties.expiration = properties.expiration.or_else(|| text(EXPIRATION_HEADER));
    properties.user_id = properties.user_id.or_else(|| text(USER_ID_HEADER));
    let headers = message
        .headers
        .iter()
        .filter(|(name, _)| !name.starts_with(HEADER_PREFIX) && !is_the_broker_s(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Message { exchange, routing_key, properties, headers, body: message.body.clone() }
}

/// The original message, addressed to a queue, with nothing of ours but what brings the original back.
///
/// `expiration` becomes a header: what has been taken in is governed by the function's `max_age`, and the broker would
/// throw the copy away. So does `user_id`: RabbitMQ closes the channel of a publisher that is not that user.
pub(crate) fn requeued(message: &Message, queue: String) -> Message {
    let mut copy = original(message);
    let exchange = std::mem::take(&mut copy.exchange);
    let routing_key = std::mem::replace(&mut copy.routing_key, queue);
    for (name, value) in [(EXCHANGE_HEADER, exchange), (ROUTING_KEY_HEADER, routing_key)] {
        copy.headers.insert(name.to_owned(), HeaderValue::Text(value));
    }
    put_away(&mut copy);
    keep_edit(message, &mut copy);
    copy
}

/// An edited event keeps its key and its predecessor in every retry, redrive and dead letter.
fn keep_edit(message: &Message, copy: &mut Message) {
    if is_redriven(message) {
        for name in [REDRIVEN_AS_HEADER, REDRIVEN_FROM_HEADER] {
            if let Some(value) = message.header(name) {
                copy.headers.insert(name.to_owned(), HeaderValue::from(value));
            }
        }
    }
}

/// Makes headers of the properties that the broker would act upon.
fn put_away(message: &mut Message) {
    let kept = [
        (EXPIRATION_HEADER, message.properties.expiration.take()),
        (USER_ID_HEADER, message.properties.user_id.take()),
    ];
    for (name, value) in kept {
        if let Some(value) = value {
            message.headers.insert(name.to_owned(), HeaderValue::Text(value));
        }
    }
}

/// The message that brings a waiting invocation back: straight to its function's queue, with the fence of the settle
/// that parked it. `original` may itself be a retry or a redrive.
pub fn retry_message(original: &Message, prefix: &str, function: &FunctionName, fence: Fence) -> Message {
    let mut message = to_function(original, prefix, function, epoch(original));
    message.headers.insert(FENCE_HEADER.to_owned(), HeaderValue::I64(fence.0));
    message
}

/// The same message once more, straight to its function's queue: no retry, so that it is judged as any duplicate is.
pub fn again_message(original: &Message, prefix: &str, function: &FunctionName) -> Message {
    to_function(original, prefix, function, epoch(original))
}

/// The message that brings a dead letter back: straight to its function's queue, one epoch later. A message that could
/// not be read then cannot be read now, in the same way.
///
/// An event that no function was bound to goes where its publisher had sent it, so that whoever is bound to it by now
/// gets it.
pub fn redrive_message(letter: &DeadLetter, prefix: &str) -> Message {
    let epoch = Epoch(letter.epoch.0.saturating_add(1));
    if letter.function.is_unrouted() {
        let mut message = original(&letter.message);
        put_away(&mut message);
        keep_edit(&letter.message, &mut message);
        set_epoch(&mut message, epoch);
        return message;
    }
    let mut message = to_function(&letter.message, prefix, &letter.function, epoch);
    if let Some(key) = &letter.key
        && letter.id == DeadLetterId::of_invocation(&letter.function, key, letter.epoch)
    {
        carry_key(&mut message, key);
    }
    message
}

/// Writes down which invocation waits for this message, so that it is found again although the manifest may name another
/// key by then. For retries and redrives; on any other message it means nothing.
pub fn carry_key(message: &mut Message, key: &Key) {
    message.headers.insert(KEY_HEADER.to_owned(), HeaderValue::from(key.as_str()));
}

fn to_function(message: &Message, prefix: &str, function: &FunctionName, epoch: Epoch) -> Message {
    let mut copy = requeued(message, format!("{prefix}.fn.{function}"));
    copy.headers.insert(FUNCTION_HEADER.to_owned(), HeaderValue::from(function.as_str()));
    set_epoch(&mut copy, epoch);
    copy
}

fn set_epoch(message: &mut Message, epoch: Epoch) {
    if epoch > Epoch(0) {
        message.headers.insert(EPOCH_HEADER.to_owned(), HeaderValue::I64(epoch.0.into()));
    }
}

/// The fence that a retry carries; `None` when the message is no retry.
pub fn resume_fence(message: &Message) -> Option<Fence> {
    message.headers.get(FENCE_HEADER).and_then(HeaderValue::as_i64).map(Fence)
}

/// The epoch that a message belongs to: 0 until it is redriven.
pub fn epoch(message: &Message) -> Epoch {
    let value = message.headers.get(EPOCH_HEADER).and_then(HeaderValue::as_i64);
    Epoch(value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default())
}

/// Whether the event was redriven.
pub fn is_redriven(message: &Message) -> bool {
    epoch(message) > Epoch(0)
}

/// The key that an edited event runs under, whatever its data says; `None` when the event was not edited.
///
/// Without it an edited event whose key stands in its data would claim its predecessor's invocation, and be refused as
/// a mismatch.
pub fn redriven_as(message: &Message) -> Option<Key> {
    let text = message.header(REDRIVEN_AS_HEADER).filter(|_| is_redriven(message))?;
    Key::new(text).ok()
}

/// The key of the invocation that waits for this retry or redrive; `None` for any other message, and when nothing waits.
pub fn carried_key(message: &Message) -> Option<Key> {
    let ours = resume_fence(message).is_some() || is_redriven(message);
    Key::new(message.header(KEY_HEADER).filter(|_| ours)?).ok()
}

/// The dead letter that an edited event was made from; `None` when the event was not edited.
pub fn redriven_from(message: &Message) -> Option<DeadLetterId> {
    let text = message.header(REDRIVEN_FROM_HEADER).filter(|_| is_redriven(message))?;
    Some(DeadLetterId(text.to_owned()))
}

#[cfg(test)]
mod tests;
