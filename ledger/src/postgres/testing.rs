//! For tests only: moving the ledger's clock, and looking at plans.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;

use super::Postgres;
use super::claim::{CLAIM, LOOK};
use super::closed::SINCE;
use super::settle::SETTLE;
use crate::Error;
use crate::codec::micros;
use crate::conformance::Testable;

#[async_trait]
impl Testable for Postgres {
    async fn advance(&self, by: Duration) -> Result<(), Error> {
        for statement in [
            "UPDATE weft.node SET
                 lease_until = lease_until - $1 * interval '1 microsecond',
                 entered_at = entered_at - $1 * interval '1 microsecond'",
            "UPDATE weft.outbox SET
                 due_at = due_at - $1 * interval '1 microsecond',
                 failing_since = failing_since - $1 * interval '1 microsecond'",
            "UPDATE weft.invocation SET
                 due_at = due_at - $1 * interval '1 microsecond', expires_at = expires_at - $1 * interval '1 microsecond',
                 first_seen_at = first_seen_at - $1 * interval '1 microsecond',
                 updated_at = updated_at - $1 * interval '1 microsecond'",
        ] {
            sqlx::query(statement).bind(micros(by)).execute(&self.general).await.map_err(self.map("move the clock"))?;
        }
        Ok(())
    }

    async fn plan_of_closed_since(&self) -> Result<String, Error> {
        let failed = self.map("explain a statement");
        let explain = format!("EXPLAIN {}", SINCE.replace("$1", "now()"));
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&self.general).await.map_err(&failed)?;
        let lines: sqlx::Result<Vec<String>> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(lines.map_err(&failed)?.join("\n"))
    }
}

impl Postgres {
    /// The plans of the hot statements on the connections that run them: (name, text of `EXPLAIN`).
    pub async fn plans(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let mut plans = Vec::new();
        for (name, statement, pool) in
            [("claim", CLAIM, &self.claims), ("look", LOOK, &self.claims), ("settle", SETTLE, &self.settles)]
        {
            let failed = self.map("explain a statement");
            let mut connection = pool.acquire().await.map_err(&failed)?;
            // PREPARE, so that the generic plan is shown, which is what runs.
            let holes = (1..=30).filter(|n| statement.contains(&format!("${n}"))).map(|_| "NULL").collect::<Vec<_>>();
            let script = format!("PREPARE shown AS {statement}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut *connection).await.map_err(&failed)?;
            let explain = format!("EXPLAIN EXECUTE shown({})", holes.join(","));
            let rows =
                sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&mut *connection).await.map_err(&failed)?;
            sqlx::raw_sql("DEALLOCATE shown").execute(&mut *connection).await.map_err(&failed)?;
            let lines: sqlx::Result<Vec<String>> = rows.iter().map(|row| row.try_get(0)).collect();
            plans.push((name, lines.map_err(&failed)?.join("\n")));
        }
        Ok(plans)
    }
}
