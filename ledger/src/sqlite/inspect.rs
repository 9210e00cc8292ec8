//! What operators look at.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};
use weft_schemas::{Attempt, Digest, Epoch, Fence, FunctionName};

use super::Sqlite;
use crate::codec::{corrupt, count, error_info, failures, function, key, limit, state, timestamp};
use crate::{Error, InvocationQuery, InvocationRecord, State};

impl Sqlite {
    pub(super) async fn list_invocations(&self, query: &InvocationQuery) -> Result<Vec<InvocationRecord>, Error> {
        let failed = self.map("list invocations");
        let mut sql = QueryBuilder::new(
            "SELECT function, key, state, attempt, crashes, fence, epoch, owner, incarnation, error_kind,
                    error_message, result, digest, first_seen_at, updated_at, due_at, expires_at, failures
             FROM invocation WHERE true",
        );
        if let Some(function) = &query.function {
            sql.push(" AND function = ").push_bind(function.as_str());
        }
        if let Some(key) = &query.key {
            sql.push(" AND key = ").push_bind(key.as_str());
        }
        if let Some(state) = query.state {
            sql.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(after) = query.changed_after {
            sql.push(" AND updated_at > ").push_bind(after.as_microsecond());
        }
        sql.push(" ORDER BY updated_at DESC, function, key LIMIT ").push_bind(limit(query.limit));
        let rows = sql.build().fetch_all(&self.readers).await.map_err(&failed)?;
        rows.iter().map(|row| read(row).map_err(&failed)?.record()).collect()
    }

    pub(super) async fn count_invocations(&self) -> Result<Vec<(FunctionName, State, u64)>, Error> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT function, state, count(*) FROM invocation GROUP BY function, state ORDER BY function, state",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(self.map("count invocations"))?;
        rows.into_iter()
            .map(|(name, text, number)| {
                let number = u64::try_from(number).map_err(|_| corrupt("a count is negative"))?;
                Ok((function(&name)?, state(&text)?, number))
            })
            .collect()
    }
}

/// A row as stored.
struct Stored {
    names: (String, String, String),
    counts: (i64, i64, i64),
    fence: i64,
    owner: (Option<String>, Option<i64>),
    error: (Option<String>, Option<String>),
    result: Option<Vec<u8>>,
    digest: Vec<u8>,
    failures: Option<String>,
    times: (i64, i64, Option<i64>, Option<i64>),
}

fn read(row: &SqliteRow) -> sqlx::Result<Stored> {
    Ok(Stored {
        names: (row.try_get("function")?, row.try_get("key")?, row.try_get("state")?),
        counts: (row.try_get("attempt")?, row.try_get("crashes")?, row.try_get("epoch")?),
        fence: row.try_get("fence")?,
        owner: (row.try_get("owner")?, row.try_get("incarnation")?),
        error: (row.try_get("error_kind")?, row.try_get("error_message")?),
        result: row.try_get("result")?,
        digest: row.try_get("digest")?,
        failures: row.try_get("failures")?,
        times: (
            row.try_get("first_seen_at")?,
            row.try_get("updated_at")?,
            row.try_get("due_at")?,
            row.try_get("expires_at")?,
        ),
    })
}

impl Stored {
    fn record(self) -> Result<InvocationRecord, Error> {
        Ok(InvocationRecord {
            function: function(&self.names.0)?,
            key: key(&self.names.1)?,
            state: state(&self.names.2)?,
            attempt: Attempt(count("an attempt", self.counts.0)?),
            crashes: count("crashes", self.counts.1)?,
            epoch: Epoch(count("an epoch", self.counts.2)?),
            fence: Fence(self.fence),
            owner: match self.owner {
                (Some(node), Some(incarnation)) => Some(format!("{node}/{incarnation}")),
                _ => None,
            },
            error: error_info(self.error.0, self.error.1),
            result: self.result.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            digest: Digest(self.digest.try_into().map_err(|_| corrupt("a digest is not 32 bytes long"))?),
            first_seen_at: timestamp(self.times.0)?,
            updated_at: timestamp(self.times.1)?,
            due_at: self.times.2.map(timestamp).transpose()?,
            expires_at: self.times.3.map(timestamp).transpose()?,
            failures: failures(self.failures.as_deref())?,
        })
    }
}
