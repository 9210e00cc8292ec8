//! The shapes against AWS's documents, and the answers against every rule of theirs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod answers;
mod requests;

use bytes::Bytes;
use jiff::Timestamp;

use super::{Envelope, Item, Shape};
use crate::{Attempt, Event, FunctionName, Key};

/// 2026-11-22T15:04:05.678Z, and the moment that it was received.
const SENT: i64 = 1_795_359_845_678;
const RECEIVED: i64 = 1_795_359_850_000;

fn event(id: &str, content_type: Option<&str>, data: &[u8]) -> Event {
    let mut event = Event::from_structured_json(
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"orders.placed","subject":"o-1"}}"#)
            .as_bytes(),
    )
    .unwrap();
    event.time = Some(Timestamp::from_millisecond(SENT).unwrap());
    event.datacontenttype = content_type.map(str::to_owned);
    event.data = Bytes::copy_from_slice(data);
    event
}

fn order(id: &str) -> Event {
    event(id, Some("application/json"), br#"{ "total": 1.10 }"#)
}

/// A call of these events, with all that it needs to stay alive.
struct Given {
    function: FunctionName,
    shape: Shape,
    batch: bool,
    events: Vec<(Event, Key)>,
}

impl Given {
    fn new(shape: Shape, batch: bool, events: impl IntoIterator<Item = Event>) -> Self {
        let events = events.into_iter().map(|event| (event.clone(), event.default_key().unwrap())).collect();
        Self { function: FunctionName::new("validate").unwrap(), shape, batch, events }
    }

    fn orders(shape: Shape, batch: bool, count: usize) -> Self {
        Self::new(shape, batch, (0..count).map(|n| order(&format!("e{n}"))))
    }

    fn envelope(&self) -> Envelope<'_> {
        Envelope {
            shape: self.shape,
            batch: self.batch,
            function: &self.function,
            queue: "weft.validate",
            vhost: "/",
            region: "us-east-1",
            account: "000000000000",
        }
    }

    fn items(&self, attempt: u32) -> Vec<Item<'_>> {
        let received = Timestamp::from_millisecond(RECEIVED).unwrap();
        let item = |(event, key)| Item { event, key, attempt: Attempt(attempt), received, trace: Some("Root=1-2-3") };
        self.events.iter().map(|(event, key)| item((event, key))).collect()
    }

    fn request(&self, attempt: u32) -> Bytes {
        self.envelope().request(&self.items(attempt))
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.request(1)).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.request(1).to_vec()).unwrap()
    }
}
