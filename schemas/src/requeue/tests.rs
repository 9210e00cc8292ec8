#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::event::DecodeError;
use crate::sample::{self, message_with};
use crate::{Attempt, DeadLetterId, ErrorInfo, Event, Reason};

fn function() -> FunctionName {
    FunctionName::new("create-order").unwrap()
}

fn letter(message: Message) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId::of_message(&function(), Reason::Undecodable, &message),
        function: function(),
        key: None,
        epoch: epoch(&message),
        reason: Reason::Undecodable,
        error: ErrorInfo::new("Undecodable", "read the event"),
        attempts: Attempt(0),
        first_at: Timestamp::UNIX_EPOCH,
        last_at: Timestamp::UNIX_EPOCH,
        trace_id: None,
        message,
    }
}

/// What the broker does with a message of ours on its way.
fn delivered(mut message: Message) -> Message {
    for name in ["x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count", "x-acquired-count"] {
        message.headers.insert(name.to_owned(), HeaderValue::I64(3));
    }
    message
}

proptest! {
    #[test]
    fn however_often_a_message_is_queued_again_its_original_comes_back(message in sample::published(), fence in any::<i64>()) {
        let mut next = message.clone();
        for _ in 0..3 {
            next = delivered(retry_message(&next, "weft", &function(), Fence(fence)));
            prop_assert_eq!(resume_fence(&next), Some(Fence(fence)));
            prop_assert_eq!(original(&next), message.clone());
            next = delivered(redrive_message(&letter(next), "weft"));
            prop_assert_eq!(resume_fence(&next), None);
            prop_assert_eq!(original(&next), message.clone());
        }
        prop_assert_eq!(epoch(&next), Epoch(3));
    }

    #[test]
    fn a_message_that_comes_back_is_read_or_refused_as_it_was(message in sample::published(), fence in any::<i64>()) {
        let first = Event::decode(&message);
        let retry = retry_message(&message, "weft", &function(), Fence(fence));
        prop_assert_eq!(Event::decode(&retry), first.clone());
        prop_assert_eq!(Event::decode(&redrive_message(&letter(retry), "weft")), first.clone());
        let copy = letter(message).to_message("weft");
        prop_assert_eq!(Event::decode(&copy), first);
    }

    #[test]
    fn any_message_is_queued_again_without_a_panic(message in sample::message(), fence in any::<i64>()) {
        let retry = retry_message(&message, "weft", &function(), Fence(fence));
        prop_assert_eq!(original(&retry), original(&message));
        redrive_message(&letter(message), "weft");
    }
}

#[test]
fn a_retry_goes_to_its_function_s_queue_and_carries_what_is_needed() {
    let mut message = message_with(Some("application/json"), &[("own", HeaderValue::I8(1))], "{}");
    message.headers.insert("CC".into(), HeaderValue::Array(vec![HeaderValue::from("other")]));
    message.properties.expiration = Some("60000".into());
    message.properties.user_id = Some("shop".into());
    let retry = retry_message(&delivered(message), "weft", &function(), Fence(42));
    assert_eq!((retry.exchange.as_str(), retry.routing_key.as_str()), ("", "weft.fn.create-order"));
    assert_eq!((&retry.properties.expiration, &retry.properties.user_id), (&None, &None));
    let names: Vec<&str> = retry.headers.keys().map(String::as_str).collect();
    let expected =
        ["own", "weft-exchange", "weft-expiration", "weft-fence", "weft-function", "weft-routing-key", "weft-user-id"];
    assert_eq!(names, expected);
    assert_eq!(retry.origin(), ("shop", "orders.placed"));
    assert!(!is_redriven(&retry));
}

#[test]
fn a_redriven_plain_event_keeps_its_type_and_source() {
    let mut message = message_with(Some("application/json"), &[], "{}");
    message.properties.message_id = Some("1".into());
    let redriven = redrive_message(&letter(message), "weft");
    let event = Event::decode(&redriven).unwrap();
    assert_eq!((event.kind.as_str(), event.source.as_str()), ("orders.placed", "/shop"));
    assert!(is_redriven(&redriven));
    assert!(is_redriven(&retry_message(&redriven, "weft", &function(), Fence(1))), "a retry stays in its epoch");
}

#[test]
fn a_redriven_malformed_message_dies_again_of_the_same_and_as_another_letter() {
    let message = message_with(Some("application/json"), &[], "{");
    let first = letter(message.clone());
    let redriven = redrive_message(&first, "weft");
    assert_eq!(redriven.body, Bytes::from_static(b"{"));
    let again = Event::decode(&redriven);
    assert!(matches!(again, Err(DecodeError::Undecodable { .. })));
    assert_eq!(again, Event::decode(&message));
    let second = letter(redriven.clone());
    assert_ne!(second.id, first.id);
    assert_eq!(letter(delivered(redriven)).id, second.id, "a redelivery is the same letter");
}

#[test]
fn a_redriven_event_that_nobody_was_bound_to_goes_where_its_publisher_sent_it() {
    let mut message = message_with(Some("application/json"), &[("own", HeaderValue::I8(1))], "{}");
    message.properties.message_id = Some("1".into());
    message.properties.expiration = Some("60000".into());
    let first = DeadLetter { function: FunctionName::unrouted(), ..letter(message.clone()) };
    let redriven = redrive_message(&first, "weft");
    assert_eq!((redriven.exchange.as_str(), redriven.routing_key.as_str()), ("shop", "orders.placed"));
    assert_eq!(redriven.properties.expiration, None, "the broker would throw it away");
    let names: Vec<&str> = redriven.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["own", EPOCH_HEADER, EXPIRATION_HEADER]);
    assert_eq!(original(&redriven), message);
    assert_eq!(epoch(&redriven), Epoch(1));
    let again = DeadLetterId::of_message(&FunctionName::unrouted(), Reason::Unroutable, &redriven);
    assert_ne!(again, DeadLetterId::of_message(&FunctionName::unrouted(), Reason::Unroutable, &message));
}

#[test]
fn headers_of_the_wrong_type_are_as_good_as_absent() {
    let message = message_with(
        None,
        &[
            (FENCE_HEADER, HeaderValue::from("1")),
            (EPOCH_HEADER, HeaderValue::I64(-1)),
            (EXCHANGE_HEADER, HeaderValue::I8(1)),
            (ROUTING_KEY_HEADER, HeaderValue::from("x")),
        ],
        "",
    );
    assert_eq!(resume_fence(&message), None);
    assert_eq!(epoch(&message), Epoch(0));
    assert_eq!(message.origin(), ("shop", "orders.placed"));
}
