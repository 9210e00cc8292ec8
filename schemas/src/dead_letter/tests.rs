#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::*;
use crate::sample;

proptest! {
    #[test]
    fn a_dead_letter_written_is_read_back(letter in sample::dead_letter()) {
        let message = letter.to_message("weft");
        prop_assert_eq!(&message.exchange, "");
        prop_assert_eq!(&message.routing_key, &format!("weft.dlq.{}", letter.function));
        prop_assert_eq!(&message.body, &letter.message.body);
        prop_assert_eq!(DeadLetter::from_message(&message).unwrap(), letter);
    }

    #[test]
    fn a_dead_letter_keeps_every_header_and_property_that_the_broker_does_not_act_upon(letter in sample::dead_letter()) {
        let copy = letter.to_message("weft");
        for (name, value) in &letter.message.headers {
            prop_assert_eq!(copy.headers.get(name), Some(value), "{}", name);
        }
        let mut expected = letter.message.properties.clone();
        (expected.expiration, expected.user_id) = (None, None);
        prop_assert_eq!(copy.properties, expected);
    }

    #[test]
    fn a_dead_letter_survives_json_and_messagepack(letter in sample::dead_letter()) {
        let packed = rmp_serde::to_vec_named(&letter).unwrap();
        prop_assert_eq!(&rmp_serde::from_slice::<DeadLetter>(&packed).unwrap(), &letter);
        let json = serde_json::to_vec(&letter).unwrap();
        prop_assert_eq!(&serde_json::from_slice::<DeadLetter>(&json).unwrap(), &letter);
    }

    #[test]
    fn any_message_is_a_dead_letter_or_refused(message in sample::message()) {
        if let Ok(letter) = DeadLetter::from_message(&message) {
            prop_assert_eq!(DeadLetter::from_message(&letter.to_message("weft")).unwrap(), letter);
        }
    }

    #[test]
    fn a_dead_letter_with_a_bent_header_is_read_or_refused(
        letter in sample::dead_letter(), at in any::<prop::sample::Index>(), value in sample::header_value(),
    ) {
        let mut message = letter.to_message("weft");
        let name = at.get(&message.headers.keys().cloned().collect::<Vec<_>>()).clone();
        message.headers.insert(name, value);
        let _ = DeadLetter::from_message(&message);
    }
}

#[test]
fn each_needed_header_is_named_when_it_is_missing() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let letter = sample::dead_letter().new_tree(&mut runner).unwrap().current();
    let whole = letter.to_message("weft");
    for name in [
        header::ID,
        header::FUNCTION,
        header::EPOCH,
        header::REASON,
        header::ERROR_TYPE,
        header::ERROR_MESSAGE,
        header::ATTEMPTS,
        header::FIRST_AT,
        header::LAST_AT,
    ] {
        let mut message = whole.clone();
        message.headers.remove(name);
        assert!(DeadLetter::from_message(&message).unwrap_err().to_string().contains(name), "{name}");
    }
}

#[test]
fn every_reason_reads_back_from_its_text_and_serde_agrees() {
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
    }
    assert_eq!(Reason::parse("Undecodable"), None);
}

#[test]
fn letters_of_one_invocation_differ_by_epoch_only() {
    let function = FunctionName::new("f").unwrap();
    let key = Key::new("k").unwrap();
    let id = |epoch| DeadLetterId::of_invocation(&function, &key, Epoch(epoch));
    assert_eq!(id(0), id(0));
    assert_ne!(id(0), id(1));
    assert_eq!(id(0).0.len(), 32);
}
