//! Batch handlers: which of the events that wait go in one call, and when.
//!
//! A call takes one slot. Each of its events is an invocation like any other: it has its own claim, attempt and outcome,
//! and only what failed is tried again. What ends the call as a whole (a crash, the deadline) ends every attempt in it,
//! and to find the one to blame:
//!
//! - a suspect of a crash runs alone in a worker, and so in a batch of one;
//! - the last attempt of an event that has failed before is in a batch of one: no event dies of its neighbours.

use weft_schemas::frame::InvocationId;
use weft_schemas::{Key, RequestKind};

use super::core::{Core, Now, Phase, WorkerState};
use super::timer::{Timer, What};

/// The most bytes of events in one call, so that its frame fits; a single event may be larger.
const MOST_BYTES: usize = 8 << 20;

impl Core {
    /// Whether what waits should wait on, for others to come: there is room to run it, but the batch is not full and its
    /// first event has not waited long.
    pub(super) fn gathers(&mut self, now: Now) -> bool {
        let Some(batch) = self.function.batch else { return false };
        let full = self.ready.len() >= batch.size as usize;
        let Some(front) = self.ready.front() else { return false };
        if batch.wait.is_zero() || full || self.draining || self.by_itself(front) {
            return false;
        }
        let Some(Phase::Ready { since, .. }) = self.invocations.get(front).map(|invocation| &invocation.phase) else {
            return false;
        };
        let until = *since + batch.wait;
        if until <= now.mono {
            return false;
        }
        if self.gather != Some(until) {
            self.gather = Some(until);
            self.timers.push(Timer::new(until, What::Batch));
        }
        true
    }

    /// Takes the events of the next call off the queue: one, or a batch.
    pub(super) fn next_call(&mut self, now: Now) -> Vec<Key> {
        let size = self.function.batch.map_or(1, |batch| batch.size).min(self.paced(now)) as usize;
        let mut keys: Vec<Key> = Vec::new();
        let mut bytes = 0usize;
        while keys.len() < size {
            let Some(front) = self.ready.front() else { break };
            let alone = self.function.batch.is_some() && self.by_itself(front);
            let weight = self.invocations.get(front).map_or(0, |invocation| invocation.admitted.message.body.len());
            bytes = bytes.saturating_add(weight);
            if !keys.is_empty() && (alone || bytes > MOST_BYTES) {
                break;
            }
            keys.extend(self.ready.pop_front());
            if alone {
                break;
            }
        }
        keys
    }

    /// A request, or the last attempt after one that failed.
    fn by_itself(&self, key: &Key) -> bool {
        let Some(invocation) = self.invocations.get(key) else { return false };
        if RequestKind::of(&invocation.admitted.event).is_some() {
            return true;
        }
        let attempts = self.retry_policy(&invocation.admitted).attempts;
        self.claim_of(key).is_some_and(|claim| claim.attempt.0 > 1 && claim.attempt.0 >= attempts)
    }

    /// How many calls so many events take.
    pub(super) fn calls(&self, events: u32) -> u32 {
        self.function.batch.map_or(events, |batch| events.div_ceil(batch.size.max(1)))
    }

    /// Slots in use.
    pub(super) fn used(&self) -> usize {
        self.workers.values().map(WorkerState::used).sum()
    }
}

impl WorkerState {
    /// Slots in use: one for each call.
    pub(super) fn used(&self) -> usize {
        if self.calls.is_empty() { self.running.len() } else { self.calls.len() }
    }

    /// An invocation has ended; its key, if it ran here.
    pub(super) fn ended(&mut self, id: InvocationId) -> Option<Key> {
        let key = self.running.remove(&id)?;
        self.calls.retain_mut(|call| {
            call.retain(|member| *member != id);
            !call.is_empty()
        });
        Some(key)
    }

    /// The invocations of the call that one belongs to, itself included.
    pub(super) fn call_of(&self, invocation: InvocationId) -> Vec<InvocationId> {
        self.calls.iter().find(|call| call.contains(&invocation)).cloned().unwrap_or_else(|| vec![invocation])
    }
}
