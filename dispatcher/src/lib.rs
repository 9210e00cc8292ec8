//! The dispatcher: takes events from a broker, claims them in the ledger, runs them on workers that it starts from
//! zero, settles, acks, and relays what the ledger says is to leave.
//!
//! [`dispatcher`] puts it together; `function` is the loop that an event goes through; `relay` is how anything leaves.

mod admin;
pub mod admission;
pub mod audit;
pub mod broker;
mod code;
pub mod cost;
pub mod dispatcher;
mod function;
pub mod http;
pub mod link;
pub mod machine;
mod nets;
mod node;
mod relay;
pub mod report;
mod requests;
pub mod retry;
pub mod scale;
mod services;
mod shares;
pub mod simulate;
mod spans;
pub mod status;
mod usage;

pub use dispatcher::{Config, Dispatcher};
pub use services::Check;
