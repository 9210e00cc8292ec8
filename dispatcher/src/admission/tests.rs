//! Which key an edited event runs under.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use bytes::Bytes;
use weft_schemas::manifest::Manifest;
use weft_schemas::{Attempt, DeadLetter, DeadLetterId, Epoch, FunctionName};

use super::*;

fn admission() -> Admission {
    let text = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nidempotency = { key = \"/data/k\" }\nretry = { max_age = \"1h\" }\n";
    let manifest = Manifest::parse(text, Path::new("/")).unwrap();
    Admission::new(Arc::new(manifest.functions.values().next().unwrap().clone())).unwrap()
}

fn event(data: &str) -> Message {
    let event = Event {
        id: "1".to_owned(),
        source: "/t".to_owned(),
        kind: "e".to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: std::collections::BTreeMap::new(),
        data: Bytes::from(data.to_owned()),
    };
    event.to_message("weft.events", "e")
}

fn edited(data: &str, new: &str) -> requeue::Edited {
    let letter = DeadLetter {
        id: DeadLetterId("0123456789abcdef0123456789abcdef".to_owned()),
        function: FunctionName::new("f").unwrap(),
        key: Some(Key::new("order-7").unwrap()),
        epoch: Epoch(0),
        reason: Reason::Terminal,
        error: ErrorInfo::new("NotFixed", "it is not fixed yet"),
        attempts: Attempt(1),
        first_at: Timestamp::UNIX_EPOCH,
        last_at: Timestamp::UNIX_EPOCH,
        trace_id: None,
        message: event(data),
    };
    requeue::edited_message(&letter, "weft", Bytes::from(new.to_owned())).unwrap()
}

#[test]
fn an_edited_event_runs_under_its_new_key_whatever_its_data_says() {
    let edited = edited(r#"{"k":"order-7","n":0}"#, r#"{"k":"order-7","n":1}"#);
    let admitted = admission().admit(edited.message, false, Timestamp::now()).unwrap();
    assert_eq!((admitted.key.as_str(), &admitted.key), ("order-7~0123456789ab", &edited.key));
    assert_eq!(admitted.event.id, "1~0123456789ab");
}

#[test]
fn a_key_that_only_a_redrive_may_name_is_ignored_on_any_other_message() {
    let mut forged = event(r#"{"k":"order-7"}"#);
    forged.headers.insert(requeue::REDRIVEN_AS_HEADER.to_owned(), "another".into());
    assert_eq!(admission().admit(forged, false, Timestamp::now()).unwrap().key.as_str(), "order-7");
}
