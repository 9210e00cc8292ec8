//! Admission: what a message must be before it may become an invocation. Pure; each check has one reason.
//!
//! The order is size, decode, depth, schema, age, key. What fails here is buried with its original bytes and costs no attempt.
//!
//! Only a first delivery is refused for its age. One that comes again may be what an invocation waits for that was claimed
//! when the event was young, so it is claimed first, and dies by a settle if nothing has begun.

use std::sync::Arc;

use jiff::Timestamp;
use weft_schemas::event::DecodeError;
use weft_schemas::manifest::Function;
use weft_schemas::{Digest, ErrorInfo, Event, Fence, Key, Message, Reason, requeue};

/// An event that may be claimed.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub key: Key,
    pub digest: Digest,
    /// The fence of the settle that parked it, when the message is a retry.
    pub resume: Option<Fence>,
    /// It comes again, and is too old to begin with by now: what its first attempt would die of.
    pub late: Option<ErrorInfo>,
    pub event: Event,
    pub message: Message,
}

/// A message that may not.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: Reason,
    pub error: ErrorInfo,
    pub message: Message,
}

/// What has passed, and what it is late by, if it is.
type Checked = (Event, Key, Digest, Option<ErrorInfo>);

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

    /// Admits or refuses a message as of `now`. `redelivered`: it may have been claimed before.
    ///
    /// # Errors
    /// The refusal, with the message in it.
    pub fn admit(&self, message: Message, redelivered: bool, now: Timestamp) -> Result<Admitted, Box<Refusal>> {
        match self.check(&message, redelivered, now) {
            Ok((event, key, digest, late)) => {
                let resume = requeue::resume_fence(&message);
                Ok(Admitted { key, digest, resume, late, event, message })
            }
            Err((reason, error)) => Err(Box::new(Refusal { reason, error, message })),
        }
    }

    fn check(&self, message: &Message, redelivered: bool, now: Timestamp) -> Result<Checked, (Reason, ErrorInfo)> {
        // A body over the limit is not parsed at all, so the size comes before what decoding would cost.
        let size = message.body.len() as u64;
        if size > self.function.max_event_bytes {
            let text =
                format!("the body has {size} bytes, {} allows {}", self.function.name, self.function.max_event_bytes);
            return Err((Reason::TooLarge, ErrorInfo::new("TooLarge", text)));
        }
        let mut event = match Event::decode(message) {
            Ok(event) => event,
            Err(error @ DecodeError::NoId) => return Err((Reason::NoKey, ErrorInfo::new("NoKey", error.to_string()))),
            Err(error) => return Err((Reason::Undecodable, ErrorInfo::new("Undecodable", error.to_string()))),
        };
        if requeue::is_redriven(message) {
            // A person wants it to run; what it emits begins at one step again.
            event.clear_depth();
        }
        self.check_depth(&event)?;
        if let Some(schema) = &self.schema {
            check_schema(schema, &event).map_err(|text| (Reason::Schema, ErrorInfo::new("Schema", text)))?;
        }
        let late = match self.check_age(&event, message, now) {
            Err((Reason::TooOld, error)) if redelivered => Some(error),
            other => other.map(|()| None)?,
        };
        let key = match requeue::redriven_as(message) {
            Some(key) => key,
            None => self.key(&event).map_err(|text| (Reason::NoKey, ErrorInfo::new("NoKey", text)))?,
        };
        let digest = event.digest();
        Ok((event, key, digest, late))
    }

    /// Functions that emit each other's triggers, or their own, would never end. A publisher that forges a depth has its
    /// own event refused, no other.
    fn check_depth(&self, event: &Event) -> Result<(), (Reason, ErrorInfo)> {
        let (depth, most) = (event.depth(), self.function.max_depth);
        if most == 0 || depth <= most {
            return Ok(());
        }
        let text = format!(
            "the event is {depth} steps away from the one that began it, {} allows {most}: do functions emit each \
             other's triggers?",
            self.function.name
        );
        Err((Reason::Recursion, ErrorInfo::new("Recursion", text)))
    }

    /// A retry is judged by the ledger's own clock when it is parked; only what arrives from outside is judged here.
    fn check_age(&self, event: &Event, message: &Message, now: Timestamp) -> Result<(), (Reason, ErrorInfo)> {
        let Some(time) = event.time else { return Ok(()) };
        if requeue::resume_fence(message).is_some() || requeue::is_redriven(message) {
            return Ok(());
        }
        let age_ms = now.as_millisecond().saturating_sub(time.as_millisecond());
        let max_ms = i64::try_from(self.function.retry.max_age.as_millis()).unwrap_or(i64::MAX);
        if age_ms > max_ms {
            let text =
                format!("the event is {} s old, {} allows {} s", age_ms / 1000, self.function.name, max_ms / 1000);
            return Err((Reason::TooOld, ErrorInfo::new("TooOld", text)));
        }
        Ok(())
    }

    fn key(&self, event: &Event) -> Result<Key, String> {
        match &self.function.idempotency.key {
            None => event.default_key().map_err(|error| error.to_string()),
            Some(pointer) => match event.pointer(pointer) {
                None => Err(format!("the event has no text or whole number at {pointer}")),
                Some(text) => Key::new(text).map_err(|error| format!("{pointer}: {error}")),
            },
        }
    }
}

/// Names up to three faults, by where they are and what was expected. The data itself is not quoted.
fn check_schema(schema: &jsonschema::Validator, event: &Event) -> Result<(), String> {
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
