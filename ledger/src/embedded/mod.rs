//! The embedded default's queues and state, in the same SQLite file as its ledger.

pub mod queues;
pub mod state;

pub use queues::{Binding, Queues};
pub use state::{Authority, EmbeddedState, StateError};
