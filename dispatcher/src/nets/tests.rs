//! The nets over the embedded broker and ledger, with a ledger that fails when a test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod copies;
mod flaky;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_ledger::{
    Claim, ClaimRequest, DeadLetterQuery, DeadLetterRecord, InvocationQuery, InvocationRecord, Ledger, NodeSession,
    OutboxKind, OutboxMessage, Owner, Redrive, Redriven, Settle, Settlement, State, Verdict,
};
use weft_process::telemetry::Metrics;
use weft_schemas::manifest::Manifest;
use weft_schemas::message::Headers;
use weft_schemas::{Event, FunctionName, HeaderValue, Message, NodeName, Reason, requeue};

use self::flaky::Flaky;
use super::{Nets, subscribe};
use crate::admission::Admission;
use crate::broker::embedded::Embedded;
use crate::broker::{Broker, FunctionQueue, Names, Topology};
use crate::status::Stats;

const LIMIT: Duration = Duration::from_secs(20);

/// A broker and a ledger in one file, with the function `work`.
struct Place {
    folder: PathBuf,
    broker: Arc<dyn Broker>,
    ledger: Arc<Flaky>,
    session: Box<dyn NodeSession>,
    owner: watch::Sender<Option<Owner>>,
    names: Names,
    stats: Stats,
}

/// Nets at work.
struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("the nets do not stop").unwrap();
    }
}

fn work() -> FunctionName {
    FunctionName::new("work").unwrap()
}

fn topology() -> Topology {
    let function = FunctionQueue { function: work(), source: None, patterns: vec!["orders.*".into()], ordered: false };
    Topology { prefix: "weft".into(), functions: vec![function] }
}

fn event(id: &str, data: &str) -> Event {
    Event {
        id: id.to_owned(),
        source: "/t".to_owned(),
        kind: "orders.placed".to_owned(),
        subject: None,
        time: Some(Timestamp::UNIX_EPOCH),
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: std::collections::BTreeMap::new(),
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

/// A message as it was published.
fn published(id: &str, data: &str) -> Message {
    event(id, data).to_message("weft.events", "orders.placed")
}

/// The same as the broker's crash net gets it.
fn caught(message: Message, queue: &str) -> Message {
    let text = HeaderValue::from;
    let death: Headers = [
        ("count", HeaderValue::I64(1)),
        ("reason", text("delivery_limit")),
        ("queue", text(queue)),
        ("exchange", HeaderValue::from(message.exchange.as_str())),
        ("routing-keys", HeaderValue::Array(vec![HeaderValue::from(message.routing_key.as_str())])),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut message = Message { exchange: String::new(), routing_key: "weft.crashed".into(), ..message };
    message.headers.insert("x-death".into(), HeaderValue::Array(vec![HeaderValue::Table(death)]));
    message
}

impl Place {
    async fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("weft-nets-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("weft.db");
        let ledger = Flaky::new(Arc::new(weft_ledger::Sqlite::open(&file).await.unwrap()));
        ledger.migrate().await.unwrap();
        let broker: Arc<dyn Broker> = Arc::new(Embedded::open(&file).await.unwrap());
        broker.declare(&topology()).await.unwrap();
        let session = ledger.enter(&NodeName::new("n").unwrap(), Duration::from_secs(60)).await.unwrap();
        let owner = watch::Sender::new(Some(session.owner().clone()));
        let stats = Stats::new([&work()], &Metrics::off());
        Self { folder, broker, ledger: Arc::new(ledger), session, owner, names: Names::new("weft"), stats }
    }

    async fn run(&self) -> Running {
        let text = "[functions.work]\ncommand = [\"./f\"]\nevents = [\"orders.*\"]\n";
        let manifest = Manifest::parse(text, Path::new("/")).unwrap();
        let function = Arc::new(manifest.functions.values().next().unwrap().clone());
        let nets = Nets {
            names: self.names.clone(),
            prefix: "weft".into(),
            functions: [(work(), Admission::new(function).unwrap())].into(),
            ledger: self.ledger.clone(),
            owner: self.owner.subscribe(),
            relay: Arc::new(Notify::new()),
            stats: self.stats.clone(),
        };
        let subscriptions = subscribe(&*self.broker, &self.names).await.unwrap();
        let stop = CancellationToken::new();
        Running { task: tokio::spawn(nets.run(subscriptions, stop.clone())), stop }
    }

    async fn publish(&self, message: Message) {
        assert_eq!(self.broker.publish(&[message]).await, vec![Ok(())]);
    }

    /// The right to run the event, taken as a function of this dispatcher would.
    async fn claim(&self, id: &str, data: &str) -> Claim {
        let event = event(id, data);
        let request = ClaimRequest {
            key: event.default_key().unwrap(),
            digest: event.digest(),
            resume: None,
            interrupted: false,
        };
        let verdicts = self.ledger.claim(self.session.owner(), &work(), &[request]).await.unwrap();
        let Verdict::Run(claim) = verdicts[0] else { panic!("{verdicts:?}") };
        claim
    }

    async fn succeed(&self, id: &str, claim: Claim) {
        let to = Settlement::Succeeded {
            result: Bytes::from_static(b"1"),
            keep: Duration::from_secs(60),
            outbox: Vec::new(),
        };
        let key = event(id, "1").default_key().unwrap();
        self.ledger.settle(&work(), &[Settle { key, fence: claim.fence, to }]).await.unwrap();
    }

    async fn letters(&self) -> Vec<DeadLetterRecord> {
        self.ledger.dead_letters(&DeadLetterQuery { include_closed: true, ..DeadLetterQuery::default() }).await.unwrap()
    }

    async fn letter(&self) -> DeadLetterRecord {
        until("a dead letter", || async { self.letters().await.into_iter().next() }).await
    }

    async fn invocations(&self) -> Vec<InvocationRecord> {
        self.ledger.invocations(&InvocationQuery::default()).await.unwrap()
    }

    /// What lies in a queue of the file, held by a consumer or not.
    async fn lies(&self, queue: &str) -> u64 {
        weft_ledger::embedded::Queues::open(&self.folder.join("weft.db")).await.unwrap().depth(queue).await.unwrap()
    }

    async fn empty(&self, queue: &str) {
        until("an empty queue", || async { (self.lies(queue).await == 0).then_some(()) }).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + LIMIT;
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        pause.tick().await;
    }
}

#[tokio::test]
async fn what_the_broker_gave_up_is_the_dead_letter_of_its_invocation() {
    let place = Place::new().await;
    let nets = place.run().await;
    place.publish(caught(published("1", "{}"), "weft.fn.work")).await;
    let record = place.letter().await;
    place.empty("weft.crashed").await;
    let letter = record.letter;
    assert_eq!((letter.reason, letter.error.kind.as_str()), (Reason::Crashed, "DeliveryLimit"));
    assert_eq!((letter.function, letter.attempts.0), (work(), 0), "it was never run from here");
    assert_eq!(requeue::original(&letter.message), published("1", "{}"), "not the original");
    let [invocation] = &place.invocations().await[..] else { panic!() };
    assert_eq!((invocation.state, Some(&invocation.key)), (State::Dead, letter.key.as_ref()));
    let due = place.ledger.due(10).await.unwrap();
    assert_eq!(
        (due.rows()[0].kind, due.rows()[0].message.routing_key.as_str()),
        (OutboxKind::DeadLetter, "weft.dlq.work")
    );
    nets.stop().await;
}

#[tokio::test]
async fn what_the_ledger_has_is_only_acked() {
    let place = Place::new().await;
    let claim = place.claim("1", "{}").await;
    place.succeed("1", claim).await;
    let nets = place.run().await;
    place.publish(caught(published("1", "{}"), "weft.fn.work")).await;
    place.empty("weft.crashed").await;
    assert!(place.letters().await.is_empty());
    assert_eq!(place.invocations().await[0].state, State::Succeeded);
    nets.stop().await;
}

#[tokio::test]
async fn what_runs_in_this_dispatcher_is_left_to_it() {
    let place = Place::new().await;
    let claim = place.claim("1", "{}").await;
    let nets = place.run().await;
    place.publish(caught(published("1", "{}"), "weft.fn.work")).await;
    until("a question", || async { (place.ledger.asked("invocations") >= 2).then_some(()) }).await;
    assert_eq!(place.ledger.asked("claim"), 1, "a claim of which the answer is lost would take it away");
    assert_eq!((place.lies("weft.crashed").await, place.letters().await.len()), (1, 0));
    // Its own settle counts.
    place.succeed("1", claim).await;
    place.empty("weft.crashed").await;
    assert_eq!(place.invocations().await[0].state, State::Succeeded);
    nets.stop().await;
}

#[tokio::test]
async fn another_payload_under_the_key_is_a_mismatch() {
    let place = Place::new().await;
    let claim = place.claim("1", "{}").await;
    place.succeed("1", claim).await;
    let nets = place.run().await;
    place.publish(caught(published("1", "[1]"), "weft.fn.work")).await;
    let letter = place.letter().await.letter;
    assert_eq!((letter.reason, letter.key.is_some()), (Reason::Mismatch, true));
    assert_eq!(place.invocations().await[0].state, State::Succeeded, "the row is another event's");
    nets.stop().await;
}

#[tokio::test]
async fn what_cannot_be_claimed_is_buried_by_itself() {
    let place = Place::new().await;
    let nets = place.run().await;
    let malformed = Message { body: Bytes::from_static(b"{"), ..published("2", "{}") };
    let stray = Message { exchange: String::new(), routing_key: "weft.crashed".into(), ..published("3", "{}") };
    for message in [caught(published("1", "{}"), "weft.fn.elsewhere"), caught(malformed, "weft.fn.work"), stray] {
        place.publish(message).await;
    }
    let records = until("three letters", || async { Some(place.letters().await).filter(|all| all.len() == 3) }).await;
    let mut got: Vec<_> =
        records.iter().map(|r| (r.letter.function.as_str(), r.letter.reason, r.letter.error.kind.as_str())).collect();
    got.sort();
    assert_eq!(got[0], ("elsewhere", Reason::Crashed, "DeliveryLimit"));
    assert_eq!(got[1], ("unrouted", Reason::Unroutable, "Stray"));
    assert_eq!((got[2].0, got[2].1), ("work", Reason::Undecodable));
    assert!(place.invocations().await.is_empty());
    place.empty("weft.crashed").await;
    nets.stop().await;
}

#[tokio::test]
async fn an_unrouted_event_is_one_letter_and_its_redrive_reaches_whoever_is_bound_since() {
    let place = Place::new().await;
    let nets = place.run().await;
    let lost = event("1", "{}").to_message("weft.events", "payments.made");
    place.publish(lost.clone()).await;
    place.publish(lost.clone()).await;
    let record =
        until("both", || async { place.letters().await.into_iter().find(|record| record.arrivals == 2) }).await;
    place.empty("weft.unrouted").await;
    assert_eq!(place.letters().await.len(), 1);
    let letter = record.letter;
    assert_eq!((letter.function.as_str(), letter.reason), ("unrouted", Reason::Unroutable));
    assert!(letter.error.message.contains("payments.made") && letter.error.message.contains("weft.events"));
    assert_eq!(letter.message, lost);
    assert_eq!(place.stats.snapshot().unrouted, 2);
    // Its copy has a queue to go to.
    assert_eq!(place.broker.publish(&[letter.to_message("weft")]).await, vec![Ok(())]);
    // Still nobody: another letter, as it is another try.
    let again = requeue::redrive_message(&letter, "weft");
    place.publish(again.clone()).await;
    until("a second letter", || async { (place.letters().await.len() == 2).then_some(()) }).await;
    // Somebody is bound to it now.
    let mut topology = topology();
    topology.functions[0].patterns.push("payments.*".into());
    place.broker.declare(&topology).await.unwrap();
    place.publish(again).await;
    assert_eq!(place.lies("weft.fn.work").await, 1);
    nets.stop().await;
}

#[tokio::test]
async fn nothing_is_asked_while_the_lease_is_lost() {
    let place = Place::new().await;
    place.owner.send_replace(None);
    let nets = place.run().await;
    place.publish(caught(published("1", "{}"), "weft.fn.work")).await;
    place.publish(event("2", "{}").to_message("weft.events", "payments.made")).await;
    until("both taken", || async {
        (place.stats.snapshot().caught + place.stats.snapshot().unrouted == 2).then_some(())
    })
    .await;
    // What is out is not waiting any more, so the nets have seen it.
    for queue in ["weft.crashed", "weft.unrouted"] {
        assert_eq!((place.broker.depth(queue).await, place.lies(queue).await), (Some(0), 1));
    }
    assert_eq!((place.ledger.asked("claim"), place.ledger.asked("bury")), (0, 0));
    place.owner.send_replace(Some(place.session.owner().clone()));
    until("two letters", || async { (place.letters().await.len() == 2).then_some(()) }).await;
    nets.stop().await;
}

#[tokio::test]
async fn a_step_that_the_ledger_does_not_answer_is_taken_again() {
    for step in ["invocations", "claim", "settle", "settle-after"] {
        let place = Place::new().await;
        place.ledger.fail(step, 2);
        let nets = place.run().await;
        place.publish(caught(published("1", "{}"), "weft.fn.work")).await;
        place.empty("weft.crashed").await;
        let [record] = &place.letters().await[..] else { panic!("{step}") };
        assert_eq!((record.letter.reason, record.arrivals), (Reason::Crashed, 1), "{step}");
        assert_eq!(place.invocations().await[0].state, State::Dead, "{step}");
        nets.stop().await;
    }
}

#[tokio::test]
async fn what_the_ledger_refuses_holds_nothing_else_up() {
    let place = Place::new().await;
    place.ledger.refuse_letters_with("poison");
    let nets = place.run().await;
    // Together, so that they make one statement.
    let all = ["poison", "2", "3"].map(|id| event(id, "{}").to_message("weft.events", "payments.made"));
    assert_eq!(place.broker.publish(&all).await, vec![Ok(()); 3]);
    until("the two others", || async { (place.letters().await.len() == 2).then_some(()) }).await;
    until("their acks", || async { (place.lies("weft.unrouted").await == 1).then_some(()) }).await;
    nets.stop().await;
    assert_eq!(place.broker.depth("weft.unrouted").await, Some(1), "it is not handed back");
}

#[tokio::test]
async fn a_message_goes_back_when_it_was_not_written() {
    let place = Place::new().await;
    place.ledger.fail("bury", u32::MAX);
    let nets = place.run().await;
    place.publish(event("1", "{}").to_message("weft.events", "payments.made")).await;
    until("two tries", || async { (place.ledger.asked("bury") >= 2).then_some(()) }).await;
    nets.stop().await;
    until("it is back", || async { (place.broker.depth("weft.unrouted").await == Some(1)).then_some(()) }).await;
    assert!(place.letters().await.is_empty());
}

#[tokio::test]
async fn a_claim_that_was_not_settled_before_a_stop_is_taken_over_by_the_next_start() {
    let mut place = Place::new().await;
    place.ledger.fail("settle", u32::MAX);
    let nets = place.run().await;
    place.publish(caught(published("1", "{}"), "weft.fn.work")).await;
    until("a settle", || async { (place.ledger.asked("settle") >= 1).then_some(()) }).await;
    nets.stop().await;
    assert_eq!(place.invocations().await[0].state, State::Claimed);
    place.ledger.fail("settle", 0);
    place.session.leave().await.unwrap();
    place.session = place.ledger.enter(&NodeName::new("n").unwrap(), Duration::from_secs(60)).await.unwrap();
    place.owner.send_replace(Some(place.session.owner().clone()));
    let nets = place.run().await;
    place.empty("weft.crashed").await;
    assert_eq!(place.invocations().await[0].state, State::Dead);
    nets.stop().await;
}
