//! Deleting expired successes, and state that nobody can ask for any more.

use sqlx::Connection;

use super::{Sqlite, now};
use crate::Error;

/// How long the embedded state remembers which fence it has seen and what was applied once: longer than any success is
/// kept by default, and far longer than an attempt may run.
const REMEMBERED_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;

const PICK: &str =
    "SELECT rowid FROM invocation WHERE state = 'succeeded' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2";

impl Sqlite {
    pub(super) async fn sweep_expired(&self, limit: u32) -> Result<u64, Error> {
        let failed = self.map("sweep expired invocations");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let at = now();
        let picked: Vec<i64> = sqlx::query_scalar(PICK)
            .bind(at)
            .bind(i64::from(limit))
            .fetch_all(&mut *transaction)
            .await
            .map_err(&failed)?;
        for row in &picked {
            // A key that comes back starts above the fence that goes with its row.
            sqlx::query(
                "INSERT INTO swept (function, fence, deleted) SELECT function, fence, 1 FROM invocation WHERE rowid = ?1
                 ON CONFLICT (function) DO UPDATE SET fence = max(fence, excluded.fence), deleted = deleted + 1",
            )
            .bind(row)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
            sqlx::query("DELETE FROM invocation WHERE rowid = ?1")
                .bind(row)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        for (statement, before) in [
            ("DELETE FROM state WHERE rowid IN (SELECT rowid FROM state WHERE expires_at <= ?1 LIMIT ?2)", at),
            (
                "DELETE FROM state_fence WHERE rowid IN (SELECT rowid FROM state_fence WHERE touched_at <= ?1 LIMIT ?2)",
                at - REMEMBERED_MICROS,
            ),
            (
                "DELETE FROM state_once WHERE rowid IN (SELECT rowid FROM state_once WHERE done_at <= ?1 LIMIT ?2)",
                at - REMEMBERED_MICROS,
            ),
        ] {
            sqlx::query(statement)
                .bind(before)
                .bind(i64::from(limit))
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        u64::try_from(picked.len()).map_err(|_| crate::codec::corrupt("a count is out of range"))
    }
}
