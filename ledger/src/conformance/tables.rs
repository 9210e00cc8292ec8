//! The tables themselves: versions, listing, retention.

use super::*;
use crate::codec::encode;
use crate::{DeadLetterQuery, Difference, State};

pub async fn migrating_again_changes_nothing(subject: &Subject) {
    let session = subject.enter("a").await;
    subject.run(&*session, "k", "x").await;
    let racers: Vec<_> = (0..4)
        .map(|_| {
            let ledger = subject.ledger.clone();
            tokio::spawn(async move { ledger.migrate().await.unwrap() })
        })
        .collect();
    for racer in racers {
        assert_eq!(racer.await.unwrap(), [0i64; 0]);
    }
    subject.ledger.check().await.unwrap();
    subject.ledger.ping().await.unwrap();
    assert!(subject.record("k").await.is_some());
}

pub async fn tables_of_a_newer_program_are_refused(subject: &Subject) {
    let raise = if subject.url.starts_with("sqlite:") {
        "PRAGMA user_version = 99"
    } else {
        "INSERT INTO weft.migration (version) VALUES (99)"
    };
    subject.joiner().run_script(raise).await.unwrap();
    for result in [subject.ledger.migrate().await.map(drop), subject.ledger.check().await] {
        assert!(matches!(result, Err(Error::Newer { found: 99, known: 5 })), "{result:?}");
    }
}

pub async fn an_unmigrated_ledger_says_so(subject: &Subject) {
    let drop_all = if subject.url.starts_with("sqlite:") {
        "DROP TABLE invocation; DROP TABLE node; DROP TABLE outbox; PRAGMA user_version = 0"
    } else {
        "DROP SCHEMA weft CASCADE"
    };
    subject.joiner().run_script(drop_all).await.unwrap();
    let result = subject.ledger.check().await;
    assert!(matches!(result, Err(Error::Older { found: 0, needed: 5 })), "{result:?}");
    let result = subject.ledger.next_due().await;
    assert!(matches!(result, Err(Error::Older { .. })), "{result:?}");
}

pub async fn listing_and_totals_follow_the_filters(subject: &Subject) {
    let session = subject.enter("a").await;
    let start = jiff::Timestamp::now() - HOUR;
    for key in ["k1", "k2", "k3"] {
        subject.run(&*session, key, "x").await;
    }
    let claim = subject.record("k2").await.unwrap();
    assert_eq!(subject.settle("k2", claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    let other = FunctionName::new("other").unwrap();
    subject.ledger.claim(session.owner(), &other, &[request("k1", "x")]).await.unwrap();

    let totals = subject.ledger.totals().await.unwrap();
    let expected =
        [(function(), State::Claimed, 2), (function(), State::Succeeded, 1), (other.clone(), State::Claimed, 1)];
    assert_eq!(totals, expected);

    let list = async |query: InvocationQuery| -> Vec<String> {
        let records = subject.ledger.invocations(&query).await.unwrap();
        records.iter().map(|record| format!("{}/{}", record.function, record.key)).collect()
    };
    let all = list(InvocationQuery::default()).await;
    assert_eq!(all, ["other/k1", "create-order/k2", "create-order/k3", "create-order/k1"]);
    let of = |function: &FunctionName| InvocationQuery { function: Some(function.clone()), ..Default::default() };
    assert_eq!(list(of(&other)).await, ["other/k1"]);
    let state = Some(State::Succeeded);
    assert_eq!(list(InvocationQuery { state, ..Default::default() }).await, ["create-order/k2"]);
    assert_eq!(list(InvocationQuery { limit: 2, ..Default::default() }).await.len(), 2);
    assert_eq!(list(InvocationQuery { changed_after: Some(start), ..Default::default() }).await.len(), 4);
    let changed_after = Some(subject.record("k2").await.unwrap().updated_at);
    assert_eq!(list(InvocationQuery { changed_after, ..Default::default() }).await, ["other/k1"]);
}

pub async fn case_20_the_sweep_is_bounded_and_takes_expired_successes_only(subject: &Subject) {
    let session = subject.enter("a").await;
    for n in 0..5 {
        let key = format!("old{n}");
        let claim = subject.run(&*session, &key, "x").await;
        assert_eq!(subject.settle(&key, claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    }
    subject.run(&*session, "claimed", "x").await;
    let claim = subject.run(&*session, "waiting", "x").await;
    assert_eq!(subject.settle("waiting", claim.fence, waiting(Duration::ZERO)).await, Settled::Done);
    let claim = subject.run(&*session, "dead", "x").await;
    assert_eq!(subject.settle("dead", claim.fence, dead("dead", &claim)).await, Settled::Done);
    let claim = subject.run(&*session, "kept", "x").await;
    assert_eq!(subject.settle("kept", claim.fence, succeeded("1", HOUR * 100)).await, Settled::Done);

    assert_eq!(subject.ledger.sweep(10).await.unwrap(), 0);
    subject.ledger.advance(HOUR * 50).await.unwrap();
    assert_eq!(subject.ledger.sweep(3).await.unwrap(), 3);
    assert_eq!(subject.ledger.sweep(3).await.unwrap(), 2);
    assert_eq!(subject.ledger.sweep(3).await.unwrap(), 0);
    for (key, state) in
        [("claimed", State::Claimed), ("waiting", State::Waiting), ("dead", State::Dead), ("kept", State::Succeeded)]
    {
        assert_eq!(subject.record(key).await.map(|record| record.state), Some(state), "{key}");
    }
}

pub async fn what_was_closed_is_found_without_reading_what_is_open(subject: &Subject) {
    let sqlite = subject.url.starts_with("sqlite:");
    let (table, time, numbers) = if sqlite {
        let numbers =
            "(WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 20000) SELECT n FROM r)";
        ("dead_letter", "1700000000000000", numbers)
    } else {
        ("weft.dead_letter", "now()", "(SELECT n FROM generate_series(1, 20000) AS r(n))")
    };
    // One in a thousand is closed, half of them by a purge.
    let script = format!(
        "INSERT INTO {table} (id, function, epoch, reason, buried_at, arrivals, copied, letter, redriven_at, purged_at)
         SELECT 'l' || n, 'create-order', 0, 'exhausted', {time}, 1, 1, '',
                CASE WHEN n % 2000 = 0 THEN {time} END, CASE WHEN n % 2000 = 1000 THEN {time} END
         FROM {numbers} AS numbers;
         ANALYZE {table};"
    );
    let script = if sqlite { script.replace("1, 1, ''", "1, 1, x''") } else { script };
    subject.joiner().run_script(&script).await.unwrap();
    let plan = subject.ledger.plan_of_closed_since().await.unwrap();
    assert!(plan.contains("dead_letter_closed"), "{plan}");
    let closed = subject.ledger.closed_since(jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(closed.functions, [function()]);
}

/// A ledger with the tables of version 1 alone.
async fn first_version(subject: &Subject) -> (String, Joiner) {
    let (url, script) = if subject.url.starts_with("sqlite:") {
        let script = concat!(include_str!("../../migrations/sqlite/0001_ledger.sql"), "PRAGMA user_version = 1;");
        (format!("{}.first", subject.url), script.to_owned())
    } else {
        let begin = "DROP SCHEMA weft CASCADE; CREATE SCHEMA weft;
                     CREATE TABLE weft.migration (version bigint PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
                     INSERT INTO weft.migration (version) VALUES (1);";
        (subject.url.clone(), format!("{begin}{}", include_str!("../../migrations/postgres/0001_ledger.sql")))
    };
    let joiner = Joiner::connect(&url).unwrap();
    joiner.run_script(&script).await.unwrap();
    (url, joiner)
}

pub async fn rows_of_the_first_version_are_read_out_by_the_second(subject: &Subject) {
    let (url, joiner) = first_version(subject).await;
    let (schema, time) = if url.starts_with("sqlite:") { ("", "1700000000000000") } else { ("weft.", "now()") };
    let claim = Claim {
        fence: Fence(1),
        attempt: Attempt(2),
        crashes: 0,
        epoch: weft_schemas::Epoch(0),
        first_seen_at: jiff::Timestamp::UNIX_EPOCH,
        vanished: false,
    };
    let (died, never) = (letter("dead", &claim, Reason::Exhausted), refused("a"));
    for (key, state) in [("dead", "dead"), ("claimed", "claimed")] {
        let sql = format!(
            "INSERT INTO {schema}invocation
                 (function, key, state, attempt, crashes, epoch, fence, digest, first_seen_at, updated_at)
             VALUES ('create-order', $1, $2, 1, 0, 0, 1, $3, {time}, {time})"
        );
        joiner.execute(&sql, &[key.into(), state.into(), Bytes::from_static(&[7; 32]).into()]).await.unwrap();
    }
    let unreadable = Bytes::from_static(b"\xc1");
    let letters = [
        (died.id.0.as_str(), Some("dead"), Bytes::from(encode(&died).unwrap())),
        (never.id.0.as_str(), None, Bytes::from(encode(&never).unwrap())),
        ("unreadable", None, unreadable.clone()),
    ];
    for (id, key, stored) in letters {
        let sql = format!(
            "INSERT INTO {schema}dead_letter (id, function, key, epoch, reason, buried_at, arrivals, copied, letter)
             VALUES ($1, 'create-order', $2, 0, 'exhausted', {time}, 1, 1, $3)"
        );
        let key = key.map_or(crate::Value::Null, crate::Value::from);
        joiner.execute(&sql, &[id.into(), key, stored.into()]).await.unwrap();
    }
    let copy = Bytes::from(encode(&died.to_message("weft")).unwrap());
    for (kind, stored) in [("dead_letter", copy), ("emit", unreadable)] {
        let sql = format!("INSERT INTO {schema}outbox (due_at, kind, message) VALUES ({time}, $1, $2)");
        joiner.execute(&sql, &[kind.into(), stored.into()]).await.unwrap();
    }

    let upgraded = Subject::open(&url).await;
    upgraded.ledger.check().await.unwrap();
    upgraded.joiner().execute(&format!("DELETE FROM {schema}dead_letter WHERE id = 'unreadable'"), &[]).await.unwrap();
    let found = upgraded.ledger.dead_letters(&DeadLetterQuery::default()).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|record| record.fingerprint == failure().fingerprint()), "{found:#?}");
    let error_kind = Some(failure().kind);
    let by_kind = upgraded.ledger.dead_letters(&DeadLetterQuery { error_kind, ..Default::default() }).await.unwrap();
    assert_eq!(by_kind.len(), 2);
    assert_eq!(upgraded.record("dead").await.unwrap().failures, []);

    // The letter of the one that died is known for its own, and what was there is what was accepted.
    let audit = upgraded.ledger.audit(0).await.unwrap();
    let odd: Vec<_> = audit.differences.iter().filter(|odd| !matches!(odd, Difference::Overdue { .. })).collect();
    assert!(odd.is_empty(), "{odd:?}");
    assert_eq!((audit.functions[0].accepted, audit.functions[0].outbox_copies), (2, 1));
    assert_eq!(audit.functions[0].open_letters, 2);
}
