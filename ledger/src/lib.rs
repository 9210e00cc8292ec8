//! The idempotency ledger and the outbox: what makes an effect happen once.
//!
//! One interface ([`Ledger`]), two implementations: Postgres for real installations, SQLite for the embedded default.
//! This crate is the only one that holds SQL. It knows no broker, no worker and no wire.

pub mod error;
pub mod ledger;

pub use error::Error;
pub use ledger::{
    Claim, ClaimRequest, DeadLetterQuery, DeadLetterRecord, Due, DueBatch, InvocationQuery, InvocationRecord, Ledger,
    NodeSession, OutboxId, OutboxKind, OutboxMessage, Owner, Redriven, Settle, Settled, Settlement, State, Verdict,
};
