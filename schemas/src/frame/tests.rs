#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::{Outcome, sample};

fn trace() -> impl Strategy<Value = Option<TraceContext>> {
    option::of((any::<String>(), option::of(any::<String>())))
        .prop_map(|trace| trace.map(|(traceparent, tracestate)| TraceContext { traceparent, tracestate }))
}

fn invoke() -> impl Strategy<Value = Invoke> {
    (
        (any::<u64>(), any::<String>(), sample::key(), any::<i64>(), any::<u32>()),
        (any::<u32>(), any::<u64>(), any::<u64>(), sample::event(), trace()),
    )
        .prop_map(|((id, handler, key, fence, epoch), (attempt, remaining_ms, keep_ms, event, trace))| Invoke {
            id: InvocationId(id),
            handler,
            key,
            fence: Fence(fence),
            epoch: Epoch(epoch),
            attempt: Attempt(attempt),
            remaining_ms,
            keep_ms,
            event,
            trace,
        })
}

fn start() -> impl Strategy<Value = Start> {
    (
        (sample::function_name(), any::<String>(), any::<String>(), any::<String>(), any::<String>()),
        (any::<bool>(), any::<u64>(), proptest::option::of(any::<u64>())),
    )
        .prop_map(|((function, worker, ledger_url, state_url, prefix), (spans, max_result_bytes, warm_up_ms))| {
            Start { function, worker, ledger_url, state_url, prefix, spans, max_result_bytes, warm_up_ms }
        })
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    prop_oneof![
        start().prop_map(ToWorker::Start),
        invoke().prop_map(|invoke| ToWorker::Invoke(Box::new(invoke))),
        vec(invoke(), 0..3).prop_map(|invokes| ToWorker::InvokeBatch { invokes }),
        any::<u64>().prop_map(|id| ToWorker::Cancel { id: InvocationId(id) }),
        Just(ToWorker::Drain),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        sample::body().prop_map(|result| Outcome::Succeeded { result }),
        sample::body().prop_map(|result| Outcome::Committed { result }),
        (sample::error(), option::of(any::<u64>())).prop_map(|(error, after_ms)| Outcome::Retry { error, after_ms }),
        sample::error().prop_map(|error| Outcome::Failed { error }),
        sample::error().prop_map(|error| Outcome::Crashed { error }),
        Just(Outcome::TimedOut),
        Just(Outcome::Superseded),
        (sample::error(), option::of(any::<u64>())).prop_map(|(error, after_ms)| Outcome::Outage { error, after_ms }),
        Just(Outcome::Drained),
    ]
}

fn to_dispatcher() -> impl Strategy<Value = ToDispatcher> {
    prop_oneof![
        (vec(any::<String>(), 0..4), vec(any::<String>(), 0..4))
            .prop_map(|(handlers, batch_handlers)| ToDispatcher::Ready { handlers, batch_handlers }),
        any::<String>().prop_map(|message| ToDispatcher::StartFailed { message }),
        (any::<u64>(), outcome(), vec(sample::event(), 0..3), any::<Option<u64>>()).prop_map(
            |(id, outcome, emits, entered_us)| ToDispatcher::Outcome {
                id: InvocationId(id),
                outcome,
                emits,
                entered_us
            }
        ),
        sample::body().prop_map(ToDispatcher::Spans),
    ]
}

proptest! {
    #[test]
    fn a_frame_to_a_worker_is_read_back(frame in to_worker()) {
        prop_assert_eq!(decode::<ToWorker>(&encode(&frame).unwrap()).unwrap(), frame);
    }

    #[test]
    fn a_frame_to_a_dispatcher_is_read_back(frame in to_dispatcher()) {
        prop_assert_eq!(decode::<ToDispatcher>(&encode(&frame).unwrap()).unwrap(), frame);
    }

    #[test]
    fn any_bytes_are_a_frame_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode::<ToWorker>(&bytes);
        let _ = decode::<ToDispatcher>(&bytes);
    }

    #[test]
    fn a_cut_or_bent_frame_is_read_or_refused(frame in to_worker(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = encode(&frame).unwrap().to_vec();
        let at = at.index(body.len());
        let _ = decode::<ToWorker>(&body[..at]);
        body[at] = byte;
        let _ = decode::<ToWorker>(&body);
    }
}

#[test]
fn data_travels_as_bytes_and_not_as_a_list_of_numbers() {
    let bytes = vec![200_u8; 10_000];
    let body = encode(&ToDispatcher::Spans(bytes.into())).unwrap();
    assert!(body.len() < 10_050, "{} bytes", body.len());
}

#[test]
fn a_frame_over_the_limit_is_neither_written_nor_read() {
    let spans = ToDispatcher::Spans(vec![0; MAX_FRAME_BYTES].into());
    assert!(matches!(encode(&spans), Err(FrameError::TooLarge { .. })));
    assert!(matches!(decode::<ToDispatcher>(&vec![0; MAX_FRAME_BYTES + 1]), Err(FrameError::TooLarge { .. })));
}

#[test]
fn a_newer_end_may_add_fields_and_an_older_one_may_lack_optional_ones() {
    #[derive(Serialize)]
    enum Newer {
        Outcome { id: u64, outcome: Outcome, cost_ns: u64 },
    }
    let body = encode(&Newer::Outcome { id: 7, outcome: Outcome::Drained, cost_ns: 1 }).unwrap();
    let expected =
        ToDispatcher::Outcome { id: InvocationId(7), outcome: Outcome::Drained, emits: Vec::new(), entered_us: None };
    assert_eq!(decode::<ToDispatcher>(&body).unwrap(), expected);
}

#[test]
fn a_worker_of_before_there_were_batches_is_ready_with_none() {
    #[derive(Serialize)]
    enum Older {
        Ready { handlers: Vec<String> },
    }
    let body = encode(&Older::Ready { handlers: vec!["a".into()] }).unwrap();
    let expected = ToDispatcher::Ready { handlers: vec!["a".into()], batch_handlers: Vec::new() };
    assert_eq!(decode::<ToDispatcher>(&body).unwrap(), expected);
}

#[test]
fn a_length_that_lies_takes_no_memory() {
    // An array that claims 2^32 - 1 handlers, and a byte array that claims as much.
    let handlers = b"\x81\xa5Ready\x81\xa8handlers\xdd\xff\xff\xff\xff";
    let spans = b"\x81\xa5Spans\xc6\xff\xff\xff\xff";
    assert!(decode::<ToDispatcher>(handlers).is_err());
    assert!(decode::<ToDispatcher>(spans).is_err());
}

#[test]
fn deeply_nested_bytes_do_not_exhaust_the_stack() {
    assert!(decode::<ToDispatcher>(&vec![0x91; 1 << 20]).is_err());
    let mut unknown_field = b"\x81\xa5Ready\x82\xa1x".to_vec();
    unknown_field.extend(vec![0x91; 1 << 20]);
    assert!(decode::<ToDispatcher>(&unknown_field).is_err());
}

#[test]
fn addresses_are_not_shown() {
    let start = Start {
        function: FunctionName::new("f").unwrap(),
        worker: "f-1".into(),
        ledger_url: "postgres://u:secret@h/d".into(),
        state_url: "redis://:secret@h".into(),
        prefix: "weft".into(),
        spans: false,
        max_result_bytes: 1,
        warm_up_ms: None,
    };
    assert!(!format!("{start:?}").contains("secret"));
}
