//! What follows an attempt: pure, total over outcomes, no clock and no randomness of its own.

use std::time::Duration;

use weft_schemas::manifest::{Backoff, Retry};
use weft_schemas::{ErrorInfo, Outcome, Reason};

/// What is known when an attempt has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    pub outcome: &'a Outcome,
    /// The attempt that ended, from 1.
    pub attempt: u32,
    /// Attempts of this epoch that had killed their worker before this one.
    pub crashes: u32,
    /// Attempts in a row that an outage ended, before this one.
    pub outages: u32,
    /// Since the event was first seen in this epoch.
    pub age: Duration,
    pub timeout: Duration,
    /// Uniform in `0.0..1.0`; spreads the wait.
    pub random: f64,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Write the success.
    Succeed,
    /// The handler's own transaction has written it.
    Nothing,
    /// Park it and run it again after the wait.
    Again { after: Duration, error: ErrorInfo, crashed: bool },
    /// Nobody's fault but a service's: hand the claim back without counting the attempt, and run it again after the wait.
    Wait { after: Duration, error: ErrorInfo },
    /// Give it up.
    Dead { reason: Reason, error: ErrorInfo },
    /// Ours to undo: hand the claim back without counting the attempt.
    Release,
    /// Somebody else has the right: ask the ledger where it stands.
    AskAgain,
}

/// Decides. Waits are within `backoff.max` (unless the handler asked for longer) and never end past `max_age`.
pub fn decide(policy: &Retry, ended: Ended<'_>) -> Next {
    match ended.outcome {
        Outcome::Succeeded { .. } => Next::Succeed,
        Outcome::Committed { .. } => Next::Nothing,
        Outcome::Superseded => Next::AskAgain,
        Outcome::Drained => Next::Release,
        Outcome::Failed { error } => Next::Dead { reason: Reason::Terminal, error: error.clone() },
        Outcome::Retry { error, after_ms } => {
            let asked = after_ms.map_or(Duration::ZERO, Duration::from_millis);
            again(policy, ended, error.clone(), asked, Reason::Exhausted, false)
        }
        Outcome::Outage { error, after_ms } => {
            let asked = after_ms.map_or(Duration::ZERO, Duration::from_millis);
            let after = outage_wait(ended.outages, ended.random).max(asked);
            if ended.age.saturating_add(after) > policy.max_age {
                return Next::Dead { reason: Reason::TooOld, error: error.clone() };
            }
            Next::Wait { after, error: error.clone() }
        }
        Outcome::TimedOut => {
            let error = ErrorInfo::new("TimedOut", format!("no answer within {} ms", ended.timeout.as_millis()));
            again(policy, ended, error, Duration::ZERO, Reason::TimedOut, false)
        }
        Outcome::Crashed { error } => {
            if ended.crashes.saturating_add(1) >= policy.crashes {
                return Next::Dead { reason: Reason::Crashed, error: error.clone() };
            }
            again(policy, ended, error.clone(), Duration::ZERO, Reason::Crashed, true)
        }
    }
}

fn again(policy: &Retry, ended: Ended<'_>, error: ErrorInfo, asked: Duration, last: Reason, crashed: bool) -> Next {
    if ended.attempt >= policy.attempts {
        return Next::Dead { reason: last, error };
    }
    let after = wait(&policy.backoff, ended.attempt, ended.random).max(asked);
    if ended.age.saturating_add(after) > policy.max_age {
        return Next::Dead { reason: Reason::TooOld, error };
    }
    Next::Again { after, error, crashed }
}

/// The wait after the given attempt (from 1): `first × factor^(attempt-1)`, capped at `max`, spread by ± `jitter`,
/// and capped again.
pub fn wait(backoff: &Backoff, attempt: u32, random: f64) -> Duration {
    let max = backoff.max.as_secs_f64();
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let plain = (backoff.first.as_secs_f64() * backoff.factor.powi(exponent)).min(max);
    let spread = 1.0 + backoff.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0);
    Duration::try_from_secs_f64((plain * spread).min(max)).unwrap_or(backoff.max)
}

/// The wait after the first attempt in a row that an outage ended; it doubles up to the second.
const OUTAGE_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The wait after so many attempts in a row that an outage ended: short, as nothing is used up by asking, and spread by
/// a fifth, as many ask.
pub fn outage_wait(before: u32, random: f64) -> Duration {
    let plain = OUTAGE_WAIT.0.saturating_mul(1 << before.min(16)).min(OUTAGE_WAIT.1);
    plain.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
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
        assert!(matches!(
            decide(&policy, ended(&Outcome::TimedOut, 3, 0)),
            Next::Dead { reason: Reason::TimedOut, .. }
        ));
    }

    #[test]
    fn crashes_have_a_limit_of_their_own() {
        let policy = Retry { attempts: 10, crashes: 2, ..Retry::default() };
        let outcome = Outcome::Crashed { error: ErrorInfo::new("Crashed", "signal 9") };
        assert!(matches!(decide(&policy, ended(&outcome, 1, 0)), Next::Again { crashed: true, .. }));
        assert!(matches!(decide(&policy, ended(&outcome, 2, 1)), Next::Dead { reason: Reason::Crashed, .. }));
    }

    #[test]
    fn a_terminal_failure_is_never_tried_again() {
        let outcome = Outcome::Failed { error: ErrorInfo::new("E", "m") };
        assert!(matches!(
            decide(&Retry::default(), ended(&outcome, 1, 0)),
            Next::Dead { reason: Reason::Terminal, .. }
        ));
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

    proptest! {
        #[test]
        fn a_wait_is_within_its_jitter_and_its_cap(
            first_ms in 1u64..3_600_000, factor in 1.0f64..10.0, extra_ms in 0u64..86_400_000,
            jitter in 0.0f64..=1.0, attempt in 1u32..200, random in 0.0f64..1.0,
        ) {
            let first = Duration::from_millis(first_ms);
            let backoff = Backoff { first, factor, max: first + Duration::from_millis(extra_ms), jitter };
            let got = wait(&backoff, attempt, random);
            prop_assert!(got <= backoff.max);
            let plain = (first.as_secs_f64() * factor.powi(attempt as i32 - 1)).min(backoff.max.as_secs_f64());
            prop_assert!(got.as_secs_f64() >= plain * (1.0 - jitter) - 1e-6);
        }

        #[test]
        fn a_retry_never_starts_past_the_age_limit(
            age_ms in 0u64..1_000_000, max_age_ms in 1_000u64..1_000_000, after_ms in proptest::option::of(0u64..2_000_000),
            attempt in 1u32..5, random in 0.0f64..1.0,
        ) {
            let policy = Retry { attempts: 5, max_age: Duration::from_millis(max_age_ms), ..Retry::default() };
            let outcome = retryable(after_ms);
            let age = Duration::from_millis(age_ms);
            if let Next::Again { after, .. } = decide(&policy, Ended { age, random, ..ended(&outcome, attempt, 0) }) {
                prop_assert!(age + after <= policy.max_age);
            }
        }
    }
}
