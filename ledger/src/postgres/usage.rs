//! What functions have used.

use jiff::Timestamp;
use sqlx::Row;
use weft_schemas::{FunctionName, NodeName};

use super::Postgres;
use super::instant::Instant;
use crate::codec::corrupt;
use crate::{Error, Owner, Usage, Used};

/// The same again changes nothing; an older state that arrives late lowers nothing.
const WRITE: &str = "
    INSERT INTO weft.usage AS known (function, hour, node, incarnation,
        attempts, cold_starts, billed_ms, billed_mb_ms, worker_ms, worker_mb_ms)
    SELECT function, to_timestamp(hour), node, incarnation, c1, c2, c3, c4, c5, c6
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[],
        $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
        AS given (function, hour, node, incarnation, c1, c2, c3, c4, c5, c6)
    ON CONFLICT (function, hour, node, incarnation) DO UPDATE SET
        attempts     = greatest(known.attempts, excluded.attempts),
        cold_starts  = greatest(known.cold_starts, excluded.cold_starts),
        billed_ms    = greatest(known.billed_ms, excluded.billed_ms),
        billed_mb_ms = greatest(known.billed_mb_ms, excluded.billed_mb_ms),
        worker_ms    = greatest(known.worker_ms, excluded.worker_ms),
        worker_mb_ms = greatest(known.worker_mb_ms, excluded.worker_mb_ms)";

const READ: &str = "
    SELECT function, hour, node, incarnation,
        ARRAY[attempts, cold_starts, billed_ms, billed_mb_ms, worker_ms, worker_mb_ms] AS used
    FROM weft.usage WHERE hour >= $1 ORDER BY function, hour, node, incarnation";

impl Postgres {
    pub(super) async fn write_usage_rows(&self, rows: &[Usage]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut query = sqlx::query(WRITE)
            .bind(rows.iter().map(|row| row.function.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.hour.as_second()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.by.node.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.by.incarnation).collect::<Vec<_>>());
        let columns: Vec<[i64; 6]> = rows.iter().map(|row| row.used.columns()).collect();
        for nth in 0..6 {
            query = query.bind(columns.iter().filter_map(|used| used.get(nth).copied()).collect::<Vec<_>>());
        }
        query.execute(&self.general).await.map(drop).map_err(self.map("write what functions have used"))
    }

    pub(super) async fn read_usage(&self, since: Timestamp) -> Result<Vec<Usage>, Error> {
        let failed = self.map("read what functions have used");
        let rows = sqlx::query(READ).bind(Instant(since)).fetch_all(&self.general).await.map_err(&failed)?;
        let usage = rows.iter().map(|row| {
            let (function, node): (String, String) =
                (row.try_get("function").map_err(&failed)?, row.try_get("node").map_err(&failed)?);
            let used: Vec<i64> = row.try_get("used").map_err(&failed)?;
            Ok(Usage {
                function: FunctionName::new(&function)
                    .map_err(|_| corrupt("a usage row's function has no valid name"))?,
                hour: row.try_get::<Instant, _>("hour").map_err(&failed)?.0,
                by: Owner {
                    node: NodeName::new(&node).map_err(|_| corrupt("a usage row's node has no valid name"))?,
                    incarnation: row.try_get("incarnation").map_err(&failed)?,
                },
                used: Used::of(used.try_into().map_err(|_| corrupt("a usage row lacks counts"))?),
            })
        });
        usage.collect()
    }
}
