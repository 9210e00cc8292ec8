//! Which dead letters are closed: for whoever takes their copies out of the dead-letter queues.

use jiff::Timestamp;
use sqlx::QueryBuilder;
use weft_schemas::{DeadLetterId, FunctionName};

use super::{Sqlite, now};
use crate::codec::{corrupt, timestamp};
use crate::{ClosedSince, Error};

/// Both conditions are there for the index `dead_letter_closed`: SQLite takes a partial one for its own words alone.
pub(super) const SINCE: &str = "
    SELECT DISTINCT function FROM dead_letter
    WHERE coalesce(redriven_at, purged_at) IS NOT NULL AND coalesce(redriven_at, purged_at) >= ?1 ORDER BY function";

impl Sqlite {
    pub(super) async fn functions_closed_since(&self, since: Timestamp) -> Result<ClosedSince, Error> {
        let at = timestamp(now())?;
        let functions: Vec<String> = sqlx::query_scalar(SINCE)
            .bind(since.as_microsecond())
            .fetch_all(&self.readers)
            .await
            .map_err(self.map("look for closed dead letters"))?;
        let functions = functions
            .into_iter()
            .map(|name| FunctionName::new(&name).map_err(|_| corrupt("a dead letter's function has no valid name")));
        Ok(ClosedSince { at, functions: functions.collect::<Result<_, _>>()? })
    }

    pub(super) async fn which_are_closed(&self, ids: &[DeadLetterId]) -> Result<Vec<DeadLetterId>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = QueryBuilder::new(
            "SELECT id FROM dead_letter WHERE (redriven_at IS NOT NULL OR purged_at IS NOT NULL) AND id IN (",
        );
        let mut list = sql.separated(", ");
        for id in ids {
            list.push_bind(&id.0);
        }
        list.push_unseparated(")");
        let closed: Vec<String> = sql
            .build_query_scalar()
            .fetch_all(&self.readers)
            .await
            .map_err(self.map("look for closed dead letters"))?;
        Ok(closed.into_iter().map(DeadLetterId).collect())
    }
}
