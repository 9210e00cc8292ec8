//! The ledger's conformance suite over a real Postgres, and what is particular to it: plans, lost connections, errors.

use std::time::{Duration, Instant};

use weft_ledger::conformance::{HOUR, Subject, function, granted, outgoing, request, succeeded};
use weft_ledger::{Claim, Error, Joiner, OutboxKind, Postgres, Settle, Settled, Settlement, Verdict};
use weft_schemas::Key;

async fn fresh() -> ((), Subject) {
    ((), Subject::open(&weft_tests::postgres().await).await)
}

weft_ledger::conformance_tests!(fresh);

/// Runs a batch of claims and settles, so that the connections prepare and plan.
async fn work(subject: &Subject, session: &dyn weft_ledger::NodeSession, round: usize) {
    let requests: Vec<_> = (0..1000).map(|n| request(&format!("{round}/{n}"), "x")).collect();
    let verdicts = subject.ledger.claim(session.owner(), &function(), &requests).await.unwrap();
    let settles: Vec<_> = requests
        .iter()
        .zip(verdicts)
        .map(|(request, verdict)| Settle {
            key: request.key.clone(),
            fence: granted(verdict).fence,
            to: succeeded("1", HOUR),
        })
        .collect();
    let settled = subject.ledger.settle(&function(), &settles).await.unwrap();
    assert!(settled.iter().all(|settled| *settled == Settled::Done));
}

/// What each statement must reach its rows by.
const PATHS: [(&str, &[&str]); 11] = [
    ("claim", &["Conflict Arbiter Indexes: invocation_pkey", "Index Scan using node_pkey", "tally_pkey"]),
    ("look", &["Index Cond: ((function = $1) AND (key = r.key))", "Index Scan using node_pkey"]),
    (
        "locked",
        &["Index Cond: ((function = $1) AND (key = r.key))", "Index Cond: ((function = $1) AND (key = r_1.key))"],
    ),
    ("next", &["Index Scan using outbox_due"]),
    ("settle", &["Index Cond: ((function = $1) AND (key = r.key))", "Tid Scan"]),
    ("take", &["Index Scan using outbox_due", "Index Cond: (due_at <= $0)"]),
    ("published", &["Index Scan using outbox_pkey", "Index Cond: (id = ANY ($1))"]),
    ("failed", &["Index Scan using outbox_pkey", "Index Cond: (id = f.id)"]),
    ("raise", &["Tid Range Scan on invocation"]),
    ("delete", &["Tid Scan on invocation", "Tid Range Scan on invocation"]),
    ("renew", &["Index Scan using node_pkey", "Index Cond: (id = $1)"]),
];

/// A million settled rows and half as many messages that are not due, in the tables' own statements' absence.
const MILLION: &str = "
    INSERT INTO weft.invocation (function, key, state, attempt, crashes, epoch, fence, owner, incarnation, digest,
                                 first_seen_at, updated_at, expires_at, result)
    SELECT 'create-order', 'filled/' || n, 'succeeded', 1, 0, 0, n, 'a', 1, sha256(n::text::bytea), now(), now(),
           now() + interval '7 days', '1'
    FROM generate_series(1, 1000000) n;
    INSERT INTO weft.outbox (due_at, kind, message)
    SELECT now() + interval '1 day', 'emit', 'x' FROM generate_series(1, 500000)";

#[tokio::test]
async fn hot_statements_never_scan_a_table_at_any_size() {
    let (_, subject) = fresh().await;
    let session = subject.enter("a").await;
    let postgres = Postgres::connect(&subject.url).await.unwrap();
    // Of a dispatcher that was there when everything was empty, and of one that starts at this size.
    let early = postgres.plans().await.unwrap();
    let check = async |size: &str| {
        let late = postgres.plans().await.unwrap();
        for plans in [&early, &late] {
            let plans = plans.explain().await.unwrap();
            assert_eq!(plans.len(), PATHS.len());
            for ((name, plan), (expected, paths)) in plans.into_iter().zip(PATHS) {
                assert_eq!(name, expected);
                assert!(!plan.contains("Seq Scan") && !plan.contains("Bitmap"), "{name} at {size}:\n{plan}");
                for path in paths {
                    assert!(plan.contains(path), "{name} at {size} lacks {path:?}:\n{plan}");
                }
            }
        }
    };
    check("empty").await;
    for round in 0..10 {
        work(&subject, &*session, round).await;
    }
    check("ten thousand, never analysed").await;
    subject.joiner().execute("ANALYZE weft.invocation", &[]).await.unwrap();
    check("ten thousand, analysed").await;
    subject.joiner().run_script(MILLION).await.unwrap();
    check("a million, analysed when there were ten thousand").await;
    work(&subject, &*session, 10).await;
    subject.joiner().run_script("ANALYZE weft.invocation; ANALYZE weft.outbox").await.unwrap();
    check("a million, analysed").await;
}

#[tokio::test]
async fn a_search_path_in_the_url_changes_nothing() {
    let url = weft_tests::postgres().await;
    let subject = Subject::open(&format!("{url}?options=-c%20search_path%3Dpg_temp")).await;
    let session = subject.enter("a").await;
    work(&subject, &*session, 0).await;
    let joiner = Joiner::connect(&url).unwrap();
    let rows = joiner.query("SELECT count(*) FROM weft.invocation", &[]).await.unwrap();
    assert_eq!(rows[0].get::<i64>(0usize).unwrap(), 1000);
}

#[tokio::test]
async fn a_session_proves_its_name_again_after_losing_its_connection() {
    let (_, subject) = fresh().await;
    let session = subject.enter("a").await;
    let joiner = subject.joiner();
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks
                WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let killed = joiner.query(kill, &[]).await.unwrap();
    assert_eq!(killed[0].get::<i64>(0usize).unwrap(), 1);
    assert!(session.renew().await.unwrap(), "nobody else took the name");
    assert!(matches!(
        subject.ledger.enter(&session.owner().node, Duration::from_secs(30)).await,
        Err(Error::NodeTaken { .. })
    ));
    // Lost again, and this time a successor is faster.
    joiner.query(kill, &[]).await.unwrap();
    let successor = subject.enter("a").await;
    assert!(!session.renew().await.unwrap());
    assert!(successor.renew().await.unwrap());
}

#[tokio::test]
async fn a_lost_pool_connection_heals_by_itself() {
    let (_, subject) = fresh().await;
    let session = subject.enter("a").await;
    work(&subject, &*session, 0).await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'weft-dispatcher'";
    subject.joiner().query(kill, &[]).await.unwrap();
    assert!(session.renew().await.unwrap());
    // A connection that was used a moment ago is taken without a look at it, so a call may find out.
    weft_tests::poll("no lost connection is left", Duration::from_secs(10), || async {
        let claim = subject.ledger.claim(session.owner(), &function(), &[request("probe", "x")]).await;
        let late = Settle { key: Key::new("probe").unwrap(), fence: weft_schemas::Fence(-1), to: Settlement::Released };
        let settle = subject.ledger.settle(&function(), &[late]).await;
        claim.map(drop).and(settle.map(drop)).map_err(|error| error.to_string())
    })
    .await;
    work(&subject, &*session, 1).await;
    subject.ledger.ping().await.unwrap();
}

#[tokio::test]
async fn a_key_behind_a_row_lock_keeps_no_other_waiting() {
    let (_, subject) = fresh().await;
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "stuck", "x").await;
    // A worker that is paused between its settle and its commit.
    let (joiner, stuck) = (subject.joiner(), Key::new("stuck").unwrap());
    let mut joined = joiner.begin(&function(), &stuck, claim.fence).await.unwrap();
    joined.execute("UPDATE weft.invocation SET updated_at = updated_at", &[]).await.unwrap();
    drop(session);
    let session = subject.enter("a").await;
    for round in 0..2 {
        let requests = [format!("{round}/a"), "stuck".to_owned(), format!("{round}/z")].map(|key| request(&key, "x"));
        let verdicts = subject.claim_all(&*session, &requests).await;
        let fits = matches!(verdicts[..], [Verdict::Run(_), Verdict::Busy { .. }, Verdict::Run(_)]);
        assert!(fits, "{verdicts:?}");
    }
    joined.rollback().await.unwrap();
    let Claim { attempt, .. } = subject.run(&*session, "stuck", "x").await;
    assert_eq!(attempt.0, 2, "what was asked in vain has changed nothing");
}

#[tokio::test]
async fn a_transaction_waits_for_a_place_as_long_as_the_server_answers() {
    let (_, subject) = fresh().await;
    let (session, joiner) = (subject.enter("a").await, subject.joiner());
    let mut held = Vec::new();
    for key in ["1", "2", "3", "4"] {
        let claim = subject.run(&*session, key, "x").await;
        held.push(joiner.begin(&function(), &Key::new(key).unwrap(), claim.fence).await.unwrap());
    }
    let claim = subject.run(&*session, "5", "x").await;
    let (function, fifth) = (function(), Key::new("5").unwrap());
    let mut begin = std::pin::pin!(joiner.begin(&function, &fifth, claim.fence));
    // Longer than the pool itself waits.
    let waited = tokio::time::timeout(Duration::from_secs(6), &mut begin).await;
    assert!(waited.is_err(), "there is no place yet: {:?}", waited.map(|joined| joined.map(drop)));
    drop(held.pop());
    begin.await.unwrap().rollback().await.unwrap();
}

#[tokio::test]
async fn a_commit_refused_by_a_deferred_constraint_is_no_unknown_outcome() {
    let (_, subject) = fresh().await;
    let session = subject.enter("a").await;
    let joiner = subject.joiner();
    joiner
        .run_script(
            "CREATE TABLE pairs (id bigint UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO pairs VALUES (1);",
        )
        .await
        .unwrap();
    let claim = subject.run(&*session, "k", "x").await;
    let key = "k".parse().unwrap();
    let mut joined = joiner.begin(&function(), &key, claim.fence).await.unwrap();
    assert!(joined.sqlite().is_none() && joined.postgres().is_some());
    joined.execute("INSERT INTO pairs VALUES ($1)", &[1.into()]).await.unwrap();
    let emits = vec![outgoing(OutboxKind::Emit, "event", Duration::ZERO)];
    let refused = joined.settle(Default::default(), HOUR, emits).await.unwrap_err();
    assert!(refused.is_unique_violation(), "{refused:?}");
    assert_eq!(subject.drain().await, []);
    assert_eq!(subject.settle("k", claim.fence, Settlement::Released).await, Settled::Done);
}

/// The error as a person sees it, with its causes.
fn text(error: &Error) -> String {
    weft_process::report::chain(error)
}

#[tokio::test]
async fn an_unreachable_server_is_told_apart_from_a_missing_database() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let begun = Instant::now();
    let error = weft_ledger::open(&format!("postgres://weft:s3cret@127.0.0.1:{port}/weft")).await.err().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(matches!(error, Error::Unavailable { .. }) && error.is_transient(), "{error:?}");
    assert!(!text(&error).contains("s3cret") && text(&error).contains("127.0.0.1"), "{}", text(&error));

    let mut url = url::Url::parse(&weft_tests::postgres().await).unwrap();
    url.set_path("no_such_database");
    let error = weft_ledger::open(url.as_str()).await.err().unwrap();
    assert!(matches!(error, Error::Address { .. }) && !error.is_transient(), "{error:?}");

    let error = weft_ledger::open("mysql://weft:s3cret@host/x").await.err().unwrap();
    assert!(matches!(error, Error::Address { .. }), "{error:?}");
    assert!(!text(&error).contains("s3cret"), "{}", text(&error));
}

#[tokio::test]
async fn refused_credentials_are_told_without_the_password() {
    let mut url = url::Url::parse(&weft_tests::postgres().await).unwrap();
    // With a server that trusts everybody on the loopback, an unknown role is still refused, by the same class.
    url.set_username("no_such_role").unwrap();
    url.set_password(Some("s3cret")).unwrap();
    let error = weft_ledger::open(url.as_str()).await.err().unwrap();
    assert!(matches!(error, Error::Refused { .. }) && !error.is_transient(), "{error:?}");
    assert!(!text(&error).contains("s3cret"), "{}", text(&error));
}

#[tokio::test]
async fn a_joiner_without_a_server_says_why() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let joiner = Joiner::connect(&format!("postgres://weft@127.0.0.1:{port}/weft")).unwrap();
    let refused = joiner.begin(&function(), &"k".parse().unwrap(), weft_schemas::Fence(1)).await.err().unwrap();
    assert!(refused.is_transient(), "{refused:?}");
    let shown = weft_process::report::chain(&refused);
    assert!(!shown.contains("pool timed out"), "{shown}");
}
