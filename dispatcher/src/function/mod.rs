//! One function: from a delivery to its ack.
//!
//! [`task`] is the loop (select, handle, do); [`core`] the state it owns, [`inputs`] what goes in and out; [`intake`], [`placing`], [`scaling`], [`settling`], [`replies`], [`callers`],
//! [`refused`], [`outage`], [`caps`], [`rate`], [`total`], [`batch`], [`ordering`], [`deadline`] and [`stopping`] the rules, with no I/O
//! in them.

mod backlog;
mod batch;
mod callers;
mod caps;
pub(crate) mod core;
mod deadline;
mod inputs;
mod intake;
#[cfg(test)]
mod model;
mod ordering;
mod outage;
mod placing;
pub(crate) mod rate;
mod refused;
mod replies;
mod scaling;
mod settling;
mod stopping;
pub(crate) mod task;
#[cfg(test)]
mod tests;
mod timer;
mod total;

#[cfg(test)]
pub(crate) use self::callers::FromCaller;
pub(crate) use self::callers::{Door, Entry};
pub(crate) use self::core::Took;
pub(crate) use self::replies::{
    DEAD, INIT_HEADER, LOG_HEADER, MEMORY_HEADER, RAN_HEADER, REQUEST_HEADER, STATUS_HEADER, SUCCEEDED,
};

/// The most events in one statement of the ledger.
pub(crate) const BATCH: usize = 256;
