//! For tests only: moving the ledger's clock, and looking at plans.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool, Row};
use tokio::sync::Mutex;

use super::Postgres;
use super::claim::{CLAIM, LOOK};
use super::closed::SINCE;
use super::locked::LOCKED;
use super::node::RENEW;
use super::outbox::{FAILED, NEXT, PUBLISHED, TAKE};
use super::settle::SETTLE;
use super::sweep::{DELETE, RAISE};
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

/// The hot statements, each prepared once on a connection of the kind that runs it. The server keeps the plans that it made
/// then for as long as it keeps those of a dispatcher, which prepares once too.
pub struct Plans {
    address: String,
    prepared: Vec<(&'static str, String, Arc<Mutex<PgConnection>>)>,
}

impl Postgres {
    /// Prepares and plans the hot statements.
    ///
    /// # Errors
    /// The server does not answer, or a statement does not fit the tables.
    pub async fn plans(&self) -> Result<Plans, Error> {
        let failed = self.map("prepare a statement");
        let detached = async |pool: &PgPool| -> Result<Arc<Mutex<PgConnection>>, Error> {
            Ok(Arc::new(Mutex::new(pool.acquire().await.map_err(&failed)?.detach())))
        };
        let (claims, settles) = (detached(&self.claims).await?, detached(&self.settles).await?);
        let (relay, sweeps) = (detached(&self.relay).await?, detached(&self.sweeps).await?);
        let node = Arc::new(Mutex::new(super::node::connect(&self.address, &self.connect, "2s").await?));
        let mut prepared = Vec::new();
        for (name, statement, connection) in [
            ("claim", CLAIM, &claims),
            ("look", LOOK, &claims),
            ("locked", LOCKED, &claims),
            ("next", NEXT, &claims),
            ("settle", SETTLE, &settles),
            ("take", TAKE, &relay),
            ("published", PUBLISHED, &relay),
            ("failed", FAILED, &relay),
            ("raise", RAISE, &sweeps),
            ("delete", DELETE, &sweeps),
            ("renew", RENEW, &node),
        ] {
            // PREPARE, so that the generic plan is shown, which is what runs.
            let script = format!("PREPARE shown_{name} AS {statement}");
            let mut using = connection.lock().await;
            sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut *using).await.map_err(&failed)?;
            let holes = (1..=30).filter(|n| statement.contains(&format!("${n}"))).map(|_| "NULL").collect::<Vec<_>>();
            let arguments = if holes.is_empty() { String::new() } else { format!("({})", holes.join(",")) };
            prepared.push((name, format!("EXPLAIN EXECUTE shown_{name}{arguments}"), Arc::clone(connection)));
        }
        Ok(Plans { address: self.address.clone(), prepared })
    }
}

impl Plans {
    /// The plans as the server has them now: (name, text of `EXPLAIN`).
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn explain(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let failed = |error| super::map(&self.address, "explain a statement", error);
        let mut plans = Vec::new();
        for (name, explain, connection) in &self.prepared {
            let mut using = connection.lock().await;
            let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(explain.clone())).fetch_all(&mut *using).await;
            let lines: sqlx::Result<Vec<String>> = rows.map_err(failed)?.iter().map(|row| row.try_get(0)).collect();
            plans.push((*name, lines.map_err(failed)?.join("\n")));
        }
        Ok(plans)
    }
}
