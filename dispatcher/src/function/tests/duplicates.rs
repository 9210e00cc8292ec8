//! Duplicates, rivals and redeliveries of what is under way.

use super::*;

#[test]
fn a_duplicate_of_what_runs_here_joins_it_and_shares_its_ack() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    assert!(claimed(&bench.deliver(vec![message("k", "a")])).is_empty());
    let actions = bench.outcome(worker, &invoke, succeeded());
    assert_eq!(acked(&bench.settled(&settles(&actions), Settled::Done)), [1, 2]);
    assert_eq!(bench.stats.duplicates.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_duplicate_that_wins_the_due_retry_of_its_event_is_counted_whatever_the_retry_is_for() {
    let redriven = Claim { epoch: Epoch(1), ..claim(9, 1, 0) };
    for (won, counted) in [(claim(1, 1, 0), 0), (claim(2, 2, 0), 1), (claim(2, 1, 1), 1), (redriven, 1)] {
        let mut bench = bench(1, 1);
        let asked = claimed(&bench.deliver(vec![message("k", "a")]));
        bench.verdicts(&asked, vec![Verdict::Run(won)]);
        assert_eq!(bench.stats.duplicates.load(std::sync::atomic::Ordering::Relaxed), counted, "{won:?}");
    }
}

#[test]
fn another_payload_under_a_key_that_runs_is_buried_as_a_mismatch() {
    let mut bench = bench(1, 1);
    bench.running("k");
    let actions = bench.deliver(vec![message("k", "b")]);
    let Some(Action::Bury(burials)) = actions.iter().find(|action| matches!(action, Action::Bury(_))) else {
        panic!("{actions:?}")
    };
    assert_eq!(burials[0].letter.reason, Reason::Mismatch);
    assert!(acked(&actions).is_empty());
    let burials = burials.clone();
    assert_eq!(acked(&bench.handle(Input::Buried { burials, known: Vec::new(), result: Ok(()) })), [2]);
}

#[test]
fn another_payload_waits_for_the_verdict_on_the_first() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a"), message("k", "b")]));
    assert_eq!(asked.len(), 1);
    // The ledger knows payload b, so it is a that does not fit and b that is a duplicate.
    let actions = bench.verdicts(&asked, vec![Verdict::Mismatch]);
    assert!(actions.iter().any(|action| matches!(action, Action::Bury(burials) if burials[0].delivery.id.tag == 1)));
    let asked = claimed(&actions);
    assert_eq!(asked.len(), 1);
    let replay = Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) };
    assert_eq!(acked(&bench.verdicts(&asked, vec![replay])), [2]);
}

#[test]
fn case_28_a_retry_that_joins_a_duplicate_is_not_taken_for_superfluous() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let retry = requeue::retry_message(&message("k", "a"), "weft", &FunctionName::new("f").unwrap(), Fence(3));
    assert!(claimed(&bench.deliver(vec![retry])).is_empty());
    // The claim went out without the fence: the verdict is about the duplicate, not about the retry.
    let actions = bench.verdicts(&asked, vec![Verdict::Deferred { due_in: Duration::ZERO }]);
    assert_eq!(acked(&actions), [1], "{actions:?}");
    let Some(Action::Claim { requests, .. }) = actions.iter().find(|action| matches!(action, Action::Claim { .. }))
    else {
        panic!("{actions:?}")
    };
    assert_eq!(requests[0].resume, Some(Fence(3)));
}

#[test]
fn case_28_a_redrive_that_arrives_while_the_old_verdict_is_under_way_is_not_acked_with_it() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    // Between the ledger's answer and its arrival an operator redrives, and the event comes back.
    bench.deliver(vec![message("k", "a")]);
    let actions = bench.verdicts(&asked, vec![Verdict::Dead]);
    assert_eq!(acked(&actions), [1]);
    let asked = claimed(&actions);
    assert_eq!(asked.len(), 1, "the second is asked about anew: {actions:?}");
    assert_eq!(launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(2, 1, 0))])).len(), 1);
}

#[test]
fn case_28_a_retry_that_arrives_before_its_own_settle_is_answered_is_not_acked_with_it() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let outcome = Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms: None };
    let parked = settles(&bench.outcome(worker, &invoke, outcome));
    // Another dispatcher's relay is faster than the answer to our settle.
    let retry = requeue::retry_message(&message("k", "a"), "weft", &FunctionName::new("f").unwrap(), Fence(1));
    bench.deliver(vec![retry]);
    let actions = bench.settled(&parked, Settled::Done);
    assert_eq!(acked(&actions), [1]);
    let Some(Action::Claim { requests, .. }) = actions.iter().find(|action| matches!(action, Action::Claim { .. }))
    else {
        panic!("{actions:?}")
    };
    assert_eq!(requests[0].resume, Some(Fence(1)));
}
