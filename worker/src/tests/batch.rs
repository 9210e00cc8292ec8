//! Batch handlers over the link.

use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Notify;
use weft_schemas::frame::{InvocationId, Invoke, ToDispatcher, ToWorker};
use weft_schemas::{Key, Outcome};

use super::{Dispatcher, failed_kind, invoke, retry_kind, start_frame, succeeded};
use crate::{BatchContext, BatchEvent, Failure, Worker};

/// One call with these data, each under a key of its own.
fn batch(handler: &str, data: &[Value]) -> Vec<Invoke> {
    let one = |(n, data): (u64, &Value)| Invoke {
        id: InvocationId(n),
        key: Key::new(format!("k{n}")).unwrap(),
        ..invoke(handler, data)
    };
    (1..).zip(data).map(one).collect()
}

/// The outcomes of one call, in the order of its events.
async fn call(dispatcher: &mut Dispatcher, invokes: Vec<Invoke>) -> Vec<Outcome> {
    let ids: Vec<InvocationId> = invokes.iter().map(|invoke| invoke.id).collect();
    dispatcher.send(&ToWorker::InvokeBatch { invokes }).await;
    let mut outcomes = Vec::new();
    for id in ids {
        outcomes.push(dispatcher.outcome(id).await.0);
    }
    outcomes
}

/// Doubles numbers; 13 is bad luck, and 99 ends the answers there.
async fn double(_: BatchContext, events: Vec<BatchEvent<i64>>) -> Result<Vec<Result<i64, Failure>>, Failure> {
    let answer = |event: &BatchEvent<i64>| match event.data {
        13 => Err(Failure::retry("BadLuck", "thirteen")),
        number => Ok(number * 2),
    };
    Ok(events.iter().take_while(|event| event.data != 99).map(answer).collect())
}

#[tokio::test]
async fn ready_names_the_kinds() {
    let worker = Worker::new().batch_handler("double", double).handler("one", async |_, (): ()| Ok(()));
    let mut dispatcher = Dispatcher::connect(worker);
    dispatcher.send(&ToWorker::Start(start_frame())).await;
    let expected = ToDispatcher::Ready { handlers: vec!["one".to_owned()], batch_handlers: vec!["double".to_owned()] };
    assert_eq!(dispatcher.receive().await, Some(expected));
}

#[tokio::test]
async fn a_name_is_one_kind_only() {
    let worker = Worker::new().batch_handler("double", double).handler("double", async |_, (): ()| Ok(()));
    let mut dispatcher = Dispatcher::connect(worker);
    let Some(ToDispatcher::StartFailed { message }) = dispatcher.receive().await else { panic!("no refusal") };
    assert!(message.contains("\"double\""), "{message}");
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_own_answer() {
    let mut dispatcher = Dispatcher::start(Worker::new().batch_handler("double", double)).await;
    let data = [json!(1), json!(13), json!("x"), json!(3)];
    let outcomes = call(&mut dispatcher, batch("double", &data)).await;
    assert_eq!(outcomes[0], succeeded(&2));
    assert_eq!(retry_kind(&outcomes[1]), "BadLuck");
    assert_eq!(failed_kind(&outcomes[2]), "InvalidData", "it was not given to the handler");
    assert_eq!(outcomes[3], succeeded(&6), "answers are matched to what was given");
}

#[tokio::test]
async fn a_missing_answer_is_a_failed_attempt_of_that_event() {
    let mut dispatcher = Dispatcher::start(Worker::new().batch_handler("double", double)).await;
    let outcomes = call(&mut dispatcher, batch("double", &[json!(1), json!(99), json!(2)])).await;
    assert_eq!(outcomes[0], succeeded(&2));
    assert_eq!(retry_kind(&outcomes[1]), "NoAnswer");
    assert_eq!(retry_kind(&outcomes[2]), "NoAnswer");
}

#[tokio::test]
async fn a_failure_and_a_panic_of_the_call_are_those_of_every_event() {
    async fn fail(_: BatchContext, events: Vec<BatchEvent<i64>>) -> Result<Vec<Result<(), Failure>>, Failure> {
        assert!(events.iter().all(|event| event.data != 0), "zero");
        Err(Failure::terminal("Closed", "today"))
    }
    let mut dispatcher = Dispatcher::start(Worker::new().batch_handler("fail", fail)).await;
    for outcome in call(&mut dispatcher, batch("fail", &[json!(1), json!(2)])).await {
        assert_eq!(failed_kind(&outcome), "Closed");
    }
    let mut again = batch("fail", &[json!(0), json!(2)]);
    again.iter_mut().for_each(|invoke| invoke.id.0 += 10);
    for outcome in call(&mut dispatcher, again).await {
        assert_eq!(retry_kind(&outcome), "panic");
    }
}

#[tokio::test]
async fn a_batch_that_ignores_its_deadline_is_timed_out_as_a_whole() {
    async fn sleep(batch: BatchContext, _: Vec<BatchEvent<i64>>) -> Result<Vec<Result<(), Failure>>, Failure> {
        assert!(batch.remaining() <= std::time::Duration::from_millis(50));
        std::future::pending().await
    }
    let mut dispatcher = Dispatcher::start(Worker::new().batch_handler("sleep", sleep)).await;
    let mut invokes = batch("sleep", &[json!(1), json!(2)]);
    invokes.iter_mut().for_each(|invoke| invoke.remaining_ms = 50);
    assert_eq!(call(&mut dispatcher, invokes).await, [Outcome::TimedOut, Outcome::TimedOut]);
}

#[tokio::test]
async fn what_is_cancelled_is_superseded_and_the_rest_goes_on() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (in_begun, in_go) = (Arc::clone(&begun), Arc::clone(&go));
    let wait = move |_: BatchContext, events: Vec<BatchEvent<i64>>| {
        let (begun, go) = (Arc::clone(&in_begun), Arc::clone(&in_go));
        async move {
            begun.notify_one();
            if let Some(first) = events.first() {
                first.ctx.cancelled().await;
            }
            go.notified().await;
            Ok(events.iter().map(|_| Ok(())).collect())
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().batch_handler("wait", wait)).await;
    let invokes = batch("wait", &[json!(1), json!(2)]);
    let ids: Vec<_> = invokes.iter().map(|invoke| invoke.id).collect();
    dispatcher.send(&ToWorker::InvokeBatch { invokes }).await;
    begun.notified().await;
    dispatcher.send(&ToWorker::Cancel { id: ids[0] }).await;
    go.notify_one();
    assert_eq!(dispatcher.outcome(ids[0]).await.0, Outcome::Superseded);
    assert_eq!(dispatcher.outcome(ids[1]).await.0, succeeded(&()));
}

#[tokio::test]
async fn each_event_emits_for_itself() {
    async fn emit(_: BatchContext, events: Vec<BatchEvent<i64>>) -> Result<Vec<Result<(), Failure>>, Failure> {
        Ok(events.iter().map(|event| event.ctx.emit("doubled", &(event.data * 2))).collect())
    }
    let mut dispatcher = Dispatcher::start(Worker::new().batch_handler("emit", emit)).await;
    let invokes = batch("emit", &[json!(1), json!(2)]);
    let ids: Vec<_> = invokes.iter().map(|invoke| invoke.id).collect();
    dispatcher.send(&ToWorker::InvokeBatch { invokes }).await;
    let mut emitted = Vec::new();
    for id in ids {
        let (_, emits) = dispatcher.outcome(id).await;
        assert_eq!(emits.len(), 1);
        emitted.push((emits[0].id.clone(), emits[0].data.clone()));
    }
    assert_eq!((&emitted[0].1[..], &emitted[1].1[..]), (&b"2"[..], &b"4"[..]));
    assert_ne!(emitted[0].0, emitted[1].0, "what two invocations emit has two ids");
}

#[tokio::test]
async fn an_unknown_batch_handler_fails_each_event() {
    let mut dispatcher = Dispatcher::start(Worker::new().batch_handler("double", double)).await;
    for outcome in call(&mut dispatcher, batch("other", &[json!(1), json!(2)])).await {
        assert_eq!(failed_kind(&outcome), "UnknownHandler");
    }
}
