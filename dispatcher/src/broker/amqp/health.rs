//! The health of two connections as one.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::connect::Role;
use crate::broker::Health;

/// Written by the two supervisors, followed by anyone.
#[derive(Debug)]
pub(super) struct HealthBoard {
    /// Consume, publish.
    each: Mutex<(Health, Health)>,
    joint: watch::Sender<Health>,
}

impl HealthBoard {
    /// Both connected.
    pub(super) fn new() -> Self {
        Self { each: Mutex::new((Health::Connected, Health::Connected)), joint: watch::Sender::new(Health::Connected) }
    }

    /// Notes one connection's health; followers are told only of a change.
    pub(super) fn set(&self, role: Role, health: Health) {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        match role {
            Role::Consume => each.0 = health,
            Role::Publish => each.1 = health,
        }
        let joint = worse(&each.0, &each.1).clone();
        self.joint.send_if_modified(|now| {
            let changed = *now != joint;
            *now = joint;
            changed
        });
    }

    pub(super) fn follow(&self) -> watch::Receiver<Health> {
        self.joint.subscribe()
    }
}

fn worse<'a>(a: &'a Health, b: &'a Health) -> &'a Health {
    match (a, b) {
        (Health::Disconnected { .. }, _) => a,
        (_, Health::Disconnected { .. }) => b,
        (Health::Blocked { .. }, _) => a,
        (Health::Connected, _) => b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_the_two_is_told() {
        let board = HealthBoard::new();
        let health = board.follow();
        let blocked = Health::Blocked { reason: "memory".to_owned() };
        let lost = Health::Disconnected { reason: "reset".to_owned() };
        board.set(Role::Publish, blocked.clone());
        assert_eq!(*health.borrow(), blocked);
        board.set(Role::Consume, lost.clone());
        assert_eq!(*health.borrow(), lost);
        board.set(Role::Publish, Health::Connected);
        assert_eq!(*health.borrow(), lost);
        board.set(Role::Consume, Health::Connected);
        assert_eq!(*health.borrow(), Health::Connected);
    }
}
