//! The bound over all dispatchers.

use weft_ledger::{PermitAsk, Permits};

use super::*;

fn bounded() -> Bench {
    bench_with(8, 1, "concurrency = { total = 3 }")
}

fn asks(actions: &[Action]) -> Vec<PermitAsk> {
    let asks = actions.iter().filter_map(|action| match action {
        Action::Permits { ask, .. } => Some(*ask),
        _ => None,
    });
    asks.collect()
}

fn answer(bench: &mut Bench, held: u32, share: u32) -> Vec<Action> {
    let owner = Owner { node: NodeName::new("n").unwrap(), incarnation: 1 };
    bench.handle(Input::Permits { owner, result: Ok(Permits { held, share }) })
}

/// `n` events, claimed and ready, with a worker that is up; and the first word to the ledger.
fn waiting(n: u32) -> (Bench, WorkerId, PermitAsk) {
    let mut bench = bounded();
    let actions = bench.deliver((0..n).map(|n| message(&n.to_string(), "a")).collect());
    let first = asks(&actions);
    let asked = claimed(&actions);
    let verdicts = (1..).take(asked.len()).map(|n| Verdict::Run(claim(n, 1, 0))).collect();
    let actions = bench.verdicts(&asked, verdicts);
    assert!(launched(&actions).is_empty(), "no worker is started for what may not start");
    let actions = answer(&mut bench, 0, 0);
    assert!(launched(&actions).is_empty());
    let ask = first[0];
    let again = asks(&bench.later(Duration::from_millis(250)));
    assert_eq!(again.len(), 1, "it asks again while it waits");
    let worker = launched(&answer(&mut bench, 1, 1))[0];
    (bench, worker, ask)
}

#[test]
fn it_asks_while_the_claim_is_under_way_for_what_it_could_use_within_the_bound() {
    let (_, _, ask) = waiting(5);
    assert_eq!(ask, PermitAsk { total: 3, keep: 0, wanted: 3 });
}

#[test]
fn no_more_runs_than_there_are_permits_and_what_waits_is_throttled() {
    let (mut bench, worker, _) = waiting(5);
    assert_eq!(invoked(&bench.ready(worker)).len(), 1);
    assert_eq!(bench.stats.throttled_by(), [("total", 5)].into());
    bench.later(Duration::from_secs(1));
    assert_eq!(invoked(&answer(&mut bench, 3, 3)).len(), 2);
}

#[test]
fn a_smaller_share_is_reached_by_starting_nothing_and_then_given_back() {
    let (mut bench, worker, _) = waiting(5);
    let mut running = invoked(&bench.ready(worker));
    bench.later(Duration::from_secs(1));
    running.extend(invoked(&answer(&mut bench, 3, 3)));
    let ask = asks(&bench.later(Duration::from_secs(1)));
    assert_eq!(ask, [PermitAsk { total: 3, keep: 3, wanted: 3 }], "it says what it has and could use");
    assert!(asks(&answer(&mut bench, 3, 1)).is_empty(), "all of it runs");
    let actions = bench.outcome(worker, &running[0].1, succeeded());
    assert!(invoked(&actions).is_empty(), "nothing starts above the share");
    assert_eq!(asks(&actions), [PermitAsk { total: 3, keep: 2, wanted: 3 }], "and what is free goes back at once");
}

#[test]
fn nothing_starts_while_permits_that_it_does_not_keep_are_on_their_way_back() {
    let (mut bench, worker, _) = waiting(1);
    let first = invoked(&bench.ready(worker))[0].1.clone();
    bench.later(Duration::from_secs(1));
    answer(&mut bench, 1, 1);
    let actions = bench.outcome(worker, &first, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    // A second without anything to do: it gives back what it has.
    bench.later(Duration::from_secs(1));
    answer(&mut bench, 1, 1);
    let ask = asks(&bench.later(Duration::from_secs(1)));
    assert_eq!(ask, [PermitAsk { total: 3, keep: 0, wanted: 0 }]);
    let asked = claimed(&bench.deliver(vec![message("9", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(9, 1, 0))]);
    assert!(invoked(&actions).is_empty(), "what it had may be another's by now");
    let actions = answer(&mut bench, 0, 0);
    assert_eq!(asks(&actions), [PermitAsk { total: 3, keep: 0, wanted: 1 }]);
}

#[test]
fn without_an_answer_nothing_more_starts() {
    let (mut bench, worker, _) = waiting(5);
    bench.ready(worker);
    bench.later(Duration::from_secs(1));
    let owner = Owner { node: NodeName::new("n").unwrap(), incarnation: 1 };
    let actions = bench.handle(Input::Permits { owner, result: Err(unreachable()) });
    assert!(invoked(&actions).is_empty());
    assert_eq!(asks(&bench.later(Duration::from_secs(1))).len(), 1, "it asks again");
}

#[test]
fn a_lost_lease_takes_the_permits_and_whoever_does_not_stop_is_killed() {
    let (mut bench, worker, _) = waiting(5);
    bench.ready(worker);
    bench.handle(Input::Owner(None));
    let actions = bench.later(Duration::from_secs(1));
    assert!(actions.iter().any(|action| matches!(action, Action::KillWorker(id) if *id == worker)), "{actions:?}");
    // The next incarnation begins with nothing but what still runs.
    let owner = Owner { node: NodeName::new("n").unwrap(), incarnation: 2 };
    let ask = asks(&bench.handle(Input::Owner(Some(owner))));
    assert!(ask.len() == 1 && ask[0].keep >= 1, "{ask:?}");
}

#[test]
fn a_drain_gives_everything_back_before_it_stops() {
    let (mut bench, worker, _) = waiting(1);
    let first = invoked(&bench.ready(worker))[0].1.clone();
    bench.handle(Input::Drain);
    bench.handle(Input::DeliveriesEnded);
    answer(&mut bench, 1, 1);
    let mut actions = bench.outcome(worker, &first, succeeded());
    let settle = settles(&actions);
    assert_eq!(asks(&actions), [PermitAsk { total: 3, keep: 0, wanted: 0 }]);
    actions = bench.settled(&settle, Settled::Done);
    actions.extend(bench.gone(worker, true));
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Stopped)),
        "the ledger has not answered: {actions:?}"
    );
    let actions = answer(&mut bench, 0, 0);
    assert!(actions.iter().any(|action| matches!(action, Action::Stopped)), "{actions:?}");
}
