//! From two looks to differences: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use weft_ledger::{AtBroker, Difference, State};
use weft_schemas::{Fence, FunctionName, Key};

use super::{Foreign, Look, Missing};

/// Something that a system at work does not explain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Finding {
    /// The ledger contradicts itself.
    Ledger(Difference),
    Broker(Broker),
}

/// The broker does not have what the ledger counts on, or has what the ledger does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Broker {
    /// It waits, or its owner is gone, and neither the outbox nor the queue holds a message that brings it back.
    Stranded { function: FunctionName, key: Key, state: State, fence: Fence, updated_at: Timestamp },
    /// Its dead-letter queue holds a message that is the copy of no dead letter.
    Foreign { function: FunctionName, message: Foreign },
    /// It was published, and neither an invocation nor a dead letter knows it.
    Missing(Missing),
}

/// What two looks come to.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    pub findings: Vec<Finding>,
    /// More findings than are listed.
    pub unlisted: u64,
    /// Invocations that need a message at the broker, where the queue holds enough messages to be theirs: by function,
    /// how many. They are accounted for unless those messages are others'.
    pub backed: BTreeMap<FunctionName, u64>,
    /// Functions whose dead-letter queue holds more messages than there are open letters: worth a look inside.
    pub suspect: BTreeMap<FunctionName, u64>,
    /// Functions whose dead-letter queue holds fewer messages than there are open letters: somebody takes them out. The
    /// ledger still has the letters.
    pub taken: BTreeMap<FunctionName, u64>,
}

/// Compares two looks. `grace`: what changed within this time before the second look is under way and not judged.
pub fn judge(first: &Look, second: &Look, grace: Duration) -> Judged {
    let mut judged = Judged::default();
    // What the ledger says of itself needs no second look but for rows that came or went while it counted.
    let lasting: Vec<_> =
        second.ledger.differences.iter().filter(|difference| first.ledger.differences.contains(difference)).collect();
    judged.findings.extend(lasting.iter().map(|&difference| Finding::Ledger(difference.clone())));
    let listed = second.ledger.differences.len() as u64;
    judged.unlisted += second.ledger.differences_found.saturating_sub(listed);

    for books in &second.ledger.functions {
        let function = &books.function;
        let Some(before) = first.ledger.functions.iter().find(|other| other.function == *function) else { continue };
        let still =
            |at: &&AtBroker| before.at_broker.contains(at) && old_enough(at.updated_at, second.ledger.at, grace);
        let stuck: Vec<&AtBroker> = books.at_broker.iter().filter(still).collect();
        let queues = second.queues.get(function).copied().unwrap_or_default();
        let earlier = first.queues.get(function).copied().unwrap_or_default();
        // Both looks must have too few: messages come back to a queue when a dispatcher goes.
        let ready = queues.work.unwrap_or(0).max(earlier.work.unwrap_or(0));
        if stuck.len() as u64 > ready {
            judged.findings.extend(stuck.into_iter().map(|at| {
                Finding::Broker(Broker::Stranded {
                    function: function.clone(),
                    key: at.key.clone(),
                    state: at.state,
                    fence: at.fence,
                    updated_at: at.updated_at,
                })
            }));
        } else if !stuck.is_empty() {
            judged.backed.insert(function.clone(), stuck.len() as u64);
        }
        if let Some(dead) = queues.dead {
            let least = dead.min(earlier.dead.unwrap_or(dead));
            let most = dead.max(earlier.dead.unwrap_or(dead));
            let (open, before) = (books.open_letters, before.open_letters);
            if least > open.max(before) {
                judged.suspect.insert(function.clone(), least);
            }
            if most + books.outbox_copies < open.min(before) {
                judged.taken.insert(function.clone(), open.min(before) - most - books.outbox_copies);
            }
        }
    }
    judged
}

fn old_enough(then: Timestamp, now: Timestamp, grace: Duration) -> bool {
    let age_ms = now.as_millisecond().saturating_sub(then.as_millisecond());
    u128::try_from(age_ms).is_ok_and(|age| age >= grace.as_millis())
}

#[cfg(test)]
mod tests;
