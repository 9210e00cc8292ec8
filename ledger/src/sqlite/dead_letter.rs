//! Listing the dead, one by one and in groups.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};

use super::Sqlite;
use crate::codec::{corrupt, decode, function, key, limit, reason, timestamp};
use crate::{DeadLetterGroup, DeadLetterQuery, DeadLetterRecord, Error};

/// Adds the conditions of a query.
fn conditions(sql: &mut QueryBuilder<sqlx::Sqlite>, query: &DeadLetterQuery) {
    sql.push(" WHERE true");
    if !query.include_closed {
        sql.push(" AND redriven_at IS NULL AND purged_at IS NULL");
    }
    if let Some(id) = &query.id {
        sql.push(" AND id = ").push_bind(&id.0);
    }
    if let Some(function) = &query.function {
        sql.push(" AND function = ").push_bind(function.as_str());
    }
    if let Some(key) = &query.key {
        sql.push(" AND key = ").push_bind(key.as_str());
    }
    if let Some(reason) = query.reason {
        sql.push(" AND reason = ").push_bind(reason.as_str());
    }
    if let Some(kind) = &query.error_kind {
        sql.push(" AND error_kind = ").push_bind(kind);
    }
    if let Some(fingerprint) = &query.fingerprint {
        sql.push(" AND fingerprint = ").push_bind(fingerprint);
    }
    if let Some(before) = query.before {
        sql.push(" AND buried_at < ").push_bind(before.as_microsecond());
    }
    if let Some(since) = query.since {
        sql.push(" AND buried_at >= ").push_bind(since.as_microsecond());
    }
}

impl Sqlite {
    pub(super) async fn list_dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Error> {
        let failed = self.map("list dead letters");
        let mut sql = QueryBuilder::new(
            "SELECT letter, arrivals, buried_at, fingerprint, redriven_at, redriven_by, redriven_as, purged_at, purged_by
             FROM dead_letter",
        );
        conditions(&mut sql, query);
        if let Some((at, id)) = &query.after {
            // The first half alone is what the index is searched by.
            sql.push(" AND buried_at <= ").push_bind(at.as_microsecond());
            sql.push(" AND (buried_at < ").push_bind(at.as_microsecond());
            sql.push(" OR id > ").push_bind(&id.0).push(")");
        }
        sql.push(" ORDER BY buried_at DESC, id LIMIT ").push_bind(limit(query.limit));
        let rows = sql.build().fetch_all(&self.readers).await.map_err(&failed)?;
        rows.iter().map(|row| Stored::read(row).map_err(&failed)?.record()).collect()
    }

    pub(super) async fn group_dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterGroup>, Error> {
        let failed = self.map("group dead letters");
        let mut sql = QueryBuilder::new(
            "SELECT g.*, (SELECT d.error_message FROM dead_letter d
                          WHERE d.buried_at = g.last_at AND d.function = g.function AND d.reason = g.reason
                            AND d.fingerprint = g.fingerprint ORDER BY d.id LIMIT 1) AS error_message
             FROM (SELECT function, reason, error_kind, fingerprint, count(*) AS letters,
                          min(buried_at) AS first_at, max(buried_at) AS last_at
                   FROM dead_letter",
        );
        conditions(&mut sql, query);
        sql.push(" GROUP BY function, reason, error_kind, fingerprint");
        sql.push(" ORDER BY letters DESC, last_at DESC, fingerprint LIMIT ").push_bind(limit(query.limit));
        sql.push(") AS g ORDER BY letters DESC, last_at DESC, fingerprint");
        let rows = sql.build().fetch_all(&self.readers).await.map_err(&failed)?;
        let mut groups = Vec::with_capacity(rows.len());
        for row in rows {
            let letters: i64 = row.try_get("letters").map_err(&failed)?;
            let message: Option<String> = row.try_get("error_message").map_err(&failed)?;
            let name: String = row.try_get("function").map_err(&failed)?;
            let why: String = row.try_get("reason").map_err(&failed)?;
            groups.push(DeadLetterGroup {
                function: function(&name)?,
                reason: reason(&why)?,
                error_kind: row.try_get("error_kind").map_err(&failed)?,
                fingerprint: row.try_get("fingerprint").map_err(&failed)?,
                error_message: message.unwrap_or_default(),
                count: u64::try_from(letters).map_err(|_| corrupt("a count is negative"))?,
                first_at: timestamp(row.try_get("first_at").map_err(&failed)?)?,
                last_at: timestamp(row.try_get("last_at").map_err(&failed)?)?,
            });
        }
        Ok(groups)
    }
}

/// A row as stored.
struct Stored {
    letter: Vec<u8>,
    arrivals: i64,
    buried_at: i64,
    fingerprint: String,
    redriven: (Option<i64>, Option<String>, Option<String>),
    purged: (Option<i64>, Option<String>),
}

impl Stored {
    fn read(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            letter: row.try_get("letter")?,
            arrivals: row.try_get("arrivals")?,
            buried_at: row.try_get("buried_at")?,
            fingerprint: row.try_get("fingerprint")?,
            redriven: (row.try_get("redriven_at")?, row.try_get("redriven_by")?, row.try_get("redriven_as")?),
            purged: (row.try_get("purged_at")?, row.try_get("purged_by")?),
        })
    }

    fn record(self) -> Result<DeadLetterRecord, Error> {
        Ok(DeadLetterRecord {
            letter: decode("a dead letter", &self.letter)?,
            arrivals: u64::try_from(self.arrivals).map_err(|_| corrupt("arrivals are negative"))?,
            buried_at: timestamp(self.buried_at)?,
            fingerprint: self.fingerprint,
            redriven_at: self.redriven.0.map(timestamp).transpose()?,
            redriven_by: self.redriven.1,
            redriven_as: self.redriven.2.as_deref().map(key).transpose()?,
            purged_at: self.purged.0.map(timestamp).transpose()?,
            purged_by: self.purged.1,
        })
    }
}
