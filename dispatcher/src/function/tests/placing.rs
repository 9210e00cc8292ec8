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
