//! The scaling decision: pure, so that it reads and tests as a timetable.

/// What is seen of one function now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// Invocations that hold a slot.
    pub running: u32,
    /// Claimed invocations without a slot that may share a worker.
    pub waiting: u32,
    /// Claimed invocations without a slot that must have a worker to themselves.
    pub waiting_alone: u32,
    /// Workers that run invocations which have the worker to themselves.
    pub alone: u32,
    /// Workers alive or starting, those that are draining left out.
    pub workers: u32,
    /// Of these, how many have not said ready yet.
    pub starting: u32,
    /// Starts are held back after failures.
    pub held: bool,
}

/// The bounds that a function and its node set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Concurrent invocations in one worker; at least 1.
    pub slots: u32,
    /// Never more workers than this; at least 1.
    pub most: u32,
    /// Never fewer workers than this while the dispatcher takes events.
    pub least: u32,
    /// Starts under way at once, at most; at least 1. More than there are cores for only makes each of them slower,
    /// and the first that is ready may well do the work of the rest.
    pub starts: u32,
}

/// How many workers there should be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub workers: u32,
    pub why: Why,
}

/// The reason of a decision, as shown by status and traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing runs or waits.
    Idle,
    /// Just what is running and waiting needs.
    Demand,
    /// More is wanted than the bounds allow: what waits is throttled.
    Capped,
    /// Provisioned concurrency keeps workers warm.
    Provisioned,
    /// Starts keep failing: none is started until the wait is over.
    Held,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Demand => "demand",
            Self::Capped => "capped",
            Self::Provisioned => "provisioned",
            Self::Held => "held",
        }
    }
}

/// Decides. Never asks for fewer workers than are busy, nor for more than what waits can use.
pub fn decide(signals: Signals, policy: Policy) -> Decision {
    let shared = signals.running.saturating_sub(signals.alone).saturating_add(signals.waiting);
    let demand =
        shared.div_ceil(policy.slots.max(1)).saturating_add(signals.alone).saturating_add(signals.waiting_alone);
    if signals.held {
        return Decision { workers: signals.workers, why: Why::Held };
    }
    let (wanted, why) = if demand > policy.most {
        (policy.most.max(policy.least), Why::Capped)
    } else if demand <= policy.least && policy.least > 0 {
        (policy.least, Why::Provisioned)
    } else {
        (demand, if demand == 0 { Why::Idle } else { Why::Demand })
    };
    let room = policy.starts.max(1).saturating_sub(signals.starting);
    Decision { workers: wanted.min(signals.workers.saturating_add(room)), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { slots: 4, most: 10, least: 0, starts: 100 };

    #[test]
    fn the_timetable_of_a_burst() {
        // (running, waiting) → (workers, why)
        let timetable = [
            ((0, 0), (0, Why::Idle)),
            ((0, 1), (1, Why::Demand)),
            ((1, 3), (1, Why::Demand)),
            ((4, 1), (2, Why::Demand)),
            ((4, 36), (10, Why::Demand)),
            ((40, 1), (10, Why::Capped)),
            ((40, 0), (10, Why::Demand)),
            ((1, 0), (1, Why::Demand)),
        ];
        for ((running, waiting), (workers, why)) in timetable {
            let signals = Signals { running, waiting, ..Signals::default() };
            assert_eq!(decide(signals, POLICY), Decision { workers, why }, "{signals:?}");
        }
    }

    #[test]
    fn what_must_run_alone_has_a_worker_of_its_own() {
        let signals = Signals { waiting_alone: 2, waiting: 1, ..Signals::default() };
        assert_eq!(decide(signals, POLICY).workers, 3);
        let signals = Signals { running: 1, alone: 1, waiting: 4, ..Signals::default() };
        assert_eq!(decide(signals, POLICY).workers, 2);
    }

    #[test]
    fn provisioned_workers_stay_when_nothing_runs() {
        let policy = Policy { least: 2, ..POLICY };
        assert_eq!(decide(Signals::default(), policy), Decision { workers: 2, why: Why::Provisioned });
        let busy = Signals { running: 12, ..Signals::default() };
        assert_eq!(decide(busy, policy), Decision { workers: 3, why: Why::Demand });
    }

    #[test]
    fn starts_come_in_waves() {
        let policy = Policy { starts: 2, ..POLICY };
        let burst = Signals { waiting: 40, ..Signals::default() };
        assert_eq!(decide(burst, policy).workers, 2);
        assert_eq!(decide(Signals { workers: 2, starting: 2, ..burst }, policy).workers, 2);
        let first_is_ready = Signals { workers: 2, starting: 1, running: 4, waiting: 36, ..Signals::default() };
        assert_eq!(decide(first_is_ready, policy).workers, 3);
    }

    #[test]
    fn failed_starts_hold_the_count() {
        let signals = Signals { waiting: 9, workers: 1, held: true, ..Signals::default() };
        assert_eq!(decide(signals, POLICY), Decision { workers: 1, why: Why::Held });
    }
}
