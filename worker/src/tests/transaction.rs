//! Handlers' transactions on a real ledger: the embedded one, in a file of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use weft_ledger::join::Joiner;
use weft_ledger::{Claim, ClaimRequest, Ledger, NodeSession, Verdict};
use weft_schemas::frame::{Invoke, Start};
use weft_schemas::{Digest, FunctionName, Key, Message, NodeName, Outcome};

use super::{Dispatcher, invoke, outage_kind, retry_kind, start_frame};
use crate::{Context, Failure, Worker, params};

struct World {
    _folder: TempDir,
    url: String,
    ledger: Arc<dyn Ledger>,
    session: Box<dyn NodeSession>,
    sql: Joiner,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("weft.db").display());
        let ledger = weft_ledger::open(&url).await.unwrap();
        ledger.migrate().await.unwrap();
        let session = ledger.enter(&NodeName::new("node").unwrap(), Duration::from_secs(60)).await.unwrap();
        let sql = Joiner::connect(&url).unwrap();
        sql.run_script("CREATE TABLE orders (id TEXT PRIMARY KEY, total INTEGER)").await.unwrap();
        Self { _folder: folder, url, ledger, session, sql }
    }

    fn function(&self) -> FunctionName {
        start_frame().function
    }

    async fn verdict(&self, key: &str) -> Verdict {
        let request =
            ClaimRequest { key: Key::new(key).unwrap(), digest: Digest::of(&[]), resume: None, interrupted: false };
        self.ledger.claim(self.session.owner(), &self.function(), &[request]).await.unwrap().remove(0)
    }

    async fn claim(&self, key: &str) -> Claim {
        match self.verdict(key).await {
            Verdict::Run(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// Claims and makes the frame that the dispatcher would send.
    async fn claimed(&self, handler: &str, key: &str) -> Invoke {
        let claim = self.claim(key).await;
        let mut frame = invoke(handler, &());
        (frame.key, frame.fence, frame.attempt) = (Key::new(key).unwrap(), claim.fence, claim.attempt);
        frame
    }

    /// A newer incarnation takes the claim over, as after a crash of the dispatcher.
    async fn take_over(&mut self, key: &str) -> Claim {
        self.session.leave().await.unwrap();
        let node = NodeName::new("other").unwrap();
        self.session = self.ledger.enter(&node, Duration::from_secs(60)).await.unwrap();
        self.claim(key).await
    }

    async fn worker(&self, worker: Worker) -> Dispatcher {
        Dispatcher::start_with(worker, Start { ledger_url: self.url.clone(), ..start_frame() }).await
    }

    async fn orders(&self) -> i64 {
        let rows = self.sql.query("SELECT count(*) FROM orders", params![]).await.unwrap();
        rows[0].get(0).unwrap()
    }

    async fn outbox(&self) -> Vec<Message> {
        let batch = self.ledger.due(100).await.unwrap();
        batch.rows().iter().map(|row| row.message.clone()).collect()
    }
}

/// Inserts, emits, and then does as it is told.
async fn order(ctx: Context, (): ()) -> Result<String, Failure> {
    ctx.emit("orders.seen", &1)?;
    let mut tx = ctx.transaction().await?;
    tx.execute("INSERT INTO orders (id, total) VALUES ($1, $2)", params![ctx.key().as_str(), 5]).await?;
    tx.emit("payments.requested", &json!({"order": ctx.key().as_str()}))?;
    tx.commit("done".to_owned()).await
}

#[tokio::test]
async fn rows_events_and_settle_commit_together() {
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("order", order)).await;
    let id = dispatcher.invoke(world.claimed("order", "o-1").await).await;
    let (outcome, emits) = dispatcher.outcome(id).await;
    let result = Bytes::from_static(b"\"done\"");
    assert_eq!((outcome, emits), (Outcome::Committed { result: result.clone() }, Vec::new()));
    assert_eq!(world.orders().await, 1);
    assert!(matches!(world.verdict("o-1").await, Verdict::Replay { result: stored, .. } if stored == result));
    let outbox = world.outbox().await;
    let routes: Vec<_> = outbox.iter().map(|m| (m.exchange.as_str(), m.routing_key.as_str())).collect();
    assert_eq!(routes, [("weft.events", "orders.seen"), ("weft.events", "payments.requested")]);
    let event = weft_schemas::Event::decode(&outbox[1]).unwrap();
    assert_eq!((event.source.as_str(), &event.data[..]), ("/weft/create-order", &br#"{"order":"o-1"}"#[..]));
}

#[tokio::test]
async fn a_lost_claim_becomes_superseded_and_leaves_nothing() {
    let mut world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("order", order)).await;
    let stale = world.claimed("order", "o-1").await;
    world.take_over("o-1").await;
    assert_eq!(dispatcher.run(stale).await, Outcome::Superseded);
    assert_eq!((world.orders().await, world.outbox().await.len()), (0, 0));
}

#[tokio::test]
async fn a_settled_invocation_cannot_be_written_again() {
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("order", order)).await;
    let frame = world.claimed("order", "o-1").await;
    assert!(matches!(dispatcher.run(frame.clone()).await, Outcome::Committed { .. }));
    assert_eq!(dispatcher.run(frame).await, Outcome::Superseded);
    assert_eq!((world.orders().await, world.outbox().await.len()), (1, 2));
}

#[tokio::test]
async fn a_failure_or_panic_before_the_commit_undoes_everything() {
    async fn break_off(ctx: Context, (): ()) -> Result<(), Failure> {
        let mut tx = ctx.transaction().await?;
        tx.execute("INSERT INTO orders (id, total) VALUES ($1, 1)", params![ctx.key().as_str()]).await?;
        tx.emit("payments.requested", &1)?;
        if ctx.key().as_str() == "panic" {
            panic!("before the commit")
        }
        Err(Failure::terminal("No", "never"))
    }
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("break-off", break_off)).await;
    let outcome = dispatcher.run(world.claimed("break-off", "fail").await).await;
    assert_eq!(super::failed_kind(&outcome), "No");
    assert_eq!(retry_kind(&dispatcher.run(world.claimed("break-off", "panic").await).await), "panic");
    assert_eq!((world.orders().await, world.outbox().await.len()), (0, 0));
}

#[tokio::test]
async fn an_error_after_the_commit_does_not_undo_it() {
    async fn regret(ctx: Context, (): ()) -> Result<String, Failure> {
        order(ctx.clone(), ()).await?;
        assert_eq!(ctx.emit("too.late", &1).unwrap_err().kind(), "AlreadyCommitted");
        assert_eq!(ctx.transaction().await.err().unwrap().kind(), "AlreadyCommitted");
        Err(Failure::terminal("Regret", "after the fact"))
    }
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("regret", regret)).await;
    let outcome = dispatcher.run(world.claimed("regret", "o-1").await).await;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!((world.orders().await, world.outbox().await.len()), (1, 2));
}

#[tokio::test]
async fn a_forgotten_commit_is_a_failed_attempt_and_a_rollback_is_not() {
    async fn forget(ctx: Context, (): ()) -> Result<(), Failure> {
        let mut tx = ctx.transaction().await?;
        assert_eq!(ctx.transaction().await.err().unwrap().kind(), "TransactionOpen");
        tx.execute("INSERT INTO orders (id, total) VALUES ($1, 1)", params![ctx.key().as_str()]).await?;
        if ctx.key().as_str() == "rollback" {
            tx.rollback().await;
        }
        Ok(())
    }
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("forget", forget)).await;
    let outcome = dispatcher.run(world.claimed("forget", "forgotten").await).await;
    assert_eq!(retry_kind(&outcome), "TransactionNotCommitted");
    let outcome = dispatcher.run(world.claimed("forget", "rollback").await).await;
    assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
    assert_eq!(world.orders().await, 0);
}

#[tokio::test]
async fn a_refused_statement_says_which_and_may_be_handled() {
    async fn insert(ctx: Context, (): ()) -> Result<bool, Failure> {
        let mut tx = ctx.transaction().await?;
        let sql = "INSERT INTO orders (id, total) VALUES ('same', 1)";
        let known = match tx.execute(sql, params![]).await {
            Ok(_) => false,
            Err(error) if error.is_unique_violation() => true,
            Err(error) => return Err(error.into()),
        };
        if ctx.key().as_str() == "wrong" {
            tx.execute("INSERT INTO nowhere VALUES (1)", params![]).await?;
        }
        tx.commit(known).await
    }
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("insert", insert)).await;
    for (key, known) in [("a", "false"), ("b", "true")] {
        let outcome = dispatcher.run(world.claimed("insert", key).await).await;
        assert_eq!(outcome, Outcome::Committed { result: Bytes::from(known) });
    }
    let outcome = dispatcher.run(world.claimed("insert", "wrong").await).await;
    assert!(retry_kind(&outcome).starts_with("Sql"), "{outcome:?}");
}

#[tokio::test]
async fn a_dropped_transaction_lets_the_next_attempt_in() {
    async fn hang(ctx: Context, (): ()) -> Result<(), Failure> {
        let mut tx = ctx.transaction().await?;
        tx.execute("INSERT INTO orders (id, total) VALUES ('x', 1)", params![]).await?;
        std::future::pending::<()>().await;
        tx.commit(()).await
    }
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("hang", hang).handler("order", order)).await;
    let mut frame = world.claimed("hang", "o-1").await;
    frame.remaining_ms = 50;
    assert_eq!(dispatcher.run(frame).await, Outcome::TimedOut);
    let outcome = dispatcher.run(world.claimed("order", "o-2").await).await;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    assert_eq!(world.orders().await, 1);
}

#[tokio::test]
async fn an_unusable_ledger_is_an_outage_and_no_failed_attempt() {
    let start = Start { ledger_url: "postgres://user:s3cret@127.0.0.1:1/none".to_owned(), ..start_frame() };
    let mut dispatcher = Dispatcher::start_with(Worker::new().handler("order", order), start).await;
    let outcome = dispatcher.run(invoke("order", &())).await;
    assert_eq!(outage_kind(&outcome), "LedgerUnreachable");
    assert!(matches!(outcome, Outcome::Outage { error, .. } if !error.message.contains("s3cret")));
}

/// Commits a result that cannot be kept, first in one way and then in the other, and answers what became of it.
async fn unkeepable(ctx: Context, what: String) -> Result<(), Failure> {
    let mut tx = ctx.transaction().await?;
    tx.execute("INSERT INTO orders (id, total) VALUES ($1, 1)", params![ctx.key().as_str()]).await?;
    tx.emit("payments.requested", &1)?;
    match what.as_str() {
        "large" => tx.commit("x".repeat(1000)).await.map(drop),
        "unserialisable" => tx.commit(std::collections::BTreeMap::from([(vec![1], 1)])).await.map(drop),
        "swallowed" => {
            let _ = tx.commit("x".repeat(1000)).await;
            Ok(())
        }
        _ => tx.commit("x".repeat(998)).await.map(drop),
    }
}

#[tokio::test]
async fn case_25_a_result_that_cannot_be_kept_fails_the_attempt_and_rolls_its_transaction_back() {
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("unkeepable", unkeepable)).await;
    let mut outcomes = Vec::new();
    for what in ["large", "unserialisable", "swallowed"] {
        let frame = Invoke { event: super::event(&what), ..world.claimed("unkeepable", what).await };
        outcomes.push(dispatcher.run(frame).await);
    }
    assert_eq!(super::failed_kind(&outcomes[0]), "ResultTooLarge");
    assert_eq!(retry_kind(&outcomes[1]), "ResultNotSerializable");
    assert_eq!(retry_kind(&outcomes[2]), "TransactionNotCommitted");
    assert_eq!((world.orders().await, world.outbox().await.len()), (0, 0));
    let fits = Invoke { event: super::event(&"fits"), ..world.claimed("unkeepable", "fits").await };
    assert!(matches!(dispatcher.run(fits).await, Outcome::Committed { result } if result.len() == 1000));
    assert_eq!(world.orders().await, 1);
}

#[tokio::test]
async fn events_emitted_in_a_transaction_and_outside_are_one_step_further() {
    let world = World::new().await;
    let mut dispatcher = world.worker(Worker::new().handler("order", order)).await;
    let mut frame = world.claimed("order", "o-1").await;
    frame.event.extensions.insert("weftdepth".to_owned(), "6".to_owned());
    assert!(matches!(dispatcher.run(frame).await, Outcome::Committed { .. }));
    let depths: Vec<u32> =
        world.outbox().await.iter().map(|message| weft_schemas::Event::decode(message).unwrap().depth()).collect();
    assert_eq!(depths, [7, 7]);
}
