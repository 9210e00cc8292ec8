//! The ledger in Postgres at its worst moments: a commit whose outcome nobody knows, and a claim that is held up while
//! the sweep passes by.

use std::time::Duration;

use weft_ledger::conformance::{HOUR, Subject, function, granted, outgoing, request, succeeded};
use weft_ledger::sqlx::{self, Connection, PgConnection};
use weft_ledger::{
    JoinError, Joiner, Ledger, OutboxKind, OutboxMessage, Postgres, Settle, Settled, Settlement, Verdict,
};
use weft_schemas::{Attempt, Fence, Key};
use weft_tests::Proxy;

const SOON: Duration = Duration::from_secs(20);

/// What came of the commit that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Committed,
    Undone,
}

/// Of the locks of the whole server, those of the test's own database: others run the same at the same time.
const OWN: &str = "pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";

/// A ledger, a way to it that breaks, and a hand that holds every commit which wrote to one table.
struct Held {
    subject: Subject,
    proxy: Proxy,
    /// The ledger's address through the proxy.
    broken: String,
    hand: PgConnection,
}

impl Held {
    async fn new(table: &str) -> Self {
        let url = weft_tests::postgres().await;
        let proxy = Proxy::before(url::Url::parse(&url).unwrap().port().unwrap_or(5432)).await;
        let broken = proxy.url(&url);
        let subject = Subject::open(&url).await;
        // A deferred trigger runs inside COMMIT: what it waits for, the commit waits for.
        let script = format!(
            "CREATE TABLE effects (note text);
             CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER held AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION held();"
        );
        subject.joiner().run_script(&script).await.unwrap();
        let mut hand = PgConnection::connect(&url).await.unwrap();
        sqlx::query("SELECT pg_advisory_lock(42)").execute(&mut hand).await.unwrap();
        Self { subject, proxy, broken, hand }
    }

    /// Cuts the connection of the commit that waits.
    async fn cut(&mut self) -> i32 {
        let pid = weft_tests::poll("a commit waits", SOON, async || {
            let held = format!(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted AND {OWN}"
            );
            self.subject.joiner().query(&held, &[]).await.map_err(|error| error.to_string()).and_then(|rows| {
                rows.first().map(|row| row.get::<i64>("pid").unwrap()).ok_or_else(|| "nobody waits".to_owned())
            })
        })
        .await;
        self.proxy.reset();
        i32::try_from(pid).unwrap()
    }

    /// Lets the cut commit happen, or not, and waits until its server process is gone.
    async fn decide(&mut self, truth: Truth, pid: i32) {
        if truth == Truth::Undone {
            sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut self.hand).await.unwrap();
        } else {
            sqlx::query("SELECT pg_advisory_unlock(42)").execute(&mut self.hand).await.unwrap();
        }
        weft_tests::poll("the cut connection's process is gone", SOON, async || {
            let alive = "SELECT pid FROM pg_stat_activity WHERE pid = $1";
            let rows = self.subject.joiner().query(alive, &[i64::from(pid).into()]).await.unwrap();
            if rows.is_empty() { Ok(()) } else { Err("alive") }
        })
        .await;
        if truth == Truth::Undone {
            sqlx::query("SELECT pg_advisory_unlock(42)").execute(&mut self.hand).await.unwrap();
        }
    }

    async fn effects(&self) -> i64 {
        let rows = self.subject.joiner().query("SELECT count(*) AS n FROM effects", &[]).await.unwrap();
        rows[0].get("n").unwrap()
    }
}

fn key() -> Key {
    Key::new("k").unwrap()
}

fn event() -> Vec<OutboxMessage> {
    vec![outgoing(OutboxKind::Emit, "event", Duration::ZERO)]
}

/// A joined transaction with one effect, over `url`.
async fn transaction(url: &str, fence: Fence) -> weft_ledger::Joined {
    let mut joined = Joiner::connect(url).unwrap().begin(&function(), &key(), fence).await.unwrap();
    joined.execute("INSERT INTO effects (note) VALUES ($1)", &["one".into()]).await.unwrap();
    joined
}

async fn a_joined_commit_without_an_answer(truth: Truth) {
    let mut held = Held::new("effects").await;
    let session = held.subject.enter("a").await;
    let claim = held.subject.run(&*session, "k", "x").await;
    let joined = transaction(&held.broken, claim.fence).await;
    let settling = tokio::spawn(joined.settle("1".into(), HOUR, event()));
    let pid = held.cut().await;
    let answer = settling.await.unwrap();
    assert!(matches!(answer, Err(JoinError::Unknown { .. })), "{answer:?}");
    held.decide(truth, pid).await;

    // Whoever was not answered asks by the fence: a second transaction of the same attempt, or its failure's settle.
    let mut second = Joiner::connect(&held.subject.url).unwrap().begin(&function(), &key(), claim.fence).await;
    match truth {
        Truth::Committed => {
            assert!(matches!(second.err(), Some(JoinError::AuthorityLost)));
            assert_eq!(held.subject.settle("k", claim.fence, Settlement::Released).await, Settled::AuthorityLost);
            assert!(matches!(held.subject.claim(&*session, "k", "x").await, Verdict::Replay { .. }));
        }
        Truth::Undone => {
            let joined = second.as_mut().expect("the claim still holds");
            joined.execute("INSERT INTO effects (note) VALUES ($1)", &["two".into()]).await.unwrap();
            second.unwrap().settle("2".into(), HOUR, event()).await.unwrap();
        }
    }
    assert_eq!(held.effects().await, 1, "{truth:?}");
    assert_eq!(held.subject.drain().await.len(), 1, "{truth:?}");
}

#[tokio::test]
async fn case_30_a_joined_commit_that_was_not_answered_and_happened_has_one_effect() {
    a_joined_commit_without_an_answer(Truth::Committed).await;
}

#[tokio::test]
async fn case_30_a_joined_commit_that_was_not_answered_and_did_not_happen_has_one_effect() {
    a_joined_commit_without_an_answer(Truth::Undone).await;
}

async fn a_settle_without_an_answer(truth: Truth) {
    let mut held = Held::new("weft.outbox").await;
    let session = held.subject.enter("a").await;
    let claim = held.subject.run(&*session, "k", "x").await;
    let broken = Postgres::connect(&held.broken).await.unwrap();
    let settle = || {
        let to = Settlement::Succeeded { result: "1".into(), keep: HOUR, outbox: event() };
        [Settle { key: key(), fence: claim.fence, to }]
    };
    let batch = settle();
    let settling = tokio::spawn(async move { broken.settle(&function(), &batch).await });
    let pid = held.cut().await;
    let answer = settling.await.unwrap();
    assert!(answer.as_ref().is_err_and(weft_ledger::Error::is_transient), "{answer:?}");
    held.decide(truth, pid).await;

    // The dispatcher sends the same settle again, whatever came of the first.
    let expected = if truth == Truth::Committed { Settled::AuthorityLost } else { Settled::Done };
    assert_eq!(held.subject.ledger.settle(&function(), &settle()).await.unwrap(), [expected]);
    assert!(matches!(held.subject.claim(&*session, "k", "x").await, Verdict::Replay { .. }));
    assert_eq!(held.subject.drain().await.len(), 1, "{truth:?}");
}

#[tokio::test]
async fn case_30_a_settle_that_was_not_answered_and_happened_sends_its_event_once() {
    a_settle_without_an_answer(Truth::Committed).await;
}

#[tokio::test]
async fn case_30_a_settle_that_was_not_answered_and_did_not_happen_sends_its_event_once() {
    a_settle_without_an_answer(Truth::Undone).await;
}

async fn a_claim_without_an_answer(truth: Truth) {
    let mut held = Held::new("weft.invocation").await;
    let session = held.subject.enter("a").await;
    let broken = std::sync::Arc::new(Postgres::connect(&held.broken).await.unwrap());
    let (asking, owner) = (broken.clone(), session.owner().clone());
    let claiming = tokio::spawn(async move { asking.claim(&owner, &function(), &[request("k", "x")]).await });
    let pid = held.cut().await;
    let answer = claiming.await.unwrap();
    assert!(answer.as_ref().is_err_and(weft_ledger::Error::is_transient), "{answer:?}");
    held.decide(truth, pid).await;

    let verdicts = broken.claim(session.owner(), &function(), &[request("k", "x")]).await.unwrap();
    let claim = granted(verdicts.into_iter().next().unwrap());
    assert_eq!(claim.attempt, Attempt(1), "no attempt was started for the lost claim");
    assert_eq!(held.subject.settle("k", Fence(claim.fence.0 - 1), Settlement::Released).await, Settled::AuthorityLost);
}

#[tokio::test]
async fn case_30_a_claim_that_was_not_answered_and_happened_is_taken_back() {
    a_claim_without_an_answer(Truth::Committed).await;
}

#[tokio::test]
async fn case_30_a_claim_that_was_not_answered_and_did_not_happen_is_granted() {
    a_claim_without_an_answer(Truth::Undone).await;
}

#[tokio::test]
async fn case_19_a_claim_that_is_held_up_while_the_sweep_passes_gets_a_higher_fence() {
    let url = weft_tests::postgres().await;
    let subject = Subject::open(&url).await;
    let session = subject.enter("a").await;
    subject.run(&*session, "a", "x").await;
    let old = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", old.fence, succeeded("1", Duration::ZERO)).await, Settled::Done);

    // One statement claims both, in the order of the keys, and somebody sits on the first.
    let mut hand = PgConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut hand).await.unwrap();
    sqlx::query("SELECT FROM weft.invocation WHERE key = 'a' FOR UPDATE").execute(&mut hand).await.unwrap();
    let (ledger, owner) = (subject.ledger.clone(), session.owner().clone());
    let claiming = tokio::spawn(async move {
        ledger.claim(&owner, &function(), &[request("a", "x"), request("k", "x")]).await.unwrap()
    });
    weft_tests::poll("the claim is held up", SOON, async || {
        let waiting = format!("SELECT pid FROM pg_locks WHERE NOT granted AND {OWN}");
        let rows = subject.joiner().query(&waiting, &[]).await.unwrap();
        if rows.is_empty() { Err("it does not wait") } else { Ok(()) }
    })
    .await;

    // It waits for the claim, which gives up on the locked key after a while and asks for the other by itself.
    subject.ledger.sweep(10).await.unwrap();
    sqlx::query("COMMIT").execute(&mut hand).await.unwrap();
    let verdicts = claiming.await.unwrap();
    let again = granted(verdicts.into_iter().nth(1).unwrap());
    assert!(again.fence > old.fence, "{:?} after {:?}", again.fence, old.fence);
    assert_eq!(subject.settle("k", again.fence, succeeded("2", Duration::ZERO)).await, Settled::Done);
    assert_eq!(subject.ledger.sweep(10).await.unwrap(), 1, "and now it goes");
}
