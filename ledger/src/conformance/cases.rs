//! The numbered cases of the ledger's reference, and where each is proven.
//!
//! A test that proves a case has its number in its name: `case_NN_…`. Here are those that were not in this suite under
//! another subject already; all of the suite runs on both ledgers.
//!
//! | case | given, then | proven by `case_NN_…` in |
//! | --- | --- | --- |
//! | 1 | no row: one claim, fence 1 | [`claims`](super::claims) |
//! | 2 | succeeded: the stored bytes answer | [`claims`](super::claims) |
//! | 3 | fifty claims at one instant: one winner | [`claims`](super::claims); whole: `tests/tests/it/cases_*` |
//! | 4 | a duplicate of a live claim: busy, no attempt | [`claims`](super::claims); whole: `cases_*` |
//! | 5 | killed after the claim: takeover, attempt 2 | [`claims`](super::claims), [`nodes`](super::nodes); whole: `cases_*` |
//! | 6–10 | killed at each durable step | whole: `cases_*` |
//! | 11 | paused past the lease: the late commit is rolled back | [`joins`](super::joins), [`claims`](super::claims); whole: `cases_*` |
//! | 12 | the successor is done: nothing late writes | [`settles`](super::settles); whole: `cases_*` |
//! | 13 | the same owner's older fence is refused | [`settles`](super::settles); whole: `cases_*` |
//! | 14 | healthy renewals: never taken over | [`claims`](super::claims) |
//! | 15 | the ledger is away past the lease | [`nodes`](super::nodes); the loop: `dispatcher/src/function/tests`; whole: `cases_*` |
//! | 16 | a session that is gone renews nothing | here |
//! | 17 | same key, other payload: mismatch | [`claims`](super::claims) |
//! | 18 | keys of two functions (there are no tenants); an empty key | [`claims`](super::claims), here |
//! | 19 | kept time over: higher fence, with the sweep or without | [`claims`](super::claims), here; `tests/tests/it/ledger_faults.rs` |
//! | 20 | the sweep keeps what is claimed or waiting | [`tables`](super::tables) |
//! | 21 | attempts used up: dead letter and copy in one write | [`settles`](super::settles); whole: `cases_*` |
//! | 22 | a handler that kills its worker | `dispatcher/src/function/tests`; whole: `cases_*` |
//! | 23 | a body that cannot be read | `dispatcher/src/function/tests` |
//! | 24 | two quick redrives: one run, a new epoch | [`dead`](super::dead); whole: `cases_*` |
//! | 25 | a large result replays byte for byte | here |
//! | 26 | an attempt that vanished is counted, so that a function with one attempt refuses the next | here; `dispatcher/src/function/tests` |
//! | 27 | the order of steps changed | does not apply until durable steps exist |
//! | 28 | a cached answer during a redrive | there is no cache; what joins a run here: `dispatcher/src/function/tests` |
//! | 29 | a node whose clock is wrong | here: every time is the database's |
//! | 30 | the outcome of a commit is unknown | `tests/tests/it/ledger_faults.rs` |
//! | 31 | Redis lost between attempts | `tests/tests/it/state_faults.rs` |
//! | 32 | the broker's connection is lost during a run | `dispatcher/src/function/model.rs`; whole: `cases_*` |
//!
//! What each of them was seen to fail without stands in `docs/proofs.md`.
//!
//! Any order of claims, settles, crashes and lapses: [`model`](super::model).

use jiff::Timestamp;

use super::*;
use crate::State;

pub async fn case_16_a_session_that_is_gone_renews_no_more(subject: &Subject) {
    let first = subject.enter("a").await;
    let before = subject.run(&*first, "k", "x").await;
    assert!(first.renew().await.unwrap());
    drop(first);
    let second = subject.enter("b").await;
    // Time for three renewals, if anything were left of the first session that renews.
    for _ in 0..3 {
        subject.ledger.advance(LEASE / 3).await.unwrap();
        assert!(second.renew().await.unwrap());
    }
    let taken = subject.run(&*second, "k", "x").await;
    assert!(taken.fence > before.fence, "{taken:?}");
}

pub async fn case_18_an_empty_key_is_no_key(_subject: &Subject) {
    assert!(Key::new("").is_err());
}

pub async fn case_19_a_sweep_that_races_claims_deletes_no_new_row_and_no_fence_comes_twice(subject: &Subject) {
    const KEYS: usize = 8;
    let session = subject.enter("a").await;
    let mut highest = [0i64; KEYS];
    for round in 0..25 {
        let sweeping = {
            let ledger = subject.ledger.clone();
            tokio::spawn(async move {
                for _ in 0..4 {
                    ledger.sweep(3).await.unwrap();
                }
            })
        };
        let claiming: Vec<_> = (0..2)
            .map(|half| {
                let (ledger, owner) = (subject.ledger.clone(), session.owner().clone());
                let keys: Vec<usize> = (0..KEYS).filter(|key| key % 2 == half).collect();
                let requests: Vec<_> = keys.iter().map(|key| request(&format!("k{key}"), "x")).collect();
                tokio::spawn(async move { (keys, ledger.claim(&owner, &function(), &requests).await.unwrap()) })
            })
            .collect();
        let mut settles = Vec::new();
        for task in claiming {
            let (keys, verdicts) = task.await.unwrap();
            for (key, verdict) in keys.into_iter().zip(verdicts) {
                // A row that the sweep is deleting cannot be seen: ask again.
                let claim = match verdict {
                    Verdict::Busy { .. } => subject.run(&*session, &format!("k{key}"), "x").await,
                    other => granted(other),
                };
                assert!(claim.fence.0 > highest[key], "round {round}: {:?} after {}", claim.fence, highest[key]);
                highest[key] = claim.fence.0;
                let to = succeeded("1", Duration::ZERO);
                settles.push(Settle { key: Key::new(format!("k{key}")).unwrap(), fence: claim.fence, to });
            }
        }
        sweeping.await.unwrap();
        for settle in &settles {
            let record = subject.record(settle.key.as_str()).await.expect("the sweep has deleted a claim");
            assert_eq!((record.state, record.fence), (State::Claimed, settle.fence), "round {round}");
        }
        let settled = subject.ledger.settle(&function(), &settles).await.unwrap();
        assert!(settled.iter().all(|settled| *settled == Settled::Done), "round {round}: {settled:?}");
    }
}

pub async fn case_25_a_large_result_replays_byte_for_byte(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    // Six MiB that no compression makes small.
    let mut seed = 1u64;
    let mut result = Vec::with_capacity(6 << 20);
    while result.len() < 6 << 20 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        result.extend(format!("{seed:x},").into_bytes());
    }
    let result = Bytes::from(result);
    let to = Settlement::Succeeded { result: result.clone(), keep: HOUR, outbox: Vec::new() };
    assert_eq!(subject.settle("k", claim.fence, to).await, Settled::Done);
    let Verdict::Replay { result: replayed, .. } = subject.claim(&*session, "k", "x").await else {
        panic!("not replayed")
    };
    assert!(replayed == result, "{} bytes instead of {}", replayed.len(), result.len());
}

pub async fn case_26_an_attempt_that_vanished_is_counted(subject: &Subject) {
    for attempt in 1..=3 {
        let session = subject.enter("a").await;
        let claim = subject.run(&*session, "k", "x").await;
        assert_eq!(claim.attempt, Attempt(attempt));
        // Its dispatcher is gone before it says what came of it.
        drop(session);
    }
}

/// The database's clock.
async fn database_now(subject: &Subject) -> Timestamp {
    let micros = if subject.url.starts_with("sqlite:") {
        "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000 AS now"
    } else {
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now"
    };
    let rows = subject.joiner().query(micros, &[]).await.unwrap();
    Timestamp::from_microsecond(rows[0].get("now").unwrap()).unwrap()
}

pub async fn case_29_every_time_is_the_databases_whatever_the_caller_believes(subject: &Subject) {
    let session = subject.enter("a").await;
    // SQLite tells milliseconds.
    let margin = jiff::SignedDuration::from_millis(2);
    let before = database_now(subject).await - margin;
    let claim = subject.run(&*session, "dead", "x").await;
    let parked = subject.run(&*session, "waiting", "x").await;
    let done = subject.run(&*session, "done", "x").await;
    // A caller whose clock is ten minutes off writes what it believes into the letter, and nowhere else.
    let off = Timestamp::now() + jiff::SignedDuration::from_mins(10);
    let mut wrong = letter("dead", &claim, Reason::Exhausted);
    (wrong.first_at, wrong.last_at) = (off, off);
    let copy = outgoing(OutboxKind::DeadLetter, "copy", Duration::ZERO);
    let to = Settlement::Dead { letter: Box::new(wrong), copy };
    assert_eq!(subject.settle("dead", claim.fence, to).await, Settled::Done);
    assert_eq!(subject.settle("waiting", parked.fence, waiting(HOUR)).await, Settled::Done);
    assert_eq!(subject.settle("done", done.fence, succeeded("1", HOUR)).await, Settled::Done);
    let after = database_now(subject).await + margin;

    let within = |at: Timestamp, later: Duration| {
        let later = jiff::SignedDuration::try_from(later).unwrap();
        assert!(at >= before + later && at <= after + later, "{at} is not within {before} and {after} + {later:?}");
    };
    within(claim.first_seen_at, Duration::ZERO);
    within(subject.record("dead").await.unwrap().updated_at, Duration::ZERO);
    within(subject.record("waiting").await.unwrap().due_at.unwrap(), HOUR);
    within(subject.record("done").await.unwrap().expires_at.unwrap(), HOUR);
    let letters = subject.ledger.dead_letters(&crate::DeadLetterQuery::default()).await.unwrap();
    within(letters[0].buried_at, Duration::ZERO);
    assert_eq!(subject.drain().await.len(), 1, "the copy is due by the database's clock");
}
