//! A lost lease, and the drain.

use super::*;

#[test]
fn case_15_losing_the_lease_cancels_what_runs_gives_it_back_uncounted_and_asks_anew() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.handle(Input::Owner(None));
    assert!(matches!(actions[..], [Action::Cancel(id, run)] if id == worker && run == invoke.id), "{actions:?}");
    let released = settles(&bench.outcome(worker, &invoke, succeeded()));
    assert!(matches!(released[..], [Settle { to: Settlement::Released, .. }]), "it costs no attempt: {released:?}");
    let actions = bench.settled(&released, Settled::Done);
    assert!(claimed(&actions).is_empty() && acked(&actions).is_empty(), "{actions:?}");
    let owner = Owner { node: NodeName::new("n").unwrap(), incarnation: 2 };
    assert_eq!(claimed(&bench.handle(Input::Owner(Some(owner)))).len(), 1);
}

#[test]
fn case_26_a_run_that_was_cancelled_for_a_lost_lease_and_was_the_only_one_allowed_is_not_run_again() {
    let mut bench = bench_with(1, 1, "retry = { attempts = 1 }");
    let (worker, invoke) = bench.running("k");
    bench.handle(Input::Owner(None));
    let actions = bench.outcome(worker, &invoke, Outcome::Drained);
    assert!(settles(&actions).is_empty(), "given back it would run a second time: {actions:?}");
    let owner = Owner { node: NodeName::new("n").unwrap(), incarnation: 2 };
    // An outage on the way to the next claim does not make it innocent.
    for _ in 0..2 {
        let actions = bench.handle(Input::Owner(Some(owner.clone())));
        let actions = if claimed(&actions).is_empty() { bench.later(Duration::from_secs(1)) } else { actions };
        let Some(Action::Claim { requests, .. }) = actions.iter().find(|action| matches!(action, Action::Claim { .. }))
        else {
            panic!("{actions:?}")
        };
        assert!(!requests[0].interrupted, "it has begun: {requests:?}");
        bench.handle(Input::Claimed { keys: vec![requests[0].key.clone()], result: Err(unreachable()) });
    }
    let asked = claimed(&bench.later(Duration::from_secs(1)));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(Claim { vanished: true, ..claim(2, 2, 1) })]);
    let Settlement::Dead { letter, .. } = &settles(&actions)[0].to else { panic!("{actions:?}") };
    assert_eq!((letter.reason, letter.error.kind.as_str()), (Reason::Crashed, "Vanished"));
    assert!(invoked(&actions).is_empty(), "{actions:?}");
}

#[test]
fn a_worker_that_died_while_the_lease_was_lost_has_crashed_all_the_same() {
    let mut bench = bench(1, 1);
    let (worker, _) = bench.running("k");
    bench.handle(Input::Owner(None));
    let crashed = settles(&bench.gone(worker, true));
    assert!(matches!(crashed[..], [Settle { to: Settlement::Waiting { crashed: true, .. }, .. }]), "{crashed:?}");
}

#[test]
fn a_claim_that_is_granted_under_a_lost_lease_is_given_back_and_not_run() {
    let mut bench = bench(1, 1);
    let (_, _) = bench.running("warm");
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    bench.handle(Input::Owner(None));
    bench.handle(Input::Owner(Some(Owner { node: NodeName::new("n").unwrap(), incarnation: 2 })));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    assert!(invoked(&actions).is_empty() && launched(&actions).is_empty(), "{actions:?}");
    let released = settles(&actions);
    assert!(matches!(released[..], [Settle { to: Settlement::Released, .. }]), "it costs no attempt: {actions:?}");
    assert_eq!(claimed(&bench.settled(&released, Settled::Done)), asked, "it is claimed anew");
}

#[test]
fn what_waits_for_a_slot_when_the_lease_is_lost_costs_no_attempt() {
    let mut bench = bench(1, 1);
    bench.running("warm");
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    let released = settles(&bench.handle(Input::Owner(None)));
    assert!(matches!(released[..], [Settle { to: Settlement::Released, .. }]), "{released:?}");
}

#[test]
fn a_drain_finishes_what_runs_and_hands_back_what_has_not_started() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(7, 1, 0))]);
    let actions = bench.handle(Input::Drain);
    assert!(actions.iter().any(|action| matches!(action, Action::StopConsuming)));
    let released = settles(&actions);
    assert!(matches!(released[..], [Settle { to: Settlement::Released, .. }]), "{released:?}");
    assert_eq!(requeued(&bench.settled(&released, Settled::Done)), [2]);
    assert_eq!(requeued(&bench.deliver(vec![message("m", "a")])), [3], "buffered deliveries go back");
    bench.handle(Input::DeliveriesEnded);

    let actions = bench.outcome(worker, &invoke, succeeded());
    assert!(actions.iter().any(|action| matches!(action, Action::DrainWorker(id) if *id == worker)));
    assert_eq!(acked(&bench.settled(&settles(&actions), Settled::Done)), [1]);
    let actions = bench.gone(worker, true);
    assert!(matches!(actions[..], [Action::WorkerGone(_), Action::Stopped]), "{actions:?}");
}

#[test]
fn a_claim_that_is_granted_in_a_drain_is_given_back_and_starts_no_worker() {
    let mut bench = bench(1, 4);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let actions = bench.handle(Input::Drain);
    assert!(requeued(&actions).is_empty(), "its claim is under way: {actions:?}");
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    assert!(launched(&actions).is_empty(), "{actions:?}");
    let released = settles(&actions);
    assert!(matches!(released[..], [Settle { to: Settlement::Released, .. }]), "{actions:?}");
    assert_eq!(requeued(&bench.settled(&released, Settled::Done)), [1]);
}

#[test]
fn a_claim_without_an_answer_burns_no_attempt() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    bench.handle(Input::Claimed { keys: asked, result: Err(unreachable()) });
    let actions = bench.later(Duration::from_secs(1));
    assert!(actions.iter().any(|action| matches!(action, Action::Claim { requests, .. } if requests[0].interrupted)));
}
