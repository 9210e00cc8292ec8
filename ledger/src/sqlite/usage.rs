//! What functions have used.

use jiff::Timestamp;
use sqlx::Connection;
use weft_schemas::{FunctionName, NodeName};

use super::Sqlite;
use crate::codec::{corrupt, timestamp};
use crate::{Error, Owner, Usage, Used};

/// The same again changes nothing; an older state that arrives late lowers nothing.
const WRITE: &str = "
    INSERT INTO usage (function, hour, node, incarnation,
        attempts, cold_starts, billed_ms, billed_mb_ms, worker_ms, worker_mb_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (function, hour, node, incarnation) DO UPDATE SET
        attempts     = max(attempts, excluded.attempts),
        cold_starts  = max(cold_starts, excluded.cold_starts),
        billed_ms    = max(billed_ms, excluded.billed_ms),
        billed_mb_ms = max(billed_mb_ms, excluded.billed_mb_ms),
        worker_ms    = max(worker_ms, excluded.worker_ms),
        worker_mb_ms = max(worker_mb_ms, excluded.worker_mb_ms)";

const READ: &str = "
    SELECT function, hour, node, incarnation, attempts, cold_starts, billed_ms, billed_mb_ms, worker_ms, worker_mb_ms
    FROM usage WHERE hour >= ?1 ORDER BY function, hour, node, incarnation";

type Row = (String, i64, String, i64, i64, i64, i64, i64, i64, i64);

impl Sqlite {
    pub(super) async fn write_usage_rows(&self, rows: &[Usage]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let failed = self.map("write what functions have used");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        for row in rows {
            let mut query = sqlx::query(WRITE)
                .bind(row.function.as_str())
                .bind(row.hour.as_microsecond())
                .bind(row.by.node.as_str())
                .bind(row.by.incarnation);
            for count in row.used.columns() {
                query = query.bind(count);
            }
            query.execute(&mut *transaction).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }

    pub(super) async fn read_usage(&self, since: Timestamp) -> Result<Vec<Usage>, Error> {
        let rows: Vec<Row> = sqlx::query_as(READ)
            .bind(since.as_microsecond())
            .fetch_all(&self.readers)
            .await
            .map_err(self.map("read what functions have used"))?;
        let usage = rows.into_iter().map(|(function, hour, node, incarnation, a, c, b, bm, w, wm)| {
            Ok(Usage {
                function: FunctionName::new(&function)
                    .map_err(|_| corrupt("a usage row's function has no valid name"))?,
                hour: timestamp(hour)?,
                by: Owner {
                    node: NodeName::new(&node).map_err(|_| corrupt("a usage row's node has no valid name"))?,
                    incarnation,
                },
                used: Used::of([a, c, b, bm, w, wm]),
            })
        });
        usage.collect()
    }
}
