//! Who may run, and who is told what instead.

use std::collections::HashSet;
use std::time::Duration;

use weft_schemas::{Attempt, Epoch, Fence, FunctionName};

use super::*;

pub async fn case_01_the_first_claim_runs_with_attempt_one_and_a_fence_of_its_time(subject: &Subject) {
    let session = subject.enter("a").await;
    let before = jiff::Timestamp::now();
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes, claim.epoch), (Attempt(1), 0, Epoch(0)));
    // A database that forgets its last commits in a crash can so grant no fence twice. Clocks of two machines may differ.
    assert!(claim.fence.0 > before.as_millisecond() - 60_000, "{claim:?}");
    let age = jiff::Timestamp::now().duration_since(claim.first_seen_at);
    assert!(age.abs() < jiff::SignedDuration::from_secs(60), "{age:?}");
}

pub async fn case_02_a_duplicate_of_a_success_is_replayed(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    let result = "{\"total\":  1.50, \"ü\":\"✓\"}";
    assert_eq!(subject.settle("k", claim.fence, succeeded(result, HOUR)).await, Settled::Done);
    let expected = Verdict::Replay { result: Bytes::copy_from_slice(result.as_bytes()), epoch: Epoch(0) };
    for _ in 0..2 {
        assert_eq!(subject.claim(&*session, "k", "x").await, expected);
    }
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.attempt, record.fence), (Attempt(1), claim.fence));
}

pub async fn case_03_fifty_racers_have_one_winner(subject: &Subject) {
    let session = subject.enter("a").await;
    let owner = session.owner().clone();
    let racers: Vec<_> = (0..50)
        .map(|_| {
            let (ledger, owner) = (subject.ledger.clone(), owner.clone());
            tokio::spawn(
                async move { ledger.claim(&owner, &function(), &[request("k", "x")]).await.unwrap().remove(0) },
            )
        })
        .collect();
    let (mut won, mut busy) = (0, 0);
    for racer in racers {
        match racer.await.unwrap() {
            Verdict::Run(claim) => {
                assert_eq!(claim.attempt, Attempt(1));
                won += 1;
            }
            Verdict::Busy { .. } => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((won, busy), (1, 49));
}

pub async fn overlapping_batches_do_not_deadlock(subject: &Subject) {
    let session = subject.enter("a").await;
    let owner = session.owner().clone();
    let batches: Vec<_> = (0..20usize)
        .map(|batch| {
            let (ledger, owner) = (subject.ledger.clone(), owner.clone());
            let mut requests: Vec<_> = (0..40).map(|n| request(&format!("k{n}"), "x")).collect();
            requests.rotate_left(batch * 2);
            tokio::spawn(async move { ledger.claim(&owner, &function(), &requests).await.unwrap() })
        })
        .collect();
    let mut won = 0;
    for batch in batches {
        won += batch.await.unwrap().iter().filter(|verdict| matches!(verdict, Verdict::Run(_))).count();
    }
    assert_eq!(won, 40);
}

pub async fn case_04_a_duplicate_of_a_live_claim_is_busy_and_costs_no_attempt(subject: &Subject) {
    let first = subject.enter("a").await;
    let claim = subject.run(&*first, "k", "x").await;
    let Verdict::Busy { retry_in } = subject.claim(&*first, "k", "x").await else { panic!("not busy") };
    assert!(retry_in > Duration::ZERO && retry_in <= LEASE, "{retry_in:?}");
    // Another node, while the first one's lease is unexpired.
    drop(first);
    let second = subject.enter("b").await;
    assert!(matches!(subject.claim(&*second, "k", "x").await, Verdict::Busy { .. }));
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.attempt, record.fence), (Attempt(1), claim.fence));
    assert_eq!(record.owner.as_deref(), Some("a/1"));
    // And once the first has finished, its result answers.
    assert_eq!(subject.settle("k", claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    assert!(matches!(subject.claim(&*second, "k", "x").await, Verdict::Replay { .. }));
}

pub async fn case_17_another_payload_is_a_mismatch_in_every_state(subject: &Subject) {
    let session = subject.enter("a").await;
    let [parked, due, done] = [waiting(HOUR), waiting(Duration::ZERO), succeeded("1", HOUR * 2)].map(Some);
    for (key, to) in [("claimed", None), ("waiting", parked), ("due", due), ("succeeded", done)] {
        let claim = subject.run(&*session, key, "x").await;
        if let Some(to) = to {
            assert_eq!(subject.settle(key, claim.fence, to).await, Settled::Done);
        }
    }
    let claim = subject.run(&*session, "dead", "x").await;
    assert_eq!(subject.settle("dead", claim.fence, dead("dead", &claim)).await, Settled::Done);
    let refused = async |session: &dyn NodeSession| {
        for key in ["claimed", "waiting", "due", "succeeded", "dead"] {
            let before = subject.record(key).await.unwrap();
            assert_eq!(subject.claim(session, key, "y").await, Verdict::Mismatch, "{key}");
            let after = subject.record(key).await.unwrap();
            assert_eq!((before.fence, before.state, before.updated_at), (after.fence, after.state, after.updated_at));
        }
    };
    refused(&*session).await;
    assert_eq!(subject.claim(&*session, "dead", "x").await, Verdict::Dead);
    // What anybody may take over, with its own payload, is no freer for another.
    drop(session);
    let other = subject.enter("b").await;
    subject.ledger.advance(HOUR).await.unwrap();
    assert!(other.renew().await.unwrap());
    refused(&*other).await;
    subject.run(&*other, "claimed", "x").await;
}

pub async fn case_18_keys_of_two_functions_are_independent(subject: &Subject) {
    let session = subject.enter("a").await;
    let other = FunctionName::new("charge-payment").unwrap();
    subject.run(&*session, "k", "x").await;
    let verdicts = subject.ledger.claim(session.owner(), &other, &[request("k", "y")]).await.unwrap();
    assert_eq!(granted(verdicts.into_iter().next().unwrap()).attempt, Attempt(1));
}

pub async fn case_19_an_expired_success_runs_again_with_a_higher_fence(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    let crashed = Settlement::Waiting {
        error: failure(),
        crashed: true,
        retry: outgoing(OutboxKind::Retry, "retry", Duration::ZERO),
    };
    assert_eq!(subject.settle("k", claim.fence, crashed).await, Settled::Done);
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes), (Attempt(2), 1));
    assert_eq!(subject.settle("k", claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    assert!(matches!(subject.claim(&*session, "k", "x").await, Verdict::Replay { .. }));

    subject.ledger.advance(HOUR).await.unwrap();
    assert!(session.renew().await.unwrap());
    // Another payload, even: an expired key is as good as new.
    let again = subject.run(&*session, "k", "y").await;
    assert_eq!((again.attempt, again.crashes, again.epoch), (Attempt(1), 0, Epoch(0)));
    assert!(again.fence > claim.fence, "{again:?}");
    assert!(again.first_seen_at > claim.first_seen_at);
}

pub async fn case_19_a_swept_key_comes_back_with_a_higher_fence(subject: &Subject) {
    let session = subject.enter("a").await;
    let mut last = Fence(0);
    for _ in 0..3 {
        let claim = subject.run(&*session, "k", "x").await;
        assert!(claim.fence > last, "{last:?} then {:?}", claim.fence);
        assert_eq!(claim.attempt, Attempt(1));
        last = claim.fence;
        assert_eq!(subject.settle("k", claim.fence, succeeded("1", Duration::ZERO)).await, Settled::Done);
        assert_eq!(subject.ledger.sweep(10).await.unwrap(), 1);
        assert!(subject.record("k").await.is_none());
    }
}

pub async fn an_early_copy_is_deferred_and_the_retry_itself_resumes(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, waiting(HOUR)).await, Settled::Done);
    let Verdict::Deferred { due_in } = subject.claim(&*session, "k", "x").await else { panic!("not deferred") };
    assert!(due_in > HOUR - Duration::from_secs(60) && due_in <= HOUR, "{due_in:?}");

    let resume = |fence| ClaimRequest { resume: Some(fence), ..request("k", "x") };
    let verdict = subject.claim_all(&*session, &[resume(Fence(claim.fence.0 + 1))]).await.remove(0);
    assert!(matches!(verdict, Verdict::Deferred { .. }), "{verdict:?}");
    let again = granted(subject.claim_all(&*session, &[resume(claim.fence)]).await.remove(0));
    assert_eq!(again.attempt, Attempt(2));
    assert!(again.fence > claim.fence, "{again:?}");
    // The same retry, delivered twice.
    let verdict = subject.claim_all(&*session, &[resume(claim.fence)]).await.remove(0);
    assert!(matches!(verdict, Verdict::Busy { .. }), "{verdict:?}");
}

pub async fn a_due_invocation_runs_again(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, waiting(HOUR)).await, Settled::Done);
    subject.ledger.advance(HOUR).await.unwrap();
    assert!(session.renew().await.unwrap());
    let again = subject.run(&*session, "k", "x").await;
    assert_eq!((again.attempt, again.epoch), (Attempt(2), Epoch(0)));
    assert!(again.fence > claim.fence, "{again:?}");
}

pub async fn case_05_a_lapsed_lease_is_taken_over_and_the_stale_fence_refused(subject: &Subject) {
    let first = subject.enter("a").await;
    let stale = subject.run(&*first, "k", "x").await;
    drop(first);
    let second = subject.enter("b").await;
    assert!(matches!(subject.claim(&*second, "k", "x").await, Verdict::Busy { .. }));
    subject.ledger.advance(LEASE).await.unwrap();
    assert!(second.renew().await.unwrap());

    let taken = subject.run(&*second, "k", "x").await;
    assert_eq!(taken.attempt, Attempt(2));
    assert!(taken.fence > stale.fence, "{taken:?}");
    let late = Settlement::Succeeded {
        result: Bytes::from_static(b"late"),
        keep: HOUR,
        outbox: vec![outgoing(OutboxKind::Emit, "late", Duration::ZERO)],
    };
    assert_eq!(subject.settle("k", stale.fence, late).await, Settled::AuthorityLost);
    assert_eq!(subject.drain().await, []);
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.state, record.fence), (crate::State::Claimed, taken.fence));
    assert_eq!(subject.settle("k", taken.fence, succeeded("2", HOUR)).await, Settled::Done);
}

pub async fn case_14_a_renewed_lease_is_never_taken_over(subject: &Subject) {
    let session = subject.enter("a").await;
    subject.run(&*session, "k", "x").await;
    for _ in 0..10 {
        subject.ledger.advance(LEASE * 2 / 3).await.unwrap();
        assert!(session.renew().await.unwrap());
        assert!(matches!(subject.claim(&*session, "k", "x").await, Verdict::Busy { .. }));
    }
    // Nor by another node, for which the last renewal alone counts.
    drop(session);
    let other = subject.enter("b").await;
    assert!(matches!(subject.claim(&*other, "k", "x").await, Verdict::Busy { .. }));
    let record = subject.record("k").await.unwrap();
    assert_eq!(record.attempt, Attempt(1));
}

pub async fn a_claim_whose_answer_was_lost_is_taken_back(subject: &Subject) {
    let session = subject.enter("a").await;
    for polls in 0..30 {
        let key = format!("k{polls}");
        // Stops waiting after a number of polls: before, while and after the statement runs.
        let requests = [request(&key, "x")];
        let claim = subject.claim_all(&*session, &requests);
        let given_up = async {
            for _ in 0..polls * 20 {
                tokio::task::yield_now().await;
            }
        };
        let answered = tokio::select! {
            biased;
            verdicts = claim => Some(granted(verdicts.into_iter().next().unwrap())),
            () = given_up => None,
        };
        if answered.is_none() {
            let again = subject.run(&*session, &key, "x").await;
            assert_eq!((again.attempt, again.crashes), (Attempt(1), 0), "no attempt was started for the lost claim");
            assert_eq!(subject.record(&key).await.unwrap().failures, []);
            assert!(matches!(subject.claim(&*session, &key, "x").await, Verdict::Busy { .. }));
        }
    }
}

pub async fn verdicts_come_in_the_order_of_the_requests(subject: &Subject) {
    let session = subject.enter("a").await;
    let done = subject.run(&*session, "m", "x").await;
    assert_eq!(subject.settle("m", done.fence, succeeded("1", HOUR)).await, Settled::Done);
    subject.run(&*session, "b", "x").await;
    let requests: Vec<_> = ["z", "m", "a", "b", "ü", "A"].map(|key| request(key, "x")).into();
    let verdicts = subject.claim_all(&*session, &requests).await;
    let kinds: Vec<_> = verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::Run(_) => "run",
            Verdict::Replay { .. } => "replay",
            Verdict::Busy { .. } => "busy",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["run", "replay", "run", "busy", "run", "run"]);
    let keys: HashSet<_> = requests.iter().map(|request| &request.key).collect();
    assert_eq!(keys.len(), verdicts.len());
    assert_eq!(subject.claim_all(&*session, &[]).await, []);
}
