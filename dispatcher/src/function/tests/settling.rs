//! From an outcome to an ack, and a ledger that is away.

use super::*;

#[test]
fn an_event_is_acked_only_after_its_settle() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.outcome(worker, &invoke, succeeded());
    assert!(acked(&actions).is_empty(), "{actions:?}");
    let actions = bench.settled(&settles(&actions), Settled::Done);
    assert_eq!(acked(&actions), [1]);
}

#[test]
fn a_ledger_that_is_away_costs_nothing_and_is_asked_again() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let actions = bench.handle(Input::Claimed { keys: asked, result: Err(unreachable()) });
    assert!(actions.is_empty(), "{actions:?}");
    assert!(claimed(&bench.deliver(vec![message("l", "a")])).is_empty(), "not before the wait is over");
    assert_eq!(claimed(&bench.later(Duration::from_secs(1))).len(), 2);
}

#[test]
fn case_30_a_settle_that_was_not_answered_is_asked_again_and_nothing_is_acked() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let first = settles(&bench.outcome(worker, &invoke, succeeded()));
    let keys = vec![first[0].key.clone()];
    assert!(bench.handle(Input::Settled { keys, result: Err(unreachable()) }).is_empty());
    let again = settles(&bench.later(Duration::from_secs(1)));
    assert_eq!(again[0].fence, first[0].fence);
    assert_eq!(acked(&bench.settled(&again, Settled::Done)), [1]);
}

#[test]
fn a_late_settle_that_is_refused_asks_where_the_invocation_stands() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let late = settles(&bench.outcome(worker, &invoke, succeeded()));
    let actions = bench.settled(&late, Settled::AuthorityLost);
    assert!(acked(&actions).is_empty());
    let asked = claimed(&actions);
    let replay = Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) };
    assert_eq!(acked(&bench.verdicts(&asked, vec![replay])), [1]);
}

#[test]
fn what_a_worker_committed_before_it_died_does_not_wait_for_the_relays_next_look() {
    let wakes = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::WakeRelay));
    let replay = || vec![Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) }];
    let mut bench = bench(1, 1);
    let (worker, _) = bench.running("k");
    let late = settles(&bench.gone(worker, true));
    let asked = claimed(&bench.settled(&late, Settled::AuthorityLost));
    let actions = bench.verdicts(&asked, replay());
    assert!(wakes(&actions), "the outbox has what it emitted: {actions:?}");
    assert_eq!(acked(&actions), [1]);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let actions = bench.verdicts(&asked, replay());
    assert!(!wakes(&actions), "a plain duplicate has posted nothing: {actions:?}");
}

#[test]
fn a_failed_attempt_leaves_its_retry_in_the_outbox_and_the_last_one_a_dead_letter() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let error = ErrorInfo::new("E", "m");
    let retry = Outcome::Retry { error: error.clone(), after_ms: None };
    let actions = bench.outcome(worker, &invoke, retry.clone());
    let parked = settles(&actions);
    let Settlement::Waiting { retry: message, .. } = &parked[0].to else { panic!("{actions:?}") };
    assert_eq!(requeue::resume_fence(&message.message), Some(Fence(1)));
    let message = message.message.clone();
    assert_eq!(acked(&bench.settled(&parked, Settled::Done)), [1]);

    let asked = claimed(&bench.deliver(vec![message]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(2, 3, 0))]);
    let (worker, invoke) = invoked(&actions)[0].clone();
    let actions = bench.outcome(worker, &invoke, retry);
    let Settlement::Dead { letter, .. } = &settles(&actions)[0].to else { panic!("{actions:?}") };
    assert_eq!((letter.reason, letter.attempts), (Reason::Exhausted, Attempt(3)));
}
