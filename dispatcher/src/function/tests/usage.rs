//! What handlers are billed for: the time that they were busy, each call once.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn billed_ms(bench: &Bench) -> u64 {
    bench.stats.used(bench.now.mono).billed_ms
}

/// An answer of a handler that was entered so long ago.
fn answered(bench: &mut Bench, worker: WorkerId, invoke: &Invoke, ago: Duration) {
    let entered_us = Some(bench.now.shared_us - u64::try_from(ago.as_micros()).unwrap());
    let from = FromWorker::Outcome { id: invoke.id, outcome: succeeded(), emits: Vec::new(), entered_us };
    bench.handle(Input::Worker(worker, from));
}

/// Two events in one call, and its worker.
fn call_of_two() -> (Bench, WorkerId, Vec<Invoke>) {
    let mut bench = bench_with(1, 1, "batch = { size = 2 }");
    bench.batch = true;
    let asked = claimed(&bench.deliver(vec![message("k", "a"), message("l", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0)), Verdict::Run(claim(2, 1, 0))]);
    let worker = launched(&actions)[0];
    let actions = bench.ready(worker);
    let calls = actions.into_iter().filter_map(|action| match action {
        Action::InvokeBatch(_, invokes) => Some(invokes),
        _ => None,
    });
    let invokes: Vec<Invoke> = calls.flatten().collect();
    assert_eq!(invokes.len(), 2);
    (bench, worker, invokes)
}

#[test]
fn an_answer_is_billed_from_its_handlers_entry() {
    let mut bench = bench(2, 1);
    let (worker, invoke) = bench.running("k");
    answered(&mut bench, worker, &invoke, Duration::from_micros(2_001));
    assert_eq!(billed_ms(&bench), 3, "rounded up");
    bench.now.mono += SECOND;
    bench.gone(worker, true);
    assert_eq!(billed_ms(&bench), 3, "nothing ran when the worker left");
}

#[test]
fn an_attempt_whose_worker_died_is_billed_from_its_start_to_the_workers_end() {
    let mut bench = bench(2, 1);
    let (worker, _) = bench.running("k");
    bench.now.mono += SECOND;
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    bench.now.mono += SECOND;
    bench.gone(worker, true);
    assert_eq!(billed_ms(&bench), 2_000 + 1_000);
}

#[test]
fn an_attempt_that_ignores_its_deadline_is_billed_until_it_is_given_up_and_once() {
    let mut bench = bench(2, 1);
    let (worker, invoke) = bench.running("k");
    bench.later(32 * SECOND);
    assert_eq!(billed_ms(&bench), 32_000);
    answered(&mut bench, worker, &invoke, 32 * SECOND);
    bench.now.mono += SECOND;
    bench.gone(worker, true);
    assert_eq!(billed_ms(&bench), 32_000);
}

#[test]
fn a_call_of_several_events_is_billed_once() {
    let (mut bench, worker, invokes) = call_of_two();
    answered(&mut bench, worker, &invokes[0], 2 * SECOND);
    assert_eq!(billed_ms(&bench), 0, "its handler goes on with the other");
    answered(&mut bench, worker, &invokes[1], 3 * SECOND);
    assert_eq!(billed_ms(&bench), 3_000);

    let (mut bench, worker, _) = call_of_two();
    bench.now.mono += 5 * SECOND;
    bench.gone(worker, true);
    assert_eq!(billed_ms(&bench), 5_000);

    let (mut bench, ..) = call_of_two();
    bench.later(32 * SECOND);
    assert_eq!(billed_ms(&bench), 32_000);
}
