//! For tests only: moving the ledger's clock.

use std::time::Duration;

use async_trait::async_trait;

use super::Sqlite;
use crate::Error;
use crate::codec::micros;
use crate::conformance::Testable;

#[async_trait]
impl Testable for Sqlite {
    async fn advance(&self, by: Duration) -> Result<(), Error> {
        let mut writer = self.file.writer().await;
        for statement in [
            "UPDATE node SET lease_until = lease_until - ?1",
            "UPDATE outbox SET due_at = due_at - ?1, failing_since = failing_since - ?1",
            "UPDATE invocation SET due_at = due_at - ?1, expires_at = expires_at - ?1,
                 first_seen_at = first_seen_at - ?1, updated_at = updated_at - ?1",
        ] {
            sqlx::query(statement).bind(micros(by)).execute(&mut *writer).await.map_err(self.map("move the clock"))?;
        }
        Ok(())
    }
}
