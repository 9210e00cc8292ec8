//! What follows an attempt: pure, total over outcomes, no clock and no randomness of its own.

use std::time::Duration;

use weft_ledger::FailedAttempt;
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
    /// Others ran in the worker that it crashed with: any of them may be to blame.
    pub shared: bool,
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
    /// A neighbour may be to blame: park it and run it again alone, as the same attempt.
    Spare { after: Duration, error: ErrorInfo },
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
            // What died among neighbours for the first time may be innocent: it costs neither a life nor an attempt, and
            // is told from the guilty by running alone. Once: a crash is on its account from now on. What may only run
            // once does not run again.
            if ended.shared && ended.crashes == 0 && policy.attempts > 1 {
                let after = wait(&policy.backoff, ended.attempt, ended.random);
                if ended.age.saturating_add(after) > policy.max_age {
                    return Next::Dead { reason: Reason::TooOld, error: error.clone() };
                }
                return Next::Spare { after, error: error.clone() };
            }
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

/// What is known of a claim that was granted and has not begun.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// The attempt that it would be, from 1.
    pub attempt: u32,
    /// Attempts of this epoch that killed their worker, or vanished with their dispatcher.
    pub crashes: u32,
    /// Since the event was first seen in this epoch.
    pub age: Duration,
    /// The attempt before has no outcome: it vanished with its dispatcher.
    pub vanished: bool,
}

/// What becomes of a claim that was granted.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// Run it. `alone`: with no neighbours in its worker, as it may have killed one.
    Run { alone: bool },
    /// It is over a limit: give it up, unstarted.
    Dead { reason: Reason, error: ErrorInfo },
}

/// Holds the policy's limits against a claim. Most were held against the attempt before, when it ended; but that one may
/// have vanished with its dispatcher, the retry may have waited through an outage, or the limits are lower now. With
/// `attempts = 1` this is what keeps a handler that a crash cut short from running twice.
pub fn begin(policy: &Retry, granted: Granted) -> Begin {
    let Granted { attempt, crashes, age, vanished } = granted;
    // The first crash may have been a neighbour's; whether it was is known from the attempt's end, which let it live.
    let allowed = if vanished { policy.crashes } else { policy.crashes.max(2) };
    let crashed = crashes >= allowed;
    if crashed || attempt > policy.attempts {
        let before = attempt.saturating_sub(1);
        let (reason, error) = if vanished {
            let text = format!("attempt {before} has no outcome: the dispatcher that ran it went away");
            (Reason::Crashed, ErrorInfo::new(FailedAttempt::VANISHED, text))
        } else if crashed {
            let text = format!("its attempts have killed {crashes} workers, {} are allowed", policy.crashes);
            (Reason::Crashed, ErrorInfo::new("Crashed", text))
        } else {
            let text = format!("it had {before} attempts, {} are allowed", policy.attempts);
            (Reason::Exhausted, ErrorInfo::new("Exhausted", text))
        };
        return Begin::Dead { reason, error };
    }
    // A first attempt is judged at admission, by the event's own time.
    if attempt > 1 && age > policy.max_age {
        let text = format!("it was first seen {} s ago, {} s are allowed", age.as_secs(), policy.max_age.as_secs());
        return Begin::Dead { reason: Reason::TooOld, error: ErrorInfo::new("TooOld", text) };
    }
    // One that only vanished, once, is most likely innocent: after a crash of the dispatcher everything that it ran is
    // so, and would take long one by one. It may share a worker again as long as a crash there would not be its end.
    let spared = vanished && crashes == 1 && policy.crashes > 2 && attempt < policy.attempts;
    Begin::Run { alone: crashes > 0 && !spared }
}

/// The wait after the given attempt (from 1): `first × factor^(attempt-1)`, capped at `max`, spread by ± `jitter`,
/// and capped again. Total: whatever it is given, it answers a wait within the cap.
pub fn wait(backoff: &Backoff, attempt: u32, random: f64) -> Duration {
    if backoff.first.is_zero() {
        return Duration::ZERO;
    }
    let max = backoff.max.as_secs_f64();
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    // `min` and `max` pass over what is not a number.
    let plain = (backoff.first.as_secs_f64() * backoff.factor.max(1.0).powi(exponent)).min(max);
    let jitter = backoff.jitter.clamp(0.0, 1.0);
    let spread = (1.0 + jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0)).max(0.0);
    Duration::try_from_secs_f64((plain * spread).min(max)).map_or(backoff.max, |wait| wait.min(backoff.max))
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
mod tests;
