//! Batches: who goes in one call, when it goes, and what its end means for each.

use super::*;

/// Keys `0` to `n`, claimed as their first attempt, with a worker that is up.
fn waiting(more: &str, slots: u32, n: u32) -> (Bench, WorkerId, Vec<Action>) {
    let mut bench = bench_with(slots, 1, more);
    bench.batch = true;
    let asked = claimed(&bench.deliver((0..n).map(|n| message(&n.to_string(), "a")).collect()));
    let actions = bench.verdicts(&asked, (1..).take(asked.len()).map(|n| Verdict::Run(claim(n, 1, 0))).collect());
    let worker = launched(&actions)[0];
    let actions = bench.ready(worker);
    (bench, worker, actions)
}

/// The calls that were made, as the keys in each.
fn calls(actions: &[Action]) -> Vec<Vec<String>> {
    let calls = actions.iter().filter_map(|action| match action {
        Action::InvokeBatch(_, invokes) => Some(invokes.iter().map(|invoke| invoke.key.to_string()).collect()),
        _ => None,
    });
    calls.collect()
}

fn members(actions: &[Action]) -> Vec<Invoke> {
    let calls = actions.iter().filter_map(|action| match action {
        Action::InvokeBatch(_, invokes) => Some(invokes.clone()),
        _ => None,
    });
    calls.flatten().collect()
}

fn retry() -> Outcome {
    Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms: None }
}

#[test]
fn what_waits_goes_in_calls_of_the_size_one_slot_each() {
    let (mut bench, worker, actions) = waiting("batch = { size = 2 }", 2, 5);
    assert_eq!(calls(&actions), [["0", "1"], ["2", "3"]], "two slots are two calls");
    let first = members(&actions);
    assert!(calls(&bench.outcome(worker, &first[0], succeeded())).is_empty(), "its call has not ended");
    assert_eq!(calls(&bench.outcome(worker, &first[1], succeeded())), [["4"]]);
}

#[test]
fn without_a_wait_an_event_goes_at_once() {
    let (_, _, actions) = waiting("batch = { size = 100 }", 1, 1);
    assert_eq!(calls(&actions), [["0"]]);
}

#[test]
fn a_batch_goes_when_its_first_event_has_waited_or_it_is_full() {
    let (mut bench, _, actions) = waiting("batch = { size = 3, wait = \"50ms\" }", 4, 1);
    assert!(calls(&actions).is_empty(), "it waits for others");
    assert!(calls(&bench.later(Duration::from_millis(49))).is_empty());
    let asked = claimed(&bench.deliver(vec![message("1", "a")]));
    assert!(calls(&bench.verdicts(&asked, vec![Verdict::Run(claim(8, 1, 0))])).is_empty());
    assert_eq!(calls(&bench.later(Duration::from_millis(1))), [["0", "1"]]);

    let asked = claimed(&bench.deliver((2..5).map(|n| message(&n.to_string(), "a")).collect()));
    let actions = bench.verdicts(&asked, (9..12).map(|n| Verdict::Run(claim(n, 1, 0))).collect());
    assert_eq!(calls(&actions), [["2", "3", "4"]], "a full one does not wait");
}

#[test]
fn only_what_failed_is_tried_again() {
    let (mut bench, worker, actions) = waiting("batch = { size = 3 }", 1, 3);
    let invokes = members(&actions);
    let mut settled = Vec::new();
    for (invoke, outcome) in invokes.iter().zip([succeeded(), retry(), succeeded()]) {
        let settles = settles(&bench.outcome(worker, invoke, outcome));
        settled.extend(settles.iter().cloned());
        if !settles.is_empty() {
            settled.extend(super::settles(&bench.settled(&settles, Settled::Done)));
        }
    }
    let waiting: Vec<_> = settled
        .iter()
        .filter(|settle| matches!(settle.to, Settlement::Waiting { .. }))
        .map(|settle| settle.key.to_string())
        .collect();
    assert_eq!(waiting, ["1"]);
    let done = settled.iter().filter(|settle| matches!(settle.to, Settlement::Succeeded { .. })).count();
    assert_eq!(done, 2, "{settled:?}");
}

#[test]
fn a_crash_counts_for_each_and_the_suspects_run_alone() {
    let (mut bench, worker, _) = waiting("batch = { size = 3 }", 1, 2);
    let crashed = settles(&bench.gone(worker, true));
    assert_eq!(crashed.len(), 2);
    assert!(crashed.iter().all(|settle| matches!(settle.to, Settlement::Spared { .. })), "{crashed:?}");
    bench.settled(&crashed, Settled::Done);
    let retries = crashed.iter().filter_map(|settle| match &settle.to {
        Settlement::Spared { retry, .. } => Some(retry.message.clone()),
        _ => None,
    });
    let retries = retries.collect();
    let asked = claimed(&bench.deliver(retries));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(2, 1, 1)), Verdict::Run(claim(3, 1, 1))]);
    let worker = launched(&actions)[0];
    let actions = bench.ready(worker);
    assert_eq!(calls(&actions), [["0"]], "each suspect has a worker to itself");
}

#[test]
fn a_call_that_ignores_its_deadline_is_timed_out_for_each_and_for_no_other() {
    let (mut bench, worker, actions) = waiting("batch = { size = 2 }\ntimeout = \"1s\"", 2, 3);
    assert_eq!(calls(&actions), [vec!["0", "1"], vec!["2"]]);
    bench.now.mono += Duration::from_millis(500);
    let third = members(&actions)[2].clone();
    let actions = bench.outcome(worker, &third, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    let timed_out = settles(&bench.later(Duration::from_millis(1_600)));
    let keys: Vec<_> = timed_out.iter().map(|settle| settle.key.to_string()).collect();
    assert_eq!(keys, ["0", "1"], "{timed_out:?}");
    let failed = |settle: &Settle| matches!(settle.to, Settlement::Waiting { crashed: false, .. });
    assert!(timed_out.iter().all(failed), "{timed_out:?}");
    assert!(settles(&bench.gone(worker, true)).is_empty(), "nothing else ran there");
}

#[test]
fn a_last_attempt_has_no_neighbours() {
    let (mut bench, _, _) = waiting("batch = { size = 10 }\nretry = { attempts = 2 }", 4, 1);
    let asked = claimed(&bench.deliver((1..5).map(|n| message(&n.to_string(), "a")).collect()));
    let attempts = [1, 2, 1, 1];
    let verdicts = attempts.into_iter().zip(5..).map(|(attempt, fence)| Verdict::Run(claim(fence, attempt, 0)));
    let actions = bench.verdicts(&asked, verdicts.collect());
    assert_eq!(calls(&actions), [vec!["1"], vec!["2"], vec!["3", "4"]]);
}

#[test]
fn a_handler_of_the_other_kind_is_refused_with_what_to_write() {
    for (more, batch, help) in [
        ("batch = { size = 2 }", false, "registers the handler \"f\" for single events"),
        ("", true, "registers the handler \"f\" for batches"),
    ] {
        let mut bench = bench_with(1, 1, more);
        bench.batch = batch;
        let asked = claimed(&bench.deliver(vec![message("0", "a")]));
        let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
        let actions = bench.ready(launched(&actions)[0]);
        assert!(actions.iter().any(|action| matches!(action, Action::KillWorker(_))), "{actions:?}");
        let told = bench.stats.snapshot().unhealthy.unwrap();
        assert!(told.contains(help), "{told}");
    }
}
