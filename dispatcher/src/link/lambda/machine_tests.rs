#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_schemas::{Attempt, Epoch, Event, Fence, Key};

use super::*;

pub(crate) fn call(number: u64) -> Call {
    let event = Event {
        id: number.to_string(),
        source: "/t".into(),
        kind: "a.b".into(),
        subject: None,
        time: None,
        datacontenttype: None,
        dataschema: None,
        extensions: BTreeMap::new(),
        data: Bytes::new(),
    };
    let invoke = Invoke {
        id: InvocationId(number),
        handler: "h".into(),
        key: Key::new(number.to_string()).unwrap(),
        fence: Fence(1),
        epoch: Epoch(0),
        attempt: Attempt(1),
        remaining_ms: 1000,
        keep_ms: 1000,
        event,
        trace: None,
    };
    Call {
        request: format!("r{number}").into(),
        invokes: vec![invoke],
        payload: Bytes::from_static(b"{}"),
        deadline_ms: 5,
        trace: None,
        received: Timestamp::UNIX_EPOCH,
    }
}

/// A machine whose runtime has taken one call.
fn with_one_taken() -> Machine {
    let mut machine = Machine::new(1);
    machine.offer(call(1));
    assert_eq!(&*machine.next(7).unwrap().call.unwrap().request, "r1");
    machine
}

fn kind(refused: Result<impl std::fmt::Debug, Refused>) -> (u16, &'static str) {
    let refused = refused.unwrap_err();
    (refused.status(), refused.kind())
}

#[test]
fn the_first_question_makes_a_worker_ready_and_waits_for_a_call() {
    let mut machine = Machine::new(1);
    let next = machine.next(1).unwrap();
    assert!(next.ready && next.call.is_none() && machine.is_ready());
    machine.offer(call(1));
    assert_eq!(&*machine.take(2).unwrap().request, "r1");
    assert!(!machine.next(3).unwrap().ready);
}

#[test]
fn a_second_question_before_the_answer_gets_the_same_call_again() {
    let mut machine = with_one_taken();
    machine.offer(call(2));
    assert_eq!(&*machine.next(9).unwrap().call.unwrap().request, "r1");
    machine.begin("r1", "a response").unwrap();
    assert_eq!(machine.finish("r1").unwrap().at_us, 7, "the time is that of the first hand-out");
    assert_eq!(&*machine.next(10).unwrap().call.unwrap().request, "r2");
}

#[test]
fn a_second_answer_is_refused_and_so_is_one_after_an_error() {
    let mut machine = with_one_taken();
    machine.begin("r1", "an error").unwrap();
    assert_eq!(kind(machine.begin("r1", "a response")), (403, "InvalidStateTransition"), "while the first arrives");
    machine.finish("r1").unwrap();
    for what in ["a response", "an error"] {
        assert_eq!(kind(machine.begin("r1", what)), (403, "InvalidStateTransition"), "{what}");
    }
    assert!(machine.finish("r1").is_none());
}

#[test]
fn an_answer_to_a_call_that_was_not_handed_out_is_refused() {
    let mut machine = with_one_taken();
    machine.offer(call(2));
    for request in ["", "r2", "r3", "R1"] {
        assert_eq!(kind(machine.begin(request, "a response")), (400, "InvalidRequestID"), "{request}");
    }
}

#[test]
fn an_answer_that_breaks_off_can_be_given_again() {
    let mut machine = with_one_taken();
    machine.begin("r1", "a response").unwrap();
    machine.abandon("r1");
    machine.begin("r1", "a response").unwrap();
    assert!(machine.finish("r1").is_some());
}

#[test]
fn what_was_handed_to_somebody_who_was_gone_is_handed_out_again_first() {
    let mut machine = with_one_taken();
    machine.offer(call(2));
    machine.put_back("r1");
    assert_eq!(&*machine.take(3).unwrap().request, "r1");
}

#[test]
fn a_failed_start_is_one_before_the_first_question_only() {
    let mut machine = Machine::new(1);
    machine.init_error().unwrap();
    assert_eq!(kind(machine.init_error()), (403, "InvalidStateTransition"));
    assert_eq!(kind(machine.next(1)), (403, "InvalidStateTransition"));
    assert_eq!(kind(with_one_taken().init_error()), (403, "InvalidStateTransition"));
}

#[test]
fn as_many_calls_are_handed_out_as_there_are_slots() {
    let mut machine = Machine::new(2);
    (1..=3).for_each(|number| machine.offer(call(number)));
    assert_eq!(&*machine.next(1).unwrap().call.unwrap().request, "r1");
    assert!(machine.only().is_some());
    assert_eq!(&*machine.next(1).unwrap().call.unwrap().request, "r2");
    assert!(machine.next(1).unwrap().call.is_none() && machine.only().is_none());
    machine.begin("r1", "a response").unwrap();
    machine.finish("r1").unwrap();
    assert_eq!(&*machine.take(2).unwrap().request, "r3");
}

#[test]
fn a_drained_worker_is_at_rest_when_all_is_answered() {
    let mut machine = with_one_taken();
    assert!(!machine.is_drained());
    machine.drain();
    assert!(!machine.is_drained(), "a call is under way");
    machine.begin("r1", "a response").unwrap();
    machine.finish("r1").unwrap();
    assert!(machine.is_drained());
}

#[test]
fn an_attempt_is_cancelled_before_it_is_handed_out_and_not_after() {
    let mut machine = with_one_taken();
    machine.offer(call(2));
    assert!(!machine.cancel(InvocationId(1)));
    assert!(machine.cancel(InvocationId(2)) && !machine.cancel(InvocationId(2)));
}

#[test]
fn an_extension_hears_what_it_registered_for() {
    let mut machine = Machine::new(1);
    machine.register("deaf".into(), false, false).unwrap();
    machine.register("keen".into(), true, true).unwrap();
    machine.offer(call(1));
    machine.next(1).unwrap();
    machine.drain();
    machine.drain();
    assert_eq!(machine.extension_event("deaf"), Ok(None));
    let event = machine.extension_event("keen").unwrap();
    assert_eq!(event, Some(ExtensionEvent::Invoke { request: "r1".into(), deadline_ms: 5, trace: None }));
    assert_eq!(machine.extension_event("keen"), Ok(Some(ExtensionEvent::Shutdown)));
    assert_eq!(machine.extension_event("keen"), Ok(None), "a shutdown is said once");
    assert_eq!(kind(machine.extension_event("other")).0, 403);
    assert_eq!(kind(machine.register("late".into(), true, true)).0, 403);
}

#[test]
fn neither_extensions_nor_their_events_grow_without_a_bound() {
    let mut machine = Machine::new(1);
    for number in 0..MOST_EXTENSIONS {
        machine.register(number.to_string(), true, false).unwrap();
    }
    assert_eq!(machine.register("more".into(), true, false), Err(Refused::TooManyExtensions));
    machine.next(0).unwrap();
    for number in 0..300 {
        machine.offer(call(number));
        let request = Arc::clone(&machine.take(1).unwrap().request);
        machine.begin(&request, "a response").unwrap();
        machine.finish(&request).unwrap();
    }
    let mut heard = 0;
    while machine.extension_event("0").unwrap().is_some() {
        heard += 1;
    }
    assert_eq!((heard, machine.done.len()), (MOST_EVENTS, REMEMBERED));
    assert_eq!(kind(machine.begin("r0", "a response")), (400, "InvalidRequestID"), "long done is forgotten");
}

#[derive(Debug, Clone)]
enum Step {
    Offer,
    Next,
    Take,
    PutBack(u64),
    Begin(u64),
    Abandon(u64),
    Finish(u64),
    Cancel(u64),
    InitError,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0_u64..6;
    prop_oneof![
        3 => Just(Step::Offer),
        3 => Just(Step::Next),
        1 => Just(Step::Take),
        1 => number.clone().prop_map(Step::PutBack),
        3 => number.clone().prop_map(Step::Begin),
        1 => number.clone().prop_map(Step::Abandon),
        3 => number.clone().prop_map(Step::Finish),
        1 => number.prop_map(Step::Cancel),
        1 => Just(Step::InitError),
        1 => Just(Step::Drain),
    ]
}

proptest! {
    /// Whatever a runtime does: a call is answered at most once, never without having been handed out, never lost, and no
    /// more are handed out than there are slots.
    #[test]
    fn every_call_is_handed_out_and_answered_once(slots in 1_usize..4, steps in prop::collection::vec(step(), 0..60)) {
        let mut machine = Machine::new(slots);
        let (mut offered, mut cancelled, mut finished) = (0_u64, 0_usize, Vec::new());
        for step in steps {
            match step {
                Step::Offer => {
                    machine.offer(call(offered));
                    offered += 1;
                }
                Step::Next => {
                    let failed = machine.phase == Phase::InitFailed;
                    prop_assert_eq!(machine.next(1).is_err(), failed);
                }
                Step::Take => {
                    machine.take(1);
                }
                // As the server does it: only what nobody answers is put back.
                Step::PutBack(n) => {
                    let request = format!("r{n}");
                    if machine.taken.iter().any(|taken| *taken.call.request == *request && !taken.answering) {
                        machine.put_back(&request);
                    }
                }
                Step::Begin(n) => {
                    let request = format!("r{n}");
                    let open = machine.taken.iter().any(|taken| *taken.call.request == *request && !taken.answering);
                    prop_assert_eq!(machine.begin(&request, "a response").is_ok(), open);
                }
                Step::Abandon(n) => machine.abandon(&format!("r{n}")),
                Step::Finish(n) => {
                    let request = format!("r{n}");
                    if machine.taken.iter().any(|taken| *taken.call.request == *request && taken.answering) {
                        prop_assert!(machine.finish(&request).is_some());
                        prop_assert!(!finished.contains(&n), "answered twice");
                        finished.push(n);
                    }
                }
                Step::Cancel(n) => cancelled += usize::from(machine.cancel(InvocationId(n))),
                Step::InitError => {
                    let _ = machine.init_error();
                }
                Step::Drain => machine.drain(),
            }
            prop_assert!(machine.taken.len() <= slots);
            prop_assert_eq!(machine.waiting.len() + machine.taken.len() + cancelled + finished.len(), usize::try_from(offered).unwrap());
        }
    }
}
