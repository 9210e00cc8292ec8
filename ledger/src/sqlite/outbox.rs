//! Taking due messages. No transaction is held while they are published: it would keep every writer out.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection, Row};

use super::{File, Sqlite, now, post};
use crate::codec::{count, decode, duration, encode, micros};
use crate::letter::text;
use crate::{Due, DueBatch, Error, OutboxId, OutboxKind, OutboxMessage};

/// Rows that this process is publishing.
struct Taken {
    ids: Vec<i64>,
    all: Arc<Mutex<HashSet<i64>>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for id in &self.ids {
            all.remove(id);
        }
    }
}

struct Batch {
    rows: Vec<Due>,
    file: Arc<File>,
    taken: Taken,
}

impl Sqlite {
    pub(super) async fn take_due(&self, limit: u32) -> Result<Box<dyn DueBatch>, Error> {
        let failed = self.map("take due messages");
        // Taken rows are few (a batch or two), so that asking for that many more finds enough others.
        let already = self.taken.lock().unwrap_or_else(PoisonError::into_inner).len();
        let found =
            sqlx::query("SELECT id, kind, tries, message FROM outbox WHERE due_at <= ?1 ORDER BY due_at, id LIMIT ?2")
                .bind(now())
                .bind(i64::from(limit).saturating_add(i64::try_from(already).unwrap_or(0)))
                .fetch_all(&self.readers)
                .await
                .map_err(&failed)?;
        let mut taken = Taken { ids: Vec::new(), all: Arc::clone(&self.taken) };
        let mut rows = Vec::new();
        for row in found {
            let id: i64 = row.try_get("id").map_err(&failed)?;
            if rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
                break;
            }
            if !self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
                continue;
            }
            taken.ids.push(id);
            let kind: String = row.try_get("kind").map_err(&failed)?;
            let message: Vec<u8> = row.try_get("message").map_err(&failed)?;
            let tries: i64 = row.try_get("tries").map_err(&failed)?;
            rows.push(Due {
                id: OutboxId(id),
                kind: OutboxKind::read(&kind)?,
                message: decode("an outbox message", &message)?,
                tries: count("tries", tries)?,
            });
        }
        Ok(Box::new(Batch { rows, file: Arc::clone(&self.file), taken }))
    }

    pub(super) async fn post_messages(&self, messages: &[OutboxMessage]) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let encoded = messages.iter().map(|message| Ok((message, encode(&message.message)?)));
        let encoded = encoded.collect::<Result<Vec<_>, Error>>()?;
        let failed = self.map("post messages");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        post(&mut transaction, now(), None, &encoded).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    pub(super) async fn wait_until_due(&self) -> Result<Option<Duration>, Error> {
        // Rows that are being published are skipped: answering "now" for them would make the relay ask again and again.
        let already = i64::try_from(self.taken.lock().unwrap_or_else(PoisonError::into_inner).len()).unwrap_or(0);
        let rows: Vec<(i64, i64)> = sqlx::query_as("SELECT id, due_at FROM outbox ORDER BY due_at, id LIMIT ?1")
            .bind(already + 1)
            .fetch_all(&self.readers)
            .await
            .map_err(self.map("look for the next due message"))?;
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now();
        Ok(rows.into_iter().find(|(id, _)| !taken.contains(id)).map(|(_, due)| duration(due - at)))
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
        if published.is_empty() && failed.is_empty() {
            return Ok(());
        }
        let Self { file, taken, .. } = *self;
        let refused = file.map("finish published messages");
        let mut writer = file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&refused)?;
        for id in published {
            sqlx::query("DELETE FROM outbox WHERE id = ?1")
                .bind(id.0)
                .execute(&mut *transaction)
                .await
                .map_err(&refused)?;
        }
        for (id, wait, reason) in failed {
            sqlx::query(
                "UPDATE outbox SET tries = tries + 1, last_error = ?2, due_at = ?3,
                     failing_since = coalesce(failing_since, due_at)
                 WHERE id = ?1",
            )
            .bind(id.0)
            .bind(text(reason))
            .bind(now() + micros(*wait))
            .execute(&mut *transaction)
            .await
            .map_err(&refused)?;
        }
        transaction.commit().await.map_err(&refused)?;
        drop(taken);
        Ok(())
    }
}
