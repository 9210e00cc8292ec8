//! How many workers a function should have. Pure: everything here takes the time as a value and holds no clock, so that
//! the simulator runs the same code in virtual time.

pub mod adaptive;
pub mod budget;
pub mod decide;
pub mod memory;
pub mod schedule;

pub use budget::{Budget, Wish};
pub use decide::{Decision, Limit, Policy, Signals, Why, decide, demand};
pub use memory::Memory;
pub use schedule::{Provisioned, Schedule};
