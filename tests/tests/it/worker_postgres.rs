//! Handlers' transactions on a ledger in a real Postgres, in real worker processes over the link.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_ledger::{Claim, ClaimRequest, Joiner, Ledger, NodeSession, OutboxKind, State, Verdict};
use weft_schemas::frame::Start;
use weft_schemas::{Digest, Event, FunctionName, NodeName, Outcome};

use crate::worker_link::{Attempted, Driven, SOON, paused, retry, start};

/// A ledger in a database of the test's own, with a table for the handler's effects, and a dispatcher's hold on it.
struct World {
    url: String,
    ledger: Arc<dyn Ledger>,
    session: Box<dyn NodeSession>,
    sql: Joiner,
    folder: PathBuf,
}

impl World {
    async fn new() -> Self {
        let url = weft_tests::postgres().await;
        let ledger = weft_ledger::open(&url).await.unwrap();
        ledger.migrate().await.unwrap();
        let session = ledger.enter(&node("a"), Duration::from_secs(60)).await.unwrap();
        let sql = Joiner::connect(&url).unwrap();
        sql.run_script("CREATE TABLE orders (id text, process bigint)").await.unwrap();
        Self { url, ledger, session, sql, folder: weft_tests::folder("worker") }
    }

    async fn worker(&self) -> Driven {
        Driven::start(Start { ledger_url: self.url.clone(), ..start("place-order") }).await
    }

    async fn verdict(&self, key: &str) -> Verdict {
        let request =
            ClaimRequest { key: key.parse().unwrap(), digest: Digest::of(&[]), resume: None, interrupted: false };
        self.ledger.claim(self.session.owner(), &function(), &[request]).await.unwrap().remove(0)
    }

    async fn claim(&self, key: &str) -> Claim {
        match self.verdict(key).await {
            Verdict::Run(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// Another dispatcher takes the claim over, as after this one's end.
    async fn take_over(&mut self, key: &str) -> Claim {
        self.session.leave().await.unwrap();
        self.session = self.ledger.enter(&node("b"), Duration::from_secs(60)).await.unwrap();
        self.claim(key).await
    }

    async fn count(&self, table: &str) -> i64 {
        let rows = self.sql.query(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap();
        rows[0].get(0usize).unwrap()
    }

    /// Effects, messages to come, and where each invocation stands.
    async fn seen(&self) -> (i64, i64, Vec<State>) {
        let invocations = self.ledger.invocations(&Default::default()).await.unwrap();
        let states = invocations.iter().map(|invocation| invocation.state).collect();
        (self.count("orders").await, self.count("weft.outbox").await, states)
    }

    /// An order whose handler pauses with its effect written and its transaction open, and what lets it go on.
    fn pausing(&self, end: &str) -> (Value, PathBuf, PathBuf) {
        let (runs, go) = (self.folder.join("runs"), self.folder.join("go"));
        (json!({ "pause": [runs, go], "end": end }), runs, go)
    }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn function() -> FunctionName {
    "place-order".parse().unwrap()
}

fn attempt<'a>(key: &'a str, claim: &Claim) -> Attempted<'a> {
    Attempted { handler: "order", key, fence: claim.fence }
}

fn go_on(file: &Path) {
    std::fs::write(file, "").unwrap();
}

#[tokio::test]
async fn effect_event_and_settle_are_seen_together_and_not_before_the_commit() {
    let world = World::new().await;
    let mut worker = world.worker().await;
    let claim = world.claim("o-1").await;
    let (order, runs, go) = world.pausing("commit");
    let id = worker.begin(&attempt("o-1", &claim), &order);
    paused(&runs).await;
    assert_eq!(world.seen().await, (0, 0, vec![State::Claimed]), "something is seen before the commit");
    go_on(&go);
    let Outcome::Committed { result } = worker.outcome(id).await else { panic!("not committed") };
    assert_eq!(&result[..], br#""placed""#);
    assert_eq!(world.seen().await, (1, 1, vec![State::Succeeded]));

    let rows = world.sql.query("SELECT id, process FROM orders", &[]).await.unwrap();
    let row = (rows[0].get::<String>(0usize).unwrap(), rows[0].get::<i64>(1usize).unwrap());
    assert_eq!(row, ("o-1".to_owned(), i64::from(worker.pid())), "it was not the worker's process that wrote");
    let batch = world.ledger.due(10).await.unwrap();
    let [due] = batch.rows() else { panic!("{:?}", batch.rows()) };
    let route = (due.kind, due.message.exchange.as_str(), due.message.routing_key.as_str());
    assert_eq!(route, (OutboxKind::Emit, "weft.events", "order.placed"));
    let event = Event::decode(&due.message).unwrap();
    assert_eq!((event.source.as_str(), &event.data[..]), ("/weft/place-order", &br#"{"order":"o-1"}"#[..]));
    drop(batch);

    // A duplicate of the event is answered with the result; the fence that committed has no right left.
    assert!(matches!(world.verdict("o-1").await, Verdict::Replay { result: stored, .. } if stored == result));
    let again = worker.run(&attempt("o-1", &claim), &json!({ "end": "commit" })).await;
    assert_eq!(again, Outcome::Superseded);
    assert_eq!(world.seen().await, (1, 1, vec![State::Succeeded]));
}

#[tokio::test]
async fn an_attempt_that_loses_its_claim_in_its_transaction_is_superseded_and_leaves_nothing() {
    let mut world = World::new().await;
    let mut old = world.worker().await;
    let claim = world.claim("o-1").await;
    let (order, runs, go) = world.pausing("commit");
    let id = old.begin(&attempt("o-1", &claim), &order);
    paused(&runs).await;
    let newer = world.take_over("o-1").await;
    assert!(newer.fence > claim.fence);
    go_on(&go);
    assert_eq!(old.outcome(id).await, Outcome::Superseded);
    assert_eq!(world.seen().await, (0, 0, vec![State::Claimed]));
    // Nor may it begin anew; whoever holds the claim may, and its effect is the only one.
    assert_eq!(old.run(&attempt("o-1", &claim), &json!({ "end": "commit" })).await, Outcome::Superseded);
    assert_eq!(world.seen().await, (0, 0, vec![State::Claimed]));
    let mut new = world.worker().await;
    let outcome = new.run(&attempt("o-1", &newer), &json!({ "end": "commit" })).await;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.seen().await, (1, 1, vec![State::Succeeded]));
}

#[tokio::test]
async fn a_handler_that_opens_a_transaction_and_fails_leaves_nothing() {
    let world = World::new().await;
    let mut worker = world.worker().await;
    let claim = world.claim("o-1").await;
    let failed = worker.run(&attempt("o-1", &claim), &json!({ "end": "fail" })).await;
    assert!(matches!(&failed, Outcome::Failed { error } if error.kind == "Told"), "{failed:?}");
    assert_eq!(world.seen().await, (0, 0, vec![State::Claimed]));
    let panicked = worker.run(&attempt("o-1", &claim), &json!({ "end": "panic" })).await;
    assert_eq!(retry(&panicked).0, "panic");
    assert_eq!(world.seen().await, (0, 0, vec![State::Claimed]));
    let forgotten = worker.run(&attempt("o-1", &claim), &json!({ "end": "forget" })).await;
    assert_eq!(retry(&forgotten).0, "TransactionNotCommitted");
    assert_eq!(world.seen().await, (0, 0, vec![State::Claimed]));
    // The claim is still good, and the connections are free of what was left open.
    let outcome = worker.run(&attempt("o-1", &claim), &json!({ "end": "commit" })).await;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.seen().await, (1, 1, vec![State::Succeeded]));
}

#[tokio::test]
async fn a_worker_killed_in_its_transaction_leaves_nothing() {
    let world = World::new().await;
    let mut worker = world.worker().await;
    let claim = world.claim("o-1").await;
    let (order, runs, _) = world.pausing("commit");
    worker.begin(&attempt("o-1", &claim), &order);
    paused(&runs).await;
    worker.killed().await;
    // Postgres has noticed once no session of a worker has a transaction open; only then could a row still appear.
    weft_tests::poll("Postgres ends the transaction", SOON, || async {
        let open = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        let rows = world.sql.query(open, &[]).await.unwrap();
        match rows[0].get::<i64>(0usize).unwrap() {
            0 => Ok(()),
            open => Err(open),
        }
    })
    .await;
    assert_eq!(world.seen().await, (0, 0, vec![State::Claimed]));
}
