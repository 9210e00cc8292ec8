//! The idempotency ledger and the outbox: what makes an effect happen once.
//!
//! One interface ([`Ledger`]), two implementations: Postgres for real installations, SQLite for the embedded default.
//! This crate is the only one that holds SQL. It knows no broker, no worker and no wire.

mod audit;
mod codec;
pub mod embedded;
pub mod error;
pub mod join;
pub mod ledger;
mod letter;
mod open;
mod permit;
mod postgres;
mod sqlite;
pub mod state;
mod usage;
mod verdict;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use error::Error;
pub use join::{JoinError, Joined, Joiner, Row, Value};
pub use ledger::{
    AtBroker, Audit, Claim, ClaimRequest, ClosedSince, DeadLetterGroup, DeadLetterQuery, DeadLetterRecord, Difference,
    Due, DueBatch, FailedAttempt, FunctionAudit, InvocationQuery, InvocationRecord, Ledger, NodeSession, OutboxId,
    OutboxKind, OutboxMessage, Owner, Redrive, Redriven, Settle, Settled, Settlement, State, Verdict,
};
pub use open::open;
pub use permit::{PERMIT_GRACE, PermitAsk, Permits};
pub use postgres::Postgres;
pub use sqlite::Sqlite;
pub use usage::{Usage, Used};

/// The SQL client, for handlers that use their joined transaction's connection directly.
pub use sqlx;
