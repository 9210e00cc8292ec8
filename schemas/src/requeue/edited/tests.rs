#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::requeue::{self, original};
use crate::sample::{self, message_with};
use crate::{Attempt, Epoch, ErrorInfo, Fence, FunctionName, Reason};

fn letter(key: Option<&str>, message: Message) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId("0123456789abcdef0123456789abcdef".to_owned()),
        function: FunctionName::new("create-order").unwrap(),
        key: key.map(|key| Key::new(key).unwrap()),
        epoch: requeue::epoch(&message),
        reason: Reason::Terminal,
        error: ErrorInfo::new("NotFixed", "it is not fixed yet"),
        attempts: Attempt(1),
        first_at: Timestamp::UNIX_EPOCH,
        last_at: Timestamp::UNIX_EPOCH,
        trace_id: None,
        message,
    }
}

fn plain(body: &str) -> Message {
    let mut message = message_with(Some("application/json"), &[("own", HeaderValue::I8(1))], body);
    message.properties.message_id = Some("m1".to_owned());
    message
}

fn edit(letter: &DeadLetter, body: &str) -> Result<Edited, DecodeError> {
    edited_message(letter, "weft", Bytes::from(body.to_owned()))
}

#[test]
fn an_edited_event_has_a_key_and_an_id_that_come_from_the_old_ones() {
    let edited = edit(&letter(Some("order-7"), plain("{}")), "{\"fixed\":true}").unwrap();
    assert_eq!(edited.key.as_str(), "order-7~0123456789ab");
    assert_eq!(edited.event_id, "m1~0123456789ab");
    let event = Event::decode(&edited.message).unwrap();
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("m1~0123456789ab", "orders.placed"));
    assert_eq!(event.data, Bytes::from_static(b"{\"fixed\":true}"));
    assert_eq!(edited.message.headers.get("own"), Some(&HeaderValue::I8(1)));
    assert_eq!(requeue::redriven_as(&edited.message).as_ref(), Some(&edited.key));
    assert_eq!(requeue::redriven_from(&edited.message).unwrap().0, "0123456789abcdef0123456789abcdef");
}

#[test]
fn both_forms_of_a_cloud_event_get_their_new_id() {
    let binary = |name: &str| {
        message_with(
            Some("application/json"),
            &[
                (&format!("cloudEvents{name}id"), HeaderValue::from("b1")),
                (&format!("cloudEvents{name}specversion"), HeaderValue::from("1.0")),
                (&format!("cloudEvents{name}source"), HeaderValue::from("/t")),
                (&format!("cloudEvents{name}type"), HeaderValue::from("orders.placed")),
            ],
            "{}",
        )
    };
    for form in ["_", ":"] {
        let edited = edit(&letter(Some("k"), binary(form)), "[1]").unwrap();
        assert_eq!(edited.event_id, "b1~0123456789ab", "{form}");
    }
    let document = |data: &str| {
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"s1\",\"source\":\"/t\",\"type\":\"orders.placed\",\"data\":{data}}}"
        )
    };
    let structured = message_with(Some("application/cloudevents+json"), &[], &document("{ }"));
    let edited = edit(&letter(Some("k"), structured), &document("{ \"a\":  1.50 }")).unwrap();
    let event = Event::decode(&edited.message).unwrap();
    assert_eq!((edited.event_id.as_str(), event.id.as_str()), ("s1~0123456789ab", "s1~0123456789ab"));
    assert_eq!(event.data, Bytes::from_static(b"{ \"a\":  1.50 }"), "the data was written anew");
}

#[test]
fn an_event_without_key_and_id_gets_both_from_the_letter() {
    let message = message_with(Some("application/json"), &[], "{}");
    let edited = edit(&letter(None, message), "{}").unwrap();
    assert_eq!(
        (edited.key.as_str(), edited.event_id.as_str()),
        (&*"0123456789abcdef".repeat(2), &*"0123456789abcdef".repeat(2))
    );
}

#[test]
fn what_is_no_event_after_the_edit_is_refused() {
    assert!(matches!(edit(&letter(Some("k"), plain("{}")), "{"), Err(DecodeError::Undecodable { .. })));
    let structured = message_with(Some("application/cloudevents+json"), &[], "{}");
    for body in ["", "{", "[]", "{}", "{\"specversion\":\"1.0\",\"source\":\"/t\"}"] {
        assert!(edit(&letter(Some("k"), structured.clone()), body).is_err(), "{body}");
    }
    let mut text = plain("x");
    text.properties.content_type = Some("text/plain".to_owned());
    assert!(edit(&letter(Some("k"), text), "y").is_err(), "plain messages are JSON");
}

#[test]
fn long_keys_and_ids_are_cut_so_that_the_suffix_fits() {
    let mut message = plain("{}");
    message.properties.message_id = Some("ü".repeat(127));
    let long = "ü".repeat(Key::MAX_BYTES / 2);
    let edited = edit(&letter(Some(&long), message), "{}").unwrap();
    assert!(edited.key.as_str().len() <= Key::MAX_BYTES && edited.key.as_str().ends_with("ü~0123456789ab"));
    assert!(edited.event_id.len() <= MAX_ID_BYTES && edited.event_id.ends_with("ü~0123456789ab"));
}

#[test]
fn the_new_key_stays_through_retries_deaths_and_redrives() {
    let edited = edit(&letter(Some("k"), plain("{}")), "{}").unwrap();
    let function = FunctionName::new("create-order").unwrap();
    let retry = requeue::retry_message(&edited.message, "weft", &function, Fence(4));
    let died = letter(Some(edited.key.as_str()), retry.clone());
    let again = redrive_message(&died, "weft");
    for message in [&retry, &again, &died.to_message("weft")] {
        assert_eq!(requeue::redriven_as(message).as_ref(), Some(&edited.key));
        assert!(requeue::redriven_from(message).is_some());
    }
    // Edited once more, it is linked to its nearest predecessor.
    let second = DeadLetter { id: DeadLetterId("f".repeat(32)), ..died };
    let edited = edit(&second, "{}").unwrap();
    assert_eq!(edited.key.as_str(), "k~0123456789ab~ffffffffffff");
    assert_eq!(requeue::redriven_from(&edited.message), Some(second.id));
}

#[test]
fn a_publisher_s_own_headers_name_no_key() {
    let mut message = plain("{}");
    message.headers.insert(REDRIVEN_AS_HEADER.to_owned(), HeaderValue::from("forged"));
    message.headers.insert(REDRIVEN_FROM_HEADER.to_owned(), HeaderValue::from("forged"));
    assert_eq!((requeue::redriven_as(&message), requeue::redriven_from(&message)), (None, None));
    let function = FunctionName::new("create-order").unwrap();
    let retry = requeue::retry_message(&message, "weft", &function, Fence(1));
    assert!(!retry.headers.contains_key(REDRIVEN_AS_HEADER) && !retry.headers.contains_key(REDRIVEN_FROM_HEADER));
}

proptest! {
    #[test]
    fn any_letter_is_edited_or_refused_and_what_comes_out_is_an_event(
        letter in sample::dead_letter(),
        body in sample::body(),
        epoch in 0_u32..3,
    ) {
        let letter = DeadLetter { epoch: Epoch(epoch), ..letter };
        if let Ok(edited) = edited_message(&letter, "weft", body) {
            let event = Event::decode(&edited.message).unwrap();
            prop_assert_eq!(&event.id, &edited.event_id);
            prop_assert_ne!(Some(&edited.key), letter.key.as_ref());
            prop_assert_eq!(requeue::redriven_as(&edited.message), Some(edited.key));
            let first = Event::decode(&letter.message).map(|event| event.id);
            prop_assert_ne!(first.as_ref(), Ok(&edited.event_id));
            prop_assert_eq!(original(&edited.message).exchange, original(&letter.message).exchange);
        }
    }
}
