//! What may start now, whatever slots are free: a function's rate, and its cap over all dispatchers.

use super::core::{Core, Now};
use crate::status::Throttle;

impl Core {
    /// Whether another attempt may start now.
    pub(super) fn may_start(&self, now: Now) -> bool {
        self.held_back(now).is_none()
    }

    /// What keeps another attempt from starting, if not the lack of a slot.
    pub(super) fn held_back(&self, now: Now) -> Option<Throttle> {
        if self.permitted() == 0 {
            Some(Throttle::Total)
        } else if self.paced(now) == 0 {
            Some(Throttle::Rate)
        } else {
            None
        }
    }

    /// How many slots so many waiting invocations want: no worker starts for what may not.
    pub(super) fn startable(&self, waiting: usize, now: Now) -> u32 {
        self.calls(u32::try_from(waiting).unwrap_or(u32::MAX).min(self.paced(now))).min(self.permitted())
    }

    /// Sees to it that what is held back is looked at again.
    pub(super) fn wait_for_caps(&mut self, now: Now) {
        let waits = !self.ready.is_empty() || !self.ready_alone.is_empty();
        if waits && self.paced(now) == 0 {
            self.wait_for_pace(now);
        }
    }
}
