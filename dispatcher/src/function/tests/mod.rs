//! The loop's rules, input by input. No task, no clock, no I/O: what goes in is all there is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod batch;
mod callers;
mod crashes;
mod deadline;
mod duplicates;
mod ordering;
mod outage;
mod placing;
mod rate;
mod refused;
mod replies;
mod scaling;
mod settling;
mod stopping;
mod total;
mod usage;
mod verdicts;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use weft_ledger::{Claim, Owner, Settle, Settled, Settlement, Verdict};
use weft_schemas::frame::Invoke;
use weft_schemas::manifest::Manifest;
use weft_schemas::{
    Attempt, Epoch, ErrorInfo, Event, Fence, FunctionName, Key, Message, NodeName, Outcome, Reason, requeue,
};

use super::core::{Action, Bounds, Core, Input, Now};
use crate::admission::Admission;
use crate::broker::{Delivery, DeliveryId};
use crate::link::{Ending, FromWorker, How, Registered, WorkerId};
use crate::status::FunctionStats;

struct Bench {
    core: Core,
    now: Now,
    stats: Arc<FunctionStats>,
    tag: u64,
    /// Its workers register `f` as a batch handler.
    batch: bool,
}

fn bench(slots: u32, workers: u32) -> Bench {
    bench_with(slots, workers, "")
}

/// As [`bench`], with more keys of the manifest.
fn bench_with(slots: u32, workers: u32, more: &str) -> Bench {
    let text = format!(
        "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nslots = {slots}\nkeep_alive = \"1s\"\nidempotency = {{ key = \"/data/k\" }}\n{more}\n"
    );
    let manifest = Manifest::parse(&text, Path::new("/")).unwrap();
    bench_of(manifest.functions.values().next().unwrap().clone(), workers)
}

fn bench_of(function: weft_schemas::manifest::Function, workers: u32) -> Bench {
    let function = Arc::new(function);
    let stats = Arc::new(FunctionStats::default());
    let bounds = Bounds {
        workers,
        reserved: function.concurrency.reserved.unwrap_or(u32::MAX),
        prefetch: 1_000,
        starts: 100,
        shared: false,
        drain: Duration::from_secs(5),
    };
    let admission = Admission::new(Arc::clone(&function)).unwrap();
    let core = Core::new(function, "weft", admission, bounds, Arc::clone(&stats));
    let now = Now::read();
    let mut bench = Bench { core, now, stats, tag: 0, batch: false };
    bench.handle(Input::Owner(Some(Owner { node: NodeName::new("n").unwrap(), incarnation: 1 })));
    bench
}

fn message(key: &str, payload: &str) -> Message {
    let event = Event {
        id: format!("{key}-{payload}"),
        source: "/t".to_owned(),
        kind: "e".to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: std::collections::BTreeMap::new(),
        data: Bytes::from(serde_json::json!({ "k": key, "p": payload }).to_string()),
    };
    event.to_message("weft.events", "e")
}

fn claim(fence: i64, attempt: u32, crashes: u32) -> Claim {
    Claim {
        fence: Fence(fence),
        attempt: Attempt(attempt),
        crashes,
        epoch: Epoch(0),
        first_seen_at: Timestamp::now(),
        vanished: false,
    }
}

impl Bench {
    fn handle(&mut self, input: Input) -> Vec<Action> {
        self.core.handle(input, self.now)
    }

    fn later(&mut self, by: Duration) -> Vec<Action> {
        self.now.mono += by;
        self.handle(Input::Tick)
    }

    fn deliver(&mut self, messages: Vec<Message>) -> Vec<Action> {
        self.deliver_as(false, messages)
    }

    fn deliver_as(&mut self, redelivered: bool, messages: Vec<Message>) -> Vec<Action> {
        let deliveries = messages.into_iter().map(|message| {
            self.tag += 1;
            Delivery { id: DeliveryId { generation: 1, tag: self.tag }, redelivered, message }
        });
        let deliveries = deliveries.collect();
        self.handle(Input::Delivered(deliveries))
    }

    fn verdicts(&mut self, asked: &[Key], verdicts: Vec<Verdict>) -> Vec<Action> {
        self.handle(Input::Claimed { keys: asked.to_vec(), result: Ok(verdicts) })
    }

    fn settled(&mut self, settles: &[Settle], answer: Settled) -> Vec<Action> {
        let keys: Vec<_> = settles.iter().map(|settle| settle.key.clone()).collect();
        let answers = vec![answer; keys.len()];
        self.handle(Input::Settled { keys, result: Ok(answers) })
    }

    fn ready(&mut self, worker: WorkerId) -> Vec<Action> {
        let (named, none) = (vec!["f".to_owned()], Vec::new());
        let (handlers, batch_handlers) = if self.batch { (none, named) } else { (named, none) };
        let registered = Registered { handlers, batch_handlers, any: false };
        self.handle(Input::Worker(worker, FromWorker::Ready { registered, init: Duration::ZERO }))
    }

    fn outcome(&mut self, worker: WorkerId, invoke: &Invoke, outcome: Outcome) -> Vec<Action> {
        self.handle(Input::Worker(
            worker,
            FromWorker::Outcome { id: invoke.id, outcome, emits: Vec::new(), entered_us: None },
        ))
    }

    fn gone(&mut self, worker: WorkerId, ready: bool) -> Vec<Action> {
        let ending = Ending { ready, how: How::Signalled(6), stderr_tail: String::new() };
        self.handle(Input::Worker(worker, FromWorker::Gone(ending)))
    }

    /// One key, delivered, claimed and running on a worker that was started for it.
    fn running(&mut self, key: &str) -> (WorkerId, Invoke) {
        let asked = claimed(&self.deliver(vec![message(key, "a")]));
        let actions = self.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
        let worker = launched(&actions)[0];
        let invokes = invoked(&self.ready(worker));
        (worker, invokes[0].1.clone())
    }
}

fn claimed(actions: &[Action]) -> Vec<Key> {
    let requests = actions.iter().filter_map(|action| match action {
        Action::Claim { requests, .. } => Some(requests),
        _ => None,
    });
    requests.flatten().map(|request| request.key.clone()).collect()
}

fn launched(actions: &[Action]) -> Vec<WorkerId> {
    actions.iter().filter_map(|action| if let Action::Launch(id) = action { Some(*id) } else { None }).collect()
}

fn invoked(actions: &[Action]) -> Vec<(WorkerId, Invoke)> {
    let invokes = actions.iter().filter_map(|action| match action {
        Action::Invoke(worker, invoke) => Some((*worker, invoke.as_ref().clone())),
        _ => None,
    });
    invokes.collect()
}

fn settles(actions: &[Action]) -> Vec<Settle> {
    let settles =
        actions.iter().filter_map(|action| if let Action::Settle(settles) = action { Some(settles) } else { None });
    settles.flatten().cloned().collect()
}

fn acked(actions: &[Action]) -> Vec<u64> {
    let acks = actions.iter().filter_map(|action| if let Action::Ack(ids) = action { Some(ids) } else { None });
    acks.flatten().map(|id| id.tag).collect()
}

fn requeued(actions: &[Action]) -> Vec<u64> {
    let ids = actions.iter().filter_map(|action| if let Action::Requeue(ids) = action { Some(ids) } else { None });
    ids.flatten().map(|id| id.tag).collect()
}

fn succeeded() -> Outcome {
    Outcome::Succeeded { result: Bytes::from_static(b"1") }
}

fn unreachable() -> weft_ledger::Error {
    weft_ledger::Error::Unavailable { address: "x".to_owned(), source: "gone".into() }
}
