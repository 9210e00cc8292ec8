//! Starting and stopping workers.

use super::*;

#[test]
fn no_more_workers_are_started_than_what_waits_can_use() {
    let mut bench = bench(2, 10);
    let asked = claimed(&bench.deliver((0..5).map(|n| message(&n.to_string(), "a")).collect()));
    let verdicts = (0..5).map(|n| Verdict::Run(claim(n, 1, 0))).collect();
    assert_eq!(launched(&bench.verdicts(&asked, verdicts)).len(), 3);
    let asked = claimed(&bench.deliver(vec![message("5", "a")]));
    assert!(
        launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(9, 1, 0))])).is_empty(),
        "a start under way has room"
    );
}

#[test]
fn an_idle_worker_leaves_after_its_keep_alive_and_not_before() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.outcome(worker, &invoke, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    assert!(bench.later(Duration::from_millis(900)).is_empty());
    let actions = bench.later(Duration::from_millis(200));
    assert!(matches!(actions[..], [Action::DrainWorker(id)] if id == worker), "{actions:?}");
}

#[test]
fn of_two_workers_the_idle_one_leaves_and_the_busy_one_goes_on() {
    let mut bench = bench(1, 2);
    let asked = claimed(&bench.deliver(vec![message("k", "a"), message("l", "a")]));
    let verdicts = (1..3).map(|n| Verdict::Run(claim(n, 1, 0))).collect();
    let workers = launched(&bench.verdicts(&asked, verdicts));
    let first = invoked(&bench.ready(workers[0]));
    let second = invoked(&bench.ready(workers[1]));
    // The busy one has not been idle for longer than the other.
    let actions = bench.outcome(workers[1], &second[0].1, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    let actions = bench.later(Duration::from_millis(1_100));
    assert!(matches!(actions[..], [Action::DrainWorker(id)] if id == workers[1]), "{actions:?}");
    bench.gone(workers[1], true);
    assert!(bench.later(Duration::from_secs(10)).is_empty(), "the other is not told to leave");
    let actions = bench.outcome(workers[0], &first[0].1, succeeded());
    assert!(matches!(settles(&actions)[..], [Settle { to: Settlement::Succeeded { .. }, .. }]), "{actions:?}");
    let asked = claimed(&bench.deliver(vec![message("m", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(3, 1, 0))]);
    assert_eq!(invoked(&actions)[0].0, workers[0], "it takes the next");
}

#[test]
fn workers_that_do_not_start_are_tried_again_ever_more_slowly() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let mut worker = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0];
    for _ in 0..4 {
        assert!(launched(&bench.gone(worker, false)).is_empty(), "not at once");
        worker = launched(&bench.later(Duration::from_secs(10)))[0];
    }
    assert_eq!(invoked(&bench.ready(worker)).len(), 1, "the event waited and lost no attempt");
}

#[test]
fn changed_code_replaces_idle_workers_at_once_and_busy_ones_when_they_have_finished() {
    let told = |actions: &[Action]| -> Vec<WorkerId> {
        actions
            .iter()
            .filter_map(|action| if let Action::DrainWorker(id) = action { Some(*id) } else { None })
            .collect()
    };
    let mut bench = bench(1, 2);
    let (idle, invoke) = bench.running("done");
    let settled = settles(&bench.outcome(idle, &invoke, succeeded()));
    bench.settled(&settled, Settled::Done);
    assert_eq!(told(&bench.handle(Input::CodeChanged)), [idle]);
    bench.gone(idle, true);

    let (busy, invoke) = bench.running("under-way");
    assert!(told(&bench.handle(Input::CodeChanged)).is_empty(), "told now, it would have a limited time");
    let asked = claimed(&bench.deliver(vec![message("next", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    assert!(invoked(&actions).is_empty());
    assert_eq!(launched(&actions).len(), 1, "the next one waits for the new code, beside the old one");
    assert_eq!(told(&bench.outcome(busy, &invoke, succeeded())), [busy]);
}

#[test]
fn code_that_did_not_start_is_tried_again_at_once_when_it_has_changed() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let mut worker = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0];
    for _ in 0..6 {
        assert!(launched(&bench.gone(worker, false)).is_empty());
        worker = launched(&bench.later(Duration::from_secs(60)))[0];
    }
    assert!(launched(&bench.gone(worker, false)).is_empty(), "it waits for long by now");
    assert_eq!(launched(&bench.handle(Input::CodeChanged)).len(), 1);
}
