//! Timers of one function's loop. They are never cancelled: each is checked against the state when it is due.

use std::cmp::Ordering;
use std::time::Instant;

use weft_schemas::Key;
use weft_schemas::frame::InvocationId;

use crate::link::WorkerId;

/// A moment at which something is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timer {
    pub at: Instant,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// The ledger may be asked again.
    Ledger,
    /// A parked key may be claimed again.
    Parked(Key),
    /// An invocation should have ended by itself.
    Overdue(WorkerId, InvocationId),
    /// The neighbours of one that ignored its deadline have had their time.
    Mercy(WorkerId),
    /// Something that the number of workers depends on may have changed by itself: a keep-alive is over.
    Scale,
    /// Workers may be started again after failures.
    Start,
    /// An outage that attempts ran into may be over.
    Outage,
    /// A settle whose values the ledger refused may be asked again.
    Refused(Key),
    /// The burials whose values it refused, too.
    RefusedBurials,
    /// The function's rate lets another attempt start.
    Pace,
    /// A batch has waited long enough for more events.
    Batch,
    /// Permits are to be asked for, or given back.
    Permits,
    /// A drain has waited long enough.
    Drain,
}

impl Timer {
    pub fn new(at: Instant, what: What) -> Self {
        Self { at, what }
    }
}

impl Ord for Timer {
    /// The earliest is the greatest, as a max-heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
