//! Events that a handler emits: named so that a repeated attempt emits the same events again, not new ones.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use weft_schemas::{Digest, Epoch, Event, FunctionName, Key};

use crate::failure::Failure;

/// The largest data of one emitted event, in bytes of JSON.
pub const MAX_EMIT_BYTES: usize = 1024 * 1024;

/// The most data that one attempt may emit altogether, in bytes: what one frame on the link can carry with room to
/// spare.
pub const MAX_EMITS_BYTES: usize = 16 * 1024 * 1024;

/// A topic's routing key holds no more.
const MAX_TYPE_BYTES: usize = 255;

/// The invocation that emits.
pub(crate) struct Emitter<'a> {
    pub(crate) function: &'a FunctionName,
    pub(crate) key: &'a Key,
    pub(crate) epoch: Epoch,
}

impl Emitter<'_> {
    /// Builds the `index`-th event of this invocation. Its id depends on function, key, epoch and index only, so that
    /// consumers drop the repetition of an event that left twice.
    ///
    /// # Errors
    /// The type is no routing key, or the data does not serialise or is too large. All of them are retryable: the
    /// data decides, and a corrected program may be on its way.
    pub(crate) fn event<D: Serialize + ?Sized>(
        &self,
        index: u32,
        kind: &str,
        data: &D,
        time: Timestamp,
    ) -> Result<Event, Failure> {
        if kind.is_empty() || kind.len() > MAX_TYPE_BYTES || kind.contains(['*', '#']) {
            let text = format!("an event type has 1 to {MAX_TYPE_BYTES} bytes and no wildcard: {kind:?}");
            return Err(Failure::retry("InvalidEventType", text));
        }
        let data = serde_json::to_vec(data).map_err(|error| {
            Failure::retry("EmitNotSerializable", format!("the data of an emitted {kind:?}: {error}"))
        })?;
        if data.len() > MAX_EMIT_BYTES {
            let text = format!("an emitted {kind:?} has {} bytes; at most {MAX_EMIT_BYTES} may leave", data.len());
            return Err(Failure::retry("EmitTooLarge", text));
        }
        let id = Digest::of(&[
            b"emit",
            self.function.as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            &self.epoch.0.to_be_bytes(),
            &index.to_be_bytes(),
        ]);
        Ok(Event {
            id: id.to_hex().split_at(32).0.to_owned(),
            source: format!("/weft/{}", self.function),
            kind: kind.to_owned(),
            subject: None,
            time: Some(time),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: Default::default(),
            data: Bytes::from(data),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(key: &str, epoch: u32, index: u32) -> String {
        let (function, key) = (FunctionName::new("create-order").unwrap(), Key::new(key).unwrap());
        let emitter = Emitter { function: &function, key: &key, epoch: Epoch(epoch) };
        emitter.event(index, "payments.requested", &1, Timestamp::now()).unwrap().id
    }

    #[test]
    fn a_repetition_has_the_same_id_and_everything_else_another() {
        assert_eq!(id("a", 0, 0), id("a", 0, 0));
        let ids = std::collections::BTreeSet::from([id("a", 0, 0), id("a", 0, 1), id("a", 1, 0), id("b", 0, 0)]);
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn a_type_that_is_no_routing_key_is_refused() {
        let (function, key) = (FunctionName::new("f").unwrap(), Key::new("k").unwrap());
        let emitter = Emitter { function: &function, key: &key, epoch: Epoch(0) };
        for kind in ["", "orders.*", "a#", &"x".repeat(256)] {
            let failure = emitter.event(0, kind, &1, Timestamp::now()).unwrap_err();
            assert_eq!(failure.kind(), "InvalidEventType");
        }
        let event = emitter.event(0, "orders.placed", &1, Timestamp::now()).unwrap();
        assert_eq!((event.source.as_str(), &event.data[..]), ("/weft/f", &b"1"[..]));
    }
}
