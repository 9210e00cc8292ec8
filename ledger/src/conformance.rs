//! The suite that every ledger must pass.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Error, Ledger};

/// A ledger whose clock a test can move.
#[async_trait]
pub trait Testable: Ledger {
    /// Makes `by` pass for everything stored: leases, due times, expiry.
    async fn advance(&self, by: Duration) -> Result<(), Error>;
}
