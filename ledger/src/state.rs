//! How an invocation's state changes: one total, pure function.
//!
//! The SQL of both ledgers guards its writes with conditions that say the same; a conformance test walks every
//! combination through the real statements and compares. It does no I/O and reads no clock: what depends on time comes
//! in as a fact.

use crate::State;

/// What is true of an invocation at the moment of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The claim's payload has the stored fingerprint.
    pub same_payload: bool,
    /// For `claimed`: the owner's incarnation is its node's present one and holds an unexpired lease.
    pub owner_live: bool,
    /// For `waiting`: the due time has come, or the claim carries the fence of the retry that the row waits for.
    pub due: bool,
    /// For `succeeded`: the time for which the result is kept is over.
    pub expired: bool,
}

/// What may happen to an invocation. `current` is whether the writer's fence is the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Claim(Facts),
    Succeed {
        current: bool,
    },
    /// A failed attempt will be tried again.
    Park {
        current: bool,
    },
    /// Given up.
    Bury {
        current: bool,
    },
    /// Handed back unstarted.
    Release {
        current: bool,
    },
    Redrive,
    /// The retention sweep looks at it.
    Sweep {
        expired: bool,
    },
}

/// Why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Illegal {
    /// A live owner holds it.
    Busy,
    /// It waits and is not due.
    Deferred,
    /// It has succeeded: answer with the stored result.
    Replay,
    /// Same key, other payload.
    Mismatch,
    /// It was given up, and only a redrive wakes it.
    Dead,
    /// The writer's fence is stale or nothing is claimed.
    AuthorityLost,
    /// Only what is dead can be redriven.
    NotDead,
    /// Retention does not touch it.
    Kept,
}

/// The state after `event`. `None` is an absent row, before and after.
///
/// # Errors
/// The event changes nothing, and why.
pub fn next(state: Option<State>, event: Event) -> Result<Option<State>, Illegal> {
    match event {
        Event::Claim(facts) => claim(state, facts).map(Some),
        Event::Succeed { current } => held(state, current).map(|()| Some(State::Succeeded)),
        Event::Park { current } | Event::Release { current } => held(state, current).map(|()| Some(State::Waiting)),
        Event::Bury { current } => held(state, current).map(|()| Some(State::Dead)),
        Event::Redrive => match state {
            Some(State::Dead) => Ok(Some(State::Waiting)),
            None | Some(State::Claimed | State::Waiting | State::Succeeded) => Err(Illegal::NotDead),
        },
        Event::Sweep { expired } => match state {
            Some(State::Succeeded) if expired => Ok(None),
            None | Some(State::Claimed | State::Waiting | State::Succeeded | State::Dead) => Err(Illegal::Kept),
        },
    }
}

fn claim(state: Option<State>, facts: Facts) -> Result<State, Illegal> {
    match state {
        None => Ok(State::Claimed),
        // An expired success is as good as absent, so that its payload no longer matters.
        Some(State::Succeeded) if facts.expired => Ok(State::Claimed),
        Some(_) if !facts.same_payload => Err(Illegal::Mismatch),
        Some(State::Succeeded) => Err(Illegal::Replay),
        Some(State::Dead) => Err(Illegal::Dead),
        Some(State::Waiting) if facts.due => Ok(State::Claimed),
        Some(State::Waiting) => Err(Illegal::Deferred),
        Some(State::Claimed) if facts.owner_live => Err(Illegal::Busy),
        Some(State::Claimed) => Ok(State::Claimed),
    }
}

/// What a claim finds in place of its invocation, as far as its counts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Before {
    /// Nothing, or a success that has expired: everything begins anew.
    Nothing,
    /// It waits for its next attempt.
    Parked,
    /// A claim of this very owner, whose answer was lost: no attempt was started for it.
    Unanswered,
    /// A claim of an earlier incarnation of this node, whose attempt the node cancelled itself because it had lost its
    /// lease, and says so.
    Interrupted,
    /// Any other claim whose owner is gone: its attempt vanished without an outcome.
    Vanished,
}

/// What a granted claim does to the invocation's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Toll {
    /// Attempts and crashes start from zero, and the failed attempts are forgotten.
    pub anew: bool,
    /// It is a further attempt.
    pub attempt: bool,
    /// The attempt before counts as a crash and is remembered as a failed attempt that vanished: an event that kills its
    /// dispatcher must reach the limit of crashes, too.
    pub crash: bool,
}

/// What a granted claim costs.
pub const fn toll(before: Before) -> Toll {
    let (anew, attempt, crash) = match before {
        Before::Nothing => (true, true, false),
        Before::Parked => (false, true, false),
        Before::Unanswered | Before::Interrupted => (false, false, false),
        Before::Vanished => (false, true, true),
    };
    Toll { anew, attempt, crash }
}

/// The `error.message` of an attempt that vanished.
pub(crate) const VANISHED: &str = "its dispatcher went away without an outcome";

fn held(state: Option<State>, current: bool) -> Result<(), Illegal> {
    match state {
        Some(State::Claimed) if current => Ok(()),
        None | Some(State::Claimed | State::Waiting | State::Succeeded | State::Dead) => Err(Illegal::AuthorityLost),
    }
}

impl State {
    /// Every state, for tables and walks.
    pub const ALL: [Self; 4] = [Self::Claimed, Self::Waiting, Self::Succeeded, Self::Dead];

    /// The stable text form, as SQL and the command line show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
        }
    }

    /// Reads the text form back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOLS: [bool; 2] = [false, true];

    fn all_facts() -> Vec<Facts> {
        let mut all = Vec::new();
        for same_payload in BOOLS {
            for owner_live in BOOLS {
                for due in BOOLS {
                    for expired in BOOLS {
                        all.push(Facts { same_payload, owner_live, due, expired });
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_claim_ends_claimed_or_changes_nothing() {
        for state in [None].into_iter().chain(State::ALL.map(Some)) {
            for facts in all_facts() {
                if let Ok(after) = next(state, Event::Claim(facts)) {
                    assert_eq!(after, Some(State::Claimed), "{state:?} {facts:?}");
                }
            }
        }
    }

    #[test]
    fn another_payload_never_runs_unless_the_success_has_expired() {
        for state in State::ALL {
            for facts in all_facts().into_iter().filter(|facts| !facts.same_payload) {
                let expired = state == State::Succeeded && facts.expired;
                let expected = if expired { Ok(Some(State::Claimed)) } else { Err(Illegal::Mismatch) };
                assert_eq!(next(Some(state), Event::Claim(facts)), expected, "{state:?} {facts:?}");
            }
        }
    }

    #[test]
    fn only_the_current_fence_of_a_claimed_invocation_writes() {
        for state in [None].into_iter().chain(State::ALL.map(Some)) {
            for current in BOOLS {
                for event in [
                    Event::Succeed { current },
                    Event::Park { current },
                    Event::Bury { current },
                    Event::Release { current },
                ] {
                    let allowed = state == Some(State::Claimed) && current;
                    assert_eq!(next(state, event).is_ok(), allowed, "{state:?} {event:?}");
                }
            }
        }
    }

    #[test]
    fn the_sweep_takes_expired_successes_only() {
        for state in [None].into_iter().chain(State::ALL.map(Some)) {
            for expired in BOOLS {
                let taken = state == Some(State::Succeeded) && expired;
                assert_eq!(next(state, Event::Sweep { expired }).is_ok(), taken, "{state:?}");
            }
        }
    }
}
