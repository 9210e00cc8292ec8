//! The library that handlers are written with: a registry of async functions, and what each may do in an attempt.
//!
//! A program registers its handlers and hands itself over to [`Worker::run`]; Weft starts it when events arrive, hands
//! it one event at a time per slot, and stops it when nothing is left to do.
//!
//! A handler gets a [`Context`] and its event's data, and returns a result or a [`Failure`]. It deliberately cannot
//! see brokers, queues or acknowledgements: those are the dispatcher's, on the other end of the link.

mod attempt;
mod batch;
mod context;
mod emit;
mod failure;
mod handler;
mod link;
mod services;
mod session;
mod span;
mod state;
mod transaction;
mod warm_up;
mod worker;

#[cfg(test)]
mod tests;

pub use batch::{BatchContext, BatchEvent};
pub use context::Context;
pub use emit::{MAX_EMIT_BYTES, MAX_EMITS_BYTES};
pub use failure::Failure;
pub use state::{CheckError, Once, State, check_state, peek_state};
pub use transaction::Transaction;
pub use warm_up::WarmUp;
pub use worker::Worker;

/// Parameters of a statement, each anything that a [`Value`] can be made from: `params![id, "text", 3, None::<i64>]`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::Value::from($value)),*] as &[$crate::Value]
    };
}

pub use weft_ledger::join::{FromValue, JoinError, Row, Value};
/// The client library behind [`Transaction::postgres`] and [`Transaction::sqlite`].
pub use weft_ledger::sqlx;

/// The client library behind [`State::raw`].
pub use ::redis;
pub use weft_schemas::{Attempt, Epoch, Event, Fence, FunctionName, Key};
