//! Burying what never became an invocation, listing the dead, and waking them.

use std::collections::BTreeMap;

use sqlx::{QueryBuilder, Row};
use weft_schemas::{DeadLetter, DeadLetterId};

use super::instant::Instant;
use super::settle::Outbox;
use super::{Postgres, retried};
use crate::codec::{corrupt, decode, encode, limit, micros};
use crate::{DeadLetterQuery, DeadLetterRecord, Error, OutboxMessage, Redrive, Redriven};

/// A letter that is new, or that comes back after a redrive, sends its copy; any other arrival is only counted.
const BURY: &str = "
    WITH buried AS (
        INSERT INTO weft.dead_letter AS d
            (id, function, key, epoch, reason, buried_at, arrivals, copied, letter)
        SELECT l.id, l.function, l.key, l.epoch, l.reason, clock_timestamp(), l.arrivals, l.arrivals, l.letter
        FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::bigint[], $8::bytea[])
             AS l(n, id, function, key, epoch, reason, arrivals, letter)
        ORDER BY l.id COLLATE \"C\"
        ON CONFLICT (id) DO UPDATE SET
            arrivals = d.arrivals + excluded.arrivals,
            copied = CASE WHEN d.redriven_at IS NULL THEN d.copied ELSE d.arrivals + excluded.arrivals END,
            redriven_at = NULL, redriven_by = NULL
        RETURNING d.id, d.copied = d.arrivals AS fresh
    )
    INSERT INTO weft.outbox (due_at, kind, message)
    SELECT statement_timestamp() + o.due_us * interval '1 microsecond', o.kind, o.message
    FROM unnest($9::text[], $10::bigint[], $11::text[], $12::bytea[]) WITH ORDINALITY
         AS o(id, due_us, kind, message, place)
    WHERE (o.id IN (SELECT id FROM buried WHERE fresh)) IS TRUE
    ORDER BY o.place";

/// The letter's row lock arbitrates: a second redrive waits for the first, and then finds it redriven.
const REDRIVE: &str = "
    WITH letter AS (
        UPDATE weft.dead_letter SET redriven_at = clock_timestamp(), redriven_by = $2
        WHERE id = $1 AND redriven_at IS NULL
        RETURNING function, key, epoch, reason
    ), woken AS (
        UPDATE weft.invocation AS i SET
            state = 'waiting', epoch = i.epoch + 1, attempt = 0, crashes = 0,
            due_at = clock_timestamp() + $3 * interval '1 microsecond',
            first_seen_at = clock_timestamp(), updated_at = clock_timestamp()
        FROM letter
        WHERE i.function = letter.function AND i.key = letter.key AND i.state = 'dead' AND i.epoch = letter.epoch
          -- A mismatch is about another payload under the key, not about the invocation that has the key.
          AND letter.reason <> 'mismatch'
    )
    INSERT INTO weft.outbox (due_at, kind, message)
    SELECT clock_timestamp() + $3 * interval '1 microsecond', $4, $5 FROM letter";

impl Postgres {
    pub(super) async fn bury_batch(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        // One statement cannot meet the same row twice.
        let mut distinct: BTreeMap<&str, (&DeadLetter, &OutboxMessage, i64)> = BTreeMap::new();
        for (letter, copy) in letters {
            distinct.entry(&letter.id.0).or_insert((letter, copy, 0)).2 += 1;
        }
        let (mut encoded, mut outbox) = (Vec::with_capacity(distinct.len()), Outbox::default());
        for (n, (letter, copy, _)) in (1i64..).zip(distinct.values()) {
            encoded.push(encode(letter)?);
            outbox.push(n, copy)?;
        }
        let rows = distinct.values();
        let ids: Vec<&str> = distinct.keys().copied().collect();
        let functions: Vec<&str> = rows.clone().map(|(letter, ..)| letter.function.as_str()).collect();
        let keys: Vec<Option<&str>> =
            rows.clone().map(|(letter, ..)| letter.key.as_ref().map(|key| key.as_str())).collect();
        let epochs: Vec<i32> =
            rows.clone().map(|(letter, ..)| i32::try_from(letter.epoch.0).unwrap_or(i32::MAX)).collect();
        let reasons: Vec<&str> = rows.clone().map(|(letter, ..)| letter.reason.as_str()).collect();
        let arrivals: Vec<i64> = rows.map(|(.., arrivals)| *arrivals).collect();
        let statement = || {
            sqlx::query(BURY)
                .bind(&outbox.n)
                .bind(&ids)
                .bind(&functions)
                .bind(&keys)
                .bind(&epochs)
                .bind(&reasons)
                .bind(&arrivals)
                .bind(&encoded)
                .bind(&ids)
                .bind(&outbox.due_us)
                .bind(&outbox.kind)
                .bind(&outbox.message)
                .execute(&self.settles)
        };
        retried!(statement()).map_err(self.map("bury messages"))?;
        Ok(())
    }

    pub(super) async fn list_dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Error> {
        let failed = self.map("list dead letters");
        let mut sql = QueryBuilder::new(
            "SELECT letter, arrivals, buried_at, redriven_at, redriven_by FROM weft.dead_letter WHERE true",
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
        let rows = sql.build().fetch_all(&self.general).await.map_err(&failed)?;
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let letter: Vec<u8> = row.try_get("letter").map_err(&failed)?;
            let arrivals: i64 = row.try_get("arrivals").map_err(&failed)?;
            let redriven_at: Option<Instant> = row.try_get("redriven_at").map_err(&failed)?;
            records.push(DeadLetterRecord {
                letter: decode("a dead letter", &letter)?,
                arrivals: u64::try_from(arrivals).map_err(|_| corrupt("arrivals are negative"))?,
                redriven_at: redriven_at.map(|at| at.0),
                redriven_by: row.try_get("redriven_by").map_err(&failed)?,
                buried_at: row.try_get::<Instant, _>("buried_at").map_err(&failed)?.0,
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
        let statement = || {
            sqlx::query(REDRIVE)
                .bind(&id.0)
                .bind(by)
                .bind(micros(message.due_in))
                .bind(message.kind.as_str())
                .bind(&encoded)
                .execute(&self.settles)
        };
        let done = retried!(statement()).map_err(self.map("redrive a dead letter"))?;
        if done.rows_affected() > 0 {
            return Ok(Redriven::Done);
        }
        let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM weft.dead_letter WHERE id = $1)")
            .bind(&id.0)
            .fetch_one(&self.general)
            .await
            .map_err(self.map("redrive a dead letter"))?;
        Ok(if known { Redriven::Already } else { Redriven::NotFound })
    }
}
