//! `ordering`: the events of one ordering key run one after the other, in the order in which they arrived.
//!
//! The first of them holds the key's lane from its claim until it has ended (succeeded, or dead), and the waits between its
//! attempts are part of that; those behind it are parked here, unclaimed. Other lanes do not notice.
//!
//! What makes the order outlive this process is that nothing of a lane is acked before it has ended: a retry waits in hand
//! and not in the outbox, and the queue has a single active consumer. When a dispatcher goes, its channel closes, and the
//! broker puts all of that back to the front, in its order, before the next consumer gets anything. So a drain does not
//! cancel the consumer and hands nothing back by itself: it finishes what runs and lets the channel go.
//!
//! Two dispatchers may hold the same lane for a while, each from some event on (the old one has not noticed yet that its
//! channel is gone). Neither starts an event before the ledger told it that all those before it, as far as it has them,
//! have ended; and what only the other one has ended before the broker gave the rest away.

use std::collections::VecDeque;

use weft_schemas::Key;

use super::core::{Action, Core, Now};
use crate::admission::Admitted;
use crate::broker::DeliveryId;
use crate::status::Throttle;

/// The events of one ordering key, in the order of their arrival.
pub(super) struct Lane {
    /// Whose turn it is.
    holder: Key,
    behind: VecDeque<Behind>,
}

#[cfg(test)]
impl Lane {
    pub(super) fn parked(&self) -> usize {
        self.behind.len()
    }
}

/// An event that waits for those before it.
struct Behind {
    delivery: DeliveryId,
    admitted: Admitted,
    redelivered: bool,
}

impl Core {
    /// Whether the function's events have an order.
    pub(super) fn is_ordered(&self) -> bool {
        self.function.ordering.is_some()
    }

    /// Gives an event back whose turn it is, or that has no order; parks the others.
    pub(super) fn in_turn(&mut self, delivery: DeliveryId, admitted: Admitted, redelivered: bool) -> Option<Admitted> {
        let Some(name) = admitted.lane.as_ref() else { return Some(admitted) };
        // It joins what is under way, whosever turn it is.
        if self.invocations.contains_key(&admitted.key) {
            return Some(admitted);
        }
        match self.lanes.get_mut(name) {
            None => {
                let lane = Lane { holder: admitted.key.clone(), behind: VecDeque::new() };
                self.lanes.insert(name.clone(), lane);
                Some(admitted)
            }
            Some(lane) if lane.holder == admitted.key => Some(admitted),
            Some(lane) => {
                lane.behind.push_back(Behind { delivery, admitted, redelivered });
                self.stats.throttled(Throttle::Ordering);
                None
            }
        }
    }

    /// Deliveries of a channel's new life: what is parked from an earlier one comes again, in its order.
    pub(super) fn forget_stale(&mut self, generation: u64) {
        if !self.is_ordered() || generation <= self.lanes_of {
            return;
        }
        self.lanes_of = generation;
        let mut dropped = 0;
        for lane in self.lanes.values_mut() {
            let before = lane.behind.len();
            lane.behind.retain(|behind| behind.delivery.generation >= generation);
            dropped += before - lane.behind.len();
        }
        self.let_go_of(dropped);
    }

    /// An invocation has been forgotten: the next of its lane takes its turn. `rivals` have its key and another payload,
    /// and were there before those behind.
    pub(super) fn leave_lane(&mut self, admitted: &Admitted, rivals: Vec<(DeliveryId, Admitted)>, now: Now) {
        let held = |name: &String| self.lanes.get(name).is_some_and(|lane| lane.holder == admitted.key);
        let Some(name) = admitted.lane.clone().filter(held) else {
            for (delivery, rival) in rivals {
                self.accept(delivery, rival, false, now);
            }
            return;
        };
        for (delivery, rival) in rivals.into_iter().rev() {
            match self.lanes.get_mut(&name) {
                Some(lane) if rival.lane.as_ref() == Some(&name) => {
                    lane.behind.push_front(Behind { delivery, admitted: rival, redelivered: false });
                }
                _ => self.accept(delivery, rival, false, now),
            }
        }
        loop {
            let Some(lane) = self.lanes.get_mut(&name) else { return };
            let Some(Behind { delivery, admitted, redelivered }) = lane.behind.pop_front() else {
                self.lanes.remove(&name);
                return;
            };
            let key = admitted.key.clone();
            lane.holder = key.clone();
            self.accept(delivery, admitted, redelivered, now);
            // One whose key is under way in another lane, with another payload, has gone there.
            if self.invocations.get(&key).is_some_and(|holder| holder.admitted.lane.as_ref() == Some(&name)) {
                return;
            }
        }
    }

    /// Hands deliveries back to the broker. Those of a function with an order go back together, with their channel.
    pub(super) fn hand_back(&mut self, deliveries: Vec<DeliveryId>) {
        if !self.is_ordered() && !deliveries.is_empty() {
            self.actions.push(Action::Requeue(deliveries));
        }
    }
}
