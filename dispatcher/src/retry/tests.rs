#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

fn ended(outcome: &Outcome, attempt: u32, crashes: u32) -> Ended<'_> {
    Ended {
        outcome,
        attempt,
        crashes,
        outages: 0,
        age: Duration::ZERO,
        timeout: Duration::from_secs(30),
        shared: false,
        random: 0.5,
    }
}

fn retryable(after_ms: Option<u64>) -> Outcome {
    Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms }
}

#[test]
fn waits_grow_by_the_factor_up_to_the_cap() {
    let backoff = Backoff { jitter: 0.0, max: Duration::from_secs(5), ..Backoff::default() };
    let waits: Vec<_> = (1..=5).map(|attempt| wait(&backoff, attempt, 0.9).as_millis()).collect();
    assert_eq!(waits, [1000, 2000, 4000, 5000, 5000]);
}

#[test]
fn the_last_allowed_attempt_is_the_last() {
    let policy = Retry::default();
    let outcome = retryable(None);
    assert!(matches!(decide(&policy, ended(&outcome, 2, 0)), Next::Again { .. }));
    assert!(matches!(decide(&policy, ended(&outcome, 3, 0)), Next::Dead { reason: Reason::Exhausted, .. }));
    assert!(matches!(decide(&policy, ended(&Outcome::TimedOut, 3, 0)), Next::Dead { reason: Reason::TimedOut, .. }));
}

#[test]
fn crashes_have_a_limit_of_their_own() {
    let policy = Retry { attempts: 10, crashes: 2, ..Retry::default() };
    let outcome = Outcome::Crashed { error: ErrorInfo::new("Crashed", "signal 9") };
    assert!(matches!(decide(&policy, ended(&outcome, 1, 0)), Next::Again { crashed: true, .. }));
    assert!(matches!(decide(&policy, ended(&outcome, 2, 1)), Next::Dead { reason: Reason::Crashed, .. }));
}

#[test]
fn a_crash_that_neighbours_shared_costs_no_event_its_life_at_a_limit_of_one() {
    let policy = Retry { crashes: 1, ..Retry::default() };
    let outcome = Outcome::Crashed { error: ErrorInfo::new("Crashed", "signal 9") };
    let shared = |attempt, crashes| Ended { shared: true, ..ended(&outcome, attempt, crashes) };
    assert!(matches!(decide(&policy, shared(1, 0)), Next::Spare { .. }));
    assert_eq!(begin(&policy, granted(1, 1, false)), Begin::Run { alone: true });
    assert!(matches!(decide(&policy, ended(&outcome, 2, 1)), Next::Dead { reason: Reason::Crashed, .. }));
    assert!(
        matches!(decide(&policy, ended(&outcome, 1, 0)), Next::Dead { reason: Reason::Crashed, .. }),
        "it was alone"
    );
    assert!(matches!(decide(&policy, shared(2, 1)), Next::Dead { reason: Reason::Crashed, .. }), "not for ever");
    let once = Retry { attempts: 1, ..policy };
    assert!(matches!(decide(&once, shared(1, 0)), Next::Dead { reason: Reason::Crashed, .. }), "no second attempt");
}

#[test]
fn a_terminal_failure_is_never_tried_again() {
    let outcome = Outcome::Failed { error: ErrorInfo::new("E", "m") };
    assert!(matches!(decide(&Retry::default(), ended(&outcome, 1, 0)), Next::Dead { reason: Reason::Terminal, .. }));
}

#[test]
fn our_own_stop_costs_no_attempt() {
    assert_eq!(decide(&Retry::default(), ended(&Outcome::Drained, 3, 0)), Next::Release);
    assert_eq!(decide(&Retry::default(), ended(&Outcome::Superseded, 3, 0)), Next::AskAgain);
}

#[test]
fn an_outage_costs_no_attempt_however_often_and_ends_with_the_age_limit() {
    let policy = Retry::default();
    let outcome = Outcome::Outage { error: ErrorInfo::new("StateUnreachable", "m"), after_ms: None };
    for outages in [0, 5, 1_000_000] {
        let next = decide(&policy, Ended { outages, ..ended(&outcome, policy.attempts, 0) });
        assert!(matches!(next, Next::Wait { after, .. } if after <= Duration::from_secs(12)), "{next:?}");
    }
    let old = Ended { age: policy.max_age, ..ended(&outcome, 1, 0) };
    assert!(matches!(decide(&policy, old), Next::Dead { reason: Reason::TooOld, .. }));
    let asked = Outcome::Outage { error: ErrorInfo::new("E", "m"), after_ms: Some(60_000) };
    assert!(matches!(decide(&policy, ended(&asked, 1, 0)), Next::Wait { after, .. } if after.as_secs() == 60));
}

#[test]
fn the_handler_may_ask_for_a_longer_wait_but_not_past_the_age_limit() {
    let policy = Retry { max_age: Duration::from_secs(60), ..Retry::default() };
    let outcome = retryable(Some(30_000));
    assert!(matches!(decide(&policy, ended(&outcome, 1, 0)), Next::Again { after, .. } if after.as_secs() == 30));
    let outcome = retryable(Some(61_000));
    assert!(matches!(decide(&policy, ended(&outcome, 1, 0)), Next::Dead { reason: Reason::TooOld, .. }));
}

fn granted(attempt: u32, crashes: u32, vanished: bool) -> Granted {
    Granted { attempt, crashes, age: Duration::ZERO, vanished }
}

fn reason(begin: Begin) -> Option<(Reason, String)> {
    match begin {
        Begin::Run { .. } => None,
        Begin::Dead { reason, error } => Some((reason, error.kind)),
    }
}

#[test]
fn case_26_an_attempt_that_vanished_and_was_the_last_allowed_is_not_run_again() {
    let once = Retry { attempts: 1, ..Retry::default() };
    assert_eq!(begin(&once, granted(1, 0, false)), Begin::Run { alone: false });
    assert_eq!(reason(begin(&once, granted(2, 1, true))), Some((Reason::Crashed, FailedAttempt::VANISHED.to_owned())));
    let thrice = Retry::default();
    assert_eq!(
        reason(begin(&thrice, granted(4, 1, true))),
        Some((Reason::Crashed, FailedAttempt::VANISHED.to_owned()))
    );
}

#[test]
fn limits_that_were_lowered_hold_for_what_waits_already() {
    let policy = Retry { attempts: 2, crashes: 2, ..Retry::default() };
    assert_eq!(reason(begin(&policy, granted(3, 0, false))), Some((Reason::Exhausted, "Exhausted".to_owned())));
    assert_eq!(reason(begin(&policy, granted(2, 2, false))), Some((Reason::Crashed, "Crashed".to_owned())));
    assert_eq!(
        reason(begin(&policy, granted(2, 2, true))),
        Some((Reason::Crashed, FailedAttempt::VANISHED.to_owned()))
    );
}

#[test]
fn a_retry_that_waited_past_the_age_limit_is_not_begun_and_a_first_attempt_is() {
    let policy = Retry { max_age: Duration::from_secs(60), ..Retry::default() };
    let old = |attempt| Granted { age: Duration::from_secs(61), ..granted(attempt, 0, false) };
    assert_eq!(reason(begin(&policy, old(2))), Some((Reason::TooOld, "TooOld".to_owned())));
    assert_eq!(begin(&policy, old(1)), Begin::Run { alone: false });
}

#[test]
fn what_may_have_killed_a_worker_has_no_neighbours() {
    let policy = Retry::default();
    assert_eq!(begin(&policy, granted(2, 1, false)), Begin::Run { alone: true });
    assert_eq!(begin(&policy, granted(3, 2, false)), Begin::Run { alone: true });
    assert_eq!(begin(&policy, granted(3, 2, true)), Begin::Run { alone: true });
    assert_eq!(begin(&policy, granted(2, 1, true)), Begin::Run { alone: false }, "it only vanished, once");
    let last = Retry { attempts: 2, ..policy };
    assert_eq!(begin(&last, granted(2, 1, true)), Begin::Run { alone: true }, "a neighbour's crash would be its end");
    let two = Retry { crashes: 2, ..policy };
    assert_eq!(begin(&two, granted(2, 1, true)), Begin::Run { alone: true }, "a neighbour's crash would be its end");
}

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::from_nanos(1)),
        Just(Duration::MAX),
        (0u64..1_000_000_000).prop_map(Duration::from_millis),
    ]
}

fn numbers() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(-1.0),
        Just(f64::MAX),
        0.0f64..10.0
    ]
}

fn counts() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), 0u32..200]
}

/// As the manifest allows them.
fn backoffs() -> impl Strategy<Value = Backoff> {
    (1u64..3_600_000, 1.0f64..10.0, 0u64..86_400_000, 0.0f64..=1.0).prop_map(|(first_ms, factor, extra_ms, jitter)| {
        let first = Duration::from_millis(first_ms);
        Backoff { first, factor, max: first + Duration::from_millis(extra_ms), jitter }
    })
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let error = || ErrorInfo::new("E", "m");
    prop_oneof![
        proptest::option::of(prop_oneof![Just(u64::MAX), 0u64..2_000_000])
            .prop_map(move |after_ms| Outcome::Retry { error: error(), after_ms }),
        Just(Outcome::TimedOut),
        Just(Outcome::Crashed { error: error() }),
    ]
}

proptest! {
    #[test]
    fn a_wait_is_within_its_jitter_and_its_cap(backoff in backoffs(), attempt in 1u32..200, random in 0.0f64..1.0) {
        let got = wait(&backoff, attempt, random);
        prop_assert!(got <= backoff.max);
        let plain = (backoff.first.as_secs_f64() * backoff.factor.powi(attempt as i32 - 1)).min(backoff.max.as_secs_f64());
        prop_assert!(got.as_secs_f64() >= plain * (1.0 - backoff.jitter) - 1e-6);
        prop_assert!(got.as_secs_f64() <= plain * (1.0 + backoff.jitter) + 1e-6);
    }

    #[test]
    fn without_jitter_a_later_attempt_never_waits_less(backoff in backoffs(), attempt in 1u32..200, random in 0.0f64..1.0) {
        let backoff = Backoff { jitter: 0.0, ..backoff };
        prop_assert!(wait(&backoff, attempt, random) <= wait(&backoff, attempt + 1, 1.0 - random));
    }

    #[test]
    fn a_wait_is_an_answer_for_whatever_it_is_given(
        first in durations(), max in durations(), factor in numbers(), jitter in numbers(), random in numbers(),
        attempt in counts(),
    ) {
        let got = wait(&Backoff { first, factor, max, jitter }, attempt, random);
        prop_assert!(got <= max);
    }

    #[test]
    fn a_retry_never_starts_past_the_age_limit_nor_before_it_was_asked_for(
        backoff in backoffs(), max_age in durations(), age in durations(), outcome in outcomes(),
        attempts in counts(), crashes in counts(), attempt in counts(), crashed in counts(), shared in any::<bool>(), random in numbers(),
    ) {
        let policy = Retry { attempts, crashes, max_age, backoff };
        let ended = Ended { outcome: &outcome, attempt, crashes: crashed, outages: 0, age, timeout: Duration::ZERO, shared, random };
        if let Next::Again { after, .. } = decide(&policy, ended) {
            prop_assert!(age.saturating_add(after) <= max_age);
            prop_assert!(attempt < attempts);
            let asked = match outcome {
                Outcome::Retry { after_ms: Some(asked), .. } => Duration::from_millis(asked),
                _ => Duration::ZERO,
            };
            prop_assert!(after >= asked);
            prop_assert!(after <= backoff.max.max(asked));
            // What is parked within the limits may begin when it is due.
            let crashes = crashed.saturating_add(u32::from(matches!(outcome, Outcome::Crashed { .. })));
            let granted = Granted { attempt: attempt + 1, crashes, age: age.saturating_add(after), vanished: false };
            let alone = crashes >= policy.crashes;
            if matches!(outcome, Outcome::Crashed { .. }) || !alone {
                let begun = begin(&policy, granted);
                prop_assert!(matches!(begun, Begin::Run { alone: with } if with || !alone), "{:?}", begun);
            }
        }
    }

    #[test]
    fn no_claim_over_a_limit_is_begun(
        attempts in counts(), crashes in counts(), attempt in counts(), crashed in counts(), age in durations(),
        max_age in durations(), vanished in any::<bool>(),
    ) {
        let policy = Retry { attempts, crashes, max_age, ..Retry::default() };
        // The one crash that a lower limit forgives is one that neighbours shared.
        let allowed = if vanished { crashes } else { crashes.max(2) };
        let over = attempt > attempts || crashed >= allowed || (attempt > 1 && age > max_age);
        let begun = matches!(begin(&policy, Granted { attempt, crashes: crashed, age, vanished }), Begin::Run { .. });
        prop_assert_eq!(begun, !over);
    }

    #[test]
    fn a_life_is_bounded_and_no_neighbour_ends_it(
        attempts in 1u32..6, crashes in 1u32..6, mishaps in prop::collection::vec(mishap(), 0..30),
    ) {
        let policy = Retry { attempts, crashes, max_age: Duration::MAX, ..Retry::default() };
        let mut life = Life { policy, attempt: 0, crashes: 0, vanished: false, runs: 0, fair: 0, own: 0, taken_along: 0 };
        let end = mishaps.into_iter().find_map(|mishap| life.meets(mishap));
        prop_assert!(life.runs <= attempts + 1, "{:?}", life);
        prop_assert!(life.runs <= 1 || attempts > 1, "what may run once ran again: {:?}", life);
        prop_assert!(life.taken_along <= 1, "after a crash it has no neighbours: {:?}", life);
        if life.fair < attempts && life.own == 0 && attempts > 1 {
            prop_assert_eq!(end, None, "it died of its neighbours: {:?}", life);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Mishap {
    /// Its handler fails.
    Fails,
    /// It kills its worker.
    Kills,
    /// A neighbour kills the worker, if it has one.
    Neighbour,
    /// Its dispatcher goes away.
    Vanishes,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![Just(Mishap::Fails), Just(Mishap::Kills), Just(Mishap::Neighbour), Just(Mishap::Vanishes)]
}

/// An invocation as the ledger counts it.
#[derive(Debug)]
struct Life {
    policy: Retry,
    attempt: u32,
    crashes: u32,
    vanished: bool,
    runs: u32,
    /// Attempts that ended by its own doing, or that nobody can say the end of.
    fair: u32,
    /// Of these, those that took the worker or the dispatcher along.
    own: u32,
    taken_along: u32,
}

impl Life {
    /// One more attempt, which meets with this; what it dies of, if it does.
    fn meets(&mut self, mishap: Mishap) -> Option<Reason> {
        let granted =
            Granted { attempt: self.attempt + 1, crashes: self.crashes, age: Duration::ZERO, vanished: self.vanished };
        let alone = match begin(&self.policy, granted) {
            Begin::Dead { reason, .. } => return Some(reason),
            Begin::Run { alone } => alone,
        };
        (self.attempt, self.vanished, self.runs) = (self.attempt + 1, false, self.runs + 1);
        let crash = Outcome::Crashed { error: ErrorInfo::new("Crashed", "signal 9") };
        let (outcome, shared) = match mishap {
            Mishap::Vanishes => {
                (self.vanished, self.crashes) = (true, self.crashes + 1);
                (self.fair, self.own) = (self.fair + 1, self.own + 1);
                return None;
            }
            Mishap::Neighbour if !alone => {
                self.taken_along += 1;
                (crash, true)
            }
            Mishap::Kills => {
                (self.fair, self.own) = (self.fair + 1, self.own + 1);
                (crash, !alone)
            }
            Mishap::Fails | Mishap::Neighbour => {
                self.fair += 1;
                (retryable(None), false)
            }
        };
        let ended = Ended { shared, ..ended(&outcome, self.attempt, self.crashes) };
        match decide(&self.policy, ended) {
            Next::Again { crashed, .. } => self.crashes += u32::from(crashed),
            Next::Spare { .. } => (self.attempt, self.crashes) = (self.attempt - 1, self.crashes + 1),
            Next::Dead { reason, .. } => return Some(reason),
            other => panic!("{other:?}"),
        }
        None
    }
}
