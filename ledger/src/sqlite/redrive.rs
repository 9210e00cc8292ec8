//! Closing dead letters: bringing them back, or throwing their messages away.

use sqlx::Connection;
use weft_schemas::{DeadLetter, DeadLetterId};

use super::{Sqlite, now, post};
use crate::codec::{decode, encode, function, key};
use crate::letter::{purged, text};
use crate::{Error, Redrive, Redriven};

const CLOSE: &str = "
    UPDATE dead_letter SET redriven_at = ?2, redriven_by = ?3, redriven_as = ?4
    WHERE id = ?1 AND redriven_at IS NULL AND purged_at IS NULL
    RETURNING function, key, epoch, settled";

/// Due since it died, whatever the message's own wait is: see the Postgres statement.
const WAKE: &str = "
    UPDATE invocation SET
        state = 'waiting', epoch = epoch + 1, attempt = 0, crashes = 0,
        due_at = min(updated_at, ?4), first_seen_at = ?4, updated_at = ?4
    WHERE function = ?1 AND key = ?2 AND state = 'dead' AND epoch = ?3";

impl Sqlite {
    pub(super) async fn redrive_letter(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven, Error> {
        let Redrive { by, message, successor } = redrive;
        let encoded = encode(&message.message)?;
        let failed = self.map("redrive a dead letter");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let at = now();
        let letter: Option<(String, Option<String>, i64, bool)> = sqlx::query_as(CLOSE)
            .bind(&id.0)
            .bind(at)
            .bind(text(by))
            .bind(successor.as_ref().map(|key| key.as_str()))
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
        let Some((name, of, epoch, settled)) = letter else {
            let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM dead_letter WHERE id = ?1)")
                .bind(&id.0)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&failed)?;
            return Ok(if known { Redriven::Already } else { Redriven::NotFound });
        };
        let mut waits = None;
        if let Some(of) = of.filter(|_| settled && successor.is_none()) {
            let woken = sqlx::query(WAKE)
                .bind(&name)
                .bind(&of)
                .bind(epoch)
                .bind(at)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            if woken.rows_affected() > 0 {
                waits = Some(key(&of)?);
            }
        }
        let whose = Some((&function(&name)?, waits.as_ref()));
        post(&mut transaction, at, whose, &[(message, encoded)]).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Redriven::Done)
    }

    pub(super) async fn purge_letters(&self, ids: &[DeadLetterId], by: &str) -> Result<u64, Error> {
        let failed = self.map("purge dead letters");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let mut done = 0;
        for id in ids {
            let open: Option<Vec<u8>> = sqlx::query_scalar(
                "SELECT letter FROM dead_letter WHERE id = ?1 AND redriven_at IS NULL AND purged_at IS NULL",
            )
            .bind(&id.0)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
            let Some(letter) = open else { continue };
            let left = encode(&purged(decode::<DeadLetter>("a dead letter", &letter)?))?;
            sqlx::query("UPDATE dead_letter SET purged_at = ?2, purged_by = ?3, letter = ?4 WHERE id = ?1")
                .bind(&id.0)
                .bind(now())
                .bind(text(by))
                .bind(left)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
            done += 1;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(done)
    }
}
