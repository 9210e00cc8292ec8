//! Workers that die, and whom that costs an attempt.

use super::*;

#[test]
fn what_crashed_a_worker_runs_alone_next_time() {
    let mut bench = bench(4, 4);
    let (worker, _) = bench.running("k");
    let actions = bench.gone(worker, true);
    let Settlement::Waiting { crashed: true, .. } = settles(&actions)[0].to else { panic!("{actions:?}") };
    bench.settled(&settles(&actions), Settled::Done);
    let asked = claimed(&bench.deliver(vec![message("k", "a"), message("l", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(2, 2, 1)), Verdict::Run(claim(1, 1, 0))]);
    let workers = launched(&actions);
    assert_eq!(workers.len(), 2, "one for it alone, one for its neighbour");
    assert_eq!(invoked(&bench.ready(workers[0])).len(), 1);
    assert_eq!(invoked(&bench.ready(workers[1])).len(), 1);
}

#[test]
fn the_neighbours_of_one_that_ignores_its_deadline_keep_their_attempt() {
    let mut bench = bench(2, 1);
    let (worker, _) = bench.running("k");
    bench.now.mono += Duration::from_secs(20);
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    assert_eq!(invoked(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))])).len(), 1);
    let actions = bench.later(Duration::from_secs(12));
    assert!(actions.iter().any(|action| matches!(action, Action::KillWorker(id) if *id == worker)), "{actions:?}");
    let actions = bench.gone(worker, true);
    let both = settles(&actions);
    assert!(matches!(both[0].to, Settlement::Waiting { crashed: false, .. }), "k timed out: {both:?}");
    assert!(matches!(both[1].to, Settlement::Released), "l is not to blame: {both:?}");
}
