//! How many workers a function should have.

pub mod adaptive;
pub mod decide;

pub use decide::{Decision, Policy, Signals, Why, decide};
