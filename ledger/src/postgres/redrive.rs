//! Closing dead letters: bringing them back, or throwing their messages away.

use sqlx::Connection;
use weft_schemas::{DeadLetter, DeadLetterId};

use super::{Postgres, retried};
use crate::codec::{decode, encode, micros};
use crate::letter::{purged, text};
use crate::{Error, Redrive, Redriven};

/// The letter's row lock arbitrates: a second redrive waits for the first, and then finds it redriven.
///
/// The invocation is due since it died, which no step of a clock puts into the future: a claim that comes with the
/// redrive's message is never told that it is early. Only a letter that an invocation ended with wakes one: a mismatch,
/// for example, is about another payload under the key. The outbox row has a key only if an invocation waits for it.
const REDRIVE: &str = "
    WITH letter AS (
        UPDATE weft.dead_letter SET redriven_at = clock_timestamp(), redriven_by = $2, redriven_as = $3
        WHERE id = $1 AND redriven_at IS NULL AND purged_at IS NULL
        RETURNING function, key, epoch, settled
    ), woken AS (
        UPDATE weft.invocation AS i SET
            state = 'waiting', epoch = i.epoch + 1, attempt = 0, crashes = 0,
            due_at = least(i.updated_at, clock_timestamp()),
            first_seen_at = clock_timestamp(), updated_at = clock_timestamp()
        FROM letter
        WHERE i.function = letter.function AND i.key = letter.key AND i.state = 'dead' AND i.epoch = letter.epoch
          AND letter.settled AND $3::text IS NULL
        RETURNING i.key
    )
    INSERT INTO weft.outbox (due_at, kind, function, key, message)
    SELECT clock_timestamp() + $4 * interval '1 microsecond', $5, letter.function, (SELECT key FROM woken), $6
    FROM letter";

/// Letters in one transaction of a purge.
const CHUNK: usize = 500;

impl Postgres {
    pub(super) async fn redrive_letter(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven, Error> {
        let Redrive { by, message, successor } = redrive;
        let encoded = encode(&message.message)?;
        let statement = || {
            sqlx::query(REDRIVE)
                .bind(&id.0)
                .bind(text(by))
                .bind(successor.as_ref().map(|key| key.as_str()))
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

    pub(super) async fn purge_letters(&self, ids: &[DeadLetterId], by: &str) -> Result<u64, Error> {
        let mut done = 0;
        for chunk in ids.chunks(CHUNK) {
            done += self.purge_chunk(chunk, by).await?;
        }
        Ok(done)
    }

    async fn purge_chunk(&self, ids: &[DeadLetterId], by: &str) -> Result<u64, Error> {
        let failed = self.map("purge dead letters");
        let ids: Vec<&str> = ids.iter().map(|id| id.0.as_str()).collect();
        let mut connection = self.general.acquire().await.map_err(&failed)?;
        let mut transaction = connection.begin().await.map_err(&failed)?;
        // In the order in which burials lock, so that the two do not deadlock.
        let open: Vec<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT id, letter FROM weft.dead_letter
             WHERE id = ANY ($1) AND redriven_at IS NULL AND purged_at IS NULL ORDER BY id FOR UPDATE",
        )
        .bind(ids)
        .fetch_all(&mut *transaction)
        .await
        .map_err(&failed)?;
        let (mut ids, mut letters) = (Vec::with_capacity(open.len()), Vec::with_capacity(open.len()));
        for (id, letter) in open {
            letters.push(encode(&purged(decode::<DeadLetter>("a dead letter", &letter)?))?);
            ids.push(id);
        }
        let done = sqlx::query(
            "UPDATE weft.dead_letter AS d SET purged_at = clock_timestamp(), purged_by = $3, letter = p.letter
             FROM unnest($1::text[], $2::bytea[]) AS p(id, letter) WHERE d.id = p.id",
        )
        .bind(ids)
        .bind(letters)
        .bind(text(by))
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(done.rows_affected())
    }
}
