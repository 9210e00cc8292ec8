//! Permits: one short transaction, serial for each function by the lock on its row in `cap`.

use sqlx::Connection;
use weft_schemas::FunctionName;

use super::{Postgres, retried};
use crate::codec::{count, micros};
use crate::permit::{Other, PERMIT_GRACE, TURN, exchange};
use crate::{Error, Owner, PermitAsk, Permits};

/// Held until the commit, so that the statements after it see what all before it have written. Answers whether the owner
/// may have any, and whose turn it is.
const LOCK: &str = "
    INSERT INTO weft.cap AS c (function, asked_at) VALUES ($1, clock_timestamp())
    ON CONFLICT (function) DO UPDATE SET asked_at = excluded.asked_at
    RETURNING
        EXISTS (SELECT 1 FROM weft.node n
                WHERE n.id = $2 AND n.incarnation = $3 AND n.lease_until > clock_timestamp()) AS live,
        floor(extract(epoch FROM clock_timestamp()) / $4)::bigint AS turn";

/// What the others hold and want. A permit counts as long as whoever holds it may still run something.
const OTHERS: &str = "
    SELECT p.node, p.held, p.wanted FROM weft.permit p JOIN weft.node n ON n.id = p.node
    WHERE p.function = $1 AND p.node <> $2 AND (p.held > 0 OR p.wanted > 0)
      AND CASE WHEN n.incarnation = p.incarnation THEN n.lease_until ELSE n.entered_at END
          > clock_timestamp() - $3 * interval '1 microsecond'";

/// The bound stands here once more: whatever was computed, the sum is not more than it, save what runs already.
const TAKE: &str = "
    INSERT INTO weft.permit AS p (function, node, incarnation, held, wanted)
    SELECT $1, $2, $3, greatest($5, least($4, $6 - (
        SELECT coalesce(sum(o.held), 0) FROM weft.permit o JOIN weft.node n ON n.id = o.node
        WHERE o.function = $1 AND o.node <> $2
          AND CASE WHEN n.incarnation = o.incarnation THEN n.lease_until ELSE n.entered_at END
              > clock_timestamp() - $8 * interval '1 microsecond')))::integer, $7
    ON CONFLICT (function, node) DO UPDATE SET
        incarnation = excluded.incarnation, held = excluded.held, wanted = excluded.wanted
    RETURNING held";

impl Postgres {
    pub(super) async fn take_permits(
        &self,
        owner: &Owner,
        function: &FunctionName,
        ask: PermitAsk,
    ) -> Result<Permits, Error> {
        let failed = self.map("take permits");
        let (got, part): (i32, u32) = retried!(self.exchange(owner, function, ask)).map_err(&failed)?;
        Ok(Permits { held: count("permits", got)?, share: part })
    }

    async fn exchange(&self, owner: &Owner, function: &FunctionName, ask: PermitAsk) -> sqlx::Result<(i32, u32)> {
        let mut connection = self.general.acquire().await?;
        let mut transaction = connection.begin().await?;
        let (live, turn): (bool, i64) = sqlx::query_as(LOCK)
            .bind(function.as_str())
            .bind(owner.node.as_str())
            .bind(owner.incarnation)
            .bind(i64::try_from(TURN.as_secs()).unwrap_or(1))
            .fetch_one(&mut *transaction)
            .await?;
        if !live {
            // Fail closed: without a lease nothing may run.
            transaction.rollback().await?;
            return Ok((0, 0));
        }
        let others: Vec<(String, i32, i32)> = sqlx::query_as(OTHERS)
            .bind(function.as_str())
            .bind(owner.node.as_str())
            .bind(micros(PERMIT_GRACE))
            .fetch_all(&mut *transaction)
            .await?;
        let number = |count: i32| u32::try_from(count).unwrap_or(0);
        let others =
            others.into_iter().map(|(node, held, wanted)| Other { node, held: number(held), wanted: number(wanted) });
        let turn = u64::try_from(turn).unwrap_or(0);
        let given = exchange(ask, owner.node.as_str(), others.collect(), turn);
        let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let got: i32 = sqlx::query_scalar(TAKE)
            .bind(function.as_str())
            .bind(owner.node.as_str())
            .bind(owner.incarnation)
            .bind(number(given.held))
            .bind(number(ask.keep))
            .bind(number(ask.total))
            .bind(number(ask.wanted))
            .bind(micros(PERMIT_GRACE))
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok((got, given.share))
    }
}
