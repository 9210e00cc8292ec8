//! Lanes: the events of one ordering key, one after the other.

use super::*;

fn in_lane(lane: &str, key: &str) -> Message {
    let mut message = message(key, "a");
    message.body = Bytes::from(serde_json::json!({ "k": key, "l": lane }).to_string());
    message
}

fn lanes(slots: u32) -> Bench {
    bench_with(slots, 1, "ordering = { key = \"/data/l\" }")
}

/// Claims what was asked for, and starts it if a worker is there.
fn grant(bench: &mut Bench, actions: &[Action], fence: i64, attempt: u32) -> Vec<Action> {
    let asked = claimed(actions);
    let verdicts = asked.iter().map(|_| Verdict::Run(claim(fence, attempt, 0))).collect();
    bench.verdicts(&asked, verdicts)
}

fn keys(actions: &[Action]) -> Vec<String> {
    claimed(actions).iter().map(ToString::to_string).collect()
}

fn retry() -> Outcome {
    Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms: None }
}

#[test]
fn one_of_a_lane_is_claimed_at_a_time_and_other_lanes_go_on() {
    let mut bench = lanes(4);
    let actions = bench.deliver(vec![in_lane("a", "1"), in_lane("a", "2"), in_lane("b", "3")]);
    assert_eq!(keys(&actions), ["1", "3"]);
    assert_eq!(bench.stats.throttled_by(), [("ordering", 1)].into());
    let actions = grant(&mut bench, &actions, 1, 1);
    let worker = launched(&actions)[0];
    let first = invoked(&bench.ready(worker))[0].1.clone();
    let actions = bench.outcome(worker, &first, succeeded());
    assert!(keys(&actions).is_empty(), "the ledger does not have the end yet");
    let actions = bench.settled(&settles(&actions), Settled::Done);
    assert_eq!((keys(&actions), acked(&actions)), (vec!["2".to_owned()], vec![1]));
}

#[test]
fn a_retry_waits_in_hand_and_so_do_those_behind_it() {
    let mut bench = lanes(4);
    let actions = bench.deliver(vec![in_lane("a", "1"), in_lane("a", "2")]);
    let actions = grant(&mut bench, &actions, 1, 1);
    let worker = launched(&actions)[0];
    let first = invoked(&bench.ready(worker))[0].1.clone();
    let parked = settles(&bench.outcome(worker, &first, retry()));
    let Settlement::Held { due_in, crashed: false, spared: false, .. } = parked[0].to else { panic!("{parked:?}") };
    let actions = bench.settled(&parked, Settled::Done);
    assert!(acked(&actions).is_empty() && keys(&actions).is_empty(), "{actions:?}");
    let actions = bench.later(due_in);
    assert_eq!(keys(&actions), ["1"], "its turn goes on");
    let resumes = actions.iter().any(|action| match action {
        Action::Claim { requests, .. } => requests[0].resume == Some(Fence(1)),
        _ => false,
    });
    assert!(resumes, "its wait is over by our clock: {actions:?}");
}

#[test]
fn a_retry_that_waits_in_hand_elsewhere_is_not_taken_for_superfluous() {
    let mut bench = lanes(4);
    let asked = claimed(&bench.deliver_as(true, vec![in_lane("a", "1"), in_lane("a", "2")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Deferred { due_in: Duration::from_secs(5) }]);
    assert!(acked(&actions).is_empty() && keys(&actions).is_empty(), "{actions:?}");
    assert_eq!(keys(&bench.later(Duration::from_secs(5))), ["1"]);
}

#[test]
fn after_a_death_the_next_has_its_turn() {
    let mut bench = lanes(4);
    let actions = bench.deliver(vec![in_lane("a", "1"), in_lane("a", "2")]);
    let actions = grant(&mut bench, &actions, 1, 1);
    let worker = launched(&actions)[0];
    let first = invoked(&bench.ready(worker))[0].1.clone();
    let dead = settles(&bench.outcome(worker, &first, Outcome::Failed { error: ErrorInfo::new("E", "m") }));
    assert_eq!(keys(&bench.settled(&dead, Settled::Done)), ["2"]);
}

#[test]
fn a_drain_finishes_what_runs_and_lets_the_channel_hand_the_rest_back() {
    let mut bench = lanes(4);
    let actions = bench.deliver(vec![in_lane("a", "1"), in_lane("a", "2"), in_lane("b", "3")]);
    let asked = claimed(&actions);
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0)), Verdict::Busy { retry_in: LATER }]);
    let worker = launched(&actions)[0];
    let first = invoked(&bench.ready(worker))[0].1.clone();
    let actions = bench.handle(Input::Drain);
    let lets_go = |action: &Action| matches!(action, Action::StopConsuming | Action::Requeue(_));
    assert!(!actions.iter().any(lets_go), "{actions:?}");
    assert!(bench.deliver(vec![in_lane("c", "4")]).is_empty(), "nothing new begins, and nothing is handed back");
    let settle = settles(&bench.outcome(worker, &first, succeeded()));
    let actions = bench.settled(&settle, Settled::Done);
    assert_eq!((acked(&actions), keys(&actions)), (vec![1], Vec::new()));
    let actions = bench.gone(worker, true);
    assert!(matches!(actions.last(), Some(Action::Stopped)), "{actions:?}");
}

#[test]
fn what_is_delivered_again_on_a_new_channel_is_not_parked_twice() {
    let mut bench = lanes(4);
    bench.deliver(vec![in_lane("a", "1"), in_lane("a", "2"), in_lane("a", "3")]);
    let again = [in_lane("a", "1"), in_lane("a", "2"), in_lane("a", "3")]
        .into_iter()
        .zip(1..)
        .map(|(message, tag)| Delivery { id: DeliveryId { generation: 2, tag }, redelivered: true, message });
    let again = again.collect();
    bench.handle(Input::Delivered(again));
    assert_eq!(bench.core.lanes["a"].parked(), 2);
}

#[test]
fn an_event_without_the_ordering_key_is_refused() {
    let mut bench = lanes(4);
    let actions = bench.deliver(vec![message("1", "a")]);
    let buried = actions.iter().find_map(|action| match action {
        Action::Bury(burials) => Some(burials[0].letter.clone()),
        _ => None,
    });
    let letter = buried.unwrap();
    assert_eq!((letter.reason, letter.error.kind.as_str()), (Reason::NoKey, "NoOrderingKey"));
}

const LATER: Duration = Duration::from_millis(100);
