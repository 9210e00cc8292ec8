//! Callers that wait at this dispatcher, and `concurrency.reserved`: a call that would have to wait for a slot is refused
//! at once, as AWS throttles it, before anything is published or claimed for it.
//!
//! A call that is let in holds a place of the bound until its caller has left. Events hold one while they are in hand. The
//! bound itself can be changed while the function runs.

use std::collections::HashSet;

use tokio::sync::{mpsc, oneshot};
use weft_schemas::Key;

use super::core::{Action, Core, Invocation, Phase};
use super::scaling::count;
use crate::dispatcher::prefetch;

/// Names a call: the correlation id of its request.
pub(crate) type CallId = String;

/// What is said to a function's loop by those who call it.
#[derive(Debug)]
pub(crate) enum FromCaller {
    /// It wants its function to run.
    Enter { call: CallId, key: Key, verdict: oneshot::Sender<Entry> },
    /// It has its answer, or waits no more.
    Leave { call: CallId },
    /// `concurrency.reserved` is another one from now on; `None`: there is none.
    Reserve(Option<u32>),
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Admitted,
    /// All that is reserved is busy.
    Throttled,
    /// The dispatcher stops.
    Stopping,
}

/// How callers reach a function's loop. Clones reach the same.
#[derive(Debug, Clone)]
pub(crate) struct Door(mpsc::UnboundedSender<FromCaller>);

impl Door {
    /// The pair: the other end is the loop's.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<FromCaller>) {
        #[expect(clippy::disallowed_methods, reason = "bounded by the callers: each is here twice at most")]
        let (to, from) = mpsc::unbounded_channel();
        (Self(to), from)
    }

    /// Asks to be let in. What is [`Entry::Admitted`] holds its place until the other half of the answer is dropped.
    pub async fn enter(&self, call: &str, key: &Key) -> (Entry, Option<Inside>) {
        let (verdict, answer) = oneshot::channel();
        // Made first: whoever is dropped while he waits for the verdict leaves too.
        let inside = Inside { door: self.clone(), call: call.to_owned() };
        let asked = FromCaller::Enter { call: call.to_owned(), key: key.clone(), verdict };
        if self.0.send(asked).is_err() {
            return (Entry::Stopping, None);
        }
        let entry = answer.await.unwrap_or(Entry::Stopping);
        (entry, Some(inside).filter(|_| entry == Entry::Admitted))
    }

    /// Sets another bound.
    pub fn reserve(&self, bound: Option<u32>) {
        // A loop that has ended bounds nothing any more.
        let _ = self.0.send(FromCaller::Reserve(bound));
    }
}

/// A call that was let in, until it is dropped.
#[derive(Debug)]
pub(crate) struct Inside {
    door: Door,
    call: CallId,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.door.0.send(FromCaller::Leave { call: std::mem::take(&mut self.call) });
    }
}

/// The calls that were let in and whose callers wait.
#[derive(Debug, Default)]
pub(super) struct Callers(HashSet<CallId>);

impl Core {
    pub(super) fn on_call(&mut self, call: CallId, key: &Key) {
        let entry = if self.draining {
            Entry::Stopping
        } else if self.has_room_for(key) {
            self.callers.0.insert(call.clone());
            Entry::Admitted
        } else {
            Entry::Throttled
        };
        self.actions.push(Action::Entry(call, entry));
    }

    pub(super) fn on_call_left(&mut self, call: &str) {
        self.callers.0.remove(call);
    }

    /// Whether a call of this key would find room; one that joins what is here already needs none.
    fn has_room_for(&self, key: &Key) -> bool {
        let bound = self.bounds.reserved;
        if bound == u32::MAX || self.invocations.contains_key(key) {
            return true;
        }
        let others =
            self.invocations.values().filter(|invocation| takes_a_slot(invocation) && !self.is_inside(invocation));
        let busy = self.calls(count(others.count())).saturating_add(count(self.callers.0.len()));
        busy < bound
    }

    /// Whether it is one of the calls that were let in here.
    fn is_inside(&self, invocation: &Invocation) -> bool {
        let replies = invocation.deliveries.iter().filter_map(|waiting| waiting.reply.as_deref());
        replies.filter_map(|reply| reply.correlation.as_deref()).any(|call| self.callers.0.contains(call))
    }

    /// Another bound: workers that are too many leave when they are idle, what runs ends as it would have.
    pub(super) fn on_reserve(&mut self, bound: Option<u32>) {
        self.bounds.reserved = bound.unwrap_or(u32::MAX);
        let prefetch = prefetch(&self.function, self.bounds.workers, self.bounds.reserved);
        // What would be too much in hand is only what waits here instead of at the broker; and order is not to be had
        // across two consumers.
        if prefetch > self.bounds.prefetch && self.function.ordering.is_none() {
            self.bounds.prefetch = prefetch;
            self.actions.push(Action::Prefetch(prefetch));
        }
        self.send_idle_home_beyond(self.within_reserved(u32::MAX));
        tracing::info!(function = %self.function.name, reserved = bound, "reserved concurrency changed");
    }
}

/// Whether it has a slot, or will when there is one.
fn takes_a_slot(invocation: &Invocation) -> bool {
    match invocation.phase {
        Phase::Claiming | Phase::Ready { .. } | Phase::Running(_) => true,
        Phase::Parked | Phase::Settling { .. } => false,
    }
}
