//! The loop's rules, input by input. No task, no clock, no I/O: what goes in is all there is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

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
use crate::link::{Ending, FromWorker, How, WorkerId};
use crate::status::FunctionStats;

struct Bench {
    core: Core,
    now: Now,
    stats: Arc<FunctionStats>,
    tag: u64,
}

fn bench(slots: u32, workers: u32) -> Bench {
    let text = format!(
        "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nslots = {slots}\nkeep_alive = \"1s\"\nidempotency = {{ key = \"/data/k\" }}\n"
    );
    let manifest = Manifest::parse(&text, Path::new("/")).unwrap();
    let function = Arc::new(manifest.functions.values().next().unwrap().clone());
    let stats = Arc::new(FunctionStats::default());
    let bounds = Bounds { workers, starts: 100, provisioned_workers: 0, drain: Duration::from_secs(5) };
    let admission = Admission::new(Arc::clone(&function)).unwrap();
    let core = Core::new(function, "weft", admission, bounds, Arc::clone(&stats));
    let now = Now::read();
    let mut bench = Bench { core, now, stats, tag: 0 };
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
    Claim { fence: Fence(fence), attempt: Attempt(attempt), crashes, epoch: Epoch(0), first_seen_at: Timestamp::now() }
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
        let deliveries = messages.into_iter().map(|message| {
            self.tag += 1;
            Delivery { id: DeliveryId { generation: 1, tag: self.tag }, redelivered: false, message }
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
        self.handle(Input::Worker(worker, FromWorker::Ready { handlers: vec!["f".to_owned()], init: Duration::ZERO }))
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

#[test]
fn an_event_is_acked_only_after_its_settle() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.outcome(worker, &invoke, succeeded());
    assert!(acked(&actions).is_empty(), "{actions:?}");
    let actions = bench.settled(&settles(&actions), Settled::Done);
    assert_eq!(acked(&actions), [1]);
}

#[test]
fn a_duplicate_of_what_runs_here_joins_it_and_shares_its_ack() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    assert!(claimed(&bench.deliver(vec![message("k", "a")])).is_empty());
    let actions = bench.outcome(worker, &invoke, succeeded());
    assert_eq!(acked(&bench.settled(&settles(&actions), Settled::Done)), [1, 2]);
    assert_eq!(bench.stats.duplicates.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn another_payload_under_a_key_that_runs_is_buried_as_a_mismatch() {
    let mut bench = bench(1, 1);
    bench.running("k");
    let actions = bench.deliver(vec![message("k", "b")]);
    let Some(Action::Bury(burials)) = actions.iter().find(|action| matches!(action, Action::Bury(_))) else {
        panic!("{actions:?}")
    };
    assert_eq!(burials[0].letter.reason, Reason::Mismatch);
    assert!(acked(&actions).is_empty());
    let burials = burials.clone();
    assert_eq!(acked(&bench.handle(Input::Buried { burials, result: Ok(()) })), [2]);
}

#[test]
fn another_payload_waits_for_the_verdict_on_the_first() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a"), message("k", "b")]));
    assert_eq!(asked.len(), 1);
    // The ledger knows payload b, so it is a that does not fit and b that is a duplicate.
    let actions = bench.verdicts(&asked, vec![Verdict::Mismatch]);
    assert!(actions.iter().any(|action| matches!(action, Action::Bury(burials) if burials[0].delivery.tag == 1)));
    let asked = claimed(&actions);
    assert_eq!(asked.len(), 1);
    let replay = Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) };
    assert_eq!(acked(&bench.verdicts(&asked, vec![replay])), [2]);
}

#[test]
fn a_retry_that_joins_a_duplicate_is_not_taken_for_superfluous() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let retry = requeue::retry_message(&message("k", "a"), "weft", &FunctionName::new("f").unwrap(), Fence(3));
    assert!(claimed(&bench.deliver(vec![retry])).is_empty());
    // The claim went out without the fence: the verdict is about the duplicate, not about the retry.
    let actions = bench.verdicts(&asked, vec![Verdict::Deferred { due_in: Duration::ZERO }]);
    assert_eq!(acked(&actions), [1], "{actions:?}");
    let Some(Action::Claim { requests, .. }) = actions.iter().find(|action| matches!(action, Action::Claim { .. }))
    else {
        panic!("{actions:?}")
    };
    assert_eq!(requests[0].resume, Some(Fence(3)));
}

#[test]
fn a_redrive_that_arrives_while_the_old_verdict_is_under_way_is_not_acked_with_it() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    // Between the ledger's answer and its arrival an operator redrives, and the event comes back.
    bench.deliver(vec![message("k", "a")]);
    let actions = bench.verdicts(&asked, vec![Verdict::Dead]);
    assert_eq!(acked(&actions), [1]);
    let asked = claimed(&actions);
    assert_eq!(asked.len(), 1, "the second is asked about anew: {actions:?}");
    assert_eq!(launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(2, 1, 0))])).len(), 1);
}

#[test]
fn a_retry_that_arrives_before_its_own_settle_is_answered_is_not_acked_with_it() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let outcome = Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms: None };
    let parked = settles(&bench.outcome(worker, &invoke, outcome));
    // Another dispatcher's relay is faster than the answer to our settle.
    let retry = requeue::retry_message(&message("k", "a"), "weft", &FunctionName::new("f").unwrap(), Fence(1));
    bench.deliver(vec![retry]);
    let actions = bench.settled(&parked, Settled::Done);
    assert_eq!(acked(&actions), [1]);
    let Some(Action::Claim { requests, .. }) = actions.iter().find(|action| matches!(action, Action::Claim { .. }))
    else {
        panic!("{actions:?}")
    };
    assert_eq!(requests[0].resume, Some(Fence(1)));
}

#[test]
fn a_ledger_that_is_away_costs_nothing_and_is_asked_again() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let actions = bench.handle(Input::Claimed { keys: asked, result: Err(unreachable()) });
    assert!(actions.is_empty(), "{actions:?}");
    assert!(claimed(&bench.deliver(vec![message("l", "a")])).is_empty(), "not before the wait is over");
    assert_eq!(claimed(&bench.later(Duration::from_secs(1))).len(), 2);
}

#[test]
fn a_settle_that_was_not_answered_is_asked_again_and_nothing_is_acked() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let first = settles(&bench.outcome(worker, &invoke, succeeded()));
    let keys = vec![first[0].key.clone()];
    assert!(bench.handle(Input::Settled { keys, result: Err(unreachable()) }).is_empty());
    let again = settles(&bench.later(Duration::from_secs(1)));
    assert_eq!(again[0].fence, first[0].fence);
    assert_eq!(acked(&bench.settled(&again, Settled::Done)), [1]);
}

#[test]
fn a_late_settle_that_is_refused_asks_where_the_invocation_stands() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let late = settles(&bench.outcome(worker, &invoke, succeeded()));
    let actions = bench.settled(&late, Settled::AuthorityLost);
    assert!(acked(&actions).is_empty());
    let asked = claimed(&actions);
    let replay = Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) };
    assert_eq!(acked(&bench.verdicts(&asked, vec![replay])), [1]);
}

#[test]
fn no_more_workers_are_started_than_what_waits_can_use() {
    let mut bench = bench(2, 10);
    let asked = claimed(&bench.deliver((0..5).map(|n| message(&n.to_string(), "a")).collect()));
    let verdicts = (0..5).map(|n| Verdict::Run(claim(n, 1, 0))).collect();
    assert_eq!(launched(&bench.verdicts(&asked, verdicts)).len(), 3);
    let asked = claimed(&bench.deliver(vec![message("5", "a")]));
    assert!(
        launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(9, 1, 0))])).is_empty(),
        "a start under way has room"
    );
}

#[test]
fn what_crashed_a_worker_runs_alone_next_time() {
    let mut bench = bench(4, 4);
    let (worker, _) = bench.running("k");
    let actions = bench.gone(worker, true);
    let Settlement::Waiting { crashed: true, .. } = settles(&actions)[0].to else { panic!("{actions:?}") };
    bench.settled(&settles(&actions), Settled::Done);
    let asked = claimed(&bench.deliver(vec![message("k", "a"), message("l", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(2, 2, 1)), Verdict::Run(claim(1, 1, 0))]);
    let workers = launched(&actions);
    assert_eq!(workers.len(), 2, "one for it alone, one for its neighbour");
    assert_eq!(invoked(&bench.ready(workers[0])).len(), 1);
    assert_eq!(invoked(&bench.ready(workers[1])).len(), 1);
}

#[test]
fn the_neighbours_of_one_that_ignores_its_deadline_keep_their_attempt() {
    let mut bench = bench(2, 1);
    let (worker, _) = bench.running("k");
    bench.now.mono += Duration::from_secs(20);
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    assert_eq!(invoked(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))])).len(), 1);
    let actions = bench.later(Duration::from_secs(12));
    assert!(actions.iter().any(|action| matches!(action, Action::KillWorker(id) if *id == worker)), "{actions:?}");
    let actions = bench.gone(worker, true);
    let both = settles(&actions);
    assert!(matches!(both[0].to, Settlement::Waiting { crashed: false, .. }), "k timed out: {both:?}");
    assert!(matches!(both[1].to, Settlement::Released), "l is not to blame: {both:?}");
}

#[test]
fn a_failed_attempt_leaves_its_retry_in_the_outbox_and_the_last_one_a_dead_letter() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let error = ErrorInfo::new("E", "m");
    let retry = Outcome::Retry { error: error.clone(), after_ms: None };
    let actions = bench.outcome(worker, &invoke, retry.clone());
    let parked = settles(&actions);
    let Settlement::Waiting { retry: message, .. } = &parked[0].to else { panic!("{actions:?}") };
    assert_eq!(requeue::resume_fence(&message.message), Some(Fence(1)));
    let message = message.message.clone();
    assert_eq!(acked(&bench.settled(&parked, Settled::Done)), [1]);

    let asked = claimed(&bench.deliver(vec![message]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(2, 3, 0))]);
    let (worker, invoke) = invoked(&actions)[0].clone();
    let actions = bench.outcome(worker, &invoke, retry);
    let Settlement::Dead { letter, .. } = &settles(&actions)[0].to else { panic!("{actions:?}") };
    assert_eq!((letter.reason, letter.attempts), (Reason::Exhausted, Attempt(3)));
}

#[test]
fn an_idle_worker_leaves_after_its_keep_alive_and_not_before() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.outcome(worker, &invoke, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    assert!(bench.later(Duration::from_millis(900)).is_empty());
    let actions = bench.later(Duration::from_millis(200));
    assert!(matches!(actions[..], [Action::DrainWorker(id)] if id == worker), "{actions:?}");
}

#[test]
fn losing_the_lease_cancels_what_runs_and_asks_anew() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.handle(Input::Owner(None));
    assert!(matches!(actions[..], [Action::Cancel(id, run)] if id == worker && run == invoke.id), "{actions:?}");
    let actions = bench.outcome(worker, &invoke, succeeded());
    assert!(settles(&actions).is_empty() && claimed(&actions).is_empty(), "{actions:?}");
    let owner = Owner { node: NodeName::new("n").unwrap(), incarnation: 2 };
    assert_eq!(claimed(&bench.handle(Input::Owner(Some(owner)))).len(), 1);
}

#[test]
fn a_drain_finishes_what_runs_and_hands_back_what_has_not_started() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(7, 1, 0))]);
    let actions = bench.handle(Input::Drain);
    assert!(actions.iter().any(|action| matches!(action, Action::StopConsuming)));
    let released = settles(&actions);
    assert!(matches!(released[..], [Settle { to: Settlement::Released, .. }]), "{released:?}");
    assert_eq!(requeued(&bench.settled(&released, Settled::Done)), [2]);
    assert_eq!(requeued(&bench.deliver(vec![message("m", "a")])), [3], "buffered deliveries go back");
    bench.handle(Input::DeliveriesEnded);

    let actions = bench.outcome(worker, &invoke, succeeded());
    assert!(actions.iter().any(|action| matches!(action, Action::DrainWorker(id) if *id == worker)));
    assert_eq!(acked(&bench.settled(&settles(&actions), Settled::Done)), [1]);
    let actions = bench.gone(worker, true);
    assert!(matches!(actions[..], [Action::WorkerGone(_), Action::Stopped]), "{actions:?}");
}

#[test]
fn a_claim_that_is_granted_in_a_drain_is_given_back_and_starts_no_worker() {
    let mut bench = bench(1, 4);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let actions = bench.handle(Input::Drain);
    assert!(requeued(&actions).is_empty(), "its claim is under way: {actions:?}");
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    assert!(launched(&actions).is_empty(), "{actions:?}");
    let released = settles(&actions);
    assert!(matches!(released[..], [Settle { to: Settlement::Released, .. }]), "{actions:?}");
    assert_eq!(requeued(&bench.settled(&released, Settled::Done)), [1]);
}

#[test]
fn workers_that_do_not_start_are_tried_again_ever_more_slowly() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let mut worker = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0];
    for _ in 0..4 {
        assert!(launched(&bench.gone(worker, false)).is_empty(), "not at once");
        worker = launched(&bench.later(Duration::from_secs(10)))[0];
    }
    assert_eq!(invoked(&bench.ready(worker)).len(), 1, "the event waited and lost no attempt");
}
