//! Burying what never became an invocation, listing the dead, and waking them.

use sqlx::{Connection, QueryBuilder, Row};
use weft_schemas::{DeadLetter, DeadLetterId};

use super::{Sqlite, now, post};
use crate::codec::{corrupt, decode, encode, limit, micros, timestamp};
use crate::{DeadLetterQuery, DeadLetterRecord, Error, OutboxMessage, Redrive, Redriven};

/// A letter that is new, or that comes back after a redrive, sends its copy; any other arrival is only counted.
const BURY: &str = "
    INSERT INTO dead_letter AS d (id, function, key, epoch, reason, buried_at, arrivals, copied, letter)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 1, ?7)
    ON CONFLICT (id) DO UPDATE SET
        arrivals = d.arrivals + 1,
        copied = CASE WHEN d.redriven_at IS NULL THEN d.copied ELSE d.arrivals + 1 END,
        redriven_at = NULL, redriven_by = NULL
    RETURNING copied = arrivals";

impl Sqlite {
    pub(super) async fn bury_batch(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        let encoded = letters.iter().map(|(letter, copy)| Ok((encode(letter)?, encode(&copy.message)?)));
        let encoded = encoded.collect::<Result<Vec<_>, Error>>()?;
        let failed = self.map("bury messages");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        for ((letter, copy), (letter_bytes, message_bytes)) in letters.iter().zip(encoded) {
            let at = now();
            let fresh: bool = sqlx::query_scalar(BURY)
                .bind(&letter.id.0)
                .bind(letter.function.as_str())
                .bind(letter.key.as_ref().map(|key| key.as_str()))
                .bind(i64::from(letter.epoch.0))
                .bind(letter.reason.as_str())
                .bind(at)
                .bind(letter_bytes)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
            if fresh {
                post(&mut transaction, at, &[(copy, message_bytes)]).await.map_err(&failed)?;
            }
        }
        transaction.commit().await.map_err(&failed)
    }

    pub(super) async fn list_dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Error> {
        let failed = self.map("list dead letters");
        let mut sql = QueryBuilder::new(
            "SELECT letter, arrivals, buried_at, redriven_at, redriven_by FROM dead_letter WHERE true",
        );
        if !query.include_closed {
            sql.push(" AND redriven_at IS NULL");
        }
        if let Some(id) = &query.id {
            sql.push(" AND id = ").push_bind(&id.0);
        }
        if let Some(function) = &query.function {
            sql.push(" AND function = ").push_bind(function.as_str());
        }
        if let Some(reason) = query.reason {
            sql.push(" AND reason = ").push_bind(reason.as_str());
        }
        sql.push(" ORDER BY buried_at DESC, id LIMIT ").push_bind(limit(query.limit));
        let rows = sql.build().fetch_all(&self.readers).await.map_err(&failed)?;
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let letter: Vec<u8> = row.try_get("letter").map_err(&failed)?;
            let arrivals: i64 = row.try_get("arrivals").map_err(&failed)?;
            let redriven_at: Option<i64> = row.try_get("redriven_at").map_err(&failed)?;
            records.push(DeadLetterRecord {
                letter: decode("a dead letter", &letter)?,
                arrivals: u64::try_from(arrivals).map_err(|_| corrupt("arrivals are negative"))?,
                redriven_at: redriven_at.map(timestamp).transpose()?,
                redriven_by: row.try_get("redriven_by").map_err(&failed)?,
                buried_at: timestamp(row.try_get("buried_at").map_err(&failed)?)?,
                fingerprint: String::new(),
                redriven_as: None,
                purged_at: None,
                purged_by: None,
            });
        }
        Ok(records)
    }

    pub(super) async fn redrive_letter(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven, Error> {
        let Redrive { by, message, successor: _ } = redrive;
        let encoded = encode(&message.message)?;
        let failed = self.map("redrive a dead letter");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let at = now();
        let letter: Option<(String, Option<String>, i64, String)> = sqlx::query_as(
            "UPDATE dead_letter SET redriven_at = ?2, redriven_by = ?3 WHERE id = ?1 AND redriven_at IS NULL
             RETURNING function, key, epoch, reason",
        )
        .bind(&id.0)
        .bind(at)
        .bind(by)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(&failed)?;
        let Some((function, key, epoch, reason)) = letter else {
            let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM dead_letter WHERE id = ?1)")
                .bind(&id.0)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
            return Ok(if known { Redriven::Already } else { Redriven::NotFound });
        };
        sqlx::query(
            "UPDATE invocation SET
                 state = 'waiting', epoch = epoch + 1, attempt = 0, crashes = 0,
                 due_at = ?4, first_seen_at = ?5, updated_at = ?5
             WHERE function = ?1 AND key = ?2 AND state = 'dead' AND epoch = ?3 AND ?6 <> 'mismatch'",
        )
        .bind(function)
        .bind(key)
        .bind(epoch)
        .bind(at + micros(message.due_in))
        .bind(at)
        // A mismatch is about another payload under the key, not about the invocation that has the key.
        .bind(reason)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        post(&mut transaction, at, &[(message, encoded)]).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Redriven::Done)
    }
}
