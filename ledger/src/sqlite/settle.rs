//! Settling a batch in one durable transaction.

use sqlx::{Connection, SqliteConnection};
use weft_schemas::{DeadLetter, FunctionName, Key, Reason};

use super::{Sqlite, now};
use crate::codec::{encode, micros};
use crate::letter::{Entry, text};
use crate::{Error, OutboxMessage, Settle, Settled, Settlement};

/// ?12 is how many attempts a dead letter counts: less than the row's own attempt means that this one never started.
const SETTLE: &str = "
    UPDATE invocation AS i SET
        state = CASE WHEN ?4 IN ('released', 'spared') THEN 'waiting' ELSE ?4 END,
        attempt = CASE WHEN ?4 IN ('released', 'spared') THEN max(attempt - 1, 0) ELSE min(attempt, coalesce(?12, attempt)) END,
        crashes = crashes + (?9 AND attempt <= coalesce(?12, attempt)),
        failures = CASE
            WHEN ?7 IS NULL OR attempt > coalesce(?12, attempt) THEN failures
            ELSE json_insert(
                CASE WHEN json_array_length(failures) >= 32 THEN json_remove(failures, '$[0]')
                     ELSE coalesce(failures, '[]') END,
                '$[#]', json_object(
                    'epoch', epoch, 'attempt', attempt, 'crashed', json(iif(?9, 'true', 'false')), 'kind', ?7,
                    'message', substr(?8, 1, 1024), 'ended_us', ?11, 'node', owner)) END,
        result = ?5,
        error_kind = CASE ?4 WHEN 'released' THEN error_kind ELSE ?7 END,
        error_message = CASE ?4 WHEN 'released' THEN error_message ELSE ?8 END,
        due_at = ?10,
        expires_at = ?6,
        updated_at = ?11
    WHERE function = ?1 AND key = ?2 AND fence = ?3 AND state = 'claimed'";

const LETTER: &str = "
    INSERT INTO dead_letter AS d
        (id, function, key, epoch, reason, buried_at, arrivals, copied, letter, error_kind, error_message, fingerprint,
         settled)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 1, ?7, ?8, ?9, ?10, true)
    ON CONFLICT (id) DO UPDATE SET
        arrivals = d.arrivals + 1, copied = d.arrivals + 1, buried_at = excluded.buried_at, settled = true,
        reason = excluded.reason, error_kind = excluded.error_kind, error_message = excluded.error_message,
        fingerprint = excluded.fingerprint, letter = excluded.letter,
        redriven_at = NULL, redriven_by = NULL, redriven_as = NULL, purged_at = NULL, purged_by = NULL";

/// Puts messages in the outbox, in order. `whose` is the function, and the key if they stand for an invocation.
pub(crate) async fn post(
    connection: &mut SqliteConnection,
    at: i64,
    whose: Option<(&FunctionName, Option<&Key>)>,
    messages: &[(&OutboxMessage, Vec<u8>)],
) -> sqlx::Result<()> {
    for (message, encoded) in messages {
        sqlx::query("INSERT INTO outbox (due_at, kind, function, key, message) VALUES (?1, ?2, ?3, ?4, ?5)")
            .bind(at + micros(message.due_in))
            .bind(message.kind.as_str())
            .bind(whose.map(|(function, _)| function.as_str()))
            .bind(whose.and_then(|(_, key)| key).map(|key| key.as_str()))
            .bind(encoded)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// One settle with everything encoded before the write lock is taken.
struct Row<'a> {
    settle: &'a Settle,
    outbox: Vec<(&'a OutboxMessage, Vec<u8>)>,
    letter: Option<(&'a DeadLetter, Vec<u8>)>,
}

impl<'a> Row<'a> {
    fn of(settle: &'a Settle) -> Result<Self, Error> {
        let (messages, letter): (&[OutboxMessage], _) = match &settle.to {
            Settlement::Succeeded { outbox, .. } => (outbox, None),
            Settlement::Waiting { retry, .. } | Settlement::Spared { retry, .. } => (std::slice::from_ref(retry), None),
            Settlement::Dead { letter, copy } => (std::slice::from_ref(copy), Some((letter.as_ref(), encode(letter)?))),
            Settlement::Held { .. } | Settlement::Released => (&[], None),
        };
        let outbox = messages.iter().map(|message| Ok((message, encode(&message.message)?)));
        Ok(Self { settle, outbox: outbox.collect::<Result<_, Error>>()?, letter })
    }

    async fn write(&self, connection: &mut SqliteConnection, function: &FunctionName) -> sqlx::Result<bool> {
        let at = now();
        let (mut result, mut expires, mut due, mut error, mut crashed) = (None, None, None, None, false);
        let mut attempts = None;
        let action = match &self.settle.to {
            Settlement::Succeeded { result: bytes, keep, .. } => {
                (result, expires) = (Some(bytes.as_ref()), Some(at + micros(*keep)));
                "succeeded"
            }
            Settlement::Waiting { error: failure, crashed: crash, retry } => {
                (error, crashed, due) = (Some(failure), *crash, Some(at + micros(retry.due_in)));
                "waiting"
            }
            Settlement::Spared { error: failure, retry } => {
                (error, crashed, due) = (Some(failure), true, Some(at + micros(retry.due_in)));
                "spared"
            }
            Settlement::Held { error: failure, crashed: crash, spared, due_in } => {
                (error, crashed, due) = (Some(failure), *crash || *spared, Some(at + micros(*due_in)));
                if *spared { "spared" } else { "waiting" }
            }
            Settlement::Dead { letter, .. } => {
                (error, crashed) = (Some(&letter.error), letter.reason == Reason::Crashed);
                attempts = Some(i64::from(letter.attempts.0));
                "dead"
            }
            Settlement::Released => {
                due = Some(at);
                "released"
            }
        };
        let done = sqlx::query(SETTLE)
            .bind(function.as_str())
            .bind(self.settle.key.as_str())
            .bind(self.settle.fence.0)
            .bind(action)
            .bind(result)
            .bind(expires)
            .bind(error.map(|error| text(&error.kind)))
            .bind(error.map(|error| text(&error.message)))
            .bind(i64::from(crashed))
            .bind(due)
            .bind(at)
            .bind(attempts)
            .execute(&mut *connection)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        if let Some((letter, encoded)) = &self.letter {
            let entry = Entry::of(&letter.error);
            sqlx::query(LETTER)
                .bind(&letter.id.0)
                .bind(function.as_str())
                .bind(self.settle.key.as_str())
                .bind(i64::from(letter.epoch.0))
                .bind(letter.reason.as_str())
                .bind(at)
                .bind(encoded)
                .bind(entry.error_kind)
                .bind(entry.error_message)
                .bind(entry.fingerprint)
                .execute(&mut *connection)
                .await?;
        }
        let whose = match self.settle.to {
            Settlement::Waiting { .. } | Settlement::Spared { .. } | Settlement::Dead { .. } => {
                Some((function, Some(&self.settle.key)))
            }
            Settlement::Succeeded { .. } | Settlement::Held { .. } | Settlement::Released => None,
        };
        post(connection, at, whose, &self.outbox).await?;
        Ok(true)
    }
}

impl Sqlite {
    pub(super) async fn settle_batch(
        &self,
        function: &FunctionName,
        settles: &[Settle],
    ) -> Result<Vec<Settled>, Error> {
        if settles.is_empty() {
            return Ok(Vec::new());
        }
        let rows = settles.iter().map(Row::of).collect::<Result<Vec<_>, Error>>()?;
        let failed = self.map("settle invocations");
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let mut settled = Vec::with_capacity(rows.len());
        for row in &rows {
            let done = row.write(&mut transaction, function).await.map_err(&failed)?;
            settled.push(if done { Settled::Done } else { Settled::AuthorityLost });
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(settled)
    }
}
