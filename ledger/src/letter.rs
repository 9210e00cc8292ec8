//! What both ledgers keep of a dead letter beside the letter itself, and what a purge leaves of it.

use std::borrow::Cow;

use bytes::Bytes;
use weft_schemas::requeue::FUNCTION_HEADER;
use weft_schemas::{DeadLetter, DeadLetterId, ErrorInfo, Message};

use crate::codec::decode;
use crate::{Error, OutboxKind};

/// How much of an error's message is kept where many of them stand side by side.
const SHORT: usize = 1024;

/// A text as a database can hold it: Postgres takes no NUL.
pub(crate) fn text(raw: &str) -> Cow<'_, str> {
    if raw.contains('\0') { Cow::Owned(raw.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(raw) }
}

/// [`text`], cut to 1 KiB.
pub(crate) fn short(raw: &str) -> Cow<'_, str> {
    text(raw.get(..raw.floor_char_boundary(SHORT)).unwrap_or(raw))
}

/// The columns by which letters are selected and grouped.
pub(crate) struct Entry {
    pub error_kind: String,
    pub error_message: String,
    pub fingerprint: String,
}

impl Entry {
    pub fn of(error: &ErrorInfo) -> Self {
        Self {
            error_kind: text(&error.kind).into_owned(),
            error_message: short(&error.message).into_owned(),
            fingerprint: error.fingerprint(),
        }
    }
}

/// Whether the letter is the end of an invocation, rather than of a message that never became one.
fn ends_an_invocation(letter: &DeadLetter) -> bool {
    letter.key.as_ref().is_some_and(|key| letter.id == DeadLetterId::of_invocation(&letter.function, key, letter.epoch))
}

/// For a letter that was stored before these columns were: the columns, and whether an invocation ended with it.
///
/// # Errors
/// [`Error::Corrupt`].
pub(crate) fn read_out(stored: &[u8]) -> Result<(Entry, bool), Error> {
    let letter: DeadLetter = decode("a dead letter", stored)?;
    Ok((Entry::of(&letter.error), ends_an_invocation(&letter)))
}

/// For an outbox row that was stored before these columns were: function and key, as far as the message tells.
///
/// # Errors
/// [`Error::Corrupt`].
pub(crate) fn whose(kind: &str, stored: &[u8]) -> Result<(Option<String>, Option<String>), Error> {
    let message: Message = decode("an outbox message", stored)?;
    let header = |name| message.header(name).map(str::to_owned);
    Ok(match OutboxKind::read(kind)? {
        OutboxKind::DeadLetter => {
            (header(weft_schemas::dead_letter::header::FUNCTION), header(weft_schemas::dead_letter::header::KEY))
        }
        OutboxKind::Retry | OutboxKind::Redrive => (header(FUNCTION_HEADER), None),
        OutboxKind::Emit | OutboxKind::Reply => (None, None),
    })
}

/// The letter without the bytes that somebody wanted gone: where it was published to stays.
pub(crate) fn purged(mut letter: DeadLetter) -> DeadLetter {
    let (exchange, routing_key) = letter.message.origin();
    letter.message = Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        body: Bytes::new(),
        ..Message::default()
    };
    letter
}
