//! The attempts that failed: what is remembered of them, and what a take-over counts.

use weft_schemas::Epoch;

use super::*;
use crate::{FailedAttempt, Redrive, Redriven};

fn crashed(due_in: Duration) -> Settlement {
    Settlement::Waiting { error: failure(), crashed: true, retry: outgoing(OutboxKind::Retry, "retry", due_in) }
}

async fn failures(subject: &Subject, key: &str) -> Vec<FailedAttempt> {
    subject.record(key).await.unwrap().failures
}

/// (epoch, attempt, crashed, kind, node) of each.
fn shapes(failures: &[FailedAttempt]) -> Vec<(u32, u32, bool, &str, Option<&str>)> {
    let shapes = failures.iter().map(|failed| {
        (failed.epoch.0, failed.attempt.0, failed.crashed, failed.error.kind.as_str(), failed.node.as_deref())
    });
    shapes.collect()
}

/// Lets the lease of everybody lapse and enters as `node`, so that the next claim takes over.
async fn after_the_lease(subject: &Subject, node: &str) -> Box<dyn NodeSession> {
    subject.ledger.advance(LEASE * 2).await.unwrap();
    subject.enter(node).await
}

pub async fn failed_attempts_are_remembered_over_all_epochs(subject: &Subject) {
    let session = subject.enter("a").await;
    let start = jiff::Timestamp::now();
    for to in [waiting(Duration::ZERO), crashed(Duration::ZERO)] {
        let claim = subject.run(&*session, "k", "x").await;
        assert_eq!(subject.settle("k", claim.fence, to).await, Settled::Done);
    }
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, dead("k", &claim)).await, Settled::Done);
    let id = letter("k", &claim, Reason::Exhausted).id;
    let message = outgoing(OutboxKind::Redrive, "again", Duration::ZERO);
    let redrive = Redrive { by: "op".to_owned(), message, successor: None };
    assert_eq!(subject.ledger.redrive(&id, &redrive).await.unwrap(), Redriven::Done);
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, waiting(Duration::ZERO)).await, Settled::Done);
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, succeeded("1", HOUR)).await, Settled::Done);

    let failures = failures(subject, "k").await;
    let a = Some("a");
    let expected =
        [(0, 1, false, "Flaky", a), (0, 2, true, "Flaky", a), (0, 3, false, "Flaky", a), (1, 1, false, "Flaky", a)];
    assert_eq!(shapes(&failures), expected);
    assert!(failures.iter().all(|failed| failed.error == failure()), "{failures:#?}");
    assert!(failures.is_sorted_by_key(|failed| failed.ended_at), "{failures:#?}");
    let since = failures[0].ended_at.duration_since(start).abs();
    assert!(since < jiff::SignedDuration::from_secs(60), "{since:?}");

    // A key that has expired is as good as new.
    subject.ledger.advance(HOUR).await.unwrap();
    assert!(session.renew().await.unwrap());
    subject.run(&*session, "k", "x").await;
    assert_eq!(subject.record("k").await.unwrap().failures, []);
}

pub async fn only_the_latest_failed_attempts_are_kept(subject: &Subject) {
    let session = subject.enter("a").await;
    let kept = u32::try_from(FailedAttempt::KEPT).unwrap();
    for _ in 0..kept + 3 {
        let claim = subject.run(&*session, "k", "x").await;
        assert_eq!(subject.settle("k", claim.fence, waiting(Duration::ZERO)).await, Settled::Done);
    }
    let attempts: Vec<_> = failures(subject, "k").await.iter().map(|failed| failed.attempt.0).collect();
    assert_eq!(attempts, (4..=kept + 3).collect::<Vec<_>>());
    // So it is with one that vanished.
    subject.run(&*session, "k", "x").await;
    drop(session);
    let successor = after_the_lease(subject, "b").await;
    subject.run(&*successor, "k", "x").await;
    let attempts: Vec<_> = failures(subject, "k").await.iter().map(|failed| failed.attempt.0).collect();
    assert_eq!(attempts, (5..=kept + 4).collect::<Vec<_>>());
}

pub async fn an_attempt_that_vanished_is_a_crash_and_is_remembered(subject: &Subject) {
    let first = subject.enter("a").await;
    subject.run(&*first, "k", "x").await;
    drop(first);
    let second = after_the_lease(subject, "b").await;
    let claim = subject.run(&*second, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes), (Attempt(2), 1));
    // A node of the same name that starts anew, too.
    second.leave().await.unwrap();
    let third = subject.enter("b").await;
    let claim = subject.run(&*third, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes), (Attempt(3), 2));
    let vanished = FailedAttempt::VANISHED;
    let failures = failures(subject, "k").await;
    assert_eq!(shapes(&failures), [(0, 1, true, vanished, Some("a")), (0, 2, true, vanished, Some("b"))]);
    // It is handed back unstarted: its own attempt does not count, the ones that vanished do.
    assert_eq!(subject.settle("k", claim.fence, Settlement::Released).await, Settled::Done);
    let claim = subject.run(&*third, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes), (Attempt(3), 2));
    assert_eq!(subject.record("k").await.unwrap().failures.len(), 2);
}

pub async fn a_claim_says_whether_the_attempt_before_it_vanished(subject: &Subject) {
    let first = subject.enter("a").await;
    let claim = subject.run(&*first, "k", "x").await;
    assert!(!claim.vanished, "it is the first");
    // Parked, and claimed by its retry long after: whatever the fences are, its attempt has ended.
    assert_eq!(subject.settle("k", claim.fence, crashed(Duration::ZERO)).await, Settled::Done);
    let retry = ClaimRequest { resume: Some(claim.fence), ..request("k", "x") };
    let claim = granted(subject.claim_all(&*first, &[retry]).await.remove(0));
    assert_eq!((claim.attempt, claim.crashes, claim.vanished), (Attempt(2), 1, false));
    drop(first);
    let second = after_the_lease(subject, "b").await;
    let claim = subject.run(&*second, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes, claim.vanished), (Attempt(3), 2, true));
    // Handed back unstarted, the one before is still the one that vanished; parked, it is not.
    assert_eq!(subject.settle("k", claim.fence, Settlement::Released).await, Settled::Done);
    let claim = subject.run(&*second, "k", "x").await;
    assert!(claim.vanished, "{claim:?}");
    assert_eq!(subject.settle("k", claim.fence, waiting(Duration::ZERO)).await, Settled::Done);
    assert!(!subject.run(&*second, "k", "x").await.vanished);
}

pub async fn an_attempt_that_is_spared_costs_a_crash_and_no_attempt(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, waiting(Duration::ZERO)).await, Settled::Done);
    subject.drain().await;
    let claim = subject.run(&*session, "k", "x").await;
    let retry = outgoing(OutboxKind::Retry, "alone", HOUR);
    let to = Settlement::Spared { error: failure(), retry };
    assert_eq!(subject.settle("k", claim.fence, to.clone()).await, Settled::Done);
    assert_eq!(subject.settle("k", claim.fence, to).await, Settled::AuthorityLost, "once");
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.state, record.attempt, record.crashes), (crate::State::Waiting, Attempt(1), 1));
    assert_eq!(record.error, Some(failure()));
    let a = Some("a");
    assert_eq!(shapes(&record.failures), [(0, 1, false, "Flaky", a), (0, 2, true, "Flaky", a)]);
    assert!(subject.drain().await.is_empty(), "its retry waits");
    let retry = ClaimRequest { resume: Some(claim.fence), ..request("k", "x") };
    let claim = granted(subject.claim_all(&*session, &[retry]).await.remove(0));
    assert_eq!((claim.attempt, claim.crashes, claim.vanished), (Attempt(2), 1, false));
    let audit = subject.ledger.audit(0).await.unwrap();
    assert_eq!(audit.differences, [], "the retry is known for its invocation's");
}

pub async fn an_interrupted_attempt_costs_nothing_and_the_fence_grows(subject: &Subject) {
    let interrupted = || ClaimRequest { interrupted: true, ..request("k", "x") };
    let first = subject.enter("a").await;
    let stale = subject.run(&*first, "k", "x").await;
    first.leave().await.unwrap();
    let again = subject.enter("a").await;
    let claim = granted(subject.claim_all(&*again, &[interrupted()]).await.remove(0));
    assert_eq!((claim.attempt, claim.crashes), (Attempt(1), 0));
    assert!(claim.fence > stale.fence, "{claim:?}");
    assert_eq!(failures(subject, "k").await, []);
    assert_eq!(subject.settle("k", stale.fence, succeeded("1", HOUR)).await, Settled::AuthorityLost);
    // It frees nothing that is live.
    let verdict = subject.claim_all(&*again, &[interrupted()]).await.remove(0);
    assert!(matches!(verdict, Verdict::Busy { .. }), "{verdict:?}");

    // Another node took over meanwhile, and vanished: that is nothing of ours.
    again.leave().await.unwrap();
    let other = subject.enter("b").await;
    let claim = subject.run(&*other, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes), (Attempt(2), 1));
    other.leave().await.unwrap();
    let back = subject.enter("a").await;
    let claim = granted(subject.claim_all(&*back, &[interrupted()]).await.remove(0));
    assert_eq!((claim.attempt, claim.crashes), (Attempt(3), 2));
    // Nor does it change what a waiting row counts.
    assert_eq!(subject.settle("k", claim.fence, waiting(Duration::ZERO)).await, Settled::Done);
    let claim = granted(subject.claim_all(&*back, &[interrupted()]).await.remove(0));
    assert_eq!((claim.attempt, claim.crashes), (Attempt(4), 2));
}

pub async fn a_letter_of_an_attempt_that_was_never_started_counts_none(subject: &Subject) {
    let first = subject.enter("a").await;
    subject.run(&*first, "k", "x").await;
    first.leave().await.unwrap();
    let second = subject.enter("b").await;
    let claim = subject.run(&*second, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes, claim.epoch), (Attempt(2), 1, Epoch(0)));
    // It has reached the limit of crashes, so that it is buried instead of run.
    let mut letter = letter("k", &claim, Reason::Crashed);
    letter.attempts = Attempt(1);
    let copy = outgoing(OutboxKind::DeadLetter, "copy", Duration::ZERO);
    let to = Settlement::Dead { letter: Box::new(letter), copy };
    assert_eq!(subject.settle("k", claim.fence, to).await, Settled::Done);
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.attempt, record.crashes), (Attempt(1), 1));
    assert_eq!(shapes(&record.failures), [(0, 1, true, FailedAttempt::VANISHED, Some("a"))]);
    assert_eq!(record.error, Some(failure()));
}

pub async fn an_error_with_any_text_is_settled(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    let error = ErrorInfo::new("Zero\0", format!("a zero \0, a quote \", \u{1f600} and {}", "ü".repeat(4000)));
    let retry = outgoing(OutboxKind::Retry, "retry", Duration::ZERO);
    let to = Settlement::Waiting { error: error.clone(), crashed: false, retry };
    assert_eq!(subject.settle("k", claim.fence, to).await, Settled::Done);
    let claim = subject.run(&*session, "k", "x").await;
    let mut letter = letter("k", &claim, Reason::Terminal);
    letter.error = error.clone();
    let copy = outgoing(OutboxKind::DeadLetter, "copy", Duration::ZERO);
    let to = Settlement::Dead { letter: Box::new(letter), copy };
    assert_eq!(subject.settle("k", claim.fence, to).await, Settled::Done);
    let record = subject.record("k").await.unwrap();
    let shown = error.message.replace('\0', "\u{fffd}");
    assert_eq!(record.error, Some(ErrorInfo { kind: "Zero\u{fffd}".to_owned(), message: shown.clone() }));
    assert_eq!(record.failures.len(), 2);
    for failed in record.failures {
        assert!(shown.starts_with(&failed.error.message) && failed.error.message.chars().count() == 1024);
    }
    let mut refused = refused("a");
    refused.error = error;
    subject.ledger.bury(&[(refused, outgoing(OutboxKind::DeadLetter, "copy", Duration::ZERO))]).await.unwrap();
}
