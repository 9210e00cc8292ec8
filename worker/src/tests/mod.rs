//! The worker against a dispatcher that is the other end of a real socket pair, with real frames.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batch;
mod redis_server;
mod session;
mod state;
mod transaction;

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use weft_schemas::frame::{self, InvocationId, Invoke, Start, ToDispatcher, ToWorker};
use weft_schemas::{Attempt, Epoch, Event, Fence, FunctionName, Key, Outcome};

use crate::Worker;
use crate::session::{Ended, Error, serve};

/// Longer than anything here takes; only a hang runs into it.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Dispatcher {
    link: Framed<UnixStream, LengthDelimitedCodec>,
    served: JoinHandle<Result<Ended, Error>>,
    outcomes: HashMap<InvocationId, (Outcome, Vec<Event>)>,
    last: u64,
}

pub(super) fn start_frame() -> Start {
    Start {
        function: FunctionName::new("create-order").unwrap(),
        worker: "create-order-1".to_owned(),
        ledger_url: "sqlite:///nowhere/at/all.db".to_owned(),
        state_url: "redis://127.0.0.1:1".to_owned(),
        prefix: "weft".to_owned(),
        spans: false,
        max_result_bytes: 1000,
        warm_up_ms: None,
    }
}

pub(super) fn event(data: &impl Serialize) -> Event {
    Event {
        id: "1".to_owned(),
        source: "/shop".to_owned(),
        kind: "orders.placed".to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: Default::default(),
        data: serde_json::to_vec(data).unwrap().into(),
    }
}

/// An invocation of `handler` with a minute to go; tests change what they are about.
pub(super) fn invoke(handler: &str, data: &impl Serialize) -> Invoke {
    Invoke {
        id: InvocationId(0),
        handler: handler.to_owned(),
        key: Key::new("order-1").unwrap(),
        fence: Fence(1),
        epoch: Epoch(0),
        attempt: Attempt(1),
        remaining_ms: 60_000,
        keep_ms: 3_600_000,
        event: event(data),
        trace: None,
    }
}

impl Dispatcher {
    /// Starts a worker and waits until it is ready.
    pub(super) async fn start(worker: Worker) -> Self {
        Self::start_with(worker, start_frame()).await
    }

    pub(super) async fn start_with(worker: Worker, start: Start) -> Self {
        let mut this = Self::connect(worker);
        this.send(&ToWorker::Start(start)).await;
        let ready = this.receive().await;
        assert!(matches!(ready, Some(ToDispatcher::Ready { .. })), "{ready:?}");
        this
    }

    /// Opens the link and sends nothing yet.
    pub(super) fn connect(worker: Worker) -> Self {
        Self::connect_on(Handle::current(), worker)
    }

    /// As [`Self::connect`], with the handlers on a runtime of their own, as in a program.
    pub(super) fn connect_on(handlers: Handle, worker: Worker) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = tokio::spawn(serve(worker.into_registry(), theirs, handlers, |_, _| Box::new(|| {})));
        let codec = LengthDelimitedCodec::builder().max_frame_length(32 << 20).new_codec();
        Self { link: Framed::new(ours, codec), served, outcomes: HashMap::new(), last: 0 }
    }

    pub(super) async fn send(&mut self, frame: &ToWorker) {
        self.link.send(frame::encode(frame).unwrap()).await.unwrap();
    }

    pub(super) async fn receive(&mut self) -> Option<ToDispatcher> {
        let next = tokio::time::timeout(PATIENCE, self.link.next()).await.expect("the worker says nothing");
        next.map(|frame| frame::decode(&frame.unwrap()).unwrap())
    }

    /// Sends an invocation under an id of its own.
    pub(super) async fn invoke(&mut self, mut invoke: Invoke) -> InvocationId {
        self.last += 1;
        invoke.id = InvocationId(self.last);
        let id = invoke.id;
        self.send(&ToWorker::Invoke(Box::new(invoke))).await;
        id
    }

    /// Waits for the outcome of one invocation; others are kept for later.
    pub(super) async fn outcome(&mut self, id: InvocationId) -> (Outcome, Vec<Event>) {
        loop {
            if let Some(outcome) = self.outcomes.remove(&id) {
                return outcome;
            }
            match self.receive().await {
                Some(ToDispatcher::Outcome { id, outcome, emits, .. }) => {
                    assert!(self.outcomes.insert(id, (outcome, emits)).is_none(), "two outcomes for {id:?}");
                }
                other => panic!("{other:?} in place of an outcome"),
            }
        }
    }

    /// Invokes and waits.
    pub(super) async fn run(&mut self, frame: Invoke) -> Outcome {
        let id = self.invoke(frame).await;
        self.outcome(id).await.0
    }

    /// Waits until the worker has ended.
    pub(super) async fn ended(self) -> Result<Ended, Error> {
        tokio::time::timeout(PATIENCE, self.served).await.expect("the worker does not end").unwrap()
    }

    /// Cuts the link, as a dispatcher that dies does.
    pub(super) async fn cut(self) -> Result<Ended, Error> {
        drop(self.link);
        tokio::time::timeout(PATIENCE, self.served).await.expect("the worker does not end").unwrap()
    }
}

/// The kind of a retry's error.
pub(super) fn retry_kind(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Retry { error, .. } => &error.kind,
        other => panic!("{other:?} is no retry"),
    }
}

/// The kind of an outage's error.
pub(super) fn outage_kind(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Outage { error, .. } => &error.kind,
        other => panic!("{other:?} is no outage"),
    }
}

/// The kind of a terminal error.
pub(super) fn failed_kind(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed { error } => &error.kind,
        other => panic!("{other:?} is no terminal failure"),
    }
}

pub(super) fn succeeded(result: &impl Serialize) -> Outcome {
    Outcome::Succeeded { result: serde_json::to_vec(result).unwrap().into() }
}
