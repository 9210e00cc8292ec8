//! What is behind the events that are here: what the broker holds for the function and has not handed out.

use std::time::{Duration, Instant};

use super::core::{Action, Core, Now};
use super::scaling::count;
use crate::broker::Counts;

/// How often the broker is asked what is behind the events that are here, while there may be any.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long such an answer is believed.
const BELIEVED: Duration = Duration::from_secs(5);

/// What is known of it.
pub(super) struct Backlog {
    /// Deliveries that are neither acked nor handed back.
    held: usize,
    /// The broker answers. What is not known of it is not the same as nothing.
    connected: bool,
    /// What was behind at the broker, and when it said so.
    behind: Option<(u64, Instant)>,
    /// When the broker was last asked, and whether it has yet to answer.
    asked: Option<Instant>,
    asking: bool,
}

impl Default for Backlog {
    fn default() -> Self {
        Self { held: 0, connected: true, behind: None, asked: None, asking: false }
    }
}

impl Core {
    /// Whether the broker has handed out all that it may, so that more may be behind.
    fn is_full(&self) -> bool {
        let settled = self.actions.iter().map(let_go).sum();
        self.scaling.backlog.held.saturating_sub(settled) >= self.bounds.prefetch as usize
    }

    /// What waits behind the events that are here; `None`: not known.
    pub(super) fn behind(&self, now: Now) -> Option<u64> {
        if !self.scaling.backlog.connected {
            return None;
        }
        if !self.is_full() {
            return Some(0);
        }
        let (behind, at) = self.scaling.backlog.behind?;
        (now.mono.saturating_duration_since(at) <= BELIEVED).then_some(behind)
    }

    /// Asks the broker what is behind, when something may be; says when to ask again.
    pub(super) fn look_behind(&mut self, now: Now) -> Option<Instant> {
        if self.draining || !self.scaling.backlog.connected || self.scaling.backlog.asking || !self.is_full() {
            return None;
        }
        let due = self.scaling.backlog.asked.map_or(now.mono, |asked| asked + LOOK_EVERY);
        if due > now.mono {
            return Some(due);
        }
        self.scaling.backlog.asked = Some(now.mono);
        self.scaling.backlog.asking = true;
        self.actions.push(Action::LookBehind);
        None
    }

    /// The broker's answer; `None`: it cannot say.
    pub(super) fn on_behind(&mut self, counts: Option<Counts>, now: Now) {
        self.scaling.backlog.asking = false;
        self.scaling.backlog.behind = counts.map(|counts| {
            // Other dispatchers take their part of it.
            let takers = u64::from(counts.consumers.unwrap_or(1).max(1));
            (counts.ready.div_ceil(takers), now.mono)
        });
    }

    pub(super) fn on_broker(&mut self, connected: bool) {
        self.scaling.backlog.connected = connected;
        self.scaling.backlog.behind = None;
    }

    /// Counts deliveries, and what has been let go of.
    pub(super) fn count_held(&mut self, actions: &[Action]) {
        let settled: usize = actions.iter().map(let_go).sum();
        self.scaling.backlog.held = self.scaling.backlog.held.saturating_sub(settled);
    }

    pub(super) fn arrived(&mut self, deliveries: usize, now: Now) {
        self.scaling.backlog.held = self.scaling.backlog.held.saturating_add(deliveries);
        self.scaling.memory.arrived(now.mono, count(deliveries));
    }

    /// Deliveries were dropped that the broker has taken back.
    pub(super) fn let_go_of(&mut self, deliveries: usize) {
        self.scaling.backlog.held = self.scaling.backlog.held.saturating_sub(deliveries);
    }
}

/// How many deliveries an action lets go of.
fn let_go(action: &Action) -> usize {
    match action {
        Action::Ack(ids) | Action::Requeue(ids) => ids.len(),
        _ => 0,
    }
}
