//! Which dead letters are closed: for whoever takes their copies out of the dead-letter queues.

use jiff::Timestamp;
use sqlx::Row;
use weft_schemas::{DeadLetterId, FunctionName};

use super::Postgres;
use super::instant::Instant;
use crate::codec::corrupt;
use crate::{ClosedSince, Error};

/// The time is taken before the letters are looked at. The condition is the one of the index `dead_letter_closed`.
pub(super) const SINCE: &str = "
    SELECT statement_timestamp() AS at, ARRAY(
        SELECT DISTINCT function FROM weft.dead_letter WHERE coalesce(redriven_at, purged_at) >= $1 ORDER BY function
    ) AS functions";

const CLOSED: &str = "
    SELECT id FROM weft.dead_letter
    WHERE id = ANY ($1::text[]) AND (redriven_at IS NOT NULL OR purged_at IS NOT NULL)";

impl Postgres {
    pub(super) async fn functions_closed_since(&self, since: Timestamp) -> Result<ClosedSince, Error> {
        let failed = self.map("look for closed dead letters");
        let row = sqlx::query(SINCE).bind(Instant(since)).fetch_one(&self.general).await.map_err(&failed)?;
        let functions: Vec<String> = row.try_get("functions").map_err(&failed)?;
        let functions = functions
            .into_iter()
            .map(|name| FunctionName::new(&name).map_err(|_| corrupt("a dead letter's function has no valid name")));
        Ok(ClosedSince {
            at: row.try_get::<Instant, _>("at").map_err(&failed)?.0,
            functions: functions.collect::<Result<_, _>>()?,
        })
    }

    pub(super) async fn which_are_closed(&self, ids: &[DeadLetterId]) -> Result<Vec<DeadLetterId>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
        let closed: Vec<String> = sqlx::query_scalar(CLOSED)
            .bind(ids)
            .fetch_all(&self.general)
            .await
            .map_err(self.map("look for closed dead letters"))?;
        Ok(closed.into_iter().map(DeadLetterId).collect())
    }
}
