//! The rate of starts.

use super::*;

/// Three events at one a second, all claimed; the one worker is up and has been given the first.
fn three_at_one_a_second() -> (Bench, WorkerId, Vec<Invoke>) {
    let mut bench = bench_with(4, 4, "rate = \"1/s\"");
    let asked = claimed(&bench.deliver((0..3).map(|n| message(&n.to_string(), "a")).collect()));
    assert_eq!(asked.len(), 3, "a claim takes nothing of the rate");
    let actions = bench.verdicts(&asked, (1..4).map(|n| Verdict::Run(claim(n, 1, 0))).collect());
    assert_eq!(launched(&actions).len(), 1, "no worker is started for what may not start: {actions:?}");
    let worker = launched(&actions)[0];
    let first = invoked(&bench.ready(worker));
    assert_eq!(first.len(), 1, "{first:?}");
    (bench, worker, first.into_iter().map(|(_, invoke)| invoke).collect())
}

#[test]
fn starts_come_at_the_rate_and_by_a_timer() {
    let (mut bench, _, _) = three_at_one_a_second();
    let at = bench.core.next_timer().unwrap();
    assert_eq!(at, bench.now.mono + Duration::from_secs(1), "the next start has a timer of its own");
    assert!(invoked(&bench.later(Duration::from_millis(999))).is_empty());
    assert_eq!(invoked(&bench.later(Duration::from_millis(1))).len(), 1);
    assert!(invoked(&bench.later(Duration::from_millis(500))).is_empty());
    assert_eq!(invoked(&bench.later(Duration::from_millis(500))).len(), 1);
}

#[test]
fn what_waits_for_the_rate_is_throttled_by_it() {
    let (bench, _, _) = three_at_one_a_second();
    assert_eq!(bench.stats.throttled_by(), [("rate", 2)].into());
    assert_eq!(bench.stats.snapshot().throttles, 2);
}

#[test]
fn a_retry_is_a_start_like_any_other() {
    let (mut bench, worker, invokes) = three_at_one_a_second();
    let retry = Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms: None };
    let actions = bench.outcome(worker, &invokes[0], retry);
    bench.settled(&settles(&actions), Settled::Done);
    // Its retry comes back while two others wait, and another comes after it: each start takes a second.
    let asked = claimed(&bench.deliver(vec![message("0", "a"), message("3", "a")]));
    assert_eq!(asked.len(), 2);
    bench.verdicts(&asked, vec![Verdict::Run(claim(9, 2, 0)), Verdict::Run(claim(10, 1, 0))]);
    let mut each_second = || {
        let started = invoked(&bench.later(Duration::from_secs(1)));
        started.into_iter().map(|(_, invoke)| invoke.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!([each_second(), each_second(), each_second(), each_second()], [["1"], ["2"], ["0"], ["3"]]);
}

#[test]
fn what_the_rate_holds_back_goes_back_uncounted_in_a_drain() {
    let (mut bench, _, _) = three_at_one_a_second();
    let released = settles(&bench.handle(Input::Drain));
    assert_eq!(released.len(), 2);
    assert!(released.iter().all(|settle| matches!(settle.to, Settlement::Released)), "{released:?}");
}
