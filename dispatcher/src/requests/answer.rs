//! What became of a request: read from the reply to it, or from the ledger's row when the reply was lost. Pure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use weft_ledger::{DeadLetterRecord, InvocationRecord, State};
use weft_schemas::{ErrorInfo, HeaderValue, Message};

use crate::function::{
    DEAD, INIT_HEADER, LOG_HEADER, MEMORY_HEADER, RAN_HEADER, REQUEST_HEADER, STATUS_HEADER, SUCCEEDED, Took,
};
use crate::link::Seen;

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The stored result, byte for byte.
    Succeeded { result: Bytes },
    /// It was given up. `reason` is that of its dead letter; `None` when that was deleted by hand.
    Dead { reason: Option<String>, error: ErrorInfo },
}

#[derive(Deserialize)]
struct Refusal {
    reason: Option<String>,
    error: ErrorInfo,
}

impl Answer {
    /// Reads a reply; `None` when it is none of a dispatcher's.
    pub(super) fn of_reply(reply: &Message) -> Option<Self> {
        match reply.header(STATUS_HEADER)? {
            SUCCEEDED => Some(Self::Succeeded { result: reply.body.clone() }),
            DEAD => {
                let Refusal { reason, error } = serde_json::from_slice(&reply.body).ok()?;
                Some(Self::Dead { reason, error })
            }
            _ => None,
        }
    }

    /// What the attempt took, as its own reply says; a reply to a repeat says nothing of it.
    pub(super) fn took(reply: &Message) -> Took {
        let number = |name| reply.headers.get(name).and_then(HeaderValue::as_i64).and_then(|n| u64::try_from(n).ok());
        let duration = |name| number(name).map(Duration::from_micros);
        let seen = reply.header(LOG_HEADER).map(|log| {
            let (request, memory_mib) = (reply.header(REQUEST_HEADER).map(Arc::from), number(MEMORY_HEADER));
            Arc::new(Seen { request, log: log.to_owned(), memory_mib })
        });
        Took { ran: duration(RAN_HEADER), init: duration(INIT_HEADER), seen }
    }

    /// Reads the ledger; `None` while it has not ended.
    pub(super) fn of_record(record: InvocationRecord, letter: Option<&DeadLetterRecord>) -> Option<Self> {
        match record.state {
            State::Succeeded => Some(Self::Succeeded { result: Bytes::from(record.result.unwrap_or_default()) }),
            State::Dead => {
                let of_letter = letter.map(|record| &record.letter);
                let unknown = || ErrorInfo::new("Dead", "the event was given up");
                Some(Self::Dead {
                    reason: of_letter.map(|letter| letter.reason.as_str().to_owned()),
                    error: of_letter.map(|letter| letter.error.clone()).or(record.error).unwrap_or_else(unknown),
                })
            }
            State::Claimed | State::Waiting => None,
        }
    }
}
