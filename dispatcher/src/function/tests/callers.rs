//! Callers of this dispatcher and `concurrency.reserved`.

use super::*;
use crate::function::callers::Entry;

/// What a caller of `key` is told.
fn call(bench: &mut Bench, call: &str, key: &str) -> Entry {
    let key = Key::new(key).unwrap();
    let actions = bench.handle(Input::Call { call: call.to_owned(), key });
    let told = actions.iter().find_map(|action| match action {
        Action::Entry(to, entry) => Some((to.as_str(), *entry)),
        _ => None,
    });
    assert_eq!(told.unwrap().0, call);
    told.unwrap().1
}

/// The request of a caller that was let in.
fn request(key: &str, call: &str) -> Message {
    let mut message = message(key, "a");
    message.properties.reply_to = Some("replies".to_owned());
    message.properties.correlation_id = Some(call.to_owned());
    message
}

fn reserved(reserved: u32) -> Bench {
    bench_with(1, 4, &format!("concurrency = {{ reserved = {reserved} }}"))
}

#[test]
fn one_call_more_than_reserved_is_refused_until_one_has_left() {
    let mut bench = reserved(2);
    assert_eq!(call(&mut bench, "c1", "a"), Entry::Admitted);
    // That its request arrives makes no second one of it.
    bench.deliver(vec![request("a", "c1")]);
    assert_eq!(call(&mut bench, "c2", "b"), Entry::Admitted);
    assert_eq!(
        call(&mut bench, "c3", "c"),
        Entry::Throttled,
        "nothing of the second is here yet, and it has its place"
    );
    bench.deliver(vec![request("b", "c2")]);
    bench.handle(Input::CallLeft("c2".to_owned()));
    assert_eq!(call(&mut bench, "c3", "c"), Entry::Throttled, "the second runs, whoever waits for it");
    bench.handle(Input::CallLeft("c3".to_owned()));
    assert_eq!(call(&mut bench, "c4", "b"), Entry::Admitted, "it joins what is here");
}

#[test]
fn events_take_the_places_of_calls_from_their_claim_to_their_answer() {
    let mut bench = reserved(1);
    let asked = claimed(&bench.deliver(vec![message("e", "a")]));
    assert_eq!(call(&mut bench, "c", "a"), Entry::Throttled, "its claim is under way");
    let worker = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0];
    assert_eq!(call(&mut bench, "c", "a"), Entry::Throttled, "it waits for its worker");
    let invoke = invoked(&bench.ready(worker))[0].1.clone();
    assert_eq!(call(&mut bench, "c", "a"), Entry::Throttled, "it runs");
    let settles = settles(&bench.outcome(worker, &invoke, Outcome::Succeeded { result: Bytes::from_static(b"1") }));
    assert_eq!(call(&mut bench, "c", "a"), Entry::Admitted, "its slot is free");
    bench.settled(&settles, Settled::Done);
    assert_eq!(bench.stats.throttled_by().get("reserved"), None, "a refusal is counted where it is given");
}

#[test]
fn without_a_bound_everybody_is_let_in_and_in_a_drain_nobody() {
    let mut bench = bench(1, 1);
    for number in 0..50 {
        assert_eq!(call(&mut bench, &format!("c{number}"), "a"), Entry::Admitted);
    }
    bench.handle(Input::Drain);
    assert_eq!(call(&mut bench, "late", "a"), Entry::Stopping);
}

#[test]
fn a_smaller_bound_stops_idle_workers_and_lets_what_runs_end() {
    let mut bench = bench(1, 4);
    let keys = ["a", "b", "c"];
    let asked = claimed(&bench.deliver(keys.map(|key| message(key, "a")).to_vec()));
    let workers = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0)); 3]));
    let runs: Vec<(WorkerId, Invoke)> = workers.iter().flat_map(|worker| invoked(&bench.ready(*worker))).collect();
    assert_eq!(runs.len(), 3);
    let done = Outcome::Succeeded { result: Bytes::from_static(b"1") };
    let settles = settles(&bench.outcome(runs[0].0, &runs[0].1, done.clone()));
    bench.settled(&settles, Settled::Done);
    let home = |actions: &[Action]| -> Vec<WorkerId> {
        actions
            .iter()
            .filter_map(|action| if let Action::DrainWorker(id) = action { Some(*id) } else { None })
            .collect()
    };
    assert_eq!(home(&bench.handle(Input::Reserve(Some(1)))), [runs[0].0]);
    // Two run where one may: a third waits for both.
    let asked = claimed(&bench.deliver(vec![message("d", "a")]));
    assert!(launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))])).is_empty());
    assert!(invoked(&bench.outcome(runs[1].0, &runs[1].1, done.clone())).is_empty(), "the other still runs");
    assert_eq!(invoked(&bench.outcome(runs[2].0, &runs[2].1, done)).len(), 1);
}

#[test]
fn a_bound_of_none_lets_nothing_begin_and_a_larger_one_begins_at_once() {
    let mut bench = bench(1, 4);
    bench.handle(Input::Reserve(Some(0)));
    assert_eq!(call(&mut bench, "c", "x"), Entry::Throttled);
    let asked = claimed(&bench.deliver(vec![message("a", "a"), message("b", "a")]));
    assert!(launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0)); 2])).is_empty());
    assert_eq!(launched(&bench.handle(Input::Reserve(Some(1)))).len(), 1);
    assert_eq!(launched(&bench.handle(Input::Reserve(None))).len(), 1);
}

#[test]
fn a_bound_beyond_the_manifests_takes_more_from_the_broker() {
    let mut bench = reserved(1);
    bench.core.bounds.prefetch = 1;
    let most = |actions: &[Action]| -> Vec<u32> {
        actions
            .iter()
            .filter_map(|action| if let Action::Prefetch(most) = action { Some(*most) } else { None })
            .collect()
    };
    assert_eq!(most(&bench.handle(Input::Reserve(Some(3)))), [3]);
    assert!(most(&bench.handle(Input::Reserve(Some(2)))).is_empty(), "what is too much waits here");
    assert_eq!(most(&bench.handle(Input::Reserve(None))), [4], "as many as all its workers have slots");
}

#[test]
fn provisioned_workers_are_no_more_than_the_bound_could_fill() {
    let mut bench = bench_with(1, 4, "concurrency = { provisioned = 3 }");
    let workers = launched(&bench.handle(Input::Tick));
    assert_eq!(workers.len(), 0, "they were started by the first input");
    let workers: Vec<WorkerId> = bench.core.workers.keys().copied().collect();
    assert_eq!(workers.len(), 3);
    for worker in workers {
        bench.ready(worker);
    }
    let actions = bench.handle(Input::Reserve(Some(1)));
    let home = actions.iter().filter(|action| matches!(action, Action::DrainWorker(_))).count();
    assert_eq!((home, launched(&actions).len()), (2, 0));
    assert_eq!(launched(&bench.handle(Input::Reserve(None))).len(), 2, "they come back with the bound's end");
}
