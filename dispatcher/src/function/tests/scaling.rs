//! How many workers: bounds, the broker's word on what is behind, schedules, and what waits because of a bound.

use super::*;
use weft_schemas::manifest::KeepAlive;

use crate::broker::Counts;
use crate::scale::Wish;
use crate::status::Scaled;

fn drained(actions: &[Action]) -> Vec<WorkerId> {
    actions.iter().filter_map(|action| if let Action::DrainWorker(id) = action { Some(*id) } else { None }).collect()
}

fn looks(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::LookBehind)).count()
}

fn counts(ready: u64, consumers: u32) -> Input {
    Input::Behind(Some(Counts { ready, unacked: None, consumers: Some(consumers) }))
}

impl Bench {
    /// So many events, delivered and claimed; what came of it.
    fn claimed(&mut self, events: usize) -> Vec<Action> {
        let from = self.tag;
        let messages = (0..events as u64).map(|number| message(&(from + number).to_string(), "a")).collect();
        let asked = claimed(&self.deliver(messages));
        let verdicts = (0..asked.len()).map(|_| Verdict::Run(claim(1, 1, 0))).collect();
        self.verdicts(&asked, verdicts)
    }

    /// Time passes on all clocks.
    fn pass(&mut self, by: Duration) -> Vec<Action> {
        self.now.shared_us += u64::try_from(by.as_micros()).unwrap();
        self.now.wall += by;
        self.later(by)
    }

    fn scaled(&self) -> Scaled {
        self.stats.scaling.latest()
    }
}

#[test]
fn reserved_is_kept_to_the_invocation_and_what_waits_for_it_is_throttled() {
    let mut bench = bench_with(4, 10, "concurrency.reserved = 6");
    let workers = launched(&bench.claimed(9));
    assert_eq!(workers.len(), 2, "six at once need two workers");
    let first = invoked(&bench.ready(workers[0]));
    let second = invoked(&bench.ready(workers[1]));
    assert_eq!((first.len(), second.len()), (4, 2));
    assert_eq!(bench.stats.throttled_by(), [("reserved", 3)].into());
    assert_eq!(bench.scaled().limit, Some("reserved"));
    let actions = bench.outcome(workers[0], &first[0].1, succeeded());
    assert_eq!(invoked(&actions).len(), 1, "one ended, one begins");
    assert_eq!(bench.stats.throttled_by(), [("reserved", 3)].into(), "each is counted once");
}

#[test]
fn only_what_has_no_place_within_the_cap_is_throttled() {
    let mut bench = bench(2, 3);
    bench.claimed(8);
    assert_eq!(bench.stats.throttled_by(), [("max_workers", 2)].into());
    bench.claimed(1);
    assert_eq!(bench.stats.throttled_by(), [("max_workers", 3)].into());
}

#[test]
fn the_broker_is_asked_what_is_behind_while_all_it_may_hand_out_is_here_and_once_a_second() {
    let mut bench = bench(1, 1);
    bench.core.bounds.prefetch = 3;
    assert_eq!(looks(&bench.claimed(2)), 0);
    assert_eq!(bench.scaled().behind, Some(0), "it would have handed out more");
    bench.pass(Duration::from_secs(1));
    let actions = bench.deliver(vec![message("third", "a")]);
    assert_eq!(looks(&actions), 1);
    bench.pass(Duration::from_millis(400));
    assert_eq!(bench.scaled().behind, None, "it has not answered");
    assert_eq!(looks(&bench.handle(counts(41, 2))), 0, "not at once again");
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.scaled().behind, Some(21), "another consumer takes half of it");
    assert_eq!(looks(&bench.pass(Duration::from_secs(1))), 1);
    bench.handle(Input::Behind(None));
    bench.pass(Duration::from_millis(300));
    assert_eq!(bench.scaled().behind, None);
}

#[test]
fn idle_workers_stay_while_the_broker_cannot_be_asked() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let actions = bench.outcome(worker, &invoke, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    bench.handle(Input::Broker(false));
    assert!(drained(&bench.pass(Duration::from_secs(5))).is_empty());
    assert_eq!(bench.scaled().why, "no_data");
    assert_eq!(drained(&bench.handle(Input::Broker(true))), [worker]);
}

#[test]
fn a_backlog_that_cannot_be_done_before_max_age_is_late_by_so_much() {
    let mut bench = bench_with(1, 2, "retry = { max_age = \"1m\" }\ntimeout = \"1m\"");
    bench.core.bounds.prefetch = 2;
    let workers = launched(&bench.claimed(2));
    let entered_us = Some(bench.now.shared_us);
    let (worker, invoke) = invoked(&bench.ready(workers[0]))[0].clone();
    bench.ready(workers[1]);
    // It takes ten seconds.
    bench.pass(Duration::from_secs(10));
    let done = FromWorker::Outcome { id: invoke.id, outcome: succeeded(), emits: Vec::new(), entered_us };
    let actions = bench.handle(Input::Worker(worker, done));
    bench.settled(&settles(&actions), Settled::Done);
    bench.claimed(1);
    bench.handle(counts(10, 1));
    bench.pass(Duration::from_millis(300));
    assert_eq!((bench.scaled().why, bench.scaled().late), ("demand", None), "twelve events in two slots: a minute");
    bench.handle(counts(20, 1));
    bench.pass(Duration::from_millis(300));
    let late = bench.scaled().late.unwrap_or_default();
    assert_eq!(bench.scaled().why, "late");
    assert!(
        late > Duration::from_secs(39) && late < Duration::from_secs(41),
        "100 s for twenty more, less the minute: {late:?}"
    );
}

#[test]
fn a_window_finds_its_workers_ready_and_lets_them_go_when_it_closes() {
    let opens = Timestamp::now() + Duration::from_secs(12 * 3600);
    let opens = opens.round(jiff::Unit::Minute).unwrap();
    let at = opens.to_zoned(jiff::tz::TimeZone::UTC);
    let window = format!("{{ cron = \"{} {} * * *\", for = \"1h\", provisioned = 3 }}", at.minute(), at.hour());
    let mut bench = bench_with(1, 10, &format!("concurrency.schedule = [{window}]"));
    bench.now.wall = opens - Duration::from_secs(60);
    assert!(launched(&bench.handle(Input::Tick)).is_empty());
    let mut workers = Vec::new();
    while workers.is_empty() {
        let next = bench.core.next_timer().expect("it looks again by itself");
        let by = next.saturating_duration_since(bench.now.mono);
        assert!(bench.now.wall + by < opens, "the window opens and nothing was started");
        workers = launched(&bench.pass(by));
    }
    assert_eq!(workers.len(), 3);
    for &worker in &workers {
        bench.ready(worker);
    }
    bench.now.wall = opens + Duration::from_secs(1800);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.scaled().why, "provisioned", "far beyond their keep-alive");
    bench.now.wall = opens + Duration::from_secs(3599);
    assert!(drained(&bench.pass(Duration::from_millis(500))).is_empty());
    assert_eq!(drained(&bench.pass(Duration::from_millis(500))).len(), 3);
}

fn wishes(actions: &[Action]) -> Vec<Wish> {
    actions.iter().filter_map(|action| if let Action::Wish(wish) = action { Some(*wish) } else { None }).collect()
}

#[test]
fn no_worker_starts_before_the_node_has_granted_it_and_none_beyond() {
    let mut bench = bench(1, 10);
    bench.core.bounds.shared = true;
    let actions = bench.claimed(3);
    assert!(launched(&actions).is_empty());
    assert_eq!(wishes(&actions).last().map(|wish| (wish.demand, wish.staying)), Some((3, 0)));
    assert!(bench.stats.throttled_by().is_empty(), "nobody knows yet");
    let actions = bench.handle(Input::Granted(2));
    assert_eq!(launched(&actions).len(), 2);
    assert_eq!(wishes(&actions).last().map(|wish| wish.staying), Some(2), "the node is told what was made of it");
    bench.handle(Input::Granted(2));
    assert_eq!(bench.stats.throttled_by(), [("node", 1)].into());
    assert_eq!((bench.scaled().why, bench.scaled().limit), ("node", Some("node")));
    assert_eq!(launched(&bench.handle(Input::Granted(3))).len(), 1);
}

#[test]
fn what_was_granted_for_a_worker_that_leaves_is_no_grant_for_the_next() {
    let mut bench = bench(1, 10);
    bench.core.bounds.shared = true;
    bench.claimed(1);
    let worker = launched(&bench.handle(Input::Granted(1)))[0];
    let (_, invoke) = invoked(&bench.ready(worker)).remove(0);
    let actions = bench.outcome(worker, &invoke, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    assert_eq!(drained(&bench.pass(Duration::from_secs(2))), [worker]);
    let actions = bench.claimed(1);
    assert!(launched(&actions).is_empty(), "the first has not gone yet");
    assert_eq!(wishes(&actions).last().map(|wish| (wish.demand, wish.staying, wish.leaving)), Some((1, 0, 1)));
    assert_eq!(launched(&bench.handle(Input::Granted(1))).len(), 1);
}

#[test]
fn what_the_node_asks_back_goes_idle_first_and_a_busy_one_when_it_has_finished() {
    let mut bench = bench(2, 10);
    bench.core.bounds.shared = true;
    bench.claimed(6);
    let workers = launched(&bench.handle(Input::Granted(3)));
    let runs: Vec<_> = workers.iter().map(|&worker| invoked(&bench.ready(worker))).collect();
    for (_, invoke) in &runs[0] {
        let actions = bench.outcome(workers[0], invoke, succeeded());
        bench.settled(&settles(&actions), Settled::Done);
    }
    let actions = bench.outcome(workers[1], &runs[1][0].1, succeeded());
    bench.settled(&settles(&actions), Settled::Done);
    let actions = bench.handle(Input::Granted(2));
    assert_eq!(drained(&actions), [workers[0]], "the idle one, long before its keep-alive is over");
    assert!(drained(&bench.handle(Input::Granted(1))).is_empty(), "the next has work");
    assert_eq!(
        bench.claimed(4).iter().filter(|action| matches!(action, Action::Invoke(..))).count(),
        0,
        "and gets no more"
    );
    let actions = bench.outcome(workers[1], &runs[1][1].1, succeeded());
    assert_eq!(drained(&actions), [workers[1]], "it goes when it has finished");
    assert!(requeued(&actions).is_empty());
    let there = |actions: &[Action]| wishes(actions).last().map(|wish| (wish.staying, wish.leaving));
    assert_eq!(
        there(&bench.gone(workers[0], true)),
        Some((1, 1)),
        "the room of one that leaves is free when it has ended"
    );
}

/// One event runs for a second and is settled; then nothing for the rest of the period. What was started and stopped, by
/// seconds since the event's end.
fn one_period(bench: &mut Bench, number: u64, period: Duration) -> (Vec<u64>, Vec<u64>, bool) {
    let asked = claimed(&bench.deliver(vec![message(&format!("p{number}"), "a")]));
    let mut actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    let cold = !launched(&actions).is_empty();
    if let [worker] = launched(&actions)[..] {
        actions = bench.ready(worker);
    }
    let (worker, invoke) = invoked(&actions)[0].clone();
    bench.pass(Duration::from_secs(1));
    let done = bench.outcome(worker, &invoke, succeeded());
    let mut actions = bench.settled(&settles(&done), Settled::Done);
    actions.extend(done);
    let (from, until) = (bench.now.mono, bench.now.mono + period - Duration::from_secs(1));
    let (mut started, mut stopped) = (Vec::new(), Vec::new());
    loop {
        let at = bench.now.mono.duration_since(from).as_secs();
        for worker in drained(&actions) {
            stopped.push(at);
            actions.extend(bench.gone(worker, true));
        }
        for worker in launched(&actions) {
            started.push(at);
            bench.ready(worker);
        }
        let next = bench.core.next_timer().filter(|next| *next < until);
        let Some(next) = next else { break };
        actions = bench.pass(next.duration_since(bench.now.mono));
    }
    bench.pass(until.duration_since(bench.now.mono));
    (started, stopped, cold)
}

#[test]
fn an_adaptive_worker_leaves_in_the_pause_and_is_back_before_the_next_event() {
    let mut bench = bench_with(1, 2, "");
    let mut function = bench.core.function.as_ref().clone();
    function.keep_alive = KeepAlive::Adaptive;
    bench = bench_of(function, 2);
    let period = Duration::from_secs(30 * 60);
    let first = one_period(&mut bench, 0, period);
    assert_eq!(first, (vec![], vec![600], true), "nothing is known: the standard keep-alive");
    for number in 1..12 {
        one_period(&mut bench, number, period);
    }
    let (started, stopped, cold) = one_period(&mut bench, 12, period);
    assert!(!cold, "a worker was there when the event came");
    assert!(stopped.iter().all(|at| *at < 60), "it left as soon as it was of no use: {stopped:?}");
    assert!(matches!(started[..], [at] if (20 * 60..30 * 60).contains(&at)), "and was back in time: {started:?}");
    assert_eq!(bench.scaled().pattern, Some("histogram"));
    assert_eq!(bench.scaled().why, "expected");
}
