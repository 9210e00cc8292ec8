//! Deleting expired successes, without an index on when they expire.
//!
//! Such an index would make every settle write index entries (see the migration). Instead each call walks the table on
//! from where the last one stopped, in physical order, until it has deleted its limit, has seen a bounded number of
//! pages, or has been round once. Expiry itself is judged by the claim; the sweep only saves space. So what is expired
//! and still there stays a small share of the table: where it is more than the limit in the pages of one call, the call
//! ends early and the next follows at once.
//!
//! A key that comes back must start above every fence that it had. For that each function has a floor, which is raised
//! before anything is deleted. That alone is not enough: a claim whose statement began before the floor was raised has
//! the old floor in its snapshot, and may be held up (by another key's lock, or for want of a processor) until after the
//! row is gone. So a raised floor counts only once every statement that was writing to the table at that moment has
//! ended ([`STILL_WRITING`]); what began later sees the floor.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::Row;

use super::{Postgres, retried};
use crate::Error;

/// Pages (of 8 KiB) in one statement.
const STEP: i64 = 256;
/// Pages that one call looks at most: 128 MiB.
const PAGES: i64 = 16 * 1024;
/// How often those that still write are looked for, and how long the pause is. A call that waits in vain deletes nothing
/// more; the next one waits anew.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Raises the floor above which a deleted key starts again.
pub(super) const RAISE: &str = "
    INSERT INTO weft.swept AS s (function, fence)
    SELECT function, max(fence) FROM weft.invocation
    WHERE ctid >= format('(%s,0)', $1::bigint)::tid AND ctid < format('(%s,0)', $2::bigint)::tid
      AND state = 'succeeded' AND expires_at <= clock_timestamp()
    GROUP BY function ORDER BY function
    ON CONFLICT (function) DO UPDATE SET fence = greatest(s.fence, excluded.fence)
    RETURNING s.function, s.fence";

/// Transactions that hold the lock of a writer on the table. A statement takes it before it takes its snapshot.
const WRITING: &str = "
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'weft.invocation'::regclass AND mode = 'RowExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()";

/// Of those in $1, the ones that have not ended.
const STILL_WRITING: &str = "
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE virtualtransaction = ANY ($1::text[]) AND locktype = 'relation'
      AND relation = 'weft.invocation'::regclass AND mode = 'RowExclusiveLock'";

/// A row that a claim holds is skipped, and the conditions are checked again on the locked version. A row whose fence
/// the floor does not cover expired only after it was raised, and is left to the next round. What is deleted is counted,
/// so that the books balance.
pub(super) const DELETE: &str = "
    WITH gone AS (
        DELETE FROM weft.invocation WHERE ctid = ANY (ARRAY(
            SELECT i.ctid FROM weft.invocation i
            JOIN unnest($4::text[], $5::bigint[]) AS floor(function, fence) ON floor.function = i.function
            WHERE i.ctid >= format('(%s,0)', $1::bigint)::tid AND i.ctid < format('(%s,0)', $2::bigint)::tid
              AND i.state = 'succeeded' AND i.expires_at <= clock_timestamp()
              AND i.fence <= floor.fence
            LIMIT $3 FOR UPDATE OF i SKIP LOCKED))
          AND state = 'succeeded' AND expires_at <= clock_timestamp()
        RETURNING function
    ), counted AS (
        INSERT INTO weft.swept AS s (function, fence, deleted)
        SELECT function, 0, count(*) FROM gone GROUP BY function ORDER BY function
        ON CONFLICT (function) DO UPDATE SET deleted = s.deleted + excluded.deleted
    )
    SELECT count(*) FROM gone";

/// Where the walk is, and what is known of the floors. Kept between the calls.
#[derive(Default)]
pub(super) struct Walk {
    /// The page at which the next call goes on.
    page: i64,
    /// Floors below which every claim that is under way starts.
    floors: HashMap<String, i64>,
}

impl Postgres {
    pub(super) async fn sweep_expired(&self, limit: u32) -> Result<u64, Error> {
        let failed = self.map("sweep expired invocations");
        let mut walk = self.sweep_walk.lock().await;
        let pages: i64 =
            sqlx::query("SELECT pg_relation_size('weft.invocation') / current_setting('block_size')::bigint")
                .fetch_one(&self.sweeps)
                .await
                .and_then(|row| row.try_get(0))
                .map_err(&failed)?;
        let (limit, mut deleted, mut seen) = (u64::from(limit), 0, 0);
        while seen < pages.min(PAGES) && deleted < limit {
            if walk.page >= pages {
                walk.page = 0;
            }
            let (page, end) = (walk.page, walk.page + STEP);
            let raise = || sqlx::query(RAISE).bind(page).bind(end).fetch_all(&self.sweeps);
            let raised = retried!(raise()).map_err(&failed)?;
            let mut more = false;
            if !raised.is_empty() {
                if !self.settle_floors(&mut walk.floors, &raised).await.map_err(&failed)? {
                    return Ok(deleted);
                }
                let room = limit - deleted;
                let (functions, floors): (Vec<&str>, Vec<i64>) =
                    walk.floors.iter().map(|(function, fence)| (function.as_str(), *fence)).unzip();
                let delete = || {
                    let room = i64::try_from(room).unwrap_or(i64::MAX);
                    let delete = sqlx::query_scalar(DELETE).bind(page).bind(end).bind(room);
                    delete.bind(functions.clone()).bind(floors.clone()).fetch_one(&self.sweeps)
                };
                let gone: i64 = retried!(delete()).map_err(&failed)?;
                let gone = gone.unsigned_abs();
                deleted += gone;
                more = gone == room;
            }
            if !more {
                (seen, walk.page) = (seen + STEP, end);
            }
        }
        Ok(deleted)
    }

    /// Takes raised floors over into `floors`, once no statement is left that does not see them; `false` when some are
    /// left for too long. Floors that were known already cost nothing, which is nearly always so: fences are small, and
    /// a function's floor soon is the highest that it ever has.
    async fn settle_floors(
        &self,
        floors: &mut HashMap<String, i64>,
        raised: &[sqlx::postgres::PgRow],
    ) -> sqlx::Result<bool> {
        let mut higher = Vec::new();
        for row in raised {
            let (function, fence): (String, i64) = (row.try_get("function")?, row.try_get("fence")?);
            if floors.get(&function).is_none_or(|known| *known < fence) {
                higher.push((function, fence));
            }
        }
        if higher.is_empty() {
            return Ok(true);
        }
        let mut writing: Vec<String> = sqlx::query_scalar(WRITING).fetch_all(&self.sweeps).await?;
        for _ in 0..LOOKS {
            if writing.is_empty() {
                floors.extend(higher);
                return Ok(true);
            }
            tokio::time::sleep(PAUSE).await;
            writing = sqlx::query_scalar(STILL_WRITING).bind(&writing).fetch_all(&self.sweeps).await?;
        }
        Ok(false)
    }
}
