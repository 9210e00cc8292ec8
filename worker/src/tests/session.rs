use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use weft_schemas::frame::{ToDispatcher, ToWorker};
use weft_schemas::{Attempt, Epoch, Outcome};

use super::{Dispatcher, event, failed_kind, invoke, retry_kind, start_frame, succeeded};
use crate::session::{Ended, Error};
use crate::{Context, Failure, Worker};

async fn echo(_: Context, data: Value) -> Result<Value, Failure> {
    Ok(data)
}

/// Sets its flag when it is dropped: proof that a handler's future is gone.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_duplicate_handler_name_is_refused_at_start() {
    let mut dispatcher = Dispatcher::connect(Worker::new().handler("echo", echo).handler("echo", echo));
    let Some(ToDispatcher::StartFailed { message }) = dispatcher.receive().await else { panic!("no refusal") };
    assert!(message.contains("\"echo\""), "{message}");
    assert!(matches!(dispatcher.ended().await, Err(Error::Registry(_))));
}

#[tokio::test]
async fn a_program_without_handlers_is_refused_at_start() {
    let mut dispatcher = Dispatcher::connect(Worker::new());
    assert!(matches!(dispatcher.receive().await, Some(ToDispatcher::StartFailed { .. })));
}

#[tokio::test]
async fn ready_names_the_handlers() {
    let mut dispatcher = Dispatcher::connect(Worker::new().handler("b", echo).handler("a", echo));
    dispatcher.send(&ToWorker::Start(start_frame())).await;
    let ready = dispatcher.receive().await;
    assert_eq!(
        ready,
        Some(ToDispatcher::Ready { handlers: vec!["a".to_owned(), "b".to_owned()], batch_handlers: Vec::new() })
    );
}

#[tokio::test]
async fn a_link_that_does_not_begin_with_start_is_an_error() {
    let mut dispatcher = Dispatcher::connect(Worker::new().handler("echo", echo));
    dispatcher.send(&ToWorker::Drain).await;
    assert!(matches!(dispatcher.ended().await, Err(Error::NoStart)));
}

#[tokio::test]
async fn a_handler_gets_its_data_and_answers_with_its_result() {
    let mut dispatcher = Dispatcher::start(Worker::new().handler("echo", echo)).await;
    let data = json!({"order": "ø-7", "items": [1, 2]});
    assert_eq!(dispatcher.run(invoke("echo", &data)).await, succeeded(&data));
}

#[tokio::test]
async fn the_context_tells_what_the_frame_said() {
    async fn look(ctx: Context, (): ()) -> Result<Value, Failure> {
        let left = ctx.remaining().as_millis();
        assert!((59_000..=60_000).contains(&left), "{left}");
        assert!(!ctx.is_cancelled());
        Ok(json!([ctx.function().as_str(), ctx.handler(), ctx.key().as_str(), ctx.attempt().0, ctx.epoch().0]))
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("look", look)).await;
    let mut frame = invoke("look", &());
    (frame.attempt, frame.epoch) = (Attempt(3), Epoch(2));
    assert_eq!(dispatcher.run(frame).await, succeeded(&json!(["create-order", "look", "order-1", 3, 2])));
}

#[tokio::test]
async fn a_downstream_key_depends_on_function_key_and_step_only() {
    async fn keys(ctx: Context, (): ()) -> Result<[String; 2], Failure> {
        Ok([ctx.downstream_key("charge"), ctx.downstream_key("refund")])
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("keys", keys)).await;
    let first = dispatcher.run(invoke("keys", &())).await;
    let mut frame = invoke("keys", &());
    (frame.attempt, frame.epoch, frame.fence) = (Attempt(2), Epoch(1), weft_schemas::Fence(9));
    assert_eq!(dispatcher.run(frame).await, first);
    let mut frame = invoke("keys", &());
    frame.key = weft_schemas::Key::new("order-2").unwrap();
    assert_ne!(dispatcher.run(frame).await, first);
    let Outcome::Succeeded { result } = first else { panic!("{first:?}") };
    let [charge, refund]: [String; 2] = serde_json::from_slice(&result).unwrap();
    assert_ne!(charge, refund);
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_the_worker_lives() {
    async fn explode(_: Context, (): ()) -> Result<(), Failure> {
        panic!("boom {}", 7)
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("explode", explode).handler("echo", echo)).await;
    let outcome = dispatcher.run(invoke("explode", &())).await;
    assert_eq!(retry_kind(&outcome), "panic");
    assert!(matches!(outcome, Outcome::Retry { error, .. } if error.message == "boom 7"));
    assert_eq!(dispatcher.run(invoke("echo", &1)).await, succeeded(&1));
}

#[tokio::test]
async fn a_failure_is_answered_as_the_handler_said() {
    async fn fail(_: Context, terminal: bool) -> Result<(), Failure> {
        if terminal {
            return Err(Failure::terminal("InsufficientFunds", "3 EUR short"));
        }
        let parsed: Result<u8, _> = "x".parse();
        parsed?;
        Ok(())
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("fail", fail)).await;
    assert_eq!(failed_kind(&dispatcher.run(invoke("fail", &true)).await), "InsufficientFunds");
    assert_eq!(retry_kind(&dispatcher.run(invoke("fail", &false)).await), "ParseIntError");
}

#[tokio::test]
async fn data_of_another_shape_and_an_unknown_handler_are_terminal() {
    async fn number(_: Context, n: u32) -> Result<u32, Failure> {
        Ok(n)
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("number", number)).await;
    assert_eq!(failed_kind(&dispatcher.run(invoke("number", &"text")).await), "InvalidData");
    assert_eq!(failed_kind(&dispatcher.run(invoke("other", &1)).await), "UnknownHandler");
}

#[tokio::test]
async fn a_result_too_large_is_terminal() {
    async fn grow(_: Context, size: usize) -> Result<String, Failure> {
        Ok("x".repeat(size))
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("grow", grow)).await;
    assert_eq!(failed_kind(&dispatcher.run(invoke("grow", &1000)).await), "ResultTooLarge");
    let fits = dispatcher.run(invoke("grow", &(1000 - 2))).await;
    assert!(matches!(fits, Outcome::Succeeded { result } if result.len() == 1000));
}

#[tokio::test]
async fn the_deadline_cancels_and_a_handler_that_obeys_may_clean_up() {
    let cleaned = Arc::new(AtomicBool::new(false));
    let seen = cleaned.clone();
    let obey = move |ctx: Context, (): ()| {
        let seen = seen.clone();
        async move {
            ctx.cancelled().await;
            seen.store(true, Ordering::SeqCst);
            Err::<(), _>(Failure::retry("Stopped", "told to stop"))
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().handler("obey", obey)).await;
    let mut frame = invoke("obey", &());
    frame.remaining_ms = 20;
    assert_eq!(dispatcher.run(frame).await, Outcome::TimedOut);
    assert!(cleaned.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_handler_that_ignores_its_deadline_is_dropped_before_the_answer() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = dropped.clone();
    let ignore = move |_: Context, (): ()| {
        let guard = OnDrop(flag.clone());
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
            Ok::<(), Failure>(())
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().handler("ignore", ignore)).await;
    let mut frame = invoke("ignore", &());
    frame.remaining_ms = 20;
    assert_eq!(dispatcher.run(frame).await, Outcome::TimedOut);
    assert!(dropped.load(Ordering::SeqCst));
}

/// Says that it is being dropped, and takes until it is allowed to.
struct SlowDrop {
    dropping: std::sync::mpsc::SyncSender<()>,
    allowed: std::sync::mpsc::Receiver<()>,
}

impl Drop for SlowDrop {
    fn drop(&mut self) {
        let _ = self.dropping.send(());
        let _ = self.allowed.recv();
    }
}

#[tokio::test]
async fn what_a_dropped_handler_still_undoes_is_undone_before_the_answer() {
    let (dropping, is_dropping) = std::sync::mpsc::sync_channel(1);
    let (allow, allowed) = std::sync::mpsc::sync_channel(1);
    let guard = std::sync::Mutex::new(Some(SlowDrop { dropping, allowed }));
    let ignore = move |_: Context, (): ()| {
        let guard = guard.lock().unwrap().take();
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
            Ok::<(), Failure>(())
        }
    };
    let handlers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut dispatcher = Dispatcher::connect_on(handlers.handle().clone(), Worker::new().handler("ignore", ignore));
    dispatcher.send(&ToWorker::Start(start_frame())).await;
    assert!(matches!(dispatcher.receive().await, Some(ToDispatcher::Ready { .. })));
    let mut frame = invoke("ignore", &());
    frame.remaining_ms = 20;
    let id = dispatcher.invoke(frame).await;
    tokio::task::spawn_blocking(move || is_dropping.recv()).await.unwrap().unwrap();
    let early = tokio::time::timeout(crate::attempt::GRACE, dispatcher.outcome(id)).await;
    assert!(early.is_err(), "a transaction of its may still be open: {early:?}");
    allow.send(()).unwrap();
    assert_eq!(dispatcher.outcome(id).await.0, Outcome::TimedOut);
    handlers.shutdown_background();
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_is_not_answered_for_until_it_ends() {
    let release = Arc::new(AtomicBool::new(false));
    let flag = release.clone();
    let block = move |_: Context, (): ()| {
        let flag = flag.clone();
        async move {
            while !flag.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Ok::<(), Failure>(())
        }
    };
    let handlers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut dispatcher = Dispatcher::connect_on(handlers.handle().clone(), Worker::new().handler("block", block));
    dispatcher.send(&ToWorker::Start(start_frame())).await;
    assert!(matches!(dispatcher.receive().await, Some(ToDispatcher::Ready { .. })));
    let mut frame = invoke("block", &());
    frame.remaining_ms = 20;
    let id = dispatcher.invoke(frame).await;
    // Past the deadline and both graces. The dispatcher kills a worker that is silent for so long.
    let silent = tokio::time::timeout(4 * crate::attempt::GRACE, dispatcher.outcome(id)).await;
    assert!(silent.is_err(), "{silent:?}");
    release.store(true, Ordering::SeqCst);
    assert!(matches!(dispatcher.outcome(id).await.0, Outcome::Succeeded { .. } | Outcome::TimedOut));
    handlers.shutdown_background();
}

#[tokio::test]
async fn a_cancel_supersedes_whatever_the_handler_answers() {
    let started = Arc::new(Notify::new());
    let signal = started.clone();
    let wait = move |ctx: Context, (): ()| {
        let signal = signal.clone();
        async move {
            signal.notify_one();
            ctx.cancelled().await;
            Ok::<_, Failure>("finished all the same")
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().handler("wait", wait)).await;
    let id = dispatcher.invoke(invoke("wait", &())).await;
    started.notified().await;
    dispatcher.send(&ToWorker::Cancel { id }).await;
    assert_eq!(dispatcher.outcome(id).await.0, Outcome::Superseded);
}

#[tokio::test]
async fn a_cancel_reaches_only_its_own_invocation() {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let wait = move |_: Context, n: u32| {
        let gate = inner.clone();
        async move {
            gate.acquire().await?.forget();
            Ok::<_, Failure>(n)
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().handler("wait", wait)).await;
    let first = dispatcher.invoke(invoke("wait", &1)).await;
    let second = dispatcher.invoke(invoke("wait", &2)).await;
    dispatcher.send(&ToWorker::Cancel { id: first }).await;
    assert_eq!(dispatcher.outcome(first).await.0, Outcome::Superseded);
    gate.add_permits(1);
    assert_eq!(dispatcher.outcome(second).await.0, succeeded(&2));
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_hands_back_what_comes_later() {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let wait = move |_: Context, n: u32| {
        let gate = inner.clone();
        async move {
            gate.acquire().await?.forget();
            Ok::<_, Failure>(n)
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().handler("wait", wait)).await;
    let running = dispatcher.invoke(invoke("wait", &1)).await;
    dispatcher.send(&ToWorker::Drain).await;
    let late = dispatcher.invoke(invoke("wait", &2)).await;
    assert_eq!(dispatcher.outcome(late).await.0, Outcome::Drained);
    gate.add_permits(1);
    assert_eq!(dispatcher.outcome(running).await.0, succeeded(&1));
    assert!(matches!(dispatcher.ended().await, Ok(Ended::Drained)));
}

#[tokio::test]
async fn an_end_of_the_link_ends_the_worker_at_once_and_drops_what_runs() {
    let (started, dropped) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (signal, flag) = (started.clone(), dropped.clone());
    let hang = move |_: Context, (): ()| {
        let (signal, guard) = (signal.clone(), OnDrop(flag.clone()));
        async move {
            let _guard = guard;
            signal.notify_one();
            std::future::pending::<()>().await;
            Ok::<(), Failure>(())
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().handler("hang", hang)).await;
    dispatcher.invoke(invoke("hang", &())).await;
    started.notified().await;
    assert!(matches!(dispatcher.cut().await, Ok(Ended::LinkClosed)));
    while !dropped.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn emitted_events_ride_on_a_success_only() {
    async fn emit(ctx: Context, ending: u8) -> Result<(), Failure> {
        ctx.emit("payments.requested", &json!({"amount": 5}))?;
        ctx.emit("orders.seen", &1)?;
        match ending {
            0 => Ok(()),
            1 => Err(Failure::retry("Later", "not now")),
            _ => panic!("after the emit"),
        }
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("emit", emit)).await;
    let mut emitted = Vec::new();
    for ending in [0, 1, 2, 0] {
        let id = dispatcher.invoke(invoke("emit", &ending)).await;
        let (outcome, emits) = dispatcher.outcome(id).await;
        assert_eq!(emits.len(), if ending == 0 { 2 } else { 0 }, "{outcome:?}");
        emitted.push(emits);
    }
    let (first, again) = (&emitted[0], &emitted[3]);
    let ids = |events: &[weft_schemas::Event]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(first), ids(again));
    assert_ne!(first[0].id, first[1].id);
    assert_eq!(first[0].kind, "payments.requested");
    assert_eq!(first[0].source, "/weft/create-order");
    assert_eq!(first[0].data, event(&json!({"amount": 5})).data);
    first[0].check().unwrap();
}

#[tokio::test]
async fn the_trace_of_the_event_goes_on_with_what_is_emitted() {
    async fn emit(ctx: Context, (): ()) -> Result<(), Failure> {
        ctx.emit("payments.requested", &1)
    }
    let mut dispatcher = Dispatcher::start(Worker::new().handler("emit", emit)).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut frame = invoke("emit", &());
    frame.event.extensions.insert("traceparent".to_owned(), parent.to_owned());
    let id = dispatcher.invoke(frame).await;
    let (_, emits) = dispatcher.outcome(id).await;
    assert_eq!(emits[0].extensions.get("traceparent").map(String::as_str), Some(parent));
}

#[tokio::test]
async fn many_run_at_once() {
    let gate = Arc::new(tokio::sync::Barrier::new(200));
    let inner = gate.clone();
    let meet = move |_: Context, n: u32| {
        let gate = inner.clone();
        async move {
            gate.wait().await;
            Ok::<_, Failure>(n)
        }
    };
    let mut dispatcher = Dispatcher::start(Worker::new().handler("meet", meet)).await;
    let mut ids = Vec::new();
    for n in 0..200u32 {
        ids.push((n, dispatcher.invoke(invoke("meet", &n)).await));
    }
    for (n, id) in ids {
        assert_eq!(dispatcher.outcome(id).await.0, succeeded(&n));
    }
}

#[tokio::test]
async fn case_25_an_answer_that_no_frame_can_carry_is_a_terminal_failure_and_the_link_lives_on() {
    async fn grow(_: Context, bytes: usize) -> Result<String, Failure> {
        Ok("x".repeat(bytes))
    }
    let start = weft_schemas::frame::Start { max_result_bytes: u64::MAX, ..start_frame() };
    let mut dispatcher = Dispatcher::start_with(Worker::new().handler("grow", grow), start).await;
    let outcome = dispatcher.run(invoke("grow", &(33 << 20))).await;
    assert_eq!(failed_kind(&outcome), "OutcomeNotSendable");
    assert!(matches!(dispatcher.run(invoke("grow", &1)).await, Outcome::Succeeded { .. }));
}

/// Holds a warm-up until the test lets go, and counts how often one ran.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<Notify>,
    ran: Arc<std::sync::atomic::AtomicU32>,
}

impl Gate {
    fn worker(&self) -> Worker {
        let gate = self.clone();
        let wait = move |_: crate::WarmUp| {
            let gate = gate.clone();
            async move {
                gate.ran.fetch_add(1, Ordering::SeqCst);
                gate.open.notified().await;
                Ok(())
            }
        };
        Worker::new().handler("echo", echo).warm_up(wait)
    }
}

#[tokio::test]
async fn a_worker_says_ready_when_its_warm_ups_are_done_and_not_before() {
    let gate = Gate::default();
    let mut dispatcher = Dispatcher::connect(gate.worker());
    dispatcher.send(&ToWorker::Start(start_frame())).await;
    // Once it runs, everybody gets many turns: what were sent before its end would be here.
    for turn in 0..200 {
        assert!(turn < 199 || gate.ran.load(Ordering::SeqCst) == 1, "the warm-up does not begin");
        let early = dispatcher.link.next().now_or_never();
        assert!(early.is_none(), "it speaks before its warm-up has ended: {early:?}");
        tokio::task::yield_now().await;
    }
    gate.open.notify_one();
    assert!(matches!(dispatcher.receive().await, Some(ToDispatcher::Ready { .. })));
    let data = json!(7);
    assert_eq!(dispatcher.run(invoke("echo", &data)).await, succeeded(&data));
    assert_eq!(gate.ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_program_that_is_only_asked_what_it_registers_does_not_warm_up() {
    let gate = Gate::default();
    let start = weft_schemas::frame::Start { warm_up_ms: Some(0), ..start_frame() };
    let _dispatcher = Dispatcher::start_with(gate.worker(), start).await;
    assert_eq!(gate.ran.load(Ordering::SeqCst), 0);
}

/// What a worker with this warm-up says instead of ready.
async fn refusal(worker: Worker, warm_up_ms: u64) -> String {
    let mut dispatcher = Dispatcher::connect(worker.handler("echo", echo));
    let start = weft_schemas::frame::Start { warm_up_ms: Some(warm_up_ms), ..start_frame() };
    dispatcher.send(&ToWorker::Start(start)).await;
    let said = dispatcher.receive().await;
    let Some(ToDispatcher::StartFailed { message }) = said else { panic!("no refusal: {said:?}") };
    assert!(matches!(dispatcher.ended().await, Err(Error::WarmUp(_))));
    message
}

#[tokio::test]
async fn a_warm_up_that_fails_is_a_failed_start_with_its_reason() {
    let fails = |_| async { Err(Failure::terminal("NoModel", "the model is not there")) };
    let second = |_| async { panic!("it is not reached") };
    let message = refusal(Worker::new().warm_up(fails).warm_up(second), 10_000).await;
    assert_eq!(message, "its warm-up failed: NoModel: the model is not there");
}

#[tokio::test]
async fn a_warm_up_that_panics_is_a_failed_start_with_its_reason() {
    let panics = |_| async { panic!("on purpose") };
    assert_eq!(refusal(Worker::new().warm_up(panics), 10_000).await, "its warm-up panicked: on purpose");
}

#[tokio::test]
async fn a_warm_up_that_does_not_end_is_a_failed_start() {
    let hangs = |warm_up: crate::WarmUp| async move {
        assert!(warm_up.remaining().is_some_and(|left| left.as_millis() <= 50));
        std::future::pending().await
    };
    assert_eq!(refusal(Worker::new().warm_up(hangs), 50).await, "its warm-up did not end in time");
}

#[tokio::test]
async fn a_drain_in_the_middle_of_a_warm_up_ends_the_worker() {
    let gate = Gate::default();
    let mut dispatcher = Dispatcher::connect(gate.worker());
    dispatcher.send(&ToWorker::Start(start_frame())).await;
    dispatcher.send(&ToWorker::Drain).await;
    assert!(matches!(dispatcher.ended().await, Ok(Ended::Drained)));
}
