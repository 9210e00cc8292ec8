//! Timetables: what is seen, and what follows.

use super::*;

const POLICY: Policy = Policy {
    slots: 4,
    reserved: u32::MAX,
    most: 10,
    granted: None,
    least: 0,
    expected: 0,
    starts: 100,
    max_age: Duration::from_secs(3600),
};

/// Nothing is behind at the broker.
const QUIET: Signals = Signals {
    running: 0,
    waiting: 0,
    waiting_alone: 0,
    alone: 0,
    workers: 0,
    starting: 0,
    over: 0,
    behind: Some(0),
    oldest: Duration::ZERO,
    barred: false,
    held: false,
};

fn decided(signals: Signals, policy: Policy) -> Decision {
    decide(Instant::now(), &signals, &policy, &Memory::default())
}

fn count_and_why(signals: Signals, policy: Policy) -> (u32, Why) {
    let decision = decided(signals, policy);
    (decision.workers, decision.why)
}

fn taking(service: Duration) -> Memory {
    let mut memory = Memory::default();
    memory.served(service);
    memory
}

#[test]
fn the_timetable_of_a_burst() {
    // (running, waiting) → (workers, why)
    let timetable = [
        ((0, 0), (0, Why::Idle)),
        ((0, 1), (1, Why::Demand)),
        ((1, 3), (1, Why::Demand)),
        ((4, 1), (2, Why::Demand)),
        ((4, 36), (10, Why::Demand)),
        ((40, 1), (10, Why::Limited(Limit::MaxWorkers))),
        ((40, 0), (10, Why::Demand)),
        ((1, 0), (1, Why::Demand)),
    ];
    for ((running, waiting), wanted) in timetable {
        let signals = Signals { running, waiting, ..QUIET };
        assert_eq!(count_and_why(signals, POLICY), wanted, "{signals:?}");
    }
}

#[test]
fn what_must_run_alone_has_a_worker_of_its_own() {
    assert_eq!(decided(Signals { waiting_alone: 2, waiting: 1, ..QUIET }, POLICY).workers, 3);
    assert_eq!(decided(Signals { running: 1, alone: 1, waiting: 4, ..QUIET }, POLICY).workers, 2);
}

#[test]
fn no_start_is_asked_for_that_those_under_way_have_room_for() {
    let signals = Signals { waiting: 8, workers: 2, starting: 2, ..QUIET };
    assert_eq!(count_and_why(signals, POLICY), (2, Why::Demand));
    assert_eq!(decided(Signals { waiting: 9, ..signals }, POLICY).workers, 3);
}

#[test]
fn provisioned_workers_stay_when_nothing_runs() {
    let policy = Policy { least: 2, ..POLICY };
    assert_eq!(count_and_why(QUIET, policy), (2, Why::Provisioned));
    let all_over = Signals { workers: 5, over: 5, ..QUIET };
    assert_eq!(count_and_why(all_over, policy), (2, Why::Provisioned));
    assert_eq!(count_and_why(Signals { running: 12, ..QUIET }, policy), (3, Why::Demand));
}

#[test]
fn provisioned_wins_over_the_cap_and_over_the_grant() {
    let policy = Policy { least: 3, most: 2, granted: Some(1), ..POLICY };
    assert_eq!(decided(QUIET, policy).workers, 3);
}

#[test]
fn reserved_is_kept_to_the_invocation() {
    // 6 at once need two workers of 4 slots, whatever waits behind them.
    let policy = Policy { reserved: 6, ..POLICY };
    assert_eq!(count_and_why(Signals { waiting: 6, ..QUIET }, policy), (2, Why::Demand));
    let beyond = decided(Signals { running: 6, waiting: 30, workers: 2, ..QUIET }, policy);
    assert_eq!((beyond.workers, beyond.limit), (2, Some(Limit::Reserved)));
    let alone = decided(Signals { waiting_alone: 9, ..QUIET }, policy);
    assert_eq!((alone.workers, alone.limit), (6, Some(Limit::Reserved)));
}

#[test]
fn starts_come_in_waves() {
    let policy = Policy { starts: 2, ..POLICY };
    let burst = Signals { waiting: 40, ..QUIET };
    assert_eq!(count_and_why(burst, policy), (2, Why::Starting));
    assert_eq!(decided(Signals { workers: 2, starting: 2, ..burst }, policy).workers, 2);
    let first_is_ready = Signals { workers: 2, starting: 1, running: 4, waiting: 36, ..QUIET };
    assert_eq!(decided(first_is_ready, policy).workers, 3);
}

#[test]
fn failed_starts_hold_the_count_and_let_idle_workers_go() {
    let signals = Signals { waiting: 9, workers: 1, held: true, ..QUIET };
    assert_eq!(count_and_why(signals, POLICY), (1, Why::Held));
    let idle = Signals { workers: 2, over: 2, held: true, ..QUIET };
    assert_eq!(count_and_why(idle, POLICY), (0, Why::Idle));
}

#[test]
fn idle_workers_are_kept_until_their_time_is_over_and_busy_ones_always() {
    // (workers, over, running) → (workers, why)
    let timetable = [
        ((3, 0, 0), (3, Why::Kept)),
        ((3, 1, 0), (2, Why::Kept)),
        ((3, 3, 0), (0, Why::Idle)),
        ((3, 2, 3), (1, Why::Demand)),
        ((3, 1, 3), (2, Why::Kept)),
    ];
    for ((workers, over, running), wanted) in timetable {
        let signals = Signals { workers, over, running, ..QUIET };
        assert_eq!(count_and_why(signals, POLICY), wanted, "{signals:?}");
    }
}

#[test]
fn the_last_worker_stays_for_what_a_cap_does_not_let_begin_and_none_starts_for_it() {
    let barred = Signals { barred: true, ..QUIET };
    assert_eq!(count_and_why(barred, POLICY), (0, Why::Idle));
    assert_eq!(count_and_why(Signals { workers: 3, over: 3, ..barred }, POLICY), (1, Why::Kept));
}

#[test]
fn no_data_holds_the_count() {
    let idle = Signals { workers: 3, over: 3, behind: None, ..QUIET };
    assert_eq!(count_and_why(idle, POLICY), (3, Why::NoData));
    let here = Signals { waiting: 20, ..idle };
    assert_eq!(count_and_why(here, POLICY), (5, Why::Demand), "what is here can be seen and is started for");
}

#[test]
fn without_a_service_time_nothing_is_said_about_lateness() {
    let old = Signals { waiting: 4, oldest: Duration::from_secs(7200), behind: Some(1_000_000), ..QUIET };
    assert_eq!(decided(old, POLICY).late, None);
}

#[test]
fn the_timetable_of_a_deadline() {
    // One event takes 10 s; 4 at once in a worker; the hour is max_age.
    let memory = taking(Duration::from_secs(10));
    // (here, behind, age of the oldest) → (workers, late by)
    let timetable = [
        // One worker begins 1,444 events within the hour: four at once, and four more every 10 s.
        ((4, 1_440, 0), (1, None)),
        ((4, 1_441, 0), (2, None)),
        // A quarter of an hour is left.
        ((4, 1_436, 2_700), (4, None)),
        // Ten workers begin 14,440 in an hour; 1,440 more take six minutes longer.
        ((4, 14_436, 0), (10, None)),
        ((4, 15_876, 0), (10, Some(360))),
        // Too old already, by 400 s: all begin at once, and are late by that.
        ((40, 0, 4_000), (10, Some(400))),
    ];
    for ((waiting, behind, oldest), (workers, late)) in timetable {
        let signals = Signals { waiting, behind: Some(behind), oldest: Duration::from_secs(oldest), ..QUIET };
        let decision = decide(Instant::now(), &signals, &POLICY, &memory);
        assert_eq!(decision.workers, workers, "{signals:?}");
        assert_eq!(decision.late.map(|late| late.as_secs()), late, "{signals:?}");
        assert_eq!(decision.why == Why::Late, late.is_some(), "{signals:?}");
    }
}

#[test]
fn a_deadline_never_asks_for_more_workers_than_there_are_events() {
    let memory = taking(Duration::from_secs(1000));
    let signals = Signals { waiting: 3, oldest: Duration::from_secs(5000), ..QUIET };
    let decision = decide(Instant::now(), &signals, &POLICY, &memory);
    assert_eq!(decision.workers, 1, "three events fit one worker");
}

#[test]
fn what_the_node_does_not_grant_is_a_throttle_with_its_reason() {
    let policy = Policy { granted: Some(2), ..POLICY };
    let decision = decided(Signals { waiting: 16, ..QUIET }, policy);
    assert_eq!((decision.workers, decision.why), (2, Why::Limited(Limit::Node)));
    assert_eq!((decision.limit, decision.demand), (Some(Limit::Node), 4), "it goes on asking for what it needs");
}

#[test]
fn what_the_node_asks_back_is_given_even_when_it_is_busy_or_kept() {
    let policy = Policy { granted: Some(1), ..POLICY };
    assert_eq!(decided(Signals { running: 12, workers: 3, ..QUIET }, policy).workers, 1);
    let kept = decided(Signals { workers: 3, ..QUIET }, policy);
    assert_eq!((kept.workers, kept.limit), (1, None), "nothing waits, so nothing is throttled");
    let blind = decided(Signals { workers: 3, behind: None, ..QUIET }, policy);
    assert_eq!(blind.workers, 1);
}

#[test]
fn the_tightest_grant_makes_it_late() {
    let memory = taking(Duration::from_secs(10));
    let signals = Signals { waiting: 40, behind: Some(14_380), ..QUIET };
    let free = decide(Instant::now(), &signals, &POLICY, &memory);
    assert_eq!(free.late, None);
    let policy = Policy { granted: Some(5), ..POLICY };
    let bound = decide(Instant::now(), &signals, &policy, &memory);
    assert_eq!((bound.why, bound.limit), (Why::Late, Some(Limit::Node)));
    assert_eq!(bound.late, Some(Duration::from_secs(3600)));
}

#[test]
fn expected_events_are_started_for_and_named() {
    let policy = Policy { expected: 1, ..POLICY };
    assert_eq!(count_and_why(QUIET, policy), (1, Why::Expected));
    assert_eq!(count_and_why(Signals { waiting: 1, ..QUIET }, policy), (1, Why::Demand));
}

#[test]
fn whatever_is_seen_the_answer_is_within_the_bounds() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200_000 {
        let workers = random.u32(0..40);
        let alone = random.u32(0..3).min(workers);
        let signals = Signals {
            running: random.u32(0..100).max(alone),
            waiting: random.u32(0..100),
            waiting_alone: random.u32(0..4),
            alone,
            workers,
            starting: random.u32(0..=workers),
            over: random.u32(0..=workers),
            behind: random.bool().then(|| random.u64(0..100_000)),
            oldest: Duration::from_secs(random.u64(0..5_000)),
            barred: random.bool(),
            held: random.bool(),
        };
        let policy = Policy {
            slots: random.u32(1..8),
            reserved: if random.bool() { u32::MAX } else { random.u32(1..60) },
            most: random.u32(1..20),
            granted: random.bool().then(|| random.u32(0..20)),
            least: random.u32(0..4),
            expected: random.u32(0..2),
            starts: random.u32(1..5),
            max_age: Duration::from_secs(3_600),
        };
        let memory =
            if random.bool() { taking(Duration::from_millis(random.u64(1..10_000))) } else { Memory::default() };
        let decision = decide(Instant::now(), &signals, &policy, &memory);
        let context = format!("{signals:?} {policy:?} {decision:?}");
        let started = decision.workers.saturating_sub(signals.workers);
        assert!(started == 0 || started + signals.starting <= policy.starts, "too many starts: {context}");
        assert!(started == 0 || !signals.held, "started while held: {context}");
        assert!(started == 0 || decision.workers <= policy.most.max(policy.least), "over the cap: {context}");
        let granted = policy.granted.unwrap_or(u32::MAX).max(policy.least);
        assert!(decision.workers <= granted, "over the grant: {context}");
        let stopped = signals.workers.saturating_sub(decision.workers);
        let asked_back = signals.workers.saturating_sub(granted);
        let over_most = signals.workers.saturating_sub(policy.most.max(policy.least));
        assert!(stopped <= signals.over.max(asked_back).max(over_most), "a busy or kept worker is stopped: {context}");
        assert!(signals.behind.is_some() || stopped <= asked_back, "stopped without data: {context}");
    }
}

#[test]
fn keeping_up_with_what_arrives_starts_no_worker_that_reserved_would_leave_idle() {
    let now = Instant::now();
    let mut memory = taking(Duration::from_millis(600));
    memory.arrived(now, 30);
    let signals = Signals { running: 6, workers: 2, behind: Some(24), ..QUIET };
    let workers = |reserved| decide(now, &signals, &Policy { reserved, ..POLICY }, &memory).workers;
    assert_eq!(workers(6), 2);
    assert_eq!(workers(u32::MAX), 5, "without the bound it keeps up: 30 a second, 0.6 s each, four slots");
}
