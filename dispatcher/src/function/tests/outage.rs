//! Attempts that could not use a service.

use super::*;

fn outage() -> Outcome {
    Outcome::Outage { error: ErrorInfo::new("StateUnreachable", "m"), after_ms: None }
}

fn told(bench: &Bench) -> bool {
    bench.stats.snapshot().outage.is_some()
}

#[test]
fn an_attempt_that_ran_into_an_outage_is_given_back_uncounted_and_asked_for_again_after_a_while() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.outcome(worker, &invoke, outage());
    let released = settles(&actions);
    assert!(matches!(released[0].to, Settlement::Released), "{actions:?}");
    let actions = bench.settled(&released, Settled::Done);
    assert!(acked(&actions).is_empty() && requeued(&actions).is_empty() && claimed(&actions).is_empty(), "{actions:?}");
    assert!(claimed(&bench.later(Duration::from_millis(100))).is_empty(), "not before the wait is over");
    assert_eq!(claimed(&bench.later(Duration::from_millis(200))).len(), 1);
}

#[test]
fn a_wait_for_an_outage_to_end_grows_and_stays_short() {
    let mut bench = bench(1, 1);
    let (mut worker, mut invoke) = bench.running("k");
    let mut waits = Vec::new();
    for fence in 2..12 {
        let released = settles(&bench.outcome(worker, &invoke, outage()));
        let mut asked = claimed(&bench.settled(&released, Settled::Done));
        let mut waited = Duration::ZERO;
        while asked.is_empty() {
            let step = Duration::from_millis(50);
            waited += step;
            assert!(waited < Duration::from_secs(13), "{waits:?}");
            asked = claimed(&bench.later(step));
        }
        waits.push(waited);
        // Uncounted, so the attempt stays the first.
        let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(fence, 1, 0))]);
        let worker_of = |actions: &[Action]| invoked(actions).first().cloned();
        (worker, invoke) = match worker_of(&actions) {
            Some(placed) => placed,
            None => {
                let launched = launched(&actions)[0];
                invoked(&bench.ready(launched))[0].clone()
            }
        };
    }
    assert!(waits[0] < Duration::from_millis(300) && waits[9] > Duration::from_secs(7), "{waits:?}");
}

#[test]
fn an_outage_is_told_until_attempts_get_past_it() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    assert!(!told(&bench));
    let released = settles(&bench.outcome(worker, &invoke, outage()));
    assert!(told(&bench));
    bench.settled(&released, Settled::Done);
    let asked = claimed(&bench.later(Duration::from_millis(300)));
    let (worker, invoke) = invoked(&bench.verdicts(&asked, vec![Verdict::Run(claim(2, 1, 0))]))[0].clone();
    let settle = settles(&bench.outcome(worker, &invoke, succeeded()));
    assert!(told(&bench), "one success may be chance");
    assert_eq!(acked(&bench.settled(&settle, Settled::Done)), [1]);
    bench.later(Duration::from_secs(6));
    assert!(!told(&bench));
}

#[test]
fn a_drain_hands_back_what_waits_for_an_outage_to_end() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let released = settles(&bench.outcome(worker, &invoke, outage()));
    bench.settled(&released, Settled::Done);
    assert_eq!(requeued(&bench.handle(Input::Drain)), [1]);
}

#[test]
fn a_ledger_that_takes_nothing_again_and_again_is_told_until_it_does() {
    let mut bench = bench(1, 1);
    let told = |bench: &Bench| bench.stats.snapshot().ledger;
    let mut asked = claimed(&bench.deliver(vec![message("k", "a")]));
    for failures in 0..3 {
        assert_eq!(told(&bench), None, "{failures} are soon over");
        bench.handle(Input::Claimed { keys: asked, result: Err(unreachable()) });
        asked = claimed(&bench.later(Duration::from_secs(5)));
    }
    assert!(told(&bench).is_some_and(|reason| reason.contains("gone")), "with the reason");
    bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    assert_eq!(told(&bench), None);
}
