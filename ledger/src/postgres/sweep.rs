//! Deleting expired successes, without an index on when they expire.
//!
//! Such an index would make every settle write index entries (see the migration). Instead each call walks the table on
//! from where the last one stopped, in physical order, until it has deleted its limit, has seen a bounded number of
//! pages, or has been round once. Expiry itself is judged by the claim; the sweep only saves space.

use sqlx::Row;

use super::{Postgres, retried};
use crate::Error;

/// Pages (of 8 KiB) in one statement.
const STEP: i64 = 256;
/// Pages that one call looks at most: 128 MiB.
const PAGES: i64 = 16 * 1024;

/// Raises the floor above which a deleted key starts again. Committed before anything is deleted, so that no claim that
/// finds the key absent misses it.
const RAISE: &str = "
    INSERT INTO weft.swept AS s (function, fence)
    SELECT function, max(fence) FROM weft.invocation
    WHERE ctid >= format('(%s,0)', $1::bigint)::tid AND ctid < format('(%s,0)', $2::bigint)::tid
      AND state = 'succeeded' AND expires_at <= clock_timestamp()
    GROUP BY function ORDER BY function
    ON CONFLICT (function) DO UPDATE SET fence = greatest(s.fence, excluded.fence)";

/// A row that a claim holds is skipped, and the conditions are checked again on the locked version. A row whose fence
/// the floor does not cover expired only after it was raised, and is left to the next round. What is deleted is counted,
/// so that the books balance.
const DELETE: &str = "
    WITH gone AS (
        DELETE FROM weft.invocation WHERE ctid = ANY (ARRAY(
            SELECT i.ctid FROM weft.invocation i
            WHERE i.ctid >= format('(%s,0)', $1::bigint)::tid AND i.ctid < format('(%s,0)', $2::bigint)::tid
              AND i.state = 'succeeded' AND i.expires_at <= clock_timestamp()
              AND i.fence <= (SELECT s.fence FROM weft.swept s WHERE s.function = i.function)
            LIMIT $3 FOR UPDATE OF i SKIP LOCKED))
          AND state = 'succeeded' AND expires_at <= clock_timestamp()
        RETURNING function
    ), counted AS (
        INSERT INTO weft.swept AS s (function, fence, deleted)
        SELECT function, 0, count(*) FROM gone GROUP BY function ORDER BY function
        ON CONFLICT (function) DO UPDATE SET deleted = s.deleted + excluded.deleted
    )
    SELECT count(*) FROM gone";

impl Postgres {
    pub(super) async fn sweep_expired(&self, limit: u32) -> Result<u64, Error> {
        let failed = self.map("sweep expired invocations");
        let mut page = self.sweep_page.lock().await;
        let pages: i64 =
            sqlx::query("SELECT pg_relation_size('weft.invocation') / current_setting('block_size')::bigint")
                .fetch_one(&self.general)
                .await
                .and_then(|row| row.try_get(0))
                .map_err(&failed)?;
        let (limit, mut deleted, mut seen) = (u64::from(limit), 0, 0);
        while seen < pages.min(PAGES) && deleted < limit {
            if *page >= pages {
                *page = 0;
            }
            let end = *page + STEP;
            let raise = || sqlx::query(RAISE).bind(*page).bind(end).execute(&self.general);
            let found = retried!(raise()).map_err(&failed)?.rows_affected();
            let mut more = false;
            if found > 0 {
                let room = limit - deleted;
                let delete = || {
                    let room = i64::try_from(room).unwrap_or(i64::MAX);
                    sqlx::query_scalar(DELETE).bind(*page).bind(end).bind(room).fetch_one(&self.general)
                };
                let gone: i64 = retried!(delete()).map_err(&failed)?;
                let gone = gone.unsigned_abs();
                deleted += gone;
                more = gone == room;
            }
            if !more {
                (seen, *page) = (seen + STEP, end);
            }
        }
        Ok(deleted)
    }
}
