//! For tests only: moving the ledger's clock, and looking at plans.

use std::time::Duration;

use async_trait::async_trait;

use sqlx::Row;

use super::Sqlite;
use super::closed::SINCE;
use crate::Error;
use crate::codec::micros;
use crate::conformance::Testable;

#[async_trait]
impl Testable for Sqlite {
    async fn advance(&self, by: Duration) -> Result<(), Error> {
        let mut writer = self.file.writer().await;
        for statement in [
            "UPDATE node SET lease_until = lease_until - ?1, entered_at = entered_at - ?1",
            "UPDATE outbox SET due_at = due_at - ?1, failing_since = failing_since - ?1",
            "UPDATE invocation SET due_at = due_at - ?1, expires_at = expires_at - ?1,
                 first_seen_at = first_seen_at - ?1, updated_at = updated_at - ?1",
        ] {
            sqlx::query(statement).bind(micros(by)).execute(&mut *writer).await.map_err(self.map("move the clock"))?;
        }
        Ok(())
    }

    async fn plan_of_closed_since(&self) -> Result<String, Error> {
        let failed = self.map("explain a statement");
        let explain = format!("EXPLAIN QUERY PLAN {SINCE}");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(explain)).bind(0i64).fetch_all(&self.readers).await.map_err(&failed)?;
        let lines: sqlx::Result<Vec<String>> = rows.iter().map(|row| row.try_get("detail")).collect();
        Ok(lines.map_err(&failed)?.join("\n"))
    }
}
