//! Taking due messages, in a transaction that keeps them from other relays while they are published.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Postgres as Db, Row, Transaction};

use super::connect::{HOT, within};
use super::settle::Outbox;
use super::{Postgres, map};
use crate::codec::{count, decode, duration, micros};
use crate::letter::text;
use crate::{Due, DueBatch, Error, OutboxId, OutboxKind, OutboxMessage};

/// The sub-select makes the time a constant of the statement, which the index can be searched by.
pub(super) const TAKE: &str = "
    SELECT id, kind, tries, message FROM weft.outbox
    WHERE due_at <= (SELECT clock_timestamp())
    ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED";

/// Rows that another relay is publishing right now are skipped: waiting for them is not this relay's work, and answering
/// "now" would make it ask again and again. The lock ends with the statement.
pub(super) const NEXT: &str = "
    SELECT (extract(epoch FROM due_at - clock_timestamp()) * 1000000)::bigint
    FROM weft.outbox ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED";

pub(super) const PUBLISHED: &str = "DELETE FROM weft.outbox WHERE id = ANY ($1::bigint[])";

pub(super) const FAILED: &str = "
    UPDATE weft.outbox AS o SET
        tries = o.tries + 1, last_error = f.reason, failing_since = coalesce(o.failing_since, o.due_at),
        due_at = clock_timestamp() + f.wait * interval '1 microsecond'
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS f(id, wait, reason) WHERE o.id = f.id";

struct Batch {
    /// Dropped: rolled back, so that the rows are free again.
    transaction: Transaction<'static, Db>,
    rows: Vec<Due>,
    address: String,
}

impl Postgres {
    pub(super) async fn take_due(&self, limit: u32) -> Result<Box<dyn DueBatch>, Error> {
        let failed = self.map("take due messages");
        let mut transaction = self.relay.begin().await.map_err(&failed)?;
        let found = sqlx::query(TAKE).bind(i64::from(limit)).fetch_all(&mut *transaction).await.map_err(&failed)?;
        let mut rows = Vec::with_capacity(found.len());
        for row in found {
            let kind: String = row.try_get("kind").map_err(&failed)?;
            let message: Vec<u8> = row.try_get("message").map_err(&failed)?;
            let tries: i32 = row.try_get("tries").map_err(&failed)?;
            rows.push(Due {
                id: OutboxId(row.try_get("id").map_err(&failed)?),
                kind: OutboxKind::read(&kind)?,
                message: decode("an outbox message", &message)?,
                tries: count("tries", tries)?,
            });
        }
        Ok(Box::new(Batch { transaction, rows, address: self.address.clone() }))
    }

    pub(super) async fn post_messages(&self, messages: &[OutboxMessage]) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut columns = Outbox::default();
        messages.iter().try_for_each(|message| columns.push(0, None, message))?;
        sqlx::query(
            "INSERT INTO weft.outbox (due_at, kind, message)
             SELECT statement_timestamp() + o.due_us * interval '1 microsecond', o.kind, o.message
             FROM unnest($1::bigint[], $2::text[], $3::bytea[]) WITH ORDINALITY AS o(due_us, kind, message, place)
             ORDER BY o.place",
        )
        .bind(columns.due_us)
        .bind(columns.kind)
        .bind(columns.message)
        .execute(&self.settles)
        .await
        .map_err(self.map("post messages"))?;
        Ok(())
    }

    pub(super) async fn wait_until_due(&self) -> Result<Option<Duration>, Error> {
        let left: Option<i64> = sqlx::query_scalar(NEXT)
            .fetch_optional(&self.claims)
            .await
            .map_err(self.map("look for the next due message"))?;
        Ok(left.map(duration))
    }
}

#[async_trait]
impl DueBatch for Batch {
    fn rows(&self) -> &[Due] {
        &self.rows
    }

    async fn finish(
        self: Box<Self>,
        published: &[OutboxId],
        failed: &[(OutboxId, Duration, String)],
    ) -> Result<(), Error> {
        let address = self.address.clone();
        within(&address, HOT, self.write(published, failed)).await
    }
}

impl Batch {
    /// Dropped half-way: rolled back, and what was published is published again.
    async fn write(
        mut self: Box<Self>,
        published: &[OutboxId],
        failed: &[(OutboxId, Duration, String)],
    ) -> Result<(), Error> {
        let refused = |error| map(&self.address, "finish published messages", error);
        if !published.is_empty() {
            let ids: Vec<i64> = published.iter().map(|id| id.0).collect();
            sqlx::query(PUBLISHED).bind(ids).execute(&mut *self.transaction).await.map_err(refused)?;
        }
        if !failed.is_empty() {
            let ids: Vec<i64> = failed.iter().map(|(id, _, _)| id.0).collect();
            let waits: Vec<i64> = failed.iter().map(|(_, wait, _)| micros(*wait)).collect();
            let reasons: Vec<_> = failed.iter().map(|(_, _, reason)| text(reason)).collect();
            let failed = sqlx::query(FAILED).bind(ids).bind(waits).bind(reasons);
            failed.execute(&mut *self.transaction).await.map_err(refused)?;
        }
        self.transaction.commit().await.map_err(|error| map(&self.address, "finish published messages", error))
    }
}
