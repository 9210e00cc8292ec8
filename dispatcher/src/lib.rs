//! The dispatcher: takes events from a broker, claims them in the ledger, runs them on workers that it starts from
//! zero, settles, acks, and relays what the ledger says is to leave.

pub mod broker;
