//! The handler's transaction.

use super::*;
use crate::{JoinError, State, Value};

/// A table of the handler's own.
async fn effects(subject: &Subject) -> Joiner {
    let joiner = subject.joiner();
    joiner.run_script("CREATE TABLE effects (id BIGINT PRIMARY KEY, note TEXT)").await.unwrap();
    joiner
}

async fn count(joiner: &Joiner) -> i64 {
    joiner.query("SELECT count(*) AS n FROM effects", &[]).await.unwrap()[0].get("n").unwrap()
}

async fn begin(joiner: &Joiner, key: &str, claim: &Claim) -> Result<crate::Joined, JoinError> {
    joiner.begin(&function(), &Key::new(key).unwrap(), claim.fence).await
}

fn event() -> Vec<OutboxMessage> {
    vec![outgoing(OutboxKind::Emit, "event", Duration::ZERO)]
}

const INSERT: &str = "INSERT INTO effects (id, note) VALUES ($1, $2)";

pub async fn effects_events_and_settle_commit_together(subject: &Subject) {
    let session = subject.enter("a").await;
    let joiner = effects(subject).await;
    let claim = subject.run(&*session, "k", "x").await;
    let mut joined = begin(&joiner, "k", &claim).await.unwrap();
    assert_eq!(joined.execute(INSERT, &[1.into(), "one".into()]).await.unwrap(), 1);
    // Seen inside, and nothing of it outside yet.
    assert_eq!(joined.query("SELECT note FROM effects", &[]).await.unwrap().len(), 1);
    assert_eq!(count(&joiner).await, 0);
    assert_eq!(subject.drain().await, []);
    joined.settle(Bytes::from_static(b"{\"id\":1}"), HOUR, event()).await.unwrap();

    assert_eq!(count(&joiner).await, 1);
    assert_eq!(subject.drain().await, [(OutboxKind::Emit, "event".to_owned())]);
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.state, record.result.as_deref()), (State::Succeeded, Some("{\"id\":1}")));
    assert!(record.expires_at.is_some());
    assert!(matches!(subject.claim(&*session, "k", "x").await, Verdict::Replay { .. }));
}

pub async fn case_11_a_stale_settle_rolls_back_its_effects(subject: &Subject) {
    let session = subject.enter("a").await;
    let joiner = effects(subject).await;
    let stale = subject.run(&*session, "k", "x").await;
    let mut joined = begin(&joiner, "k", &stale).await.unwrap();
    // The paused worker's successor, which in SQLite can only come before the transaction's first write lock: there the
    // fence is moved from inside, which is the same to the settle.
    if let Some(connection) = joined.sqlite() {
        sqlx::query("UPDATE invocation SET fence = fence + 1").execute(connection).await.unwrap();
    } else {
        drop(session);
        let successor = subject.enter("a").await;
        assert!(subject.run(&*successor, "k", "x").await.fence > stale.fence);
    }
    joined.execute(INSERT, &[1.into(), Value::Null]).await.unwrap();
    let refused = joined.settle(Bytes::new(), HOUR, event()).await;
    assert!(matches!(refused, Err(JoinError::AuthorityLost)), "{refused:?}");
    assert_eq!(count(&joiner).await, 0);
    assert_eq!(subject.drain().await, []);
    assert_eq!(subject.record("k").await.unwrap().state, State::Claimed);
}

pub async fn a_stale_attempt_cannot_begin(subject: &Subject) {
    let session = subject.enter("a").await;
    let joiner = subject.joiner();
    let claim = subject.run(&*session, "k", "x").await;
    let stale = Claim { fence: Fence(claim.fence.0 - 1), ..claim };
    assert!(matches!(begin(&joiner, "k", &stale).await, Err(JoinError::AuthorityLost)));
    assert_eq!(subject.settle("k", claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    assert!(matches!(begin(&joiner, "k", &claim).await, Err(JoinError::AuthorityLost)));
}

pub async fn a_dropped_transaction_leaves_nothing(subject: &Subject) {
    let session = subject.enter("a").await;
    let joiner = effects(subject).await;
    let claim = subject.run(&*session, "k", "x").await;
    let mut joined = begin(&joiner, "k", &claim).await.unwrap();
    joined.execute(INSERT, &[1.into(), "one".into()]).await.unwrap();
    drop(joined);
    // The row's lock and, in SQLite, the file's are free again: the next transaction of the attempt goes through.
    let mut joined = begin(&joiner, "k", &claim).await.unwrap();
    joined.execute(INSERT, &[1.into(), "two".into()]).await.unwrap();
    joined.rollback().await.unwrap();
    assert_eq!(count(&joiner).await, 0);
    assert_eq!(subject.record("k").await.unwrap().state, State::Claimed);
    assert_eq!(subject.settle("k", claim.fence, waiting(HOUR)).await, Settled::Done);
}

pub async fn values_and_rows_are_portable(subject: &Subject) {
    let joiner = subject.joiner();
    let (real, blob) =
        if subject.url.starts_with("sqlite:") { ("REAL", "BLOB") } else { ("DOUBLE PRECISION", "BYTEA") };
    let table = format!(
        "CREATE TABLE things (id INTEGER, big BIGINT, size {real}, name TEXT, raw {blob}, fact BOOLEAN, gone INTEGER)"
    );
    joiner.run_script(&table).await.unwrap();
    let raw: &[u8] = &[0, 255, 1];
    let values: [Value; 7] =
        [7.into(), i64::MIN.into(), 1.5.into(), "Łódź \"'".into(), raw.into(), true.into(), None::<i64>.into()];
    let insert = "INSERT INTO things (id, big, size, name, raw, fact, gone) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    assert_eq!(joiner.execute(insert, &values).await.unwrap(), 1);
    // No statement knows a null's type but from its place.
    assert_eq!(joiner.execute(insert, &[const { Value::Null }; 7]).await.unwrap(), 1);

    let rows = joiner.query("SELECT * FROM things WHERE id = $1 AND name = $2", &values_at(&values)).await.unwrap();
    let row = &rows[0];
    assert_eq!(row.names(), ["id", "big", "size", "name", "raw", "fact", "gone"]);
    assert_eq!(row.get::<i64>(0usize).unwrap(), 7);
    assert_eq!(row.get::<i64>("big").unwrap(), i64::MIN);
    assert_eq!(row.get::<f64>("size").unwrap().to_bits(), 1.5f64.to_bits());
    assert_eq!(row.get::<String>("name").unwrap(), "Łódź \"'");
    assert_eq!(row.get::<Vec<u8>>("raw").unwrap(), raw);
    assert!(row.get::<bool>("fact").unwrap());
    assert_eq!(row.get::<Option<i64>>("gone").unwrap(), None);
    assert_eq!(row.get::<Option<i64>>("id").unwrap(), Some(7));
    assert!(matches!(row.get::<i64>("name"), Err(JoinError::Column { .. })));
    assert!(matches!(row.get::<i64>("unknown"), Err(JoinError::Column { .. })));
    let sums = joiner.query("SELECT sum(id) AS ids, sum(big) AS bigs FROM things", &[]).await.unwrap();
    assert_eq!((sums[0].get::<i64>("ids").unwrap(), sums[0].get::<i64>("bigs").unwrap()), (7, i64::MIN));
    assert_eq!(joiner.query("SELECT id FROM things WHERE id = 8", &[]).await.unwrap(), []);
    assert_eq!(joiner.execute("DELETE FROM things", &[]).await.unwrap(), 2);
}

fn values_at(values: &[Value]) -> [Value; 2] {
    [values[0].clone(), values[3].clone()]
}

pub async fn a_refused_statement_says_why(subject: &Subject) {
    let joiner = effects(subject).await;
    joiner.execute(INSERT, &[1.into(), "one".into()]).await.unwrap();
    let twice = joiner.execute(INSERT, &[1.into(), "two".into()]).await.unwrap_err();
    assert!(twice.is_unique_violation() && !twice.is_transient(), "{twice:?}");
    let unknown = joiner.query("SELECT * FROM nowhere", &[]).await.unwrap_err();
    assert!(matches!(unknown, JoinError::Statement { .. }), "{unknown:?}");
}

pub async fn a_script_is_all_or_nothing(subject: &Subject) {
    let joiner = effects(subject).await;
    let script = "INSERT INTO effects (id) VALUES (1); INSERT INTO nowhere (id) VALUES (1);";
    assert!(joiner.run_script(script).await.is_err());
    assert_eq!(count(&joiner).await, 0);
}
