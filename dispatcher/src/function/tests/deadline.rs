//! Attempts that ignore their deadline, and their neighbours. A timeout is 30 s here, and slots are two.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// `k` runs since 20 s and `l` since now, in one worker.
fn neighbours() -> (Bench, WorkerId, Invoke, Invoke) {
    let mut bench = bench(2, 1);
    let (worker, k) = bench.running("k");
    bench.now.mono += 20 * SECOND;
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    let begun = invoked(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]));
    let l = begun[0].1.clone();
    (bench, worker, k, l)
}

fn killed(actions: &[Action]) -> Vec<WorkerId> {
    actions.iter().filter_map(|action| if let Action::KillWorker(id) = action { Some(*id) } else { None }).collect()
}

#[test]
fn an_attempt_that_ignores_its_deadline_alone_is_settled_and_its_worker_killed_at_once() {
    let mut bench = bench(2, 1);
    let (worker, _) = bench.running("k");
    assert!(bench.later(30 * SECOND).is_empty(), "its worker has a while to stop it");
    let actions = bench.later(2 * SECOND);
    assert_eq!(killed(&actions), [worker]);
    let settled = settles(&actions);
    let Settlement::Waiting { error, crashed: false, retry } = &settled[0].to else { panic!("{settled:?}") };
    assert_eq!(error.kind, "TimedOut");
    assert!(retry.due_in <= Duration::from_millis(1_200), "the backoff and no more: {:?}", retry.due_in);
    bench.settled(&settled, Settled::Done);
    assert!(settles(&bench.gone(worker, true)).is_empty(), "it is settled once");
}

#[test]
fn the_neighbours_of_one_that_ignores_its_deadline_may_finish_before_their_worker_is_killed() {
    let (mut bench, worker, _, l) = neighbours();
    let actions = bench.later(12 * SECOND);
    assert_eq!(killed(&actions), [], "l has time");
    let settled = settles(&actions);
    assert!(matches!(&settled[..], [Settle { key, to: Settlement::Waiting { .. }, .. }] if key.as_str() == "k"));
    bench.settled(&settled, Settled::Done);
    let actions = bench.outcome(worker, &l, succeeded());
    assert!(matches!(settles(&actions)[0].to, Settlement::Succeeded { .. }), "{actions:?}");
    assert_eq!(killed(&actions), [worker], "nobody is left to wait for");
}

#[test]
fn a_condemned_worker_gets_no_work_and_its_replacement_starts_at_once() {
    let (mut bench, worker, ..) = neighbours();
    bench.later(12 * SECOND);
    let asked = claimed(&bench.deliver(vec![message("m", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    assert!(invoked(&actions).is_empty(), "{actions:?}");
    let replacement = launched(&actions);
    assert!(replacement.len() == 1 && replacement[0] != worker, "one worker is the most, and the condemned is none");
    let begun = invoked(&bench.ready(replacement[0]));
    assert!(matches!(&begun[..], [(id, invoke)] if *id == replacement[0] && invoke.key.as_str() == "m"));
}

#[test]
fn neighbours_that_do_not_finish_within_the_bound_are_given_back_uncounted() {
    let (mut bench, worker, ..) = neighbours();
    let settled = settles(&bench.later(12 * SECOND));
    bench.settled(&settled, Settled::Done);
    assert_eq!(killed(&bench.later(9 * SECOND)), []);
    assert_eq!(killed(&bench.later(2 * SECOND)), [worker]);
    assert!(bench.later(9 * SECOND).is_empty(), "killed once");
    let given_back = settles(&bench.gone(worker, true));
    assert!(matches!(&given_back[..], [Settle { key, to: Settlement::Released, .. }] if key.as_str() == "l"));
}

#[test]
fn a_neighbour_is_not_waited_for_past_its_own_deadline_and_is_not_blamed_for_it() {
    let mut bench = bench(2, 1);
    let (worker, _) = bench.running("k");
    bench.now.mono += 2 * SECOND;
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    assert_eq!(killed(&bench.later(29 * SECOND)), []);
    // At 33 s it is over for l, long before the 41 s that the bound allows.
    let actions = bench.later(2 * SECOND);
    assert_eq!(killed(&actions), [worker]);
    assert!(settles(&actions).is_empty(), "the one that blocks may have kept it from running: {actions:?}");
}

#[test]
fn the_retry_of_an_attempt_that_ignores_its_deadline_is_due_after_the_kill() {
    let (mut bench, ..) = neighbours();
    let settled = settles(&bench.later(12 * SECOND));
    let Settlement::Waiting { retry, .. } = &settled[0].to else { panic!("{settled:?}") };
    assert!(retry.due_in > 10 * SECOND, "it would run beside itself: {:?}", retry.due_in);
}

#[test]
fn the_late_answer_of_an_attempt_that_ignored_its_deadline_is_refused() {
    let (mut bench, worker, k, _) = neighbours();
    let settled = settles(&bench.later(12 * SECOND));
    assert!(bench.outcome(worker, &k, succeeded()).is_empty(), "before the ledger has answered");
    bench.settled(&settled, Settled::Done);
    assert!(bench.outcome(worker, &k, succeeded()).is_empty(), "and after");
}

#[test]
fn the_late_answer_of_an_attempt_that_ignored_its_deadline_is_none_of_the_next_attempt() {
    let (mut bench, worker, k, _) = neighbours();
    let settled = settles(&bench.later(12 * SECOND));
    bench.settled(&settled, Settled::Done);
    // Its event comes once more and runs elsewhere, while the old worker still has a neighbour to wait for.
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let replacement = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(2, 2, 0))]))[0];
    let again = invoked(&bench.ready(replacement))[0].1.clone();
    assert!(bench.outcome(worker, &k, succeeded()).is_empty(), "it is no answer of the next attempt");
    let settled = settles(&bench.outcome(replacement, &again, succeeded()));
    assert!(matches!(settled[..], [Settle { fence: Fence(2), .. }]), "{settled:?}");
}

#[test]
fn a_crash_of_a_condemned_worker_is_not_held_against_its_last_neighbour_alone() {
    let mut bench = bench_with(2, 1, "retry = { attempts = 3, crashes = 1 }");
    let (worker, _) = bench.running("k");
    bench.now.mono += 20 * SECOND;
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    let settled = settles(&bench.later(12 * SECOND));
    bench.settled(&settled, Settled::Done);
    let crashed = settles(&bench.gone(worker, true));
    assert!(matches!(crashed[..], [Settle { to: Settlement::Spared { .. }, .. }]), "{crashed:?}");
}

#[test]
fn an_attempt_without_its_lease_that_ignores_its_deadline_is_given_back_after_the_kill_and_not_before() {
    let (mut bench, worker, ..) = neighbours();
    bench.handle(Input::Owner(None));
    let actions = bench.later(12 * SECOND);
    assert!(settles(&actions).is_empty() && killed(&actions).is_empty(), "{actions:?}");
    assert_eq!(killed(&bench.later(11 * SECOND)), [worker]);
    let given_back = settles(&bench.gone(worker, true));
    assert_eq!(given_back.len(), 2);
    assert!(given_back.iter().all(|settle| matches!(settle.to, Settlement::Released)), "{given_back:?}");
}
