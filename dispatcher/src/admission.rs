//! Admission: what a message must be before it may become an invocation. Pure; each check has one reason.
//!
//! The order is size, decode, depth, schema, age, key. What fails here is buried with its original bytes and costs no attempt.
//!
//! Only a first delivery is refused outright. One that comes again (a redelivery, a retry, a redrive) may be what an invocation
//! waits for that was claimed when the event was young, or when the manifest asked for less: if the ledger has its row, it
//! is claimed first, and dies by a settle, which ends the row too. Only what no key can be found for by now is buried all the same; a retry and
//! a redrive carry the key of their row, so that this is about redeliveries alone.

use std::sync::Arc;

use jiff::Timestamp;
use weft_schemas::event::DecodeError;
use weft_schemas::manifest::Function;
use weft_schemas::{Digest, ErrorInfo, Event, Fence, Key, Message, Reason, RequestKind, requeue};

/// An event that may be claimed.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub key: Key,
    pub digest: Digest,
    /// The fence of the settle that parked it, when the message is a retry.
    pub resume: Option<Fence>,
    /// What it is ordered by; `None`: the function has no order.
    pub lane: Option<String>,
    /// It comes again, and would be refused by now: what it dies of when its claim is granted.
    pub doom: Option<Doom>,
    pub event: Event,
    pub message: Message,
}

/// Why an event is refused, kept for the settle that ends its invocation.
#[derive(Debug, Clone)]
pub struct Doom {
    pub reason: Reason,
    pub error: ErrorInfo,
}

impl Doom {
    fn new(reason: Reason, kind: &str, text: String) -> Self {
        Self { reason, error: ErrorInfo::new(kind, text) }
    }
}

/// A message that may not.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: Reason,
    pub error: ErrorInfo,
    pub message: Message,
}

/// What has passed, and what it dies of once it is claimed, if it does.
struct Checked {
    event: Event,
    key: Key,
    digest: Digest,
    lane: Option<String>,
    doom: Option<Doom>,
}

/// The checks of one function.
#[derive(Clone)]
pub struct Admission {
    function: Arc<Function>,
    schema: Option<Arc<jsonschema::Validator>>,
}

impl Admission {
    /// Prepares the checks.
    ///
    /// # Errors
    /// The function's schema is no JSON Schema. The manifest's own check refuses such a file, so this is a defect.
    pub fn new(function: Arc<Function>) -> Result<Self, String> {
        let schema = match &function.schema {
            Some(schema) => Some(Arc::new(
                jsonschema::validator_for(&schema.document)
                    .map_err(|error| format!("{}: {error}", schema.path.display()))?,
            )),
            None => None,
        };
        Ok(Self { function, schema })
    }

    /// Admits or refuses a message as of `now`. `redelivered`: it may have been claimed before, as what we sent ourselves
    /// always may.
    ///
    /// # Errors
    /// The refusal, with the message in it.
    pub fn admit(&self, message: Message, redelivered: bool, now: Timestamp) -> Result<Admitted, Box<Refusal>> {
        match self.check(&message, redelivered, now) {
            Ok(Checked { event, key, digest, lane, doom }) => {
                let resume = requeue::resume_fence(&message);
                Ok(Admitted { key, digest, resume, lane, doom, event, message })
            }
            Err(Doom { reason, error }) => Err(Box::new(Refusal { reason, error, message })),
        }
    }

    fn check(&self, message: &Message, redelivered: bool, now: Timestamp) -> Result<Checked, Doom> {
        let comes_again = redelivered || requeue::resume_fence(message).is_some() || requeue::is_redriven(message);
        // The first fault; what comes again gets past it, to its key.
        let mut doom: Option<Doom> = None;
        let mut found = |check: Result<(), Doom>| match check {
            Err(fault) if comes_again => {
                doom.get_or_insert(fault);
                Ok(())
            }
            other => other,
        };
        // A first delivery over the limit is not parsed at all, so the size comes before what decoding would cost.
        found(self.check_size(message))?;
        let mut event = match self.decode(message) {
            Ok(event) => event,
            Err(fault) => return Err(doom.unwrap_or(fault)),
        };
        if requeue::is_redriven(message) {
            // A person wants it to run; what it emits begins at one step again.
            event.clear_depth();
        }
        found(self.check_depth(&event))?;
        found(self.check_schema(&event))?;
        found(self.check_age(&event, message, now))?;
        let lane = self.lane(&event);
        found(lane.as_ref().map(drop).map_err(Clone::clone))?;
        let lane = lane.ok().flatten();
        // The key that its row has, whatever the manifest says by now; else the one that the manifest names.
        let key = match requeue::redriven_as(message).or_else(|| requeue::carried_key(message)) {
            Some(key) => key,
            None => match self.key(&event) {
                Ok(key) => key,
                Err(text) => return Err(doom.unwrap_or_else(|| Doom::new(Reason::NoKey, "NoKey", text))),
            },
        };
        let digest = event.digest();
        Ok(Checked { event, key, digest, lane, doom })
    }

    fn check_size(&self, message: &Message) -> Result<(), Doom> {
        let size = message.body.len() as u64;
        if size <= self.function.max_event_bytes {
            return Ok(());
        }
        let text =
            format!("the body has {size} bytes, {} allows {}", self.function.name, self.function.max_event_bytes);
        Err(Doom::new(Reason::TooLarge, "TooLarge", text))
    }

    fn decode(&self, message: &Message) -> Result<Event, Doom> {
        Event::decode(message).map_err(|error| {
            let text = error.to_string();
            match error {
                DecodeError::NoId => Doom::new(Reason::NoKey, "NoKey", text),
                _ => Doom::new(Reason::Undecodable, "Undecodable", text),
            }
        })
    }

    /// Functions that emit each other's triggers, or their own, would never end. A publisher that forges a depth has its
    /// own event refused, no other.
    fn check_depth(&self, event: &Event) -> Result<(), Doom> {
        let (depth, most) = (event.depth(), self.function.max_depth);
        if most == 0 || depth <= most {
            return Ok(());
        }
        let text = format!(
            "the event is {depth} steps away from the one that began it, {} allows {most}: do functions emit each \
             other's triggers?",
            self.function.name
        );
        Err(Doom::new(Reason::Recursion, "Recursion", text))
    }

    fn check_schema(&self, event: &Event) -> Result<(), Doom> {
        let Some(schema) = &self.schema else { return Ok(()) };
        faults(schema, event).map_err(|text| Doom::new(Reason::Schema, "Schema", text))
    }

    /// A retry is judged by the ledger's own clock when it is parked; only what arrives from outside is judged here.
    fn check_age(&self, event: &Event, message: &Message, now: Timestamp) -> Result<(), Doom> {
        let Some(time) = event.time else { return Ok(()) };
        if requeue::resume_fence(message).is_some() || requeue::is_redriven(message) {
            return Ok(());
        }
        let age_ms = now.as_millisecond().saturating_sub(time.as_millisecond());
        let max_ms = i64::try_from(self.function.retry.max_age.as_millis()).unwrap_or(i64::MAX);
        if age_ms <= max_ms {
            return Ok(());
        }
        let text = format!("the event is {} s old, {} allows {} s", age_ms / 1000, self.function.name, max_ms / 1000);
        Err(Doom::new(Reason::TooOld, "TooOld", text))
    }

    fn lane(&self, event: &Event) -> Result<Option<String>, Doom> {
        let Some(ordering) = &self.function.ordering else { return Ok(None) };
        let pointer = &ordering.key;
        match event.pointer(pointer) {
            Some(text) => Ok(Some(text)),
            None => {
                let text = format!("the event has no text or whole number at {pointer}, which orders it");
                Err(Doom::new(Reason::NoKey, "NoOrderingKey", text))
            }
        }
    }

    fn key(&self, event: &Event) -> Result<Key, String> {
        // The caller of a request names its key, and none of those that other events have.
        let pointer = self.function.idempotency.key.as_ref().filter(|_| RequestKind::of(event).is_none());
        match pointer {
            None => event.default_key().map_err(|error| error.to_string()),
            Some(pointer) => match event.pointer(pointer) {
                None => Err(format!("the event has no text or whole number at {pointer}")),
                Some(text) => Key::new(text).map_err(|error| format!("{pointer}: {error}")),
            },
        }
    }
}

/// Names up to three faults, by where they are and what was expected. The data itself is not quoted.
fn faults(schema: &jsonschema::Validator, event: &Event) -> Result<(), String> {
    let data: serde_json::Value = match serde_json::from_slice(&event.data) {
        Ok(data) => data,
        Err(error) => return Err(format!("the data is no JSON: {error}")),
    };
    let faults: Vec<String> = schema
        .iter_errors(&data)
        .take(3)
        .map(|fault| {
            let place = fault.instance_path().to_string();
            let place = if place.is_empty() { "the data".to_owned() } else { place };
            format!("{place}: {}", fault.masked())
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

#[cfg(test)]
mod tests;
